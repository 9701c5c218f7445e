//! A Pod's status as the API shows it, from the machine's state. Pure.
//!
//! Conditions of other writers (PodScheduled, readiness gates …) are kept as they are.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::decide;
use super::plan::{ContainerPlan, Kind};
use super::qos;
use super::state::{ContainerState, Life, Phase, PodState, Sandbox, Termination};

/// The node as Pods see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    pub ip: String,
}

pub fn build(pod: &Pod, state: &PodState, host: &HostFacts, now: Timestamp) -> PodStatus {
    let before = pod.status.clone().unwrap_or_default();
    let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    let ip = match state.sandbox {
        Sandbox::Ready { .. } if host_network => Some(host.ip.clone()),
        _ => state.address.map(|address| address.to_string()).or_else(|| before.pod_ip.clone()),
    };
    // As upstream's for a Pod that the kubelet rejects: no containers, so that the Pod's own reason is shown.
    let rejected = state.refused && state.phase == Phase::Failed;
    let (init, main) = if rejected { Default::default() } else { container_statuses(state) };
    PodStatus {
        phase: Some(state.phase.name().into()),
        reason: state.reason.clone(),
        message: state.message.clone(),
        conditions: Some(conditions(pod, state, &before, now)),
        host_ip: Some(host.ip.clone()),
        host_ips: Some(vec![HostIP { ip: host.ip.clone() }]),
        pod_ips: ip.clone().map(|ip| vec![PodIP { ip }]),
        pod_ip: ip,
        start_time: Some(Time(to_seconds(state.started_at))),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: (!rejected).then_some(main),
        qos_class: before.qos_class.clone().or_else(|| Some(qos::class(pod).into())),
        ..before
    }
}

fn container_statuses(state: &PodState) -> (Vec<ContainerStatus>, Vec<ContainerStatus>) {
    let mut init = Vec::new();
    let mut main = Vec::new();
    for (plan, container) in state.plan.containers.iter().zip(&state.containers) {
        let status = container_status(state, plan, container);
        if plan.kind == Kind::Main { main.push(status) } else { init.push(status) }
    }
    main.sort_by(|a, b| a.name.cmp(&b.name));
    (init, main)
}

fn container_status(
    state: &PodState,
    plan: &ContainerPlan,
    container: &ContainerState,
) -> ContainerStatus {
    // Before anything was made, only what was asked for is known.
    let (image, image_id) = match container.tried {
        true => (container.image.clone(), container.image_id.clone()),
        false => (plan.image.clone(), String::new()),
    };
    ContainerStatus {
        name: plan.name.clone(),
        image,
        image_id,
        container_id: (!container.id.is_empty()).then(|| api_id(&container.id)),
        ready: is_ready(plan.kind, container),
        started: Some(container.started()),
        restart_count: container.restart_count as i32,
        state: Some(api_state(state, container)),
        last_state: Some(ApiState {
            terminated: container.last.as_ref().map(api_terminated),
            ..ApiState::default()
        }),
        ..ContainerStatus::default()
    }
}

fn is_ready(kind: Kind, container: &ContainerState) -> bool {
    match kind {
        Kind::Init => matches!(&container.life, Life::Exited(end) if end.exit_code == 0),
        Kind::Sidecar | Kind::Main => container.ready(),
    }
}

fn api_state(state: &PodState, container: &ContainerState) -> ApiState {
    let waiting = |reason: &str, message: &Option<String>| ApiState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.into()),
            message: message.clone(),
        }),
        ..ApiState::default()
    };
    match &container.life {
        Life::Waiting { reason, message, .. } => waiting(reason, message),
        Life::Starting { .. } if container.waited.is_some() => {
            let (reason, message) = container.waited.clone().unwrap_or_default();
            waiting(&reason, &message)
        }
        Life::Starting { .. } => {
            let has_init = state.plan.containers.iter().any(|plan| plan.kind != Kind::Main);
            waiting(
                if has_init { decide::POD_INITIALIZING } else { decide::CONTAINER_CREATING },
                &None,
            )
        }
        Life::Running(run) | Life::Stopping { run, .. } => ApiState {
            running: Some(ContainerStateRunning {
                started_at: Some(Time(to_seconds(run.started_at))),
            }),
            ..ApiState::default()
        },
        Life::Exited(end) => {
            ApiState { terminated: Some(api_terminated(end)), ..ApiState::default() }
        }
    }
}

fn api_terminated(end: &Termination) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: (!end.id.is_empty()).then(|| api_id(&end.id)),
        exit_code: end.exit_code,
        signal: end.signal,
        reason: Some(end.reason.clone()),
        message: end.message.clone(),
        started_at: end.started_at.map(to_seconds).map(Time),
        finished_at: Some(Time(to_seconds(end.finished_at))),
    }
}

fn api_id(id: &str) -> String {
    format!("kobune://{id}")
}

/// Times in the API have whole seconds; cutting here keeps "changed?" comparisons honest.
fn to_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// One condition before its times are known.
struct Verdict {
    type_: &'static str,
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

fn verdict(type_: &'static str, status: bool) -> Verdict {
    Verdict { type_, status, reason: None, message: None }
}

fn conditions(
    pod: &Pod,
    state: &PodState,
    before: &PodStatus,
    now: Timestamp,
) -> Vec<PodCondition> {
    let containers_ready = containers_ready(state);
    let own = [
        verdict("PodReadyToStartContainers", matches!(state.sandbox, Sandbox::Ready { .. })),
        initialized(state),
        ready(pod, before, &containers_ready),
        containers_ready,
    ];
    let old = before.conditions.as_deref().unwrap_or_default();
    let mut out: Vec<PodCondition> =
        own.into_iter().map(|verdict| condition(verdict, old, now)).collect();
    out.extend(old.iter().filter(|each| !is_own(&each.type_)).cloned());
    out
}

fn is_own(type_: &str) -> bool {
    matches!(type_, "PodReadyToStartContainers" | "Initialized" | "ContainersReady" | "Ready")
}

fn condition(verdict: Verdict, old: &[PodCondition], now: Timestamp) -> PodCondition {
    let status = if verdict.status { "True" } else { "False" };
    let same = old.iter().find(|old| old.type_ == verdict.type_ && old.status == status);
    let since = same.and_then(|old| old.last_transition_time.clone());
    PodCondition {
        type_: verdict.type_.into(),
        status: status.into(),
        reason: verdict.reason.map(Into::into),
        message: verdict.message,
        last_transition_time: Some(since.unwrap_or(Time(to_seconds(now)))),
        ..PodCondition::default()
    }
}

fn initialized(state: &PodState) -> Verdict {
    if state.phase == Phase::Succeeded {
        return Verdict { reason: Some("PodCompleted"), ..verdict("Initialized", true) };
    }
    let init = || {
        state
            .plan
            .containers
            .iter()
            .zip(&state.containers)
            .filter(|(plan, _)| plan.kind != Kind::Main)
    };
    let incomplete: Vec<&str> = init()
        .filter(|(plan, container)| match plan.kind {
            Kind::Init => !is_ready(Kind::Init, container),
            _ => !container.started(),
        })
        .map(|(plan, _)| plan.name.as_str())
        .collect();
    if incomplete.is_empty() || state.initialized {
        return verdict("Initialized", true);
    }
    Verdict {
        reason: Some("ContainersNotInitialized"),
        message: Some(format!("containers with incomplete status: [{}]", incomplete.join(" "))),
        ..verdict("Initialized", false)
    }
}

fn containers_ready(state: &PodState) -> Verdict {
    let finished = match state.phase {
        Phase::Succeeded => Some("PodCompleted"),
        Phase::Failed => Some("PodFailed"),
        _ => None,
    };
    if finished.is_some() {
        return Verdict { reason: finished, ..verdict("ContainersReady", false) };
    }
    let unready: Vec<&str> = (state.plan.containers.iter().zip(&state.containers))
        .filter(|(plan, container)| plan.kind != Kind::Init && !container.ready())
        .map(|(plan, _)| plan.name.as_str())
        .collect();
    if unready.is_empty() {
        return verdict("ContainersReady", true);
    }
    Verdict {
        reason: Some("ContainersNotReady"),
        message: Some(format!("containers with unready status: [{}]", unready.join(" "))),
        ..verdict("ContainersReady", false)
    }
}

fn ready(pod: &Pod, before: &PodStatus, containers: &Verdict) -> Verdict {
    if !containers.status {
        let message = containers.message.clone();
        return Verdict { type_: "Ready", status: false, reason: containers.reason, message };
    }
    let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let is_true = |type_: &str| {
        before
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == type_ && condition.status == "True")
    };
    let shut: Vec<String> = gates
        .filter(|gate| !is_true(&gate.condition_type))
        .map(|gate| {
            format!("the status of pod readiness gate \"{}\" is not \"True\"", gate.condition_type)
        })
        .collect();
    if shut.is_empty() {
        return verdict("Ready", true);
    }
    let message = Some(shut.join(", "));
    Verdict { reason: Some("ReadinessGatesNotReady"), message, ..verdict("Ready", false) }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
