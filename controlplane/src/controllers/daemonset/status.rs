//! `status` of a DaemonSet: nodes, counted by the oldest Pod of each. Pure.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSetStatus;

use super::{Daemon, is_updated};
use crate::controllers::look::{self, Availability};
use crate::controllers::outcome::Outcome;

/// Writes the status if it differs, and asks to come back when a ready Pod becomes available by waiting.
pub(super) fn sync(daemon: &Daemon, hash: &str, outcome: &mut Outcome) {
    let (status, wait) = count(daemon, hash);
    if let Some(wait) = wait {
        outcome.again_after(wait);
    }
    if daemon.set.status.as_ref() != Some(&status)
        && let Some(change) = look::status_update(&daemon.object, &status)
    {
        outcome.push(change);
    }
}

fn count(daemon: &Daemon, hash: &str) -> (DaemonSetStatus, Option<Duration>) {
    let known = daemon.set.status.clone().unwrap_or_default();
    let mut status = DaemonSetStatus {
        observed_generation: Some(daemon.object.meta.generation),
        collision_count: known.collision_count,
        conditions: known.conditions,
        ..DaemonSetStatus::default()
    };
    let (mut available, mut updated, mut wait) = (0, 0, None::<Duration>);
    for place in &daemon.places {
        if !place.may_start {
            status.number_misscheduled += i32::from(!place.pods.is_empty());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(pod) = place.pods.first() else { continue };
        status.current_number_scheduled += 1;
        status.number_ready += i32::from(pod.is_ready());
        updated += i32::from(is_updated(pod, hash));
        available += i32::from(daemon.is_available(pod));
        // The second Pod of a surge is waited for as well.
        for pod in &place.pods {
            if let Availability::After(left) = daemon.availability(pod) {
                wait = Some(wait.map_or(left, |w| w.min(left)));
            }
        }
    }
    // A count of zero is left out, as the API does.
    let counted = |n: i32| (n > 0).then_some(n);
    status.number_available = counted(available);
    status.number_unavailable = counted(status.desired_number_scheduled - available);
    status.updated_number_scheduled = counted(updated);
    (status, wait)
}
