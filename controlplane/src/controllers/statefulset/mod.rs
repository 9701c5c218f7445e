//! StatefulSet: Pods with names that stay, each with claims of its own.
//!
//! ```text
//! reconcile ── adopt/release Pods ─ (any) → wait for their events
//!     ├─ template not noted ─→ its ControllerRevision first
//!     ├─ status
//!     ├─ whose the claims are, by the retention policy
//!     └─ missing Pods → create   ┐ OrderedReady: one at a time from the lowest, the next when all before
//!        surplus Pods → delete   ┘ it are available; from the highest when all that stay are
//!           └─ (none) RollingUpdate → delete the highest old Pod, the next when it is back
//! ```
//! Two templates are in use at a time: `status.currentRevision` below the partition, the newest above.

mod claims;
mod member;
mod order;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;

use super::history::{self, History, Label, REVISIONS};
use super::look::{self, Availability, PodView};
use super::outcome::Outcome;
use super::runner::{Controller, Seen};
use super::workload::{self, Pods};
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;
use crate::status::ApiError;
use crate::writer::Change;

pub const STATEFULSETS: Resource = "statefulsets.apps";
const CLAIMS: Resource = "persistentvolumeclaims";

pub struct StatefulSets;

impl Controller for StatefulSets {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:statefulset-controller"
    }

    fn watches(&self) -> Vec<Resource> {
        vec![STATEFULSETS, REVISIONS, "pods", CLAIMS]
    }

    fn keys(&self, world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        match seen.resource {
            STATEFULSETS => seen.latest().map(Object::key).into_iter().collect(),
            CLAIMS => seen.latest().map(|claim| claims::users(world, claim)).unwrap_or_default(),
            _ => workload::keys(world, (STATEFULSETS, "StatefulSet"), seen, |set| {
                Some(set.view::<StatefulSet>().ok()?.spec.as_ref()?.selector.clone())
            }),
        }
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, now: Timestamp) -> Outcome {
        match Set::observe(world, key, now) {
            Some(set) => set.reconcile(),
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
        let Some(set) = Set::observe(world, key, now) else { return Vec::new() };
        if !history::is_collision(world, &set.object, change, error) {
            return Vec::new();
        }
        // The next hash differs.
        let mut status = set.set.status.clone().unwrap_or_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        look::status_update(&set.object, &status).into_iter().collect()
    }
}

/// A StatefulSet and everything that decides about it.
struct Set<'w> {
    world: &'w dyn Reader,
    now: Timestamp,
    object: Arc<Object>,
    set: Arc<StatefulSet>,
    spec: StatefulSetSpec,
    pods: Pods,
    history: History,
}

impl<'w> Set<'w> {
    fn observe(world: &'w dyn Reader, key: &Key, now: Timestamp) -> Option<Self> {
        let object = world.get(STATEFULSETS, &key.namespace, &key.name)?;
        let set: Arc<StatefulSet> = object.view().ok()?;
        let spec = set.spec.clone()?;
        if look::is_empty_selector(&spec.selector) {
            return None;
        }
        let made_from = (&spec.selector, &spec.template);
        let history = History::observe(world, &object, made_from, Label::Name);
        let mut pods = Pods::observe(world, &object, &spec.selector);
        pods.keep_named(|name| member::ordinal(&object.meta.name, name).is_some());
        Some(Self { world, now, object, set, spec, pods, history })
    }

    fn reconcile(&self) -> Outcome {
        let mut outcome = Outcome::idle();
        if look::is_deleting(&self.object.meta) {
            return outcome;
        }
        for first in [self.pods.claims(&self.object), self.history.sync(self.collisions())] {
            if !first.is_empty() {
                // Their events bring us back.
                outcome.together(first);
                return outcome;
            }
        }
        let Some(newest) = self.history.hash() else { return outcome };
        let revisions = self.revisions(newest);
        // Before the Pods: refused creations must not keep it from being said.
        status::sync(self, &revisions, &mut outcome);
        outcome.together(claims::owners(self));
        let step = order::step(self, &revisions, &mut outcome);
        let done = step.is_empty() && outcome.is_idle();
        step.apply(self, &mut outcome);
        if done {
            let limit = self.spec.revision_history_limit;
            let kept = Some(revisions.current.as_str());
            outcome.together(self.history.clean_up(&self.pods.own, limit, kept));
        }
        outcome
    }

    fn collisions(&self) -> Option<i32> {
        self.set.status.as_ref().and_then(|status| status.collision_count)
    }

    fn revisions(&self, newest: &str) -> Revisions {
        let noted = self.set.status.as_ref().and_then(|status| status.current_revision.clone());
        let noted = noted.filter(|noted| noted != newest);
        // A revision that somebody deleted cannot be gone back to.
        let template = noted.as_deref().and_then(|noted| self.history.template(noted));
        let current = noted.filter(|_| template.is_some()).unwrap_or_else(|| newest.to_owned());
        Revisions { newest: newest.to_owned(), current, current_template: template }
    }

    fn is_ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn is_rolling(&self) -> bool {
        let strategy = self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref());
        strategy.unwrap_or("RollingUpdate") == "RollingUpdate"
    }

    /// The ordinals that there should be.
    fn ordinals(&self) -> std::ops::Range<i64> {
        let start = self.spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0);
        let replicas = self.spec.replicas.unwrap_or(1);
        i64::from(start)..i64::from(start) + i64::from(replicas)
    }

    /// The first ordinal that gets the newest template.
    fn partition(&self) -> i64 {
        let rolling = self.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let partition = rolling.and_then(|rolling| rolling.partition).unwrap_or(0);
        self.ordinals().start + i64::from(partition)
    }

    fn ordinal(&self, pod: &PodView) -> i64 {
        member::ordinal(&self.object.meta.name, &pod.meta().name).unwrap_or(i64::MAX)
    }

    fn pod(&self, ordinal: i64) -> Option<&PodView> {
        self.pods.own.iter().find(|pod| self.ordinal(pod) == ordinal)
    }

    /// Beyond the ordinals that there should be, highest first.
    fn surplus(&self) -> Vec<&PodView> {
        let wanted = self.ordinals();
        let mut surplus: Vec<_> =
            self.pods.own.iter().filter(|pod| !wanted.contains(&self.ordinal(pod))).collect();
        surplus.sort_by_key(|pod| std::cmp::Reverse(self.ordinal(pod)));
        surplus
    }

    fn availability(&self, pod: &PodView) -> Availability {
        if pod.phase() != "Running" {
            return Availability::No;
        }
        pod.availability(self.spec.min_ready_seconds.unwrap_or(0), self.now)
    }
}

/// The labels of the two revisions in use.
struct Revisions {
    newest: String,
    current: String,
    /// None while the two are one.
    current_template: Option<PodTemplateSpec>,
}
