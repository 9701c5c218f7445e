//! `state`, `kill` and `delete`.

use std::os::fd::AsFd;
use std::str::FromStr;

use nix::sys::signal::Signal;
use serde_json::json;

use super::state::{Status, Store};
use super::{CliError, OWN_PARENT, message};
use crate::sys::pidfd;
use crate::{cgroup, oci};

/// `state`: as the specification has it.
pub(super) fn state(store: &Store, id: &str) -> Result<(), CliError> {
    let saved = store.load(id)?;
    let status = store.status(&saved);
    let mut state = json!({
        "ociVersion": oci::SPEC_VERSION,
        "id": saved.id,
        "status": status.name(),
        "bundle": saved.bundle,
        "created": saved.created,
    });
    if status != Status::Stopped {
        state["pid"] = saved.pid.into();
    }
    if let Ok(spec) = oci::load(&saved.bundle)
        && let Some(annotations) = spec.annotations()
    {
        state["annotations"] = json!(annotations);
    }
    println!("{state:#}");
    Ok(())
}

/// `kill`.
pub(super) fn kill(store: &Store, id: &str, signal: &str, all: bool) -> Result<(), CliError> {
    let saved = store.load(id)?;
    let Some(number) = signal_number(signal) else {
        return message(format!("signal {signal:?}: no such signal"));
    };
    if all {
        if number == libc::SIGKILL {
            return Ok(cgroup::kill(&saved.cgroup)?);
        }
        for pid in cgroup::processes(&saved.cgroup)? {
            // One that has just ended needs no signal.
            let _ =
                pidfd::open(pid).and_then(|process| pidfd::send_signal(process.as_fd(), number));
        }
        return Ok(());
    }
    let Some(process) = saved.process() else {
        return message(format!("container {id:?} is stopped"));
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

/// `delete`.
pub(super) fn delete(store: &Store, id: &str, force: bool) -> Result<(), CliError> {
    let saved = match store.load(id) {
        Ok(saved) => saved,
        // Interrupted before there was a state, or never there.
        Err(_) if force => return store.remove(id),
        Err(error) => return Err(error),
    };
    match store.status(&saved) {
        Status::Stopped => {}
        _ if force => {}
        status => return message(format!("container {id:?} is {}", status.name())),
    }
    cgroup::kill_pod(&saved.cgroup)?;
    if let Some(parent) = saved.cgroup.parent().filter(|parent| parent.ends_with(OWN_PARENT)) {
        // Ours, and empty with the last container; the kernel knows.
        let _ = std::fs::remove_dir(parent);
    }
    store.remove(id)
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
