//! The demo: what `kobune up --demo` shows, and the server that its Pods run.

pub mod server;
