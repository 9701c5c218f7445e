//! A Pod's state after this agent was away: from the API's status, and from what was found on the node. Pure.
//!
//! What the supervisor (or its records) says wins over the status, for it is newer. A run that nobody knows
//! anything of any more (the host was rebooted) ended with exit code 255, reason `Unknown`.

use std::net::Ipv4Addr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState as ApiState, ContainerStateTerminated, ContainerStatus, Pod,
};
use kobune_runtime::wire::{ContainerPhase, ContainerRecord};

use super::apply::killed;
use super::backoff::Backoff;
use super::clock::{Now, from_nanos};
use super::decide::CRASH_LOOP;
use super::plan::{ContainerPlan, PodPlan};
use super::state::{
    ContainerState, Life, MachineOptions, Phase, PodState, Run, Sandbox, Stop, Termination,
};
use crate::probe::ProbeKind;
use crate::probe::schedule::ProbeState;

/// What was found of a Pod on this node.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Its supervisor answers.
    pub alive: bool,
    pub address: Option<Ipv4Addr>,
    pub records: Vec<ContainerRecord>,
}

/// The state to go on from. With neither a status nor anything found this is [`PodState::new`].
pub fn restore(pod: &Pod, options: MachineOptions, found: Option<&Found>, now: Now) -> PodState {
    let mut state = PodState::new(PodPlan::of(pod), options, now);
    let status = pod.status.clone().unwrap_or_default();
    if let Some(started) = &status.start_time {
        state.started_at = started.0;
        let limit = state.plan.active_deadline;
        state.deadline =
            limit.map(|limit| now.mono + limit.saturating_sub(since(started.0, now.wall)));
    }
    state.phase = match status.phase.as_deref() {
        Some("Running") => Phase::Running,
        Some("Succeeded") => Phase::Succeeded,
        Some("Failed") => Phase::Failed,
        _ => Phase::Pending,
    };
    if state.phase.is_terminal() {
        state.stop = Some(Stop::Completed);
        state.reason = status.reason.clone();
        state.message = status.message.clone();
    }
    state.address = status.pod_ip.as_deref().and_then(|address| address.parse().ok());
    if let Some(found) = found {
        state.sandbox =
            if found.alive { Sandbox::Ready { address: found.address } } else { Sandbox::Lost };
        state.address = found.address.or(state.address);
    }
    restore_containers(&mut state, &status, found, now);
    state
}

fn restore_containers(
    state: &mut PodState,
    status: &k8s_openapi::api::core::v1::PodStatus,
    found: Option<&Found>,
    now: Now,
) {
    let statuses =
        || status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    for (plan, container) in state.plan.containers.iter().zip(&mut state.containers) {
        let status = statuses().find(|status| status.name == plan.name);
        if let Some(status) = status {
            from_status(container, status, now);
        }
        let record = found
            .and_then(|found| found.records.iter().find(|record| record.container == plan.name));
        if let (Some(record), Some(found)) = (record, found) {
            from_record(plan, container, record, status, found.alive, now);
        }
        remember_backoff(container, &state.options, now);
    }
}

fn from_status(container: &mut ContainerState, status: &ContainerStatus, now: Now) {
    container.restart_count = u32::try_from(status.restart_count).unwrap_or(0);
    container.image.clone_from(&status.image);
    container.image_id.clone_from(&status.image_id);
    container.id = status.container_id.as_deref().map(bare_id).unwrap_or_default();
    container.last =
        status.last_state.as_ref().and_then(|state| state.terminated.as_ref()).map(termination);
    container.tried = status.restart_count > 0 || container.last.is_some();
    match &status.state {
        Some(ApiState { terminated: Some(end), .. }) => {
            container.tried = true;
            container.life = Life::Exited(termination(end));
        }
        Some(ApiState { running: Some(running), .. }) => {
            container.tried = true;
            container.life = Life::Exited(Termination {
                id: container.id.clone(),
                exit_code: 255,
                signal: None,
                reason: "Unknown".into(),
                message: None,
                started_at: running.started_at.as_ref().map(|time| time.0),
                finished_at: now.wall,
            });
        }
        Some(ApiState { waiting: Some(waiting), .. })
            if waiting.reason.as_deref() == Some(CRASH_LOOP) =>
        {
            container.life = Life::Waiting {
                reason: CRASH_LOOP.into(),
                message: waiting.message.clone(),
                since: now.mono,
                not_before: None,
            };
        }
        _ => {}
    }
}

/// A crash loop does not begin anew because the agent did.
fn remember_backoff(container: &mut ContainerState, options: &MachineOptions, now: Now) {
    container.backoff = Backoff::after(&options.backoff, container.restart_count);
    let Some(last) = &container.last else { return };
    let idle = since(last.finished_at, now.wall);
    if let Life::Waiting { reason, not_before, .. } = &mut container.life
        && reason == CRASH_LOOP
    {
        let delay = Backoff::after(&options.backoff, container.restart_count);
        *not_before = Some(now.mono + delay.pending().saturating_sub(idle));
    }
}

fn from_record(
    plan: &ContainerPlan,
    container: &mut ContainerState,
    record: &ContainerRecord,
    status: Option<&ContainerStatus>,
    alive: bool,
    now: Now,
) {
    if record.attempt < container.restart_count {
        return;
    }
    let already_told = container.last.as_ref().is_some_and(|last| last.id == record.id);
    if already_told && matches!(container.life, Life::Waiting { .. }) {
        return;
    }
    if record.phase == ContainerPhase::Created {
        // Made but never started: the next start takes this attempt's number again.
        container.restart_count = record.attempt.saturating_sub(1);
        container.tried = record.attempt > 0;
        return;
    }
    if record.attempt > container.restart_count
        && let Life::Exited(end) = &container.life
        && end.reason != "Unknown"
    {
        container.last = Some(end.clone());
    }
    container.restart_count = record.attempt;
    container.tried = true;
    container.id.clone_from(&record.id);
    let started_at = record.started_at.map(from_nanos);
    container.life = match record.phase {
        ContainerPhase::Running if alive => {
            let same = status.filter(|status| {
                status.container_id.as_deref().map(bare_id) == Some(record.id.clone())
            });
            Life::Running(running(plan, record, same, now))
        }
        ContainerPhase::Running => Life::Exited(killed(&record.id, started_at, now.wall)),
        _ => Life::Exited(ended(record, None)),
    };
}

fn running(
    plan: &ContainerPlan,
    record: &ContainerRecord,
    status: Option<&ContainerStatus>,
    now: Now,
) -> Run {
    let started_at = record.started_at.map_or(now.wall, from_nanos);
    let resume = |kind: ProbeKind| {
        let probe = plan.probe(kind)?;
        let verdict = match (kind, status) {
            (ProbeKind::Startup, Some(status)) => status.started.filter(|started| *started),
            (ProbeKind::Readiness, Some(status)) => Some(status.ready),
            _ => None,
        };
        let state = if status.is_some() {
            ProbeState::resume(probe, now.mono, verdict)
        } else {
            ProbeState::begin(probe, now.mono)
        };
        Some((kind, state))
    };
    Run {
        id: record.id.clone(),
        attempt: record.attempt,
        started_at,
        since: now.mono.saturating_sub(since(started_at, now.wall)),
        probes: ProbeKind::ALL.into_iter().filter_map(resume).collect(),
    }
}

/// The end that a supervisor's record tells of. `message` is the termination message, if one was left.
pub fn ended(record: &ContainerRecord, message: Option<String>) -> Termination {
    let exit_code = record.exit_code.unwrap_or(255);
    let reason = match exit_code {
        _ if record.oom_killed => "OOMKilled",
        _ if record.started_at.is_none() => "ContainerCannotRun",
        0 => "Completed",
        _ => "Error",
    };
    Termination {
        id: record.id.clone(),
        exit_code,
        // As upstream: the signal is in the exit code (128 + n) only.
        signal: None,
        reason: reason.into(),
        message: message.or_else(|| record.message.clone()),
        started_at: record.started_at.map(from_nanos),
        finished_at: record.finished_at.map_or(from_nanos(record.created_at), from_nanos),
    }
}

fn termination(end: &ContainerStateTerminated) -> Termination {
    Termination {
        id: end.container_id.as_deref().map(bare_id).unwrap_or_default(),
        exit_code: end.exit_code,
        signal: end.signal,
        reason: end.reason.clone().unwrap_or_default(),
        message: end.message.clone(),
        started_at: end.started_at.as_ref().map(|time| time.0),
        finished_at: end.finished_at.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
    }
}

fn bare_id(id: &str) -> String {
    id.split_once("://").map_or(id, |(_, id)| id).to_owned()
}

fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
