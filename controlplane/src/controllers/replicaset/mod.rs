//! ReplicaSet and ReplicationController: as many Pods as `spec.replicas` says.
//!
//! Counts only Pods that it controls; takes in orphans that match the selector and lets go of its Pods that
//! no longer do. Never looks at Deployments, except to spread deletions over sibling sets.

mod rank;
mod status;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::json;

use super::look::{self, PodView};
use super::outcome::{Act, Outcome};
use super::runner::{Controller, Seen};
use super::workload::{self, BURST, Pods};
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;
use crate::status::ApiError;
use crate::writer::Change;

pub const REPLICASETS: Resource = "replicasets.apps";

pub const REPLICATION_CONTROLLERS: Resource = "replicationcontrollers";

/// One controller for two kinds that differ in how they write their selector.
pub struct Replicator {
    resource: Resource,
    kind: &'static str,
    name: &'static str,
}

pub const SETS: Replicator = Replicator {
    resource: REPLICASETS,
    kind: "ReplicaSet",
    name: "system:serviceaccount:kube-system:replicaset-controller",
};
pub const CONTROLLERS: Replicator = Replicator {
    resource: REPLICATION_CONTROLLERS,
    kind: "ReplicationController",
    name: "system:serviceaccount:kube-system:replication-controller",
};

impl Controller for Replicator {
    fn name(&self) -> &'static str {
        self.name
    }

    fn watches(&self) -> Vec<Resource> {
        vec![self.resource, "pods"]
    }

    fn keys(&self, world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        if seen.resource == self.resource {
            return seen.latest().map(Object::key).into_iter().collect();
        }
        workload::keys(world, (self.resource, self.kind), seen, |set| {
            Some(view(set)?.spec.as_ref()?.selector.clone())
        })
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, now: Timestamp) -> Outcome {
        match Set::observe(world, key) {
            Some(set) => set.reconcile(world, now),
            None => Outcome::idle(),
        }
    }

    fn refused(
        &self,
        world: &dyn Reader,
        key: &Key,
        change: &Change,
        error: &ApiError,
        now: Timestamp,
    ) -> Vec<Change> {
        let reason = match change {
            Change::Create { resource: "pods", .. } => "FailedCreate",
            Change::Delete { resource: "pods", .. } => "FailedDelete",
            _ => return Vec::new(),
        };
        let Some(set) = Set::observe(world, key) else { return Vec::new() };
        status::failure(&set, reason, &error.message, now).into_iter().collect()
    }
}

/// A ReplicationController as the ReplicaSet that means the same.
fn view(object: &Object) -> Option<Arc<ReplicaSet>> {
    if object.resource == REPLICASETS {
        return object.view().ok();
    }
    let mut value = object.value();
    value["apiVersion"] = "apps/v1".into();
    value["kind"] = "ReplicaSet".into();
    let labels = value["spec"]["selector"].take();
    value["spec"]["selector"] = json!({"matchLabels": labels});
    serde_json::from_value(value).ok().map(Arc::new)
}

/// A ReplicaSet and the Pods around it.
pub(super) struct Set {
    object: Arc<Object>,
    set: Arc<ReplicaSet>,
    pods: Pods,
}

impl Set {
    fn observe(world: &dyn Reader, key: &Key) -> Option<Self> {
        let object = world.get(key.resource, &key.namespace, &key.name)?;
        let set = view(&object)?;
        let selector = &set.spec.as_ref()?.selector;
        let pods = Pods::observe(world, &object, selector);
        Some(Self { object, set, pods })
    }

    fn replicas(&self) -> usize {
        let wanted = self.set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        usize::try_from(wanted).unwrap_or(0)
    }

    fn active(&self) -> impl Iterator<Item = &PodView> {
        self.pods.own.iter().filter(|pod| pod.is_active())
    }

    fn reconcile(&self, world: &dyn Reader, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::idle();
        if !look::is_deleting(&self.object.meta) {
            outcome.together(self.pods.claims(&self.object));
            if !outcome.is_idle() {
                // Their events bring us back, with the counts right.
                return outcome;
            }
            let active = self.active().count();
            if active < self.replicas() {
                self.create(self.replicas() - active, &mut outcome);
            } else {
                outcome.together(self.delete(world, active - self.replicas()));
            }
        }
        // Pods on their way bring us back; only then do the counts mean something.
        if outcome.is_idle() {
            status::sync(self, now, &mut outcome);
        }
        outcome
    }

    fn create(&self, missing: usize, outcome: &mut Outcome) {
        let template = self.set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        let pod = template.and_then(|template| workload::new_pod(&self.object, template));
        let Some(pod) = pod else { return };
        let act = workload::creation(&self.object, pod);
        workload::slowly(vec![act; missing.min(BURST)], outcome);
    }

    fn delete(&self, world: &dyn Reader, surplus: usize) -> Vec<Act> {
        if surplus == 0 {
            return Vec::new();
        }
        let mut pods: Vec<&PodView> = self.active().collect();
        let crowd = rank::crowd(world, &self.object);
        pods.sort_by(|a, b| rank::compare(a, b, &crowd));
        let victims = pods.into_iter().take(surplus.min(BURST));
        victims.map(|pod| workload::deletion(&self.object, pod)).collect()
    }
}
