//! ReplicaSet.

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use serde_json::{Value, json};

use crate::kinds::field::{Errors, Path};
use crate::kinds::{
    Column, Kind, Operation, Strategy, edit, metadata, names, table, template, typed,
};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    resource: "replicasets.apps",
    short_names: &["rs"],
    categories: &["all"],
    namespaced: true,
    subresources: &["scale", "status"],
    strategy: &ReplicaSets,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::integer("Desired", "Replicas is the number of desired replicas."),
    table::integer("Current", "Replicas is the most recently observed number of replicas."),
    table::integer("Ready", "The number of ready replicas for this replica set."),
    table::AGE,
    table::wide("Containers", "Names of each container in the template."),
    table::wide("Images", "Images referenced by each container in the template."),
    table::wide("Selector", "Label selector for pods."),
];

struct ReplicaSets;

impl Strategy for ReplicaSets {
    typed!(ReplicaSet);

    fn default(&self, value: &mut Value) {
        let Some(set) = value.as_object_mut() else { return };
        let spec = edit::make(set, "spec");
        edit::default_to(spec, "replicas", 1);
        template::default(spec);
    }

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::guard_status(value, op);
        edit::count_generation(value, op);
        if let (Operation::Create, Some(set)) = (op, value.as_object_mut()) {
            set.insert("status".into(), json!({"replicas": 0}));
        }
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::validated::<ReplicaSet>(named, value, op, |errors, set| match &set.spec {
            None => errors.required(&Path::new("spec"), ""),
            Some(spec) => check(errors, value, spec, op),
        })
    }

    fn field(&self, value: &Value, label: &str) -> Option<String> {
        let replicas = || value["status"]["replicas"].as_i64().unwrap_or(0).to_string();
        (label == "status.replicas").then(replicas)
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &["status.replicas"]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let set = object.view::<ReplicaSet>().unwrap_or_default();
        let empty = ReplicaSetSpec::default();
        let spec = set.spec.as_ref().unwrap_or(&empty);
        let status = set.status.clone().unwrap_or_default();
        let [containers, images] = table::containers(spec.template.as_ref());
        vec![
            table::name(object),
            spec.replicas.unwrap_or(0).into(),
            status.replicas.into(),
            status.ready_replicas.unwrap_or(0).into(),
            table::age(object, now),
            containers,
            images,
            template::selector_cell(&spec.selector),
        ]
    }
}

fn check(errors: &mut Errors, value: &Value, spec: &ReplicaSetSpec, op: Operation<'_>) {
    let path = Path::new("spec");
    errors.not_negative(&path.child("replicas"), spec.replicas.map(i64::from));
    errors.not_negative(&path.child("minReadySeconds"), spec.min_ready_seconds.map(i64::from));
    match &spec.template {
        None => errors.required(&path.child("template"), ""),
        Some(template) => {
            let workload = template::Workload { value, selector: &spec.selector, template };
            template::check(errors, &path, workload, op);
        }
    }
}
