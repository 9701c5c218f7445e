//! The provisioner of this control plane: a directory on the node that the scheduler has chosen. Pure.
//!
//! The volume says where; the node's agent makes the directory when the first Pod mounts it. Nobody removes it yet when
//! the volume is deleted (event VolumeDirectoryKept): a node may not see volumes that none of its Pods uses.

use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use super::{PROVISIONED_BY, SELECTED_NODE, VOLUMES, annotation, reference, text};
use crate::object::Object;
use crate::reader::Reader;
use crate::writer::Change;

pub(crate) const PROVISIONER: &str = "kobune.io/local-path";
pub(crate) const CLASS: &str = "local-path";
/// Where volumes are on each node, unless the class has a parameter `path`.
const ROOT: &str = "/var/lib/kobune/local-path";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// The default class of a new cluster.
pub(crate) fn class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": PROVISIONER, "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    })
}

/// The volume for a claim, or why there can be none.
pub(super) fn volume(
    world: &dyn Reader,
    claim: &Object,
    value: &Value,
    class: &StorageClass,
) -> Result<Change, String> {
    let spec = &value["spec"];
    let modes = spec["accessModes"].as_array().into_iter().flatten();
    for mode in modes.filter_map(Value::as_str) {
        if !matches!(mode, "ReadWriteOnce" | "ReadWriteOncePod") {
            return Err(format!(
                "only ReadWriteOnce and ReadWriteOncePod are supported, not {mode}: a local path is on one node"
            ));
        }
    }
    if text(spec, "/volumeMode") == "Block" {
        return Err("volumeMode Block is not supported: a local path is a directory".into());
    }
    if spec["selector"].is_object() {
        return Err("claim.spec.selector is not supported: the volume is made for the claim".into());
    }
    let node = annotation(value, SELECTED_NODE);
    if node.is_empty() {
        return Err(
            "a local path needs a node: the class must have volumeBindingMode WaitForFirstConsumer"
                .into(),
        );
    }
    let found = world.get("nodes", "", node).ok_or_else(|| format!("node {node:?} not found"))?;
    let hostname = found.meta.labels.get(HOSTNAME).map_or(node, String::as_str);
    let parameters = class.parameters.clone().unwrap_or_default();
    let root = parameters.get("path").map_or(ROOT, String::as_str).trim_end_matches('/');
    let name = format!("pvc-{}", claim.meta.uid);
    let place = format!("{root}/{name}_{}_{}", claim.meta.namespace, claim.meta.name);
    let term =
        json!({"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [hostname]}]});
    let mut object = json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "storageClassName": class.metadata.name,
            "volumeMode": "Filesystem",
            "claimRef": reference(claim),
            "hostPath": {"path": place, "type": "DirectoryOrCreate"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
        },
    });
    if let Some(options) = &class.mount_options {
        object["spec"]["mountOptions"] = json!(options);
    }
    Ok(Change::Create { resource: VOLUMES, object })
}
