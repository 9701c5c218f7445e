//! A cable, an address, a rule; and all three gone again.
//!
//! Speaks CNI and netlink (links and nf_tables); never knows Kubernetes or containers.
//! Everything here is synchronous and works in "the host" as seen by the calling thread: its
//! network namespace. Every setup is idempotent and has a teardown that tolerates absence.

#![deny(unsafe_code)]

pub mod announce;
pub mod cni;
pub mod config;
pub mod error;
pub mod host;
pub mod inspect;
mod ipam;
mod leases;
mod link;
mod netlink;
pub mod netns;
pub mod nft;
pub mod pod;
#[allow(unsafe_code)]
mod sys;
mod sysctl;

pub use config::{HostConfig, PodNetwork, PodRequest};
pub use error::Error;
