//! A DaemonSet on small worlds, with a scheduler and nodes that are played by the test.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::controllers::world::{World, node};

fn set(edit: impl FnOnce(&mut Value)) -> (Resource, Value) {
    let mut value = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "ds", "namespace": "default", "uid": "ds-uid"},
        "spec": {
            "selector": {"matchLabels": {"app": "a"}}, "revisionHistoryLimit": 10,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
            "template": {
                "metadata": {"labels": {"app": "a"}},
                "spec": {"containers": [{"name": "c", "image": "i:1"}]},
            },
        },
    });
    edit(&mut value);
    (DAEMONSETS, value)
}

fn key() -> Key {
    Key::new(DAEMONSETS, "default", "ds")
}

fn world(nodes: usize, edit: impl FnOnce(&mut Value)) -> World {
    let nodes = (0..nodes).map(|n| node(&format!("n{n}")));
    World::with(nodes.chain([set(edit)]))
}

fn pods(world: &World) -> Vec<PodView> {
    world.list("pods", Some("default")).into_iter().filter_map(PodView::of).collect()
}

fn status(world: &World) -> Value {
    world.value(DAEMONSETS, "default", "ds")["status"].clone()
}

fn edit(world: &mut World, f: impl FnOnce(&mut Value)) {
    world.edit(DAEMONSETS, "default", "ds", f);
}

fn set_image(world: &mut World, image: &str) {
    edit(world, |ds| ds["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image));
}

fn revisions(world: &World) -> Vec<Value> {
    world.list(REVISIONS, Some("default")).iter().map(|revision| revision.value()).collect()
}

/// One turn of the controller; the number of writes.
fn turn(world: &mut World) -> usize {
    let acts = DaemonSets.reconcile(world, &key(), world.now).batches.into_iter().flatten();
    let mut writes = 0;
    for act in acts {
        let change = act.change.clone();
        if let Err(error) = world.apply(act.change) {
            for change in DaemonSets.refused(world, &key(), &change, &error, world.now) {
                world.apply(change).expect("apply");
            }
        }
        writes += 1;
    }
    writes
}

fn bind(world: &mut World, pod: &PodView) -> bool {
    let Some(node) = target(&pod.pod).filter(|_| pod.node().is_empty()).map(str::to_owned) else {
        return false;
    };
    world.edit("pods", "default", &pod.meta().name, |pod| pod["spec"]["nodeName"] = json!(node));
    true
}

fn set_ready(world: &mut World, pod: &PodView, ready: bool) -> bool {
    if pod.node().is_empty() || pod.is_ready() == ready {
        return false;
    }
    let since = world.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    world.edit("pods", "default", &pod.meta().name, |pod| {
        let state = if ready { "True" } else { "False" };
        let condition = json!({"type": "Ready", "status": state, "lastTransitionTime": since});
        pod["status"] = json!({"phase": "Running", "conditions": [condition]});
    });
    true
}

fn end(world: &mut World, pod: &PodView) -> bool {
    let leaving = pod.is_terminating();
    if leaving {
        world.delete("pods", "default", &pod.meta().name, None, None, true).expect("delete");
    }
    leaving
}

/// Turns, with willing nodes, until nothing moves.
fn settle(world: &mut World) {
    for _ in 0..200 {
        let mut moved = turn(world) > 0;
        for pod in pods(world) {
            moved |= end(world, &pod) || bind(world, &pod) || set_ready(world, &pod, true);
        }
        if !moved {
            return;
        }
    }
    panic!("never idle: {:#}", status(world));
}

fn nodes_of(world: &World) -> Vec<String> {
    let mut nodes: Vec<String> = pods(world).iter().map(|pod| pod.node().to_owned()).collect();
    nodes.sort();
    nodes
}

#[test]
fn each_node_gets_one_pod_that_names_it_and_tolerates_its_troubles() {
    let mut world = world(3, |_| ());
    turn(&mut world);
    let [revision] = revisions(&world).try_into().expect("the revision first");
    turn(&mut world);
    let made = pods(&world);
    assert_eq!(made.len(), 3);
    let value = made[0].object.value();
    let hash = revision["metadata"]["labels"][HASH].clone();
    assert_eq!(value["metadata"]["labels"], json!({"app": "a", HASH: hash}));
    let required = &value["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let field = json!({"key": "metadata.name", "operator": "In", "values": ["n0"]});
    assert_eq!(*required, json!({"nodeSelectorTerms": [{"matchFields": [field]}]}));
    let tolerated = value["spec"]["tolerations"].as_array().expect("tolerations");
    assert_eq!(tolerated.len(), 6);
    assert_eq!(
        tolerated[0],
        json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"})
    );
    settle(&mut world);
    assert_eq!(nodes_of(&world), ["n0", "n1", "n2"]);
    assert_eq!(
        status(&world),
        json!({"currentNumberScheduled": 3, "desiredNumberScheduled": 3, "numberMisscheduled": 0, "numberReady": 3,
            "numberAvailable": 3, "updatedNumberScheduled": 3, "observedGeneration": 1})
    );
    assert_eq!(revision["data"]["spec"]["template"]["$patch"], "replace");
    assert_eq!(turn(&mut world), 0, "idle");
}

#[test]
fn nodes_come_and_go_and_only_suitable_ones_count() {
    let mut world = world(2, |ds| {
        ds["spec"]["template"]["spec"]["nodeSelector"] = json!({"disk": "ssd"});
    });
    settle(&mut world);
    assert!(pods(&world).is_empty());
    for name in ["n0", "n1"] {
        world.edit("nodes", "", name, |n| n["metadata"]["labels"]["disk"] = json!("ssd"));
    }
    settle(&mut world);
    assert_eq!(nodes_of(&world), ["n0", "n1"]);
    world.edit("nodes", "", "n1", |n| n["metadata"]["labels"]["disk"] = json!("hdd"));
    settle(&mut world);
    assert_eq!(nodes_of(&world), ["n0"]);
    assert_eq!(status(&world)["desiredNumberScheduled"], 1);
}

#[test]
fn a_taint_keeps_new_pods_away_and_only_no_execute_removes_old_ones() {
    let mut world = world(2, |_| ());
    let taint = |effect: &str| json!([{"key": "k", "effect": effect}]);
    world.edit("nodes", "", "n0", |n| n["spec"]["taints"] = taint("NoSchedule"));
    settle(&mut world);
    assert_eq!(nodes_of(&world), ["n1"]);
    world.edit("nodes", "", "n1", |n| n["spec"]["taints"] = taint("NoSchedule"));
    settle(&mut world);
    assert_eq!(nodes_of(&world), ["n1"], "may stay");
    assert_eq!(status(&world)["numberMisscheduled"], 1);
    world.edit("nodes", "", "n1", |n| n["spec"]["taints"] = taint("NoExecute"));
    settle(&mut world);
    assert!(pods(&world).is_empty());
}

#[test]
fn a_cordoned_or_unready_node_keeps_its_daemon() {
    let mut world = world(1, |_| ());
    world.edit("nodes", "", "n0", |n| {
        n["spec"] = json!({"unschedulable": true, "taints": [
            {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"},
        ]});
    });
    settle(&mut world);
    assert_eq!(nodes_of(&world), ["n0"]);
}

#[test]
fn a_failed_pod_is_replaced_after_a_pause() {
    let mut world = world(1, |_| ());
    settle(&mut world);
    let name = pods(&world)[0].meta().name.clone();
    world.edit("pods", "default", &name, |pod| pod["status"]["phase"] = json!("Failed"));
    settle(&mut world);
    assert_eq!(pods(&world)[0].meta().name, name);
    let outcome = DaemonSets.reconcile(&world, &key(), world.now);
    assert_eq!(outcome.requeue_after, Some(workload::FAILED_PAUSE));
    world.now += workload::FAILED_PAUSE;
    settle(&mut world);
    assert_ne!(pods(&world)[0].meta().name, name);
    assert!(pods(&world)[0].is_ready());
}

#[test]
fn pods_for_a_node_that_is_gone_go_too() {
    let mut world = world(2, |_| ());
    turn(&mut world);
    turn(&mut world);
    world.remove("nodes", "", "n1");
    settle(&mut world);
    assert_eq!(nodes_of(&world), ["n0"]);
}

#[test]
fn undo_brings_back_an_old_revision_as_the_newest() {
    let mut world = world(1, |_| ());
    for image in ["i:1", "i:2", "i:1"] {
        set_image(&mut world, image);
        settle(&mut world);
    }
    let mut found: Vec<_> = revisions(&world)
        .iter()
        .map(|r| {
            let template = &r["data"]["spec"]["template"];
            (r["revision"].clone(), template["spec"]["containers"][0]["image"].clone())
        })
        .collect();
    found.sort_by_key(|(revision, _)| revision.as_i64());
    assert_eq!(found, [(json!(2), json!("i:2")), (json!(3), json!("i:1"))]);
}

#[test]
fn revisions_beyond_the_limit_are_forgotten() {
    let mut world = world(1, |ds| ds["spec"]["revisionHistoryLimit"] = json!(1));
    for n in 0..4 {
        set_image(&mut world, &format!("i:{n}"));
        settle(&mut world);
    }
    let mut numbers: Vec<_> = revisions(&world).iter().map(|r| r["revision"].as_i64()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [Some(3), Some(4)]);
}

#[test]
fn a_revision_name_that_is_taken_is_a_collision() {
    let mut world = world(1, |_| ());
    turn(&mut world);
    let mut taken = revisions(&world).remove(0);
    let name = taken["metadata"]["name"].as_str().expect("a name").to_owned();
    world.remove(REVISIONS, "default", &name);
    taken["metadata"] = json!({"name": name, "namespace": "default"});
    taken["data"] = json!({});
    world.add(REVISIONS, taken);
    settle(&mut world);
    assert_eq!(status(&world)["collisionCount"], 1);
    assert_eq!(nodes_of(&world), ["n0"]);
}

#[test]
fn on_delete_waits_for_people() {
    let mut world = world(2, |ds| ds["spec"]["updateStrategy"] = json!({"type": "OnDelete"}));
    settle(&mut world);
    set_image(&mut world, "i:2");
    settle(&mut world);
    assert_eq!(status(&world)["updatedNumberScheduled"], Value::Null);
    let name = pods(&world)[0].meta().name.clone();
    world.delete("pods", "default", &name, None, None, true).expect("delete");
    settle(&mut world);
    assert_eq!(status(&world)["updatedNumberScheduled"], 1);
}

#[test]
fn orphans_are_taken_in_and_heartbeats_are_no_news() {
    let mut world = world(1, |_| ());
    let mut orphan = crate::controllers::world::pod("default", "orphan").1;
    orphan["metadata"]["labels"] = json!({"app": "a"});
    orphan["spec"]["nodeName"] = json!("n0");
    world.add("pods", orphan);
    turn(&mut world);
    let owner = world.value("pods", "default", "orphan")["metadata"]["ownerReferences"][0].clone();
    assert_eq!((&owner["uid"], &owner["kind"]), (&json!("ds-uid"), &json!("DaemonSet")));
    let old = world.object("nodes", "", "n0");
    world.edit("nodes", "", "n0", |n| n["status"]["conditions"][0]["reason"] = json!("x"));
    let new = world.object("nodes", "", "n0");
    let seen = Seen { resource: "nodes", old: Some(&old), new: Some(&new) };
    assert!(DaemonSets.keys(&world, seen).is_empty());
    let seen = Seen { resource: "nodes", old: None, new: Some(&new) };
    assert_eq!(DaemonSets.keys(&world, seen), [key()]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the order of events, no more nodes are without an available Pod than the bound says, no
    /// more than the surge have two, and in the end all is new.
    #[test]
    fn a_rolling_update_stays_within_its_bounds(
        nodes in 1..7usize, bound in 1..4usize, surging: bool,
        choices in proptest::collection::vec(0..100usize, 0..120),
    ) {
        let rolling = if surging {
            json!({"maxUnavailable": 0, "maxSurge": bound})
        } else {
            json!({"maxUnavailable": bound, "maxSurge": 0})
        };
        let mut world = world(nodes, |ds| ds["spec"]["updateStrategy"]["rollingUpdate"] = rolling);
        settle(&mut world);
        set_image(&mut world, "i:2");
        for choice in choices {
            let all = pods(&world);
            match all.get(choice / 4 % all.len().max(1)) {
                Some(pod) if choice % 4 == 0 => drop(end(&mut world, pod)),
                Some(pod) if choice % 4 == 1 => drop(bind(&mut world, pod)),
                Some(pod) if choice % 4 == 2 => drop(set_ready(&mut world, pod, true)),
                _ => drop(turn(&mut world)),
            }
            let all = pods(&world);
            let here = |node: &str, active: bool| {
                all.iter().filter(|p| target(&p.pod) == Some(node) && (!active || (p.is_active() && p.is_ready()))).count()
            };
            let names: Vec<String> = (0..nodes).map(|n| format!("n{n}")).collect();
            let down = names.iter().filter(|n| here(n, true) == 0).count();
            let active = |n: &&String| all.iter().filter(|p| p.is_active() && target(&p.pod) == Some(n.as_str())).count();
            let doubled = names.iter().filter(|n| active(n) > 1).count();
            let (may_be_down, may_double) = if surging { (0, bound) } else { (bound, 0) };
            prop_assert!(down <= may_be_down, "{down} nodes without a Pod");
            prop_assert!(doubled <= may_double, "{doubled} nodes with two Pods");
        }
        settle(&mut world);
        prop_assert_eq!(&status(&world)["updatedNumberScheduled"], &json!(nodes));
        prop_assert_eq!(turn(&mut world), 0);
    }
}
