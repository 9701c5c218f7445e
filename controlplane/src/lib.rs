//! A small Kubernetes control plane: remembers, tells, decides.
//!
//! Speaks the Kubernetes API; never knows nodes' insides or Linux.

mod admission;
pub mod api;
pub mod apply;
pub mod auth;
mod bootstrap;
pub mod context;
mod control_plane;
pub mod controllers;
mod cron;
mod election;
pub mod kinds;
pub mod object;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod reader;
pub mod scheduler;
mod server;
pub mod status;
pub mod store;
pub mod writer;

pub use api::UserInfo;
pub use control_plane::{ControlPlane, Handler, Options, StartError};
pub use controllers::balancer::Pool;
