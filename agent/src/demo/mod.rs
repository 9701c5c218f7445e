//! The demo: what `kobune up --demo` shows, and the server that its Pods run.
//!
//! ```text
//! objects (pure)   what is created
//! show             create, wait, ask, look; one phase after the other
//! screen (pure)    what a person reads
//! progress         what moves while one waits
//! ```

mod objects;
mod progress;
mod screen;
pub mod server;
mod show;

pub(crate) use objects::{IMAGE, image_config};
pub(crate) use progress::Progress;
pub(crate) use show::{node_ready, remove, show};
