//! What `kubectl get pods` says of a Pod: READY, STATUS, RESTARTS.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStatus, Pod, PodStatus};

use crate::kinds::human_duration;

pub(super) struct Summary {
    /// `1/2`
    pub(super) ready: String,
    /// `Running`, `Init:0/1`, `CrashLoopBackOff`, `Terminating` …
    pub(super) status: String,
    /// `3 (5s ago)`
    pub(super) restarts: String,
    /// `1/2`, empty without gates.
    pub(super) readiness_gates: String,
}

#[derive(Default)]
struct Restarts {
    count: i32,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &ContainerStatus) {
        self.count += status.restart_count;
        let ended = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        let at = ended.and_then(|t| t.finished_at.as_ref()).map(|t| t.0);
        self.last = self.last.max(at);
    }
}

pub(super) fn summary(pod: &Pod, now: i64) -> Summary {
    let (no_spec, no_status) = Default::default();
    let (spec, status) =
        (pod.spec.as_ref().unwrap_or(&no_spec), pod.status.as_ref().unwrap_or(&no_status));
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let total = spec.containers.len() + inits.iter().filter(|c| is_sidecar(c)).count();
    let mut reason = first_reason(status);
    let init = init_state(status, inits);
    let (mut ready, mut restarts) = (init.ready, init.restarts);
    if let Some(stage) = &init.stage {
        reason.clone_from(stage);
    }
    if init.stage.is_none() || has_condition(status, "Initialized") {
        restarts = init.sidecar_restarts;
        let containers = status.container_statuses.as_deref().unwrap_or_default();
        containers.iter().for_each(|c| restarts.add(c));
        ready += main_state(status, containers, &mut reason);
    }
    if pod.metadata.deletion_timestamp.is_some() {
        let phase = status.phase.as_deref().unwrap_or_default();
        if status.reason.as_deref() == Some("NodeLost") {
            reason = "Unknown".into();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            reason = "Terminating".into();
        }
    }
    let restarts = match restarts.last {
        Some(at) if restarts.count != 0 => {
            format!("{} ({} ago)", restarts.count, human_duration(now - at.as_second()))
        }
        _ => restarts.count.to_string(),
    };
    let gates = spec.readiness_gates.as_deref().unwrap_or_default();
    let met = gates.iter().filter(|g| has_condition(status, &g.condition_type)).count();
    let readiness_gates =
        if gates.is_empty() { String::new() } else { format!("{met}/{}", gates.len()) };
    Summary { ready: format!("{ready}/{total}"), status: reason, restarts, readiness_gates }
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn has_condition(status: &PodStatus, kind: &str) -> bool {
    let conditions = status.conditions.iter().flatten();
    conditions.into_iter().any(|c| c.type_ == kind && c.status == "True")
}

/// The Pod's own reason, or its phase.
fn first_reason(status: &PodStatus) -> String {
    let gated = |c: &&k8s_openapi::api::core::v1::PodCondition| {
        c.type_ == "PodScheduled" && c.reason.as_deref() == Some("SchedulingGated")
    };
    if status.conditions.iter().flatten().find(gated).is_some() {
        return "SchedulingGated".into();
    }
    let own = status.reason.as_ref().filter(|r| !r.is_empty());
    own.or(status.phase.as_ref()).cloned().unwrap_or_default()
}

struct InitState {
    /// `Init:…` while the first steps are not done.
    stage: Option<String>,
    /// Sidecars that are ready.
    ready: usize,
    restarts: Restarts,
    sidecar_restarts: Restarts,
}

fn init_state(status: &PodStatus, inits: &[Container]) -> InitState {
    let mut found = InitState {
        stage: None,
        ready: 0,
        restarts: Restarts::default(),
        sidecar_restarts: Restarts::default(),
    };
    for (index, one) in status.init_container_statuses.iter().flatten().enumerate() {
        found.restarts.add(one);
        let sidecar = inits.iter().any(|c| c.name == one.name && is_sidecar(c));
        if sidecar {
            found.sidecar_restarts.add(one);
        }
        let state = one.state.clone().unwrap_or_default();
        if state.terminated.as_ref().is_some_and(|t| t.exit_code == 0) {
            continue;
        }
        if sidecar && one.started == Some(true) {
            found.ready += usize::from(one.ready);
            continue;
        }
        found.stage = Some(init_stage(&state, index, inits.len()));
        break;
    }
    found
}

fn init_stage(state: &ContainerState, index: usize, total: usize) -> String {
    if let Some(ended) = ended(state) {
        return format!("Init:{ended}");
    }
    match waiting(state) {
        Some(reason) if reason != "PodInitializing" => format!("Init:{reason}"),
        _ => format!("Init:{index}/{total}"),
    }
}

fn waiting(state: &ContainerState) -> Option<&str> {
    state.waiting.as_ref()?.reason.as_deref().filter(|r| !r.is_empty())
}

/// `Error`, `Signal:9`, `ExitCode:1`
fn ended(state: &ContainerState) -> Option<String> {
    let ended = state.terminated.as_ref()?;
    Some(match (ended.reason.as_deref().unwrap_or_default(), ended.signal.unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", ended.exit_code),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.into(),
    })
}

/// Sets the reason to the first container's that has one; how many containers are ready.
fn main_state(status: &PodStatus, containers: &[ContainerStatus], reason: &mut String) -> usize {
    let mut ready = 0;
    for one in containers.iter().rev() {
        let Some(state) = &one.state else { continue };
        if let Some(why) = waiting(state) {
            *reason = why.into();
        } else if let Some(why) = ended(state) {
            *reason = why;
        } else if one.ready && state.running.is_some() {
            ready += 1;
        }
    }
    // One container ended well while another still runs: the Pod runs.
    if reason == "Completed" && ready > 0 {
        *reason = if has_condition(status, "Ready") { "Running" } else { "NotReady" }.into();
    }
    ready
}
