//! What a supervisor decides. Pure: inputs and the time in, actions out; the loop performs them in the order given.
//!
//! ```text
//!   Create            Ready              Start            Executed          Exited
//! ─────────▶ Making ─────────▶ Created ─────────▶ Starting ────────▶ Running ───────▶ Exited
//!              │                  │                  │                                  │ ▲
//!              │ Failed, Exited   │ Exited           │ StartFailed, Exited               │ │
//!              ▼                  └──────────────────┴──────────────────────────────────┼─┘
//!           (nothing)◀─────────────────────── Remove ───────────────────────────────────┘
//! ```
//! - Create: a name that is free, or whose container has exited, is given to a new container.
//! - Failed while Making: the request is refused and nothing is kept but, if there was one, the
//!   record of the container that had the name before.
//! - StartFailed: the program cannot be executed. The container has exited with 127, 126 or 128
//!   without ever running, and its record says why.
//! - Exited in any phase is final: what comes later for that process is ignored.
//!
//! A record is on disk before anybody is told about it.

use std::collections::BTreeMap;

use crate::create::Failure;
use crate::wire::{
    ContainerPhase, ContainerRecord, CreateRequest, ErrorKind, Event, ExecRequest, Request,
    Response, SupervisorState,
};

/// A connection, never reused.
pub(super) type Peer = u64;

/// What happened.
#[derive(Debug)]
pub(super) enum Input {
    Request {
        peer: Peer,
        request: Request,
    },
    /// The process exists; it is being set up.
    Launched {
        container: String,
        pid: i32,
    },
    /// It is set up and waits.
    Ready {
        container: String,
    },
    /// It could not be made.
    Failed {
        container: String,
        kind: ErrorKind,
        message: String,
    },
    Executed {
        container: String,
    },
    StartFailed {
        container: String,
        failure: Failure,
    },
    Exited {
        container: String,
        end: End,
        oom_killed: bool,
    },
    /// Somebody asked the supervisor itself to end.
    Terminate,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Code(i32),
    Signal(i32),
}

impl End {
    /// 128 + signal for a signal, as shells have it.
    pub(super) fn exit_code(self) -> i32 {
        match self {
            End::Code(code) => code,
            End::Signal(signal) => 128 + signal,
        }
    }
}

/// What to do about it.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    Reply {
        peer: Peer,
        response: Response,
    },
    /// To one subscriber.
    Tell {
        peer: Peer,
        event: Event,
    },
    /// To all of them.
    Publish(Event),
    Subscribe {
        peer: Peer,
    },
    Make(Box<CreateRequest>),
    /// Let the waiting process execute its program.
    Release {
        container: String,
    },
    /// Send a signal and answer `peer` with how that went.
    Signal {
        peer: Peer,
        container: String,
        signal: i32,
    },
    /// Begin one more process and answer `peer` about it.
    Exec {
        peer: Peer,
        request: Box<ExecRequest>,
    },
    /// Write the record.
    Persist(ContainerRecord),
    /// Remove cgroup and record.
    Forget {
        container: String,
    },
    /// Kill every process of every container.
    KillAll,
    /// Remove the Pod's cgroup.
    RemovePod,
    /// End the supervisor after all answers are written.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Who asked for it.
    Making(Peer),
    Created,
    Starting(Peer),
    Running,
    Exited,
}

#[derive(Debug)]
struct Container {
    stage: Stage,
    record: ContainerRecord,
    /// The record of the container that had the name before, until the new one is made.
    previous: Option<ContainerRecord>,
}

/// The supervisor's memory.
#[derive(Debug, Default)]
pub(super) struct Core {
    pid: i32,
    containers: BTreeMap<String, Container>,
    /// Somebody wants the end: who waits for an answer.
    ending: Option<Vec<Peer>>,
}

fn refuse(peer: Peer, kind: ErrorKind, message: impl Into<String>) -> Vec<Action> {
    vec![Action::Reply { peer, response: Response::Error { kind, message: message.into() } }]
}

impl Core {
    pub(super) fn new(pid: i32) -> Core {
        Core { pid, ..Core::default() }
    }

    /// `now`: nanoseconds since the epoch.
    pub(super) fn step(&mut self, input: Input, now: i64) -> Vec<Action> {
        let mut actions = match input {
            Input::Request { peer, request } => self.request(peer, request, now),
            Input::Launched { container, pid } => self.launched(&container, pid),
            Input::Ready { container } => self.ready(&container),
            Input::Failed { container, kind, message } => self.failed(&container, kind, message),
            Input::Executed { container } => self.executed(&container, now),
            Input::StartFailed { container, failure } => {
                self.start_failed(&container, failure, now)
            }
            Input::Exited { container, end, oom_killed } => {
                self.exited(&container, end, oom_killed, now)
            }
            Input::Terminate => self.end(None),
        };
        actions.extend(self.end_if_idle());
        actions
    }

    fn request(&mut self, peer: Peer, request: Request, now: i64) -> Vec<Action> {
        if self.ending.is_some() && !matches!(request, Request::State | Request::Shutdown) {
            return refuse(peer, ErrorKind::WrongPhase, "the supervisor is shutting down");
        }
        match request {
            Request::State => {
                vec![Action::Reply { peer, response: Response::State(self.state()) }]
            }
            Request::Subscribe => self.subscribe(peer),
            Request::Create(request) => self.create(peer, request, now),
            Request::Start { container } => self.start(peer, container),
            Request::Kill { container, signal } => match self.stage(&container) {
                Some(Stage::Created | Stage::Starting(_) | Stage::Running) => {
                    vec![Action::Signal { peer, container, signal }]
                }
                stage => wrong_phase(peer, &container, stage, "kill"),
            },
            Request::Exec(request) => match self.stage(&request.container) {
                Some(Stage::Running) => vec![Action::Exec { peer, request }],
                stage => wrong_phase(peer, &request.container, stage, "exec in"),
            },
            Request::Remove { container } => self.remove(peer, container),
            Request::Shutdown => self.end(Some(peer)),
        }
    }

    fn stage(&self, container: &str) -> Option<Stage> {
        self.containers.get(container).map(|container| container.stage)
    }

    fn state(&self) -> SupervisorState {
        SupervisorState { pid: self.pid, containers: self.records().cloned().collect() }
    }

    /// What is known of containers: those in the making are not.
    fn records(&self) -> impl Iterator<Item = &ContainerRecord> {
        self.containers.values().filter_map(|container| match container.stage {
            Stage::Making(_) => container.previous.as_ref(),
            _ => Some(&container.record),
        })
    }

    fn subscribe(&self, peer: Peer) -> Vec<Action> {
        let mut actions =
            vec![Action::Reply { peer, response: Response::Ok }, Action::Subscribe { peer }];
        let events = self.records().cloned().map(Event::Container);
        actions.extend(events.map(|event| Action::Tell { peer, event }));
        actions
    }

    fn create(&mut self, peer: Peer, request: Box<CreateRequest>, now: i64) -> Vec<Action> {
        let name = request.container.clone();
        if !is_name(&name) {
            let message = format!("container {name:?}: must be a DNS label");
            return refuse(peer, ErrorKind::Invalid, message);
        }
        let previous = match self.containers.remove(&name) {
            None => None,
            Some(old) if old.stage == Stage::Exited => Some(old.record),
            Some(other) => {
                let stage = other.stage;
                self.containers.insert(name.clone(), other);
                return wrong_phase(peer, &name, Some(stage), "create");
            }
        };
        let record = ContainerRecord {
            container: name.clone(),
            id: request.id.clone(),
            attempt: request.attempt,
            phase: ContainerPhase::Created,
            pid: 0,
            created_at: now,
            started_at: None,
            finished_at: None,
            exit_code: None,
            signal: None,
            oom_killed: false,
            message: None,
        };
        self.containers.insert(name, Container { stage: Stage::Making(peer), record, previous });
        vec![Action::Make(request)]
    }

    fn launched(&mut self, container: &str, pid: i32) -> Vec<Action> {
        if let Some(container) = self.containers.get_mut(container) {
            container.record.pid = pid;
        }
        Vec::new()
    }

    fn ready(&mut self, name: &str) -> Vec<Action> {
        let Some(container) = self.containers.get_mut(name) else { return Vec::new() };
        let Stage::Making(peer) = container.stage else { return Vec::new() };
        container.stage = Stage::Created;
        container.previous = None;
        let response = Response::Created { pid: container.record.pid };
        let mut actions = container.announce();
        actions.push(Action::Reply { peer, response });
        actions
    }

    fn failed(&mut self, name: &str, kind: ErrorKind, message: String) -> Vec<Action> {
        let Some(container) = self.containers.get_mut(name) else { return Vec::new() };
        let Stage::Making(peer) = container.stage else { return Vec::new() };
        match container.previous.take() {
            Some(record) => {
                container.record = record;
                container.stage = Stage::Exited;
            }
            None => {
                self.containers.remove(name);
            }
        }
        refuse(peer, kind, message)
    }

    fn start(&mut self, peer: Peer, name: String) -> Vec<Action> {
        match self.containers.get_mut(&name) {
            Some(container) if container.stage == Stage::Created => {
                container.stage = Stage::Starting(peer);
                vec![Action::Release { container: name }]
            }
            other => wrong_phase(peer, &name, other.map(|container| container.stage), "start"),
        }
    }

    fn executed(&mut self, name: &str, now: i64) -> Vec<Action> {
        let Some(container) = self.containers.get_mut(name) else { return Vec::new() };
        let Stage::Starting(peer) = container.stage else { return Vec::new() };
        container.stage = Stage::Running;
        container.record.phase = ContainerPhase::Running;
        container.record.started_at = Some(now);
        let mut actions = container.announce();
        actions.push(Action::Reply { peer, response: Response::Started { started_at: now } });
        actions
    }

    fn start_failed(&mut self, name: &str, failure: Failure, now: i64) -> Vec<Action> {
        let Some(container) = self.containers.get_mut(name) else { return Vec::new() };
        let Stage::Starting(peer) = container.stage else { return Vec::new() };
        let kind = if failure.is_program() { ErrorKind::CannotRun } else { ErrorKind::Internal };
        container.stage = Stage::Exited;
        container.record.pid = 0;
        container.record.message = Some(failure.message.clone());
        container.record.end(End::Code(failure.exit_code.into()), now);
        let mut actions = container.announce();
        actions.extend(refuse(peer, kind, failure.message));
        actions
    }

    fn exited(&mut self, name: &str, end: End, oom_killed: bool, now: i64) -> Vec<Action> {
        let Some(container) = self.containers.get_mut(name) else { return Vec::new() };
        let killed = || format!("the container's first process ended early ({})", describe(end));
        let peer = match container.stage {
            Stage::Exited => return Vec::new(),
            Stage::Making(_) => return self.failed(name, ErrorKind::Internal, killed()),
            Stage::Starting(peer) => Some(peer),
            Stage::Created | Stage::Running => None,
        };
        container.stage = Stage::Exited;
        container.record.oom_killed = oom_killed;
        container.record.end(end, now);
        let mut actions = container.announce();
        if let Some(peer) = peer {
            actions.extend(refuse(peer, ErrorKind::Internal, killed()));
        }
        actions
    }

    fn remove(&mut self, peer: Peer, name: String) -> Vec<Action> {
        match self.stage(&name) {
            Some(Stage::Exited) => {
                let mut actions = self.forget(name);
                actions.push(Action::Reply { peer, response: Response::Ok });
                actions
            }
            stage => wrong_phase(peer, &name, stage, "remove"),
        }
    }

    fn forget(&mut self, container: String) -> Vec<Action> {
        self.containers.remove(&container);
        let event = Event::Removed { container: container.clone() };
        vec![Action::Forget { container }, Action::Publish(event)]
    }

    fn end(&mut self, peer: Option<Peer>) -> Vec<Action> {
        self.ending.get_or_insert_default().extend(peer);
        vec![Action::KillAll]
    }

    /// Once the end is wanted and nothing lives any more.
    fn end_if_idle(&mut self) -> Vec<Action> {
        let idle = self.containers.values().all(|container| container.stage == Stage::Exited);
        if !idle {
            return Vec::new();
        }
        let Some(peers) = self.ending.as_mut().map(std::mem::take) else { return Vec::new() };
        let names: Vec<String> = self.containers.keys().cloned().collect();
        let mut actions: Vec<Action> =
            names.into_iter().flat_map(|name| self.forget(name)).collect();
        // Before the answers: who gets one finds nothing left.
        actions.push(Action::RemovePod);
        let replies = peers.into_iter().map(|peer| Action::Reply { peer, response: Response::Ok });
        actions.extend(replies);
        actions.push(Action::End);
        actions
    }
}

impl Container {
    fn announce(&self) -> Vec<Action> {
        let record = self.record.clone();
        vec![Action::Persist(record.clone()), Action::Publish(Event::Container(record))]
    }
}

impl ContainerRecord {
    fn end(&mut self, end: End, now: i64) {
        self.phase = ContainerPhase::Exited;
        self.finished_at = Some(now);
        self.exit_code = Some(end.exit_code());
        self.signal = match end {
            End::Signal(signal) => Some(signal),
            End::Code(_) => None,
        };
    }
}

fn describe(end: End) -> String {
    match end {
        End::Code(code) => format!("exit code {code}"),
        End::Signal(signal) => format!("signal {signal}"),
    }
}

fn wrong_phase(peer: Peer, name: &str, stage: Option<Stage>, verb: &str) -> Vec<Action> {
    let phase = match stage {
        None => {
            let message = format!("{verb} container {name:?}: no such container");
            return refuse(peer, ErrorKind::NotFound, message);
        }
        Some(Stage::Making(_)) => "being created",
        Some(Stage::Created) => "created",
        Some(Stage::Starting(_)) => "being started",
        Some(Stage::Running) => "running",
        Some(Stage::Exited) => "exited",
    };
    let message = format!("{verb} container {name:?}: it is {phase}");
    refuse(peer, ErrorKind::WrongPhase, message)
}

/// Names become file and cgroup names: DNS labels, as Kubernetes has them.
fn is_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
