//! CronJob: a Job for each time of its schedule.
//!
//! ```text
//! reconcile ── status: which Jobs run, when the last one was for
//!     ├─ finished Jobs beyond the history limits are deleted
//!     └─ a time has come since the last one → (Replace: delete what runs) → Job → lastScheduleTime
//! ```
//! Of several missed times only the latest counts. A Job's name says its time, so no time is run twice.
//! Jobs that people make from it by hand belong to it but are not counted as running.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use serde_json::{Value, json};

use super::job::JOBS;
use super::look;
use super::outcome::{Act, Note, Outcome};
use super::runner::{Controller, Seen};
use super::workload;
use crate::cron::{self, Schedule};
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;
use crate::writer::Change;

pub const CRONJOBS: Resource = "cronjobs.batch";
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Missed times are looked at one by one up to here; beyond, people hear of it.
const MANY: usize = 100;

pub struct CronJobs;

impl Controller for CronJobs {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:cronjob-controller"
    }

    fn watches(&self) -> Vec<Resource> {
        vec![CRONJOBS, JOBS]
    }

    fn keys(&self, _world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        if seen.resource == CRONJOBS {
            return seen.latest().map(Object::key).into_iter().collect();
        }
        let owner = |job| workload::owner_key(CRONJOBS, "CronJob", job);
        let mut keys: Vec<Key> = seen.states().filter_map(owner).collect();
        keys.dedup();
        keys
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, now: Timestamp) -> Outcome {
        match Run::observe(world, key, now) {
            Some(run) => run.reconcile(),
            None => Outcome::idle(),
        }
    }
}

/// A Job of the CronJob.
struct Child {
    object: Arc<Object>,
    job: Arc<Job>,
}

impl Child {
    fn end(&self) -> Option<&'static str> {
        let status = self.job.status.as_ref()?;
        let conditions = || status.conditions.iter().flatten().filter(|c| c.status == "True");
        ["Complete", "Failed"].into_iter().find(|end| conditions().any(|c| c.type_ == *end))
    }

    /// The time of the schedule that it is for; None when people made it.
    fn scheduled_at(&self) -> Option<Timestamp> {
        let notes = self.job.metadata.annotations.as_ref()?;
        look::parse_time(notes.get(SCHEDULED_AT).map(String::as_str))
    }

    fn is_running(&self) -> bool {
        self.end().is_none() && self.scheduled_at().is_some()
    }
}

struct Run {
    now: Timestamp,
    object: Arc<Object>,
    cron: Arc<CronJob>,
    spec: CronJobSpec,
    children: Vec<Child>,
}

impl Run {
    fn observe(world: &dyn Reader, key: &Key, now: Timestamp) -> Option<Self> {
        let object = world.get(CRONJOBS, &key.namespace, &key.name)?;
        let cron: Arc<CronJob> = object.view().ok()?;
        let spec = cron.spec.clone()?;
        let jobs = world.list(JOBS, Some(&key.namespace)).into_iter();
        let own = jobs.filter(|job| look::is_controlled_by(&job.meta, &object.meta.uid));
        let child = |object: Arc<Object>| Some(Child { job: object.view().ok()?, object });
        let children = own.filter_map(child).collect();
        Some(Self { now, object, cron, spec, children })
    }

    fn reconcile(&self) -> Outcome {
        let mut outcome = Outcome::idle();
        if look::is_deleting(&self.object.meta) {
            return outcome;
        }
        let status = self.status(&mut outcome);
        let known = self.cron.status.clone().unwrap_or_default();
        if status != known {
            // Its event brings us back, with the rest.
            outcome.together(
                look::status_update(&self.object, &status).map(Act::from).into_iter().collect(),
            );
            return outcome;
        }
        outcome.together(self.history());
        if self.spec.suspend != Some(true) {
            self.start(&status, &mut outcome);
        }
        outcome
    }

    fn status(&self, outcome: &mut Outcome) -> CronJobStatus {
        let mut status = self.cron.status.clone().unwrap_or_default();
        let mut active = status.active.take().unwrap_or_default();
        active.retain(|known| {
            let child =
                self.children.iter().find(|c| Some(&c.object.meta.uid) == known.uid.as_ref());
            if let Some((child, end)) = child.and_then(|child| Some((child, child.end()?))) {
                let text =
                    format!("Saw completed job: {}, condition: {end}", child.object.meta.name);
                outcome.notes.push(Note::normal(&self.object, "SawCompletedJob", text));
            }
            child.is_some_and(Child::is_running)
        });
        for child in self.children.iter().filter(|child| child.is_running()) {
            let uid = Some(&child.object.meta.uid);
            if !active.iter().any(|known| known.uid.as_ref() == uid) {
                active.push(reference(&child.object));
            }
        }
        status.active = Some(active).filter(|active| !active.is_empty());
        let last = self.children.iter().filter_map(Child::scheduled_at).max();
        let later = |known: Option<&_>, seen: Option<Timestamp>| {
            known
                .map(|t: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time| t.0)
                .max(seen)
                .map(look::stamp)
        };
        status.last_schedule_time = later(status.last_schedule_time.as_ref(), last);
        let completed =
            |child: &Child| child.job.status.as_ref()?.completion_time.as_ref().map(|t| t.0);
        let last = self.children.iter().filter_map(completed).max();
        status.last_successful_time = later(status.last_successful_time.as_ref(), last);
        status
    }

    /// Finished Jobs that nobody asked to keep, oldest first.
    fn history(&self) -> Vec<Act> {
        let limits = [
            ("Complete", self.spec.successful_jobs_history_limit.unwrap_or(3)),
            ("Failed", self.spec.failed_jobs_history_limit.unwrap_or(1)),
        ];
        let mut acts = Vec::new();
        for (end, limit) in limits {
            let of_end =
                |child: &&Child| child.end() == Some(end) && !look::is_deleting(&child.object.meta);
            let mut ended: Vec<&Child> = self.children.iter().filter(of_end).collect();
            ended.sort_by_key(|child| {
                let started = child.job.status.as_ref().and_then(|s| s.start_time.as_ref());
                (started.map(|time| time.0), child.object.meta.name.clone())
            });
            let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
            acts.extend(ended.into_iter().take(surplus).map(|child| self.deletion(child)));
        }
        acts
    }

    fn deletion(&self, child: &Child) -> Act {
        let text = format!("Deleted job {}", child.object.meta.name);
        Act::from(look::deletion(&child.object))
            .noting(Note::normal(&self.object, "SuccessfulDelete", text))
            .or_noting(Note::warning(&self.object, "FailedDelete", "Deleted job: {}"))
    }

    fn start(&self, status: &CronJobStatus, outcome: &mut Outcome) {
        let timing = self
            .spec
            .schedule
            .parse::<Schedule>()
            .ok()
            .zip(cron::zone(self.spec.time_zone.as_deref()).ok());
        let Some((schedule, zone)) = timing else {
            // Validation has refused it; a zone may be unknown to another version.
            let text =
                format!("unparseable schedule {:?} or unknown time zone", self.spec.schedule);
            return outcome.notes.push(Note::warning(&self.object, "UnparseableSchedule", text));
        };
        if let Some(next) = schedule.after(self.now, &zone) {
            let wait = Duration::try_from(next.duration_since(self.now)).unwrap_or_default();
            outcome.again_after(wait);
        }
        let Some(time) = self.due(status, (&schedule, &zone), outcome) else { return };
        let running: Vec<&Child> = self.children.iter().filter(|c| c.is_running()).collect();
        match self.spec.concurrency_policy.as_deref() {
            Some("Forbid") if !running.is_empty() => {
                let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
                return outcome.notes.push(Note::normal(&self.object, "JobAlreadyActive", text));
            }
            Some("Replace") => {
                let leaving = running.iter().filter(|c| !look::is_deleting(&c.object.meta));
                outcome.together(leaving.map(|child| self.deletion(child)).collect());
            }
            _ => {}
        }
        outcome.together(self.creation(time, &zone).into_iter().collect());
        let mut status = status.clone();
        status.last_schedule_time = Some(look::stamp(time));
        outcome.together(
            look::status_update(&self.object, &status).map(Act::from).into_iter().collect(),
        );
    }

    /// The latest time since the last one that was run, unless it is too late for it.
    fn due(
        &self,
        status: &CronJobStatus,
        (schedule, zone): (&Schedule, &TimeZone),
        outcome: &mut Outcome,
    ) -> Option<Timestamp> {
        let created = look::parse_time(self.object.meta.creation_timestamp.as_deref());
        let mut since = status.last_schedule_time.as_ref().map(|time| time.0).or(created)?;
        if let Some(deadline) = self.spec.starting_deadline_seconds {
            // One second more: what is exactly at the deadline is still in time.
            let oldest =
                self.now.checked_sub(SignedDuration::from_secs(deadline.saturating_add(1))).ok();
            since = oldest.map_or(since, |oldest| oldest.max(since));
        }
        let (mut latest, mut missed) = (None, 0);
        while let Some(next) = schedule.after(since, zone).filter(|next| *next <= self.now) {
            (latest, since, missed) = (Some(next), next, missed + 1);
            if missed == MANY {
                let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
                outcome.notes.push(Note::warning(&self.object, "TooManyMissedTimes", text));
                return schedule.last(since, self.now, zone).or(latest);
            }
        }
        latest
    }

    fn creation(&self, time: Timestamp, zone: &TimeZone) -> Option<Act> {
        let template = &self.spec.job_template;
        let meta = template.metadata.clone().unwrap_or_default();
        let mut notes = meta.annotations.unwrap_or_default();
        let said = time.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
        notes.insert(SCHEDULED_AT.into(), said.replace("+00:00", "Z"));
        let mut metadata = json!({
            "name": format!("{}-{}", self.object.meta.name, time.as_second() / 60),
            "namespace": self.object.meta.namespace,
            "annotations": notes,
            "ownerReferences": [workload::reference(&self.object)],
        });
        if let Some(labels) = meta.labels {
            metadata["labels"] = json!(labels);
        }
        let spec: Value = serde_json::to_value(template.spec.as_ref()?).ok()?;
        let object =
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec});
        let act = Act::from(Change::Create { resource: JOBS, object })
            .noting(Note::normal(&self.object, "SuccessfulCreate", "Created job {}"))
            .or_noting(Note::warning(&self.object, "FailedCreate", "Error creating job: {}"));
        Some(act)
    }
}

fn reference(job: &Object) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".into()),
        kind: Some("Job".into()),
        name: Some(job.meta.name.clone()),
        namespace: Some(job.meta.namespace.clone()),
        uid: Some(job.meta.uid.clone()),
        resource_version: Some(job.meta.resource_version.to_string()),
        ..ObjectReference::default()
    }
}
