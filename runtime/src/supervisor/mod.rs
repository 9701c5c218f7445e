//! One per Pod: the process that is the parent of the Pod's containers, writes their logs and records their ends.
//!
//! It is the same program started again ([`spawn`]), single-threaded, small, and outlives whoever started it.

mod spawn;

pub use spawn::{SpawnError, SpawnOptions, Spawned, spawn};

use std::ffi::OsString;
use std::process::ExitCode;

/// The supervisor's `main`. `args` are those after the word `supervisor`; call it before any thread exists.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    match spawn::parse(args) {
        Err(message) => println!("failed {message}"),
        Ok(settings) => println!("failed the supervisor of {:?} is not built yet", settings.title),
    }
    ExitCode::FAILURE
}
