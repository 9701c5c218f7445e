//! Promise 5: a rolling update keeps its bounds at every moment that a watcher sees.

use std::collections::BTreeMap;
use std::time::Duration;

use kobune_tests::harness::recorder::states;
use kobune_tests::harness::{Host, eventually};
use serde_json::Value;

const REPLICAS: usize = 4;

/// Stopping Pods still exist (and hold memory), but get no requests.
fn stopping(pod: &Value) -> bool {
    !pod["metadata"]["deletionTimestamp"].is_null()
}

/// Its containers have ended, though the object is still there.
fn finished(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    !stopping(pod)
        && conditions.is_some_and(|conditions| {
            conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
        })
}

fn image(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default()
}

fn count(pods: &BTreeMap<String, Value>, what: impl Fn(&Value) -> bool) -> usize {
    pods.values().filter(|pod| what(pod)).count()
}

#[test]
fn surge_and_unavailable_hold_at_every_moment() {
    let host = Host::with_node("rollout");
    host.apply_example("rollout.yaml").ok();
    host.kubectl_ok(&["rollout", "status", "deployment/rolling", "--timeout=60s"]);
    let api = host.api();
    let pods = api.record("/api/v1/namespaces/default/pods?labelSelector=app%3Drolling");
    pods.until("all Pods are seen ready", Duration::from_secs(10), |events| {
        let present = states(events).pop()?;
        (count(&present, ready) == REPLICAS).then_some(())
    });
    let first = pods.events().len() - 1;

    host.kubectl_ok(&["set", "image", "deployment/rolling", "app=myapp:1.1"]);
    host.kubectl_ok(&["rollout", "status", "deployment/rolling", "--timeout=90s"]);
    pods.until("only new Pods are left", Duration::from_secs(30), |events| {
        let present = states(events).pop()?;
        let new = |pod: &Value| image(pod) == "myapp:1.1" && ready(pod);
        (present.len() == REPLICAS && count(&present, new) == REPLICAS).then_some(())
    });

    for (at, present) in states(&pods.events()).iter().enumerate().skip(first) {
        let (all, fine) = (present.len(), count(present, ready));
        assert!(all <= REPLICAS + 1, "event {at}: {all} Pods exist");
        assert!(fine >= REPLICAS - 1, "event {at}: only {fine} are ready");
    }
    let vip = host.service_address("rolling", 80);
    eventually("the VIP leads to version 1.1 only", Duration::from_secs(5), || {
        let answers = (0..40).map(|_| host.http(vip, "/").map(|a| a.body)).collect::<Vec<_>>();
        let new = answers.iter().flatten().all(|body| body.trim().ends_with(" 1.1"));
        let all = answers.iter().all(Result::is_ok);
        if all && new { Ok(()) } else { Err(format!("{answers:?}")) }
    });
    let history = host.kubectl_ok(&["rollout", "history", "deployment/rolling"]);
    assert!(history.contains('1') && history.contains('2'), "{history}");
}

#[test]
fn recreate_never_runs_old_and_new_together() {
    let host = Host::with_node("recreate");
    host.apply_example("rollout.yaml").ok();
    let patch = r#"{"spec":{"strategy":{"type":"Recreate","rollingUpdate":null}}}"#;
    host.kubectl_ok(&["patch", "deployment", "rolling", "-p", patch]);
    host.kubectl_ok(&["rollout", "status", "deployment/rolling", "--timeout=60s"]);
    let api = host.api();
    let pods = api.record("/api/v1/namespaces/default/pods?labelSelector=app%3Drolling");
    host.kubectl_ok(&["set", "image", "deployment/rolling", "app=myapp:1.1"]);
    host.kubectl_ok(&["rollout", "status", "deployment/rolling", "--timeout=90s"]);
    for (at, present) in states(&pods.events()).iter().enumerate() {
        let runs = |pod: &Value, tag| image(pod) == tag && !finished(pod);
        let old = count(present, |pod| runs(pod, "myapp:1.0"));
        let new = count(present, |pod| runs(pod, "myapp:1.1"));
        assert!(old == 0 || new == 0, "event {at}: {old} old and {new} new Pods");
    }
}
