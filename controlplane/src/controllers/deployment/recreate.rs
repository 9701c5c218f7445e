//! Recreate: everything old goes, then everything new comes. Pure.

use super::{Rollout, revision, status};
use crate::controllers::look::PodView;
use crate::controllers::outcome::Outcome;

pub(super) fn step(rollout: &Rollout, outcome: &mut Outcome) {
    if !revision::sync(rollout, outcome) {
        return;
    }
    let shrink = rollout.old.iter().filter(|set| set.replicas() != 0);
    outcome.together(shrink.filter_map(|set| rollout.resize(set, 0)).collect());
    if !outcome.is_idle() {
        return;
    }
    let still_running =
        rollout.old.iter().flat_map(|set| &set.pods).any(|pod| !PodView::is_finished(pod))
            || !rollout.old.iter().all(super::Set::is_observed);
    if !still_running {
        match &rollout.new {
            None => return revision::create(rollout, outcome),
            Some(new) => {
                outcome.together(rollout.resize(new, rollout.replicas()).into_iter().collect())
            }
        }
        if !outcome.is_idle() {
            return;
        }
        if status::is_complete(rollout) {
            revision::clean_up(rollout, outcome);
        }
    }
    status::sync(rollout, outcome);
}
