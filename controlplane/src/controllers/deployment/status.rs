//! `status` of a Deployment: counts over its sets, and conditions. Pure.

use k8s_openapi::api::apps::v1::{DeploymentStatus, ReplicaSetStatus};

use super::{Rollout, Set, conditions};
use crate::controllers::look;
use crate::controllers::outcome::Outcome;

/// Counts, availability and progress; written if they differ.
pub(super) fn sync(rollout: &Rollout, outcome: &mut Outcome) {
    let mut status = count(rollout);
    conditions::progress(rollout, &mut status);
    conditions::failure(rollout, &mut status);
    if let Some(delay) = conditions::check_after(rollout, &status) {
        outcome.again_after(delay);
    }
    write(rollout, status, outcome);
}

/// Counts and availability only: no step is being taken, so there is no progress to judge.
pub(super) fn sync_counts(rollout: &Rollout, outcome: &mut Outcome) {
    write(rollout, count(rollout), outcome);
}

fn write(rollout: &Rollout, status: DeploymentStatus, outcome: &mut Outcome) {
    let known = tidy(rollout.deployment.status.clone().unwrap_or_default());
    let status = tidy(status);
    if known != status {
        outcome.together(
            look::status_update(&rollout.object, &status).map(Into::into).into_iter().collect(),
        );
    }
}

/// A count of zero is left out, as the API does.
fn tidy(mut status: DeploymentStatus) -> DeploymentStatus {
    for field in [
        &mut status.replicas,
        &mut status.updated_replicas,
        &mut status.ready_replicas,
        &mut status.available_replicas,
        &mut status.unavailable_replicas,
    ] {
        *field = field.filter(|n| *n != 0);
    }
    status.conditions = status.conditions.filter(|c| !c.is_empty());
    status
}

fn count(rollout: &Rollout) -> DeploymentStatus {
    let sum = |pick: fn(&ReplicaSetStatus) -> i32| -> i32 {
        rollout.sets().filter_map(|set| set.set.status.as_ref()).map(pick).sum()
    };
    let available = sum(|s| s.available_replicas.unwrap_or(0));
    let wanted: i32 = rollout.sets().map(Set::replicas).sum();
    let updated = rollout.new.as_ref().and_then(|set| set.set.status.as_ref());
    let before = rollout.deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: Some(rollout.object.meta.generation),
        replicas: Some(sum(|s| s.replicas)),
        updated_replicas: Some(updated.map_or(0, |s| s.replicas)),
        ready_replicas: Some(sum(|s| s.ready_replicas.unwrap_or(0))),
        available_replicas: Some(available),
        unavailable_replicas: Some((wanted - available).max(0)),
        collision_count: before.collision_count,
        conditions: before.conditions,
        terminating_replicas: None,
    };
    conditions::availability(rollout, &mut status);
    status
}

/// Everything is of the current template, nothing is missing and nothing is left over.
pub(super) fn is_complete(rollout: &Rollout) -> bool {
    is_complete_in(rollout, &count(rollout))
}

pub(super) fn is_complete_in(rollout: &Rollout, status: &DeploymentStatus) -> bool {
    let wanted = rollout.replicas();
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
}
