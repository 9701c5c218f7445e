//! ReplicationController: the ReplicaSet's predecessor, with a plain map as its selector.

use k8s_openapi::api::core::v1::{ReplicationController, ReplicationControllerSpec};
use serde_json::{Value, json};

use crate::kinds::field::{Errors, Path};
use crate::kinds::{
    Column, Kind, Operation, Strategy, edit, metadata, names, table, template, typed,
};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ReplicationController",
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    resource: "replicationcontrollers",
    short_names: &["rc"],
    categories: &["all"],
    namespaced: true,
    subresources: &["scale", "status"],
    strategy: &Controllers,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::integer("Desired", "Replicas is the number of desired replicas."),
    table::integer("Current", "Replicas is the most recently observed number of replicas."),
    table::integer("Ready", "The number of ready replicas for this replication controller."),
    table::AGE,
    table::wide("Containers", "Names of each container in the template."),
    table::wide("Images", "Images referenced by each container in the template."),
    table::wide("Selector", "Label selector for pods."),
];

struct Controllers;

impl Strategy for Controllers {
    typed!(ReplicationController);

    fn default(&self, value: &mut Value) {
        let Some(controller) = value.as_object_mut() else { return };
        let spec = edit::make(controller, "spec");
        edit::default_to(spec, "replicas", 1);
        template::default(spec);
        let labels = spec["template"]["metadata"]["labels"].clone();
        let is_empty =
            |v: Option<&Value>| v.and_then(Value::as_object).is_none_or(|m| m.is_empty());
        if labels.is_object() {
            if is_empty(spec.get("selector")) {
                spec.insert("selector".into(), labels.clone());
            }
            let meta = edit::make(controller, "metadata");
            if is_empty(meta.get("labels")) {
                meta.insert("labels".into(), labels);
            }
        }
    }

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::guard_status(value, op);
        edit::count_generation(value, op);
        if let (Operation::Create, Some(controller)) = (op, value.as_object_mut()) {
            controller.insert("status".into(), json!({"replicas": 0}));
        }
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::validated::<ReplicationController>(named, value, op, |errors, controller| {
            match &controller.spec {
                None => errors.required(&Path::new("spec"), ""),
                Some(spec) => check(errors, spec),
            }
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
        let controller = object.view::<ReplicationController>().unwrap_or_default();
        let empty = ReplicationControllerSpec::default();
        let spec = controller.spec.as_ref().unwrap_or(&empty);
        let status = controller.status.clone().unwrap_or_default();
        let [containers, images] = table::containers(spec.template.as_ref());
        let selector = spec.selector.iter().flatten().map(|(k, v)| format!("{k}={v}"));
        vec![
            table::name(object),
            spec.replicas.unwrap_or(0).into(),
            status.replicas.into(),
            status.ready_replicas.unwrap_or(0).into(),
            table::age(object, now),
            containers,
            images,
            table::or_none(&selector.collect::<Vec<_>>().join(",")),
        ]
    }
}

fn check(errors: &mut Errors, spec: &ReplicationControllerSpec) {
    let path = Path::new("spec");
    errors.not_negative(&path.child("replicas"), spec.replicas.map(i64::from));
    errors.not_negative(&path.child("minReadySeconds"), spec.min_ready_seconds.map(i64::from));
    let selector = spec.selector.clone().unwrap_or_default();
    if selector.is_empty() {
        errors.required(&path.child("selector"), "");
    }
    metadata::labels(errors, &path.child("selector"), &selector);
    let at = path.child("template");
    let Some(template) = &spec.template else { return errors.required(&at, "") };
    template::pod_template(errors, &at, template);
    let labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    if !selector.iter().all(|(key, value)| labels.get(key) == Some(value)) {
        let why = "`selector` does not match template `labels`";
        errors.invalid(&at.child("metadata").child("labels"), labels, why);
    }
    let policy = template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    if policy != Some("Always") {
        let at = at.child("spec").child("restartPolicy");
        errors.not_supported(&at, policy.unwrap_or_default(), &["Always"]);
    }
}
