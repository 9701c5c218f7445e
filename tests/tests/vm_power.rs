//! Promise 7, second half: the power is cut right after a write was acknowledged; the next boot has
//! all objects, and the Pods run again. Runs inside of the virtual machine.

use std::path::PathBuf;
use std::time::Duration;

use kobune_tests::harness::{Host, eventually};
use kobune_tests::vm::guest;
use serde_json::json;

#[test]
#[ignore = "runs in the virtual machine"]
fn after_a_hard_reset_the_cluster_comes_back() {
    let mut host = Host::in_directory("power", PathBuf::from("/var/lib/kt"));
    if guest::boot() == 1 {
        host.import_images();
        host.up();
        host.apply_example("myapp.yaml").ok();
        host.apply_example("myapp-service.yaml").ok();
        host.kubectl_ok(&["rollout", "status", "deployment/myapp", "--timeout=300s"]);
        let last = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "last" }, "data": { "word": "acknowledged" },
        });
        host.apply(&last.to_string()).ok();
        guest::hard_reset();
    }
    assert_eq!(guest::boot(), 2);
    host.up();
    assert_eq!(host.field("configmap/last", ".data.word"), "acknowledged");
    eventually("three Pods are ready again", Duration::from_secs(60), || {
        match host.field("deployment/myapp", ".status.readyReplicas").as_str() {
            "3" => Ok(()),
            other => Err(format!("readyReplicas is {other:?}")),
        }
    });
    let vip = host.service_address("myapp", 80);
    eventually("the VIP leads to all three", Duration::from_secs(30), || {
        match host.who_answers(vip, "/", 60).len() {
            3 => Ok(()),
            few => Err(format!("only {few} answer")),
        }
    });
    host.down();
}
