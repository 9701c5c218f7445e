//! `pause` and `resume`.

use super::flags::{Command, ID};
use super::state::{Status, Store};
use super::{CliError, message};
use crate::cgroup;

pub(super) static PAUSE: Command = Command {
    name: "pause",
    about: "stop all processes of a container",
    operands: ID,
    count: (1, 1),
    verbatim: false,
    flags: &[],
    run: |context, mut given| pause(&context.store, &given.operand()?).map(|()| 0),
    failure: 1,
};

pub(super) static RESUME: Command = Command {
    name: "resume",
    about: "let the processes of a paused container go on",
    operands: ID,
    count: (1, 1),
    verbatim: false,
    flags: &[],
    run: |context, mut given| resume(&context.store, &given.operand()?).map(|()| 0),
    failure: 1,
};

/// All processes stand still before it returns.
fn pause(store: &Store, id: &str) -> Result<(), CliError> {
    let saved = store.load(id)?;
    match store.status(&saved) {
        Status::Created | Status::Running => Ok(cgroup::freeze(&saved.cgroup)?),
        Status::Paused => Ok(()),
        Status::Stopped => message(format!("pause container {id:?}: container not running")),
    }
}

fn resume(store: &Store, id: &str) -> Result<(), CliError> {
    let saved = store.load(id)?;
    match store.status(&saved) {
        Status::Paused => Ok(cgroup::thaw(&saved.cgroup)?),
        _ => message(format!("resume container {id:?}: container not paused")),
    }
}
