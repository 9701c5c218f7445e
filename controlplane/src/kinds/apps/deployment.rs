//! Deployment.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
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
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    resource: "deployments.apps",
    short_names: &["deploy"],
    categories: &["all"],
    namespaced: true,
    subresources: &["scale", "status"],
    strategy: &Deployments,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Ready", "Number of the pod with ready state"),
    table::text(
        "Up-to-date",
        "Total number of non-terminated pods that have the desired template spec.",
    ),
    table::text("Available", "Total number of available pods."),
    table::AGE,
    table::wide("Containers", "Names of each container in the template."),
    table::wide("Images", "Images referenced by each container in the template."),
    table::wide("Selector", "Label selector for pods."),
];

struct Deployments;

impl Strategy for Deployments {
    typed!(Deployment);

    fn default(&self, value: &mut Value) {
        let Some(deployment) = value.as_object_mut() else { return };
        let spec = edit::make(deployment, "spec");
        edit::default_to(spec, "replicas", 1);
        edit::default_to(spec, "revisionHistoryLimit", 10);
        edit::default_to(spec, "progressDeadlineSeconds", 600);
        let strategy = edit::make(spec, "strategy");
        edit::default_to(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = edit::make(strategy, "rollingUpdate");
            edit::default_to(rolling, "maxUnavailable", "25%");
            edit::default_to(rolling, "maxSurge", "25%");
        }
        template::default(spec);
    }

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::guard_status(value, op);
        edit::count_generation(value, op);
        // Annotations are a part of what is wanted: rollouts copy them to the ReplicaSets. Through the status, the
        // rollout itself notes its revision.
        if let Operation::Update { old, subresource: "" } = op {
            let generation = |v: &Value| v["metadata"]["generation"].as_i64().unwrap_or(0);
            let notes = |v: &Value| v["metadata"].get("annotations").cloned().unwrap_or(json!({}));
            if generation(value) == generation(old) && notes(value) != notes(old) {
                edit::set_generation(value, generation(old) + 1);
            }
        }
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::validated::<Deployment>(named, value, op, |errors, deployment| match &deployment
            .spec
        {
            None => errors.required(&Path::new("spec"), ""),
            Some(spec) => check(errors, value, spec, op),
        })
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let deployment = object.view::<Deployment>().unwrap_or_default();
        let status = deployment.status.clone().unwrap_or_default();
        let empty = DeploymentSpec::default();
        let spec = deployment.spec.as_ref().unwrap_or(&empty);
        let (ready, desired) = (status.ready_replicas.unwrap_or(0), spec.replicas.unwrap_or(0));
        let [containers, images] = table::containers(Some(&spec.template));
        vec![
            table::name(object),
            format!("{ready}/{desired}").into(),
            status.updated_replicas.unwrap_or(0).into(),
            status.available_replicas.unwrap_or(0).into(),
            table::age(object, now),
            containers,
            images,
            template::selector_cell(&spec.selector),
        ]
    }
}

fn check(errors: &mut Errors, value: &Value, spec: &DeploymentSpec, op: Operation<'_>) {
    let path = Path::new("spec");
    errors.not_negative(&path.child("replicas"), spec.replicas.map(i64::from));
    errors.not_negative(&path.child("minReadySeconds"), spec.min_ready_seconds.map(i64::from));
    let limit = spec.revision_history_limit.map(i64::from);
    errors.not_negative(&path.child("revisionHistoryLimit"), limit);
    let workload = template::Workload { value, selector: &spec.selector, template: &spec.template };
    template::check(errors, &path, workload, op);
    strategy(errors, &path.child("strategy"), spec);
    let deadline = path.child("progressDeadlineSeconds");
    if let Some(seconds) = spec.progress_deadline_seconds {
        errors.not_negative(&deadline, Some(seconds.into()));
        if seconds <= spec.min_ready_seconds.unwrap_or(0) {
            errors.invalid(&deadline, seconds, "must be greater than minReadySeconds");
        }
    }
}

fn strategy(errors: &mut Errors, path: &Path, spec: &DeploymentSpec) {
    let Some(strategy) = &spec.strategy else { return };
    let rolling = path.child("rollingUpdate");
    match strategy.type_.as_deref().unwrap_or_default() {
        "Recreate" if strategy.rolling_update.is_some() => {
            errors.forbidden(&rolling, "may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" => {
            let Some(update) = &strategy.rolling_update else {
                errors.required(&rolling, "this should be defaulted and never be nil");
                return;
            };
            let surge = rolling_value(errors, &rolling.child("maxSurge"), &update.max_surge, false);
            let place = rolling.child("maxUnavailable");
            let unavailable = rolling_value(errors, &place, &update.max_unavailable, true);
            if (surge, unavailable) == (Some(0), Some(0)) {
                let value = update.max_unavailable.clone().unwrap_or_default();
                errors.invalid(&place, value, "may not be 0 when `maxSurge` is 0");
            }
        }
        other => errors.not_supported(&path.child("type"), other, &["Recreate", "RollingUpdate"]),
    }
}

/// The number or the percentage, None when it is neither.
pub(super) fn rolling_value(
    errors: &mut Errors,
    path: &Path,
    value: &Option<IntOrString>,
    capped: bool,
) -> Option<i32> {
    match value.as_ref()? {
        IntOrString::Int(number) => {
            errors.not_negative(path, Some((*number).into()));
            Some(*number)
        }
        IntOrString::String(text) => {
            let digits = text.strip_suffix('%').unwrap_or_default();
            let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            match digits.parse::<i32>() {
                Ok(percent) if is_number => {
                    if capped && percent > 100 {
                        errors.invalid(path, text, "must not be greater than 100%");
                    }
                    Some(percent)
                }
                _ => {
                    errors.invalid(path, text, "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')");
                    None
                }
            }
        }
    }
}
