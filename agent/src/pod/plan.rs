//! What the state machine needs to know of a Pod's spec. Pure.
//!
//! Init containers come first, in order; a container's index in [`PodPlan::containers`] is its name everywhere
//! inside the agent.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Lifecycle, Pod, PodSpec, Probe};

use crate::probe::{ProbeKind, schedule::ProbePlan};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: keeps running beside the main containers.
    Sidecar,
    Main,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPlan {
    pub name: String,
    pub image: String,
    pub kind: Kind,
    pub startup: Option<ProbePlan>,
    pub readiness: Option<ProbePlan>,
    pub liveness: Option<ProbePlan>,
    pub pre_stop: bool,
}

impl ContainerPlan {
    pub fn probe(&self, kind: ProbeKind) -> Option<ProbePlan> {
        match kind {
            ProbeKind::Startup => self.startup,
            ProbeKind::Readiness => self.readiness,
            ProbeKind::Liveness => self.liveness,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPlan {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub restart_policy: RestartPolicy,
    pub grace: Duration,
    pub active_deadline: Option<Duration>,
    pub containers: Vec<ContainerPlan>,
}

impl PodPlan {
    pub fn of(pod: &Pod) -> Self {
        let default = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&default);
        let init = spec.init_containers.iter().flatten().map(|container| {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            container_plan(container, if sidecar { Kind::Sidecar } else { Kind::Init })
        });
        let main = spec.containers.iter().map(|container| container_plan(container, Kind::Main));
        Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            restart_policy: match spec.restart_policy.as_deref() {
                Some("Never") => RestartPolicy::Never,
                Some("OnFailure") => RestartPolicy::OnFailure,
                _ => RestartPolicy::Always,
            },
            grace: seconds(spec.termination_grace_period_seconds.unwrap_or(30)),
            active_deadline: spec.active_deadline_seconds.map(seconds),
            containers: init.chain(main).collect(),
        }
    }

    pub fn index(&self, container: &str) -> Option<usize> {
        self.containers.iter().position(|plan| plan.name == container)
    }

    /// Whether a container of `kind` that ended with `exit_code` is to run again.
    pub fn restarts(&self, kind: Kind, exit_code: i32) -> bool {
        match (kind, self.restart_policy) {
            (Kind::Sidecar, _) => true,
            (Kind::Init, _) if exit_code == 0 => false,
            (_, RestartPolicy::Never) => false,
            (Kind::Init, _) => true,
            (Kind::Main, RestartPolicy::Always) => true,
            (Kind::Main, RestartPolicy::OnFailure) => exit_code != 0,
        }
    }
}

/// The container of the spec with this name, init containers included.
pub fn find_container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    spec.init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .find(|container| container.name == name)
}

fn container_plan(container: &Container, kind: Kind) -> ContainerPlan {
    let probe = |probe: &Option<Probe>| probe.as_ref().map(ProbePlan::of);
    ContainerPlan {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        kind,
        startup: probe(&container.startup_probe),
        readiness: probe(&container.readiness_probe),
        liveness: probe(&container.liveness_probe),
        pre_stop: matches!(&container.lifecycle, Some(Lifecycle { pre_stop: Some(_), .. })),
    }
}

fn seconds(value: i64) -> Duration {
    Duration::from_secs(value.max(0) as u64)
}
