//! Promise 8: `kobune down`, and Ctrl-C, leave nothing of mounts, namespaces, links, routes, rules,
//! cgroups, processes and run directory.

use kobune_tests::harness::snapshot::Snapshot;
use kobune_tests::harness::{Host, eventually};
use nix::sys::signal::Signal;

use std::time::Duration;

const NOTHING: Vec<String> = Vec::new();

/// A host with something of everything on it, and what it looked like before.
fn busy(purpose: &str) -> (Host, Snapshot) {
    let mut host = Host::new(purpose);
    host.import_images();
    let before = host.snapshot();
    host.up();
    for example in
        ["myapp.yaml", "myapp-service.yaml", "sidecar.yaml", "probes.yaml", "config.yaml"]
    {
        host.apply_example(example).ok();
    }
    host.kubectl_ok(&["rollout", "status", "deployment/myapp", "--timeout=60s"]);
    for pod in ["pod/sidecar", "pod/probed", "pod/configured"] {
        host.wait_for(pod, "condition=Ready");
    }
    assert_ne!(host.snapshot().difference(&before), NOTHING, "the snapshot sees nothing");
    (host, before)
}

#[test]
fn down_leaves_nothing() {
    let (mut host, before) = busy("down");
    host.down();
    assert_eq!(host.snapshot().difference(&before), NOTHING);
}

#[test]
fn down_after_a_kill_leaves_nothing() {
    let (mut host, before) = busy("killdown");
    host.kill_node();
    host.down();
    assert_eq!(host.snapshot().difference(&before), NOTHING);
    // And once more, with nothing to do.
    host.down();
}

#[test]
fn deleted_pods_leave_nothing_on_a_running_node() {
    let host = Host::with_node("deleted");
    // The first Pod brings what stays with the node: the bridge's carrier, the cgroup, directories.
    host.kubectl_ok(&["run", "first", "--image=myapp:1.0"]);
    host.wait_for("pod/first", "condition=Ready");
    host.kubectl_ok(&["delete", "pod", "first"]);
    let before = host.snapshot();
    for example in ["myapp.yaml", "myapp-service.yaml", "sidecar.yaml", "config.yaml"] {
        host.apply_example(example).ok();
    }
    host.kubectl_ok(&["rollout", "status", "deployment/myapp", "--timeout=60s"]);
    host.wait_for("pod/sidecar", "condition=Ready");
    host.kubectl_ok(&[
        "delete",
        "deployment/myapp",
        "service/myapp",
        "pod/sidecar",
        "pod/configured",
    ]);
    host.kubectl_ok(&["wait", "pods", "--all", "--for=delete", "--timeout=60s"]);
    eventually("the node is as before", Duration::from_secs(20), || {
        match host.snapshot().difference(&before) {
            left if left.is_empty() => Ok(()),
            left => Err(left.join("\n")),
        }
    });
}

#[test]
fn ctrl_c_of_the_demo_leaves_nothing() {
    let mut host = Host::new("ctrlc");
    let before = host.snapshot();
    host.start_with("up", &["--demo"]);
    host.wait_ready();
    let selector = ["get", "pods", "-A", "--field-selector=status.phase=Running", "-o", "name"];
    eventually("the demo runs", Duration::from_secs(60), || {
        match host.kubectl(&selector).result()?.lines().count() {
            3.. => Ok(()),
            few => Err(format!("{few} Pods run")),
        }
    });
    assert_eq!(host.end_node(Signal::SIGINT), Some(0), "{}", host.node_log());
    assert_eq!(host.snapshot().difference(&before), NOTHING);
}
