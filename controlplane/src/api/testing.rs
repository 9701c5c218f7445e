//! What the API's tests share.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Api, Registry};
use crate::context::Config;
use crate::kinds::{self, Kind};
use crate::store::Store;

pub(crate) fn registry() -> Registry {
    Registry::new(kinds::all())
}

pub(crate) fn kind(resource: &str) -> &'static Kind {
    kinds::find_resource(resource).expect("the kind is served")
}

/// An empty API over a store in memory.
pub(crate) fn api() -> Arc<Api> {
    let config = Config {
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        node_cidr_mask: 24,
        load_balancer_pool: Default::default(),
        ca_pem: "PEM".into(),
        signer: None,
    };
    let address = "127.0.0.1:6443".parse().unwrap();
    let (store, shutdown) = (Arc::new(Store::memory()), CancellationToken::new());
    Arc::new(Api::new(store, registry(), Arc::new(config), address, None, shutdown))
}
