//! A Job on small worlds, with Pods that the test ends.

use serde_json::{Value, json};

use super::*;
use crate::controllers::world::World;

fn world(spec: Value) -> World {
    let mut value = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "j", "namespace": "default", "uid": "j-uid"},
        "spec": {
            "parallelism": 1, "completions": 1, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": false,
            "selector": {"matchLabels": {"u": "j-uid"}},
            "template": {
                "metadata": {"labels": {"u": "j-uid"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]},
            },
        },
    });
    for (key, given) in spec.as_object().expect("a map") {
        value["spec"][key] = given.clone();
    }
    World::with([(JOBS, value)])
}

fn key() -> Key {
    Key::new(JOBS, "default", "j")
}

fn status(world: &World) -> Value {
    world.value(JOBS, "default", "j")["status"].clone()
}

fn edit(world: &mut World, f: impl FnOnce(&mut Value)) {
    world.edit(JOBS, "default", "j", f);
}

fn pods(world: &World) -> Vec<PodView> {
    world.list("pods", Some("default")).into_iter().filter_map(PodView::of).collect()
}

fn active(world: &World) -> Vec<String> {
    let pods = pods(world);
    pods.iter().filter(|p| p.is_active()).map(|pod| pod.meta().name.clone()).collect()
}

fn turn(world: &mut World) -> usize {
    let acts: Vec<Act> =
        Jobs.reconcile(world, &key(), world.now).batches.into_iter().flatten().collect();
    let writes = acts.len();
    for act in acts {
        // A second write of one object is a conflict in the real world, too.
        world.apply(act.change).expect("apply");
    }
    // What nothing holds any more and was told to go is gone.
    for pod in pods(world).iter().filter(|p| p.is_terminating() && !is_held(&p.object)) {
        world.remove("pods", "default", &pod.meta().name);
    }
    writes
}

fn settle(world: &mut World) -> usize {
    let mut writes = 0;
    for _ in 0..100 {
        match turn(world) {
            0 => return writes,
            more => writes += more,
        }
    }
    panic!("never idle: {:#}", status(world));
}

fn end(world: &mut World, name: &str, phase: &str) {
    let at = world.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    world.edit("pods", "default", name, |pod| {
        let state = json!({"terminated": {"exitCode": 0, "finishedAt": at}});
        let container = json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        pod["status"] = json!({"phase": phase, "containerStatuses": [container]});
    });
}

fn end_all(world: &mut World, phase: &str) {
    for name in active(world) {
        end(world, &name, phase);
    }
}

/// Types of the conditions that hold.
fn conditions(world: &World) -> Vec<String> {
    let conditions = status(world)["conditions"].as_array().cloned().unwrap_or_default();
    let holding = conditions.iter().filter(|c| c["status"] == "True");
    holding.filter_map(|c| c["type"].as_str().map(str::to_owned)).collect()
}

fn reason(world: &World) -> Value {
    status(world)["conditions"].as_array().and_then(|c| c.last().cloned()).unwrap_or_default()["reason"].clone()
}

#[test]
fn a_job_runs_its_pods_and_is_complete() {
    let mut world = world(json!({"completions": 3, "parallelism": 2}));
    settle(&mut world);
    assert_eq!(active(&world).len(), 2);
    let value = pods(&world)[0].object.value();
    assert_eq!(value["metadata"]["finalizers"], json!([FINALIZER]));
    assert_eq!(value["metadata"]["ownerReferences"][0]["kind"], "Job");
    assert_eq!(status(&world)["active"], 2);
    end_all(&mut world, "Succeeded");
    settle(&mut world);
    assert_eq!((active(&world).len(), status(&world)["succeeded"].as_i64()), (1, Some(2)));
    end_all(&mut world, "Succeeded");
    settle(&mut world);
    assert_eq!(conditions(&world), ["SuccessCriteriaMet", "Complete"]);
    let status = status(&world);
    assert_eq!((&status["succeeded"], &status["active"]), (&json!(3), &Value::Null));
    assert_eq!(status["uncountedTerminatedPods"], json!({}));
    assert_eq!(status["completionTime"], status["startTime"]);
    assert!(pods(&world).iter().all(|pod| !is_held(&pod.object)), "nothing is held");
    assert_eq!(settle(&mut world), 0, "idle");
}

#[test]
fn a_pod_that_is_deleted_after_its_end_still_counts_once() {
    let mut world = world(json!({"completions": 2}));
    settle(&mut world);
    let name = active(&world).remove(0);
    end(&mut world, &name, "Succeeded");
    world.delete("pods", "default", &name, None, None, true).expect("delete");
    assert!(world.get("pods", "default", &name).is_some(), "held until it is counted");
    settle(&mut world);
    assert!(world.get("pods", "default", &name).is_none());
    assert_eq!(status(&world)["succeeded"], 1);
    end_all(&mut world, "Succeeded");
    settle(&mut world);
    assert_eq!(status(&world)["succeeded"], 2);
    for pod in pods(&world) {
        world.remove("pods", "default", &pod.meta().name);
    }
    settle(&mut world);
    assert_eq!(status(&world)["succeeded"], 2);
}

#[test]
fn failures_are_paused_after_and_end_the_job_at_the_limit() {
    let mut world = world(json!({"backoffLimit": 2}));
    for (failed, pause) in [(1, 10), (2, 20)] {
        settle(&mut world);
        end_all(&mut world, "Failed");
        settle(&mut world);
        assert_eq!((active(&world).len(), status(&world)["failed"].as_i64()), (0, Some(failed)));
        let outcome = Jobs.reconcile(&world, &key(), world.now);
        assert_eq!(outcome.requeue_after, Some(Duration::from_secs(pause)));
        world.now += Duration::from_secs(pause);
    }
    settle(&mut world);
    end_all(&mut world, "Failed");
    settle(&mut world);
    assert_eq!(conditions(&world), ["FailureTarget", "Failed"]);
    assert_eq!(reason(&world), "BackoffLimitExceeded");
    world.now += Duration::from_secs(1000);
    assert_eq!(settle(&mut world), 0);
}

#[test]
fn restarts_count_as_failures_when_pods_restart_themselves() {
    let mut world = world(json!({"backoffLimit": 2}));
    edit(&mut world, |job| job["spec"]["template"]["spec"]["restartPolicy"] = json!("OnFailure"));
    settle(&mut world);
    let name = active(&world).remove(0);
    let restart = |world: &mut World, count: i32| {
        world.edit("pods", "default", &name, |pod| {
            let container = json!({"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": count});
            pod["status"] = json!({"phase": "Running", "containerStatuses": [container]});
        });
    };
    restart(&mut world, 1);
    settle(&mut world);
    assert_eq!(conditions(&world), [""; 0]);
    restart(&mut world, 2);
    settle(&mut world);
    assert_eq!(reason(&world), "BackoffLimitExceeded");
    assert!(active(&world).is_empty());
}

#[test]
fn a_deadline_ends_a_job_and_its_pods() {
    let mut world = world(json!({"activeDeadlineSeconds": 30, "parallelism": 2, "completions": 2}));
    settle(&mut world);
    let outcome = Jobs.reconcile(&world, &key(), world.now);
    assert_eq!(outcome.requeue_after, Some(Duration::from_secs(30)));
    world.now += Duration::from_secs(30);
    settle(&mut world);
    assert!(pods(&world).is_empty());
    assert_eq!(reason(&world), "DeadlineExceeded");
    assert_eq!(conditions(&world), ["FailureTarget", "Failed"]);
}

#[test]
fn indexes_are_filled_once_each() {
    let spec = json!({"completionMode": "Indexed", "completions": 4, "parallelism": 3});
    let mut world = world(spec);
    settle(&mut world);
    let indexes = |world: &World| -> Vec<u32> {
        let mut found: Vec<u32> =
            pods(world).iter().filter(|p| p.is_active()).filter_map(index_of).collect();
        found.sort_unstable();
        found
    };
    assert_eq!(indexes(&world), [0, 1, 2]);
    let first = pods(&world).into_iter().find(|pod| index_of(pod) == Some(1)).expect("index 1");
    let value = first.object.value();
    assert!(first.meta().name.starts_with("j-1-"));
    assert_eq!(
        (&value["spec"]["hostname"], &value["metadata"]["labels"][INDEX]),
        (&json!("j-1"), &json!("1"))
    );
    assert_eq!(value["spec"]["containers"][0]["env"][0]["name"], "JOB_COMPLETION_INDEX");
    end(&mut world, &first.meta().name, "Succeeded");
    settle(&mut world);
    assert_eq!(status(&world)["completedIndexes"], "1");
    assert_eq!(indexes(&world), [0, 2, 3]);
    let zero = pods(&world).into_iter().find(|pod| index_of(pod) == Some(0)).expect("index 0");
    end(&mut world, &zero.meta().name, "Failed");
    world.now += Duration::from_secs(10);
    settle(&mut world);
    assert_eq!(indexes(&world), [0, 2, 3], "the failed index is tried again");
    end_all(&mut world, "Succeeded");
    settle(&mut world);
    assert_eq!(status(&world)["completedIndexes"], "0-3");
    assert_eq!(conditions(&world), ["SuccessCriteriaMet", "Complete"]);
}

#[test]
fn a_suspended_job_has_no_pods_and_starts_anew() {
    let mut world = world(json!({"suspend": true, "activeDeadlineSeconds": 30}));
    settle(&mut world);
    assert!(pods(&world).is_empty());
    assert_eq!(conditions(&world), ["Suspended"]);
    assert_eq!(status(&world)["startTime"], Value::Null);
    world.now += Duration::from_secs(100);
    edit(&mut world, |job| job["spec"]["suspend"] = json!(false));
    settle(&mut world);
    assert_eq!((active(&world).len(), conditions(&world)), (1, vec![]));
    assert_eq!(reason(&world), "JobResumed");
    edit(&mut world, |job| job["spec"]["suspend"] = json!(true));
    settle(&mut world);
    assert!(pods(&world).is_empty());
    assert_eq!(status(&world)["startTime"], Value::Null, "its deadline starts anew");
}

#[test]
fn one_success_is_enough_for_a_work_queue() {
    let mut world = world(json!({"completions": null, "parallelism": 3}));
    settle(&mut world);
    let name = active(&world).remove(0);
    end(&mut world, &name, "Succeeded");
    settle(&mut world);
    assert_eq!((active(&world).len(), conditions(&world)), (2, vec![]), "the others go on");
    end_all(&mut world, "Succeeded");
    settle(&mut world);
    assert_eq!(conditions(&world), ["SuccessCriteriaMet", "Complete"]);
    assert_eq!(status(&world)["succeeded"], 3);
}

#[test]
fn parallelism_shrinks_and_a_job_that_is_over_goes_in_time() {
    let spec = json!({"completions": 5, "parallelism": 3, "ttlSecondsAfterFinished": 60});
    let mut world = world(spec);
    settle(&mut world);
    edit(&mut world, |job| job["spec"]["parallelism"] = json!(1));
    settle(&mut world);
    assert_eq!(active(&world).len(), 1);
    edit(&mut world, |job| job["spec"]["parallelism"] = json!(5));
    for _ in 0..2 {
        settle(&mut world);
        end_all(&mut world, "Succeeded");
    }
    settle(&mut world);
    assert!(conditions(&world).contains(&"Complete".to_owned()), "{:#}", status(&world));
    let outcome = Jobs.reconcile(&world, &key(), world.now);
    assert_eq!(outcome.requeue_after, Some(Duration::from_secs(60)));
    world.now += Duration::from_secs(60);
    turn(&mut world);
    assert!(world.get(JOBS, "default", "j").is_none());
}

#[test]
fn pods_of_a_job_that_is_gone_are_not_held() {
    let mut world = world(json!({}));
    settle(&mut world);
    world.remove(JOBS, "default", "j");
    turn(&mut world);
    assert!(pods(&world).iter().all(|pod| !is_held(&pod.object)));
}
