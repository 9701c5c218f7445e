//! The Pod state machine: what is true of one Pod, and how an event changes it. Pure.
//!
//! ```text
//!  sandbox    Absent --SetupSandbox--> SettingUp --SandboxReady--> Ready --+-- SupervisorLost --> Lost
//!                ^                         | SandboxFailed                 | all work is over       |
//!                |<------------------------+                               v                        |
//!                +------------------- TornDown ----------------------- TearingDown <----------------+
//!
//!  container  Waiting --StartContainer--> Starting --Started--> Running --Exited--> Exited
//!                ^                           | StartFailed         | must stop        | to be restarted
//!                |<--------------------------+                  Stopping --Exited-->  |
//!                +-----------------------------------------------------------------<-+
//!
//!  pod        (nothing) --Deleted | deadline | all done--> stop --nothing lives--> sandbox torn down
//!                 --(deleted only)--> Clean --Cleaned--> DeleteObject --ObjectGone--> gone
//! ```
//!
//! [`step`] is the only entrance. It applies the event to the facts and then asks [`super::decide`] what
//! those facts demand; the reason for being called plays no part in that. Each demand that is under way is
//! a state of its own (SettingUp, Starting, TearingDown …), so nothing is ever asked for twice.
//!
//! `attempt` is the number a container's run has: the restartCount while it runs. Events of an older attempt
//! are ignored.

use std::net::Ipv4Addr;
use std::time::Duration;

use jiff::Timestamp;

use super::backoff::{Backoff, BackoffOptions};
use super::clock::Now;
use super::decide;
use super::plan::{Kind, PodPlan, RestartPolicy};
use crate::probe::schedule::ProbeState;
use crate::probe::{Outcome, ProbeKind};

/// How a container's run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Termination {
    /// Empty when no container was ever made.
    pub id: String,
    pub exit_code: i32,
    pub signal: Option<i32>,
    pub reason: String,
    pub message: Option<String>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
}

/// A container that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub id: String,
    pub attempt: u32,
    pub started_at: Timestamp,
    /// The same moment on the monotonic clock.
    pub since: Duration,
    pub probes: Vec<(ProbeKind, ProbeState)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopStep {
    PreStop,
    Term,
    Kill,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// Nothing lives; to be started when its turn comes and `not_before` has passed.
    Waiting {
        reason: String,
        message: Option<String>,
        since: Duration,
        not_before: Option<Duration>,
    },
    /// A start is under way. An exit that is heard of before the start's own answer is kept here.
    Starting {
        attempt: u32,
        ended: Option<Termination>,
    },
    Running(Run),
    Stopping {
        run: Run,
        step: StopStep,
        kill_at: Duration,
    },
    /// Over; whether it runs again is decided from the restart policy.
    Exited(Termination),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerState {
    pub life: Life,
    pub restart_count: u32,
    /// True once any attempt was made: the next one is `restart_count + 1`.
    pub tried: bool,
    pub last: Option<Termination>,
    pub backoff: Backoff,
    pub image_backoff: Backoff,
    /// As shown in the status; from the image store once resolved.
    pub image: String,
    pub image_id: String,
    /// The id of the present or latest run.
    pub id: String,
    /// No pull before this moment: the last one failed.
    pub pull_after: Option<Duration>,
    /// Why it waited before the start that is under way: people see that until it has started.
    pub waited: Option<(String, Option<String>)>,
}

impl ContainerState {
    pub fn fresh(image: &str, reason: &str) -> Self {
        Self {
            life: Life::Waiting {
                reason: reason.into(),
                message: None,
                since: Duration::ZERO,
                not_before: None,
            },
            restart_count: 0,
            tried: false,
            last: None,
            backoff: Backoff::default(),
            image_backoff: Backoff::default(),
            image: image.into(),
            image_id: String::new(),
            id: String::new(),
            pull_after: None,
            waited: None,
        }
    }

    /// The back-off of a pull that failed is over.
    pub fn may_pull(&self, now: Now) -> bool {
        self.pull_after.is_none_or(|at| at <= now.mono)
    }

    pub fn next_attempt(&self) -> u32 {
        self.restart_count + u32::from(self.tried)
    }

    pub fn run(&self) -> Option<&Run> {
        match &self.life {
            Life::Running(run) | Life::Stopping { run, .. } => Some(run),
            _ => None,
        }
    }

    /// Something of it may exist in the supervisor.
    pub fn lives(&self) -> bool {
        matches!(self.life, Life::Starting { .. } | Life::Running(_) | Life::Stopping { .. })
    }

    pub fn verdict(&self, kind: ProbeKind) -> Option<Option<bool>> {
        let probes = &self.run()?.probes;
        probes.iter().find(|(each, _)| *each == kind).map(|(_, state)| state.verdict())
    }

    /// Running, and its startup probe (if any) has succeeded.
    pub fn started(&self) -> bool {
        self.run().is_some()
            && !matches!(self.verdict(ProbeKind::Startup), Some(None | Some(false)))
    }

    /// Started, and its readiness probe (if any) says so.
    pub fn ready(&self) -> bool {
        self.started() && !matches!(self.verdict(ProbeKind::Readiness), Some(None | Some(false)))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sandbox {
    Absent {
        not_before: Option<Duration>,
    },
    SettingUp,
    Ready {
        address: Option<Ipv4Addr>,
    },
    /// Its supervisor is dead: what is left has to be torn down before anything else.
    Lost,
    TearingDown,
    /// A teardown failed; tried again at the given time.
    Stuck {
        not_before: Duration,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
    }

    pub fn is_terminal(self) -> bool {
        self >= Phase::Succeeded
    }
}

/// Why everything in the Pod has to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// All its containers are done.
    Completed,
    /// activeDeadlineSeconds have passed.
    Deadline,
    /// The API object is being deleted, or is gone.
    Deleted { by: Duration, grace: Duration },
}

/// The way from "nothing lives" to "the API object is gone". Only for deleted Pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    NotYet,
    Cleaning,
    CleanFailed {
        not_before: Duration,
    },
    Cleaned,
    Deleting,
    DeleteFailed {
        not_before: Duration,
    },
    /// Asked for; the API's answer (the watch's DELETED) ends the machine.
    Deleted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodState {
    pub plan: PodPlan,
    pub options: MachineOptions,
    pub sandbox: Sandbox,
    /// The last address that the Pod had (kept in the status after its end).
    pub address: Option<Ipv4Addr>,
    pub containers: Vec<ContainerState>,
    pub initialized: bool,
    pub stop: Option<Stop>,
    pub phase: Phase,
    pub reason: Option<String>,
    pub message: Option<String>,
    pub started_at: Timestamp,
    /// Monotonic time at which activeDeadlineSeconds have passed.
    pub deadline: Option<Duration>,
    pub sandbox_backoff: Backoff,
    pub removal: Removal,
    /// The API has no such object any more.
    pub object_gone: bool,
    /// Never to be started here.
    pub refused: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MachineOptions {
    pub backoff: BackoffOptions,
}

/// Why a container did not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartFailure {
    /// Before anything was made: `reason` is the waiting state's (ErrImagePull, CreateContainerConfigError …).
    NotMade { reason: String, message: String },
    /// It was made and ended at once (ContainerCannotRun …).
    Ended(Termination),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Tick,
    SandboxReady {
        address: Option<Ipv4Addr>,
    },
    /// `reason` is the warning event's: FailedMount, FailedCreatePodSandBox.
    SandboxFailed {
        reason: &'static str,
        message: String,
    },
    /// A ConfigMap or Secret that a volume shows.
    SourcesChanged,
    SupervisorLost,
    TornDown,
    TeardownFailed {
        message: String,
    },
    ImageResolved {
        index: usize,
        image: String,
        image_id: String,
    },
    Started {
        index: usize,
        attempt: u32,
        id: String,
        started_at: Timestamp,
    },
    StartFailed {
        index: usize,
        attempt: u32,
        failure: StartFailure,
    },
    Exited {
        index: usize,
        attempt: u32,
        termination: Termination,
    },
    Probed {
        index: usize,
        attempt: u32,
        kind: ProbeKind,
        outcome: Outcome,
    },
    PreStopDone {
        index: usize,
        attempt: u32,
        error: Option<String>,
    },
    /// The API object has a deletionTimestamp.
    Deleted {
        grace: Duration,
    },
    ObjectGone,
    Cleaned,
    CleanFailed {
        message: String,
    },
    ObjectDeleted,
    DeleteFailed,
}

/// What has to be done. The worker does it and answers with an [`Event`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    SetupSandbox,
    TeardownSandbox,
    StartContainer {
        index: usize,
        attempt: u32,
    },
    PreStop {
        index: usize,
        attempt: u32,
        limit: Duration,
    },
    /// SIGTERM or the image's stop signal. No answer is awaited: the exit is.
    Terminate {
        index: usize,
    },
    Kill {
        index: usize,
    },
    Probe {
        index: usize,
        attempt: u32,
        kind: ProbeKind,
    },
    /// Remove what is left of the Pod on this node: volumes, writable layers, logs.
    Clean,
    DeleteObject,
    Report(Report),
}

/// An event for people (core/v1 Event).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
    /// The container that it is about.
    pub index: Option<usize>,
}

impl PodState {
    /// A Pod of which nothing exists on this node.
    pub fn new(plan: PodPlan, options: MachineOptions, now: Now) -> Self {
        let has_init = plan.containers.iter().any(|container| container.kind != Kind::Main);
        let reason = if has_init { decide::POD_INITIALIZING } else { decide::CONTAINER_CREATING };
        let containers =
            plan.containers.iter().map(|plan| ContainerState::fresh(&plan.image, reason)).collect();
        let deadline = plan.active_deadline.map(|limit| now.mono + limit);
        Self {
            plan,
            options,
            sandbox: Sandbox::Absent { not_before: None },
            address: None,
            containers,
            initialized: false,
            stop: None,
            phase: Phase::Pending,
            reason: None,
            message: None,
            started_at: now.wall,
            deadline,
            sandbox_backoff: Backoff::default(),
            removal: Removal::NotYet,
            object_gone: false,
            refused: false,
        }
    }

    /// This node cannot run the Pod as written (see [`super::admit`]).
    pub fn refuse(&mut self, message: &str) {
        self.reason = Some(super::admit::REASON.into());
        self.message = Some(message.into());
        self.refused = true;
        if self.plan.restart_policy != RestartPolicy::Always {
            self.stop.get_or_insert(Stop::Completed);
            return;
        }
        for container in &mut self.containers {
            if let Life::Waiting { reason, message: text, .. } = &mut container.life {
                *reason = super::admit::REASON.into();
                *text = Some(message.into());
            }
        }
    }

    /// Nothing is left, on this node and in the API: the worker ends.
    pub fn is_gone(&self) -> bool {
        self.object_gone && self.removal == Removal::Deleted
    }

    pub fn is_deleted(&self) -> bool {
        matches!(self.stop, Some(Stop::Deleted { .. }))
    }
}

/// Applies `event`, then decides. Returns what to do now; ask [`decide::next_wakeup`] when to send
/// the next [`Event::Tick`].
pub fn step(state: &mut PodState, event: Event, now: Now) -> Vec<Action> {
    let mut actions = Vec::new();
    super::apply::apply(state, event, now, &mut actions);
    decide::decide(state, now, &mut actions);
    actions
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "property_tests.rs"]
mod property_tests;
