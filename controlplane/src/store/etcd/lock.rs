//! A lock that one server has at a time. It hangs on a lease of etcd's, so that a server that dies does not keep it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::link::Link;
use super::wire::{Compare, PutRequest, Request, RequestOp, TARGET_MOD, TxnRequest, Wanted};
use super::{Etcd, StoreError, revision, tell};

/// More than anybody needs between a look and a write.
const SECONDS: i64 = 10;
const PATIENCE: Duration = Duration::from_secs(20);

/// Given back when dropped.
pub(crate) struct Lock {
    link: Arc<Link>,
    lease: i64,
}

impl Etcd {
    /// Waits for the lock. Whatever its last holder has written is known here then.
    pub(crate) async fn lock(&self, name: &str) -> Result<Lock, StoreError> {
        let failed = |status| StoreError::Failed(tell(&status));
        let lease = self.link.grant(SECONDS).await.map_err(failed)?;
        let lock = Lock { link: self.link.clone(), lease };
        let key = format!("{}locks/{name}", self.prefix).into_bytes();
        let free =
            Compare { target: TARGET_MOD, key: key.clone(), wanted: Some(Wanted::ModRevision(0)) };
        let put = Request::Put(PutRequest { key, value: Bytes::new(), lease });
        let success = vec![RequestOp { request: Some(put) }];
        let request = TxnRequest { compare: vec![free], success, failure: Vec::new() };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.link.txn(request.clone()).await.map_err(failed)?;
            let at = revision(answer.header.as_ref());
            if answer.succeeded {
                self.reached(at).await?;
                return Ok(lock);
            }
            // The end of the lock is an event like any other.
            let mut published = self.shared.read().published();
            let changed = timeout_at(deadline, published.wait_for(|newest| *newest > at)).await;
            changed.map_err(|_| StoreError::Failed(format!("wait for the lock {name:?}")))?.ok();
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let (link, lease) = (self.link.clone(), self.lease);
        tokio::spawn(async move {
            // Otherwise it ends by itself.
            let _ = link.revoke(lease).await;
        });
    }
}
