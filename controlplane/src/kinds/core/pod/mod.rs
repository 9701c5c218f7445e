//! Pod: strategy and columns. Defaults, validation and the printer's logic have a file each.

pub(in crate::kinds) mod check;
pub(in crate::kinds) mod defaults;
mod printer;
mod qos;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::kinds::field::{Errors, Path};
use crate::kinds::{Column, Kind, Operation, Strategy, edit, metadata, names, table, typed};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    resource: "pods",
    short_names: &["po"],
    categories: &["all"],
    namespaced: true,
    subresources: &[
        "attach",
        "binding",
        "ephemeralcontainers",
        "eviction",
        "exec",
        "log",
        "portforward",
        "status",
    ],
    strategy: &Pods,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Ready", "The aggregate readiness state of this pod for accepting traffic."),
    table::text("Status", "The aggregate status of the containers in this pod."),
    table::text(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
    ),
    table::AGE,
    table::wide("IP", "The primary address of the pod."),
    table::wide("Node", "The node that the pod runs on."),
    table::wide("Nominated Node", "The node that room is being made on."),
    table::wide("Readiness Gates", "Further conditions that must hold for the pod to be ready."),
];

struct Pods;

impl Strategy for Pods {
    typed!(Pod);

    fn default(&self, value: &mut Value) {
        let Some(pod) = value.as_object_mut() else { return };
        defaults::pod(edit::make(pod, "spec"));
    }

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::no_generation(value);
        edit::guard_status(value, op);
        if let (Operation::Create, Some(pod)) = (op, value.as_object_mut()) {
            let class = qos::class(&pod["spec"]);
            pod.insert("status".into(), json!({"phase": "Pending", "qosClass": class}));
        }
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let mut errors = Errors::default();
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        let Some(pod) = metadata::check::<Pod>(&mut errors, named, value, op) else {
            return errors.into_causes();
        };
        let path = Path::new("spec");
        match (&pod.spec, op) {
            (None, _) => errors.required(&path, ""),
            (Some(spec), Operation::Create) => check::spec(&mut errors, &path, spec),
            (Some(_), Operation::Update { subresource: "status", .. }) => {}
            (Some(spec), Operation::Update { old, subresource }) => {
                check::spec(&mut errors, &path, spec);
                check::update::spec(&mut errors, value, old, subresource);
            }
        }
        errors.into_causes()
    }

    fn field(&self, value: &Value, label: &str) -> Option<String> {
        let text = |pointer: &str| Some(edit::text(value, pointer).to_owned());
        match label {
            "spec.nodeName" => text("/spec/nodeName"),
            "spec.restartPolicy" => text("/spec/restartPolicy"),
            "spec.schedulerName" => text("/spec/schedulerName"),
            "spec.serviceAccountName" => text("/spec/serviceAccountName"),
            "spec.hostNetwork" => Some((value["spec"]["hostNetwork"] == true).to_string()),
            "status.phase" => text("/status/phase"),
            "status.podIP" => text("/status/podIP"),
            "status.podIPs" => text("/status/podIP"),
            "status.nominatedNodeName" => text("/status/nominatedNodeName"),
            _ => None,
        }
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let pod = object.view::<Pod>().unwrap_or_default();
        let told = printer::summary(&pod, now);
        let empty = Default::default();
        let (spec, status) =
            (pod.spec.as_ref().unwrap_or(&empty), pod.status.clone().unwrap_or_default());
        let ip = status.pod_ips.and_then(|ips| ips.first().map(|ip| ip.ip.clone()));
        vec![
            table::name(object),
            told.ready.into(),
            told.status.into(),
            told.restarts.into(),
            table::age(object, now),
            table::or_none(&ip.or(status.pod_ip).unwrap_or_default()),
            table::or_none(spec.node_name.as_deref().unwrap_or_default()),
            table::or_none(status.nominated_node_name.as_deref().unwrap_or_default()),
            table::or_none(&told.readiness_gates),
        ]
    }
}
