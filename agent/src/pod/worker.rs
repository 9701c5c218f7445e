//! The task that owns one Pod: feeds events to the machine, performs its actions, keeps the API's status true.
//!
//! An action runs as a task of its own and answers with a message, so the worker always listens; a task that
//! panics answers too. When the node shuts down the worker ends and leaves everything as it is: containers go
//! on under their supervisors.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kobune_runtime::wire::{ContainerPhase, ContainerRecord};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::admit;
use super::decide;
use super::perform;
use super::plan::{Kind, find_container};
use super::restore::{Found, ended, restore};
use super::sources;
use super::state::{Action, Event, Life, MachineOptions, PodState, Report, Sandbox, step};
use super::token::Tokens;
use super::write::Writer;
use crate::events::Note;
use crate::node::context::Context;
use crate::node::pods::{ContainerView, PodView};
use crate::sandbox::client::Events;
use crate::sandbox::dirs::PodDirs;
use crate::sandbox::{self, Remains, Standing};

/// What a worker is told.
#[derive(Debug)]
pub enum Msg {
    /// The API object as it is now.
    Pod(Arc<Pod>),
    /// The API object is gone.
    Gone,
    /// The answer of an action.
    Event(Event),
    SandboxUp(Box<(Standing, Events)>),
    Record(Box<ContainerRecord>),
    SupervisorGone,
    SourcesChanged,
    Written(Box<Result<Pod, kube::Error>>),
}

pub struct Worker {
    pub(super) context: Arc<Context>,
    pub(super) pod: Arc<Pod>,
    pub(super) dirs: PodDirs,
    pub(super) state: PodState,
    pub(super) standing: Option<Standing>,
    pub(super) tokens: Arc<Tokens>,
    pub(super) outbox: mpsc::UnboundedSender<Msg>,
    inbox: mpsc::UnboundedReceiver<Msg>,
    /// The supervisor's events.
    listeners: JoinSet<()>,
    /// Changes of what the volumes show.
    sources: JoinSet<()>,
    writer: Writer,
    /// True while the API's status says what the machine says.
    pub(super) settled: watch::Sender<bool>,
    refused: Vec<admit::Refusal>,
    /// Cancelled when the Pod is to stop: starts that wait for an image give up.
    pub(super) stopped: CancellationToken,
}

impl Worker {
    pub fn new(
        context: Arc<Context>,
        pod: Arc<Pod>,
        dirs: PodDirs,
        channel: (mpsc::UnboundedSender<Msg>, mpsc::UnboundedReceiver<Msg>),
    ) -> Self {
        let options = MachineOptions { backoff: context.options.backoff };
        let state = restore(&pod, options, None, context.clock.now());
        let refused = admit::admit(&pod).err().unwrap_or_default();
        Self {
            context,
            pod,
            dirs,
            state,
            standing: None,
            tokens: Arc::new(Tokens::new()),
            outbox: channel.0,
            inbox: channel.1,
            listeners: JoinSet::new(),
            sources: JoinSet::new(),
            writer: Writer::default(),
            settled: watch::channel(false).0,
            refused,
            stopped: CancellationToken::new(),
        }
    }

    /// Runs until the Pod is gone or the node shuts down.
    pub async fn run(mut self, remains: Option<Remains>, shutdown: CancellationToken) {
        self.recover(remains).await;
        if !self.refused.is_empty() {
            self.refuse();
        }
        self.look_at_object(&Arc::clone(&self.pod));
        if self.state.stop.is_none() && !self.state.refused {
            self.sources = sources::watch(
                &self.context,
                &self.pod,
                &self.tokens,
                self.standing.is_some(),
                &self.outbox,
            );
        }
        self.step(Event::Tick);
        loop {
            self.publish();
            self.write_status();
            if self.state.is_gone() {
                break;
            }
            let wakeup = decide::next_wakeup(&self.state, self.context.clock.now());
            let wakeup = wakeup.map(|at| self.context.clock.instant(at));
            tokio::select! {
                () = shutdown.cancelled() => return,
                message = self.inbox.recv() => match message {
                    Some(message) => self.handle(message),
                    None => return,
                },
                () = sleep_until(wakeup) => self.step(Event::Tick),
                // Only the status is to be looked at again.
                () = sleep_until(self.writer.due()) => {}
            }
        }
        let plan = &self.state.plan;
        self.context.pods.withdraw(&plan.namespace, &plan.name, &plan.uid);
    }

    /// Goes on with what an earlier agent left.
    async fn recover(&mut self, remains: Option<Remains>) {
        // An earlier worker of this Pod may have left a sandbox that the scan at the start did not see.
        let Some(remains) = remains.or_else(|| sandbox::find(&self.dirs)) else { return };
        let (settings, copy) = (self.context.sandbox.clone(), remains.clone());
        let examined =
            tokio::task::spawn_blocking(move || sandbox::examine(&settings, &copy)).await;
        let (answers, mut records) = examined.unwrap_or_default();
        // A sandbox that was never finished is as good as dead.
        let complete = remains.record.supervisor_pid > 0;
        let mut events = None;
        if answers && complete {
            events = Events::subscribe(&remains.dirs.socket()).await.ok();
        }
        for record in &mut records {
            record.message = record.message.take().or_else(|| self.last_words(record));
        }
        let found = Found { alive: events.is_some(), address: remains.record.address, records };
        self.state = restore(&self.pod, self.state.options, Some(&found), self.context.clock.now());
        if let Some(events) = events {
            self.stand(Standing { record: remains.record, dirs: remains.dirs }, events);
        }
    }

    /// A Pod that this node cannot run as written; see [`admit`].
    fn refuse(&mut self) {
        let message = admit::summary(&self.refused);
        if self.state.phase.is_terminal() {
            return;
        }
        self.report(&Report {
            warning: true,
            reason: admit::REASON,
            message: message.clone(),
            index: None,
        });
        self.state.refuse(&message);
    }

    fn handle(&mut self, message: Msg) {
        self.settled.send_replace(false);
        match message {
            Msg::Pod(pod) => {
                self.look_at_object(&pod);
                // The answer to our own write may be newer than what the watch has to tell.
                if !is_older(&pod, &self.pod) {
                    self.pod = pod;
                }
            }
            Msg::Gone => self.step(Event::ObjectGone),
            Msg::Event(event) => {
                if event == Event::TornDown {
                    self.standing = None;
                }
                self.step(event);
            }
            Msg::SandboxUp(up) => {
                let (standing, events) = *up;
                let address = standing.record.address;
                self.stand(standing, events);
                self.step(Event::SandboxReady { address });
            }
            Msg::Record(record) => self.record(&record),
            Msg::SupervisorGone => self.supervisor_gone(),
            Msg::SourcesChanged => self.sources_changed(),
            Msg::Written(result) => self.written(*result),
        }
    }

    /// Deletion is the only change of an object that matters to a Pod that runs.
    fn look_at_object(&mut self, pod: &Pod) {
        if pod.metadata.deletion_timestamp.is_none() {
            return;
        }
        let grace = pod.metadata.deletion_grace_period_seconds;
        let grace = grace.and_then(|seconds| u64::try_from(seconds).ok());
        self.step(Event::Deleted {
            grace: grace.map_or(self.state.plan.grace, Duration::from_secs),
        });
    }

    pub(super) fn step(&mut self, event: Event) {
        let now = self.context.clock.now();
        let actions = step(&mut self.state, event, now);
        if self.state.stop.is_some() {
            self.stopped.cancel();
        }
        for action in actions {
            match action {
                Action::Report(report) => self.report(&report),
                action => perform::perform(self, action),
            }
        }
    }

    fn stand(&mut self, standing: Standing, mut events: Events) {
        self.listeners = JoinSet::new();
        let outbox = self.outbox.clone();
        self.listeners.spawn(async move {
            while let Some(event) = events.next().await {
                if let kobune_runtime::wire::Event::Container(record) = event {
                    let _ = outbox.send(Msg::Record(Box::new(record)));
                }
            }
            let _ = outbox.send(Msg::SupervisorGone);
        });
        self.standing = Some(standing);
    }

    fn record(&mut self, record: &ContainerRecord) {
        let Some(index) = self.state.plan.index(&record.container) else { return };
        if record.phase == ContainerPhase::Exited {
            let termination = ended(record, self.last_words(record));
            self.step(Event::Exited { index, attempt: record.attempt, termination });
        }
    }

    fn last_words(&self, record: &ContainerRecord) -> Option<String> {
        if record.phase != ContainerPhase::Exited {
            return None;
        }
        let container = find_container(&self.pod, &record.container)?;
        let policy = container.termination_message_policy.as_deref();
        let fall_back = policy == Some("FallbackToLogsOnError") && record.exit_code != Some(0);
        let message = self.dirs.termination_log(&record.container, record.attempt);
        super::message::read(&message, &self.dirs.log(&record.container, record.attempt), fall_back)
    }

    fn supervisor_gone(&mut self) {
        self.listeners.abort_all();
        // While it is torn down its end is no news.
        if matches!(self.state.sandbox, Sandbox::Ready { .. }) {
            let cgroup = sandbox::pod_cgroup(&self.context.sandbox, &self.state.plan.uid);
            tokio::task::spawn_blocking(move || {
                if let Err(error) = kobune_runtime::cgroup::kill(&cgroup) {
                    tracing::warn!(%error, "kill what a dead supervisor left");
                }
            });
            self.step(Event::SupervisorLost);
        }
    }

    /// Volumes that are shown are refreshed; what waited for a missing source is tried again.
    fn sources_changed(&mut self) {
        if self.state.stop.is_some() {
            self.sources.abort_all();
        } else if let Some(standing) = self.standing.clone() {
            tokio::spawn(sources::refresh(
                Arc::clone(&self.context),
                Arc::clone(&self.pod),
                Arc::clone(&self.tokens),
                standing,
            ));
        } else {
            self.step(Event::SourcesChanged);
        }
    }

    fn write_status(&mut self) {
        self.writer.write(&self.context, &self.pod, &self.state, &self.outbox);
        self.settled.send_replace(self.writer.is_settled());
    }

    fn written(&mut self, result: Result<Pod, kube::Error>) {
        match self.writer.finish(result) {
            Some(pod) if pod.metadata.uid == self.pod.metadata.uid => self.pod = Arc::new(pod),
            _ => {}
        }
    }

    /// Runs `work` as a task; its event (or `otherwise`, should it panic) comes back to this worker.
    pub(super) fn spawn(
        &self,
        otherwise: Event,
        work: impl Future<Output = Event> + Send + 'static,
    ) {
        let outbox = self.outbox.clone();
        tokio::spawn(async move {
            let event = tokio::spawn(work).await.unwrap_or(otherwise);
            let _ = outbox.send(Msg::Event(event));
        });
    }

    fn report(&self, report: &Report) {
        let container = report.index.map(|index| &self.state.plan.containers[index]);
        let list = |kind: Kind| if kind == Kind::Main { "containers" } else { "initContainers" };
        let field_path = container.map(|plan| format!("spec.{}{{{}}}", list(plan.kind), plan.name));
        self.context.recorder.record(Note {
            about: ObjectReference { field_path, ..reference(&self.pod) },
            warning: report.warning,
            reason: report.reason.into(),
            message: report.message.clone(),
        });
    }

    fn publish(&self) {
        let state = &self.state;
        let view =
            |(plan, container): (&super::plan::ContainerPlan, &super::state::ContainerState)| {
                ContainerView {
                    name: plan.name.clone(),
                    id: container.id.clone(),
                    running: container.run().is_some(),
                    restart_count: container
                        .run()
                        .map_or(container.restart_count, |run| run.attempt),
                }
            };
        let both = || state.plan.containers.iter().zip(&state.containers);
        let main = both().filter(|(plan, _)| plan.kind == Kind::Main).map(view);
        let others = both().filter(|(plan, _)| plan.kind != Kind::Main).map(view);
        let host_network = sandbox::is_host_network(&self.pod);
        let host_ip = || self.context.options.node_ip.to_string();
        let address = state.address.map(|address| address.to_string());
        let view = PodView {
            uid: state.plan.uid.clone(),
            dirs: self.dirs.clone(),
            netns: self.standing.as_ref().and_then(Standing::netns_path),
            host_network,
            address: if host_network { Some(host_ip()) } else { address },
            containers: main.chain(others).collect(),
            images: both()
                .flat_map(|(plan, container)| [&plan.image, &container.image_id])
                .filter(|name| !name.is_empty())
                .cloned()
                .collect(),
        };
        self.context.pods.publish(&state.plan.namespace, &state.plan.name, view);
    }

    /// The attempt of the container that runs now.
    pub(super) fn attempt(&self, index: usize) -> Option<u32> {
        match &self.state.containers.get(index)?.life {
            Life::Running(run) | Life::Stopping { run, .. } => Some(run.attempt),
            _ => None,
        }
    }
}

/// How events name a Pod.
pub fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

/// Versions count up; two that are no numbers are not compared.
fn is_older(a: &Pod, b: &Pod) -> bool {
    let version = |pod: &Pod| pod.metadata.resource_version.as_ref()?.parse::<u64>().ok();
    version(a).zip(version(b)).is_some_and(|(a, b)| a < b)
}

pub(super) async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
