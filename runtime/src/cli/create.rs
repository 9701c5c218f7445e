//! `create`, `start` and `run`.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use oci_spec::runtime::Spec;

use super::state::{Saved, Status, Store, start_time};
use super::{CliError, CreateArgs, cgroups, manage, message};
use crate::create::{self, Birth, Bond, Channel, Message, Preserved};
use crate::supervisor::time;
use crate::sys::{fdpass, pidfd, process as sys};
use crate::wire::Rootfs;
use crate::{cgroup, oci, plan};

/// `create`.
pub(super) fn create(store: &Store, args: &CreateArgs) -> Result<Saved, CliError> {
    let preserved = preserved(args)?;
    store.reserve(&args.id)?;
    let socket = store.start_socket(&args.id);
    let listener = create::listen(&socket).map_err(CliError::io(format!("listen at {socket:?}")));
    let made =
        listener.and_then(|socket| make(store, args, Bond::Socket(socket.as_fd()), preserved));
    if made.is_err() {
        // The first error is the one to tell.
        let _ = store.remove(&args.id);
    }
    made.map(|(saved, _)| saved)
}

/// Before anything is opened.
fn preserved(args: &CreateArgs) -> Result<Preserved, CliError> {
    Preserved::with_activation(args.preserve_fds).map_err(CliError::io("--preserve-fds"))
}

/// The name is reserved. Whatever fails, no process and no cgroup is left.
fn make(
    store: &Store,
    args: &CreateArgs,
    bond: Bond<'_>,
    preserved: Preserved,
) -> Result<(Saved, Birth), CliError> {
    let bundle = fs::canonicalize(&args.bundle)
        .map_err(CliError::io(format!("open the bundle {:?}", args.bundle)))?;
    let spec = oci::load(&bundle)?;
    let mut plan = plan::plan(&spec, &Rootfs::Bundle, &bundle)?;
    preserved.give(&mut plan.process);
    if plan.process.terminal.is_some() && args.console_socket.is_none() {
        return message("process.terminal: needs --console-socket");
    }
    let cgroup = cgroups::place(&spec, &args.id)?;
    let fresh = cgroup::claim(&cgroup)?;
    let born = begin(&spec, &plan, (&cgroup, fresh), bond, args);
    let done = born.and_then(|birth| {
        let saved = Saved {
            id: args.id.clone(),
            bundle,
            pid: birth.child.pid,
            start_time: start_time(birth.child.pid).unwrap_or_default(),
            cgroup: cgroup.clone(),
            created: time::rfc3339(time::now()),
        };
        store.save(&saved)?;
        write_pid(args.pid_file.as_deref(), saved.pid)?;
        Ok((saved, birth))
    });
    if done.is_err() {
        let _ = cgroup::kill_pod(&cgroup);
    }
    done
}

fn begin(
    spec: &Spec,
    plan: &plan::Plan,
    (cgroup, fresh): (&Path, bool),
    bond: Bond<'_>,
    args: &CreateArgs,
) -> Result<Birth, CliError> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    cgroups::furnish(cgroup, resources, fresh)?;
    let directory = File::open(cgroup).map_err(CliError::io(format!("open {cgroup:?}")))?;
    let streams = [0, 1, 2].map(sys::borrow);
    let birth = create::launch(plan, bond, Some(directory.as_fd()), streams)?;
    hear(&birth.channel, args.console_socket.as_deref())?;
    Ok(birth)
}

/// Waits until the new process is ready (or, for an exec, has executed its program).
pub(super) fn hear(channel: &Channel, console: Option<&Path>) -> Result<(), CliError> {
    let failed = || CliError::io("hear from the new process");
    loop {
        let mut wait = [PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wait, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(failed()(errno.into())),
        }
        match channel.receive().map_err(failed())? {
            None => {}
            Some((Message::Ready | Message::Closed, _)) => return Ok(()),
            Some((Message::Failed(failure), _)) => return Err(CliError::Failure(failure)),
            Some((Message::Terminal, master)) => hand_over(master, console)?,
        }
    }
}

/// Sends the terminal's master to whoever asked for it.
fn hand_over(master: Option<OwnedFd>, console: Option<&Path>) -> Result<(), CliError> {
    let (Some(master), Some(path)) = (master, console) else { return Ok(()) };
    std::os::unix::net::UnixStream::connect(path)
        .and_then(|socket| fdpass::send_all(&socket, b"/dev/ptmx", &[master.as_fd()]))
        .map_err(CliError::io(format!("send the terminal to {path:?}")))
}

pub(super) fn write_pid(path: Option<&Path>, pid: i32) -> Result<(), CliError> {
    let Some(path) = path else { return Ok(()) };
    fs::write(path, pid.to_string()).map_err(CliError::io(format!("write {path:?}")))
}

/// `start`.
pub(super) fn start(store: &Store, id: &str) -> Result<(), CliError> {
    let saved = store.load(id)?;
    match store.status(&saved) {
        Status::Created => {}
        other => return message(format!("container {id:?} is {}", other.name())),
    }
    let socket = store.start_socket(id);
    let reach = || CliError::io(format!("reach container {id:?}"));
    let channel = create::connect(&socket).map_err(reach())?;
    channel.go().map_err(reach())?;
    // Whatever comes now, it is not waiting any more.
    let _ = fs::remove_file(&socket);
    hear(&channel, None)
}

/// `run`; the exit code is the container's.
pub(super) fn run(store: &Store, args: &CreateArgs, detach: bool) -> Result<u8, CliError> {
    if detach {
        create(store, args)?;
        return start(store, &args.id).map(|()| 0);
    }
    let preserved = preserved(args)?;
    store.reserve(&args.id)?;
    let ran = forwarded().and_then(|signals| {
        let (_, birth) = make(store, args, Bond::Independent, preserved)?;
        birth.channel.go().map_err(CliError::io("start the container"))?;
        hear(&birth.channel, None)?;
        wait(&birth, &signals)
    });
    let deleted = manage::delete(store, &args.id, true);
    ran.and_then(|code| deleted.map(|()| code))
}

/// Signals that are passed on while we wait, blocked from now on.
pub(super) fn forwarded() -> Result<SigSet, CliError> {
    let mut set = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        set.add(signal);
    }
    match set.thread_block() {
        Ok(()) => Ok(set),
        Err(errno) => Err(CliError::io("block signals")(errno.into())),
    }
}

/// Passes signals on until the process has ended; returns its exit code.
pub(super) fn wait(birth: &Birth, signals: &SigSet) -> Result<u8, CliError> {
    loop {
        while let Ok(Some((pid, status))) = sys::reap() {
            if pid == birth.child.pid {
                let code = match status {
                    sys::Status::Code(code) => code,
                    sys::Status::Signal(signal) => 128 + signal,
                };
                return Ok(u8::try_from(code).unwrap_or(u8::MAX));
            }
        }
        match signals.wait() {
            Ok(Signal::SIGCHLD) | Err(nix::errno::Errno::EINTR) => {}
            Ok(signal) => {
                // It may just have ended; then the next turn tells.
                let _ = pidfd::send_signal(birth.child.pidfd.as_fd(), signal as i32);
            }
            Err(errno) => return Err(CliError::io("wait for signals")(errno.into())),
        }
    }
}
