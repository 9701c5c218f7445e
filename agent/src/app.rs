//! Puts the program together: config → build → spawn → wait → drain.
//!
//! The only place that knows that node and control plane may be one process.

pub(crate) mod address;
pub(crate) mod down;
mod lock;
mod notify;

use std::process::ExitCode;

use crate::cli::Failure;
use crate::config::Config;

/// What `kobune up` is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Be a node until told to stop; containers go on running afterwards.
    Node,
    /// Show what Kobune does, then take everything down; `exit`: without waiting to be told.
    Demo { exit: bool },
}

pub(crate) fn up(_config: Config, _mode: Mode) -> Result<ExitCode, Failure> {
    Err("`kobune up` is not built yet".into())
}

pub(crate) fn server(_config: Config) -> Result<ExitCode, Failure> {
    Err("`kobune server` is not built yet".into())
}

pub(crate) fn agent(_config: Config, _server: &str, _token: &str) -> Result<ExitCode, Failure> {
    Err("`kobune agent` is not built yet".into())
}
