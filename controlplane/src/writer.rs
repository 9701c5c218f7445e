//! How deciders change the cluster: the same admission and storage path that HTTP requests take, called in
//! memory.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::Value;

use crate::object::{Object, Resource};
use crate::status::ApiError;

/// One change that a controller or the scheduler wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// `object` has apiVersion, kind, metadata (name or generateName).
    Create { resource: Resource, object: Value },
    /// The whole object with the resourceVersion that the decision was based on: a conflict means "look again".
    Update { resource: Resource, subresource: Option<&'static str>, object: Value },
    /// Only if it is still the same object (`uid`), and, where given, the same version.
    Delete {
        resource: Resource,
        namespace: String,
        name: String,
        uid: Option<String>,
        resource_version: Option<u64>,
        /// `Background` (default), `Foreground` or `Orphan`.
        propagation: Option<&'static str>,
        grace_period_seconds: Option<i64>,
    },
    /// `pods/binding`.
    Bind { namespace: String, name: String, uid: String, node: String },
}

/// What became of a change: the object after it.
pub type Applied<'a> =
    Pin<Box<dyn Future<Output = Result<Option<Arc<Object>>, ApiError>> + Send + 'a>>;

/// The way in. `who` is the component's user name, e.g. `system:kube-scheduler`.
pub trait Writer: Send + Sync {
    fn apply<'a>(&'a self, who: &'a str, change: Change) -> Applied<'a>;
}
