//! `state`, `kill` and `delete`.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;
use serde::Serialize;

use super::create::fault;
use super::flags::{Command, Flag, ID};
use super::state::{Noted, Released, Saved, Status, Store};
use super::{CliError, Context, cgroups, message, say};
use crate::hooks;
use crate::sys::pidfd;
use crate::{cgroup, oci};

/// How long `delete` waits for a running process to end by itself, in milliseconds.
const MOMENT_MS: u8 = 100;

pub(super) static STATE: Command = Command {
    name: "state",
    about: "print the state of a container as JSON",
    operands: ID,
    count: (1, 1),
    verbatim: false,
    flags: &[],
    run: |context, mut given| {
        let saved = context.store.load(&given.operand()?)?;
        say(&format!("{}\n", pretty(&describe(&context.store, saved))?))?;
        Ok(0)
    },
    failure: 1,
};

pub(super) static KILL: Command = Command {
    name: "kill",
    about: "send a signal to a container's first process",
    operands: "<container-id> [signal]",
    count: (1, 2),
    verbatim: false,
    flags: &[Flag::switch("all", "to every process of the container").or('a')],
    run: |context, mut given| {
        let (id, signal) = (given.operand()?, given.operand()?);
        kill(context, &id, &signal, given.has("all")).map(|()| 0)
    },
    failure: 1,
};

pub(super) static DELETE: Command = Command {
    name: "delete",
    about: "remove a stopped container",
    operands: ID,
    count: (1, 1),
    verbatim: false,
    flags: &[Flag::switch("force", "kill it first; no error if it does not exist").or('f')],
    run: |context, mut given| delete(context, &given.operand()?, given.has("force")).map(|()| 0),
    failure: 1,
};

/// The state as the specification has it, and what runc adds. In runc's order: scripts cut it as text.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Description {
    oci_version: &'static str,
    id: String,
    pid: i32,
    status: &'static str,
    bundle: PathBuf,
    rootfs: PathBuf,
    created: String,
    annotations: BTreeMap<String, String>,
    owner: String,
}

fn pretty(description: &Description) -> Result<String, CliError> {
    serde_json::to_string_pretty(description)
        .or_else(|error| message(format!("write the state as JSON: {error}")))
}

pub(super) fn describe(store: &Store, saved: Saved) -> Description {
    let status = store.status(&saved);
    Description {
        oci_version: oci::SPEC_VERSION,
        id: saved.id,
        pid: if status == Status::Stopped { 0 } else { saved.pid },
        status: status.name(),
        bundle: saved.bundle,
        rootfs: saved.rootfs,
        created: saved.created,
        annotations: saved.annotations,
        owner: super::list::user_name(saved.owner),
    }
}

fn kill(context: &Context, id: &str, signal: &str, all: bool) -> Result<(), CliError> {
    let saved = context.store.load(id)?;
    let signal = if signal.is_empty() { "TERM" } else { signal };
    let Some(number) = signal_number(signal) else {
        return message(format!("unknown signal {signal:?}"));
    };
    if all {
        if number == libc::SIGKILL {
            return Ok(cgroup::kill(&saved.cgroup)?);
        }
        cgroup::signal(&saved.cgroup, number)?;
        return Ok(());
    }
    let Some(process) = saved.process() else {
        // The words that containerd looks for.
        return message(format!("container not running: {id:?}"));
    };
    pidfd::send_signal(process.as_fd(), number)
        .map_err(CliError::io(format!("send signal {signal} to container {id:?}")))
}

/// `9`, `KILL` or `SIGKILL`; the real-time ones by number.
fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (0..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let name = text.to_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    Signal::from_str(&name).ok().map(|signal| signal as i32)
}

/// The status, after a moment for a process that ends just now: `start` or `kill` may have been the command before.
fn settled(store: &Store, saved: &Saved, force: bool) -> Status {
    match (store.status(saved), saved.process()) {
        (Status::Running, Some(process)) if !force => {
            let mut end = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
            // Told early or not at all, the status says it.
            let _ = poll(&mut end, MOMENT_MS);
            store.status(saved)
        }
        (status, _) => status,
    }
}

pub(super) fn delete(context: &Context, id: &str, force: bool) -> Result<(), CliError> {
    let store = &context.store;
    if force && store.is_busy(id).unwrap_or(false) {
        // Another command is at work on it and may wait for what never comes; its container's end ends that.
        if let Noted::Claimed(cgroup) = store.noted_cgroup(id) {
            cgroup::kill(&cgroup)?;
        }
    }
    let _lock = match store.lock(id) {
        Err(error) if force && error.is_absence() => return Ok(()),
        other => other?,
    };
    let mut known = None;
    let cgroup = match store.load(id) {
        Ok(saved) => {
            match settled(store, &saved, force) {
                Status::Stopped => {}
                _ if force => {}
                status => {
                    let status = status.name();
                    return message(format!(
                        "cannot delete container {id} that is not stopped: {status}"
                    ));
                }
            }
            let cgroup = saved.cgroup.clone();
            known = Some(saved);
            Noted::Claimed(cgroup)
        }
        // Interrupted before there was a state, or damaged.
        Err(_) if force => store.noted_cgroup(id),
        Err(error) => return Err(error),
    };
    match cgroup {
        Noted::Claimed(cgroup) => remove_cgroup(store, id, &cgroup)?,
        // Only if it is empty, and whatever else it is, it is not ours.
        Noted::Wanted(cgroup) => drop(std::fs::remove_dir(cgroup)),
        Noted::Nothing => {}
    }
    if let Some(saved) = known.as_ref().filter(|saved| !saved.mounts.is_empty()) {
        crate::create::unmount(&saved.rootfs, &saved.mounts);
    }
    fault("remove the state")?;
    store.remove(id)?;
    known.iter().for_each(|saved| run_poststop(context, saved));
    Ok(())
}

/// Everything is gone: what fails now is only told.
pub(super) fn run_poststop(context: &Context, saved: &Saved) {
    let Some(hooks) = &saved.hooks else { return };
    for error in hooks::poststop(hooks, &saved.hook_state("stopped", None)) {
        context.log.warning(&error.to_string());
    }
}

/// [`delete`] for a container whose end we have just seen, unless somebody else was faster.
pub(super) fn forget(context: &Context, saved: &Saved, lock: Released) -> Result<(), CliError> {
    let Some(_lock) = lock.again()? else { return Ok(()) };
    remove_cgroup(&context.store, &saved.id, &saved.cgroup)?;
    fault("remove the state")?;
    context.store.remove(&saved.id)?;
    run_poststop(context, saved);
    Ok(())
}

fn remove_cgroup(store: &Store, id: &str, cgroup: &Path) -> Result<(), CliError> {
    // The tree's top has no such file, nor has any directory elsewhere: those are not ours to empty.
    if !cgroup.join("cgroup.events").exists() && cgroup.exists() {
        return Err(cgroup::CgroupError::NotCgroup { path: cgroup.to_owned() }.into());
    }
    fault("remove the cgroup")?;
    cgroups::remove(store, id, cgroup)
}

#[cfg(test)]
mod tests {
    use super::signal_number;

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!(signal_number("KILL"), Some(9));
        assert_eq!(signal_number("sigterm"), Some(15));
        assert_eq!(signal_number("34"), Some(34));
        assert_eq!(signal_number("NOPE"), None);
        assert_eq!(signal_number("999"), None);
    }
}
