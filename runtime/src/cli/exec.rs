//! `exec`.

use std::fs::File;
use std::os::fd::AsFd;

use oci_spec::runtime::Process;

use super::state::{Saved, Status, Store};
use super::{CliError, ExecArgs, create as birth, message};
use crate::bounded;
use crate::create::{self, Bond, Preserved};
use crate::oci;
use crate::plan::ProcessPlan;
use crate::sys::process as sys;

/// The largest file with a process, in bytes.
const MAX_PROCESS: u64 = 8 << 20;

/// `exec`; the exit code is the process'.
pub(super) fn exec(store: &Store, args: &ExecArgs) -> Result<u8, CliError> {
    let preserved = Preserved::asked(args.preserve_fds).map_err(CliError::io("--preserve-fds"))?;
    let saved = store.load(&args.id)?;
    let status = store.status(&saved);
    let Some(init) = saved.process().filter(|_| status == Status::Running) else {
        return message(format!("container {:?} is {}", args.id, status.name()));
    };
    let process = process(&saved, args)?;
    oci::check_process(&process, "process")?;
    let mut plan = ProcessPlan::of(&process, "process")?;
    preserved.give(&mut plan);
    if plan.terminal.is_some() && args.console_socket.is_none() {
        return message("a terminal needs --console-socket");
    }
    let cgroup = File::open(&saved.cgroup)
        .map_err(CliError::io(format!("open cgroup {:?}", saved.cgroup)))?;
    let signals = birth::forwarded()?;
    let streams = [0, 1, 2].map(sys::borrow);
    let new = create::enter(&plan, Bond::Independent, init.as_fd(), Some(cgroup.as_fd()), streams)?;
    birth::hear(&new.channel, args.console_socket.as_deref())?;
    birth::write_pid(args.pid_file.as_deref(), new.child.pid)?;
    if args.detach { Ok(0) } else { birth::wait(&new, &signals) }
}

/// The process to run: a file, or the container's own with what the arguments change.
fn process(saved: &Saved, args: &ExecArgs) -> Result<Process, CliError> {
    if let Some(path) = &args.process {
        let text =
            bounded::read(path, MAX_PROCESS).map_err(CliError::io(format!("read {path:?}")))?;
        return serde_json::from_slice(&text)
            .map_err(|error| CliError::Message(format!("parse {path:?}: {error}")));
    }
    let spec = oci::load(&saved.bundle)?;
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(args.command.clone()));
    process.set_terminal(Some(args.tty));
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.clone());
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(args.env.iter().cloned());
    process.set_env(Some(env));
    if let Some(user) = &args.user {
        let (uid, gid) = user.split_once(':').unwrap_or((user, "0"));
        let number = |text: &str| {
            text.parse::<u32>()
                .map_err(|_| CliError::Message(format!("user {user:?}: must be uid or uid:gid")))
        };
        process.user_mut().set_uid(number(uid)?).set_gid(number(gid)?);
    }
    Ok(process)
}
