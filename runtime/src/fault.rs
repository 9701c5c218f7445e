//! Fault points: places where a test stops the runtime to kill it, or makes it fail. They exist in debug builds only; in
//! a release build a point is nothing.
//!
//! `KOBUNE_FAULT` says what to do:
//! - `trace`: every point that is passed writes `fault point: <name>` to stderr. That is how a test learns which
//!   there are: a new point is tested without being listed anywhere;
//! - `stop:<name>`: whoever comes to that point renames itself to `fault-stop` and waits for its end;
//! - `error:<name>`: that point fails.
//!
//! Names begin with `runtime: ` or `child: ` for the two processes, and with `stage: ` for one in between. A supervisor, whose environment is empty, reads the
//! same words from the file that [`configure`] was given, each time anew; a process that it makes, which soon does not see
//! that file any more, once.

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
pub(crate) fn in_stage() {}

#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn configure(_: std::path::PathBuf) {}

#[cfg(debug_assertions)]
pub(crate) use debug::{configure, in_child, in_stage, point};

#[cfg(debug_assertions)]
mod debug {
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{Display, STOPPED, io};

    const ROLES: [&str; 3] = ["runtime", "stage", "child"];

    static ROLE: AtomicUsize = AtomicUsize::new(0);
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    static WORDS: OnceLock<Option<String>> = OnceLock::new();

    /// This process is the new one from now on.
    pub(crate) fn in_child() {
        ROLE.store(2, Ordering::Relaxed);
        if FILE.get().is_some() {
            let _ = WORDS.set(words());
        }
    }

    /// This process is the one that enters namespaces for the new one.
    pub(crate) fn in_stage() {
        ROLE.store(1, Ordering::Relaxed);
    }

    /// Takes the words from this file instead of the environment.
    pub(crate) fn configure(file: PathBuf) {
        let _ = FILE.set(file);
    }

    fn words() -> Option<String> {
        match FILE.get() {
            Some(file) => std::fs::read_to_string(file).ok(),
            None => std::env::var("KOBUNE_FAULT").ok(),
        }
    }

    /// The step `name` is about to be done.
    pub(crate) fn point(name: impl Display) -> io::Result<()> {
        let Some(wanted) = WORDS.get().cloned().unwrap_or_else(words) else { return Ok(()) };
        let name = format!("{}: {name}", ROLES[ROLE.load(Ordering::Relaxed)]);
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
