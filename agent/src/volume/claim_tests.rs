//! [`super`]: what is mounted, and what is refused.

use serde_json::{Value, json};

use super::*;

fn volume(change: impl FnOnce(&mut Value)) -> PersistentVolume {
    let mut value = json!({
        "metadata": {"name": "pvc-1", "annotations": {PROVISIONED_BY: LOCAL_PATH}},
        "spec": {
            "claimRef": {"uid": "1"}, "persistentVolumeReclaimPolicy": "Delete",
            "hostPath": {"path": "/data/pvc-1_ns_c", "type": "DirectoryOrCreate"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "host", "operator": "In", "values": ["here"]}]},
            ]}},
        },
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn claim(change: impl FnOnce(&mut Value)) -> PersistentVolumeClaim {
    let mut value = json!({
        "metadata": {"name": "c", "namespace": "ns", "uid": "1"},
        "spec": {"volumeName": "pvc-1"}, "status": {"phase": "Bound"},
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn node(host: &str) -> Node {
    serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"host": host}}})).unwrap()
}

#[test]
fn only_a_bound_claim_has_a_volume() {
    assert_eq!(volume_of(&claim(|_| {})), Ok("pvc-1"));
    let of = |change: fn(&mut Value)| volume_of(&claim(change)).unwrap_err();
    assert_eq!(
        of(|c| c["status"]["phase"] = "Pending".into()),
        "error processing PVC ns/c: PVC is not bound"
    );
    assert!(of(|c| c["spec"]["volumeName"] = "".into()).contains("not bound"));
    assert!(of(|c| c["spec"]["volumeMode"] = "Block".into()).contains("volumeMode Block"));
    let gone = |c: &mut Value| c["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert!(of(gone).contains("being deleted"));
}

#[test]
fn volumes_are_directories_of_this_node() {
    let of = |change: fn(&mut Value)| backing(&volume(change), &claim(|_| {}), &node("here"));
    let path = PathBuf::from("/data/pvc-1_ns_c");
    assert_eq!(of(|_| {}), Ok(Backing::Provisioned { path: path.clone() }));
    let kind = "DirectoryOrCreate".to_owned();
    assert_eq!(
        of(|v| v["metadata"]["annotations"] = json!({})),
        Ok(Backing::HostPath { path, kind })
    );
    let local = |v: &mut Value| {
        v["spec"]["hostPath"] = Value::Null;
        v["spec"]["local"] = json!({"path": "/disk"});
    };
    assert_eq!(of(local), Ok(Backing::Local { path: "/disk".into() }));
}

#[test]
fn what_cannot_be_mounted_is_named() {
    type Change = fn(&mut Value);
    let table: [(Change, &str); 6] = [
        (|v| v["spec"]["claimRef"]["uid"] = "2".into(), "spec.claimRef"),
        (|v| v["spec"]["claimRef"] = Value::Null, "spec.claimRef"),
        (|v| v["spec"]["volumeMode"] = "Block".into(), "spec.volumeMode: Block"),
        (|v| v["spec"]["mountOptions"] = json!(["noatime"]), "spec.mountOptions"),
        (
            |v| {
                v["spec"]["hostPath"] = Value::Null;
                v["spec"]["nfs"] = json!({"server": "s", "path": "/"});
            },
            "spec.nfs: not supported",
        ),
        (|v| v["spec"]["hostPath"]["path"] = "/data/../etc".into(), "must be absolute"),
    ];
    for (change, expected) in table {
        let refused = backing(&volume(change), &claim(|_| {}), &node("here")).unwrap_err();
        assert!(refused.contains(expected) && refused.contains("pvc-1"), "{refused}");
    }
    let refused = backing(&volume(|_| {}), &claim(|_| {}), &node("elsewhere")).unwrap_err();
    assert!(refused.contains("spec.nodeAffinity"), "{refused}");
}

#[test]
fn only_a_directory_with_the_volumes_name_is_the_provisioners() {
    let others: [fn(&mut Value); 4] = [
        |v| v["metadata"]["annotations"] = json!({PROVISIONED_BY: "other"}),
        |v| v["spec"]["hostPath"]["path"] = "/data".into(),
        |v| v["spec"]["hostPath"]["path"] = "/data/pvc-10_ns_c".into(),
        |v| v["spec"]["hostPath"]["path"] = "/data/../pvc-1_ns_c".into(),
    ];
    assert!(provisioned(&volume(|_| {})).is_some());
    for change in others {
        assert_eq!(provisioned(&volume(change)), None);
    }
}
