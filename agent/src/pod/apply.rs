//! How one event changes the facts of a Pod. Pure; what follows from the facts is [`super::decide`]'s business.

use std::time::Duration;

use jiff::Timestamp;

use super::backoff::BackoffOptions;
use super::clock::Now;
use super::decide::{self, CRASH_LOOP, ERR_IMAGE_PULL, IMAGE_PULL_BACK_OFF};
use super::state::{
    Action, ContainerState, Event, Life, PodState, Removal, Report, Run, Sandbox, StartFailure,
    Stop, StopStep, Termination,
};
use crate::probe::schedule::{ProbeState, Reading};
use crate::probe::{Outcome, ProbeKind};

/// What a container gets that outlives its preStop hook, as upstream.
const AFTER_PRE_STOP: Duration = Duration::from_secs(2);
/// The API object vanished without notice (`kubectl delete --force`): what its containers still get.
const FORCED_GRACE: Duration = Duration::from_secs(2);
/// Nothing was made, so looking again is cheap: the image may have been imported, the ConfigMap made.
const LOOK_AGAIN: Duration = Duration::from_secs(20);
const SUPERVISOR_DIED: &str = "the supervisor of the Pod died";

pub(super) fn apply(state: &mut PodState, event: Event, now: Now, actions: &mut Vec<Action>) {
    match event {
        Event::Tick => {}
        Event::SandboxReady { address } => {
            if state.sandbox == Sandbox::SettingUp {
                state.sandbox = Sandbox::Ready { address };
                state.address = address;
                state.sandbox_backoff.reset();
            }
        }
        Event::SandboxFailed { reason, message } => {
            sandbox_failed(state, reason, message, now, actions)
        }
        Event::SourcesChanged => {
            if let Sandbox::Absent { not_before } = &mut state.sandbox {
                *not_before = None;
            }
        }
        Event::SupervisorLost => supervisor_lost(state, now, actions),
        Event::TornDown => {
            if state.sandbox == Sandbox::TearingDown {
                state.sandbox = Sandbox::Absent { not_before: None };
                state.initialized = false;
            }
        }
        Event::TeardownFailed { message } => {
            if state.sandbox == Sandbox::TearingDown {
                state.sandbox = Sandbox::Stuck { not_before: now.mono + state.retry_sandbox() };
                actions.push(warn("FailedKillPod", format!("error killing pod: {message}"), None));
            }
        }
        Event::ImageResolved { index, image, image_id } => {
            if let Some(container) = state.containers.get_mut(index) {
                container.image = image;
                container.image_id = image_id;
            }
        }
        Event::Started { index, attempt, id, started_at } => {
            started(state, index, attempt, id, started_at, now, actions)
        }
        Event::StartFailed { index, attempt, failure } => {
            start_failed(state, index, attempt, failure, now, actions)
        }
        Event::Exited { index, attempt, termination } => {
            exited(state, index, attempt, termination, now, actions)
        }
        Event::Probed { index, attempt, kind, outcome } => {
            probed(state, index, attempt, kind, &outcome, now, actions)
        }
        Event::PreStopDone { index, attempt, error } => {
            pre_stop_done(state, index, attempt, error, now, actions)
        }
        Event::Deleted { grace } => deleted(state, grace, now),
        Event::ObjectGone => {
            state.object_gone = true;
            deleted(state, FORCED_GRACE.min(state.plan.grace), now);
        }
        Event::Cleaned => state.removal = Removal::Cleaned,
        Event::CleanFailed { message } => {
            state.removal = Removal::CleanFailed { not_before: now.mono + state.retry_sandbox() };
            actions.push(warn("FailedKillPod", format!("error removing pod: {message}"), None));
        }
        Event::ObjectDeleted => state.removal = Removal::Deleted,
        Event::DeleteFailed => {
            state.removal = Removal::DeleteFailed { not_before: now.mono + state.retry_sandbox() };
        }
    }
}

fn sandbox_failed(
    state: &mut PodState,
    reason: &'static str,
    message: String,
    now: Now,
    actions: &mut Vec<Action>,
) {
    if state.sandbox != Sandbox::SettingUp {
        return;
    }
    state.sandbox = Sandbox::Absent { not_before: Some(now.mono + state.retry_sandbox()) };
    actions.push(warn(reason, message, None));
}

fn supervisor_lost(state: &mut PodState, now: Now, actions: &mut Vec<Action>) {
    if !matches!(state.sandbox, Sandbox::Ready { .. }) {
        return;
    }
    state.sandbox = Sandbox::Lost;
    state.initialized = false;
    if state.stop.is_none() {
        actions.push(warn("SandboxChanged", format!("{SUPERVISOR_DIED}; it is set up anew"), None));
    }
    for index in 0..state.containers.len() {
        let Some(run) = state.containers[index].run() else { continue };
        let attempt = run.attempt;
        let termination = killed(&run.id, Some(run.started_at), now.wall);
        exited(state, index, attempt, termination, now, actions);
    }
}

/// What is said of a container that went down with its supervisor.
pub(super) fn killed(
    id: &str,
    started_at: Option<Timestamp>,
    finished_at: Timestamp,
) -> Termination {
    Termination {
        id: id.into(),
        exit_code: 137,
        signal: None,
        reason: "Error".into(),
        message: Some(SUPERVISOR_DIED.into()),
        started_at,
        finished_at,
    }
}

fn started(
    state: &mut PodState,
    index: usize,
    attempt: u32,
    id: String,
    started_at: Timestamp,
    now: Now,
    actions: &mut Vec<Action>,
) {
    let Some(container) = state.containers.get_mut(index) else { return };
    let Life::Starting { attempt: expected, ended } = &mut container.life else { return };
    if *expected != attempt {
        return;
    }
    let ended = ended.take();
    let probes = begin_probes(&state.plan.containers[index], now.mono);
    container.restart_count = attempt;
    container.tried = true;
    container.image_backoff.reset();
    container.pull_after = None;
    container.waited = None;
    container.id.clone_from(&id);
    container.life = Life::Running(Run { id, attempt, started_at, since: now.mono, probes });
    let name = &state.plan.containers[index].name;
    actions.push(note("Created", format!("Created container: {name}"), Some(index)));
    actions.push(note("Started", format!("Started container {name}"), Some(index)));
    if let Some(termination) = ended {
        exited(state, index, attempt, termination, now, actions);
    }
}

fn begin_probes(plan: &super::plan::ContainerPlan, now: Duration) -> Vec<(ProbeKind, ProbeState)> {
    let begin = |kind| match kind {
        // Its failures end the container: no reason to hurry.
        ProbeKind::Liveness => ProbeState::begin,
        ProbeKind::Startup | ProbeKind::Readiness => ProbeState::begin_eagerly,
    };
    let probe = |kind| plan.probe(kind).map(|probe| (kind, begin(kind)(probe, now)));
    ProbeKind::ALL.into_iter().filter_map(probe).collect()
}

fn start_failed(
    state: &mut PodState,
    index: usize,
    attempt: u32,
    failure: StartFailure,
    now: Now,
    actions: &mut Vec<Action>,
) {
    let Some(container) = state.containers.get_mut(index) else { return };
    if !matches!(container.life, Life::Starting { attempt: expected, .. } if expected == attempt) {
        return;
    }
    match failure {
        StartFailure::NotMade { reason, message } => {
            let still = reason == IMAGE_PULL_BACK_OFF;
            let not_before = try_again(container, &reason, &state.options.backoff, now);
            // What is wrong with an image was said in an event of its own.
            let image = reason.contains("Image");
            let error = if image { &reason } else { &message };
            // Nobody waits for what a Pod that stops does not start; and that a back-off goes on was said before.
            if state.stop.is_none() && !still {
                actions.push(warn("Failed", format!("Error: {error}"), Some(index)));
            }
            let before = container.waited.take();
            let (reason, message) = match before {
                Some(before) if still => before,
                _ => (reason, Some(message)),
            };
            container.life = Life::Waiting { reason, message, since: now.mono, not_before };
        }
        StartFailure::Ended(termination) => {
            container.restart_count = attempt;
            container.tried = true;
            container.waited = None;
            let message = termination.message.clone().unwrap_or_else(|| termination.reason.clone());
            actions.push(warn("Failed", format!("Error: {message}"), Some(index)));
            over(state, index, termination, Duration::ZERO, now, actions);
        }
    }
}

/// When a start that made nothing is tried again. A pull has its whole back-off; the image may be imported meanwhile, so
/// the store is looked into more often.
fn try_again(
    container: &mut ContainerState,
    reason: &str,
    options: &BackoffOptions,
    now: Now,
) -> Option<Duration> {
    let soon = now.mono + LOOK_AGAIN;
    match reason {
        IMAGE_PULL_BACK_OFF => Some(container.pull_after.map_or(soon, |at| at.min(soon))),
        ERR_IMAGE_PULL => {
            let at = now.mono + container.image_backoff.retry(options);
            container.pull_after = Some(at);
            Some(at.min(soon))
        }
        _ => Some((now.mono + container.image_backoff.retry(options)).min(soon)),
    }
}

fn exited(
    state: &mut PodState,
    index: usize,
    attempt: u32,
    termination: Termination,
    now: Now,
    actions: &mut Vec<Action>,
) {
    let Some(container) = state.containers.get_mut(index) else { return };
    match &mut container.life {
        Life::Starting { attempt: expected, ended } if *expected == attempt => {
            *ended = Some(termination)
        }
        Life::Running(run) | Life::Stopping { run, .. } if run.attempt == attempt => {
            let ran = now.mono.saturating_sub(run.since);
            over(state, index, termination, ran, now, actions);
        }
        _ => {}
    }
}

/// A run is over: wait in back-off if it is to be restarted but not at once.
fn over(
    state: &mut PodState,
    index: usize,
    termination: Termination,
    ran: Duration,
    now: Now,
    actions: &mut Vec<Action>,
) {
    let plan = &state.plan;
    let container = &mut state.containers[index];
    container.id.clone_from(&termination.id);
    let again =
        state.stop.is_none() && plan.restarts(plan.containers[index].kind, termination.exit_code);
    let delay =
        if again { container.backoff.restart(&state.options.backoff, ran) } else { Duration::ZERO };
    if delay.is_zero() {
        container.life = Life::Exited(termination);
        return;
    }
    let name = &plan.containers[index].name;
    let whose = format!("{}_{}({})", plan.name, plan.namespace, plan.uid);
    let waits =
        format!("back-off {} restarting failed container={name} pod={whose}", go_duration(delay));
    container.last = Some(termination);
    container.life = Life::Waiting {
        reason: CRASH_LOOP.into(),
        message: Some(waits),
        since: now.mono,
        not_before: Some(now.mono + delay),
    };
    let message = format!("Back-off restarting failed container {name} in pod {whose}");
    actions.push(warn("BackOff", message, Some(index)));
}

fn probed(
    state: &mut PodState,
    index: usize,
    attempt: u32,
    kind: ProbeKind,
    outcome: &Outcome,
    now: Now,
    actions: &mut Vec<Action>,
) {
    let stopping = state.stop.is_some();
    let Some(container) = state.containers.get_mut(index) else { return };
    let running = matches!(container.life, Life::Running(_));
    let (Life::Running(run) | Life::Stopping { run, .. }) = &mut container.life else { return };
    if run.attempt != attempt {
        return;
    }
    let Some((_, probe)) = run.probes.iter_mut().find(|(each, _)| *each == kind) else { return };
    let reading = probe.observe(outcome, now.mono);
    let grace = probe.plan.grace;
    if stopping || !running || reading == Reading::TooEarly {
        return;
    }
    match outcome {
        Outcome::Success => {}
        Outcome::Failure(why) => {
            actions.push(warn(
                "Unhealthy",
                format!("{} probe failed: {why}", kind.title()),
                Some(index),
            ));
        }
        Outcome::Error(why) => {
            actions.push(warn(
                "Unhealthy",
                format!("{} probe errored: {why}", kind.title()),
                Some(index),
            ));
        }
    }
    if reading == Reading::Verdict(false) && kind != ProbeKind::Readiness {
        let name = state.plan.containers[index].name.clone();
        let what = kind.title().to_lowercase();
        let message = format!("Container {name} failed {what} probe, will be restarted");
        actions.push(note("Killing", message, Some(index)));
        decide::begin_stop(state, index, grace.unwrap_or(state.plan.grace), now, actions);
    }
}

fn pre_stop_done(
    state: &mut PodState,
    index: usize,
    attempt: u32,
    error: Option<String>,
    now: Now,
    actions: &mut Vec<Action>,
) {
    let Some(container) = state.containers.get_mut(index) else { return };
    let Life::Stopping { run, step, kill_at } = &mut container.life else { return };
    if run.attempt != attempt || *step != StopStep::PreStop {
        return;
    }
    *step = StopStep::Term;
    *kill_at = (*kill_at).max(now.mono + AFTER_PRE_STOP);
    actions.push(Action::Terminate { index });
    if let Some(error) = error {
        actions.push(warn(
            "FailedPreStopHook",
            format!("PreStopHook failed: {error}"),
            Some(index),
        ));
    }
}

fn deleted(state: &mut PodState, grace: Duration, now: Now) {
    let mut by = now.mono + grace;
    if let Some(Stop::Deleted { by: earlier, .. }) = state.stop {
        by = by.min(earlier);
    }
    state.stop = Some(Stop::Deleted { by, grace });
    for container in &mut state.containers {
        if let Life::Stopping { kill_at, step, .. } = &mut container.life
            && *step != StopStep::Kill
        {
            *kill_at = (*kill_at).min(by);
        }
    }
}

impl PodState {
    fn retry_sandbox(&mut self) -> Duration {
        // Not the user's program: tried again soon, and at least once a minute.
        self.sandbox_backoff.retry(&self.options.backoff).min(Duration::from_secs(60))
    }
}

pub(super) fn note(reason: &'static str, message: String, index: Option<usize>) -> Action {
    Action::Report(Report { warning: false, reason, message, index })
}

pub(super) fn warn(reason: &'static str, message: String, index: Option<usize>) -> Action {
    Action::Report(Report { warning: true, reason, message, index })
}

/// As people know it from `kubectl describe`: `10s`, `2m40s`.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 60, seconds % 60) {
        (0, 0) => format!("{}ms", duration.as_millis()),
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}
