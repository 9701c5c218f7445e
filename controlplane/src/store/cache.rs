//! The published state in memory: the newest version of every object, and per resource the window of recent
//! events. Never touches a disk; changed only by the committing thread.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::commit::stored_bytes;
use super::{Backend, BackendError, Event, Expired, Subscription};
use crate::object::{Key, Object, Resource, intern};

/// Bytes of events always kept per resource.
const WINDOW_MIN: usize = 256 << 10;
/// Bytes of events kept per resource at most.
const WINDOW_MAX: usize = 16 << 20;
/// Between the two, events are kept this long: a client that reconnects within it need not list again.
const WINDOW_AGE: Duration = Duration::from_secs(90);
/// What an event takes beside its JSON, about: metadata, keys, the deque.
const EVENT_OVERHEAD: usize = 1 << 10;
/// Whoever decides has looked at an event before so many more have come: then what is typed of the state before it
/// is dropped. It is several times as large as the JSON.
const TYPED: usize = 32;

/// Objects at one revision, ordered by namespace and name.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub revision: u64,
    pub objects: Vec<Arc<Object>>,
}

type Named = BTreeMap<Arc<str>, Arc<Object>>;

pub(super) struct Table {
    namespaces: BTreeMap<Arc<str>, Named>,
    window: VecDeque<(Instant, Arc<Event>)>,
    window_bytes: usize,
    /// Events up to and including this revision are not in the window.
    forgotten: u64,
    /// The revision of the newest event; wakes watchers.
    pub(super) newest: watch::Sender<u64>,
}

impl Table {
    fn new(forgotten: u64) -> Self {
        Self {
            namespaces: BTreeMap::new(),
            window: VecDeque::new(),
            window_bytes: 0,
            forgotten,
            newest: watch::Sender::new(forgotten),
        }
    }

    fn insert(&mut self, object: Arc<Object>) {
        let meta = &object.meta;
        let named = self.namespaces.entry(meta.namespace.as_str().into()).or_default();
        named.insert(meta.name.as_str().into(), object);
    }

    fn remove(&mut self, namespace: &str, name: &str) {
        if let Some(named) = self.namespaces.get_mut(namespace) {
            named.remove(name);
            if named.is_empty() {
                self.namespaces.remove(namespace);
            }
        }
    }

    fn objects(&self, namespace: Option<&str>) -> Vec<Arc<Object>> {
        match namespace {
            Some(namespace) => self
                .namespaces
                .get(namespace)
                .into_iter()
                .flat_map(Named::values)
                .cloned()
                .collect(),
            None => self.namespaces.values().flat_map(Named::values).cloned().collect(),
        }
    }

    fn remember(&mut self, event: Arc<Event>, now: Instant) {
        self.window_bytes += weight(&event);
        self.window.push_back((now, event));
        if let Some((_, event)) = self.window.iter().nth_back(TYPED) {
            [&event.old, &event.gone].into_iter().flatten().for_each(|o| o.forget_view());
        }
        while let Some((at, event)) = self.window.front() {
            let old = now.duration_since(*at) > WINDOW_AGE;
            let bytes = self.window_bytes;
            if bytes <= WINDOW_MIN || (bytes <= WINDOW_MAX && !old) {
                break;
            }
            self.forgotten = event.revision;
            self.window_bytes -= weight(event);
            self.window.pop_front();
        }
    }

    fn after(&self, revision: u64) -> Result<impl Iterator<Item = &Arc<Event>>, Expired> {
        if revision < self.forgotten {
            return Err(Expired { asked: revision, oldest: self.forgotten });
        }
        let start = self.window.partition_point(|(_, event)| event.revision <= revision);
        Ok(self.window.range((Bound::Included(start), Bound::Unbounded)).map(|(_, event)| event))
    }
}

/// The state before is the one that the event before it has, mostly.
fn weight(event: &Event) -> usize {
    event.object().raw().len() + EVENT_OVERHEAD
}

pub(super) struct Cache {
    revision: u64,
    /// Where windows begin: the revision at start.
    loaded: u64,
    tables: HashMap<Resource, Table>,
    /// The published revision, for those who wait for one.
    published: watch::Sender<u64>,
    subscribers: Vec<mpsc::UnboundedSender<Arc<Event>>>,
}

impl Cache {
    pub(super) fn load(backend: &mut dyn Backend) -> Result<Self, BackendError> {
        let mut objects = Vec::new();
        let revision = backend.load(&mut |key, value| {
            let resource = intern(key.split('\0').next().unwrap_or_default());
            let object = Object::new(resource, Bytes::copy_from_slice(value))
                .map_err(|e| BackendError::new(format!("decode the stored object {key:?}"), e))?;
            objects.push(Arc::new(object));
            Ok(())
        })?;
        Ok(Self::filled(objects, revision))
    }

    pub(super) fn filled(objects: Vec<Arc<Object>>, revision: u64) -> Self {
        let mut cache = Self {
            revision,
            loaded: revision,
            tables: HashMap::new(),
            published: watch::Sender::new(revision),
            subscribers: Vec::new(),
        };
        for object in objects {
            cache.table(object.resource).insert(object);
        }
        cache
    }

    /// Events are missing: every watcher has to begin anew.
    pub(super) fn forget_history(&mut self) {
        self.loaded = self.revision;
        for table in self.tables.values_mut() {
            table.window.clear();
            table.window_bytes = 0;
            table.forgotten = self.revision;
            table.newest.send_replace(self.revision);
        }
    }

    fn table(&mut self, resource: Resource) -> &mut Table {
        let loaded = self.loaded;
        self.tables.entry(resource).or_insert_with(|| Table::new(loaded))
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Of all objects, as a backend has them.
    pub(super) fn bytes(&self) -> u64 {
        let named = self.tables.values().flat_map(|t| t.namespaces.values());
        named.flat_map(Named::values).map(|o| stored_bytes(o)).sum()
    }

    /// Every object at one revision, in the order of keys.
    pub(super) fn everything(&self) -> Snapshot {
        let tables: BTreeMap<_, _> = self.tables.iter().collect();
        let objects = tables.into_values().flat_map(|t| t.objects(None)).collect();
        Snapshot { revision: self.revision, objects }
    }

    pub(super) fn get(&self, resource: Resource, ns: &str, name: &str) -> Option<Arc<Object>> {
        self.tables.get(resource)?.namespaces.get(ns)?.get(name).cloned()
    }

    pub(super) fn snapshot(&self, resource: Resource, namespace: Option<&str>) -> Snapshot {
        let objects = self.tables.get(resource).map(|t| t.objects(namespace)).unwrap_or_default();
        Snapshot { revision: self.revision, objects }
    }

    /// The present with the events since undone.
    pub(super) fn snapshot_at(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        revision: u64,
    ) -> Result<Snapshot, Expired> {
        let present = self.snapshot(resource, namespace);
        let Some(table) = self.tables.get(resource) else {
            return Ok(Snapshot { revision, ..present });
        };
        let since: Vec<_> = table.after(revision)?.collect();
        if since.is_empty() {
            return Ok(Snapshot { revision, ..present });
        }
        let mut objects: BTreeMap<Key, Arc<Object>> =
            present.objects.into_iter().map(|o| (o.key(), o)).collect();
        for event in since.into_iter().rev() {
            let key = event.object().key();
            if namespace.is_some_and(|n| n != &*key.namespace) {
                continue;
            }
            match &event.old {
                Some(old) => objects.insert(key, old.clone()),
                None => objects.remove(&key),
            };
        }
        Ok(Snapshot { revision, objects: objects.into_values().collect() })
    }

    /// Makes a committed batch visible, whole.
    pub(super) fn publish(&mut self, events: &[Arc<Event>], revision: u64) {
        let now = Instant::now();
        for event in events {
            let table = self.table(event.resource);
            match &event.new {
                Some(object) => table.insert(object.clone()),
                None => {
                    let meta = &event.object().meta;
                    table.remove(&meta.namespace, &meta.name);
                }
            }
            table.remember(event.clone(), now);
            table.newest.send_replace(event.revision);
        }
        self.revision = revision;
        self.published.send_replace(revision);
        self.subscribers.retain(|s| events.iter().all(|e| s.send(e.clone()).is_ok()));
    }

    pub(super) fn subscribe(&mut self) -> Subscription {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.subscribers.push(sender);
        receiver
    }

    pub(super) fn published(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    pub(super) fn newest(&mut self, resource: Resource) -> watch::Receiver<u64> {
        self.table(resource).newest.subscribe()
    }

    /// Up to `max` events after `revision`, and whether those are all.
    pub(super) fn events(
        &self,
        resource: Resource,
        revision: u64,
        max: usize,
    ) -> Result<(Vec<Arc<Event>>, bool), Expired> {
        let Some(table) = self.tables.get(resource) else { return Ok((Vec::new(), true)) };
        let mut after = table.after(revision)?;
        let events: Vec<_> = after.by_ref().take(max).cloned().collect();
        let all = after.next().is_none();
        Ok((events, all))
    }

    pub(super) fn counts(&self) -> Vec<(Resource, usize)> {
        let count = |t: &Table| t.namespaces.values().map(BTreeMap::len).sum();
        let mut counts: Vec<_> = self.tables.iter().map(|(r, t)| (*r, count(t))).collect();
        counts.sort_unstable();
        counts
    }
}
