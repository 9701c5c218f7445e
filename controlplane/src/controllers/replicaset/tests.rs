//! One reconcile at a time on small worlds.

use serde_json::{Value, json};

use super::*;
use crate::controllers::world::World;

fn set(replicas: i32) -> (Resource, Value) {
    let labels = json!({"app": "a"});
    let value = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "rs", "namespace": "default", "uid": "rs-uid"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    });
    (REPLICASETS, value)
}

fn key() -> Key {
    Key::new(REPLICASETS, "default", "rs")
}

/// Reconciles until there is nothing to do; the number of writes.
fn settle(world: &mut World) -> usize {
    for writes in 0..100 {
        let acts = acts(world);
        if acts.is_empty() {
            return writes;
        }
        for act in acts {
            world.apply(act.change).expect("apply");
        }
    }
    panic!("never idle");
}

fn acts(world: &World) -> Vec<Act> {
    SETS.reconcile(world, &key(), world.now).batches.into_iter().flatten().collect()
}

fn pods(world: &World) -> Vec<PodView> {
    world.list("pods", Some("default")).into_iter().filter_map(PodView::of).collect()
}

fn run_pod(world: &mut World, name: &str, ready: bool) {
    let since = world.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    world.edit("pods", "default", name, |pod| {
        pod["spec"]["nodeName"] = json!("n");
        let ready = if ready { "True" } else { "False" };
        let condition = json!({"type": "Ready", "status": ready, "lastTransitionTime": since});
        pod["status"] = json!({"phase": "Running", "conditions": [condition]});
    });
}

fn names(world: &World) -> Vec<String> {
    pods(world).iter().map(|pod| pod.meta().name.clone()).collect()
}

#[test]
fn pods_are_made_like_the_template_and_counted() {
    let mut world = World::with([set(3)]);
    settle(&mut world);
    let made = pods(&world);
    assert_eq!(made.len(), 3);
    let value = made[0].object.value();
    assert!(value["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("rs-")));
    assert_eq!(value["metadata"]["labels"], json!({"app": "a"}));
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs-uid", "controller": true, "blockOwnerDeletion": true}]);
    assert_eq!(value["metadata"]["ownerReferences"], owner);
    for name in names(&world) {
        run_pod(&mut world, &name, true);
    }
    settle(&mut world);
    let expected = json!({"replicas": 3, "fullyLabeledReplicas": 3, "readyReplicas": 3, "availableReplicas": 3, "observedGeneration": 1});
    assert_eq!(world.value(REPLICASETS, "default", "rs")["status"], expected);
    assert_eq!(settle(&mut world), 0, "idle");
}

#[test]
fn creation_starts_slowly_and_says_what_it_made() {
    let world = World::with([set(10)]);
    let outcome = SETS.reconcile(&world, &key(), world.now);
    let sizes: Vec<usize> = outcome.batches.iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, 2, 4, 3]);
    let note = outcome.batches[0][0].done.clone().expect("a note");
    assert_eq!(
        (note.reason, note.filled("rs-x").message),
        ("SuccessfulCreate", "Created pod: rs-x".into())
    );
}

#[test]
fn refused_creation_becomes_a_condition_that_goes_away_again() {
    let mut world = World::with([set(1)]);
    let error = ApiError::new(http::StatusCode::FORBIDDEN, "Forbidden", "exceeded quota");
    let change = Change::Create { resource: "pods", object: json!({}) };
    for change in SETS.refused(&world, &key(), &change, &error, world.now) {
        world.apply(change).expect("apply");
    }
    let condition = world.value(REPLICASETS, "default", "rs")["status"]["conditions"][0].clone();
    assert_eq!(
        (&condition["type"], &condition["reason"], &condition["message"]),
        (&json!("ReplicaFailure"), &json!("FailedCreate"), &json!("exceeded quota"))
    );
    assert!(SETS.refused(&world, &key(), &change, &error, world.now).is_empty(), "said once");
    settle(&mut world);
    assert_eq!(world.value(REPLICASETS, "default", "rs")["status"]["conditions"], Value::Null);
}

#[test]
fn terminating_and_finished_pods_are_replaced_and_not_counted() {
    let mut world = World::with([set(2)]);
    settle(&mut world);
    let made = names(&world);
    run_pod(&mut world, &made[0], true);
    world.delete("pods", "default", &made[0], None, None, false).expect("delete");
    world.edit("pods", "default", &made[1], |pod| pod["status"]["phase"] = json!("Failed"));
    settle(&mut world);
    assert_eq!(pods(&world).iter().filter(|pod| pod.is_active()).count(), 2);
    assert_eq!(world.value(REPLICASETS, "default", "rs")["status"]["replicas"], 2);
}

#[test]
fn the_pod_that_is_missed_least_goes_first() {
    let mut world = World::with([set(6)]);
    settle(&mut world);
    let made = names(&world);
    // made[0] stays unassigned.
    run_pod(&mut world, &made[1], false);
    for name in &made[2..] {
        run_pod(&mut world, name, true);
    }
    world.edit("pods", "default", &made[4], |pod| {
        pod["metadata"]["annotations"] =
            json!({"controller.kubernetes.io/pod-deletion-cost": "-5"});
    });
    world.now += std::time::Duration::from_secs(60);
    run_pod(&mut world, &made[5], true);
    let mut order = Vec::new();
    for replicas in (2..6).rev() {
        world.edit(REPLICASETS, "default", "rs", |set| set["spec"]["replicas"] = json!(replicas));
        let before = names(&world);
        for act in acts(&world) {
            if let Change::Delete { name, .. } = act.change {
                world.delete("pods", "default", &name, None, None, true).expect("delete");
            }
        }
        let after = names(&world);
        order.extend(before.into_iter().filter(|name| !after.contains(name)));
    }
    let expected = [&made[0], &made[1], &made[4], &made[5]];
    assert_eq!(order.iter().collect::<Vec<_>>(), expected, "unassigned, not ready, cheap, newest");
}

#[test]
fn orphans_are_taken_in_and_strays_let_go() {
    let mut world = World::with([set(1)]);
    let mut orphan = crate::controllers::world::pod("default", "orphan").1;
    orphan["metadata"]["labels"] = json!({"app": "a"});
    world.add("pods", orphan);
    settle(&mut world);
    assert_eq!(names(&world), ["orphan"]);
    world.edit("pods", "default", "orphan", |pod| pod["metadata"]["labels"] = json!({"app": "b"}));
    settle(&mut world);
    assert_eq!(world.value("pods", "default", "orphan")["metadata"]["ownerReferences"], json!([]));
    assert_eq!(pods(&world).len(), 2);
}

#[test]
fn waiting_for_min_ready_seconds_is_a_timer_and_not_a_loop() {
    let mut world = World::with([set(1)]);
    world.edit(REPLICASETS, "default", "rs", |set| set["spec"]["minReadySeconds"] = json!(10));
    settle(&mut world);
    let name = names(&world).remove(0);
    run_pod(&mut world, &name, true);
    settle(&mut world);
    let status = |world: &World| {
        world.value(REPLICASETS, "default", "rs")["status"]["availableReplicas"].clone()
    };
    assert_eq!(status(&world), Value::Null);
    let outcome = SETS.reconcile(&world, &key(), world.now);
    assert_eq!(outcome.requeue_after, Some(std::time::Duration::from_secs(10)));
    world.now += std::time::Duration::from_secs(10);
    settle(&mut world);
    assert_eq!(status(&world), json!(1));
}

#[test]
fn a_set_on_its_way_out_makes_nothing() {
    let mut world = World::with([set(2)]);
    world.edit(REPLICASETS, "default", "rs", |set| {
        set["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    settle(&mut world);
    assert!(pods(&world).is_empty());
}

#[test]
fn a_replication_controller_is_kept_by_the_same_rules() {
    let mut world = World::with([(
        REPLICATION_CONTROLLERS,
        json!({
            "apiVersion": "v1", "kind": "ReplicationController",
            "metadata": {"name": "rc", "namespace": "default", "uid": "rc-uid"},
            "spec": {
                "replicas": 2, "selector": {"app": "a"},
                "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
            },
        }),
    )]);
    let key = Key::new(REPLICATION_CONTROLLERS, "default", "rc");
    let settle = |world: &mut World| {
        for _ in 0..9 {
            let outcome = CONTROLLERS.reconcile(world, &key, world.now);
            for act in outcome.batches.into_iter().flatten() {
                world.apply(act.change).expect("a write");
            }
        }
    };
    settle(&mut world);
    let pods = world.list("pods", None);
    assert_eq!(pods.len(), 2);
    assert!(pods.iter().all(|pod| pod.meta.owner_references[0].kind == "ReplicationController"));
    assert_eq!(world.value(REPLICATION_CONTROLLERS, "default", "rc")["status"]["replicas"], 2);
    world.edit(REPLICATION_CONTROLLERS, "default", "rc", |rc| rc["spec"]["replicas"] = json!(1));
    settle(&mut world);
    assert_eq!(world.list("pods", None).len(), 1);
}
