//! Promise 7, first half: limits are the kernel's limits. Runs inside of the virtual machine, where all
//! cgroup v2 controllers are there.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use kobune_tests::harness::Host;
use kobune_tests::harness::snapshot::cgroup_mount;
use serde_json::{Value, json};

/// One node for the whole suite: booting one under emulation takes its time. The machine ends with it.
fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| Host::with_node("limits"))
}

/// A Pod of one container named `app` that runs the test program.
fn pod(name: &str, arguments: &[&str], limits: &Value, restart: &str) {
    let manifest = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name },
        "spec": {
            "restartPolicy": restart,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "app", "image": "myapp:1.0", "args": arguments,
                "resources": { "limits": limits, "requests": { "cpu": "100m", "memory": "16Mi" } },
            }],
        },
    });
    host().apply(&manifest.to_string()).ok();
}

fn cgroup(pod: &str) -> PathBuf {
    let uid = host().field(&format!("pod/{pod}"), ".metadata.uid");
    cgroup_mount().join(&host().name).join(format!("pod{uid}"))
}

fn read(dir: &std::path::Path, file: &str) -> String {
    let path = dir.join(file);
    let text = fs::read_to_string(&path);
    text.unwrap_or_else(|error| panic!("read {}: {error}", path.display())).trim().to_owned()
}

#[test]
#[ignore = "runs in the virtual machine"]
fn memory_and_cpu_limits_are_written_as_given() {
    pod("limited", &["serve"], &json!({ "cpu": "500m", "memory": "512Mi" }), "Always");
    host().wait_for("pod/limited", "condition=Ready");
    let pod = cgroup("limited");
    for dir in [pod.join("app"), pod.clone()] {
        assert_eq!(read(&dir, "memory.max"), "536870912", "{}", dir.display());
        assert_eq!(read(&dir, "cpu.max"), "50000 100000", "{}", dir.display());
    }
    assert_ne!(read(&pod.join("app"), "cpu.weight"), "100", "the request of 100m has a weight");
    let condition = ".status.conditions[?(@.type=='CgroupLimits')].status";
    assert_ne!(host().field(&format!("node/{}", host().name), condition), "False");
}

#[test]
#[ignore = "runs in the virtual machine"]
fn a_busy_container_is_throttled() {
    pod("busy", &["spin", "600000"], &json!({ "cpu": "200m" }), "Always");
    host().wait_for("pod/busy", "condition=Ready");
    let dir = cgroup("busy").join("app");
    kobune_tests::harness::eventually("throttling", std::time::Duration::from_secs(10), || {
        let stat = read(&dir, "cpu.stat");
        let line = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        let count: u32 = line.and_then(|text| text.parse().ok()).unwrap_or(0);
        if count > 5 { Ok(()) } else { Err(stat) }
    });
    host().kubectl_ok(&["delete", "pod", "busy"]);
}

#[test]
#[ignore = "runs in the virtual machine"]
fn a_container_over_its_memory_is_oom_killed_and_restarted() {
    pod("greedy", &["burn", "256"], &json!({ "memory": "64Mi" }), "Always");
    host().until_field("pod/greedy", ".status.containerStatuses[0].restartCount", "1");
    let last = ".status.containerStatuses[0].lastState.terminated";
    assert_eq!(host().field("pod/greedy", &format!("{last}.reason")), "OOMKilled");
    assert_eq!(host().field("pod/greedy", &format!("{last}.exitCode")), "137");
    host().kubectl_ok(&["delete", "pod", "greedy"]);
}

#[test]
#[ignore = "runs in the virtual machine"]
fn pids_are_limited() {
    pod("forker", &["tasks", "30000"], &json!({ "memory": "1Gi" }), "Never");
    host().until_field("pod/forker", ".status.phase", "Succeeded");
    let said = host().kubectl_ok(&["logs", "forker"]);
    assert!(said.contains("then: Resource temporarily unavailable"), "{said}");
}
