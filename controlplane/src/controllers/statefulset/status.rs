//! `status` of a StatefulSet: counts and revisions. Pure.

use k8s_openapi::api::apps::v1::StatefulSetStatus;

use super::{Revisions, Set};
use crate::controllers::history::HASH;
use crate::controllers::look::{self, Availability};
use crate::controllers::outcome::Outcome;

/// Writes the status if it differs, and asks to come back when a ready Pod becomes available by waiting.
pub(super) fn sync(set: &Set<'_>, revisions: &Revisions, outcome: &mut Outcome) {
    for pod in &set.pods.own {
        if let Availability::After(left) = set.availability(pod) {
            outcome.again_after(left);
        }
    }
    let status = count(set, revisions);
    if set.set.status.as_ref() != Some(&status)
        && let Some(change) = look::status_update(&set.object, &status)
    {
        outcome.push(change);
    }
}

fn count(set: &Set<'_>, revisions: &Revisions) -> StatefulSetStatus {
    let known = set.set.status.clone().unwrap_or_default();
    let (mut all, mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0, 0);
    for pod in &set.pods.own {
        all += 1;
        ready += i32::from(pod.phase() == "Running" && pod.is_ready());
        available += i32::from(set.availability(pod) == Availability::Yes);
        if !pod.is_terminating() {
            let label = pod.meta().labels.get(HASH);
            current += i32::from(label == Some(&revisions.current));
            updated += i32::from(label == Some(&revisions.newest));
        }
    }
    let wanted = set.spec.replicas.unwrap_or(1);
    let complete = set.is_rolling() && [all, ready, updated].iter().all(|n| *n == wanted);
    let revision = if complete { &revisions.newest } else { &revisions.current };
    // A count of zero is left out, as the API does.
    let counted = |n: i32| (n > 0).then_some(n);
    StatefulSetStatus {
        observed_generation: Some(set.object.meta.generation),
        replicas: all,
        ready_replicas: counted(ready),
        available_replicas: Some(available),
        current_replicas: counted(if complete { updated } else { current }),
        updated_replicas: counted(updated),
        current_revision: Some(revision.clone()),
        update_revision: Some(revisions.newest.clone()),
        collision_count: known.collision_count,
        conditions: known.conditions,
    }
}
