//! Job: Pods that run to completion, counted once each.
//!
//! ```text
//! a Pod ends ─→ its uid into status.uncountedTerminatedPods ─→ its finalizer goes ─→ uid becomes a count
//! reconcile ─ count ─┬─ enough succeeded → SuccessCriteriaMet ┐ Pods that still run are deleted; when none is
//!                    ├─ too many failed, too late → FailureTarget ┘ left: Complete | Failed → (TTL) deleted
//!                    ├─ suspended → no Pods
//!                    └─ as many Pods as parallelism and missing completions allow
//! ```
//! The finalizer keeps a Pod from vanishing before it is counted; the status is always written first.

mod indexes;
mod make;
mod outcome;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};

use super::look::{self, PodView};
use super::outcome::{Act, Outcome};
use super::runner::{Controller, Seen};
use super::workload::{self, Pods};
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;
use crate::writer::Change;
use indexes::Indexes;

pub const JOBS: Resource = "jobs.batch";
pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";

pub struct Jobs;

impl Controller for Jobs {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:job-controller"
    }

    fn watches(&self) -> Vec<Resource> {
        vec![JOBS, "pods"]
    }

    fn keys(&self, world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        if seen.resource == JOBS {
            return seen.latest().map(Object::key).into_iter().collect();
        }
        workload::keys(world, (JOBS, "Job"), seen, |job| {
            job.view::<Job>().ok()?.spec.as_ref()?.selector.clone()
        })
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::idle();
        outcome.together(abandoned(world, key));
        if let Some(run) = Run::observe(world, key, now) {
            run.reconcile(&mut outcome);
        }
        outcome
    }
}

/// Pods of a Job that is gone are held for nobody.
fn abandoned(world: &dyn Reader, key: &Key) -> Vec<Act> {
    let job = world.get(JOBS, &key.namespace, &key.name);
    let held = world.list("pods", Some(&key.namespace)).into_iter().filter(|pod| is_held(pod));
    let lost = held.filter(|pod| {
        let owner =
            look::controller_of(&pod.meta).filter(|o| o.kind == "Job" && *o.name == *key.name);
        owner.is_some_and(|owner| job.as_ref().is_none_or(|job| job.meta.uid != owner.uid))
    });
    lost.map(|pod| release(&pod)).collect()
}

fn is_held(pod: &Object) -> bool {
    pod.meta.finalizers.iter().any(|finalizer| finalizer == FINALIZER)
}

fn release(pod: &Object) -> Act {
    let change: Change = look::edited(pod, |value| {
        if let Some(finalizers) = value["metadata"]["finalizers"].as_array_mut() {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
    });
    change.into()
}

/// The completion index of a Pod.
fn index_of(pod: &PodView) -> Option<u32> {
    pod.pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

/// A Job, its Pods, and the status as it should be.
struct Run {
    now: Timestamp,
    object: Arc<Object>,
    known: JobStatus,
    spec: JobSpec,
    pods: Pods,
    status: JobStatus,
    completed: Indexes,
}

impl Run {
    fn observe(world: &dyn Reader, key: &Key, now: Timestamp) -> Option<Self> {
        let object = world.get(JOBS, &key.namespace, &key.name)?;
        let job: Arc<Job> = object.view().ok()?;
        let spec = job.spec.clone()?;
        let pods = Pods::observe(world, &object, spec.selector.as_ref()?);
        let known = job.status.clone().unwrap_or_default();
        let status = known.clone();
        let completed = Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default());
        Some(Self { now, object, known, spec, pods, status, completed })
    }

    fn reconcile(mut self, outcome: &mut Outcome) {
        if look::is_deleting(&self.object.meta) {
            let leaving = self.held().filter(|pod| pod.is_terminating());
            return outcome.together(leaving.map(|pod| release(&pod.object)).collect());
        }
        let claims = self.pods.claims(&self.object);
        if !claims.is_empty() {
            return outcome.together(claims);
        }
        if let Some(since) = outcome::finished_at(&self.known) {
            return self.after_the_end(since, outcome);
        }
        self.count();
        let end = outcome::decide(&mut self);
        self.summarize();
        if self.status != self.known {
            outcome.together(
                look::status_update(&self.object, &self.status)
                    .map(Act::from)
                    .into_iter()
                    .collect(),
            );
        }
        let counted: Vec<Act> = self.counted().map(|pod| release(&pod.object)).collect();
        if !counted.is_empty() {
            // Their events bring us back, and the counts are final.
            return outcome.together(counted);
        }
        let suspended = self.spec.suspend == Some(true);
        if end || suspended {
            let active = self.active().map(|pod| workload::deletion(&self.object, pod));
            return outcome.together(active.take(workload::BURST).collect());
        }
        if let Some(left) = outcome::deadline(&self) {
            outcome.again_after(left);
        }
        make::step(&self, outcome);
    }

    /// Nothing is held any more; the Job itself goes when its time is over.
    fn after_the_end(&self, since: Timestamp, outcome: &mut Outcome) {
        outcome.together(self.held().map(|pod| release(&pod.object)).collect());
        let Some(ttl) = self.spec.ttl_seconds_after_finished else { return };
        let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
        match look::remaining(since, ttl, self.now) {
            Some(left) => outcome.again_after(left),
            None => outcome.push(look::deletion(&self.object)),
        }
    }

    fn held(&self) -> impl Iterator<Item = &PodView> {
        self.pods.own.iter().filter(|pod| is_held(&pod.object))
    }

    fn active(&self) -> impl Iterator<Item = &PodView> {
        self.pods.own.iter().filter(|pod| pod.is_active())
    }

    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    /// Turns uids without a finalizer into counts, and notes the uids of Pods that ended.
    fn count(&mut self) {
        let mut uncounted = self.status.uncounted_terminated_pods.take().unwrap_or_default();
        let held: Vec<PodView> = self.held().cloned().collect();
        let flush = |uids: &mut Option<Vec<String>>, total: &mut Option<i32>| {
            let before = uids.as_ref().map_or(0, Vec::len);
            if let Some(uids) = uids {
                uids.retain(|uid| held.iter().any(|pod| pod.meta().uid == *uid));
            }
            let gone = before - uids.as_ref().map_or(0, Vec::len);
            let sum = total.unwrap_or(0) + i32::try_from(gone).unwrap_or(i32::MAX);
            *total = (sum > 0).then_some(sum);
        };
        flush(&mut uncounted.succeeded, &mut self.status.succeeded);
        flush(&mut uncounted.failed, &mut self.status.failed);
        for pod in &held {
            let note = |uids: &mut Option<Vec<String>>| {
                let uids = uids.get_or_insert_default();
                if !uids.contains(&pod.meta().uid) {
                    uids.push(pod.meta().uid.clone());
                }
            };
            match pod.phase() {
                "Succeeded" if self.is_indexed() => self.completed.extend(index_of(pod)),
                "Succeeded" => note(&mut uncounted.succeeded),
                // A Pod that is told to go may never get a chance to fail.
                "Failed" => note(&mut uncounted.failed),
                _ if pod.is_terminating() => note(&mut uncounted.failed),
                _ => {}
            }
        }
        uncounted.succeeded = uncounted.succeeded.filter(|uids| !uids.is_empty());
        uncounted.failed = uncounted.failed.filter(|uids| !uids.is_empty());
        if self.is_indexed() {
            let below = self.spec.completions.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
            self.completed.keep_below(below);
            self.status.completed_indexes = self.completed.text();
            self.status.succeeded = self.completed.len_i32();
        }
        self.status.uncounted_terminated_pods = Some(uncounted);
    }

    /// Held Pods whose end is in the status.
    fn counted(&self) -> impl Iterator<Item = &PodView> {
        self.held().filter(|pod| pod.is_finished() || pod.is_terminating())
    }

    fn succeeded(&self) -> i32 {
        let waiting = self.status.uncounted_terminated_pods.as_ref();
        let waiting = waiting.and_then(|u| u.succeeded.as_ref()).map_or(0, Vec::len);
        self.status.succeeded.unwrap_or(0) + i32::try_from(waiting).unwrap_or(i32::MAX)
    }

    fn failed(&self) -> i32 {
        let waiting = self.status.uncounted_terminated_pods.as_ref();
        let waiting = waiting.and_then(|u| u.failed.as_ref()).map_or(0, Vec::len);
        self.status.failed.unwrap_or(0) + i32::try_from(waiting).unwrap_or(i32::MAX)
    }

    fn active_count(&self) -> i32 {
        i32::try_from(self.active().count()).unwrap_or(i32::MAX)
    }

    fn leaving(&self) -> usize {
        let pods = self.pods.own.iter();
        pods.filter(|pod| pod.is_terminating() && !pod.is_finished()).count()
    }

    fn summarize(&mut self) {
        let active = self.active_count();
        let ready = self.active().filter(|pod| pod.is_ready()).count();
        self.status.active = (active > 0).then_some(active);
        self.status.ready = i32::try_from(ready).ok();
        self.status.terminating = i32::try_from(self.leaving()).ok();
    }
}
