//! PodDisruptionBudget: how many of its Pods may be evicted right now. The API's eviction takes from that number and notes the
//! Pod; here it is counted anew whenever a Pod or an owner changes.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::{
    PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::look::{self, PodView};
use super::outcome::Outcome;
use super::runner::{Controller, Seen};
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;

const BUDGETS: Resource = "poddisruptionbudgets.policy";

/// An eviction that came to nothing is forgotten after this time.
const FORGOTTEN: Duration = Duration::from_secs(120);

pub struct Disruption;

impl Controller for Disruption {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:disruption-controller"
    }

    fn watches(&self) -> Vec<Resource> {
        vec![BUDGETS, "pods", "replicasets.apps", "deployments.apps"]
    }

    fn keys(&self, world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        let Some(object) = seen.latest() else { return Vec::new() };
        if seen.resource == BUDGETS {
            return vec![object.key()];
        }
        let budgets = world.list(BUDGETS, Some(&object.meta.namespace)).into_iter();
        let concerned = budgets.filter(|budget| {
            seen.resource != "pods" || seen.states().any(|pod| selects(budget, &pod.meta.labels))
        });
        concerned.map(|budget| budget.key()).collect()
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::idle();
        let Some(object) = world.get(BUDGETS, &key.namespace, &key.name) else { return outcome };
        let Ok(budget) = object.view::<PodDisruptionBudget>() else { return outcome };
        let pods: Vec<PodView> = world
            .list("pods", Some(&key.namespace))
            .into_iter()
            .filter(|pod| selects(&object, &pod.meta.labels))
            .filter_map(PodView::of)
            .filter(|pod| !pod.is_finished())
            .collect();
        let (status, again) = status(world, &object, &budget, &pods, now);
        if let Some(again) = again {
            outcome.again_after(again);
        }
        if budget.status.as_ref() != Some(&status) {
            outcome.together(
                look::status_update(&object, &status).map(Into::into).into_iter().collect(),
            );
        }
        outcome
    }
}

/// An absent selector selects nothing, an empty one everything.
pub(crate) fn selects(budget: &Object, labels: &look::Labels) -> bool {
    let selector = budget.view::<PodDisruptionBudget>().ok().and_then(|b| b.spec.clone()?.selector);
    selector.is_some_and(|selector| look::selects(&selector, labels))
}

fn status(
    world: &dyn Reader,
    object: &Object,
    budget: &PodDisruptionBudget,
    pods: &[PodView],
    now: Timestamp,
) -> (PodDisruptionBudgetStatus, Option<Duration>) {
    let spec = budget.spec.clone().unwrap_or_default();
    let old = budget.status.clone().unwrap_or_default();
    let (disrupted, again) = pending(&old, pods, now);
    let (expected, desired) = wanted(world, &spec, pods);
    let healthy = pods
        .iter()
        .filter(|pod| pod.is_ready() && !pod.is_terminating())
        .filter(|pod| !disrupted.contains_key(&pod.meta().name))
        .count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
    let status = PodDisruptionBudgetStatus {
        conditions: Some(vec![condition(&old, object, allowed, now)]),
        current_healthy: healthy,
        desired_healthy: desired,
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: allowed,
        expected_pods: expected,
        observed_generation: Some(object.meta.generation),
    };
    (status, again)
}

/// Evictions under way: granted, and the Pod not yet marked as going.
fn pending(
    old: &PodDisruptionBudgetStatus,
    pods: &[PodView],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Duration>) {
    let mut kept = BTreeMap::new();
    let mut again: Option<Duration> = None;
    for (name, since) in old.disrupted_pods.iter().flatten() {
        let staying = pods.iter().any(|pod| pod.meta().name == *name && !pod.is_terminating());
        if let (true, Some(left)) = (staying, look::remaining(since.0, FORGOTTEN, now)) {
            again = Some(again.map_or(left, |a| a.min(left)));
            kept.insert(name.clone(), since.clone());
        }
    }
    (kept, again)
}

/// How many Pods there should be, and how many of them healthy.
fn wanted(world: &dyn Reader, spec: &PodDisruptionBudgetSpec, pods: &[PodView]) -> (i32, i32) {
    let present = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let expected = owned(world, pods);
            (expected, (expected - scaled(most, expected)).max(0))
        }
        (None, Some(IntOrString::Int(least))) => (present, *least),
        (None, Some(least)) => {
            let expected = owned(world, pods);
            (expected, scaled(least, expected))
        }
        (None, None) => (present, 1),
    }
}

/// Percentages are rounded up.
fn scaled(amount: &IntOrString, of: i32) -> i32 {
    match amount {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            i32::try_from((percent * i64::from(of) + 99) / 100).unwrap_or(i32::MAX)
        }
    }
}

/// What the owners of the Pods want in all; Pods without one count as themselves.
fn owned(world: &dyn Reader, pods: &[PodView]) -> i32 {
    let mut scales: BTreeMap<String, i64> = BTreeMap::new();
    for pod in pods {
        let meta = pod.meta();
        let Some(owner) = look::controller_of(meta) else {
            scales.insert(meta.uid.clone(), 1);
            continue;
        };
        let (uid, replicas) = scale(world, &meta.namespace, owner.kind.as_str(), &owner.name)
            .unwrap_or_else(|| (meta.uid.clone(), 1));
        scales.insert(uid, replicas);
    }
    i32::try_from(scales.values().sum::<i64>()).unwrap_or(i32::MAX)
}

/// The uid and the replicas of the owner that is at the top.
fn scale(world: &dyn Reader, namespace: &str, kind: &str, name: &str) -> Option<(String, i64)> {
    let resource = match kind {
        "ReplicaSet" => "replicasets.apps",
        "Deployment" => "deployments.apps",
        "StatefulSet" => "statefulsets.apps",
        "ReplicationController" => "replicationcontrollers",
        _ => return None,
    };
    let object = world.get(resource, namespace, name)?;
    if let Some(owner) = look::controller_of(&object.meta)
        && let Some(found) = scale(world, namespace, &owner.kind, &owner.name)
    {
        return Some(found);
    }
    let replicas = object.value()["spec"]["replicas"].as_i64().unwrap_or(1);
    Some((object.meta.uid.clone(), replicas))
}

fn condition(
    old: &PodDisruptionBudgetStatus,
    object: &Object,
    allowed: i32,
    now: Timestamp,
) -> Condition {
    let (status, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let before = old.conditions.iter().flatten().find(|c| c.type_ == "DisruptionAllowed");
    let since = before.filter(|c| c.status == status).map(|c| c.last_transition_time.clone());
    Condition {
        type_: "DisruptionAllowed".into(),
        status: status.into(),
        reason: reason.into(),
        message: String::new(),
        observed_generation: Some(object.meta.generation),
        last_transition_time: since.unwrap_or_else(|| look::stamp(now)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::controllers::world::{World, pod};

    fn budget(spec: Value) -> (Resource, Value) {
        let mut spec = spec;
        spec["selector"] = json!({"matchLabels": {"app": "a"}});
        (
            BUDGETS,
            json!({"metadata": {"name": "b", "namespace": "team", "generation": 1}, "spec": spec}),
        )
    }

    fn member(name: &str, ready: bool) -> (Resource, Value) {
        let (resource, mut value) = pod("team", name);
        value["metadata"]["labels"] = json!({"app": "a"});
        value["status"] = json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": if ready { "True" } else { "False" }},
        ]});
        (resource, value)
    }

    fn settled(world: &mut World) -> Value {
        let key = Key::new(BUDGETS, "team", "b");
        for _ in 0..2 {
            let outcome = Disruption.reconcile(world, &key, world.now);
            for act in outcome.batches.into_iter().flatten() {
                world.apply(act.change).expect("apply");
            }
        }
        assert!(Disruption.reconcile(world, &key, world.now).is_idle(), "settled");
        world.value(BUDGETS, "team", "b")["status"].clone()
    }

    #[test]
    fn healthy_pods_above_the_least_may_go() {
        let pods = [member("1", true), member("2", true), member("3", false)];
        let mut world = World::with([budget(json!({"minAvailable": 1}))].into_iter().chain(pods));
        let status = settled(&mut world);
        assert_eq!(status["disruptionsAllowed"], 1);
        assert_eq!((&status["currentHealthy"], &status["expectedPods"]), (&json!(2), &json!(3)));
        world.edit("pods", "team", "2", |pod| {
            pod["status"]["conditions"][0]["status"] = "False".into()
        });
        let status = settled(&mut world);
        assert_eq!(status["disruptionsAllowed"], 0);
        assert_eq!(status["conditions"][0]["reason"], "InsufficientPods");
    }

    #[test]
    fn an_eviction_under_way_counts_until_it_is_forgotten() {
        let pods = [member("1", true), member("2", true)];
        let mut world =
            World::with([budget(json!({"maxUnavailable": "50%"}))].into_iter().chain(pods));
        assert_eq!(settled(&mut world)["disruptionsAllowed"], 1);
        let now = world.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        world.edit(BUDGETS, "team", "b", |budget| {
            budget["status"]["disruptedPods"] = json!({"1": now})
        });
        assert_eq!(settled(&mut world)["disruptionsAllowed"], 0);
        let key = Key::new(BUDGETS, "team", "b");
        assert_eq!(Disruption.reconcile(&world, &key, world.now).requeue_after, Some(FORGOTTEN));
        world.now += FORGOTTEN;
        assert_eq!(settled(&mut world)["disruptionsAllowed"], 1);
    }

    #[test]
    fn owners_say_how_many_there_should_be() {
        let set = json!({"metadata": {"name": "rs", "namespace": "team", "uid": "rs"}, "spec": {"replicas": 4}});
        let mut world =
            World::with([budget(json!({"maxUnavailable": 1})), ("replicasets.apps", set)]);
        let uid = world.value("replicasets.apps", "team", "rs")["metadata"]["uid"].clone();
        for name in ["1", "2", "3"] {
            let (resource, mut value) = member(name, true);
            value["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": uid, "controller": true}]);
            world.add(resource, value);
        }
        let status = settled(&mut world);
        assert_eq!((&status["expectedPods"], &status["desiredHealthy"]), (&json!(4), &json!(3)));
        assert_eq!(status["disruptionsAllowed"], 0);
    }
}
