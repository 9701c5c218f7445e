//! Which Pod a shrinking ReplicaSet gives up first: the one that is missed least. Pure.

use std::cmp::Ordering;
use std::collections::HashMap;

use crate::controllers::look::{self, PodView};
use crate::object::Object;
use crate::reader::Reader;

use super::REPLICASETS;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Active Pods per node, of this set and of its siblings under the same owner.
pub(super) type Crowd = HashMap<String, usize>;

pub(super) fn crowd(world: &dyn Reader, set: &Object) -> Crowd {
    let owner = look::controller_of(&set.meta).map(|owner| owner.uid.as_str());
    let sets = world.list(REPLICASETS, Some(&set.meta.namespace));
    let siblings = sets
        .iter()
        .filter(|other| owner.is_some_and(|uid| look::is_controlled_by(&other.meta, uid)));
    let family: Vec<&str> =
        siblings.map(|other| other.meta.uid.as_str()).chain([set.meta.uid.as_str()]).collect();
    let mut crowd = Crowd::new();
    for pod in world.list("pods", Some(&set.meta.namespace)).into_iter().filter_map(PodView::of) {
        let related =
            look::controller_of(pod.meta()).is_some_and(|o| family.contains(&o.uid.as_str()));
        if related && pod.is_active() {
            *crowd.entry(pod.node().to_owned()).or_default() += 1;
        }
    }
    crowd
}

/// `Less` goes first.
pub(super) fn compare(a: &PodView, b: &PodView, crowd: &Crowd) -> Ordering {
    let on = |pod: &PodView| crowd.get(pod.node()).copied().unwrap_or_default();
    (!a.node().is_empty())
        .cmp(&!b.node().is_empty())
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| a.is_ready().cmp(&b.is_ready()))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| on(b).cmp(&on(a)))
        .then_with(|| newer_first(a.ready_since(), b.ready_since()))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| newer_first(created(a), created(b)))
        .then_with(|| a.meta().name.cmp(&b.meta().name))
}

fn phase(pod: &PodView) -> u8 {
    match pod.phase() {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

fn cost(pod: &PodView) -> i32 {
    let annotations = pod.pod.metadata.annotations.as_ref();
    let text = annotations.and_then(|a| a.get(DELETION_COST));
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// An unknown time counts as just now.
fn newer_first(a: Option<jiff::Timestamp>, b: Option<jiff::Timestamp>) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(a), Some(b)) => b.cmp(&a),
    }
}

fn created(pod: &PodView) -> Option<jiff::Timestamp> {
    look::parse_time(pod.meta().creation_timestamp.as_deref())
}

/// The worst of its containers.
fn restarts(pod: &PodView) -> i32 {
    let statuses = pod.pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|c| c.restart_count).max().unwrap_or(0)
}
