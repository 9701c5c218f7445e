//! Conditions of a Deployment: Available, Progressing, ReplicaFailure, with upstream's reasons. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus};

use super::Rollout;
use super::status::is_complete_in;
use crate::controllers::look;
use crate::writer::Change;

pub(super) const TIMED_OUT: &str = "ProgressDeadlineExceeded";
pub(super) const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const PAUSED: &str = "DeploymentPaused";

pub(super) fn find<'a>(
    status: &'a DeploymentStatus,
    name: &str,
) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == name)
}

/// Sets a condition. The same status and reason change nothing; the same status keeps its transition time.
pub(super) fn set(
    status: &mut DeploymentStatus,
    now: Timestamp,
    name: &str,
    value: &str,
    reason: &str,
    message: String,
) {
    let known = find(status, name);
    if known.is_some_and(|c| c.status == value && c.reason.as_deref() == Some(reason)) {
        return;
    }
    replace(status, now, name, value, reason, message);
}

/// As [`set`], and the update time moves even when nothing but time changed: progress was made.
fn replace(
    status: &mut DeploymentStatus,
    now: Timestamp,
    name: &str,
    value: &str,
    reason: &str,
    message: String,
) {
    let since = find(status, name).filter(|c| c.status == value);
    let since = since.and_then(|c| c.last_transition_time.clone());
    let condition = DeploymentCondition {
        type_: name.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(look::stamp(now)),
        last_transition_time: since.or_else(|| Some(look::stamp(now))),
    };
    remove(status, name);
    status.conditions.get_or_insert_default().push(condition);
}

fn remove(status: &mut DeploymentStatus, name: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| c.type_ != name);
    }
}

fn deadline(rollout: &Rollout) -> Option<Duration> {
    let seconds = rollout.spec.progress_deadline_seconds.filter(|s| *s != i32::MAX)?;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

/// Says that a rollout was paused or resumed, so that the time in between counts as no progress of neither kind.
pub(super) fn paused(rollout: &Rollout) -> Option<Change> {
    deadline(rollout)?;
    let mut status = rollout.deployment.status.clone().unwrap_or_default();
    let reason = find(&status, "Progressing").and_then(|c| c.reason.clone()).unwrap_or_default();
    let (reason, message) = match (rollout.is_paused(), reason.as_str()) {
        (_, TIMED_OUT) | (true, PAUSED) => return None,
        (true, _) => (PAUSED, "Deployment is paused"),
        (false, PAUSED) => ("DeploymentResumed", "Deployment is resumed"),
        (false, _) => return None,
    };
    set(&mut status, rollout.now, "Progressing", "Unknown", reason, message.into());
    look::status_update(&rollout.object, &status)
}

/// The status that goes with the creation of a new set.
pub(super) fn created(rollout: &Rollout, name: &str) -> Option<Change> {
    deadline(rollout)?;
    let mut status = rollout.deployment.status.clone().unwrap_or_default();
    let message = format!("Created new replica set \"{name}\"");
    set(&mut status, rollout.now, "Progressing", "True", "NewReplicaSetCreated", message);
    look::status_update(&rollout.object, &status)
}

pub(super) fn availability(rollout: &Rollout, status: &mut DeploymentStatus) {
    let least = rollout.replicas() - rollout.max_unavailable();
    let enough = status.available_replicas.unwrap_or(0) >= least;
    let (value, reason, message) = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(status, rollout.now, "Available", value, reason, message.into());
}

/// Judges progress from the counts as they were and as they are.
pub(super) fn progress(rollout: &Rollout, status: &mut DeploymentStatus) {
    let Some(deadline) = deadline(rollout) else { return remove(status, "Progressing") };
    let before = rollout.deployment.status.clone().unwrap_or_default();
    let current = find(&before, "Progressing").cloned();
    let reason = current.as_ref().and_then(|c| c.reason.as_deref());
    if status.replicas == status.updated_replicas && reason == Some(NEW_SET_AVAILABLE) {
        return;
    }
    let what = match &rollout.new {
        Some(set) => format!("ReplicaSet \"{}\"", set.name()),
        None => format!("Deployment \"{}\"", rollout.name()),
    };
    if is_complete_in(rollout, status) {
        let message = format!("{what} has successfully progressed.");
        set(status, rollout.now, "Progressing", "True", NEW_SET_AVAILABLE, message);
    } else if has_progressed(&before, status) {
        let message = format!("{what} is progressing.");
        replace(status, rollout.now, "Progressing", "True", "ReplicaSetUpdated", message);
    } else if current.is_none() && rollout.new.is_some() {
        let message = format!("Found new replica set {}", what.trim_start_matches("ReplicaSet "));
        set(status, rollout.now, "Progressing", "True", "FoundNewReplicaSet", message);
    } else if timed_out(status, deadline, rollout.now) {
        let message = format!("{what} has timed out progressing.");
        set(status, rollout.now, "Progressing", "False", TIMED_OUT, message);
    }
}

fn has_progressed(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let n = |value: Option<i32>| value.unwrap_or(0);
    let old = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(after.updated_replicas) > n(before.updated_replicas)
        || old(after) < old(before)
        || n(after.ready_replicas) > n(before.ready_replicas)
        || n(after.available_replicas) > n(before.available_replicas)
}

fn timed_out(status: &DeploymentStatus, deadline: Duration, now: Timestamp) -> bool {
    let Some(current) = find(status, "Progressing") else { return false };
    match current.reason.as_deref() {
        Some(NEW_SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => current
            .last_update_time
            .as_ref()
            .is_some_and(|since| look::remaining(since.0, deadline, now).is_none()),
    }
}

/// When to look again whether the deadline has passed.
pub(super) fn check_after(rollout: &Rollout, status: &DeploymentStatus) -> Option<Duration> {
    let deadline = deadline(rollout)?;
    let current = find(status, "Progressing")?;
    if is_complete_in(rollout, status) || current.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let since = current.last_update_time.as_ref()?.0;
    look::remaining(since, deadline + Duration::from_secs(1), rollout.now)
}

/// Passes on what keeps a set from making Pods; the current set's word comes first.
pub(super) fn failure(rollout: &Rollout, status: &mut DeploymentStatus) {
    let failures = rollout.new.iter().chain(&rollout.old).filter_map(|set| {
        let conditions = set.set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|c| c.type_ == "ReplicaFailure").cloned()
    });
    match failures.into_iter().next() {
        Some(c) => set(
            status,
            rollout.now,
            "ReplicaFailure",
            &c.status,
            c.reason.as_deref().unwrap_or_default(),
            c.message.unwrap_or_default(),
        ),
        None => remove(status, "ReplicaFailure"),
    }
}
