//! A private "host" with a node in it, and everybody who talks to that node.
//!
//! ```text
//!   Host = network namespace (lo, eth0 without a way out) + mount namespace (own /run/netns)
//!          + a temporary directory (data, run, log, etc) + a cgroup of its own name
//!     |-- kobune up …            the black box, killed and restarted as the test wants
//!     |-- kubectl …              the real one
//!     |-- kubectl proxy          plain HTTP to the API, for writers and recorders that must be fast
//! ```
//!
//! Waiting is done in [`wait`] and nowhere else. Nothing here knows how the node works inside.

pub mod api;
pub mod host;
pub mod http;
pub mod image;
pub mod namespaces;
pub mod process;
pub mod recorder;
pub mod registry;
pub mod snapshot;
mod view;
pub mod wait;

pub use host::Host;
pub use view::{squeeze, start_time};
pub use wait::{eventually, patience};
