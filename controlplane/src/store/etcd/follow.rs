//! Brings what happens in etcd into the cache: everything once, then every event, over broken watches and compacted
//! history. Also lets etcd forget what is old.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use super::link::Link;
use super::wire::{DELETION, RangeRequest, WatchCreate, WatchEvent, WatchRequest, WatchResponse};
use super::{decoded, end_of, object, parse, tell, unsigned};
use crate::object::{Key, Object};
use crate::store::{Event, Shared};

/// Objects per answer when all are read.
const PAGE: i64 = 500;
/// After a watch broke.
const BACK_OFF: Duration = Duration::from_millis(200);
/// Without a watch for so long, this server is not healthy.
const LOST: Duration = Duration::from_secs(5);

/// Every object at one revision.
pub(super) async fn read_all(link: &Link, prefix: &str) -> Result<(Vec<Arc<Object>>, u64), Status> {
    let all = format!("{prefix}objects/");
    let mut request = RangeRequest {
        key: all.clone().into(),
        range_end: end_of(&all),
        limit: PAGE,
        ..RangeRequest::default()
    };
    let mut objects = Vec::new();
    loop {
        let page = link.range(request.clone()).await?;
        if request.revision == 0 {
            request.revision = page.header.as_ref().map_or(0, |h| h.revision);
        }
        for kv in &page.kvs {
            let Some(key) = parse(prefix, &kv.key) else { continue };
            objects.push(object(&key, kv).map_err(|e| Status::data_loss(e.to_string()))?);
        }
        match page.kvs.last() {
            Some(last) if page.more => request.key = [&last.key[..], b"\0"].concat(),
            _ => return Ok((objects, unsigned(request.revision))),
        }
    }
}

/// Compacts what is older than `history`. Every server does; it is the same for etcd.
pub(super) async fn forget(link: Arc<Link>, shared: Arc<Shared>, history: Duration) {
    loop {
        let then = shared.read().revision();
        sleep(history).await;
        let revision = i64::try_from(then).unwrap_or(0);
        match link.compact(revision).await {
            // Another server was faster.
            Err(status) if status.code() != Code::OutOfRange => {
                tracing::warn!(error = tell(&status), "compact etcd");
            }
            _ => {}
        }
    }
}

/// Brings what happens in etcd into the cache; the only one to publish.
pub(super) struct Follower {
    pub(super) link: Arc<Link>,
    pub(super) prefix: Arc<str>,
    pub(super) shared: Arc<Shared>,
    /// When there was a watch last.
    pub(super) seen: Instant,
}

/// Why a watch ended.
enum End {
    Broken(Status),
    /// What would come next is gone.
    Compacted,
}

impl Follower {
    pub(super) async fn run(mut self) {
        loop {
            let end = self.follow().await;
            let end = match end {
                End::Compacted => match self.read_again().await {
                    Ok(()) => continue,
                    Err(status) => status,
                },
                End::Broken(status) => status,
            };
            tracing::warn!(error = tell(&end), "follow etcd");
            if self.seen.elapsed() > LOST {
                self.shared.failed.store(true, Ordering::Release);
            }
            sleep(BACK_OFF).await;
        }
    }

    async fn follow(&mut self) -> End {
        let from = self.shared.read().revision() + 1;
        // All keys, also foreign ones: so their revisions count here as well.
        let create = WatchCreate {
            key: vec![0],
            range_end: vec![0],
            start_revision: i64::try_from(from).unwrap_or(i64::MAX),
        };
        let mut stream = match self.link.watch(WatchRequest { create: Some(create) }).await {
            Ok(stream) => stream,
            Err(status) => return End::Broken(status),
        };
        loop {
            let message = stream.message().await;
            self.seen = Instant::now();
            match message {
                Ok(Some(WatchResponse { compact_revision: 1.., .. })) => return End::Compacted,
                Ok(Some(answer)) if answer.canceled => {
                    return End::Broken(Status::aborted(answer.cancel_reason));
                }
                Ok(Some(answer)) => {
                    self.shared.failed.store(false, Ordering::Release);
                    answer.events.into_iter().for_each(|event| self.publish(event));
                }
                Ok(None) => return End::Broken(Status::unavailable("etcd ended the watch")),
                Err(status) => return End::Broken(status),
            }
        }
    }

    fn publish(&self, event: WatchEvent) {
        let WatchEvent { kind, kv: Some(kv) } = event else { return };
        let revision = unsigned(kv.mod_revision);
        let Some(key) = parse(&self.prefix, &kv.key) else {
            return self.shared.write().publish(&[], revision);
        };
        let old = self.shared.read().get(key.resource, &key.namespace, &key.name);
        let (new, gone) = match (kind, &old) {
            (DELETION, None) => return self.shared.write().publish(&[], revision),
            (DELETION, Some(old)) => {
                (None, decoded(&key, old.value(), revision).ok().map(Arc::new))
            }
            _ => match object(&key, &kv) {
                Ok(object) => (Some(object), None),
                Err(error) => {
                    tracing::error!(%error, "an object that is none");
                    return self.shared.write().publish(&[], revision);
                }
            },
        };
        let event = Event { resource: key.resource, revision, old, new, gone };
        self.shared.write().publish(&[Arc::new(event)], revision);
    }

    /// Those who decide are told the difference; those who watch, that they have missed something.
    async fn read_again(&mut self) -> Result<(), Status> {
        let (objects, revision) = read_all(&self.link, &self.prefix).await?;
        let mut before: HashMap<Key, Arc<Object>> =
            self.shared.read().everything().objects.into_iter().map(|o| (o.key(), o)).collect();
        let mut events = Vec::new();
        for new in objects {
            let old = before.remove(&new.key());
            if old.as_ref().is_some_and(|o| o.meta.resource_version == new.meta.resource_version) {
                continue;
            }
            let resource = new.resource;
            events.push(Event { resource, revision, old, new: Some(new), gone: None });
        }
        for (key, old) in before {
            let gone = decoded(&key, old.value(), revision).ok().map(Arc::new);
            events.push(Event {
                resource: key.resource,
                revision,
                old: Some(old),
                new: None,
                gone,
            });
        }
        let events: Vec<_> = events.into_iter().map(Arc::new).collect();
        let mut cache = self.shared.write();
        cache.publish(&events, revision);
        cache.forget_history();
        Ok(())
    }
}
