//! Hooks: programs of config.json that are executed around a container's life, with its state on their stdin.
//!
//! | phase | when | where | a failure |
//! |---|---|---|---|
//! | prestart, createRuntime | namespaces and mounts are there, before pivot_root | outside | ends the container |
//! | createContainer | right after them | the container's namespaces, the host's files | ends the container |
//! | startContainer | `start`, as the container's user, before its program | inside | ends the container |
//! | poststart | the program runs | outside | is a warning |
//! | poststop | everything is gone | outside | is a warning |
//!
//! A hook gets the environment that it lists; without a list, that of the runtime, as runc and crun do it. What it prints is shown, quoted and cut, when it fails: it cannot forge a
//! line of our log. After its timeout it is killed with its process group.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, PipeReader, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use oci_spec::runtime::{Hook, Hooks};
use serde::Serialize;

use crate::fault;
use crate::plan::{Plan, Step};
use crate::sys::{pidfd, process as sys};

/// As config.json names them.
pub(crate) const PHASES: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Of a hook's output this much is shown.
const SHOWN: usize = 2048;

/// What a hook is told about its container.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State {
    pub(crate) oci_version: &'static str,
    pub(crate) id: String,
    pub(crate) status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<i32>,
    pub(crate) bundle: PathBuf,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// The hooks of one point in a life.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Phase {
    /// Its name in config.json.
    name: &'static str,
    hooks: Vec<Hook>,
    state: State,
    /// Otherwise that of the caller.
    cwd: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
#[error("hooks.{phase}[{index}]: {path:?}: {reason}")]
pub(crate) struct HookError {
    phase: &'static str,
    index: usize,
    path: PathBuf,
    reason: String,
}

fn some(list: Option<&Option<Vec<Hook>>>) -> Option<&Vec<Hook>> {
    list.and_then(Option::as_ref).filter(|list| !list.is_empty())
}

/// Puts the hooks that a container's first process runs, or waits for, into its plan.
pub(crate) fn weave(hooks: &Hooks, state: &State, plan: &mut Plan) {
    #[allow(deprecated)]
    let outside = [hooks.prestart(), hooks.create_runtime()];
    let mut steps = Vec::new();
    if outside.into_iter().any(|list| some(Some(list)).is_some()) {
        steps.push(Step::RuntimeHooks);
    }
    if let Some(list) = some(Some(hooks.create_container())) {
        let (name, cwd) = ("createContainer", Some(state.bundle.clone()));
        let phase = Phase { name, hooks: list.clone(), state: state.clone(), cwd };
        steps.push(Step::ContainerHooks(phase));
    }
    let leaves = |step: &Step| matches!(step, Step::Pivot | Step::MoveRoot | Step::ChangeRoot);
    let pivot = plan.steps.iter().position(leaves);
    let pivot = pivot.unwrap_or(plan.steps.len());
    plan.steps.splice(pivot..pivot, steps);
    if let Some(list) = some(Some(hooks.start_container())) {
        let state = State { status: "created", ..state.clone() };
        let phase = Phase { name: "startContainer", hooks: list.clone(), state, cwd: None };
        plan.process.hooks = Some(Rc::new(phase));
    }
}

/// Runs prestart and createRuntime hooks.
pub(crate) fn create_runtime(hooks: &Hooks, state: &State) -> Result<(), HookError> {
    #[allow(deprecated)]
    let phases = [("prestart", hooks.prestart()), ("createRuntime", hooks.create_runtime())];
    phases.into_iter().try_for_each(|(name, list)| match some(Some(list)) {
        Some(list) => outside(name, list, state).run(),
        None => Ok(()),
    })
}

/// Runs poststart hooks.
pub(crate) fn poststart(hooks: &Hooks, state: &State) -> Result<(), HookError> {
    some(Some(hooks.poststart())).map_or(Ok(()), |list| outside("poststart", list, state).run())
}

/// Runs poststop hooks; each failure is a warning.
pub(crate) fn poststop(hooks: &Hooks, state: &State) -> Vec<HookError> {
    let list = some(Some(hooks.poststop()));
    list.map_or_else(Vec::new, |list| outside("poststop", list, state).run_all())
}

fn outside(name: &'static str, hooks: &[Hook], state: &State) -> Phase {
    let cwd = Some(state.bundle.clone());
    Phase { name, hooks: hooks.to_vec(), state: state.clone(), cwd }
}

impl Phase {
    /// With the pid of the calling process, as it sees itself: for those that run in the container.
    pub(crate) fn run_inside(&self) -> Result<(), HookError> {
        let state = State { pid: Some(std::process::id() as i32), ..self.state.clone() };
        Phase { state, ..self.clone() }.run()
    }

    /// In order; the first failure ends it.
    fn run(&self) -> Result<(), HookError> {
        self.hooks.iter().enumerate().try_for_each(|(index, hook)| self.one(index, hook))
    }

    fn run_all(&self) -> Vec<HookError> {
        let hooks = self.hooks.iter().enumerate();
        hooks.filter_map(|(index, hook)| self.one(index, hook).err()).collect()
    }

    fn one(&self, index: usize, hook: &Hook) -> Result<(), HookError> {
        let point = fault::point(format_args!("run hooks.{}[{index}]", self.name));
        let done = point.map_err(|error| sys::reason(&error));
        done.and_then(|()| execute(hook, &self.state, self.cwd.as_deref())).map_err(|reason| {
            let path = hook.path().clone();
            HookError { phase: self.name, index, path, reason }
        })
    }
}

fn execute(hook: &Hook, state: &State, cwd: Option<&Path>) -> Result<(), String> {
    let because = |error: io::Error| sys::reason(&error);
    let (output, writer) = io::pipe().map_err(because)?;
    let mut command = command(hook, cwd);
    command.stdin(on_stdin(state).map_err(because)?);
    command.stderr(writer.try_clone().map_err(because)?).stdout(writer);
    let child = command.spawn().map_err(because)?;
    // It keeps our copies of the pipe's writing end.
    drop(command);
    let timeout = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
    let mut running = Running { child, output, shown: Vec::new() };
    match running.wait(timeout.map(Duration::from_secs)).map_err(because)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(running.told(&ended(status))),
        None => Err(running.told(&format!("killed after {} s", timeout.unwrap_or_default()))),
    }
}

fn command(hook: &Hook, cwd: Option<&Path>) -> Command {
    let mut command = Command::new(hook.path());
    let args = hook.args().as_deref().unwrap_or_default();
    if let Some((name, rest)) = args.split_first() {
        command.arg0(name).args(rest);
    }
    command.process_group(0);
    if let Some(list) = hook.env() {
        command.env_clear();
        command.envs(list.iter().map(|entry| entry.split_once('=').unwrap_or((entry, ""))));
    }
    if let Some(cwd) = cwd {
        command.current_dir(cwd);
    }
    // What our caller has open is for the container's program at most.
    sys::as_stranger(&mut command);
    command
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, signal) => format!("killed by signal {}", signal.unwrap_or_default()),
    }
}

/// A file, since a hook may leave it unread or read it to its end.
fn on_stdin(state: &State) -> io::Result<Stdio> {
    let mut file = File::from(memfd_create(c"state", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(state).unwrap_or_default())?;
    file.rewind()?;
    Ok(OwnedFd::from(file).into())
}

struct Running {
    child: Child,
    output: PipeReader,
    shown: Vec<u8>,
}

impl Running {
    /// `None` when it took too long.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Option<ExitStatus>> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let process = pidfd::open(self.child.id() as i32)?;
        let mut open = true;
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let wait = left.map_or(PollTimeout::NONE, |left| {
                PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
            });
            let mut events = [
                PollFd::new(process.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.output.as_fd(), PollFlags::POLLIN),
            ];
            let watched = if open { 2 } else { 1 };
            match poll(&mut events[..watched], wait) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let (has_ended, has_output) = (ready(&events[0]), ready(&events[1]));
            if open && has_output {
                // Before the end is looked at: what it printed last is the reason.
                open = self.read()?;
            } else if has_ended {
                return self.child.wait().map(Some);
            } else if left.is_some_and(|left| left.is_zero()) {
                let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
                self.child.wait()?;
                return Ok(None);
            }
        }
    }

    /// Whether there may be more.
    fn read(&mut self) -> io::Result<bool> {
        let mut bytes = [0u8; 4096];
        let length = self.output.read(&mut bytes)?;
        let room = SHOWN.saturating_sub(self.shown.len());
        self.shown.extend(&bytes[..length.min(room)]);
        Ok(length > 0)
    }

    fn told(&self, what: &str) -> String {
        match String::from_utf8_lossy(&self.shown).trim() {
            "" => what.to_owned(),
            text => format!("{what}: {text:?}"),
        }
    }
}

fn ready(fd: &PollFd<'_>) -> bool {
    fd.revents().is_some_and(|events| !events.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn state() -> State {
        let annotations = BTreeMap::from([("a".to_owned(), "x".repeat(100_000))]);
        let (id, bundle) = ("c".to_owned(), PathBuf::from("/"));
        State { oci_version: "1.0.0", id, status: "creating", pid: Some(7), bundle, annotations }
    }

    fn run(script: &str, more: Value) -> Result<(), String> {
        let mut hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script]});
        hook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let list = vec![serde_json::from_value(hook).unwrap()];
        outside("prestart", &list, &state()).run().map_err(|error| error.to_string())
    }

    #[test]
    fn a_hook_reads_the_whole_state_or_none_of_it() {
        run("test $(/usr/bin/wc -c) -gt 100000", json!({})).unwrap();
        run("exec <&-", json!({})).unwrap();
    }

    #[test]
    fn a_hook_has_its_own_environment_only() {
        run("test \"$A\" = 'b=c' && test -z \"$HOME$CARGO\"", json!({"env": ["A=b=c"]})).unwrap();
    }

    #[test]
    fn output_cannot_forge_a_line() {
        let error = run("echo one; printf '\\nlevel=error\\033[0m' >&2; exit 3", json!({}));
        let error = error.unwrap_err();
        assert!(
            error.starts_with("hooks.prestart[0]: \"/bin/sh\": exited with 3: \"one\\n"),
            "{error}"
        );
        assert!(!error.contains(['\n', '\x1b']), "{error}");
        let flood = run("/usr/bin/head -c 1000000 /dev/zero; exit 1", json!({})).unwrap_err();
        assert!(flood.len() < 5 * SHOWN, "{}", flood.len());
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed_with_its_children() {
        let begun = Instant::now();
        let error = run("sleep 1000 & sleep 1000", json!({"timeout": 1})).unwrap_err();
        assert!(error.ends_with("killed after 1 s"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(100));
    }

    #[test]
    fn a_daemon_that_holds_the_output_is_not_waited_for() {
        let begun = Instant::now();
        run("/bin/sleep 3 &", json!({})).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn a_missing_hook_is_named() {
        let error = run("", json!({"path": "/no/such"})).unwrap_err();
        assert_eq!(error, "hooks.prestart[0]: \"/no/such\": no such file or directory");
    }
}
