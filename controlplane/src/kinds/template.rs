//! What all workloads share: the Pod template with its defaults and validation, the selector over it.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;
use serde_json::Value;

use super::core::pod;
use super::field::{Errors, Path};
use super::{Operation, Selector, edit, metadata, names, table};

/// Defaults of `spec.template`.
pub(crate) fn default(spec: &mut edit::Object) {
    let template = edit::make(spec, "template");
    pod::defaults::spec(edit::make(template, "spec"));
}

/// A workload that restarts its Pods for ever.
pub(crate) struct Workload<'w> {
    /// The whole object.
    pub(crate) value: &'w Value,
    pub(crate) selector: &'w LabelSelector,
    pub(crate) template: &'w PodTemplateSpec,
}

/// Selector and template.
pub(crate) fn check(errors: &mut Errors, path: &Path, workload: Workload<'_>, op: Operation<'_>) {
    selection(errors, path, &workload, op);
    let template = workload.template;
    let path = path.child("template");
    pod_template(errors, &path, template);
    let Some(spec) = &template.spec else { return };
    let policy = spec.restart_policy.as_deref().unwrap_or_default();
    if policy != "Always" {
        errors.not_supported(&path.child("spec").child("restartPolicy"), policy, &["Always"]);
    }
    if spec.active_deadline_seconds.is_some() {
        let place = path.child("spec").child("activeDeadlineSeconds");
        let kind = match workload.value["kind"].as_str() {
            Some(kind) if kind != "Deployment" => kind,
            _ => "ReplicaSet",
        };
        errors.forbidden(&place, &format!("activeDeadlineSeconds in {kind} is not Supported"));
    }
}

/// The selector is there, matches the template, and never changes.
fn selection(errors: &mut Errors, path: &Path, workload: &Workload<'_>, op: Operation<'_>) {
    let (place, selector) = (path.child("selector"), workload.selector);
    let parsed = label_selector(errors, &place, selector);
    let missing = workload.value["spec"]["selector"].is_null();
    let noun = match workload.value["kind"].as_str() {
        Some("DaemonSet") => "daemonset",
        Some("StatefulSet") => "statefulset",
        _ => "deployment",
    };
    if missing {
        errors.required(&place, "");
    } else if parsed.as_ref().is_some_and(Selector::is_empty) {
        errors.invalid(&place, shown(selector), &format!("empty selector is invalid for {noun}"));
    }
    let meta = workload.template.metadata.as_ref();
    let labels = meta.and_then(|m| m.labels.clone()).unwrap_or_default();
    if missing || parsed.is_some_and(|s| !s.matches(&labels)) {
        let place = path.child("template").child("metadata").child("labels");
        errors.invalid(&place, labels, "`selector` does not match template `labels`");
    }
    if let Operation::Update { old, .. } = op {
        let before = LabelSelector::deserialize(&old["spec"]["selector"]).ok();
        if before.as_ref() != Some(selector) {
            errors.invalid(&place, shown(selector), "field is immutable");
        }
    }
}

pub(crate) fn pod_template(errors: &mut Errors, path: &Path, template: &PodTemplateSpec) {
    if let Some(meta) = &template.metadata {
        let place = path.child("metadata");
        let empty = std::collections::BTreeMap::new();
        let labels = meta.labels.as_ref().unwrap_or(&empty);
        metadata::labels(errors, &place.child("labels"), labels);
        let annotations = meta.annotations.as_ref().unwrap_or(&empty);
        metadata::annotations(errors, &place.child("annotations"), annotations);
    }
    match &template.spec {
        Some(spec) => pod::check::spec(errors, &path.child("spec"), spec),
        None => errors.required(&path.child("spec"), ""),
    }
}

/// Validate; None when it cannot be used.
pub(crate) fn label_selector(
    errors: &mut Errors,
    path: &Path,
    selector: &LabelSelector,
) -> Option<Selector> {
    if let Some(labels) = &selector.match_labels {
        metadata::labels(errors, &path.child("matchLabels"), labels);
    }
    for (index, e) in selector.match_expressions.iter().flatten().enumerate() {
        let place = path.child("matchExpressions").index(index);
        let count = e.values.as_ref().map_or(0, |v| v.len());
        match e.operator.as_str() {
            "In" | "NotIn" if count == 0 => {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.required(&place.child("values"), why);
            }
            "Exists" | "DoesNotExist" if count > 0 => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(&place.child("values"), why);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                errors.invalid(&place.child("operator"), other, "not a valid selector operator");
            }
        }
        errors.all_invalid(&place.child("key"), &e.key, names::qualified_name(&e.key));
        for (index, value) in e.values.iter().flatten().enumerate() {
            let at = place.child("values").index(index);
            errors.all_invalid(&at, value, names::label_value(value));
        }
    }
    Selector::from_object(selector)
}

/// A selector in a message: its JSON, unquoted.
struct Json(String);

impl super::field::Shown for Json {
    fn shown(&self) -> String {
        self.0.clone()
    }
}

fn shown(selector: &LabelSelector) -> Json {
    Json(serde_json::to_string(selector).unwrap_or_default())
}

/// The Selector cell.
pub(crate) fn selector_cell(selector: &LabelSelector) -> Value {
    match Selector::from_object(selector) {
        Some(selector) => table::or_none(&selector.to_string()),
        None => "<error>".into(),
    }
}
