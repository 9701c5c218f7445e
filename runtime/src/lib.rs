//! Turns an OCI bundle into processes and stays beside them.
//!
//! Speaks the OCI runtime specification and Linux; never knows Kubernetes, networks or tokio.

pub mod cgroup;
pub mod supervisor;
mod sys;
pub mod wire;
