//! Runs controllers: events in, keys out, one reconcile per key at a time, writes performed, failures retried.
//!
//! One task owns the queue of all controllers. It is woken by store events, by finished reconciles and by
//! the next timer, and by nothing else.
//!
//! **Invariant: a reconcile sees the writes of every earlier reconcile of its key.** Reads come from the
//! cache that the store publishes to *before* it acknowledges a write, a reconcile is finished only when its
//! writes are acknowledged, and a key is not started again before it is finished. So there is no window in
//! which a controller acts twice on one observation, and controllers need no book of expected events.
//! Other keys and other clients may have written since: an update carries the version it was decided on, a
//! conflict means "look again".

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::events::Recorder;
use super::outcome::{Act, Outcome};
use super::queue::{Finished, Queue};
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;
use crate::status::ApiError;
use crate::store::Subscription;
use crate::writer::{Change, Writer};

/// Reconciles in flight; more than a few only wait for the same disk.
const AT_ONCE: usize = 64;

/// One object as it was and as it is; at least one of the two is there.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    pub resource: Resource,
    pub old: Option<&'a Object>,
    pub new: Option<&'a Object>,
}

impl<'a> Seen<'a> {
    /// The states to map to keys: an object may have moved from one owner to another.
    pub fn states(&self) -> impl Iterator<Item = &'a Object> {
        self.old.into_iter().chain(self.new)
    }

    pub fn latest(&self) -> Option<&'a Object> {
        self.new.or(self.old)
    }

    pub fn is_deletion(&self) -> bool {
        self.new.is_none()
    }
}

/// A pure decider with its wiring.
pub trait Controller: Send + Sync + 'static {
    /// The user that writes, and the component of its events.
    fn name(&self) -> &'static str;

    /// Resources whose events may concern it.
    fn watches(&self) -> Vec<Resource>;

    /// Which keys an event concerns. At start it is called once for every watched object.
    fn keys(&self, world: &dyn Reader, seen: Seen<'_>) -> Vec<Key>;

    /// Looks at the world and decides. Must not depend on why it is called.
    fn reconcile(&self, world: &dyn Reader, key: &Key, now: Timestamp) -> Outcome;

    /// What to write when `change` was refused, e.g. a condition that says so.
    fn refused(
        &self,
        _world: &dyn Reader,
        _key: &Key,
        _change: &Change,
        _error: &ApiError,
        _now: Timestamp,
    ) -> Vec<Change> {
        Vec::new()
    }
}

/// What time it is; tests bring their own.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    pub fn system() -> Self {
        Self(Arc::new(Timestamp::now))
    }

    /// `start` plus what tokio's clock, which tests can pause, has advanced since now.
    pub fn following_tokio(start: Timestamp) -> Self {
        let origin = Instant::now();
        Self(Arc::new(move || start + origin.elapsed()))
    }

    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

/// What every run needs; cheap to clone.
#[derive(Clone)]
pub struct Tools {
    pub reader: Arc<dyn Reader>,
    pub writer: Arc<dyn Writer>,
    pub recorder: Recorder,
    pub clock: Clock,
}

type Job = (usize, Key);

/// Runs `controllers` until `shutdown`; reconciles in flight are finished.
pub async fn run(
    controllers: Vec<Arc<dyn Controller>>,
    tools: Tools,
    mut events: Subscription,
    shutdown: CancellationToken,
) {
    let mut queue = Queue::<Job>::default();
    let wiring = wire(&controllers);
    first_look(&controllers, &wiring, &tools, &mut queue);
    let mut running = JoinSet::new();
    loop {
        while running.len() < AT_ONCE
            && let Some(job) = queue.pop(Instant::now())
        {
            running.spawn(work(controllers[job.0].clone(), tools.clone(), job));
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = running.join_next() => finish(&mut queue, ended),
            event = events.recv() => match event {
                Some(event) => {
                    let seen = Seen { resource: event.resource, old: event.old.as_deref(), new: event.new.as_deref() };
                    admit(&controllers, &wiring, &tools, &mut queue, seen);
                }
                None => break,
            },
            () = timer(queue.next_due()) => {}
        }
    }
    while running.join_next().await.is_some() {}
}

async fn timer(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn wire(controllers: &[Arc<dyn Controller>]) -> HashMap<Resource, Vec<usize>> {
    let mut wiring: HashMap<Resource, Vec<usize>> = HashMap::new();
    for (index, controller) in controllers.iter().enumerate() {
        for resource in controller.watches() {
            wiring.entry(resource).or_default().push(index);
        }
    }
    wiring
}

/// The subscription is older than this look, so nothing falls in between.
fn first_look(
    controllers: &[Arc<dyn Controller>],
    wiring: &HashMap<Resource, Vec<usize>>,
    tools: &Tools,
    queue: &mut Queue<Job>,
) {
    for resource in wiring.keys() {
        for object in tools.reader.list(resource, None) {
            let seen = Seen { resource, old: None, new: Some(&object) };
            admit(controllers, wiring, tools, queue, seen);
        }
    }
}

fn admit(
    controllers: &[Arc<dyn Controller>],
    wiring: &HashMap<Resource, Vec<usize>>,
    tools: &Tools,
    queue: &mut Queue<Job>,
    seen: Seen<'_>,
) {
    for &index in wiring.get(seen.resource).into_iter().flatten() {
        for key in controllers[index].keys(&*tools.reader, seen) {
            queue.add((index, key));
        }
    }
}

fn finish(queue: &mut Queue<Job>, ended: Result<(Job, Finished), tokio::task::JoinError>) {
    match ended {
        Ok((job, how)) => queue.finish(job, how, Instant::now()),
        // The key stays busy: a decider that panics on an object is not fed the same object again and again.
        Err(error) => tracing::error!(%error, "reconcile"),
    }
}

async fn work(controller: Arc<dyn Controller>, tools: Tools, job: Job) -> (Job, Finished) {
    let outcome = controller.reconcile(&*tools.reader, &job.1, tools.clock.now());
    let recorder = tools.recorder.for_component(component(controller.name()));
    for note in outcome.notes {
        recorder.note(note);
    }
    for batch in outcome.batches {
        let acts =
            batch.into_iter().map(|act| perform(&*controller, &tools, &recorder, &job.1, act));
        if !join_all(acts).await.into_iter().all(|done| done) {
            return (job, Finished::Failed);
        }
    }
    (job, Finished::Well(outcome.requeue_after))
}

/// Events name the short component: `deployment-controller`.
fn component(user: &'static str) -> &'static str {
    user.rsplit(':').next().unwrap_or(user)
}

/// Performs one act; false when it was refused.
async fn perform(
    controller: &dyn Controller,
    tools: &Tools,
    recorder: &Recorder,
    key: &Key,
    act: Act,
) -> bool {
    let Act { change, done, refused } = act;
    let deletes = matches!(change, Change::Delete { .. });
    let target = target(&change);
    let error = match pin!(tools.writer.apply(controller.name(), change.clone())).await {
        Ok(object) => {
            let name = object.map_or(target, |object| object.meta.name.clone());
            done.into_iter().for_each(|note| recorder.note(note.filled(&name)));
            return true;
        }
        Err(error) if deletes && error.is_not_found() => return true,
        Err(error) => error,
    };
    if error.is_conflict() {
        tracing::debug!(controller = controller.name(), ?key, %error, "look again");
        return false;
    }
    if error.causes.iter().any(|cause| cause.reason == "NamespaceTerminating") {
        tracing::debug!(controller = controller.name(), ?key, %error, "too late");
        return false;
    }
    tracing::warn!(controller = controller.name(), ?key, %error, "write refused");
    refused.into_iter().for_each(|note| recorder.note(note.filled(&error.to_string())));
    for change in controller.refused(&*tools.reader, key, &change, &error, tools.clock.now()) {
        if let Err(error) = tools.writer.apply(controller.name(), change).await {
            tracing::debug!(controller = controller.name(), ?key, %error, "report a refusal");
        }
    }
    false
}

fn target(change: &Change) -> String {
    match change {
        Change::Create { object, .. } | Change::Update { object, .. } => {
            object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
        }
        Change::Delete { name, .. } | Change::Bind { name, .. } => name.clone(),
    }
}
