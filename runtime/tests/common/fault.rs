//! Fault points seen from outside (`runtime/src/fault.rs`): which there are, and who stands at one.

use std::fs;
use std::time::{Duration, Instant};

pub const DEADLINE: Duration = Duration::from_secs(20);

/// Whose end is tried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Victim {
    Runtime,
    Child,
    Both,
}

/// Polls: nothing tells when another process changes its name or ends, but a deadline does.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn is_stopped(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "fault-stop\n")
}

pub fn kill(pid: i32) {
    let _ =
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

/// The points that a trace names, each once, in the order in which they are passed.
pub fn points(trace: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for (_, name) in trace.lines().filter_map(|line| line.split_once("fault point: ")) {
        if !found.iter().any(|known| known == name) {
            found.push(name.to_owned());
        }
    }
    found
}
