//! Namespace.

use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

use crate::kinds::field::Errors;
use crate::kinds::{Column, Kind, Operation, Strategy, edit, metadata, names, table, typed};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    resource: "namespaces",
    short_names: &["ns"],
    categories: &[],
    namespaced: false,
    subresources: &["finalize", "status"],
    strategy: &Namespaces,
};

const COLUMNS: &[Column] =
    &[table::NAME, table::text("Status", "The status of the namespace"), table::AGE];
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

struct Namespaces;

impl Strategy for Namespaces {
    typed!(Namespace);

    fn default(&self, value: &mut Value) {
        let name = edit::text(value, "/metadata/name").to_owned();
        let Some(namespace) = value.as_object_mut() else { return };
        if !name.is_empty() {
            let labels = edit::make(edit::make(namespace, "metadata"), "labels");
            labels.insert(NAME_LABEL.into(), name.into());
        }
    }

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::no_generation(value);
        self.default(value);
        let Some(namespace) = value.as_object_mut() else { return };
        match op {
            Operation::Create => {
                namespace.insert("status".into(), json!({"phase": "Active"}));
                let spec = edit::make(namespace, "spec");
                let finalizers = edit::make_list(spec, "finalizers");
                if !finalizers.iter().any(|f| f == "kubernetes") {
                    finalizers.push("kubernetes".into());
                }
            }
            Operation::Update { old, subresource: "finalize" } => {
                edit::keep(namespace, old, "status")
            }
            Operation::Update { old, subresource: "status" } => edit::keep(namespace, old, "spec"),
            Operation::Update { old, .. } => {
                edit::keep(namespace, old, "status");
                edit::keep(namespace, old, "spec");
            }
        }
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let mut errors = Errors::default();
        let named = (&KIND, names::dns_label as fn(&str) -> Vec<String>);
        metadata::check::<Namespace>(&mut errors, named, value, op);
        errors.into_causes()
    }

    fn field(&self, value: &Value, label: &str) -> Option<String> {
        (label == "status.phase").then(|| edit::text(value, "/status/phase").into())
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &["status.phase"]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let phase = object.view::<Namespace>().ok().and_then(|n| n.status.clone()?.phase);
        vec![table::name(object), phase.unwrap_or_default().into(), table::age(object, now)]
    }
}
