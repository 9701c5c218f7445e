//! RollingUpdate: one step, within the bounds. Pure.
//!
//! Up: the new set grows into the room under `replicas + maxSurge`. Pods on their way out still take room,
//! and so does whatever a set has that was not told yet to shrink: the total that *exists* stays in bounds,
//! not just the total that is wanted.
//!
//! Down: old sets first lose Pods that are not available (they serve nobody), then as many as there are
//! available Pods beyond `replicas - maxUnavailable`. Availability is counted on the Pods themselves and
//! capped by what their set wants, so that a status that lags cannot let two steps spend the same Pod.

use super::{Rollout, Set, revision, status};
use crate::controllers::outcome::{Act, Outcome};

pub(super) fn step(rollout: &Rollout, outcome: &mut Outcome) {
    let Some(new) = &rollout.new else {
        revision::create(rollout, outcome);
        return;
    };
    if !revision::sync(rollout, outcome) {
        return;
    }
    let target = new_size(rollout);
    if target != new.replicas() {
        outcome.together(rollout.resize(new, target).into_iter().collect());
        return;
    }
    let shrunk = shrink(rollout, new);
    if !shrunk.is_empty() {
        outcome.together(shrunk);
        return;
    }
    if status::is_complete(rollout) {
        revision::clean_up(rollout, outcome);
    }
    status::sync(rollout, outcome);
}

/// How large the new set may be now.
pub(super) fn new_size(rollout: &Rollout) -> i32 {
    let current = rollout.new.as_ref().map_or(0, Set::replicas);
    let wanted = rollout.replicas();
    if rollout.is_recreate() || current >= wanted {
        return wanted;
    }
    // A set that has not heard of its newest size may still be making Pods for the one before.
    if !rollout.sets().all(Set::is_observed) {
        return current;
    }
    let existing: i32 = rollout.sets().map(Set::occupied).sum();
    let room = wanted + rollout.max_surge() - existing;
    current + room.clamp(0, wanted - current)
}

fn shrink(rollout: &Rollout, new: &Set) -> Vec<Act> {
    let old_total: i32 = rollout.old.iter().map(Set::replicas).sum();
    if old_total == 0 {
        return Vec::new();
    }
    let least = rollout.replicas() - rollout.max_unavailable();
    let new_missing = new.replicas() - new.available;
    let spare = old_total + new.replicas() - least - new_missing;
    let mut sizes: Vec<i32> = rollout.old.iter().map(Set::replicas).collect();
    drop_unavailable(rollout, &mut sizes, spare);
    drop_available(rollout, &mut sizes, least, new.available);
    let resized = rollout.old.iter().zip(sizes).filter(|(set, size)| set.replicas() != *size);
    resized.filter_map(|(set, size)| rollout.resize(set, size)).collect()
}

fn drop_unavailable(rollout: &Rollout, sizes: &mut [i32], mut spare: i32) {
    for (set, size) in rollout.old.iter().zip(sizes) {
        let drop = (*size - set.available).min(spare).max(0);
        *size -= drop;
        spare -= drop;
    }
}

/// Oldest first.
fn drop_available(rollout: &Rollout, sizes: &mut [i32], least: i32, new_available: i32) {
    let available: i32 = rollout.old.iter().map(|set| set.available).sum::<i32>() + new_available;
    let mut spare = available - least;
    for (set, size) in rollout.old.iter().zip(sizes) {
        // Pods that are not available are no help, but shrinking by one may cost an available one.
        let drop = set.available.min(*size).min(spare).max(0);
        *size -= drop;
        spare -= drop;
    }
}
