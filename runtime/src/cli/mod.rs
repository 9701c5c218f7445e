//! The OCI command line: one container per state directory, no process that stays. Parses, dispatches, and tells
//! errors; each command is in its file, with its table of flags.
//!
//! `create` leaves a first process that waits on the start socket in the container's state directory; `start`
//! connects to it, and hears over the same connection why a program cannot be executed.

mod attend;
mod cgroups;
mod console;
mod create;
mod error;
mod events;
mod exec;
mod flags;
mod foreground;
mod info;
mod list;
mod log;
mod manage;
mod pause;
mod ps;
mod spec;
mod state;
mod update;

use std::ffi::OsString;
use std::path::PathBuf;

use error::{CliError, message};
use flags::{Command, Flag, Given, Misuse, Parsed};
use log::{Format, Log};

/// Before the id, the name of a cgroup at the tree's top for containers whose config.json names none. A directory above
/// them all would have to be made, given controllers and removed with the only container of many hosts.
const OWN_PREFIX: &str = "kobune-runtime-";

/// Where the state of containers is, unless `--root` says.
const ROOT: &str = "/run/kobune-runtime";

static COMMANDS: [&Command; 17] = [
    &create::CREATE,
    &create::START,
    &create::RUN,
    &exec::COMMAND,
    &manage::STATE,
    &list::COMMAND,
    &ps::COMMAND,
    &manage::KILL,
    &manage::DELETE,
    &pause::PAUSE,
    &pause::RESUME,
    &update::COMMAND,
    &events::COMMAND,
    &spec::COMMAND,
    &info::FEATURES,
    &info::CHECKPOINT,
    &info::RESTORE,
];

static FLAGS: [Flag; 8] = [
    Flag::value("root", "DIR", "where the state of containers is (/run/kobune-runtime)"),
    Flag::value("log", "FILE", "append messages to this file"),
    Flag::value("log-format", "FORMAT", "text (default) or json"),
    Flag::switch("debug", "tell each step"),
    Flag::switch("systemd-cgroup", "the same as --cgroup-manager systemd"),
    Flag::value(
        "cgroup-manager",
        "MANAGER",
        "cgroupfs (default), systemd, or disabled: below our own",
    ),
    Flag::value(
        "rootless",
        "WHEN",
        "ignore cgroup permission errors: true, false or auto (default)",
    ),
    Flag::value("criu", "PATH", "accepted, and never used: there is no checkpoint"),
];

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CgroupManager {
    Cgroupfs,
    Systemd,
    /// Containers stay below the cgroup of their creator.
    Disabled,
}

/// What every command is given.
#[derive(Debug)]
struct Context {
    store: state::Store,
    log: Log,
    cgroups: CgroupManager,
}

impl Default for Context {
    fn default() -> Context {
        let store = state::Store::new(PathBuf::from(ROOT));
        Context { store, log: Log::default(), cgroups: CgroupManager::Cgroupfs }
    }
}

impl Context {
    /// The log first: what follows may have to be told there.
    fn set_up(&mut self, mut global: Given) -> Result<(), CliError> {
        let format = global.text("log-format")?;
        let format = format.map_or(Ok(Format::Text), |name| Format::parse(&name))?;
        self.log = Log::new(global.path("log"), format, global.has("debug"))?;
        self.cgroups = match global.text("cgroup-manager")?.as_deref() {
            None if global.has("systemd-cgroup") => CgroupManager::Systemd,
            None | Some("cgroupfs") => CgroupManager::Cgroupfs,
            Some("systemd") => CgroupManager::Systemd,
            Some("disabled") => CgroupManager::Disabled,
            Some(other) => return message(format!("invalid cgroup-manager: {other:?}")),
        };
        match global.text("rootless")?.as_deref() {
            None | Some("true" | "false" | "auto") => {}
            Some(other) => return message(format!("invalid rootless: {other:?}")),
        }
        if let Some(root) = global.path("root") {
            self.store = state::Store::new(root);
        }
        Ok(())
    }
}

/// Prints what a command is asked for.
fn say(text: &str) -> Result<(), CliError> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let said = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    said.map_err(CliError::io("write to standard output"))
}

/// The command line without the program's name. Returns the exit code.
pub(crate) fn main(args: impl Iterator<Item = OsString>) -> u8 {
    let mut context = Context::default();
    let (done, failure) = match flags::parse(args, &COMMANDS, &FLAGS) {
        Ok(Parsed::Run { command, global, given }) => {
            let ready = context.set_up(global);
            (ready.and_then(|()| (command.run)(&context, given)), command.failure)
        }
        Ok(Parsed::Help(text)) => (say(&text).map(|()| 0), 1),
        Ok(Parsed::Version) => (say(&info::version()).map(|()| 0), 1),
        Err(Misuse { message, exit_code, global }) => {
            // Logged where it was asked for, as far as that made sense.
            let _ = context.set_up(global);
            (Err(CliError::Message(message)), exit_code)
        }
    };
    done.unwrap_or_else(|error| {
        context.log.error(&error.to_string());
        failure
    })
}

/// For `crate::fuzz`.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_state(bytes: &[u8]) -> Result<(), String> {
    state::decode(bytes, "x").map(drop)
}
