//! A Deployment's steps, with the ReplicaSet controller and Pods that become ready beside it.

use serde_json::{Value, json};

use super::*;
use crate::controllers::replicaset;
use crate::controllers::world::World;

fn deployment(replicas: i32, edit: impl FnOnce(&mut Value)) -> (Resource, Value) {
    let mut value = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "myapp", "namespace": "default", "uid": "d-uid"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "myapp"}},
            "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": {"app": "myapp"}},
                "spec": {"containers": [{"name": "app", "image": "myapp:1.0"}]},
            },
        },
    });
    edit(&mut value);
    (DEPLOYMENTS, value)
}

fn key() -> Key {
    Key::new(DEPLOYMENTS, "default", "myapp")
}

fn get(world: &World) -> Value {
    world.value(DEPLOYMENTS, "default", "myapp")
}

fn set_image(world: &mut World, image: &str) {
    world.edit(DEPLOYMENTS, "default", "myapp", |d| {
        d["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
    });
}

fn scale(world: &mut World, replicas: i32) {
    world.edit(DEPLOYMENTS, "default", "myapp", |d| d["spec"]["replicas"] = json!(replicas));
}

fn sets(world: &World) -> Vec<Value> {
    let mut sets: Vec<Value> =
        world.list(REPLICASETS, Some("default")).iter().map(|set| set.value()).collect();
    let revision = |set: &Value| -> i64 {
        let text = set["metadata"]["annotations"][revision::REVISION].as_str();
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    sets.sort_by_key(revision);
    sets
}

fn sizes(world: &World) -> Vec<i64> {
    sets(world).iter().filter_map(|set| set["spec"]["replicas"].as_i64()).collect()
}

fn pods(world: &World) -> Vec<PodView> {
    world.list("pods", Some("default")).into_iter().filter_map(PodView::of).collect()
}

/// One turn of every controller; how many writes, and the notes.
fn turn(world: &mut World, notes: &mut Vec<String>) -> usize {
    let mut work: Vec<(&dyn Controller, Key)> = vec![(&Deployments, key())];
    let keys = world.list(REPLICASETS, None).into_iter().map(|set| set.key());
    work.extend(keys.map(|key| (&replicaset::SETS as &dyn Controller, key)));
    let mut writes = 0;
    for (controller, key) in work {
        for act in controller.reconcile(world, &key, world.now).batches.into_iter().flatten() {
            let change = act.change.clone();
            match world.apply(act.change) {
                Ok(_) => notes.extend(
                    act.done.filter(|n| n.reason == "ScalingReplicaSet").map(|n| n.message),
                ),
                Err(error) => {
                    for change in controller.refused(world, &key, &change, &error, world.now) {
                        world.apply(change).expect("apply");
                    }
                }
            }
            writes += 1;
        }
    }
    writes
}

fn run_pods(world: &mut World, ready: bool) -> usize {
    let waiting: Vec<String> = pods(world)
        .iter()
        .filter(|pod| pod.is_active() && pod.is_ready() != ready)
        .map(|pod| pod.meta().name.clone())
        .collect();
    let since = world.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    for name in &waiting {
        world.edit("pods", "default", name, |pod| {
            let state = if ready { "True" } else { "False" };
            pod["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": state, "lastTransitionTime": since}]});
        });
    }
    waiting.len()
}

/// Turns, with Pods becoming ready, until nothing moves.
fn settle(world: &mut World) -> Vec<String> {
    let mut notes = Vec::new();
    for _ in 0..200 {
        if turn(world, &mut notes) + run_pods(world, true) == 0 {
            return notes;
        }
    }
    panic!("never idle: {:#}", get(world));
}

/// Turns without Pods becoming ready.
fn stall(world: &mut World) {
    for _ in 0..200 {
        if turn(world, &mut Vec::new()) == 0 {
            return;
        }
    }
    panic!("never idle");
}

fn condition(world: &World, name: &str) -> Value {
    let conditions = get(world)["status"]["conditions"].clone();
    let found = conditions.as_array().and_then(|c| c.iter().find(|c| c["type"] == name).cloned());
    found.unwrap_or(Value::Null)
}

fn told(condition: &Value) -> (&str, &str, &str) {
    let text = |key: &str| condition[key].as_str().unwrap_or_default();
    (text("status"), text("reason"), text("message"))
}

#[test]
fn a_new_deployment_gets_its_set_and_says_that_it_is_complete() {
    let mut world = World::with([deployment(3, |_| ())]);
    let notes = settle(&mut world);
    let [set] = sets(&world).try_into().expect("one set");
    let name = set["metadata"]["name"].as_str().expect("a name").to_owned();
    let hash = name.strip_prefix("myapp-").expect("named after the deployment");
    assert_eq!(notes, [format!("Scaled up replica set {name} from 0 to 3")]);
    assert_eq!(set["metadata"]["labels"], json!({"app": "myapp", "pod-template-hash": hash}));
    assert_eq!(set["spec"]["selector"]["matchLabels"]["pod-template-hash"], hash);
    let annotations = &set["metadata"]["annotations"];
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "1");
    assert_eq!(annotations["deployment.kubernetes.io/desired-replicas"], "3");
    assert_eq!(annotations["deployment.kubernetes.io/max-replicas"], "4");
    let mut status = get(&world)["status"].clone();
    let available = condition(&world, "Available");
    assert_eq!(
        told(&available),
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    );
    let progressing = condition(&world, "Progressing");
    let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
    assert_eq!(told(&progressing), ("True", "NewReplicaSetAvailable", message.as_str()));
    status["conditions"].take();
    assert_eq!(
        status,
        json!({"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3, "availableReplicas": 3, "conditions": null})
    );
    assert_eq!(get(&world)["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
}

#[test]
fn an_image_change_rolls_over_and_undo_reuses_the_old_set() {
    let mut world = World::with([deployment(3, |_| ())]);
    settle(&mut world);
    set_image(&mut world, "myapp:2.0");
    settle(&mut world);
    assert_eq!(sizes(&world), [0, 3]);
    set_image(&mut world, "myapp:1.0");
    settle(&mut world);
    let sets = sets(&world);
    assert_eq!(sets.len(), 2, "the first set is used again");
    let latest = &sets[1]["metadata"]["annotations"];
    assert_eq!(latest["deployment.kubernetes.io/revision"], "3");
    assert_eq!(latest["deployment.kubernetes.io/revision-history"], "1");
    assert_eq!(sets[1]["spec"]["template"]["spec"]["containers"][0]["image"], "myapp:1.0");
    assert_eq!(get(&world)["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
}

#[test]
fn a_surge_pod_waits_for_pods_that_are_still_stopping() {
    let mut world = World::with([deployment(3, |_| ())]);
    settle(&mut world);
    for pod in pods(&world) {
        world.edit("pods", "default", &pod.meta().name, |pod| pod["spec"]["nodeName"] = json!("n"));
    }
    set_image(&mut world, "myapp:2.0");
    for _ in 0..20 {
        turn(&mut world, &mut Vec::new());
        run_pods(&mut world, true);
        assert!(pods(&world).len() <= 4, "{} pods exist", pods(&world).len());
    }
    assert_eq!(
        pods(&world).iter().filter(|pod| pod.is_terminating()).count(),
        2,
        "held by the bound"
    );
    for pod in pods(&world).iter().filter(|pod| pod.is_terminating()) {
        world.delete("pods", "default", &pod.meta().name, None, None, true).expect("delete");
    }
    stall(&mut world);
    assert!(sizes(&world)[1] >= 2, "{:?}", sizes(&world));
}

#[test]
fn room_that_a_set_was_not_told_to_give_up_yet_is_not_given_away() {
    let mut world = World::with([deployment(3, |_| ())]);
    settle(&mut world);
    // The ReplicaSet controller may be about to replace this Pod.
    let lost = pods(&world)[0].meta().name.clone();
    world.remove("pods", "default", &lost);
    set_image(&mut world, "myapp:2.0");
    for _ in 0..20 {
        for act in Deployments.reconcile(&world, &key(), world.now).batches.into_iter().flatten() {
            world.apply(act.change).expect("apply");
        }
    }
    assert_eq!(sizes(&world), [2, 1]);
}

#[test]
fn a_bad_image_stops_the_rollout_and_misses_its_deadline() {
    let mut world = World::with([deployment(3, |_| ())]);
    settle(&mut world);
    set_image(&mut world, "myapp:broken");
    stall(&mut world);
    assert_eq!(sizes(&world), [2, 2], "one more, one less, and no further");
    let outcome = Deployments.reconcile(&world, &key(), world.now);
    assert_eq!(outcome.requeue_after, Some(std::time::Duration::from_secs(601)));
    world.now += std::time::Duration::from_secs(601);
    stall(&mut world);
    let name = sets(&world)[1]["metadata"]["name"].as_str().expect("a name").to_owned();
    let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
    assert_eq!(
        told(&condition(&world, "Progressing")),
        ("False", "ProgressDeadlineExceeded", message.as_str())
    );
    set_image(&mut world, "myapp:1.0");
    settle(&mut world);
    assert_eq!(sizes(&world), [0, 3]);
    assert_eq!(condition(&world, "Progressing")["reason"], "NewReplicaSetAvailable");
}

#[test]
fn recreate_empties_before_it_fills() {
    let mut world =
        World::with([deployment(2, |d| d["spec"]["strategy"] = json!({"type": "Recreate"}))]);
    settle(&mut world);
    for pod in pods(&world) {
        world.edit("pods", "default", &pod.meta().name, |pod| pod["spec"]["nodeName"] = json!("n"));
    }
    set_image(&mut world, "myapp:2.0");
    stall(&mut world);
    assert_eq!(sizes(&world), [0], "the new set waits until the old Pods are gone");
    for pod in pods(&world) {
        world.delete("pods", "default", &pod.meta().name, None, None, true).expect("delete");
    }
    settle(&mut world);
    assert_eq!(sizes(&world), [0, 2]);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_shared_in_proportion() {
    let bounds =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}});
    let mut world = World::with([deployment(10, |d| d["spec"]["strategy"] = bounds)]);
    settle(&mut world);
    set_image(&mut world, "myapp:broken");
    stall(&mut world);
    assert_eq!(sizes(&world), [8, 5]);
    world.edit(DEPLOYMENTS, "default", "myapp", |d| d["spec"]["paused"] = json!(true));
    scale(&mut world, 15);
    stall(&mut world);
    assert_eq!(sizes(&world), [11, 7]);
    assert_eq!(
        told(&condition(&world, "Progressing")),
        ("Unknown", "DeploymentPaused", "Deployment is paused")
    );
}

#[test]
fn a_paused_deployment_scales_and_does_not_roll() {
    let mut world = World::with([deployment(2, |_| ())]);
    settle(&mut world);
    world.edit(DEPLOYMENTS, "default", "myapp", |d| d["spec"]["paused"] = json!(true));
    set_image(&mut world, "myapp:2.0");
    scale(&mut world, 4);
    settle(&mut world);
    assert_eq!(sizes(&world), [4]);
    world.edit(DEPLOYMENTS, "default", "myapp", |d| d["spec"]["paused"] = json!(false));
    settle(&mut world);
    assert_eq!(sizes(&world), [0, 4]);
}

#[test]
fn history_beyond_the_limit_is_forgotten_oldest_first() {
    let mut world = World::with([deployment(1, |d| d["spec"]["revisionHistoryLimit"] = json!(2))]);
    for version in 0..5 {
        set_image(&mut world, &format!("myapp:{version}"));
        settle(&mut world);
    }
    let images: Vec<Value> = sets(&world)
        .iter()
        .map(|set| set["spec"]["template"]["spec"]["containers"][0]["image"].clone())
        .collect();
    assert_eq!(images, ["myapp:2", "myapp:3", "myapp:4"]);
}

#[test]
fn a_name_that_is_taken_is_a_collision_and_another_name_is_found() {
    let mut world = World::with([deployment(1, |_| ())]);
    let template = serde_json::from_value(deployment(1, |_| ()).1["spec"]["template"].clone())
        .expect("template");
    let name = format!("myapp-{}", hash::template_hash(&template, None));
    let other = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name, "namespace": "default"}, "spec": {"replicas": 0, "selector": {"matchLabels": {"other": "x"}}}});
    world.add(REPLICASETS, other);
    settle(&mut world);
    assert_eq!(get(&world)["status"]["collisionCount"], 1);
    assert_eq!(get(&world)["status"]["availableReplicas"], 1);
}

#[test]
fn orphaned_sets_are_taken_in() {
    let mut world = World::with([deployment(1, |_| ())]);
    settle(&mut world);
    let name = sets(&world)[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    world.edit(REPLICASETS, "default", &name, |set| {
        set["metadata"]["ownerReferences"] = json!([]);
    });
    settle(&mut world);
    assert_eq!(sets(&world).len(), 1);
    assert_eq!(sets(&world)[0]["metadata"]["ownerReferences"][0]["uid"], "d-uid");
}

#[test]
fn bounds_round_as_people_know_it() {
    let bounds = |surge: Value, unavailable: Value, replicas| {
        let world = World::with([deployment(replicas, |d| {
            d["spec"]["strategy"]["rollingUpdate"] =
                json!({"maxSurge": surge, "maxUnavailable": unavailable});
        })]);
        let rollout = Rollout::observe(&world, &key(), world.now).expect("a deployment");
        (rollout.max_surge(), rollout.max_unavailable())
    };
    assert_eq!(bounds(json!("25%"), json!("25%"), 3), (1, 0));
    assert_eq!(bounds(json!("25%"), json!("25%"), 10), (3, 2));
    assert_eq!(bounds(json!(0), json!("10%"), 3), (0, 1), "one of the two must move");
    assert_eq!(bounds(json!("100%"), json!(9), 4), (4, 4));
    assert_eq!(bounds(json!(1), json!(1), 0), (1, 0));
}
