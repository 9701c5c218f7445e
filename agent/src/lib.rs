//! The node: makes this machine be what the Kubernetes API says.
//!
//! Speaks the Kubernetes API as a client, and uses the runtime and netplugin as libraries. Knows neither
//! the store nor the controllers; `app` alone knows that a control plane may live in this process.

pub(crate) mod app;
pub mod cli;
pub mod config;
pub mod container;
pub mod demo;
pub mod dns;
pub mod events;
pub mod image;
pub mod inspect;
pub(crate) mod kubelet;
pub(crate) mod logs;
pub mod node;
pub mod pod;
pub mod probe;
pub mod proxy;
pub mod sandbox;
mod table;
pub mod volume;

/// A Pod's supervisor: this program started again by the node. Call it before any thread exists.
pub fn supervisor(args: impl Iterator<Item = std::ffi::OsString>) -> std::process::ExitCode {
    kobune_runtime::supervisor::main(args)
}
