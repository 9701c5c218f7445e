//! Deployment: moves Pods from one template to the next by resizing ReplicaSets, within bounds.
//!
//! ```text
//! reconcile ── adopt/release ReplicaSets ─ (any) → wait for their events
//!     ├─ deleting ───────────────→ status only
//!     ├─ paused condition differs → status only
//!     ├─ paused ────────────────→ scale, status
//!     ├─ replicas changed ───────→ scale proportionally, status
//!     └─ Recreate | RollingUpdate → one step, status
//! ```
//! One reconcile takes one step; the event of its write brings the next. It resizes ReplicaSets and never
//! touches a Pod.

mod conditions;
pub(super) mod hash;
mod recreate;
mod revision;
mod rolling;
mod scale;
mod status;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::look::{self, Availability, PodView};
use super::outcome::{Act, Note, Outcome};
use super::replicaset::REPLICASETS;
use super::runner::{Controller, Seen};
use super::workload;
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;
use crate::status::ApiError;
use crate::writer::Change;

pub const DEPLOYMENTS: Resource = "deployments.apps";

pub struct Deployments;

impl Controller for Deployments {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:deployment-controller"
    }

    fn watches(&self) -> Vec<Resource> {
        vec![DEPLOYMENTS, REPLICASETS, "pods"]
    }

    fn keys(&self, world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        match seen.resource {
            DEPLOYMENTS => seen.latest().map(Object::key).into_iter().collect(),
            REPLICASETS => workload::keys(world, (DEPLOYMENTS, "Deployment"), seen, |deployment| {
                Some(deployment.view::<Deployment>().ok()?.spec.as_ref()?.selector.clone())
            }),
            // Pods speak through their set's status; only room that they free is news of its own.
            _ => {
                let gone = seen.is_deletion() || seen.new.is_some_and(is_finished);
                let pod = seen.latest().filter(|_| gone);
                pod.and_then(|pod| owner_of_pod(world, pod)).into_iter().collect()
            }
        }
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, now: Timestamp) -> Outcome {
        match Rollout::observe(world, key, now) {
            Some(rollout) => rollout.reconcile(),
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
        let Change::Create { resource: REPLICASETS, object } = change else { return Vec::new() };
        let Some(rollout) = Rollout::observe(world, key, now) else { return Vec::new() };
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        rollout.creation_refused(world, name, error).into_iter().collect()
    }
}

fn is_finished(pod: &Object) -> bool {
    let pod: Result<Arc<k8s_openapi::api::core::v1::Pod>, _> = pod.view();
    let phase = pod.ok().and_then(|pod| pod.status.as_ref()?.phase.clone());
    matches!(phase.as_deref(), Some("Succeeded" | "Failed"))
}

fn owner_of_pod(world: &dyn Reader, pod: &Object) -> Option<Key> {
    let set = workload::owner_key(REPLICASETS, "ReplicaSet", pod)?;
    let set = world.get(REPLICASETS, &set.namespace, &set.name)?;
    workload::owner_key(DEPLOYMENTS, "Deployment", &set)
}

/// A ReplicaSet of the Deployment and its Pods.
#[derive(Clone)]
struct Set {
    object: Arc<Object>,
    set: Arc<ReplicaSet>,
    pods: Vec<PodView>,
    /// Active Pods that are available now, at most as many as wanted.
    available: i32,
}

impl Set {
    fn name(&self) -> &str {
        &self.object.meta.name
    }

    /// Wanted replicas.
    fn replicas(&self) -> i32 {
        self.set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn active_pods(&self) -> i32 {
        count(self.pods.iter().filter(|pod| pod.is_active()).count())
    }

    /// Pods that exist or will: what the set wants or has, and what is still on its way out.
    fn occupied(&self) -> i32 {
        let leaving = self.pods.iter().filter(|pod| pod.is_terminating()).count();
        self.replicas().max(self.active_pods()) + count(leaving)
    }

    /// The ReplicaSet controller has acted on the newest size.
    fn is_observed(&self) -> bool {
        let observed = self.set.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
        observed >= self.object.meta.generation
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        self.set.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }

    fn created(&self) -> &str {
        self.object.meta.creation_timestamp.as_deref().unwrap_or_default()
    }
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// A Deployment and everything that decides about it.
struct Rollout {
    now: Timestamp,
    object: Arc<Object>,
    deployment: Arc<Deployment>,
    spec: DeploymentSpec,
    /// The set of the current template, if there is one.
    new: Option<Set>,
    /// All other sets, oldest first.
    old: Vec<Set>,
    orphans: Vec<Arc<Object>>,
    strays: Vec<Arc<Object>>,
}

impl Rollout {
    fn observe(world: &dyn Reader, key: &Key, now: Timestamp) -> Option<Self> {
        let object = world.get(DEPLOYMENTS, &key.namespace, &key.name)?;
        let deployment: Arc<Deployment> = object.view().ok()?;
        let spec = deployment.spec.clone()?;
        if look::is_empty_selector(&spec.selector) {
            return None;
        }
        let (mut own, mut orphans, mut strays) = (Vec::new(), Vec::new(), Vec::new());
        for set in world.list(REPLICASETS, Some(&key.namespace)) {
            let matches = look::selects(&spec.selector, &set.meta.labels);
            if look::is_controlled_by(&set.meta, &object.meta.uid) {
                if matches { &mut own } else { &mut strays }.push(set);
            } else if matches
                && look::controller_of(&set.meta).is_none()
                && !look::is_deleting(&set.meta)
            {
                orphans.push(set);
            }
        }
        let min_ready = spec.min_ready_seconds.unwrap_or(0);
        let mut sets = with_pods(world, key, own, min_ready, now);
        sets.sort_by(|a, b| a.created().cmp(b.created()).then_with(|| a.name().cmp(b.name())));
        let current = sets.iter().position(|set| hash::same_template(set, &spec.template));
        let new = current.map(|index| sets.remove(index));
        Some(Self { now, object, deployment, spec, new, old: sets, orphans, strays })
    }

    fn reconcile(&self) -> Outcome {
        let mut outcome = Outcome::idle();
        if look::is_deleting(&self.object.meta) {
            status::sync_counts(self, &mut outcome);
            return outcome;
        }
        if !self.orphans.is_empty() || !self.strays.is_empty() {
            outcome.together(self.claims());
            return outcome;
        }
        if let Some(change) = conditions::paused(self) {
            outcome.push(change);
            return outcome;
        }
        if self.is_paused() || scale::is_wanted(self) {
            scale::step(self, &mut outcome);
        } else if self.is_recreate() {
            recreate::step(self, &mut outcome);
        } else {
            rolling::step(self, &mut outcome);
        }
        outcome
    }

    fn claims(&self) -> Vec<Act> {
        let owner = look::controller_reference("apps/v1", "Deployment", &self.object.meta);
        let adopt = self.orphans.iter().map(|set| look::adoption(set, &owner).into());
        let mine = |uid: &str| uid == self.object.meta.uid;
        let release = self.strays.iter().map(|set| look::release(set, mine).into());
        adopt.chain(release).collect()
    }

    /// A name that is taken by another set: count the collision, so that the next hash differs.
    fn creation_refused(&self, world: &dyn Reader, name: &str, error: &ApiError) -> Option<Change> {
        let mut status = self.deployment.status.clone().unwrap_or_default();
        if error.is_already_exists() {
            let taken = world.get(REPLICASETS, &self.object.meta.namespace, name)?;
            if look::is_controlled_by(&taken.meta, &self.object.meta.uid) && self.new.is_some() {
                return None;
            }
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        } else {
            let message = format!("Failed to create new replica set \"{name}\": {error}");
            conditions::set(
                &mut status,
                self.now,
                "Progressing",
                "False",
                "ReplicaSetCreateError",
                message,
            );
            if self.deployment.status.as_ref() == Some(&status) {
                return None;
            }
        }
        look::status_update(&self.object, &status)
    }

    fn name(&self) -> &str {
        &self.object.meta.name
    }

    fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    fn is_paused(&self) -> bool {
        self.spec.paused == Some(true)
    }

    fn is_recreate(&self) -> bool {
        self.spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate")
    }

    fn sets(&self) -> impl Iterator<Item = &Set> {
        self.old.iter().chain(&self.new)
    }

    fn max_surge(&self) -> i32 {
        if self.is_recreate() { 0 } else { self.bounds().0 }
    }

    fn max_unavailable(&self) -> i32 {
        if self.is_recreate() || self.replicas() == 0 {
            return 0;
        }
        self.bounds().1.min(self.replicas())
    }

    /// maxSurge rounds up and maxUnavailable down; both zero would never move, so one may be missing then.
    fn bounds(&self) -> (i32, i32) {
        let rolling = self.spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".into());
        let of = |value: Option<&IntOrString>, up| {
            scaled(value.unwrap_or(&quarter), self.replicas(), up)
        };
        let surge = of(rolling.and_then(|r| r.max_surge.as_ref()), true);
        let unavailable = of(rolling.and_then(|r| r.max_unavailable.as_ref()), false);
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
    }

    /// Resizes a set, and keeps the sizes that proportional scaling starts from up to date on it.
    fn resize(&self, set: &Set, replicas: i32) -> Option<Act> {
        let wanted = revision::sizes(self);
        let resized = set.replicas() != replicas;
        if !resized && wanted.iter().all(|(key, value)| set.annotation(key) == Some(value)) {
            return None;
        }
        let change = look::edited(&set.object, |value| {
            value["spec"]["replicas"] = replicas.into();
            for (key, text) in wanted {
                value["metadata"]["annotations"][key] = text.into();
            }
        });
        let note = self.scaling_note(set.name(), set.replicas(), replicas);
        let act = Act::from(change);
        Some(if resized { act.noting(note) } else { act })
    }

    fn scaling_note(&self, set: &str, from: i32, to: i32) -> Note {
        let direction = if to > from { "up" } else { "down" };
        let text = format!("Scaled {direction} replica set {set} from {from} to {to}");
        Note::normal(&self.object, "ScalingReplicaSet", text)
    }
}

fn with_pods(
    world: &dyn Reader,
    key: &Key,
    sets: Vec<Arc<Object>>,
    min_ready: i32,
    now: Timestamp,
) -> Vec<Set> {
    let pods: Vec<PodView> =
        world.list("pods", Some(&key.namespace)).into_iter().filter_map(PodView::of).collect();
    let join = |object: Arc<Object>| {
        let set: Arc<ReplicaSet> = object.view().ok()?;
        let own = |pod: &&PodView| look::is_controlled_by(pod.meta(), &object.meta.uid);
        let pods: Vec<PodView> = pods.iter().filter(own).cloned().collect();
        let ready = |pod: &&PodView| {
            pod.is_active() && pod.availability(min_ready, now) == Availability::Yes
        };
        let available = count(pods.iter().filter(ready).count());
        let mut set = Set { object, set, pods, available };
        set.available = set.available.min(set.replicas());
        Some(set)
    };
    sets.into_iter().filter_map(join).collect()
}

/// An integer, or a percentage of `total`.
pub(super) fn scaled(value: &IntOrString, total: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(n) => (*n).max(0),
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent.max(0) * i64::from(total);
            let rounded = if up { (product + 99) / 100 } else { product / 100 };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}
