//! DaemonSet: one Pod on every node that suits the template.
//!
//! ```text
//! reconcile ── adopt/release Pods ─ (any) → wait for their events
//!     ├─ template not noted ─→ its ControllerRevision first
//!     ├─ status
//!     └─ nodes without a Pod, Pods without a reason → create, delete
//!           └─ (none) RollingUpdate → replace old Pods within bounds
//! ```
//! The Pod names its node by affinity to `metadata.name`; the scheduler binds it. A node's room is the
//! scheduler's business, taints and affinity are decided here.

mod rollout;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::{Node, Pod, PodTemplateSpec, Toleration};
use serde_json::{Value, json};

use super::history::{self, HASH, History, Label, REVISIONS};
use super::look::{self, Availability, PodView};
use super::outcome::{Act, Outcome};
use super::runner::{Controller, Seen};
use super::workload::{self, BURST, Pods};
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;
use crate::scheduler;
use crate::status::ApiError;
use crate::writer::Change;

pub const DAEMONSETS: Resource = "daemonsets.apps";

/// Taints that never keep a daemon away, with their effect.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

pub struct DaemonSets;

impl Controller for DaemonSets {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:daemon-set-controller"
    }

    fn watches(&self) -> Vec<Resource> {
        vec![DAEMONSETS, REVISIONS, "pods", "nodes"]
    }

    fn keys(&self, world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        match seen.resource {
            DAEMONSETS => seen.latest().map(Object::key).into_iter().collect(),
            "nodes" if !offers_the_same(seen) => {
                world.list(DAEMONSETS, None).iter().map(|set| set.key()).collect()
            }
            "nodes" => Vec::new(),
            _ => workload::keys(world, (DAEMONSETS, "DaemonSet"), seen, |set| {
                Some(set.view::<DaemonSet>().ok()?.spec.as_ref()?.selector.clone())
            }),
        }
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, now: Timestamp) -> Outcome {
        match Daemon::observe(world, key, now) {
            Some(daemon) => daemon.reconcile(),
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
        let Some(daemon) = Daemon::observe(world, key, now) else { return Vec::new() };
        if !history::is_collision(world, &daemon.object, change, error) {
            return Vec::new();
        }
        // The next hash differs.
        let mut status = daemon.set.status.clone().unwrap_or_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        look::status_update(&daemon.object, &status).into_iter().collect()
    }
}

/// Heartbeats are no news.
fn offers_the_same(seen: Seen<'_>) -> bool {
    let (Some(old), Some(new)) = (seen.old, seen.new) else { return false };
    old.meta.labels == new.meta.labels && old.value()["spec"] == new.value()["spec"]
}

/// A node and the daemon's Pods on it or for it, oldest first.
struct Place {
    node: String,
    may_start: bool,
    may_stay: bool,
    pods: Vec<PodView>,
}

/// A DaemonSet and everything that decides about it.
struct Daemon {
    now: Timestamp,
    object: Arc<Object>,
    set: Arc<DaemonSet>,
    spec: DaemonSetSpec,
    pods: Pods,
    places: Vec<Place>,
    /// Waiting for a node that is gone.
    lost: Vec<PodView>,
    history: History,
}

impl Daemon {
    fn observe(world: &dyn Reader, key: &Key, now: Timestamp) -> Option<Self> {
        let object = world.get(DAEMONSETS, &key.namespace, &key.name)?;
        let set: Arc<DaemonSet> = object.view().ok()?;
        let mut spec = set.spec.clone()?;
        if look::is_empty_selector(&spec.selector) {
            return None;
        }
        let history =
            History::observe(world, &object, (&spec.selector, &spec.template), Label::Hash);
        let pods = Pods::observe(world, &object, &spec.selector);
        tolerate(&mut spec.template);
        let mut by_node = by_node(&pods.own);
        let places = places(world, &spec.template, &mut by_node);
        let lost = by_node.into_values().flatten();
        let lost = lost.filter(|pod| pod.node().is_empty() && !pod.is_terminating()).collect();
        Some(Self { now, object, set, spec, pods, places, lost, history })
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
        let Some(hash) = self.history.hash() else { return outcome };
        // Before the Pods: refused creations must not keep it from being said.
        status::sync(self, hash, &mut outcome);
        let mut step = self.manage(hash, &mut outcome);
        if step.is_empty() {
            step = rollout::step(self, hash);
        }
        let done = step.is_empty() && outcome.is_idle();
        step.apply(self, hash, &mut outcome);
        if done {
            let limit = self.spec.revision_history_limit;
            outcome.together(self.history.clean_up(&self.pods.own, limit, None));
        }
        outcome
    }

    fn collisions(&self) -> Option<i32> {
        self.set.status.as_ref().and_then(|status| status.collision_count)
    }

    /// A Pod where one is missing, none where none should be.
    fn manage(&self, hash: &str, outcome: &mut Outcome) -> Step<'_> {
        let mut step = Step { delete: self.lost.iter().collect(), create: Vec::new() };
        for place in &self.places {
            if place.may_start && place.pods.is_empty() {
                step.create.push(&place.node);
            } else if place.may_stay {
                self.tidy(place, hash, &mut step, outcome);
            } else {
                step.delete.extend(place.pods.iter().filter(|pod| !pod.is_terminating()));
            }
        }
        step
    }

    /// Finished Pods go, and all but one of the rest; two while a surge lasts.
    fn tidy<'d>(
        &'d self,
        place: &'d Place,
        hash: &str,
        step: &mut Step<'d>,
        outcome: &mut Outcome,
    ) {
        let mut running = Vec::new();
        for pod in place.pods.iter().filter(|pod| !pod.is_terminating()) {
            match (pod.is_finished(), workload::pause(pod, self.now)) {
                (false, _) => running.push(pod),
                (true, None) => step.delete.push(pod),
                (true, Some(left)) => outcome.again_after(left),
            }
        }
        if rollout::surge(self) == 0 {
            step.delete.extend(running.into_iter().skip(1));
            return;
        }
        let all_leave = place.pods.iter().all(PodView::is_terminating);
        if running.is_empty() && all_leave && place.may_start {
            step.create.push(&place.node);
        }
        if running.len() < 2 {
            return;
        }
        let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|p| is_updated(p, hash));
        step.delete.extend(new.iter().skip(1).chain(old.iter().skip(1)));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!old.is_ready() || self.is_available(new))
        {
            step.delete.push(old);
        }
    }

    fn is_available(&self, pod: &PodView) -> bool {
        self.availability(pod) == Availability::Yes
    }

    fn availability(&self, pod: &PodView) -> Availability {
        pod.availability(self.spec.min_ready_seconds.unwrap_or(0), self.now)
    }

    fn new_pod(&self, node: &str, hash: &str) -> Option<Value> {
        let mut pod = workload::new_pod(&self.object, &self.spec.template)?;
        pod["metadata"]["labels"][HASH] = hash.into();
        let field = json!({"key": "metadata.name", "operator": "In", "values": [node]});
        pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
            json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
        Some(pod)
    }
}

fn is_updated(pod: &PodView, hash: &str) -> bool {
    pod.meta().labels.get(HASH).is_some_and(|label| label == hash)
}

/// What one reconcile does to Pods.
#[derive(Default)]
struct Step<'d> {
    delete: Vec<&'d PodView>,
    /// Nodes that get a Pod.
    create: Vec<&'d str>,
}

impl Step<'_> {
    fn is_empty(&self) -> bool {
        self.delete.is_empty() && self.create.is_empty()
    }

    fn apply(&self, daemon: &Daemon, hash: &str, outcome: &mut Outcome) {
        let owner = &daemon.object;
        let doomed = self.delete.iter().take(BURST);
        outcome.together(doomed.map(|pod| workload::deletion(owner, pod)).collect());
        let pods = self.create.iter().filter_map(|node| daemon.new_pod(node, hash));
        let acts: Vec<Act> = pods.map(|pod| workload::creation(owner, pod)).collect();
        workload::slowly(acts, outcome);
    }
}

/// By the node that a Pod is on or waits for; what is finished and on its way out does not count.
fn by_node(pods: &[PodView]) -> BTreeMap<String, Vec<PodView>> {
    let mut by_node: BTreeMap<String, Vec<PodView>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !(pod.is_finished() && pod.is_terminating())) {
        let node = target(&pod.pod).unwrap_or_default();
        by_node.entry(node.to_owned()).or_default().push(pod.clone());
    }
    for pods in by_node.values_mut() {
        // Bound ones first, as they are nearer to running; then the oldest.
        pods.sort_by(|a, b| {
            let rank = |pod: &PodView| {
                let meta = pod.meta();
                (pod.node().is_empty(), meta.creation_timestamp.clone(), meta.name.clone())
            };
            rank(a).cmp(&rank(b))
        });
    }
    by_node
}

/// The node that a Pod is on, or that its affinity names.
fn target(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        return Some(node);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    let mut named = fields.filter(|f| f.key == "metadata.name" && f.operator == "In");
    named.find_map(|field| field.values.as_ref()?.first()).map(String::as_str)
}

fn places(
    world: &dyn Reader,
    template: &PodTemplateSpec,
    by_node: &mut BTreeMap<String, Vec<PodView>>,
) -> Vec<Place> {
    let nodes = world.list("nodes", None);
    let spec = template.spec.clone().unwrap_or_default();
    let place = |node: &Arc<Object>| {
        let view: Arc<Node> = node.view().ok()?;
        let (may_start, may_stay) = scheduler::suits(&spec, &view);
        let pods = by_node.remove(&node.meta.name).unwrap_or_default();
        Some(Place { node: node.meta.name.clone(), may_start, may_stay, pods })
    };
    nodes.iter().filter_map(place).collect()
}

/// Adds what every daemon tolerates.
fn tolerate(template: &mut PodTemplateSpec) {
    let Some(spec) = &mut template.spec else { return };
    let host = spec.host_network == Some(true);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.into_iter().chain(host.then_some(NETWORK)) {
        let toleration = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
}
