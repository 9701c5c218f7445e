//! CronJob.

use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec};
use serde_json::{Value, json};

use super::job;
use crate::cron::{self, Schedule};
use crate::kinds::field::{Errors, Path};
use crate::kinds::{
    Column, Kind, Operation, Strategy, edit, metadata, names, table, template, typed,
};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: "batch",
    version: "v1",
    kind: "CronJob",
    plural: "cronjobs",
    singular: "cronjob",
    resource: "cronjobs.batch",
    short_names: &["cj"],
    categories: &["all"],
    namespaced: true,
    subresources: &["status"],
    strategy: &CronJobs,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Schedule", "The schedule in Cron format."),
    table::text("Timezone", "The time zone name for the given schedule."),
    table::text("Suspend", "Whether subsequent executions are suspended."),
    table::integer("Active", "The number of currently running jobs."),
    table::text("Last Schedule", "When was the last time the job was successfully scheduled."),
    table::AGE,
    table::wide("Containers", "Names of each container in the template."),
    table::wide("Images", "Images referenced by each container in the template."),
    table::wide("Selector", "Label selector for pods."),
];

/// A Job's name is this and eleven characters for the time.
const LONGEST_NAME: usize = 52;

struct CronJobs;

impl Strategy for CronJobs {
    typed!(CronJob);

    fn default(&self, value: &mut Value) {
        let Some(cron) = value.as_object_mut() else { return };
        let spec = edit::make(cron, "spec");
        edit::default_to(spec, "concurrencyPolicy", "Allow");
        edit::default_to(spec, "suspend", false);
        edit::default_to(spec, "successfulJobsHistoryLimit", 3);
        edit::default_to(spec, "failedJobsHistoryLimit", 1);
        // The Job gets its own defaults when it is made.
        template::default(edit::make(edit::make(spec, "jobTemplate"), "spec"));
    }

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::guard_status(value, op);
        edit::count_generation(value, op);
        if let Operation::Create = op {
            value["status"] = json!({});
        }
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::validated::<CronJob>(named, value, op, |errors, cron| {
            let name = cron.metadata.name.as_deref().unwrap_or_default();
            if matches!(op, Operation::Create) && name.len() > LONGEST_NAME {
                let why = format!("must be no more than {LONGEST_NAME} characters");
                errors.invalid(&Path::new("metadata.name"), name, &why);
            }
            match &cron.spec {
                None => errors.required(&Path::new("spec"), ""),
                Some(spec) => check(errors, spec),
            }
        })
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let cron = object.view::<CronJob>().unwrap_or_default();
        let empty = CronJobSpec::default();
        let spec = cron.spec.as_ref().unwrap_or(&empty);
        let status = cron.status.clone().unwrap_or_default();
        let job = spec.job_template.spec.clone().unwrap_or_default();
        let last = status.last_schedule_time.as_ref();
        let [containers, images] = table::containers(Some(&job.template));
        vec![
            table::name(object),
            spec.schedule.as_str().into(),
            table::or_none(spec.time_zone.as_deref().unwrap_or_default()),
            if spec.suspend == Some(true) { "True" } else { "False" }.into(),
            status.active.map_or(0, |active| active.len()).into(),
            last.map_or_else(|| table::NONE.into(), |_| table::age_of(last, now)).into(),
            table::age(object, now),
            containers,
            images,
            job.selector.as_ref().map_or(table::NONE.into(), template::selector_cell),
        ]
    }
}

fn check(errors: &mut Errors, spec: &CronJobSpec) {
    let path = Path::new("spec");
    schedule(errors, &path.child("schedule"), &spec.schedule);
    if let Some(zone) = &spec.time_zone {
        time_zone(errors, &path.child("timeZone"), zone);
    }
    let policy = spec.concurrency_policy.as_deref();
    errors.one_of(&path.child("concurrencyPolicy"), policy, &["Allow", "Forbid", "Replace"]);
    for (name, number) in [
        ("startingDeadlineSeconds", spec.starting_deadline_seconds),
        ("successfulJobsHistoryLimit", spec.successful_jobs_history_limit.map(i64::from)),
        ("failedJobsHistoryLimit", spec.failed_jobs_history_limit.map(i64::from)),
    ] {
        errors.not_negative(&path.child(name), number);
    }
    let at = path.child("jobTemplate").child("spec");
    match &spec.job_template.spec {
        None => errors.required(&at, ""),
        Some(job) => {
            job::check_wishes(errors, &at, job);
            if job.manual_selector == Some(true) {
                errors.not_supported(&at.child("manualSelector"), true, &["nil", "false"]);
            }
            if job.selector.is_some() {
                errors.invalid(&at.child("selector"), "", "`selector` will be auto-generated");
            }
        }
    }
}

fn schedule(errors: &mut Errors, path: &Path, text: &str) {
    if text.is_empty() {
        return errors.required(path, "");
    }
    if text.contains("TZ") {
        let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        return errors.invalid(path, text, why);
    }
    if let Err(error) = text.parse::<Schedule>() {
        errors.invalid(path, text, &error.to_string());
    }
}

fn time_zone(errors: &mut Errors, path: &Path, zone: &str) {
    if zone.is_empty() {
        return errors.invalid(path, zone, "timeZone must be nil or non-empty string");
    }
    if zone.eq_ignore_ascii_case("local") {
        let why =
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        return errors.invalid(path, zone, why);
    }
    if let Err(why) = cron::zone(Some(zone)) {
        errors.invalid(path, zone, &why);
    }
}
