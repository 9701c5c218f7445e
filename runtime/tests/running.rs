//! Commands for containers that run: pause, resume, kill, update, events. Needs root and busybox-static.
//! `RUNTIME=/usr/sbin/runc` runs the same tests against another runtime, which is how they were proven.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use common::bundle::Bundle;
use serde_json::{Value, json};

/// A container that makes `/tmp/ready`, and `/tmp/told` when it gets SIGUSR1.
fn listener(name: &str) -> (Bundle, i32) {
    let script = "trap 'touch /tmp/told' USR1; touch /tmp/ready; while true; do sleep 0.05; done";
    let bundle = Bundle::new(name, &["/bin/sh", "-c", script]);
    let pid = bundle.start();
    let ready = bundle.rootfs().join("tmp/ready");
    common::wait_until("the container is ready", || ready.exists());
    (bundle, pid)
}

#[test]
fn a_paused_container_does_nothing_until_it_is_resumed() {
    let (bundle, _) = listener("pause");
    let (_, error) = bundle.bad("resume ID");
    assert!(error.contains("not paused"), "{error}");
    bundle.good("pause ID");
    assert_eq!(bundle.status(), "paused");
    let told = bundle.rootfs().join("tmp/told");
    bundle.good("kill ID USR1");
    bundle.bad("exec ID /bin/true");
    bundle.bad("delete ID");
    assert!(!told.exists());
    bundle.good("resume ID");
    assert_eq!(bundle.status(), "running");
    common::wait_until("the signal is handled", || told.exists());
}

#[test]
fn a_paused_container_can_be_killed() {
    let (bundle, pid) = listener("kill-paused");
    bundle.good("pause ID");
    bundle.good("kill ID KILL");
    common::wait_until("it has ended", || !common::is_alive(pid));
    assert_eq!(bundle.status(), "stopped");
    bundle.good("delete ID");
}

#[test]
fn a_paused_container_can_be_deleted_by_force() {
    let (bundle, pid) = listener("delete-paused");
    bundle.good("pause ID");
    bundle.good("delete --force ID");
    assert!(!common::is_alive(pid));
    bundle.bad("state ID");
}

#[test]
fn a_created_container_can_be_paused() {
    let bundle = Bundle::new("pause-created", &["/bin/sleep", "1000"]);
    bundle.good("create --bundle BUNDLE ID");
    bundle.good("pause ID");
    assert_eq!(bundle.status(), "paused");
    bundle.bad("start ID");
    bundle.good("resume ID");
    assert_eq!(bundle.status(), "created");
    bundle.good("start ID");
}

#[test]
fn kill_all_reaches_every_process() {
    let second = "trap 'touch /tmp/told' TERM; touch /tmp/ready; while true; do sleep 0.05; done";
    let script = format!("trap : TERM; sh -c \"{second}\" & while true; do sleep 0.05; done");
    let bundle = Bundle::new("kill-all", &["/bin/sh", "-c", &script]);
    let pid = bundle.start();
    let (ready, told) = (bundle.rootfs().join("tmp/ready"), bundle.rootfs().join("tmp/told"));
    common::wait_until("the second process is ready", || ready.exists());
    bundle.good("kill --all ID TERM");
    common::wait_until("the second process heard it", || told.exists());
    bundle.good("kill --all ID KILL");
    common::wait_until("it has ended", || !common::is_alive(pid));
    // With --all it is no error that nobody is left.
    bundle.good("kill --all ID KILL");
}

#[test]
fn statistics_have_the_shape_that_tools_read() {
    let bundle = Bundle::new("stats", &["/bin/sh", "-c", "while true; do true; done"]);
    bundle.start();
    let line = bundle.good("events --stats ID");
    let event: Value = serde_json::from_str(line.trim()).unwrap();
    assert_eq!((&event["type"], &event["id"]), (&"stats".into(), &json!(bundle.id)));
    let data = &event["data"];
    for pointer in [
        "/cpu/usage/kernel",
        "/cpu/usage/user",
        "/cpu/throttling",
        "/memory/usage/limit",
        "/memory/swap/limit",
        "/memory/kernel/limit",
        "/memory/kernelTCP/failcnt",
        "/pids/current",
    ] {
        assert!(data.pointer(pointer).is_some(), "{pointer}: {data}");
    }
    assert!(data["pids"]["current"].as_u64().unwrap() >= 1);
    assert!(data["hugetlb"].is_object() && data["blkio"].is_object(), "{data}");
}

#[test]
fn events_come_at_intervals_until_the_end() {
    let (bundle, pid) = listener("events");
    let mut events = bundle
        .command(&["events", "--interval", "20ms", "ID"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(event["type"], "stats");
    }
    bundle.good("kill ID KILL");
    common::wait_until("it has ended", || !common::is_alive(pid));
    // With version 1, where peers may be, it is the end of the cgroup that ends it.
    bundle.good("delete ID");
    assert!(lines.all(|line| line.unwrap().contains("\"stats\"")));
    assert!(events.wait().unwrap().success());
    bundle.bad("events --stats ID");
}

#[test]
fn commands_for_a_stopped_container_say_so() {
    let (bundle, pid) = listener("stopped");
    bundle.good("kill ID KILL");
    common::wait_until("it has ended", || !common::is_alive(pid));
    for command in ["pause ID", "update --cpu-share 512 ID", "events --stats ID", "resume ID"] {
        let (_, error) = bundle.bad(command);
        assert!(
            error.contains("not running") || error.contains("not paused"),
            "{command}: {error}"
        );
    }
}

#[test]
fn wrong_updates_are_told() {
    let (bundle, _) = listener("update");
    for options in ["--memory 5x", "--memory -5", "--cpu-share x", "--resources /no/such"] {
        bundle.bad(&format!("update {options} ID"));
    }
    assert_eq!(bundle.status(), "running");
}
