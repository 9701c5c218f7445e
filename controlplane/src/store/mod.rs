//! The store: every object of the cluster, its history since a while ago, and the one way to change it.
//!
//! Contract, whatever the backend:
//! - A **revision** counts writes over all resources. It never goes back, not even over a restart, and is
//!   the `resourceVersion` of what was written with it.
//! - A write is a compare-and-swap on one object. It is **acknowledged only when durable**, and visible to
//!   readers and watchers only then: nobody sees what a power cut could take back.
//! - Readers get the newest published version from memory and never wait for a disk.
//! - Watchers hold a cursor into a bounded window of events. A watcher too slow for the window is told
//!   [`Expired`]; it can neither block a writer nor grow memory.
//! - A deletion's event carries the last state, with the deletion's revision.
//!
//! The store never validates and knows nothing of HTTP.

mod backend;
pub mod backup;
mod cache;
mod commit;
pub mod etcd;
mod file;
mod watch;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde_json::Value;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};

use crate::object::{Key, Object, Resource};
use crate::reader::Reader;

pub use backend::{Backend, BackendError, Each, Memory, Op};
pub use cache::Snapshot;
pub use file::Redb;
pub use watch::{Batch, Watcher};

use cache::Cache;
use etcd::Etcd;

/// One change of one object.
#[derive(Debug)]
pub struct Event {
    pub resource: Resource,
    pub revision: u64,
    /// What it was before; None when it was created.
    pub old: Option<Arc<Object>>,
    /// What it is now; None when it was deleted.
    pub new: Option<Arc<Object>>,
    /// After a deletion: the last state with the deletion's revision.
    pub gone: Option<Arc<Object>>,
}

impl Event {
    /// The object that the event is about, at the event's revision.
    pub fn object(&self) -> &Arc<Object> {
        match (&self.new, &self.gone, &self.old) {
            (Some(object), ..) | (None, Some(object), _) | (None, None, Some(object)) => object,
            (None, None, None) => unreachable!("an event is about an object"),
        }
    }
}

/// Events for a decider, from now on, none left out. It is a queue in memory: take from it promptly.
pub type Subscription = mpsc::UnboundedReceiver<Arc<Event>>;

/// A write; `value` needs a name (and namespace) that agree with the key, its resourceVersion is set here.
#[derive(Debug)]
pub enum Write {
    Create {
        key: Key,
        value: Value,
    },
    /// Only if the stored version is `version`.
    Update {
        key: Key,
        version: u64,
        value: Value,
    },
    /// Only if the stored version is `version`.
    Delete {
        key: Key,
        version: u64,
    },
}

impl Write {
    pub fn key(&self) -> &Key {
        match self {
            Write::Create { key, .. } | Write::Update { key, .. } | Write::Delete { key, .. } => {
                key
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StoreError {
    #[error("object already exists")]
    Exists,
    #[error("object does not exist")]
    NotFound,
    #[error("object has version {current}, not the expected one")]
    Conflict { current: u64 },
    #[error("encode object: {0}")]
    Encode(String),
    /// The outcome is unknown. If it was a disk, so is its health: nothing more is written until a restart.
    #[error("commit to the store: {0}")]
    Failed(String),
    #[error("the store is closed")]
    Closed,
    /// Of one who decided until a moment ago.
    #[error("another server decides now")]
    Deposed,
}

/// The window of events no longer reaches back to the revision asked for.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("revision {asked} is too old, the window begins at {oldest}")]
pub struct Expired {
    pub asked: u64,
    pub oldest: u64,
}

/// The name of an object in a backend: `resource NUL namespace NUL name`.
fn stored_key(key: &Key) -> String {
    format!("{}\0{}\0{}", key.resource, key.namespace, key.name)
}

pub(crate) enum Request {
    Write(Write, oneshot::Sender<Result<Arc<Object>, StoreError>>),
    Stop,
}

pub(crate) struct Shared {
    cache: RwLock<Cache>,
    failed: AtomicBool,
}

impl Shared {
    fn new(cache: Cache) -> Self {
        Self { cache: RwLock::new(cache), failed: AtomicBool::new(false) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Cache> {
        self.cache.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Cache> {
        self.cache.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Requests waiting for the committing thread; more callers than this wait in `commit`.
const QUEUE: usize = 1024;

/// Who makes writes durable and publishes them.
enum Engine {
    /// One writer, on a backend of this process.
    Local {
        requests: mpsc::Sender<Request>,
        thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    },
    Etcd(Arc<Etcd>),
}

/// What only one writer at a time may look at and then write.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Section {
    /// Addresses and ports of Services.
    Addresses,
    /// What is counted against a quota.
    Quotas,
}

/// The right to be in a section, until dropped. Whatever was written in it before is known here.
pub(crate) struct Exclusive {
    _here: OwnedMutexGuard<()>,
    _there: Option<etcd::Lock>,
}

/// The store; share it in an `Arc`.
pub struct Store {
    shared: Arc<Shared>,
    engine: Arc<Engine>,
    sections: [Arc<tokio::sync::Mutex<()>>; 2],
    /// Writes are only good while this is who decides.
    fence: Option<Arc<str>>,
}

impl Store {
    /// Opens the database file, creating it when absent.
    pub fn open(path: &Path) -> Result<Self, BackendError> {
        Self::with_backend(Box::new(Redb::open(path)?))
    }

    /// A store that forgets, for tests.
    pub fn memory() -> Self {
        Self::with_backend(Box::<Memory>::default()).expect("an empty memory loads")
    }

    pub fn with_backend(mut backend: Box<dyn Backend>) -> Result<Self, BackendError> {
        let shared = Arc::new(Shared::new(Cache::load(backend.as_mut())?));
        let (requests, queue) = mpsc::channel(QUEUE);
        let worker = commit::Committer::new(shared.clone(), backend);
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || worker.run(queue))
            .map_err(|e| BackendError::new("start the store's thread", e))?;
        let engine = Arc::new(Engine::Local { requests, thread: Mutex::new(Some(thread)) });
        Ok(Self { shared, engine, sections: Default::default(), fence: None })
    }

    /// One that is shared with other control planes.
    pub async fn etcd(options: &etcd::Options) -> Result<Self, BackendError> {
        let etcd = Etcd::open(options).await?;
        let shared = etcd.shared().clone();
        let engine = Arc::new(Engine::Etcd(etcd));
        Ok(Self { shared, engine, sections: Default::default(), fence: None })
    }

    /// The etcd that it is in; there may be other servers then.
    pub(crate) fn in_etcd(&self) -> Option<&Arc<Etcd>> {
        match &*self.engine {
            Engine::Local { .. } => None,
            Engine::Etcd(etcd) => Some(etcd),
        }
    }

    /// The same store for one who decides, until another one does.
    pub(crate) fn fenced(&self, fence: Arc<str>) -> Self {
        let (shared, engine) = (self.shared.clone(), self.engine.clone());
        Self { shared, engine, sections: self.sections.clone(), fence: Some(fence) }
    }

    /// Waits until nobody else, on any server, is in this section.
    pub(crate) async fn exclusive(&self, section: Section) -> Result<Exclusive, StoreError> {
        let (mutex, name) = match section {
            Section::Addresses => (&self.sections[0], "addresses"),
            Section::Quotas => (&self.sections[1], "quotas"),
        };
        let here = mutex.clone().lock_owned().await;
        let there = match &*self.engine {
            Engine::Local { .. } => None,
            Engine::Etcd(etcd) => Some(etcd.lock(name).await?),
        };
        Ok(Exclusive { _here: here, _there: there })
    }

    /// Waits until reads give what any server has acknowledged by now.
    pub async fn fresh(&self) -> Result<(), StoreError> {
        match &*self.engine {
            Engine::Local { .. } => Ok(()),
            Engine::Etcd(etcd) => etcd.fresh().await,
        }
    }

    /// Makes one change; when it returns, the change is durable and published. The object returned is the new
    /// version, after a deletion the last state with the deletion's revision. Dropping the future does not
    /// take the change back.
    pub async fn commit(&self, write: Write) -> Result<Arc<Object>, StoreError> {
        let requests = match &*self.engine {
            Engine::Local { requests, .. } => requests,
            Engine::Etcd(etcd) => return etcd.commit(write, self.fence.as_deref()).await,
        };
        let (answer, answered) = oneshot::channel();
        let request = Request::Write(write, answer);
        requests.send(request).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Returns when `revision` is published.
    pub async fn reached(&self, revision: u64) {
        let mut published = self.shared.read().published();
        // The sender lives as long as this store.
        let _ = published.wait_for(|newest| *newest >= revision).await;
    }

    /// The newest published revision.
    pub fn revision(&self) -> u64 {
        self.shared.read().revision()
    }

    /// False after a commit failed: what was acknowledged is safe, nothing more is accepted.
    pub fn healthy(&self) -> bool {
        !self.shared.failed.load(Ordering::Acquire)
    }

    /// All objects of a resource (of one namespace when given) and the revision they stand at.
    pub fn snapshot(&self, resource: Resource, namespace: Option<&str>) -> Snapshot {
        self.shared.read().snapshot(resource, namespace)
    }

    /// As [`Store::snapshot`] was at `revision`, as long as the window reaches back to it.
    pub fn snapshot_at(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        revision: u64,
    ) -> Result<Snapshot, Expired> {
        self.shared.read().snapshot_at(resource, namespace, revision)
    }

    /// Events of one resource after `revision`.
    pub fn watch(&self, resource: Resource, revision: u64) -> Result<Watcher, Expired> {
        Watcher::new(self.shared.clone(), resource, revision)
    }

    /// Every event of every resource from now on.
    pub fn subscribe(&self) -> Subscription {
        self.shared.write().subscribe()
    }

    /// Everything at one revision, as text. Nobody waits for it.
    pub fn backup(&self) -> backup::Lines {
        backup::Lines::new(self.shared.read().everything())
    }

    /// The number of objects per resource.
    pub fn counts(&self) -> Vec<(Resource, usize)> {
        self.shared.read().counts()
    }

    /// Finishes what is queued and closes the backend. Blocks; later commits answer [`StoreError::Closed`].
    pub fn close(&self) {
        let (requests, thread) = match &*self.engine {
            Engine::Local { requests, thread } => (requests, thread),
            Engine::Etcd(etcd) => return etcd.close(),
        };
        let thread = thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let requests = requests.clone();
            // A thread of its own: `blocking_send` is not allowed on a runtime's thread.
            let stop = std::thread::spawn(move || requests.blocking_send(Request::Stop).is_ok());
            let _ = stop.join();
            let _ = thread.join();
        }
    }
}

impl Reader for Store {
    fn get(&self, resource: Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.shared.read().get(resource, namespace, name)
    }

    fn list(&self, resource: Resource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        self.shared.read().snapshot(resource, namespace).objects
    }
}
