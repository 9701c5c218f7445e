//! `events`: what a container uses, and when the kernel ends one of its processes for want of memory; one JSON object
//! per line, as runc has them.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use super::flags::{Command, Flag, ID};
use super::state::{Status, Store};
use super::{CliError, message};
use crate::cgroup::{self, Events};

pub(super) static COMMAND: Command = Command {
    name: "events",
    about: "print what a container uses, and when it ran out of memory",
    operands: ID,
    count: (1, 1),
    verbatim: false,
    flags: &[
        Flag::value("interval", "TIME", "between statistics, such as 500ms (5s)"),
        Flag::switch("stats", "print statistics once"),
    ],
    run: |context, mut given| {
        let text = given.text("interval")?;
        let interval = interval(text.as_deref().unwrap_or("5s"))
            .map_err(|why| CliError::Message(format!("--interval: {why}")))?;
        let once = given.has("stats");
        events(&context.store, &given.operand()?, interval, once).map(|()| 0)
    },
    failure: 1,
};

/// Until the container has ended or nobody reads any more.
fn events(store: &Store, id: &str, interval: Duration, once: bool) -> Result<(), CliError> {
    let saved = store.load(id)?;
    if store.status(&saved) == Status::Stopped {
        return message(format!("container {id:?} is not running"));
    }
    if once {
        return print(&stats(id, &saved.cgroup));
    }
    watch(id, &saved.cgroup, interval)
}

fn stats(id: &str, cgroup: &Path) -> Value {
    json!({"type": "stats", "id": id, "data": cgroup::stats(cgroup)})
}

fn watch(id: &str, cgroup: &Path, interval: Duration) -> Result<(), CliError> {
    let life = Events::open(cgroup).map_err(CliError::io(format!("watch {cgroup:?}")))?;
    // Absent where nobody counts memory.
    let memory = File::open(cgroup.join("memory.events")).ok();
    let mut kills = cgroup::oom_kills(cgroup);
    let mut next = Instant::now() + interval;
    loop {
        // Both are read before each wait: the kernel tells of changes since the last reading.
        let now = memory.as_ref().map_or(0, kills_in);
        if now > kills {
            kills = now;
            print(&json!({"type": "oom", "id": id}))?;
        }
        if !life.says(b"populated 1").unwrap_or(false) {
            return Ok(());
        }
        let left = next.saturating_duration_since(Instant::now());
        if left.is_zero() {
            print(&stats(id, cgroup))?;
            next = Instant::now() + interval;
            continue;
        }
        let files: Vec<BorrowedFd<'_>> =
            memory.iter().map(File::as_fd).chain([life.as_fd()]).collect();
        wait(&files, left)?;
    }
}

fn wait(files: &[BorrowedFd<'_>], left: Duration) -> Result<(), CliError> {
    let mut polled: Vec<_> =
        files.iter().map(|file| PollFd::new(*file, PollFlags::POLLPRI)).collect();
    // A millisecond more: never to wake up just before the time.
    let timeout =
        PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    match poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(CliError::io("wait for events")(errno.into())),
    }
}

/// Read through the same descriptor that is waited for.
fn kills_in(file: &File) -> u64 {
    use std::os::unix::fs::FileExt;
    let mut text = [0u8; 512];
    let length = file.read_at(&mut text, 0).unwrap_or(0);
    cgroup::parse_oom_kills(&String::from_utf8_lossy(&text[..length]))
}

fn print(value: &Value) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value}").and_then(|()| out.flush()).map_err(CliError::io("write an event"))
}

/// A duration as Go writes them: `5s`, `500ms`, `1m30s`.
fn interval(text: &str) -> Result<Duration, String> {
    let mut left = text;
    let mut sum = 0.0;
    while !left.is_empty() {
        let at = left.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or("needs a unit")?;
        let (number, rest) = left.split_at(at);
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(end);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(format!("{unit:?} is no unit")),
        };
        sum += seconds * number.parse::<f64>().map_err(|_| "not a duration".to_owned())?;
        left = rest;
    }
    match Duration::try_from_secs_f64(sum) {
        Ok(interval) if !interval.is_zero() => Ok(interval),
        _ => Err("must be more than 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, milliseconds) in
            [("5s", 5000), ("500ms", 500), ("1m30s", 90_000), ("1.5h", 5_400_000)]
        {
            assert_eq!(interval(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for bad in ["", "5", "s", "5x", "0s", "-1s", "1s2"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }
}
