//! One per Pod: the process that is the parent of the Pod's containers, writes their logs and records their ends.
//!
//! It is the same program started again ([`spawn`]), single-threaded, small, and outlives whoever started it. When it is
//! killed, the kernel kills the containers' first processes with it; what is left is in the Pod's cgroup.
//!
//! `core` decides; `serve` waits and acts; `unit` and `exec` are the processes; `connection` the clients;
//! `split` and `log` what containers write; `record` what is known of them after the end.

mod connection;
mod core;
mod dying;
mod exec;
mod log;
mod record;
mod serve;
mod setup;
mod spawn;
mod split;
pub(crate) mod time;
mod unit;

use std::ffi::OsString;
use std::process::ExitCode;

pub use spawn::{SpawnError, SpawnOptions, Spawned, spawn};

/// The supervisor's `main`. `args` are those after the word `supervisor`; call it before any thread exists.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let settings = match spawn::parse(args) {
        Ok(settings) => settings,
        Err(message) => {
            println!("failed {message}");
            return ExitCode::FAILURE;
        }
    };
    crate::fault::configure(settings.pod_dir.join("fault"));
    if let Err(error) = crate::sys::process::leave_parent() {
        println!("failed leave the starting process: {error}");
        return ExitCode::FAILURE;
    }
    let (listener, ready, null) = match setup::take_streams() {
        Ok(taken) => taken,
        Err(error) => {
            eprintln!("take the standard streams: {error}");
            return ExitCode::FAILURE;
        }
    };
    let signals = match setup::prepare(&settings) {
        Ok(signals) => signals,
        Err(message) => {
            ready.say(&format!("failed {message}\n"));
            return ExitCode::FAILURE;
        }
    };
    let supervisor = serve::Supervisor::new(settings, setup::Ends { listener, signals, null });
    ready.say(&format!("ready {}\n", std::process::id()));
    match supervisor.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wait for events: {error}");
            ExitCode::FAILURE
        }
    }
}
