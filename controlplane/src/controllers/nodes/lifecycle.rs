//! Node lifecycle: conditions of a Node that stopped talking, and taints that follow its conditions.
//!
//! ```text
//! Lease or heartbeat moves ─→ alive: taints follow the Ready condition that the node reports
//! neither moved for 40 s ───→ conditions Unknown, taint unreachable, its Pods not ready
//! ```
//! Times are measured here from when a heartbeat was *seen* to move: clocks of nodes may be wrong, and a control
//! plane that was away gives everybody a full period.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use serde_json::{Value, json};

use super::{LEASE_NAMESPACE, LEASES, key, pods_on};
use crate::controllers::look::{self, PodView};
use crate::controllers::outcome::{Act, Note, Outcome};
use crate::controllers::runner::{Controller, Seen};
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;
use crate::writer::Change;

const GRACE: Duration = Duration::from_secs(40);
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Condition, its bad status, and the taint that says so to the scheduler.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

#[derive(Default)]
pub struct Lifecycle {
    heartbeats: Mutex<HashMap<Key, Heartbeat>>,
}

struct Heartbeat {
    mark: (Option<Timestamp>, Option<Timestamp>),
    seen: Timestamp,
}

impl Controller for Lifecycle {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:node-controller"
    }

    fn watches(&self) -> Vec<Resource> {
        vec!["nodes", LEASES]
    }

    fn keys(&self, _world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        let Some(object) = seen.latest() else { return Vec::new() };
        let elsewhere = seen.resource == LEASES && object.meta.namespace != LEASE_NAMESPACE;
        if elsewhere { Vec::new() } else { vec![key(&object.meta.name)] }
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, now: Timestamp) -> Outcome {
        let node = world.get("nodes", "", &key.name);
        let view = node.and_then(|object| Some((object.view::<Node>().ok()?, object)));
        let Some((node, object)) = view else {
            self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
            return Outcome::idle();
        };
        let mut outcome = Outcome::idle();
        let seen = self.last_seen(world, key, &node, now);
        match look::remaining(seen, GRACE, now) {
            Some(left) => outcome.again_after(left),
            None => declare_unknown(world, &object, &node, now, &mut outcome),
        }
        // Conditions first; the taints follow when their event brings us back.
        if outcome.is_idle() {
            outcome.together(taint(&object, &node, now).map(Into::into).into_iter().collect());
        }
        outcome
    }
}

impl Lifecycle {
    /// When the Node's heartbeat was last seen to move.
    fn last_seen(&self, world: &dyn Reader, key: &Key, node: &Node, now: Timestamp) -> Timestamp {
        let lease = world.typed::<Lease>(LEASES, LEASE_NAMESPACE, &key.name);
        let renewed = lease.and_then(|lease| Some(lease.spec.as_ref()?.renew_time.as_ref()?.0));
        let reported =
            condition(node, "Ready").and_then(|c| Some(c.last_heartbeat_time.as_ref()?.0));
        let mark = (renewed, reported);
        let mut heartbeats = self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner);
        let known = heartbeats.entry(key.clone()).or_insert(Heartbeat { mark, seen: now });
        if known.mark != mark {
            *known = Heartbeat { mark, seen: now };
        }
        known.seen
    }
}

fn condition<'a>(node: &'a Node, name: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == name)
}

/// The Node is silent: say that nothing is known, and take its Pods out of service.
fn declare_unknown(
    world: &dyn Reader,
    object: &Object,
    node: &Node,
    now: Timestamp,
    outcome: &mut Outcome,
) {
    let names = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
    if names.iter().all(|name| condition(node, name).is_some_and(|c| c.status == "Unknown")) {
        return;
    }
    let mut conditions =
        node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    for name in names {
        make_unknown(&mut conditions, name, now);
    }
    let mut value = object.value();
    value["status"]["conditions"] = json!(conditions);
    let text = format!("Node {} status is now: NodeNotReady", object.meta.name);
    let change = Change::Update { resource: "nodes", subresource: Some("status"), object: value };
    // Pods first: when the Node says Unknown this is not done again.
    outcome.together(
        pods_on(world, &object.meta.name).iter().filter_map(|pod| unready(pod, now)).collect(),
    );
    outcome.push(Act::from(change).noting(Note::normal(object, "NodeNotReady", text)));
}

fn make_unknown(conditions: &mut Vec<NodeCondition>, name: &str, now: Timestamp) {
    let found = conditions.iter_mut().find(|c| c.type_ == name);
    let (reason, message) = match found {
        Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
        None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
    };
    let condition = NodeCondition {
        type_: name.into(),
        status: "Unknown".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_heartbeat_time: found.as_ref().and_then(|c| c.last_heartbeat_time.clone()),
        last_transition_time: Some(look::stamp(now)),
    };
    match found {
        Some(known) if known.status == "Unknown" => {}
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
}

fn unready(pod: &PodView, now: Timestamp) -> Option<Act> {
    if !pod.is_ready() {
        return None;
    }
    let mut value = pod.object.value();
    let conditions = value["status"]["conditions"].as_array_mut()?;
    let ready = conditions.iter_mut().find(|c| c["type"] == "Ready")?;
    ready["status"] = json!("False");
    ready["lastTransitionTime"] = json!(look::stamp(now));
    let change = Change::Update { resource: "pods", subresource: Some("status"), object: value };
    Some(Act::from(change).noting(Note::warning(&pod.object, "NodeNotReady", "Node is not ready")))
}

/// The taints that the Node should have, if they are not the ones it has; others' taints stay.
fn taint(object: &Object, node: &Node, now: Timestamp) -> Option<Change> {
    let has = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let wanted = wanted(node);
    let ours = |taint: &Taint| {
        let key = taint.key.as_str();
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && (matches!(key, NOT_READY | UNREACHABLE | UNSCHEDULABLE)
                || PRESSURES.iter().any(|(_, pressure)| *pressure == key))
    };
    let mut taints: Vec<Taint> = has
        .iter()
        .filter(|t| !ours(t) || wanted.contains(&(t.key.as_str(), t.effect.as_str())))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            let time_added = (effect == "NoExecute").then(|| look::stamp(now));
            taints.push(Taint { key: key.into(), effect: effect.into(), time_added, value: None });
        }
    }
    let changed = taints != has;
    changed.then(|| {
        look::edited(object, |value| {
            value["spec"]["taints"] = if taints.is_empty() { Value::Null } else { json!(taints) };
        })
    })
}

fn wanted(node: &Node) -> Vec<(&'static str, &'static str)> {
    let status = |name| condition(node, name).map(|c| c.status.as_str());
    let mut wanted = match status("Ready") {
        Some("True") => Vec::new(),
        Some("Unknown") => vec![(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")],
        Some(_) => vec![(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")],
        // Not heard of yet: nothing may be sent there, but nothing has failed either.
        None => vec![(NOT_READY, "NoSchedule")],
    };
    let pressed = PRESSURES.iter().filter(|(name, _)| status(name) == Some("True"));
    wanted.extend(pressed.map(|(_, key)| (*key, "NoSchedule")));
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::world::{World, node, pod};

    fn cluster() -> World {
        let mut running = pod("default", "p").1;
        running["spec"]["nodeName"] = json!("a");
        running["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        let mut world = World::with([node("a"), ("pods", running)]);
        renew(&mut world);
        world
    }

    fn renew(world: &mut World) {
        let renewed = world.now.strftime("%Y-%m-%dT%H:%M:%S.000000Z").to_string();
        if world.get(LEASES, LEASE_NAMESPACE, "a").is_none() {
            world.add(LEASES, json!({"metadata": {"name": "a", "namespace": LEASE_NAMESPACE}}));
        }
        world.edit(LEASES, LEASE_NAMESPACE, "a", |lease| {
            lease["spec"] = json!({"renewTime": renewed})
        });
    }

    /// Reconciles until idle; when to come back.
    fn settle(world: &mut World, lifecycle: &Lifecycle) -> Option<Duration> {
        for _ in 0..10 {
            let outcome = lifecycle.reconcile(world, &key("a"), world.now);
            if outcome.is_idle() {
                return outcome.requeue_after;
            }
            for act in outcome.batches.into_iter().flatten() {
                world.apply(act.change).expect("apply");
            }
        }
        panic!("never idle");
    }

    fn taints(world: &World) -> Vec<String> {
        let node = world.value("nodes", "", "a");
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let text = |t: &Value| {
            format!(
                "{}:{}",
                t["key"].as_str().unwrap_or_default(),
                t["effect"].as_str().unwrap_or_default()
            )
        };
        taints.iter().map(text).collect()
    }

    fn ready(world: &World) -> Value {
        world.value("nodes", "", "a")["status"]["conditions"][0].clone()
    }

    #[test]
    fn a_silent_node_is_unknown_after_forty_seconds_and_recovers() {
        let (mut world, lifecycle) = (cluster(), Lifecycle::default());
        assert_eq!(settle(&mut world, &lifecycle), Some(GRACE));
        world.now += Duration::from_secs(30);
        renew(&mut world);
        settle(&mut world, &lifecycle);
        world.now += Duration::from_secs(39);
        assert_eq!(settle(&mut world, &lifecycle), Some(Duration::from_secs(1)));
        assert_eq!(ready(&world)["status"], "True");
        world.now += Duration::from_secs(1);
        settle(&mut world, &lifecycle);
        let condition = ready(&world);
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&json!("Unknown"), &json!("NodeStatusUnknown"))
        );
        assert_eq!(
            taints(&world),
            [
                "node.kubernetes.io/unreachable:NoSchedule",
                "node.kubernetes.io/unreachable:NoExecute",
            ]
        );
        assert_eq!(
            world.value("pods", "default", "p")["status"]["conditions"][0]["status"],
            "False"
        );
        // It comes back: its Lease moves and it reports Ready.
        renew(&mut world);
        world.edit("nodes", "", "a", |node| {
            node["status"]["conditions"][0]["status"] = json!("True")
        });
        assert_eq!(settle(&mut world, &lifecycle), Some(GRACE));
        assert_eq!(taints(&world), Vec::<String>::new());
    }

    #[test]
    fn taints_follow_conditions_and_other_taints_stay() {
        let (mut world, lifecycle) = (cluster(), Lifecycle::default());
        world.edit("nodes", "", "a", |node| {
            node["spec"]["taints"] = json!([{"key": "mine", "effect": "NoSchedule"}]);
            node["spec"]["unschedulable"] = json!(true);
            node["status"]["conditions"] = json!([
                {"type": "Ready", "status": "False"}, {"type": "DiskPressure", "status": "True"},
            ]);
        });
        settle(&mut world, &lifecycle);
        assert_eq!(
            taints(&world),
            [
                "mine:NoSchedule",
                "node.kubernetes.io/not-ready:NoSchedule",
                "node.kubernetes.io/not-ready:NoExecute",
                "node.kubernetes.io/disk-pressure:NoSchedule",
                "node.kubernetes.io/unschedulable:NoSchedule",
            ]
        );
        world.edit("nodes", "", "a", |node| {
            node["spec"]["unschedulable"] = Value::Null;
            node["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        });
        settle(&mut world, &lifecycle);
        assert_eq!(taints(&world), ["mine:NoSchedule"]);
    }

    #[test]
    fn a_control_plane_that_was_away_gives_a_full_period() {
        let mut world = cluster();
        world.now += Duration::from_secs(3600);
        assert_eq!(settle(&mut world, &Lifecycle::default()), Some(GRACE));
        assert_eq!(ready(&world)["status"], "True");
    }
}
