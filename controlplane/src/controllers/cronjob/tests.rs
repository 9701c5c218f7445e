//! A CronJob on a small world whose clock the test turns; Jobs end when the test says so.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::controllers::world::World;

fn world(edit: impl FnOnce(&mut Value)) -> World {
    let mut value = json!({
        "apiVersion": "batch/v1", "kind": "CronJob",
        "metadata": {"name": "tick", "namespace": "default", "uid": "cron-uid"},
        "spec": {
            "schedule": "*/5 * * * *", "concurrencyPolicy": "Allow", "suspend": false,
            "jobTemplate": {
                "metadata": {"labels": {"x": "y"}},
                "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}},
            },
        },
    });
    edit(&mut value);
    let mut world = World::default();
    // 00:00:00 of a day.
    world.now = Timestamp::from_second(86_400 * 1000).expect("in range");
    world.add(CRONJOBS, value);
    world
}

fn key() -> Key {
    Key::new(CRONJOBS, "default", "tick")
}

/// One turn; the number of writes.
fn turn(world: &mut World) -> usize {
    let outcome = CronJobs.reconcile(world, &key(), world.now);
    let acts: Vec<Act> = outcome.batches.into_iter().flatten().collect();
    let count = acts.len();
    for act in acts {
        if world.apply(act.change).is_err() {
            break;
        }
    }
    count
}

fn settle(world: &mut World) {
    for _ in 0..50 {
        if turn(world) == 0 {
            return;
        }
    }
    panic!("never idle");
}

fn pass(world: &mut World, minutes: i64) {
    world.now += SignedDuration::from_mins(minutes);
    settle(world);
}

fn jobs(world: &World) -> Vec<String> {
    world.list(JOBS, None).iter().map(|job| job.meta.name.clone()).collect()
}

fn end(world: &mut World, name: &str, how: &str) {
    let now = look::stamp(world.now);
    world.edit(JOBS, "default", name, |job| {
        job["status"] = json!({"startTime": now, "conditions": [{"type": how, "status": "True"}]});
        if how == "Complete" {
            job["status"]["completionTime"] = json!(now);
        }
    });
}

fn status(world: &World) -> Value {
    world.value(CRONJOBS, "default", "tick")["status"].clone()
}

#[test]
fn a_job_is_made_when_its_time_comes() {
    let mut world = world(|_| {});
    settle(&mut world);
    assert!(jobs(&world).is_empty());
    let wait = CronJobs.reconcile(&world, &key(), world.now).requeue_after;
    assert_eq!(wait, Some(Duration::from_mins(5)));
    pass(&mut world, 5);
    assert_eq!(jobs(&world), ["tick-1440005"]);
    let job = world.value(JOBS, "default", "tick-1440005");
    assert_eq!(job["metadata"]["annotations"][SCHEDULED_AT], "1972-09-27T00:05:00Z");
    assert_eq!(job["metadata"]["labels"], json!({"x": "y"}));
    assert_eq!(job["metadata"]["ownerReferences"][0]["uid"], "cron-uid");
    assert_eq!(status(&world)["lastScheduleTime"], "1972-09-27T00:05:00Z");
    assert_eq!(status(&world)["active"][0]["name"], "tick-1440005");
    end(&mut world, "tick-1440005", "Complete");
    settle(&mut world);
    assert_eq!(status(&world)["active"], Value::Null);
    assert_eq!(status(&world)["lastSuccessfulTime"], "1972-09-27T00:05:00Z");
}

#[test]
fn of_missed_times_only_the_latest_is_run_and_none_beyond_the_deadline() {
    let mut missed = world(|_| {});
    pass(&mut missed, 17);
    assert_eq!(jobs(&missed), ["tick-1440015"]);
    let mut late = world(|cron| cron["spec"]["startingDeadlineSeconds"] = json!(60));
    pass(&mut late, 17);
    assert!(jobs(&late).is_empty());
    let mut long = world(|cron| cron["spec"]["schedule"] = json!("* * * * *"));
    long.now += SignedDuration::from_hours(24 * 30);
    let notes = loop {
        let outcome = CronJobs.reconcile(&long, &key(), long.now);
        if !outcome.notes.is_empty() || turn(&mut long) == 0 {
            break outcome.notes;
        }
    };
    assert_eq!(notes[0].reason, "TooManyMissedTimes");
    settle(&mut long);
    assert_eq!(jobs(&long).len(), 1, "and not one for each");
}

#[test]
fn policies_say_what_happens_to_a_job_that_still_runs() {
    for (policy, expected) in [
        ("Allow", vec!["tick-1440005", "tick-1440010"]),
        ("Forbid", vec!["tick-1440005"]),
        ("Replace", vec!["tick-1440010"]),
    ] {
        let mut world = world(|cron| cron["spec"]["concurrencyPolicy"] = json!(policy));
        pass(&mut world, 5);
        world.now += SignedDuration::from_mins(5);
        for _ in 0..5 {
            turn(&mut world);
        }
        assert_eq!(jobs(&world), expected, "{policy}");
    }
}

#[test]
fn suspended_ones_wait_and_then_catch_up_once() {
    let mut world = world(|cron| cron["spec"]["suspend"] = json!(true));
    pass(&mut world, 30);
    assert!(jobs(&world).is_empty());
    world.edit(CRONJOBS, "default", "tick", |cron| cron["spec"]["suspend"] = json!(false));
    settle(&mut world);
    assert_eq!(jobs(&world), ["tick-1440030"]);
}

#[test]
fn history_is_kept_within_its_limits_and_jobs_by_hand_do_not_count_as_running() {
    let mut world = world(|cron| {
        cron["spec"]["successfulJobsHistoryLimit"] = json!(1);
        cron["spec"]["failedJobsHistoryLimit"] = json!(0);
        cron["spec"]["concurrencyPolicy"] = json!("Forbid");
    });
    for how in ["Complete", "Failed", "Complete"] {
        pass(&mut world, 5);
        let last = jobs(&world).pop().expect("a job");
        end(&mut world, &last, how);
    }
    settle(&mut world);
    assert_eq!(jobs(&world), ["tick-1440015"]);
    let owner = json!([{"apiVersion": "batch/v1", "kind": "CronJob", "name": "tick", "uid": "cron-uid", "controller": true}]);
    world.add(JOBS, json!({"metadata": {"name": "by-hand", "namespace": "default", "ownerReferences": owner}, "spec": {"template": {}}}));
    pass(&mut world, 5);
    assert_eq!(jobs(&world), ["by-hand", "tick-1440015", "tick-1440020"]);
}

#[derive(Debug, Clone)]
enum Step {
    Turn,
    /// A control plane that ends before all was written.
    Cut(usize),
    Minutes(i64),
    End(usize, bool),
    Delete(usize),
    Suspend(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Turn),
        2 => (0..3usize).prop_map(Step::Cut),
        4 => (1..12i64).prop_map(Step::Minutes),
        3 => (0..9usize, any::<bool>()).prop_map(|(n, well)| Step::End(n, well)),
        1 => (0..9usize).prop_map(Step::Delete),
        1 => any::<bool>().prop_map(Step::Suspend),
    ]
}

fn take(world: &mut World, step: &Step) {
    let names = jobs(world);
    let pick = |n: usize| names.get(n % names.len().max(1)).cloned();
    match step {
        Step::Turn => drop(turn(world)),
        Step::Cut(n) => {
            let outcome = CronJobs.reconcile(world, &key(), world.now);
            for act in outcome.batches.into_iter().flatten().take(*n) {
                let _ = world.apply(act.change);
            }
        }
        Step::Minutes(n) => world.now += SignedDuration::from_mins(*n),
        Step::End(n, well) => {
            if let Some(name) = pick(*n) {
                end(world, &name, if *well { "Complete" } else { "Failed" });
            }
        }
        Step::Delete(n) => {
            if let Some(name) = pick(*n) {
                world.remove(JOBS, "default", &name);
            }
        }
        Step::Suspend(on) => {
            world.edit(CRONJOBS, "default", "tick", |cron| cron["spec"]["suspend"] = json!(on));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// No time is run twice (unless its Job was deleted before it was noted), `Forbid` and `Replace` never have two
    /// running, and in the end it is idle with its history in bounds.
    #[test]
    fn no_time_is_run_twice_and_policies_hold(
        policy in prop_oneof![Just("Allow"), Just("Forbid"), Just("Replace")],
        limits in (0..3usize, 0..3usize), steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut world = world(|cron| {
            cron["spec"]["concurrencyPolicy"] = json!(policy);
            cron["spec"]["successfulJobsHistoryLimit"] = json!(limits.0);
            cron["spec"]["failedJobsHistoryLimit"] = json!(limits.1);
        });
        let (mut seen, mut last) = (BTreeSet::new(), String::new());
        for step in &steps {
            take(&mut world, step);
            for name in jobs(&world).into_iter().filter(|name| seen.insert(name.clone())).collect::<Vec<_>>() {
                prop_assert!(name > last, "{name} after {last}");
                last = name;
            }
            if policy != "Allow" {
                let running = world.list(JOBS, None).into_iter().filter(|job| {
                    Child { job: job.view().expect("a job"), object: job.clone() }.is_running()
                });
                prop_assert!(running.count() <= 1, "{policy} after {step:?}");
            }
        }
        settle(&mut world);
        let ended = |how: &str| {
            let ended = world.list(JOBS, None).into_iter().filter(|job| {
                Child { job: job.view().expect("a job"), object: job.clone() }.end() == Some(how)
            });
            ended.count()
        };
        prop_assert!(ended("Complete") <= limits.0 && ended("Failed") <= limits.1);
    }
}
