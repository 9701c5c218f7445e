//! As many Pods as a Job may have now. Pure.

use std::time::Duration;

use serde_json::{Value, json};

use super::{FINALIZER, INDEX, Run, index_of};
use crate::controllers::look::{self, PodView};
use crate::controllers::outcome::Outcome;
use crate::controllers::workload;

const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

pub(super) fn step(run: &Run, outcome: &mut Outcome) {
    let wanted = usize::try_from(wanted(run)).unwrap_or(0);
    let (keep, mut surplus) = sort(run);
    if keep.len() > wanted {
        surplus.extend(&keep[wanted..]);
    }
    if !surplus.is_empty() {
        let doomed = surplus.into_iter().take(workload::BURST);
        return outcome.together(doomed.map(|pod| workload::deletion(&run.object, pod)).collect());
    }
    let missing = wanted.saturating_sub(keep.len());
    if missing == 0 {
        return;
    }
    if let Some(left) = pause(run) {
        return outcome.again_after(left);
    }
    let indexes = free_indexes(run, &keep).take(missing);
    let pods: Vec<Option<Value>> = if run.is_indexed() {
        indexes.map(|index| new_pod(run, Some(index))).collect()
    } else {
        vec![new_pod(run, None); missing.min(workload::BURST)]
    };
    let acts = pods.into_iter().flatten().map(|pod| workload::creation(&run.object, pod));
    workload::slowly(acts.collect(), outcome);
}

/// Pods that shall run at the same time.
fn wanted(run: &Run) -> i32 {
    let parallelism = run.spec.parallelism.unwrap_or(1);
    match run.spec.completions {
        Some(completions) => parallelism.min(completions - run.succeeded()),
        // One success means that the work is done; the others end by themselves.
        None if run.succeeded() > 0 => parallelism.min(run.active_count()),
        None => parallelism,
    }
}

/// Active Pods, those that are missed most first, and those that nobody needs: of an index that is
/// completed, out of range, or another Pod's.
fn sort(run: &Run) -> (Vec<&PodView>, Vec<&PodView>) {
    let mut pods: Vec<&PodView> = run.active().collect();
    let rank = |pod: &PodView| {
        let made = pod.meta().creation_timestamp.clone();
        (pod.node().is_empty(), !pod.is_ready(), made, pod.meta().name.clone())
    };
    pods.sort_by_key(|pod| rank(pod));
    if !run.is_indexed() {
        return (pods, Vec::new());
    }
    let completions = run.spec.completions.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let mut taken = Vec::new();
    pods.into_iter().partition(|pod| {
        let index = index_of(pod).filter(|i| *i < completions && !run.completed.contains(*i));
        let fresh = index.is_some_and(|index| !taken.contains(&index));
        taken.extend(index);
        fresh
    })
}

fn free_indexes<'r>(run: &'r Run, keep: &[&PodView]) -> impl Iterator<Item = u32> + 'r {
    let completions = run.spec.completions.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let taken: Vec<u32> = keep.iter().filter_map(|pod| index_of(pod)).collect();
    (0..completions).filter(move |i| !run.completed.contains(*i) && !taken.contains(i))
}

/// How long to wait after failures since the last success: 10 s, doubled with each, 10 min at most.
fn pause(run: &Run) -> Option<Duration> {
    let ended = |phase| {
        let pods = run.pods.own.iter().filter(move |pod| pod.phase() == phase);
        pods.filter_map(end_of)
    };
    let success = ended("Succeeded").max();
    let failures = ended("Failed").filter(|end| success.is_none_or(|success| *end > success));
    let failures: Vec<_> = failures.collect();
    let last = *failures.iter().max()?;
    let doublings = u32::try_from(failures.len() - 1).unwrap_or(u32::MAX).min(10);
    look::remaining(last, (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE), run.now)
}

/// When the last container ended; without one, when the Pod was made.
fn end_of(pod: &PodView) -> Option<jiff::Timestamp> {
    let statuses = pod.pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let ends = statuses.filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    let made = look::parse_time(pod.meta().creation_timestamp.as_deref());
    ends.map(|time| time.0).max().or(made)
}

fn new_pod(run: &Run, index: Option<u32>) -> Option<Value> {
    let mut pod = workload::new_pod(&run.object, &run.spec.template)?;
    let finalizers = &mut pod["metadata"]["finalizers"];
    match finalizers.as_array_mut() {
        Some(given) => given.push(FINALIZER.into()),
        None => *finalizers = json!([FINALIZER]),
    }
    let Some(index) = index else { return Some(pod) };
    let name = &run.object.meta.name;
    pod["metadata"]["generateName"] = format!("{name}-{index}-").into();
    for map in ["labels", "annotations"] {
        pod["metadata"][map][INDEX] = index.to_string().into();
    }
    if pod["spec"]["hostname"].is_null() {
        pod["spec"]["hostname"] = format!("{name}-{index}").into();
    }
    let field = json!({"fieldPath": format!("metadata.annotations['{INDEX}']")});
    let variable = json!({"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": field}});
    for list in ["containers", "initContainers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            let env = &mut container["env"];
            match env.as_array_mut() {
                Some(given) if given.iter().any(|e| e["name"] == variable["name"]) => {}
                Some(given) => given.push(variable.clone()),
                None => *env = json!([variable]),
            }
        }
    }
    Some(pod)
}
