//! How a Job ends, and its conditions. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobCondition, JobStatus};

use super::Run;
use crate::controllers::look;

fn find<'s>(status: &'s JobStatus, name: &str) -> Option<&'s JobCondition> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|c| c.type_ == name && c.status == "True")
}

/// When it was said that the Job is over.
pub(super) fn finished_at(status: &JobStatus) -> Option<Timestamp> {
    let end = find(status, "Complete").or_else(|| find(status, "Failed"))?;
    end.last_transition_time.as_ref().map(|time| time.0)
}

fn set(run: &mut Run, name: &str, status: &str, reason: &str, message: &str) {
    let time = Some(look::stamp(run.now));
    let conditions = run.status.conditions.get_or_insert_default();
    let condition = JobCondition {
        type_: name.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: time.clone(),
        last_transition_time: time,
    };
    match conditions.iter_mut().find(|c| c.type_ == name) {
        Some(same) if same.status == status => {}
        Some(other) => *other = condition,
        None => conditions.push(condition),
    }
}

/// Brings start time and conditions up to date; true when no Pod shall run any more.
pub(super) fn decide(run: &mut Run) -> bool {
    suspension(run);
    for (target, end) in [("FailureTarget", "Failed"), ("SuccessCriteriaMet", "Complete")] {
        if find(&run.status, target).is_none()
            && let Some((reason, message)) = verdict(run, target)
        {
            set(run, target, "True", reason, message);
        }
        if let Some(why) = find(&run.status, target).cloned() {
            if run.active_count() == 0 && run.leaving() == 0 && is_counted(run) {
                let (reason, message) =
                    (why.reason.unwrap_or_default(), why.message.unwrap_or_default());
                set(run, end, "True", &reason, &message);
                if end == "Complete" {
                    run.status.completion_time = Some(look::stamp(run.now));
                }
            }
            return true;
        }
    }
    false
}

fn is_counted(run: &Run) -> bool {
    let waiting = run.status.uncounted_terminated_pods.as_ref();
    waiting.is_none_or(|u| u.succeeded.is_none() && u.failed.is_none())
        && run.counted().next().is_none()
}

fn suspension(run: &mut Run) {
    if run.spec.suspend == Some(true) {
        run.status.start_time = None;
        set(run, "Suspended", "True", "JobSuspended", "Job suspended");
        return;
    }
    if run.status.start_time.is_none() {
        run.status.start_time = Some(look::stamp(run.now));
    }
    if find(&run.status, "Suspended").is_some() {
        set(run, "Suspended", "False", "JobResumed", "Job resumed");
    }
}

fn verdict(run: &Run, target: &str) -> Option<(&'static str, &'static str)> {
    if target == "SuccessCriteriaMet" {
        let enough = match run.spec.completions {
            Some(wanted) => run.succeeded() >= wanted,
            None => run.succeeded() > 0 && run.active_count() == 0,
        };
        return enough
            .then_some(("CompletionsReached", "Reached expected number of succeeded pods"));
    }
    let limit = run.spec.backoff_limit.unwrap_or(6);
    if run.failed() > limit || restarts(run) >= limit.max(1) {
        return Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
    }
    let late = run.spec.suspend != Some(true)
        && run.spec.active_deadline_seconds.is_some()
        && deadline(run).is_none();
    late.then_some(("DeadlineExceeded", "Job was active longer than specified deadline"))
}

/// Restarts inside of Pods, where these are what a failure is.
fn restarts(run: &Run) -> i32 {
    let spec = run.spec.template.spec.as_ref();
    if spec.and_then(|s| s.restart_policy.as_deref()) != Some("OnFailure") {
        return 0;
    }
    let running = run.active().filter_map(|pod| pod.pod.status.as_ref());
    let containers = running.flat_map(|status| {
        let init = status.init_container_statuses.iter().flatten();
        init.chain(status.container_statuses.iter().flatten())
    });
    containers.map(|container| container.restart_count).sum()
}

/// How long the Job may still be active; None when it has no deadline or it has passed.
pub(super) fn deadline(run: &Run) -> Option<Duration> {
    let seconds = u64::try_from(run.spec.active_deadline_seconds?).unwrap_or(0);
    let start = run.status.start_time.as_ref()?.0;
    look::remaining(start, Duration::from_secs(seconds), run.now)
}
