//! What the kernel limits. Needs root, busybox-static and a full cgroup v2 tree, which development machines may lack:
//! so these tests are ignored there and run in the virtual machine (`cargo xtask vm vm_runtime`).

mod common;

use std::fs;

use common::Pod;
use serde_json::{Value, json};

fn resources(config: &mut Value, resources: Value) {
    config["linux"]["resources"] = resources;
}

fn file(pod: &Pod, name: &str) -> String {
    fs::read_to_string(pod.cgroup.join("app").join(name)).unwrap().trim().to_owned()
}

#[test]
#[ignore = "needs cgroup v2 controllers"]
fn limits_are_written_to_the_cgroup() {
    let pod = Pod::new();
    pod.start("app", &["/bin/sleep", "1000"], |config| {
        resources(
            config,
            json!({
                "cpu": {"shares": 102, "quota": 50_000, "period": 100_000},
                "memory": {"limit": 64 << 20, "reservation": 32 << 20, "swap": 64 << 20},
                "pids": {"limit": 50},
                "unified": {"memory.oom.group": "1"},
            }),
        );
    });
    for (name, value) in [
        ("cpu.max", "50000 100000"),
        ("cpu.weight", "17"),
        ("memory.max", "67108864"),
        ("memory.low", "33554432"),
        ("memory.swap.max", "0"),
        ("memory.oom.group", "1"),
        ("pids.max", "50"),
    ] {
        assert_eq!(file(&pod, name), value, "{name}");
    }
    pod.end();
}

#[test]
#[ignore = "needs cgroup v2 controllers"]
fn too_much_memory_ends_it() {
    let pod = Pod::new();
    let (record, _) = pod.run(&["dd", "if=/dev/zero", "of=/dev/null", "bs=100M"], |config| {
        resources(config, json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}}));
    });
    assert_eq!((record.exit_code, record.signal), (Some(137), Some(libc::SIGKILL)));
    assert!(record.oom_killed);
    // And the next one of the name begins with a clean count.
    let (record, _) = pod.run(&["/bin/sh", "-c", "kill -9 $$; exit 3"], |config| {
        resources(config, json!({"memory": {"limit": 16 << 20}}));
    });
    assert!(!record.oom_killed);
    pod.end();
}

#[test]
#[ignore = "needs cgroup v2 controllers"]
fn too_many_processes_are_refused() {
    let pod = Pod::new();
    let script = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 100 & done; echo made";
    let (record, log) = pod.run(&["/bin/sh", "-c", script], |config| {
        resources(config, json!({"pids": {"limit": 5}}));
    });
    assert_ne!(record.exit_code, Some(0));
    let text = log.join("\n");
    assert!(text.contains("can't fork") && !text.contains("made"), "{text}");
    pod.end();
}
