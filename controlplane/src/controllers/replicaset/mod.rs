//! ReplicaSet: as many Pods as `spec.replicas` says.
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
use serde_json::{Value, json};

use super::look::{self, PodView};
use super::outcome::{Act, Note, Outcome};
use super::runner::{Controller, Seen};
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;
use crate::status::ApiError;
use crate::writer::Change;

pub const REPLICASETS: Resource = "replicasets.apps";

/// Most Pods that one reconcile creates or deletes.
const BURST: usize = 500;

pub struct ReplicaSets;

impl Controller for ReplicaSets {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:replicaset-controller"
    }

    fn watches(&self) -> Vec<Resource> {
        vec![REPLICASETS, "pods"]
    }

    fn keys(&self, world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        if seen.resource == REPLICASETS {
            return seen.latest().map(Object::key).into_iter().collect();
        }
        let mut keys: Vec<Key> = seen.states().filter_map(owner_key).collect();
        if let Some(pod) = seen.new.filter(|pod| look::controller_of(&pod.meta).is_none()) {
            keys.extend(matching(world, pod));
        }
        keys.dedup();
        keys
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

fn owner_key(pod: &Object) -> Option<Key> {
    let owner = look::controller_of(&pod.meta).filter(|owner| owner.kind == "ReplicaSet")?;
    Some(Key::new(REPLICASETS, &pod.meta.namespace, &owner.name))
}

/// Sets that may take in an orphan.
fn matching(world: &dyn Reader, pod: &Object) -> Vec<Key> {
    let sets = world.list(REPLICASETS, Some(&pod.meta.namespace));
    let wants = |set: &&Arc<Object>| {
        set.view::<ReplicaSet>().ok().and_then(|set| set.spec.clone()).is_some_and(|spec| {
            !look::is_empty_selector(&spec.selector)
                && look::selects(&spec.selector, &pod.meta.labels)
        })
    };
    sets.iter().filter(wants).map(|set| set.key()).collect()
}

/// A ReplicaSet and the Pods around it.
pub(super) struct Set {
    object: Arc<Object>,
    set: Arc<ReplicaSet>,
    /// Controlled by it and matching its selector, finished and terminating ones too.
    own: Vec<PodView>,
    /// Matching, without a controller, free to take in.
    orphans: Vec<PodView>,
    /// Controlled by it, but not matching any more.
    strays: Vec<PodView>,
}

impl Set {
    fn observe(world: &dyn Reader, key: &Key) -> Option<Self> {
        let object = world.get(REPLICASETS, &key.namespace, &key.name)?;
        let set: Arc<ReplicaSet> = object.view().ok()?;
        let selector = &set.spec.as_ref()?.selector;
        let (mut own, mut orphans, mut strays) = (Vec::new(), Vec::new(), Vec::new());
        for pod in world.list("pods", Some(&key.namespace)).into_iter().filter_map(PodView::of) {
            let matches = look::selects(selector, &pod.meta().labels);
            if look::is_controlled_by(pod.meta(), &object.meta.uid) {
                if matches { &mut own } else { &mut strays }.push(pod);
            } else if matches && look::controller_of(pod.meta()).is_none() && pod.is_active() {
                orphans.push(pod);
            }
        }
        Some(Self { object, set, own, orphans, strays })
    }

    fn replicas(&self) -> usize {
        let wanted = self.set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        usize::try_from(wanted).unwrap_or(0)
    }

    fn active(&self) -> impl Iterator<Item = &PodView> {
        self.own.iter().filter(|pod| pod.is_active())
    }

    fn reconcile(&self, world: &dyn Reader, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::idle();
        if !look::is_deleting(&self.object.meta) {
            if !self.orphans.is_empty() || !self.strays.is_empty() {
                // Their events bring us back, with the counts right.
                outcome.together(self.claims());
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

    fn claims(&self) -> Vec<Act> {
        let owner = look::controller_reference("apps/v1", "ReplicaSet", &self.object.meta);
        let adopt = self.orphans.iter().map(|pod| look::adoption(&pod.object, &owner).into());
        let mine = |uid: &str| uid == self.object.meta.uid;
        let release = self.strays.iter().map(|pod| look::release(&pod.object, mine).into());
        adopt.chain(release).collect()
    }

    /// Batches of 1, 2, 4, …: when creation is refused, one request finds out and not hundreds.
    fn create(&self, missing: usize, outcome: &mut Outcome) {
        let Some(pod) = self.new_pod() else { return };
        let act = Act::from(Change::Create { resource: "pods", object: pod })
            .noting(Note::normal(&self.object, "SuccessfulCreate", "Created pod: {}"))
            .or_noting(Note::warning(&self.object, "FailedCreate", "Error creating: {}"));
        let (mut left, mut size) = (missing.min(BURST), 1);
        while left > 0 {
            let batch = size.min(left);
            outcome.together(vec![act.clone(); batch]);
            left -= batch;
            size *= 2;
        }
    }

    fn new_pod(&self) -> Option<Value> {
        let template = self.set.spec.as_ref()?.template.as_ref()?;
        let mut metadata = json!({
            "generateName": format!("{}-", self.object.meta.name),
            "namespace": self.object.meta.namespace,
            "ownerReferences": [look::controller_reference("apps/v1", "ReplicaSet", &self.object.meta)],
        });
        if let Some(given) = &template.metadata {
            metadata["labels"] = json!(given.labels.clone().unwrap_or_default());
            if let Some(annotations) = &given.annotations {
                metadata["annotations"] = json!(annotations);
            }
            if let Some(finalizers) = &given.finalizers {
                metadata["finalizers"] = json!(finalizers);
            }
        }
        let spec = serde_json::to_value(template.spec.as_ref()?).ok()?;
        Some(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
    }

    fn delete(&self, world: &dyn Reader, surplus: usize) -> Vec<Act> {
        if surplus == 0 {
            return Vec::new();
        }
        let mut pods: Vec<&PodView> = self.active().collect();
        let crowd = rank::crowd(world, &self.object);
        pods.sort_by(|a, b| rank::compare(a, b, &crowd));
        let victims = pods.into_iter().take(surplus.min(BURST));
        victims.map(|pod| self.deletion(pod)).collect()
    }

    fn deletion(&self, pod: &PodView) -> Act {
        Act::from(look::deletion(&pod.object))
            .noting(Note::normal(
                &self.object,
                "SuccessfulDelete",
                format!("Deleted pod: {}", pod.meta().name),
            ))
            .or_noting(Note::warning(&self.object, "FailedDelete", "Error deleting: {}"))
    }
}
