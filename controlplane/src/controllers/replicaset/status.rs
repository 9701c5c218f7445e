//! `status` of a ReplicaSet: counts and the ReplicaFailure condition. Pure.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};

use super::Set;
use crate::controllers::look::{self, Availability};
use crate::controllers::outcome::Outcome;
use crate::writer::Change;

/// Writes the status if it differs, and asks to come back when a ready Pod becomes available by waiting.
pub(super) fn sync(set: &Set, now: Timestamp, outcome: &mut Outcome) {
    let (mut status, wait) = count(set, now);
    if set.active().count() == set.replicas() {
        status.conditions = None;
    }
    if let Some(wait) = wait {
        outcome.again_after(wait);
    }
    if let Some(change) = difference(set, &status) {
        outcome.push(change);
    }
}

/// The status after a write was refused.
pub(super) fn failure(set: &Set, reason: &str, message: &str, now: Timestamp) -> Option<Change> {
    let (mut status, _) = count(set, now);
    let known = status.conditions.iter().flatten().any(|c| c.reason.as_deref() == Some(reason));
    if !known {
        status.conditions = Some(vec![ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_transition_time: Some(look::stamp(now)),
        }]);
    }
    difference(set, &status)
}

fn difference(set: &Set, status: &ReplicaSetStatus) -> Option<Change> {
    let mut known = set.set.status.clone().unwrap_or_default();
    for field in [
        &mut known.fully_labeled_replicas,
        &mut known.ready_replicas,
        &mut known.available_replicas,
    ] {
        *field = field.filter(|n| *n != 0);
    }
    if known == *status {
        return None;
    }
    look::status_update(&set.object, status)
}

/// Counts, with the conditions as they are; and how long until the next Pod becomes available by waiting.
fn count(set: &Set, now: Timestamp) -> (ReplicaSetStatus, Option<std::time::Duration>) {
    let spec = set.set.spec.as_ref();
    let min_ready = spec.and_then(|s| s.min_ready_seconds).unwrap_or(0);
    let template = spec.and_then(|s| s.template.as_ref()).and_then(|t| t.metadata.as_ref());
    let labels = template.and_then(|m| m.labels.clone()).unwrap_or_default();
    let (mut all, mut labelled, mut ready, mut available, mut wait) = (0, 0, 0, 0, None);
    for pod in set.active() {
        all += 1;
        labelled += i32::from(labels.iter().all(|(k, v)| pod.meta().labels.get(k) == Some(v)));
        ready += i32::from(pod.is_ready());
        match pod.availability(min_ready, now) {
            Availability::Yes => available += 1,
            Availability::After(left) => {
                wait = Some(wait.map_or(left, |w: std::time::Duration| w.min(left)))
            }
            Availability::No => {}
        }
    }
    // A count of zero is left out, as the API does.
    let counted = |n: i32| (n > 0).then_some(n);
    let status = ReplicaSetStatus {
        replicas: all,
        fully_labeled_replicas: counted(labelled),
        ready_replicas: counted(ready),
        available_replicas: counted(available),
        observed_generation: Some(set.object.meta.generation),
        conditions: set.set.status.as_ref().and_then(|s| s.conditions.clone()),
        terminating_replicas: None,
    };
    (status, wait)
}
