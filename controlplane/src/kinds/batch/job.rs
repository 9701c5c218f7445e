//! Job. What its controller cannot do yet is refused by name.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use crate::kinds::field::{Errors, Path};
use crate::kinds::{
    Column, Kind, Operation, Strategy, edit, metadata, names, table, template, typed,
};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: "batch",
    version: "v1",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    resource: "jobs.batch",
    short_names: &[],
    categories: &["all"],
    namespaced: true,
    subresources: &["status"],
    strategy: &Jobs,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Status", "Status of the job."),
    table::text("Completions", "Number of successfully finished pods and of those wanted."),
    table::text("Duration", "Time required to complete the job."),
    table::AGE,
    table::wide("Containers", "Names of each container in the template."),
    table::wide("Images", "Images referenced by each container in the template."),
    table::wide("Selector", "Label selector for pods."),
];

const UNSUPPORTED: &str = "not supported by this control plane";

struct Jobs;

impl Strategy for Jobs {
    typed!(Job);

    fn default(&self, value: &mut Value) {
        let Some(job) = value.as_object_mut() else { return };
        let spec = edit::make(job, "spec");
        if edit::is_unset(spec.get("parallelism")) {
            edit::default_to(spec, "completions", 1);
            edit::default_to(spec, "parallelism", 1);
        }
        edit::default_to(spec, "backoffLimit", 6);
        edit::default_to(spec, "completionMode", "NonIndexed");
        edit::default_to(spec, "suspend", false);
        edit::default_to(spec, "manualSelector", false);
        edit::default_to(spec, "podReplacementPolicy", "TerminatingOrFailed");
        template::default(spec);
        let labels = spec["template"]["metadata"]["labels"].clone();
        let meta = edit::make(job, "metadata");
        if labels.is_object() && !meta.get("labels").is_some_and(Value::is_object) {
            meta.insert("labels".into(), labels);
        }
    }

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::guard_status(value, op);
        edit::count_generation(value, op);
        if let Operation::Create = op {
            value["status"] = json!({});
            if value["spec"]["manualSelector"] != true {
                select(value);
            }
        }
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let mut errors = Errors::default();
        // Pods are named after it.
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        if let Some(job) = metadata::check::<Job>(&mut errors, named, value, op) {
            match &job.spec {
                None => errors.required(&Path::new("spec"), ""),
                Some(spec) => check(&mut errors, value, spec, op),
            }
        }
        errors.into_causes()
    }

    fn field(&self, value: &Value, label: &str) -> Option<String> {
        let succeeded = || value["status"]["succeeded"].as_i64().unwrap_or(0).to_string();
        (label == "status.successful").then(succeeded)
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &["status.successful"]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let job = object.view::<Job>().unwrap_or_default();
        let empty = JobSpec::default();
        let spec = job.spec.as_ref().unwrap_or(&empty);
        let [containers, images] = table::containers(Some(&spec.template));
        vec![
            table::name(object),
            state(&job, object).into(),
            completions(&job, spec).into(),
            duration(&job, now).into(),
            table::age(object, now),
            containers,
            images,
            spec.selector.as_ref().map_or(table::NONE.into(), template::selector_cell),
        ]
    }
}

fn state(job: &Job, object: &Object) -> &'static str {
    let conditions = job.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let is = |name: &&str| conditions.iter().any(|c| c.type_ == *name && c.status == "True");
    if let Some(end) = ["Complete", "Failed"].into_iter().find(is) {
        return end;
    }
    if object.meta.deletion_timestamp.is_some() {
        return "Terminating";
    }
    ["Suspended", "FailureTarget", "SuccessCriteriaMet"].into_iter().find(is).unwrap_or("Running")
}

fn completions(job: &Job, spec: &JobSpec) -> String {
    let succeeded = job.status.as_ref().and_then(|s| s.succeeded).unwrap_or(0);
    match (spec.completions, spec.parallelism.unwrap_or(0)) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism @ 2..) => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn duration(job: &Job, now: i64) -> String {
    let status = job.status.as_ref();
    let Some(start) = status.and_then(|s| s.start_time.as_ref()) else { return String::new() };
    let end = status.and_then(|s| s.completion_time.as_ref()).map_or(now, |t| t.0.as_second());
    table::human_duration(end - start.0.as_second())
}

/// The selector is the Job's own uid; its Pods say whose they are under old and new names.
fn select(value: &mut Value) {
    let uid = value["metadata"]["uid"].clone();
    let name = value["metadata"]["name"].clone();
    let labels = &mut value["spec"]["template"]["metadata"]["labels"];
    for (key, text) in [
        ("controller-uid", &uid),
        ("job-name", &name),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
    ] {
        labels[key] = text.clone();
    }
    let selector = &mut value["spec"]["selector"];
    if selector.is_null() {
        *selector = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
    }
}

fn check(errors: &mut Errors, value: &Value, spec: &JobSpec, op: Operation<'_>) {
    let path = Path::new("spec");
    check_wishes(errors, &path, spec);
    if spec.completion_mode.is_none() {
        errors.required(&path.child("completionMode"), "");
    }
    selector(errors, &path, value, spec);
    if let Operation::Update { old, .. } = op {
        frozen(errors, &path, value, old);
    }
}

/// Of a Job, or of a template that is no Job yet and has no selector.
pub(super) fn check_wishes(errors: &mut Errors, path: &Path, spec: &JobSpec) {
    for (name, number) in [
        ("parallelism", spec.parallelism.map(i64::from)),
        ("completions", spec.completions.map(i64::from)),
        ("activeDeadlineSeconds", spec.active_deadline_seconds),
        ("backoffLimit", spec.backoff_limit.map(i64::from)),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished.map(i64::from)),
    ] {
        errors.not_negative(&path.child(name), number);
    }
    unsupported(errors, path, spec);
    let mode = spec.completion_mode.as_deref();
    errors.optional_one_of(&path.child("completionMode"), mode, &["Indexed", "NonIndexed"]);
    if mode == Some("Indexed") && spec.completions.is_none() {
        errors.required(&path.child("completions"), "when completion mode is Indexed");
    }
    let place = path.child("template");
    template::pod_template(errors, &place, &spec.template);
    let policy = spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    if let Some(policy) = policy.filter(|policy| !matches!(*policy, "OnFailure" | "Never")) {
        let at = place.child("spec").child("restartPolicy");
        errors.not_supported(&at, policy, &["OnFailure", "Never"]);
    }
}

/// Nothing that would change what a Job means is ignored.
fn unsupported(errors: &mut Errors, path: &Path, spec: &JobSpec) {
    let managed = spec.managed_by.as_deref().is_some_and(|by| by != "kubernetes.io/job-controller");
    let replacement = spec.pod_replacement_policy.as_deref() == Some("Failed");
    for (name, is_set) in [
        ("podFailurePolicy", spec.pod_failure_policy.is_some()),
        ("successPolicy", spec.success_policy.is_some()),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index.is_some()),
        ("maxFailedIndexes", spec.max_failed_indexes.is_some()),
        ("managedBy", managed),
        ("podReplacementPolicy", replacement),
    ] {
        if is_set {
            errors.forbidden(&path.child(name), UNSUPPORTED);
        }
    }
    let policy = spec.pod_replacement_policy.as_deref();
    let known = ["Failed", "TerminatingOrFailed"];
    errors.optional_one_of(&path.child("podReplacementPolicy"), policy, &known);
}

fn selector(errors: &mut Errors, path: &Path, value: &Value, spec: &JobSpec) {
    let place = path.child("selector");
    let Some(selector) = &spec.selector else { return errors.required(&place, "") };
    let parsed = template::label_selector(errors, &place, selector);
    let meta = spec.template.metadata.as_ref();
    let labels = meta.and_then(|m| m.labels.clone()).unwrap_or_default();
    if parsed.is_some_and(|s| !s.matches(&labels)) {
        let at = path.child("template").child("metadata").child("labels");
        errors.invalid(&at, labels, "`selector` does not match template `labels`");
    }
    let uid = value["metadata"]["uid"].as_str().unwrap_or_default();
    if spec.manual_selector != Some(true) && !is_generated(selector, uid) {
        errors.invalid(&place, "", "`selector` not auto-generated");
    }
}

fn is_generated(selector: &LabelSelector, uid: &str) -> bool {
    let labels = selector.match_labels.iter().flatten();
    let mut owned = labels.filter(|(key, _)| key.ends_with("controller-uid"));
    owned.any(|(_, value)| value == uid)
}

/// What the Pods that exist were made from stays.
fn frozen(errors: &mut Errors, path: &Path, value: &Value, old: &Value) {
    for field in ["completions", "selector", "template", "completionMode"] {
        if value["spec"][field] != old["spec"][field] {
            let given = value["spec"][field].to_string();
            errors.invalid(&path.child(field), given, "field is immutable");
        }
    }
}
