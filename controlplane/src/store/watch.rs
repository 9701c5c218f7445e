//! A watcher's cursor into the window of events.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Event, Expired, Shared};
use crate::object::Resource;

/// Events in order, and how far they reach: everything up to `through` has been seen.
#[derive(Debug, Default)]
pub struct Batch {
    pub events: Vec<Arc<Event>>,
    pub through: u64,
}

/// Follows one resource.
pub struct Watcher {
    shared: Arc<Shared>,
    resource: Resource,
    cursor: u64,
    newest: watch::Receiver<u64>,
}

impl Watcher {
    pub(super) fn new(
        shared: Arc<Shared>,
        resource: Resource,
        revision: u64,
    ) -> Result<Self, Expired> {
        let newest = shared.write().newest(resource);
        shared.read().events(resource, revision, 0)?;
        Ok(Self { shared, resource, cursor: revision, newest })
    }

    /// What happened since the last call, at most `max` events; empty when nothing did.
    pub fn take(&mut self, max: usize) -> Result<Batch, Expired> {
        self.newest.mark_unchanged();
        let cache = self.shared.read();
        let (events, all) = cache.events(self.resource, self.cursor, max)?;
        let last = events.last().map_or(self.cursor, |e| e.revision);
        let through = if all { cache.revision().max(last) } else { last };
        drop(cache);
        if !all {
            self.newest.mark_changed();
        }
        self.cursor = self.cursor.max(through);
        Ok(Batch { events, through: self.cursor })
    }

    /// Waits until [`Watcher::take`] may have something; pends forever once the store is gone.
    pub async fn changed(&mut self) {
        if self.newest.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
