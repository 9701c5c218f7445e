//! Node.

use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus};
use serde_json::Value;

use crate::kinds::field::{Errors, Path};
use crate::kinds::{Column, Kind, Operation, Strategy, edit, metadata, names, table, typed};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    singular: "node",
    resource: "nodes",
    short_names: &["no"],
    categories: &[],
    namespaced: false,
    subresources: &["status"],
    strategy: &Nodes,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Status", "The status of the node"),
    table::text("Roles", "The roles of the node"),
    table::AGE,
    table::text("Version", "Kubelet Version reported by the node."),
    table::wide("Internal-IP", "Internal addresses of the node"),
    table::wide("External-IP", "External addresses of the node"),
    table::wide("OS-Image", "OS Image reported by the node"),
    table::wide("Kernel-Version", "Kernel Version reported by the node"),
    table::wide("Container-Runtime", "Container Runtime and version reported by the node"),
];
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

struct Nodes;

impl Strategy for Nodes {
    typed!(Node);

    fn default(&self, value: &mut Value) {
        let Some(status) = value.pointer_mut("/status").and_then(Value::as_object_mut) else {
            return;
        };
        if let Some(capacity) = status.get("capacity").cloned() {
            edit::default_to(status, "allocatable", capacity);
        }
    }

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::no_generation(value);
        // Nodes may be created with their status.
        if let Operation::Update { old, subresource } = op
            && let Some(node) = value.as_object_mut()
        {
            edit::keep(node, old, if subresource == "status" { "spec" } else { "status" });
        }
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::validated::<Node>(named, value, op, |errors, node| {
            if let Some(spec) = &node.spec {
                taints(errors, spec);
            }
            if let Operation::Update { old, .. } = op {
                assigned_once(errors, value, old);
            }
        })
    }

    fn field(&self, value: &Value, label: &str) -> Option<String> {
        (label == "spec.unschedulable")
            .then(|| (value["spec"]["unschedulable"] == true).to_string())
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &["spec.unschedulable"]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let node = object.view::<Node>().unwrap_or_default();
        let status = node.status.as_ref();
        let info = status.and_then(|s| s.node_info.as_ref());
        let told = |text: Option<&String>| table::or_unknown(text.map_or("", |t| t));
        vec![
            table::name(object),
            condition(&node).into(),
            roles(&node).into(),
            table::age(object, now),
            info.map_or("", |i| &i.kubelet_version).into(),
            address(status, "InternalIP"),
            address(status, "ExternalIP"),
            told(info.map(|i| &i.os_image)),
            told(info.map(|i| &i.kernel_version)),
            told(info.map(|i| &i.container_runtime_version)),
        ]
    }
}

/// `Ready,SchedulingDisabled`
fn condition(node: &Node) -> String {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    let ready = conditions.and_then(|c| c.iter().find(|c| c.type_ == "Ready"));
    let mut words = vec![match ready.map(|c| c.status.as_str()) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }];
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        words.push("SchedulingDisabled");
    }
    words.join(",")
}

fn roles(node: &Node) -> String {
    let mut roles = std::collections::BTreeSet::new();
    for (key, value) in node.metadata.labels.iter().flatten() {
        match key.strip_prefix(ROLE_PREFIX) {
            Some(role) if !role.is_empty() => drop(roles.insert(role)),
            _ if key == ROLE_LABEL && !value.is_empty() => drop(roles.insert(value)),
            _ => {}
        }
    }
    let list: Vec<&str> = roles.into_iter().collect();
    if list.is_empty() { table::NONE.into() } else { list.join(",") }
}

fn address(status: Option<&NodeStatus>, kind: &str) -> Value {
    let addresses = status.and_then(|s| s.addresses.as_ref());
    let found = addresses.and_then(|a| a.iter().find(|a| a.type_ == kind));
    table::or_none(found.map_or("", |a| &a.address))
}

fn taints(errors: &mut Errors, spec: &NodeSpec) {
    let path = Path::new("spec").child("taints");
    let mut seen = std::collections::BTreeSet::new();
    for (index, taint) in spec.taints.iter().flatten().enumerate() {
        let place = path.index(index);
        errors.all_invalid(&place.child("key"), &taint.key, names::qualified_name(&taint.key));
        let value = taint.value.as_deref().unwrap_or_default();
        errors.all_invalid(&place.child("value"), value, names::label_value(value));
        let effects = &["NoExecute", "NoSchedule", "PreferNoSchedule"];
        errors.one_of(&place.child("effect"), Some(&taint.effect), effects);
        if !seen.insert((&taint.key, &taint.effect)) {
            errors.duplicate(&place, &taint.key);
        }
    }
}

/// `podCIDR` and `providerID` are set once.
fn assigned_once(errors: &mut Errors, value: &Value, old: &Value) {
    for (key, why) in [
        ("podCIDRs", "node updates may not change podCIDR except from \"\" to valid"),
        ("providerID", "node updates may not change providerID except from \"\" to valid"),
    ] {
        let (new, before) = (&value["spec"][key], &old["spec"][key]);
        if !before.is_null() && before != "" && new != before {
            errors.forbidden(&Path::new("spec").child(key), why);
        }
    }
}
