//! Fault points: places where a test stops the runtime to kill it, or makes it fail. They exist in debug builds only; in
//! a release build a point is nothing.
//!
//! `KOBUNE_FAULT` says what to do:
//! - `trace`: every point that is passed writes `fault point: <name>` to stderr. That is how a test learns which
//!   there are: a new point is tested without being listed anywhere;
//! - `stop:<name>`: whoever comes to that point renames itself to `fault-stop` and waits for its end;
//! - `error:<name>`: that point fails.
//!
//! Names begin with `runtime: ` or `child: ` for the two processes. A supervisor, whose environment is empty, reads the
//! same words from the file that [`configure`] was given, each time anew.

use std::fmt::Display;
use std::io;

/// What a stopped process is called (`/proc/<pid>/comm`).
#[cfg(debug_assertions)]
const STOPPED: &std::ffi::CStr = c"fault-stop";

#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn point(_: impl Display) -> io::Result<()> {
    Ok(())
}

#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn in_child() {}

#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn configure(_: std::path::PathBuf) {}

#[cfg(debug_assertions)]
pub(crate) use debug::{configure, in_child, point};

#[cfg(debug_assertions)]
mod debug {
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::{Display, STOPPED, io};

    static IN_CHILD: AtomicBool = AtomicBool::new(false);
    static FILE: OnceLock<PathBuf> = OnceLock::new();

    /// This process is the new one from now on.
    pub(crate) fn in_child() {
        IN_CHILD.store(true, Ordering::Relaxed);
    }

    /// Takes the words from this file instead of the environment.
    pub(crate) fn configure(file: PathBuf) {
        let _ = FILE.set(file);
    }

    /// The step `name` is about to be done.
    pub(crate) fn point(name: impl Display) -> io::Result<()> {
        let wanted = match FILE.get() {
            Some(file) => std::fs::read_to_string(file).ok(),
            None => std::env::var("KOBUNE_FAULT").ok(),
        };
        let Some(wanted) = wanted else { return Ok(()) };
        let role = if IN_CHILD.load(Ordering::Relaxed) { "child" } else { "runtime" };
        let name = format!("{role}: {name}");
        match wanted.trim_end().split_once(':') {
            None if wanted.trim_end() == "trace" => {
                // One write: two processes share the stream.
                let _ = io::stderr().write_all(format!("fault point: {name}\n").as_bytes());
            }
            Some(("stop", at)) if at == name => {
                let _ = nix::sys::prctl::set_name(STOPPED);
                loop {
                    nix::unistd::pause();
                }
            }
            Some(("error", at)) if at == name => {
                return Err(io::Error::other(format!("fault at {name:?}")));
            }
            _ => {}
        }
        Ok(())
    }
}
