//! The node: makes this machine be what the Kubernetes API says.
//!
//! Speaks the Kubernetes API as a client, and uses the runtime and netplugin as libraries. Knows neither
//! the store nor the controllers; `app` alone knows that a control plane may live in this process.

pub mod image;
