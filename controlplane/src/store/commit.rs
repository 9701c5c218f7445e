//! The one writer. It takes what is queued as one batch, checks each write against the state it will find
//! (published plus earlier in the batch), commits the batch with one fsync, then publishes and answers.
//!
//! ```text
//! queue ──► stage (CAS, revision, bytes) ──► backend.commit (fsync) ──► publish ──► answer
//! ```
//! The order matters: before the commit returns nobody may see the batch, and nobody is answered.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::{Backend, Event, Op, Request, Shared, StoreError, Write, stored_key};
use crate::object::{Key, Meta, Object};

/// Writes that share one fsync at most.
const BATCH: usize = 512;

type Answer = oneshot::Sender<Result<Arc<Object>, StoreError>>;

pub(super) struct Committer {
    shared: Arc<Shared>,
    backend: Box<dyn Backend>,
    revision: u64,
    /// Bytes of all keys and objects.
    live: u64,
}

/// A batch on its way to the disk.
#[derive(Default)]
struct Staged {
    /// What the batch has made of the objects it touches.
    overlay: HashMap<Key, Option<Arc<Object>>>,
    ops: Vec<Op>,
    events: Vec<Arc<Event>>,
    answers: Vec<(Answer, Arc<Object>)>,
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>, backend: Box<dyn Backend>) -> Self {
        let (revision, live) = (shared.read().revision(), shared.read().bytes());
        Self { shared, backend, revision, live }
    }

    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut stop = false;
        while !stop {
            let Some(first) = queue.blocking_recv() else { return };
            let mut staged = Staged::default();
            let mut next = Some(first);
            while let Some(request) = next {
                match request {
                    Request::Write(write, answer) => self.accept(&mut staged, write, answer),
                    Request::Stop => stop = true,
                }
                let room = !stop && staged.ops.len() < BATCH;
                next = if room { queue.try_recv().ok() } else { None };
            }
            self.commit(staged);
            if queue.is_empty() {
                self.tidy();
            }
        }
    }

    /// After the answers: nobody waits for it but who comes while it is done.
    fn tidy(&mut self) {
        if let Err(error) = self.backend.tidy(self.live) {
            tracing::error!(%error, "the store accepts nothing more");
            self.shared.failed.store(true, Ordering::Release);
        }
    }

    fn accept(&mut self, staged: &mut Staged, write: Write, answer: Answer) {
        if self.shared.failed.load(Ordering::Acquire) {
            let _ = answer.send(Err(StoreError::Failed("an earlier commit failed".into())));
            return;
        }
        match self.stage(staged, write) {
            Ok(object) => staged.answers.push((answer, object)),
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    fn stage(&mut self, staged: &mut Staged, write: Write) -> Result<Arc<Object>, StoreError> {
        let current = match staged.overlay.get(write.key()) {
            Some(current) => current.clone(),
            None => {
                let key = write.key();
                self.shared.read().get(key.resource, &key.namespace, &key.name)
            }
        };
        let revision = self.revision + 1;
        let (key, value, delete) = match write {
            Write::Create { key, value } => match current {
                Some(_) => return Err(StoreError::Exists),
                None => (key, value, false),
            },
            Write::Update { key, version, value } => {
                check(current.as_deref(), version)?;
                (key, value, false)
            }
            Write::Delete { key, version } => {
                let value = check(current.as_deref(), version)?.value();
                (key, value, true)
            }
        };
        let object = Arc::new(encode(&key, value, revision)?);
        self.revision = revision;
        let alive = (!delete).then(|| object.clone());
        staged
            .ops
            .push(Op { key: stored_key(&key), value: alive.as_ref().map(|o| o.raw().clone()) });
        staged.events.push(Arc::new(Event {
            resource: key.resource,
            revision,
            old: current,
            new: alive.clone(),
            gone: delete.then(|| object.clone()),
        }));
        staged.overlay.insert(key, alive);
        Ok(object)
    }

    fn commit(&mut self, staged: Staged) {
        if staged.ops.is_empty() {
            return;
        }
        match self.backend.commit(&staged.ops, self.revision) {
            Ok(()) => {
                self.shared.write().publish(&staged.events, self.revision);
                for event in &staged.events {
                    let size = |o: &Option<Arc<Object>>| o.as_deref().map_or(0, stored_bytes);
                    self.live = (self.live + size(&event.new)).saturating_sub(size(&event.old));
                }
                for (answer, object) in staged.answers {
                    let _ = answer.send(Ok(object));
                }
            }
            Err(error) => {
                self.shared.failed.store(true, Ordering::Release);
                let error = StoreError::Failed(error.to_string());
                for (answer, _) in staged.answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }
}

/// What an object takes in the backend.
pub(super) fn stored_bytes(object: &Object) -> u64 {
    let Meta { namespace, name, .. } = &object.meta;
    let key = object.resource.len() + namespace.len() + name.len() + 2;
    (key + object.raw().len()) as u64
}

fn check(current: Option<&Object>, version: u64) -> Result<&Object, StoreError> {
    let current = current.ok_or(StoreError::NotFound)?;
    match current.meta.resource_version {
        stored if stored == version => Ok(current),
        stored => Err(StoreError::Conflict { current: stored }),
    }
}

pub(super) fn encode(key: &Key, mut value: Value, revision: u64) -> Result<Object, StoreError> {
    let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
    let metadata = metadata.ok_or_else(|| StoreError::Encode("metadata is missing".into()))?;
    metadata.insert("resourceVersion".into(), revision.to_string().into());
    let object =
        Object::from_value(key.resource, &value).map_err(|e| StoreError::Encode(e.to_string()))?;
    if object.meta.name != *key.name || object.meta.namespace != *key.namespace {
        return Err(StoreError::Encode(format!("metadata does not agree with {key:?}")));
    }
    Ok(object)
}
