//! The API server: requests in, answers out. HTTP connections, the node agent in this process and the
//! controllers all end here.
//!
//! `request` says what is asked (pure), the files named after verbs do it, `table`, `accept` and `body` shape the
//! answer. Nothing here listens on a socket or knows a certificate.

mod accept;
mod account;
mod admit;
mod apply;
mod authorize;
mod backup;
pub mod body;
mod delete;
mod discovery;
mod dispatch;
pub(crate) mod errors;
mod evict;
mod info;
mod manager;
mod meta;
mod patch;
mod proxy;
mod read;
mod registry;
mod request;
mod restrict;
mod review;
mod selector;
mod services;
mod sub;
mod table;
#[cfg(test)]
pub(crate) mod testing;
mod text;
mod token;
mod twin;
mod watch;
mod write;
mod writer;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::auth::Accounts;
use crate::auth::node::placement::Placed;
use crate::context::Config;
use crate::store::Store;

pub use body::{Body, BoxError};
pub(crate) use errors::unauthorized;
pub use proxy::NodeClient;
pub use registry::Registry;
pub use services::{api_address, dns_address};

/// Who asks, as authentication found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    /// Empty for all but service accounts.
    pub uid: String,
    pub groups: Vec<String>,
    /// What else authentication knows: `authentication.kubernetes.io/pod-name` …
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        Self { name: name.into(), uid: String::new(), groups, extra: BTreeMap::new() }
    }

    /// May do everything.
    pub fn admin() -> Self {
        Self::new("kubernetes-admin", &["system:masters", "system:authenticated"])
    }

    pub fn anonymous() -> Self {
        Self::new("system:anonymous", &["system:unauthenticated"])
    }

    pub fn is_anonymous(&self) -> bool {
        self.groups.iter().any(|g| g == "system:unauthenticated")
    }
}

/// The API of one control plane; share it in an `Arc`.
pub struct Api {
    store: Arc<Store>,
    registry: Registry,
    config: Arc<Config>,
    /// Where clients outside this process find it.
    address: SocketAddr,
    nodes: Option<NodeClient>,
    /// Signs and knows service accounts' tokens; without it none are given out.
    accounts: Option<Arc<Accounts>>,
    /// Which Pods a node has, and so what it may read.
    placed: Placed,
    /// One permit per request under way, watches and connections to nodes aside.
    slots: tokio::sync::Semaphore,
    shutdown: CancellationToken,
}

/// Requests under way at once; as many bodies may be in memory.
const SLOTS: usize = 512;

impl Api {
    /// Without `nodes`, requests that a node must answer are refused.
    pub fn new(
        store: Arc<Store>,
        registry: Registry,
        config: Arc<Config>,
        address: SocketAddr,
        nodes: Option<NodeClient>,
        shutdown: CancellationToken,
    ) -> Self {
        let slots = tokio::sync::Semaphore::new(SLOTS);
        let accounts = None;
        let placed = Placed::new(store.clone());
        Self { store, registry, config, address, nodes, accounts, placed, slots, shutdown }
    }

    /// Gives out tokens of service accounts, and tells whose they are.
    #[must_use]
    pub fn with_accounts(mut self, accounts: Arc<Accounts>) -> Self {
        self.accounts = Some(accounts);
        self
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}
