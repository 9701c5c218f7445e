//! A StatefulSet on a small world, step by step.

use serde_json::{Value, json};

use super::*;
use crate::controllers::world::World;

fn set(edit: impl FnOnce(&mut Value)) -> World {
    let mut value = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "web", "namespace": "default", "uid": "set-uid"},
        "spec": {
            "replicas": 2, "serviceName": "nginx", "selector": {"matchLabels": {"app": "a"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": {
                "metadata": {"labels": {"app": "a"}},
                "spec": {"containers": [{"name": "c", "image": "i:1"}]},
            },
        },
    });
    edit(&mut value);
    World::with([(STATEFULSETS, value)])
}

fn with_claims(edit: impl FnOnce(&mut Value)) -> World {
    set(|set| {
        set["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "www", "labels": {"x": "y"}}, "spec": {"accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Pending"}}]);
        edit(set);
    })
}

/// Runs the controller until it is idle; what it was refused, and the last outcome.
fn run(world: &mut World) -> Outcome {
    let key = Key::new(STATEFULSETS, "default", "web");
    for _ in 0..50 {
        let outcome = StatefulSets.reconcile(world, &key, world.now);
        if outcome.batches.is_empty() {
            return outcome;
        }
        for act in outcome.batches.into_iter().flatten() {
            let change = act.change.clone();
            if let Err(error) = world.apply(act.change) {
                for change in StatefulSets.refused(world, &key, &change, &error, world.now) {
                    world.apply(change).expect("a report");
                }
            }
        }
    }
    panic!("never idle");
}

fn start(world: &mut World, name: &str) {
    world.edit("pods", "default", name, |pod| {
        pod["spec"]["nodeName"] = json!("n");
        pod["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-12T13:46:40Z"}]});
    });
    run(world);
}

fn names(world: &World) -> Vec<String> {
    world.list("pods", None).iter().map(|pod| pod.meta.name.clone()).collect()
}

fn status(world: &World) -> Value {
    world.value(STATEFULSETS, "default", "web")["status"].clone()
}

fn edit(world: &mut World, f: impl FnOnce(&mut Value)) {
    world.edit(STATEFULSETS, "default", "web", f);
    run(world);
}

fn set_image(world: &mut World, image: &str) {
    edit(world, |set| set["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image));
}

fn gone(world: &mut World, name: &str) {
    world.delete("pods", "default", name, None, None, true).expect("delete");
    run(world);
}

fn image(world: &World, name: &str) -> Value {
    world.value("pods", "default", name)["spec"]["containers"][0]["image"].clone()
}

#[test]
fn pods_come_one_after_the_other_under_their_names() {
    let mut world = set(|_| {});
    run(&mut world);
    assert_eq!(names(&world), ["web-0"]);
    let pod = world.value("pods", "default", "web-0");
    assert_eq!(pod["spec"]["hostname"], "web-0");
    assert_eq!(pod["spec"]["subdomain"], "nginx");
    let labels = &pod["metadata"]["labels"];
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "web-0");
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "0");
    assert_eq!(labels["controller-revision-hash"], status(&world)["updateRevision"]);
    assert!(
        world
            .get(REVISIONS, "default", labels["controller-revision-hash"].as_str().expect("text"))
            .is_some()
    );
    assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "set-uid");
    start(&mut world, "web-0");
    assert_eq!(names(&world), ["web-0", "web-1"]);
    start(&mut world, "web-1");
    let status = status(&world);
    assert_eq!(
        (status["readyReplicas"].clone(), status["availableReplicas"].clone()),
        (json!(2), json!(2))
    );
    assert_eq!(status["currentRevision"], status["updateRevision"]);
}

#[test]
fn in_parallel_all_come_at_once_from_the_first_ordinal_on() {
    let mut world = set(|set| {
        set["spec"]["podManagementPolicy"] = json!("Parallel");
        set["spec"]["ordinals"] = json!({"start": 5});
        set["spec"]["replicas"] = json!(3);
    });
    run(&mut world);
    assert_eq!(names(&world), ["web-5", "web-6", "web-7"]);
    edit(&mut world, |set| set["spec"]["ordinals"] = json!({"start": 6}));
    assert_eq!(names(&world), ["web-6", "web-7", "web-8"]);
}

#[test]
fn min_ready_seconds_hold_the_next_one_back() {
    let mut world = set(|set| set["spec"]["minReadySeconds"] = json!(10));
    run(&mut world);
    start(&mut world, "web-0");
    assert_eq!(names(&world), ["web-0"]);
    assert_eq!(run(&mut world).requeue_after, Some(std::time::Duration::from_secs(10)));
    world.now += std::time::Duration::from_secs(10);
    run(&mut world);
    assert_eq!(names(&world), ["web-0", "web-1"]);
}

#[test]
fn a_rolling_update_goes_from_the_highest_down_to_the_partition() {
    let mut world = set(|set| {
        set["spec"]["replicas"] = json!(3);
        set["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = json!(1);
    });
    run(&mut world);
    (0..3).for_each(|n| start(&mut world, &format!("web-{n}")));
    let before = status(&world)["currentRevision"].clone();
    set_image(&mut world, "i:2");
    for name in ["web-2", "web-1"] {
        let others = names(&world)
            .iter()
            .filter(|n| world.object("pods", "default", n).meta.deletion_timestamp.is_some())
            .count();
        assert_eq!(others, 1, "one at a time");
        gone(&mut world, name);
        assert_eq!(image(&world, name), "i:2");
        start(&mut world, name);
    }
    assert_eq!(image(&world, "web-0"), "i:1");
    // Below the partition the old template comes back.
    gone(&mut world, "web-0");
    assert_eq!(image(&world, "web-0"), "i:1");
    start(&mut world, "web-0");
    let status = status(&world);
    assert_eq!(status["currentRevision"], before);
    assert_eq!(
        (status["currentReplicas"].clone(), status["updatedReplicas"].clone()),
        (json!(1), json!(2))
    );
}

#[test]
fn on_delete_waits_for_the_user() {
    let mut world = set(|set| set["spec"]["updateStrategy"] = json!({"type": "OnDelete"}));
    run(&mut world);
    (0..2).for_each(|n| start(&mut world, &format!("web-{n}")));
    set_image(&mut world, "i:2");
    assert_eq!(status(&world)["updatedReplicas"], Value::Null);
    gone(&mut world, "web-1");
    assert_eq!(image(&world, "web-1"), "i:2");
}

#[test]
fn claims_come_before_their_pods_and_stay() {
    let mut world = with_claims(|_| {});
    run(&mut world);
    let claim = world.value(CLAIMS, "default", "www-web-0");
    assert_eq!(claim["metadata"]["labels"], json!({"app": "a", "x": "y"}));
    assert_eq!(claim["kind"], "PersistentVolumeClaim");
    assert!(claim["metadata"]["ownerReferences"].is_null());
    let volume = world.value("pods", "default", "web-0")["spec"]["volumes"][0].clone();
    assert_eq!(volume, json!({"name": "www", "persistentVolumeClaim": {"claimName": "www-web-0"}}));
    // A claim on its way out holds the Pod back.
    world.edit(CLAIMS, "default", "www-web-0", |c| c["metadata"]["finalizers"] = json!(["x/y"]));
    world.delete(CLAIMS, "default", "www-web-0", None, None, true).expect("delete");
    gone(&mut world, "web-0");
    assert_eq!(names(&world), Vec::<String>::new());
    world.remove(CLAIMS, "default", "www-web-0");
    run(&mut world);
    assert_eq!(names(&world), ["web-0"]);
}

#[test]
fn claims_are_owned_as_the_retention_policy_says() {
    let mut world = with_claims(|set| {
        set["spec"]["persistentVolumeClaimRetentionPolicy"] =
            json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
    });
    run(&mut world);
    (0..2).for_each(|n| start(&mut world, &format!("web-{n}")));
    let owner = |world: &World, n: u8| {
        let claim = world.value(CLAIMS, "default", &format!("www-web-{n}"));
        claim["metadata"]["ownerReferences"][0]["kind"].clone()
    };
    assert_eq!((owner(&world, 0), owner(&world, 1)), (json!("StatefulSet"), json!("StatefulSet")));
    edit(&mut world, |set| set["spec"]["replicas"] = json!(1));
    assert_eq!((owner(&world, 0), owner(&world, 1)), (json!("StatefulSet"), json!("Pod")));
    // Wanted again before it was gone.
    edit(&mut world, |set| set["spec"]["replicas"] = json!(2));
    assert_eq!(owner(&world, 1), "StatefulSet");
    edit(&mut world, |set| {
        set["spec"]["persistentVolumeClaimRetentionPolicy"] = json!({"whenDeleted": "Retain"});
    });
    assert_eq!(owner(&world, 1), Value::Null);
}

#[test]
fn a_pod_that_ended_is_made_again() {
    let mut world = set(|_| {});
    run(&mut world);
    world.edit("pods", "default", "web-0", |pod| pod["status"] = json!({"phase": "Failed"}));
    assert_eq!(run(&mut world).requeue_after, Some(workload::FAILED_PAUSE));
    world.now += workload::FAILED_PAUSE;
    let before = world.object("pods", "default", "web-0").meta.uid.clone();
    run(&mut world);
    assert_ne!(world.object("pods", "default", "web-0").meta.uid, before);
}

#[test]
fn pods_of_other_names_are_left_alone() {
    let mut world = set(|_| {});
    world.add("pods", json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other", "namespace": "default", "labels": {"app": "a"}}, "spec": {}}));
    run(&mut world);
    assert!(world.value("pods", "default", "other")["metadata"]["ownerReferences"].is_null());
}
