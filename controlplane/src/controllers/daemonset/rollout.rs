//! RollingUpdate: old Pods make way for new ones, so many at a time. Pure.
//!
//! Without a surge old Pods are deleted, up to `maxUnavailable` nodes without an available Pod; their nodes
//! get new ones as soon as they are gone. With a surge new Pods are made beside up to `maxSurge` old ones,
//! and an old one is deleted when its successor is available.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Daemon, Place, Step, is_updated};
use crate::controllers::deployment::scaled;
use crate::controllers::look::PodView;

fn bounds(daemon: &Daemon) -> (usize, usize) {
    let strategy = daemon.spec.update_strategy.as_ref();
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let nodes = daemon.places.iter().filter(|place| place.may_start).count();
    let of = |value: Option<&IntOrString>, otherwise: i32| {
        let value = value.cloned().unwrap_or(IntOrString::Int(otherwise));
        let bound = scaled(&value, i32::try_from(nodes).unwrap_or(i32::MAX), true);
        usize::try_from(bound).unwrap_or(0)
    };
    let surge = of(rolling.and_then(|r| r.max_surge.as_ref()), 0);
    let unavailable = of(rolling.and_then(|r| r.max_unavailable.as_ref()), 1);
    // Both zero would never move.
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

fn is_rolling(daemon: &Daemon) -> bool {
    let strategy = daemon.spec.update_strategy.as_ref();
    strategy.and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate") == "RollingUpdate"
}

/// How many nodes may have two Pods.
pub(super) fn surge(daemon: &Daemon) -> usize {
    if is_rolling(daemon) { bounds(daemon).0 } else { 0 }
}

pub(super) fn step<'d>(daemon: &'d Daemon, hash: &str) -> Step<'d> {
    if !is_rolling(daemon) {
        return Step::default();
    }
    let occupied = daemon.places.iter().filter(|place| place.may_start || !place.pods.is_empty());
    let places: Vec<_> = occupied.map(|place| (place, pair(place, hash))).collect();
    match bounds(daemon) {
        (0, unavailable) => replace(daemon, &places, unavailable),
        (surge, _) => surge_step(daemon, &places, surge),
    }
}

type Pair<'d> = (Option<&'d PodView>, Option<&'d PodView>);

/// The new and the old Pod of a place.
fn pair<'d>(place: &'d Place, hash: &str) -> Pair<'d> {
    let find = |new| {
        let mut pods = place.pods.iter().filter(|pod| !pod.is_terminating());
        pods.find(|pod| is_updated(pod, hash) == new)
    };
    (find(true), find(false))
}

/// Old Pods that are not available cost nothing; of the others as many as the bound leaves.
fn replace<'d>(daemon: &Daemon, places: &[(&Place, Pair<'d>)], bound: usize) -> Step<'d> {
    let (mut unavailable, mut free, mut candidates) = (0, Vec::new(), Vec::new());
    for (_, pair) in places {
        match pair {
            (None, Some(old)) if daemon.is_available(old) => candidates.push(*old),
            (None, Some(old)) => {
                free.push(*old);
                unavailable += 1;
            }
            (Some(new), None) if daemon.is_available(new) => {}
            _ => unavailable += 1,
        }
    }
    candidates.truncate(bound.saturating_sub(unavailable));
    free.append(&mut candidates);
    Step { delete: free, create: Vec::new() }
}

fn surge_step<'d>(daemon: &Daemon, places: &[(&'d Place, Pair<'d>)], bound: usize) -> Step<'d> {
    let (mut surging, mut step, mut candidates) = (0, Step::default(), Vec::new());
    for (place, pair) in places {
        match pair {
            (None, Some(old)) if !place.may_start => step.delete.push(old),
            (None, Some(old)) if daemon.is_available(old) => candidates.push(place.node.as_str()),
            (None, Some(_)) => step.create.push(&place.node),
            (Some(new), Some(old)) if daemon.is_available(new) => step.delete.push(old),
            (Some(_), Some(_)) => surging += 1,
            (_, None) => {}
        }
    }
    candidates.truncate(bound.saturating_sub(surging));
    step.create.append(&mut candidates);
    step
}
