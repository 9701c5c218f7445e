//! What outlives a Pod: the volumes behind its claims.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use kobune_tests::harness::{Host, eventually};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);

/// A Pod that sleeps, with the volume `data` at `/data`.
fn spec(volumes: &Value) -> Value {
    json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "app", "image": "busybox:1.35", "command": ["sleep", "3600"],
            "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
        }],
        "volumes": volumes,
    })
}

/// The default class, but in the test's own directory.
fn class(host: &Host) -> (PathBuf, String) {
    let root = host.dir.join("claims");
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": "here" },
        "provisioner": "kobune.io/local-path", "volumeBindingMode": "WaitForFirstConsumer",
        "parameters": { "path": root },
    });
    (root, class.to_string())
}

#[test]
fn a_member_of_a_stateful_set_finds_its_files_again() {
    let host = Host::with_node("claims");
    let (root, class) = class(&host);
    host.apply(&class).ok();
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "db" },
        "spec": {
            "serviceName": "db", "replicas": 1,
            "selector": { "matchLabels": { "app": "db" } },
            "template": { "metadata": { "labels": { "app": "db" } }, "spec": spec(&json!([])) },
            "volumeClaimTemplates": [{
                "metadata": { "name": "data" },
                "spec": {
                    "storageClassName": "here", "accessModes": ["ReadWriteOnce"],
                    "resources": { "requests": { "storage": "1Mi" } },
                },
            }],
        },
    });
    host.apply(&set.to_string()).ok();
    host.until_field("statefulset/db", ".status.readyReplicas", "1");
    let sh = |script: &str| host.kubectl(&["exec", "db-0", "--", "sh", "-c", script]);
    sh("echo kept > /data/file; echo gone > /tmp/file").ok();
    let uid = host.field("pod/db-0", ".metadata.uid");

    host.kubectl_ok(&["delete", "pod", "db-0"]);
    eventually("another Pod of the same name is ready", MINUTE, || {
        let path = "jsonpath={.metadata.uid} {.status.conditions[?(@.type=='Ready')].status}";
        let found = host.kubectl(&["get", "pod/db-0", "-o", path]).result()?;
        let fine = !found.starts_with(&uid) && found.ends_with("True");
        if fine { Ok(()) } else { Err(found) }
    });
    assert_eq!(sh("cat /data/file").ok(), "kept\n");
    assert!(sh("cat /tmp/file").code != Some(0), "a new Pod has a new root");

    // The set goes, the claim stays, and what is in it.
    let volume = host.field("pvc/data-db-0", ".spec.volumeName");
    let directory = root.join(format!("{volume}_default_data-db-0"));
    host.kubectl_ok(&["delete", "statefulset", "db"]);
    host.kubectl_ok(&["wait", "pod/db-0", "--for=delete", "--timeout=60s"]);
    assert_eq!(fs::read_to_string(directory.join("file")).expect("the file stays"), "kept\n");
}

#[test]
fn a_volume_that_is_missing_holds_the_pod_back_and_is_never_removed() {
    let host = Host::with_node("disk");
    let disk = host.dir.join("disk");
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "disk" },
        "spec": {
            "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"],
            "storageClassName": "", "local": { "path": disk },
            "persistentVolumeReclaimPolicy": "Retain",
            "nodeAffinity": { "required": { "nodeSelectorTerms": [
                { "matchExpressions": [{ "key": "kubernetes.io/os", "operator": "In", "values": ["linux"] }] },
            ] } },
        },
    });
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "disk" },
        "spec": {
            "storageClassName": "", "accessModes": ["ReadWriteOnce"], "volumeName": "disk",
            "resources": { "requests": { "storage": "1Gi" } },
        },
    });
    host.apply(&volume.to_string()).ok();
    host.apply(&claim.to_string()).ok();
    let volumes = json!([{ "name": "data", "persistentVolumeClaim": { "claimName": "disk" } }]);
    let mut spec = spec(&volumes);
    spec["securityContext"] = json!({ "runAsUser": 1000, "fsGroup": 2000 });
    let pod =
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" }, "spec": spec });
    host.apply(&pod.to_string()).ok();
    eventually("an event names what is missing", MINUTE, || {
        let events = host.kubectl(&["events", "--for", "pod/p"]).result()?;
        let fine = events.contains("FailedMount") && events.contains("is not a directory");
        if fine { Ok(()) } else { Err(events) }
    });
    let waiting = ".status.containerStatuses[0].state.waiting.reason";
    assert_eq!(host.field("pod/p", waiting), "ContainerCreating");

    fs::create_dir(&disk).expect("make the disk");
    host.kubectl_ok(&["wait", "pod/p", "--for=condition=Ready", "--timeout=120s"]);
    let sh = |script: &str| host.kubectl(&["exec", "p", "--", "sh", "-c", script]);
    sh("echo kept > /data/file").ok();
    assert_eq!(sh("stat -c %u:%g /data/file").ok(), "1000:2000\n");

    host.kubectl_ok(&["delete", "pod/p", "pvc/disk"]);
    host.until_field("pv/disk", ".status.phase", "Released");
    host.kubectl_ok(&["delete", "pv/disk"]);
    assert_eq!(fs::read_to_string(disk.join("file")).expect("the file stays"), "kept\n");
}
