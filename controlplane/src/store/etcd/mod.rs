//! Objects in an etcd 3.4 or later that several control planes share. etcd decides: its revisions are the
//! resourceVersions, its transactions compare and swap, its watch is the only way into the cache.
//!
//! ```text
//! commit ──► Txn: if mod_revision(key) is as expected, put ──► wait until the watch has brought it ──► answer
//! watch (of everything, from the cache's revision on) ──► publish, revision by revision
//! ```
//! So what a write's answer says is in the cache before its writer hears of it, whoever wrote it.
//!
//! Layout, under a prefix (`/kobune/`): `objects/<resource>/<namespace>/<name>`, the object's JSON without its
//! resourceVersion, which is the key's mod_revision; `keys/<file>`, what all control planes must have in common; `leader`,
//! who decides; `locks/<name>`. The namespace is empty where an object has none.
//!
//! A watch that breaks is taken up after the last revision seen, on the next member. If etcd has compacted that away, all
//! is read again, and our watchers are told [`Expired`](super::Expired). History older than a few minutes is compacted.

mod follow;
mod link;
mod lock;
mod options;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use self::follow::{Follower, forget, read_all};
use self::link::Link;
use self::wire::{
    Compare, DeleteRequest, KeyValue, PutRequest, RangeRequest, Request, RequestOp, TARGET_MOD,
    TARGET_VALUE, TxnRequest, TxnResponse, Wanted,
};
use super::cache::Cache;
use super::{BackendError, Shared, StoreError, Write};
use crate::object::{Key, Object, intern};

pub(super) use lock::Lock;
pub use options::{Options, OptionsError, Tls};

/// How long an answered write waits for the watch to bring it.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Etcd {
    link: Arc<Link>,
    prefix: Arc<str>,
    shared: Arc<Shared>,
    stop: CancellationToken,
    closed: AtomicBool,
}

impl Etcd {
    /// Reads everything, then follows.
    pub(super) async fn open(options: &Options) -> Result<Arc<Self>, BackendError> {
        let failed = |e: String| {
            BackendError::new(format!("open the store in etcd {:?}", options.members), e)
        };
        let link = Arc::new(Link::new(options).map_err(|e| failed(e.to_string()))?);
        let prefix: Arc<str> = options.prefix.as_str().into();
        let (objects, revision) = read_all(&link, &prefix).await.map_err(|e| failed(tell(&e)))?;
        let shared = Arc::new(Shared::new(Cache::filled(objects, revision)));
        let stop = CancellationToken::new();
        let follower = Follower {
            link: link.clone(),
            prefix: prefix.clone(),
            shared: shared.clone(),
            seen: Instant::now(),
        };
        let (follow, compact) = (stop.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! { () = follower.run() => {}, () = follow.cancelled() => {} }
        });
        let forgetting = forget(link.clone(), shared.clone(), options.history);
        tokio::spawn(async move {
            tokio::select! { () = forgetting => {}, () = compact.cancelled() => {} }
        });
        Ok(Arc::new(Self { link, prefix, shared, stop, closed: AtomicBool::new(false) }))
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.stop.cancel();
    }

    /// `fence`: only while this is who decides.
    pub(super) async fn commit(
        &self,
        write: Write,
        fence: Option<&str>,
    ) -> Result<Arc<Object>, StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        let (key, expected, value) = match write {
            Write::Create { key, value } => (key, 0, Some(value)),
            Write::Update { key, version, value } => (key, version, Some(value)),
            Write::Delete { key, version } => (key, version, None),
        };
        let last = match &value {
            Some(_) => None,
            None => Some(self.last_state(&key, expected).await?),
        };
        let request = self.transaction(&key, expected, value.as_ref(), fence)?;
        let answer = self.link.txn(request).await.map_err(|e| StoreError::Failed(tell(&e)))?;
        let revision = revision(answer.header.as_ref());
        self.reached(revision).await?;
        if !answer.succeeded {
            return Err(refusal(expected, &answer, fence));
        }
        match value {
            Some(value) => self.written(&key, &value, revision),
            None => {
                let last = last.map(|o| o.value()).unwrap_or_default();
                Ok(Arc::new(decoded(&key, last, revision)?))
            }
        }
    }

    /// What is about to be deleted: it must be known here, since it is the answer.
    async fn last_state(&self, key: &Key, expected: u64) -> Result<Arc<Object>, StoreError> {
        let known = || self.shared.read().get(key.resource, &key.namespace, &key.name);
        let is = |object: &Arc<Object>| object.meta.resource_version == expected;
        if let Some(object) = known().filter(is) {
            return Ok(object);
        }
        // Or this server is behind.
        self.fresh().await?;
        let object = known().ok_or(StoreError::NotFound)?;
        match is(&object) {
            true => Ok(object),
            false => Err(StoreError::Conflict { current: object.meta.resource_version }),
        }
    }

    fn transaction(
        &self,
        key: &Key,
        expected: u64,
        value: Option<&Value>,
        fence: Option<&str>,
    ) -> Result<TxnRequest, StoreError> {
        let name = self.name(key);
        let write = match value {
            Some(value) => {
                let value = encoded(key, value)?;
                Request::Put(PutRequest { key: name.clone(), value, lease: 0 })
            }
            None => Request::Delete(DeleteRequest { key: name.clone() }),
        };
        let look = Request::Range(RangeRequest { key: name.clone(), ..RangeRequest::default() });
        let version = i64::try_from(expected).unwrap_or(i64::MAX);
        let mut compare = vec![Compare {
            target: TARGET_MOD,
            key: name,
            wanted: Some(Wanted::ModRevision(version)),
        }];
        if let Some(fence) = fence {
            compare.push(Compare {
                target: TARGET_VALUE,
                key: self.leader(),
                wanted: Some(Wanted::Value(fence.into())),
            });
        }
        let op = |request| vec![RequestOp { request: Some(request) }];
        Ok(TxnRequest { compare, success: op(write), failure: op(look) })
    }

    fn written(&self, key: &Key, value: &Value, at: u64) -> Result<Arc<Object>, StoreError> {
        let found = self.shared.read().get(key.resource, &key.namespace, &key.name);
        match found.filter(|object| object.meta.resource_version == at) {
            Some(object) => Ok(object),
            // Somebody has written since.
            None => Ok(Arc::new(decoded(key, value.clone(), at)?)),
        }
    }

    async fn reached(&self, revision: u64) -> Result<(), StoreError> {
        let mut published = self.shared.read().published();
        let reached = timeout(PATIENCE, published.wait_for(|newest| *newest >= revision)).await;
        let text = "it may have been written: the watch of etcd is behind";
        reached.map(drop).map_err(|_| StoreError::Failed(text.into()))
    }

    /// Waits until everything that anybody was told is known here.
    pub(super) async fn fresh(&self) -> Result<(), StoreError> {
        let request = RangeRequest { key: self.leader(), ..RangeRequest::default() };
        let found = self.link.range(request).await.map_err(|e| StoreError::Failed(tell(&e)))?;
        self.reached(revision(found.header.as_ref())).await
    }

    /// From now on writes with another fence are refused; everything before is known here on return. Only while the Lease
    /// is as it was when it was taken: false for somebody who was too slow.
    pub(crate) async fn lead(
        &self,
        fence: &str,
        lease: &Key,
        version: u64,
    ) -> Result<bool, StoreError> {
        let taken = Compare {
            target: TARGET_MOD,
            key: self.name(lease),
            wanted: Some(Wanted::ModRevision(i64::try_from(version).unwrap_or(i64::MAX))),
        };
        let value = Bytes::copy_from_slice(fence.as_bytes());
        let put = PutRequest { key: self.leader(), value, lease: 0 };
        let success = vec![RequestOp { request: Some(Request::Put(put)) }];
        let request = TxnRequest { compare: vec![taken], success, failure: Vec::new() };
        let answer = self.link.txn(request).await.map_err(|e| StoreError::Failed(tell(&e)))?;
        self.reached(revision(answer.header.as_ref())).await?;
        Ok(answer.succeeded)
    }

    /// What all have in common, by name.
    pub(crate) async fn keys(&self) -> Result<Vec<(String, Bytes)>, StoreError> {
        let prefix = format!("{}keys/", self.prefix);
        let request = RangeRequest {
            key: prefix.clone().into(),
            range_end: end_of(&prefix),
            ..RangeRequest::default()
        };
        let found = self.link.range(request).await.map_err(|e| StoreError::Failed(tell(&e)))?;
        let name = |kv: &KeyValue| String::from_utf8_lossy(&kv.key[prefix.len()..]).into_owned();
        Ok(found.kvs.into_iter().map(|kv| (name(&kv), kv.value)).collect())
    }

    /// All of them, if there are none yet; false when somebody was faster.
    pub(crate) async fn offer_keys(&self, keys: &[(String, Bytes)]) -> Result<bool, StoreError> {
        let name = |key: &str| format!("{}keys/{key}", self.prefix).into_bytes();
        let compare = keys.iter().map(|(key, _)| Compare {
            target: TARGET_MOD,
            key: name(key),
            wanted: Some(Wanted::ModRevision(0)),
        });
        let success = keys.iter().map(|(key, value)| {
            let put = PutRequest { key: name(key), value: value.clone(), lease: 0 };
            RequestOp { request: Some(Request::Put(put)) }
        });
        let (compare, success) = (compare.collect(), success.collect());
        let request = TxnRequest { compare, success, failure: Vec::new() };
        let answer = self.link.txn(request).await.map_err(|e| StoreError::Failed(tell(&e)))?;
        Ok(answer.succeeded)
    }

    fn name(&self, key: &Key) -> Vec<u8> {
        let Key { resource, namespace, name } = key;
        format!("{}objects/{resource}/{namespace}/{name}", self.prefix).into_bytes()
    }

    fn leader(&self) -> Vec<u8> {
        format!("{}leader", self.prefix).into_bytes()
    }
}

/// Why a transaction did not do it.
fn refusal(expected: u64, answer: &TxnResponse, fence: Option<&str>) -> StoreError {
    let found = answer.responses.first().and_then(|r| r.range.as_ref());
    let current = found.and_then(|r| r.kvs.first()).map(|kv| unsigned(kv.mod_revision));
    match current {
        // All else was as expected.
        _ if fence.is_some() && current.unwrap_or(0) == expected => StoreError::Deposed,
        None => StoreError::NotFound,
        Some(_) if expected == 0 => StoreError::Exists,
        Some(current) => StoreError::Conflict { current },
    }
}

/// The JSON as it is in etcd.
fn encoded(key: &Key, value: &Value) -> Result<Bytes, StoreError> {
    let mut value = value.clone();
    let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
    let metadata = metadata.ok_or_else(|| StoreError::Encode("metadata is missing".into()))?;
    metadata.remove("resourceVersion");
    // What etcd has must be readable again.
    decoded(key, value.clone(), 1)?;
    let bytes = serde_json::to_vec(&value).map_err(|e| StoreError::Encode(e.to_string()))?;
    Ok(bytes.into())
}

fn decoded(key: &Key, value: Value, revision: u64) -> Result<Object, StoreError> {
    super::commit::encode(key, value, revision)
}

fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

fn revision(header: Option<&wire::Header>) -> u64 {
    header.map_or(0, |h| unsigned(h.revision))
}

fn tell(status: &Status) -> String {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded => status.message().to_owned(),
        code => format!("etcd: {code:?}: {}", status.message()),
    }
}

/// The first key after all that begin with `prefix`, which ends with a slash.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// Which object a key of etcd is.
fn parse(prefix: &str, key: &[u8]) -> Option<Key> {
    let text = std::str::from_utf8(key).ok()?;
    let mut parts = text.strip_prefix(prefix)?.strip_prefix("objects/")?.splitn(3, '/');
    let (resource, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Key::new(intern(resource), namespace, name))
}

fn object(key: &Key, kv: &KeyValue) -> Result<Arc<Object>, StoreError> {
    let value = serde_json::from_slice(&kv.value);
    let value = value.map_err(|e| StoreError::Encode(format!("{key:?} in etcd: {e}")))?;
    Ok(Arc::new(decoded(key, value, unsigned(kv.mod_revision))?))
}
