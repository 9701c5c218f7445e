//! A small Kubernetes control plane: remembers, tells, decides.
//!
//! Speaks the Kubernetes API; never knows nodes' insides or Linux.

pub mod context;
pub mod controllers;
pub mod kinds;
pub mod object;
pub mod openapi;
pub mod patch;
pub mod reader;
pub mod scheduler;
pub mod status;
pub mod store;
pub mod writer;
