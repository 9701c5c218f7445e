//! What the facts of a Pod demand now, whatever led to them. Pure and level-triggered.
//!
//! While nothing stops the Pod: sandbox, then init containers one by one (a sidecar only has to have
//! started), then all main containers at once. When something stops it: main containers first, sidecars after
//! them in reverse order, then the sandbox; a deleted Pod is then cleaned away and its API object deleted.

use std::time::Duration;

use super::apply::{note, warn};
use super::clock::Now;
use super::plan::Kind;
use super::state::{
    Action, ContainerState, Life, Phase, PodState, Removal, Run, Sandbox, Stop, StopStep,
};
use crate::probe::ProbeKind;

pub const CONTAINER_CREATING: &str = "ContainerCreating";
pub const POD_INITIALIZING: &str = "PodInitializing";
pub const CRASH_LOOP: &str = "CrashLoopBackOff";
pub const ERR_IMAGE_PULL: &str = "ErrImagePull";
pub const IMAGE_PULL_BACK_OFF: &str = "ImagePullBackOff";
pub const INVALID_IMAGE_NAME: &str = "InvalidImageName";

/// How long ErrImagePull is shown before it becomes ImagePullBackOff.
const SHOW_PULL_ERROR: Duration = Duration::from_secs(1);
/// A SIGKILL that did not end a container is repeated.
const KILL_AGAIN: Duration = Duration::from_secs(5);

pub(super) fn decide(state: &mut PodState, now: Now, actions: &mut Vec<Action>) {
    find_reason_to_stop(state, now, actions);
    if state.stop.is_some() {
        stop_all(state, now, actions);
    } else {
        go_on(state, now, actions);
        fire_probes(state, now, actions);
        show_pull_back_off(state, now, actions);
    }
    escalate(state, now, actions);
    if state.stop.is_some() && nothing_lives(state) {
        wind_up(state, now, actions);
    }
    settle_phase(state);
}

/// The next moment at which something is to be done without any event.
pub fn next_wakeup(state: &PodState, now: Now) -> Option<Duration> {
    let going = state.stop.is_none();
    let sandbox = match &state.sandbox {
        Sandbox::Absent { not_before } if going => *not_before,
        Sandbox::Stuck { not_before } => Some(*not_before),
        _ => None,
    };
    let removal = match &state.removal {
        Removal::CleanFailed { not_before } | Removal::DeleteFailed { not_before } => {
            Some(*not_before)
        }
        _ => None,
    };
    let deadline = state.deadline.filter(|_| going);
    let containers = state.containers.iter().flat_map(|container| match &container.life {
        Life::Waiting { not_before, reason, since, .. } if going => {
            let flip = (reason == ERR_IMAGE_PULL).then_some(*since + SHOW_PULL_ERROR);
            // One that waits for its turn and is over its time is started by somebody else's event.
            vec![flip, not_before.filter(|at| *at > now.mono)]
        }
        Life::Running(run) if going => vec![next_probe(run)],
        Life::Stopping { kill_at, .. } => vec![Some(*kill_at)],
        _ => vec![],
    });
    containers.flatten().chain(sandbox).chain(removal).chain(deadline).min()
}

fn find_reason_to_stop(state: &mut PodState, now: Now, actions: &mut Vec<Action>) {
    if state.stop.is_some() {
        return;
    }
    if state.deadline.is_some_and(|deadline| deadline <= now.mono) {
        state.stop = Some(Stop::Deadline);
        let message = "Pod was active on the node longer than the specified deadline";
        state.reason = Some("DeadlineExceeded".into());
        state.message = Some(message.into());
        actions.push(warn("DeadlineExceeded", message.into(), None));
        return;
    }
    let over = |index: usize| match &state.containers[index].life {
        Life::Exited(end)
            if !state.plan.restarts(state.plan.containers[index].kind, end.exit_code) =>
        {
            Some(end.exit_code)
        }
        _ => None,
    };
    let kind = |index: usize| state.plan.containers[index].kind;
    let all = 0..state.containers.len();
    let failed_init = all
        .clone()
        .any(|index| kind(index) == Kind::Init && over(index).is_some_and(|code| code != 0));
    let mains_over =
        all.filter(|index| kind(*index) == Kind::Main).all(|index| over(index).is_some());
    if failed_init || mains_over {
        state.stop = Some(Stop::Completed);
    }
}

fn go_on(state: &mut PodState, now: Now, actions: &mut Vec<Action>) {
    if state.refused {
        return;
    }
    match state.sandbox {
        Sandbox::Ready { .. } => start_in_order(state, now, actions),
        Sandbox::Absent { not_before } if due(not_before, now) => {
            reset_init_containers(state);
            state.sandbox = Sandbox::SettingUp;
            actions.push(Action::SetupSandbox);
        }
        Sandbox::Lost if nothing_lives(state) => tear_down(state, actions),
        Sandbox::Stuck { not_before } if not_before <= now.mono => tear_down(state, actions),
        _ => {}
    }
}

fn start_in_order(state: &mut PodState, now: Now, actions: &mut Vec<Action>) {
    for index in 0..state.containers.len() {
        let kind = state.plan.containers[index].kind;
        if kind == Kind::Main {
            state.initialized = true;
        }
        start_if_due(state, index, now, actions);
        let container = &state.containers[index];
        let passed = match kind {
            Kind::Init => matches!(&container.life, Life::Exited(end) if end.exit_code == 0),
            // Once everything is initialized, a sidecar's restart holds nobody up.
            Kind::Sidecar => state.initialized || container.started(),
            Kind::Main => true,
        };
        if !passed {
            return;
        }
    }
}

fn start_if_due(state: &mut PodState, index: usize, now: Now, actions: &mut Vec<Action>) {
    let kind = state.plan.containers[index].kind;
    let container = &state.containers[index];
    let wanted = match &container.life {
        Life::Waiting { not_before, .. } => due(*not_before, now),
        Life::Exited(end) => state.plan.restarts(kind, end.exit_code),
        _ => false,
    };
    if !wanted {
        return;
    }
    let attempt = container.next_attempt();
    let before = std::mem::replace(
        &mut state.containers[index].life,
        Life::Starting { attempt, ended: None },
    );
    match before {
        Life::Exited(end) => state.containers[index].last = Some(end),
        Life::Waiting { reason, message, .. } if is_failure(&reason) => {
            state.containers[index].waited = Some((reason, message));
        }
        _ => {}
    }
    actions.push(Action::StartContainer { index, attempt });
}

/// Something that people should go on seeing while it is tried again.
fn is_failure(reason: &str) -> bool {
    !matches!(reason, CONTAINER_CREATING | POD_INITIALIZING | CRASH_LOOP)
}

/// A new sandbox begins from the beginning: init containers that were done run again.
fn reset_init_containers(state: &mut PodState) {
    for index in 0..state.containers.len() {
        let container = &mut state.containers[index];
        if state.plan.containers[index].kind != Kind::Init {
            continue;
        }
        if let Life::Exited(end) = &container.life {
            container.last = Some(end.clone());
            let reason = POD_INITIALIZING.into();
            container.life =
                Life::Waiting { reason, message: None, since: Duration::ZERO, not_before: None };
        }
    }
}

fn fire_probes(state: &mut PodState, now: Now, actions: &mut Vec<Action>) {
    for (index, container) in state.containers.iter_mut().enumerate() {
        let started = container.started();
        let Life::Running(run) = &mut container.life else { continue };
        for (kind, probe) in &mut run.probes {
            if is_on(*kind, started) && probe.fire(now.mono) {
                actions.push(Action::Probe { index, attempt: run.attempt, kind: *kind });
            }
        }
    }
}

/// The startup probe runs until it has succeeded, the other two from then on.
fn is_on(kind: ProbeKind, started: bool) -> bool {
    (kind == ProbeKind::Startup) != started
}

fn next_probe(run: &Run) -> Option<Duration> {
    let startup = run.probes.iter().find(|(kind, _)| *kind == ProbeKind::Startup);
    let started = startup.is_none_or(|(_, probe)| probe.verdict() == Some(true));
    run.probes
        .iter()
        .filter(|(kind, _)| is_on(*kind, started))
        .filter_map(|(_, probe)| probe.due())
        .min()
}

fn show_pull_back_off(state: &mut PodState, now: Now, actions: &mut Vec<Action>) {
    for (index, container) in state.containers.iter_mut().enumerate() {
        let image = &state.plan.containers[index].image;
        let Life::Waiting { reason, message, since, .. } = &mut container.life else { continue };
        if reason == ERR_IMAGE_PULL && *since + SHOW_PULL_ERROR <= now.mono {
            let detail = message.take().unwrap_or_default();
            *reason = IMAGE_PULL_BACK_OFF.into();
            *message =
                Some(format!("Back-off pulling image \"{image}\": {ERR_IMAGE_PULL}: {detail}"));
            actions.push(note(
                "BackOff",
                format!("Back-off pulling image \"{image}\""),
                Some(index),
            ));
            actions.push(warn("Failed", format!("Error: {IMAGE_PULL_BACK_OFF}"), Some(index)));
        }
    }
}

fn stop_all(state: &mut PodState, now: Now, actions: &mut Vec<Action>) {
    let grace = match state.stop {
        Some(Stop::Deleted { by, .. }) => by.saturating_sub(now.mono),
        _ => state.plan.grace,
    };
    let is_sidecar =
        |state: &PodState, index: usize| state.plan.containers[index].kind == Kind::Sidecar;
    let all = 0..state.containers.len();
    let others: Vec<usize> = all.clone().filter(|index| !is_sidecar(state, *index)).collect();
    let others_live = others.iter().any(|index| state.containers[*index].lives());
    let last_sidecar =
        all.rev().find(|index| is_sidecar(state, *index) && state.containers[*index].lives());
    let now_due = if others_live { others } else { last_sidecar.into_iter().collect() };
    for index in now_due {
        if matches!(state.containers[index].life, Life::Running(_)) {
            let name = &state.plan.containers[index].name;
            actions.push(note("Killing", format!("Stopping container {name}"), Some(index)));
            begin_stop(state, index, grace, now, actions);
        }
    }
}

/// Begins a graceful stop of a running container.
pub(super) fn begin_stop(
    state: &mut PodState,
    index: usize,
    grace: Duration,
    now: Now,
    actions: &mut Vec<Action>,
) {
    let container = &mut state.containers[index];
    let Life::Running(run) = &container.life else { return };
    let run = run.clone();
    let kill_at = now.mono + grace;
    let step = if grace.is_zero() {
        // `escalate` kills it in this very step.
        StopStep::Term
    } else if state.plan.containers[index].pre_stop {
        actions.push(Action::PreStop { index, attempt: run.attempt, limit: grace });
        StopStep::PreStop
    } else {
        actions.push(Action::Terminate { index });
        StopStep::Term
    };
    container.life = Life::Stopping { run, step, kill_at };
}

fn escalate(state: &mut PodState, now: Now, actions: &mut Vec<Action>) {
    for (index, container) in state.containers.iter_mut().enumerate() {
        if let Life::Stopping { step, kill_at, .. } = &mut container.life
            && *kill_at <= now.mono
        {
            *step = StopStep::Kill;
            *kill_at = now.mono + KILL_AGAIN;
            actions.push(Action::Kill { index });
        }
    }
}

fn nothing_lives(state: &PodState) -> bool {
    !state.containers.iter().any(ContainerState::lives)
}

fn tear_down(state: &mut PodState, actions: &mut Vec<Action>) {
    state.sandbox = Sandbox::TearingDown;
    actions.push(Action::TeardownSandbox);
}

fn wind_up(state: &mut PodState, now: Now, actions: &mut Vec<Action>) {
    match state.sandbox {
        Sandbox::Ready { .. } | Sandbox::Lost => tear_down(state, actions),
        Sandbox::Stuck { not_before } if not_before <= now.mono => tear_down(state, actions),
        Sandbox::Absent { .. } if state.is_deleted() => remove(state, now, actions),
        _ => {}
    }
}

fn remove(state: &mut PodState, now: Now, actions: &mut Vec<Action>) {
    let clean = match state.removal {
        Removal::NotYet => true,
        Removal::CleanFailed { not_before } => not_before <= now.mono,
        _ => false,
    };
    if clean {
        state.removal = Removal::Cleaning;
        actions.push(Action::Clean);
    }
    let delete = match state.removal {
        Removal::Cleaned => true,
        Removal::DeleteFailed { not_before } => not_before <= now.mono,
        _ => false,
    };
    let asked = matches!(
        state.removal,
        Removal::Cleaned | Removal::Deleting | Removal::DeleteFailed { .. }
    );
    if state.object_gone && asked {
        state.removal = Removal::Deleted;
    } else if delete {
        state.removal = Removal::Deleting;
        actions.push(Action::DeleteObject);
    }
}

/// Phases only go forward.
fn settle_phase(state: &mut PodState) {
    if !state.phase.is_terminal() {
        state.phase = state.phase.max(phase(state));
    }
}

fn phase(state: &PodState) -> Phase {
    if state.stop.is_some() && nothing_lives(state) {
        let exit_code = |container: &ContainerState| match &container.life {
            Life::Exited(end) => Some(end.exit_code),
            _ => None,
        };
        let main = state
            .plan
            .containers
            .iter()
            .zip(&state.containers)
            .filter(|(plan, _)| plan.kind == Kind::Main);
        let succeeded = main.map(|(_, container)| exit_code(container)).all(|code| code == Some(0));
        let deadline = state.stop == Some(Stop::Deadline) || state.reason.is_some();
        return if succeeded && !deadline { Phase::Succeeded } else { Phase::Failed };
    }
    let mut main = state
        .plan
        .containers
        .iter()
        .zip(&state.containers)
        .filter(|(plan, _)| plan.kind == Kind::Main);
    if main.all(|(_, container)| container.tried) { Phase::Running } else { Phase::Pending }
}

fn due(not_before: Option<Duration>, now: Now) -> bool {
    not_before.is_none_or(|at| at <= now.mono)
}
