//! Turns an OCI bundle into processes and stays beside them.
//!
//! Speaks the OCI runtime specification and Linux; never knows Kubernetes, networks or tokio.

mod begin;
mod bounded;
pub mod cgroup;
mod cli;
mod create;
mod fault;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
mod hooks;
mod lsm;
pub mod oci;
mod plan;
mod shield;
pub mod supervisor;
mod sys;
mod systemd;
pub mod wire;

pub use begin::program;
pub use sys::tty::resize as resize_terminal;
