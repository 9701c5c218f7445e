//! What controllers and the scheduler are given: the world to read, the way to change it, and when to stop.

use std::sync::Arc;

use ipnet::Ipv4Net;
use tokio_util::sync::CancellationToken;

use crate::auth::Signer;
use crate::controllers::balancer::Pool;
use crate::store::{Store, Subscription};
use crate::writer::Writer;

/// What the cluster was configured with.
#[derive(Debug, Clone)]
pub struct Config {
    pub service_cidr: Ipv4Net,
    pub cluster_cidr: Ipv4Net,
    /// Prefix length of the range that each node gets out of `cluster_cidr`.
    pub node_cidr_mask: u8,
    /// Addresses for Services of type LoadBalancer; empty: they have none.
    pub load_balancer_pool: Pool,
    /// The cluster's CA certificate, for `kube-root-ca.crt` of every namespace.
    pub ca_pem: String,
    /// The same authority, to sign what was approved; without it nothing is signed here.
    pub signer: Option<Arc<Signer>>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Ctx {
    /// Implements [`crate::reader::Reader`].
    pub store: Arc<Store>,
    pub writer: Arc<dyn Writer>,
    pub config: Arc<Config>,
    pub shutdown: CancellationToken,
}

impl Ctx {
    /// Every event of every resource from now on. Subscribe first, then list: so nothing is missed.
    pub fn subscribe(&self) -> Subscription {
        self.store.subscribe()
    }
}
