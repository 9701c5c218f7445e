//! Scaling outside of a rollout's steps: a paused Deployment, or one whose `replicas` changed half-way. Pure.
//!
//! When several sets have Pods, the difference is shared in proportion to their sizes, so that a rollout
//! that is being watched keeps its ratio of old and new.

use super::revision::{self, DESIRED, MAXIMUM};
use super::{Rollout, Set, status};
use crate::controllers::outcome::{Act, Outcome};

/// `replicas` is not what the sets were sized for.
pub(super) fn is_wanted(rollout: &Rollout) -> bool {
    let wanted = rollout.replicas().to_string();
    let active: Vec<&Set> = rollout.sets().filter(|set| set.replicas() > 0).collect();
    // Recreate shares nothing: its own step empties what is old.
    if rollout.is_recreate() && active.len() > 1 {
        return false;
    }
    active.iter().any(|set| set.annotation(DESIRED).is_some_and(|sized_for| sized_for != wanted))
}

pub(super) fn step(rollout: &Rollout, outcome: &mut Outcome) {
    if !revision::sync(rollout, outcome) {
        return;
    }
    outcome.together(resize(rollout));
    if outcome.is_idle() {
        if rollout.is_paused() {
            revision::clean_up(rollout, outcome);
        }
        status::sync_counts(rollout, outcome);
    }
}

fn resize(rollout: &Rollout) -> Vec<Act> {
    if let Some(only) = only_active(rollout) {
        return rollout.resize(only, rollout.replicas()).into_iter().collect();
    }
    if rollout.new.as_ref().is_some_and(|new| is_saturated(rollout, new)) {
        return rollout
            .old
            .iter()
            .filter(|set| set.replicas() > 0)
            .filter_map(|set| rollout.resize(set, 0))
            .collect();
    }
    let mut sets: Vec<&Set> = rollout.sets().filter(|set| set.replicas() > 0).collect();
    let sizes = proportional(rollout, &mut sets);
    sets.iter().zip(sizes).filter_map(|(set, size)| rollout.resize(set, size)).collect()
}

/// The one set with Pods; if none has any, the current one, or the latest.
fn only_active(rollout: &Rollout) -> Option<&Set> {
    let mut active = rollout.sets().filter(|set| set.replicas() > 0);
    match (active.next(), active.next()) {
        (None, _) => rollout.new.as_ref().or(rollout.old.last()),
        (Some(only), None) => Some(only),
        (Some(_), Some(_)) => None,
    }
}

/// The new set is complete, whatever the old ones hold.
fn is_saturated(rollout: &Rollout, new: &Set) -> bool {
    let wanted = rollout.replicas();
    new.replicas() == wanted
        && new.annotation(DESIRED) == Some(wanted.to_string().as_str())
        && new.available == wanted
}

/// New sizes in the order of `sets`, which is sorted: the largest take what rounding leaves over.
fn proportional(rollout: &Rollout, sets: &mut [&Set]) -> Vec<i32> {
    let total: i32 = sets.iter().map(|set| set.replicas()).sum();
    let allowed = if rollout.replicas() > 0 { rollout.replicas() + rollout.max_surge() } else { 0 };
    let to_add = allowed - total;
    sets.sort_by(|a, b| {
        let by_age = a.created().cmp(b.created());
        let by_age = if to_add > 0 { by_age.reverse() } else { by_age };
        b.replicas().cmp(&a.replicas()).then(by_age)
    });
    let mut added = 0;
    let mut sizes: Vec<i32> = Vec::with_capacity(sets.len());
    for set in sets.iter() {
        let left = to_add - added;
        let share = fraction(rollout, set);
        let share = if to_add > 0 { share.min(left) } else { share.max(left) };
        added += if to_add == 0 { 0 } else { share };
        sizes.push(set.replicas() + if to_add == 0 { 0 } else { share });
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    sizes
}

/// How much a set would grow if every set grew as the Deployment did.
fn fraction(rollout: &Rollout, set: &Set) -> i32 {
    if rollout.replicas() == 0 {
        return -set.replicas();
    }
    let status = rollout.deployment.status.as_ref().and_then(|status| status.replicas);
    let sized_for =
        set.annotation(MAXIMUM).and_then(|text| text.parse().ok()).filter(|n: &i32| *n > 0);
    let Some(before @ 1..) = sized_for.or(status) else { return 0 };
    let now = f64::from(rollout.replicas() + rollout.max_surge());
    let size = f64::from(set.replicas()) * now / f64::from(before);
    #[expect(clippy::cast_possible_truncation, reason = "a size of a set, rounded")]
    let size = size.round() as i32;
    size - set.replicas()
}
