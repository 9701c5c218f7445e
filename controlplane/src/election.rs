//! Which of several servers decides: the holder of the Lease `kube-system/kobune`. The others look at it twice a second,
//! in memory, and take it when its holder has not renewed it for as long as it says.
//!
//! ```text
//!            not renewed for its duration, or given back              deciders stopped
//! waiting ───────────────────────────────────────────────► leading ─────────────────────► waiting
//!                                                             not renewed in time, taken by another, shutdown
//! ```
//! Time is measured by the observer's clock, from the moment that it saw a renewal. A leader that slept and wakes up too
//! late writes nothing all the same: its writes are fenced, see [`Store::fenced`]. With one server there is no election.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::object::{Object, Resource};
use crate::reader::Reader;
use crate::status::ApiError;
use crate::store::Store;
use crate::store::etcd::Etcd;
use crate::writer::{Change, Writer};

const LEASES: Resource = "leases.coordination.k8s.io";
const NAMESPACE: &str = "kube-system";
const NAME: &str = "kobune";
const WHO: &str = "system:apiserver";

/// How long a leader is one without a renewal.
const DURATION: Duration = Duration::from_secs(4);
const RENEW: Duration = Duration::from_secs(1);
/// Without a renewal for so long a leader stops, before others begin.
const DEADLINE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(500);

/// One server that would like to decide.
pub(crate) struct Candidate {
    pub(crate) store: Arc<Store>,
    pub(crate) etcd: Arc<Etcd>,
    pub(crate) writer: Arc<dyn Writer>,
    /// Unlike any other's, also of the same server in another life.
    pub(crate) identity: String,
    pub(crate) shutdown: CancellationToken,
}

/// The version of the Lease that was seen last, and when it was new.
type Sight = Option<(u64, Instant)>;

impl Candidate {
    /// Runs what `decide` starts while this server is the leader, until shutdown. `decide` gets the fence of its writes
    /// and the token that ends it.
    pub(crate) async fn run<F>(self, decide: impl Fn(Arc<str>, CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut sight = None;
        while !self.shutdown.is_cancelled() {
            if let Some(taken) = self.take(&mut sight).await {
                self.lead(&taken, &decide).await;
                sight = None;
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                () = self.shutdown.cancelled() => {}
            }
        }
    }

    fn lease(&self) -> Option<(Arc<Object>, LeaseSpec)> {
        let object = self.store.get(LEASES, NAMESPACE, NAME)?;
        let spec = object.view::<Lease>().ok()?.spec.clone().unwrap_or_default();
        Some((object, spec))
    }

    /// The Lease, when it is ours now.
    async fn take(&self, sight: &mut Sight) -> Option<Arc<Object>> {
        let change = match self.lease() {
            None => Change::Create { resource: LEASES, object: self.claim(0, None) },
            Some((object, spec)) => {
                if !vacant(&object, &spec, sight, Instant::now()) {
                    return None;
                }
                let transitions = spec.lease_transitions.unwrap_or(0).saturating_add(1);
                let version = Some(object.meta.resource_version);
                let object = self.claim(transitions, version);
                Change::Update { resource: LEASES, subresource: None, object }
            }
        };
        match self.writer.apply(WHO, change).await {
            Ok(taken) => taken,
            Err(error) => {
                tracing::debug!(%error, "take the Lease of those who decide");
                None
            }
        }
    }

    fn claim(&self, transitions: i32, version: Option<u64>) -> Value {
        let now = micro(Timestamp::now());
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": NAME, "namespace": NAMESPACE,
                "resourceVersion": version.map(|v| v.to_string()),
            },
            "spec": {
                "holderIdentity": self.identity, "leaseDurationSeconds": DURATION.as_secs(),
                "leaseTransitions": transitions, "acquireTime": now, "renewTime": now,
            },
        })
    }

    async fn lead<F>(&self, taken: &Object, decide: &impl Fn(Arc<str>, CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let fence: Arc<str> = uuid::Uuid::new_v4().to_string().into();
        let version = taken.meta.resource_version;
        match self.etcd.lead(&fence, &taken.key(), version).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(%error, "begin to decide");
                return;
            }
        }
        tracing::info!(identity = self.identity, "this server decides from now on");
        let stop = CancellationToken::new();
        let deciders = tokio::spawn(decide(fence, stop.clone()));
        self.keep().await;
        stop.cancel();
        let _ = deciders.await;
        tracing::info!(identity = self.identity, "this server decides no more");
        if self.shutdown.is_cancelled() {
            self.give_back().await;
        }
    }

    /// Renews until that fails for too long, or somebody else has it, or shutdown.
    async fn keep(&self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < DEADLINE {
            tokio::select! {
                () = sleep(RENEW) => {}
                () = self.shutdown.cancelled() => return,
            }
            let left = DEADLINE.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(
                left,
                self.change(|spec| spec["renewTime"] = micro(Timestamp::now()).into()),
            )
            .await
            {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(%error, "renew the Lease of those who decide"),
                Err(_) => {}
            }
        }
    }

    async fn give_back(&self) {
        let given = self.change(|spec| {
            spec["holderIdentity"] = Value::Null;
            spec["leaseDurationSeconds"] = 1.into();
        });
        if let Err(error) = given.await {
            tracing::debug!(%error, "give the Lease back");
        }
    }

    /// Changes the Lease if it is ours; false if it is not.
    async fn change(&self, change: impl Fn(&mut Value)) -> Result<bool, ApiError> {
        let Some((object, spec)) = self.lease() else { return Ok(false) };
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return Ok(false);
        }
        let mut object = object.value();
        change(&mut object["spec"]);
        let change = Change::Update { resource: LEASES, subresource: None, object };
        match self.writer.apply(WHO, change).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Nobody holds it, or whoever does has not renewed it for as long as it says. Pure.
fn vacant(object: &Object, spec: &LeaseSpec, sight: &mut Sight, now: Instant) -> bool {
    if spec.holder_identity.as_deref().unwrap_or_default().is_empty() {
        return true;
    }
    let version = object.meta.resource_version;
    let since = match *sight {
        Some((seen, since)) if seen == version => since,
        _ => {
            *sight = Some((version, now));
            now
        }
    };
    let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
    now.duration_since(since) >= seconds.map_or(DURATION, Duration::from_secs)
}

/// As the API writes it: six digits.
fn micro(now: Timestamp) -> String {
    format!("{now:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(version: u64, holder: Option<&str>) -> (Object, LeaseSpec) {
        let value = json!({"metadata": {"name": NAME, "resourceVersion": version.to_string()}});
        let holder_identity = holder.map(str::to_owned);
        let spec =
            LeaseSpec { holder_identity, lease_duration_seconds: Some(4), ..LeaseSpec::default() };
        (Object::from_value(LEASES, &value).unwrap(), spec)
    }

    #[test]
    fn a_lease_is_vacant_when_it_was_seen_unchanged_for_its_duration() {
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let mut sight = None;
        let mut look = |version, holder, at| {
            let (object, spec) = lease(version, holder);
            vacant(&object, &spec, &mut sight, after(at))
        };
        assert!(look(1, None, 0));
        assert!(!look(2, Some("a"), 0));
        assert!(!look(2, Some("a"), 3));
        // Renewed: it counts from the sight of it.
        assert!(!look(3, Some("a"), 4));
        assert!(!look(3, Some("a"), 7));
        assert!(look(3, Some("a"), 8));
        assert!(look(4, None, 8));
    }
}
