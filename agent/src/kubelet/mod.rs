//! The node's own HTTPS server: what the API server asks of the node on behalf of users (logs, exec, attach, port-forward).
//!
//! Owns the listener, who may ask, and the protocols. Never decides anything about Pods: it looks them up through
//! [`Containers`] and talks to their supervisors.

mod attach;
mod channels;
mod client;
mod exec;
mod forward;
mod logs;
mod route;
mod server;
mod spdy;
mod tls;
mod upgrade;

use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;
use oci_spec::runtime::Process;

pub(crate) use server::{Options, serve};
pub(crate) use tls::self_signed;

/// The Pods of this node, as far as this server needs to know them.
pub(crate) trait Containers: Clone + Send + Sync + 'static {
    /// A container; without a name, the Pod's only one.
    fn container(
        &self,
        namespace: &str,
        pod: &str,
        container: Option<&str>,
    ) -> impl Future<Output = Result<Target, Denial>> + Send;

    /// The network namespace of a Pod that runs; none when that is the host's.
    fn network(
        &self,
        namespace: &str,
        pod: &str,
    ) -> impl Future<Output = Result<Option<PathBuf>, Denial>> + Send;

    /// All Pods of the node.
    fn pods(&self) -> impl Future<Output = Vec<Pod>> + Send;
}

/// A container that can be asked for.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) container: String,
    /// The socket of the Pod's supervisor.
    pub(crate) supervisor: PathBuf,
    pub(crate) running: bool,
    /// The present (or last) run: 0, 1, …; none before the first.
    pub(crate) attempt: Option<u32>,
    /// Holds `<attempt>.log`.
    pub(crate) log_dir: PathBuf,
    /// What a further process in the container is like, but for its arguments.
    pub(crate) process: Option<Process>,
}

/// Why there is no container to ask for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denial {
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    BadRequest(String),
}
