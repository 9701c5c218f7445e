//! Which Pods are made and deleted next. Pure.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::claims::{self, Need};
use super::{Revisions, Set, member};
use crate::controllers::deployment::scaled;
use crate::controllers::history::HASH;
use crate::controllers::look::{self, Availability, PodView};
use crate::controllers::outcome::{Act, Note, Outcome};
use crate::controllers::workload::{self, BURST};
use crate::writer::Change;

/// What one reconcile does.
#[derive(Default)]
pub(super) struct Step<'s> {
    claims: Vec<Act>,
    create: Vec<Act>,
    delete: Vec<&'s PodView>,
    /// To be made again under the same name.
    ended: Vec<&'s PodView>,
}

impl Step<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.claims.is_empty()
            && self.create.is_empty()
            && self.delete.is_empty()
            && self.ended.is_empty()
    }

    pub(super) fn apply(self, set: &Set<'_>, outcome: &mut Outcome) {
        let ended = self.ended.into_iter().map(|pod| recreation(set, pod));
        let doomed = self.delete.into_iter().map(|pod| deletion(set, pod));
        outcome.together(ended.chain(doomed).take(BURST).collect());
        outcome.together(self.claims.into_iter().take(BURST).collect());
        workload::slowly(self.create, outcome);
    }
}

pub(super) fn step<'s>(set: &'s Set<'_>, revisions: &Revisions, outcome: &mut Outcome) -> Step<'s> {
    let mut step = Step::default();
    let all_there = members(set, revisions, &mut step, outcome);
    if set.is_ordered() && !all_there {
        return step;
    }
    let surplus = set.surplus();
    if !set.is_ordered() {
        step.delete.extend(surplus.iter().filter(|pod| !pod.is_terminating()));
    } else if let Some(highest) = surplus.first() {
        if may_go(set, highest, &surplus) {
            step.delete.push(highest);
        }
        return step;
    }
    if step.is_empty() && set.is_rolling() {
        step.delete = update(set, revisions);
    }
    step
}

/// True when every wanted Pod is there and available.
fn members<'s>(
    set: &'s Set<'_>,
    revisions: &Revisions,
    step: &mut Step<'s>,
    outcome: &mut Outcome,
) -> bool {
    let mut all = true;
    for ordinal in set.ordinals().take(BURST) {
        let fine = match set.pod(ordinal) {
            None => {
                make(set, revisions, ordinal, step);
                false
            }
            Some(pod) if pod.is_finished() => {
                match workload::pause(pod, set.now) {
                    Some(left) => outcome.again_after(left),
                    None if pod.is_terminating() => {}
                    None => step.ended.push(pod),
                }
                false
            }
            Some(pod) => {
                if pod.node().is_empty()
                    && let Need::Make(claims) = claims::need(set, ordinal)
                {
                    step.claims.extend(claims);
                }
                is_healthy(set, pod)
            }
        };
        all &= fine;
        if set.is_ordered() && !fine {
            return false;
        }
    }
    all
}

fn make(set: &Set<'_>, revisions: &Revisions, ordinal: i64, step: &mut Step<'_>) {
    match claims::need(set, ordinal) {
        Need::Wait => return,
        Need::Make(claims) => step.claims.extend(claims),
        Need::Ready => {}
    }
    let Some(pod) = member::new_pod(set, revisions, ordinal) else { return };
    let change = Change::Create { resource: "pods", object: pod };
    step.create.push(told(set, change.into(), ("create", "Create"), &member::name(set, ordinal)));
}

fn deletion(set: &Set<'_>, pod: &PodView) -> Act {
    told(set, look::deletion(&pod.object).into(), ("delete", "Delete"), &pod.meta().name)
}

/// A Pod that ended makes room for its successor.
fn recreation(set: &Set<'_>, pod: &PodView) -> Act {
    let name = &pod.meta().name;
    let (owner, reason) = (
        &set.object,
        if pod.phase() == "Failed" { "RecreatingFailedPod" } else { "RecreatingTerminatedPod" },
    );
    let of = format!("{}/{}", owner.meta.namespace, owner.meta.name);
    let text = format!("StatefulSet {of} is recreating {} Pod {name}", pod.phase());
    Act::from(look::deletion(&pod.object)).noting(Note::warning(owner, reason, text))
}

/// In upstream's words.
fn told(set: &Set<'_>, act: Act, (verb, noun): (&str, &str), pod: &str) -> Act {
    let text = format!("{verb} Pod {pod} in StatefulSet {} ", set.object.meta.name);
    let (done, refused) = match noun {
        "Create" => ("SuccessfulCreate", "FailedCreate"),
        _ => ("SuccessfulDelete", "FailedDelete"),
    };
    act.noting(Note::normal(&set.object, done, format!("{text}successful")))
        .or_noting(Note::warning(&set.object, refused, format!("{text}failed error: {{}}")))
}

fn is_healthy(set: &Set<'_>, pod: &PodView) -> bool {
    !pod.is_terminating() && set.availability(pod) == Availability::Yes
}

/// In order, the highest goes first, and while others are not well only if it is the one that ails.
fn may_go(set: &Set<'_>, highest: &PodView, surplus: &[&PodView]) -> bool {
    if highest.is_terminating() {
        return false;
    }
    let lower_ails = surplus.iter().skip(1).any(|pod| !is_healthy(set, pod));
    is_healthy(set, highest) || !lower_ails
}

/// Old Pods that make way, from the highest down.
fn update<'s>(set: &'s Set<'_>, revisions: &Revisions) -> Vec<&'s PodView> {
    let candidates = (set.partition().max(set.ordinals().start)..set.ordinals().end).rev();
    let is_old = |pod: &PodView| pod.meta().labels.get(HASH) != Some(&revisions.newest);
    if let Some(bound) = bound(set) {
        let healthy = |ordinal: &i64| set.pod(*ordinal).is_some_and(|pod| is_healthy(set, pod));
        let unavailable = set.ordinals().filter(|ordinal| !healthy(ordinal)).count();
        let old = candidates.filter_map(|ordinal| set.pod(ordinal)).filter(|pod| is_old(pod));
        return old
            .filter(|pod| !pod.is_terminating())
            .take(bound.saturating_sub(unavailable))
            .collect();
    }
    for ordinal in candidates {
        match set.pod(ordinal) {
            Some(pod) if is_old(pod) && !pod.is_terminating() => return vec![pod],
            Some(pod) if is_healthy(set, pod) => {}
            _ => return Vec::new(),
        }
    }
    Vec::new()
}

/// `maxUnavailable`, at least one.
fn bound(set: &Set<'_>) -> Option<usize> {
    let rolling = set.spec.update_strategy.as_ref()?.rolling_update.as_ref()?;
    let value: &IntOrString = rolling.max_unavailable.as_ref()?;
    let bound = scaled(value, set.spec.replicas.unwrap_or(1), false);
    Some(usize::try_from(bound).unwrap_or(0).max(1))
}
