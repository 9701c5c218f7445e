//! One Pod on this node: what it is to be, what it is, and the one task that makes the difference vanish.
//!
//! [`admit`], [`state`] (with [`apply`] and [`decide`]), [`restore`] and [`status`] are pure. A worker owns one
//! Pod: it alone performs the machine's actions and writes the Pod's status.

pub mod admit;
mod apply;
pub mod backoff;
mod claims;
pub mod clock;
pub mod decide;
mod image;
pub mod manager;
mod message;
mod perform;
pub mod plan;
pub mod qos;
pub mod restore;
mod rootfs;
mod sources;
mod start;
pub mod state;
pub mod status;
mod token;
pub mod worker;
mod write;
