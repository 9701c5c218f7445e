//! What becomes of Nodes that stop talking, and of the Pods on them.

mod eviction;
mod gone;
mod lifecycle;

pub use eviction::Eviction;
pub use gone::Orphans;
pub use lifecycle::Lifecycle;

use std::sync::Arc;

use super::look::PodView;
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;

pub const LEASES: Resource = "leases.coordination.k8s.io";
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Keys of this room are Nodes, whether they exist or not.
fn key(name: &str) -> Key {
    Key::new("nodes", "", name)
}

fn node_of(pod: &Object) -> Option<String> {
    let pod: Arc<k8s_openapi::api::core::v1::Pod> = pod.view().ok()?;
    pod.spec.as_ref()?.node_name.clone().filter(|name| !name.is_empty())
}

fn pods_on(world: &dyn Reader, node: &str) -> Vec<PodView> {
    let pods = world.list("pods", None).into_iter().filter_map(PodView::of);
    pods.filter(|pod| pod.node() == node).collect()
}
