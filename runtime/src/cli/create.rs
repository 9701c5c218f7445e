//! `create`, `start` and `run`.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Spec};

use super::attend::Attendant;
use super::cgroups::Claimed;
use super::console::Console;
use super::flags::{Command, Flag, Given, ID};
use super::state::{Lock, Released, Saved, Status, start_time};
use super::{CliError, Context, cgroups, foreground, manage, message};
use crate::create::{self, Birth, Bond, Preserved};
use crate::hooks::{self, State};
use crate::plan::{ProcessPlan, Step};
use crate::supervisor::time;
use crate::sys::{creds, process as sys};
use crate::wire::Rootfs;
use crate::{fault, oci, plan, shield};

const BUNDLE: Flag = Flag::value("bundle", "DIR", "where config.json is (default: here)").or('b');
const PID_FILE: Flag = Flag::value("pid-file", "FILE", "write the first process' pid to it");
const CONSOLE_SOCKET: Flag =
    Flag::value("console-socket", "SOCKET", "receives the master of the container's terminal");
const PRESERVE_FDS: Flag =
    Flag::value("preserve-fds", "N", "hand through this many descriptors from number 3 on");
const NO_PIVOT: Flag = Flag::switch("no-pivot", "move the root instead of pivoting (ramdisks)");
const NO_NEW_KEYRING: Flag =
    Flag::switch("no-new-keyring", "leave the container in our session keyring");

pub(super) static CREATE: Command = Command {
    name: "create",
    about: "make a container whose program waits for start",
    operands: ID,
    count: (1, 1),
    verbatim: false,
    flags: &[BUNDLE, PID_FILE, CONSOLE_SOCKET, PRESERVE_FDS, NO_PIVOT, NO_NEW_KEYRING],
    run: |context, mut given| {
        create(context, &CreateArgs::read(&mut given)?)?;
        Ok(0)
    },
    failure: 1,
};

pub(super) static START: Command = Command {
    name: "start",
    about: "execute the program of a created container",
    operands: ID,
    count: (1, 1),
    verbatim: false,
    flags: &[],
    run: |context, mut given| start(context, &given.operand()?).map(|()| 0),
    failure: 1,
};

pub(super) static RUN: Command = Command {
    name: "run",
    about: "make a container, run it to its end, and remove it",
    operands: ID,
    count: (1, 1),
    verbatim: false,
    flags: &[
        BUNDLE,
        PID_FILE,
        CONSOLE_SOCKET,
        PRESERVE_FDS,
        NO_PIVOT,
        NO_NEW_KEYRING,
        Flag::switch("detach", "leave it running").or('d'),
        Flag::switch("keep", "do not remove it after its end"),
        Flag::switch("no-subreaper", "accepted: we never become one"),
    ],
    run: |context, mut given| {
        let (detach, keep) = (given.has("detach"), given.has("keep"));
        run(context, &CreateArgs::read(&mut given)?, detach, keep)
    },
    failure: 1,
};

#[derive(Debug)]
struct CreateArgs {
    id: String,
    bundle: PathBuf,
    pid_file: Option<PathBuf>,
    console_socket: Option<PathBuf>,
    preserved: Preserved,
    no_pivot: bool,
    own_keyring: bool,
}

impl CreateArgs {
    fn read(given: &mut Given) -> Result<CreateArgs, CliError> {
        // First of all: nothing else may have been opened.
        let preserved = Preserved::with_activation(given.number("preserve-fds")?.unwrap_or(0))
            .map_err(CliError::io("--preserve-fds"))?;
        Ok(CreateArgs {
            id: given.operand()?,
            bundle: given.path("bundle").unwrap_or_else(|| ".".into()),
            pid_file: given.path("pid-file"),
            console_socket: given.path("console-socket"),
            preserved,
            no_pivot: given.has("no-pivot"),
            own_keyring: !given.has("no-new-keyring"),
        })
    }
}

fn create(context: &Context, args: &CreateArgs) -> Result<Saved, CliError> {
    let store = &context.store;
    let _lock = store.reserve(&args.id)?;
    let socket = store.start_socket(&args.id);
    let listener = fault::point("listen at the start socket")
        .and_then(|()| create::listen(&socket))
        .map_err(CliError::io(format!("listen at {socket:?}")));
    let made = listener.and_then(|socket| make(context, args, Bond::Socket(socket.as_fd()), true));
    if made.is_err() {
        // The first error is the one to tell.
        let _ = store.remove(&args.id);
    }
    made.map(|(saved, ..)| saved)
}

/// The name is reserved. Whatever fails, no process and no cgroup is left.
fn make(
    context: &Context,
    args: &CreateArgs,
    bond: Bond<'_>,
    detached: bool,
) -> Result<(Saved, Birth, Console), CliError> {
    fault("load the bundle")?;
    let bundle = fs::canonicalize(&args.bundle)
        .map_err(CliError::io(format!("open the bundle {:?}", args.bundle)))?;
    let path = bundle.join("config.json");
    let text = oci::read(&path)?;
    let (spec, warnings) = oci::parse_leniently(&text, path)?;
    warnings.iter().for_each(|text| context.log.warning(text));
    let mut plan = plan::plan(&spec, &Rootfs::Bundle, &bundle)?;
    if !plan.has_users() {
        warn_of_capabilities(context, &plan.process)?;
    }
    if plan.unshare & libc::CLONE_NEWPID == 0 {
        shield(context, &args.id)?;
    }
    shield::remember_own_program();
    args.preserved.give(&mut plan.process);
    adapt(&mut plan, args);
    let terminal = plan.process.terminal.is_some();
    let mut console = Console::choose(terminal, detached, args.console_socket.clone())?;
    console.fit(&mut plan.process);
    let place = cgroups::place(context.cgroups, &spec, &args.id)?;
    cgroups::tell_ignored_properties(context, &spec);
    let cgroup = place.cgroup.clone();
    let mut saved = saved(args, bundle, &spec, &cgroup);
    saved.listener = plan.process.confinement.listener().cloned();
    saved.mounts = plan.lasting_mounts();
    if let Some(hooks) = &saved.hooks {
        hooks::weave(hooks, &saved.hook_state("creating", None), &mut plan);
    }
    tell_plan(context, &args.id, &plan, &cgroup);
    fault("keep the config")?;
    context.store.keep_config(&args.id, &text)?;
    context.store.note_wanted_cgroup(&args.id, &cgroup)?;
    fault("make the cgroup")?;
    if let Some(unit) = place.unit() {
        context.store.note_unit(&args.id, unit)?;
    }
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let mut claimed = place.claim(&args.id, resources)?;
    let noted = fault("note that the cgroup is ours")
        .and_then(|()| context.store.note_claimed_cgroup(&args.id));
    let born = noted.and_then(|()| begin(context, resources, &plan, &mut claimed, bond));
    let done = born.and_then(|birth| {
        // Written while the new process is at work, but seen only when it is ready: before, an exec would land
        // on the host's root.
        saved.pid = birth.child.pid;
        saved.start_time = start_time(saved.pid).unwrap_or_default();
        context.store.prepare(&saved)?;
        fault("hear from the first process")?;
        let state = saved.hook_state("creating", Some(saved.pid));
        let process = birth.child.pidfd.as_fd();
        attendant(&saved, process, &state, &mut console).hear_ready(&birth.channel)?;
        fault("save the state")?;
        context.store.publish(&saved.id)?;
        fault("write the pid file")?;
        write_pid(args.pid_file.as_deref(), saved.pid)?;
        Ok(birth)
    });
    match done {
        Ok(birth) => Ok((saved, birth, console)),
        Err(error) => {
            let _ = cgroups::remove(&context.store, &args.id, &cgroup);
            create::unmount(&saved.rootfs, &saved.mounts);
            if saved.pid != 0 {
                manage::run_poststop(context, &saved);
            }
            Err(error)
        }
    }
}

/// What nobody can grant is not worth a failure (config.md#linux-process).
pub(super) fn warn_of_capabilities(
    context: &Context,
    process: &ProcessPlan,
) -> Result<(), CliError> {
    let available = creds::permitted().map_err(CliError::io("read our capabilities"))?;
    for name in process.capabilities.beyond(available) {
        context.log.warning(&format!("process.capabilities: {name}: not ours to give, left out"));
    }
    Ok(())
}

/// What the command line asks for beside config.json.
fn adapt(plan: &mut plan::Plan, args: &CreateArgs) {
    if args.no_pivot {
        plan.without_pivot();
    }
    plan.steps.push(Step::LookForProgram);
    if args.own_keyring {
        plan.process.keyring = create::session_keyring(&args.id);
    }
}

/// The container joins processes that may be after our program.
fn shield(context: &Context, id: &str) -> Result<(), CliError> {
    let protect = || CliError::io("protect our program");
    let Some(mount) = shield::raise().map_err(protect())? else { return Ok(()) };
    // The name is all that has been taken; the program that starts again takes it again.
    context.store.remove(id)?;
    Err(protect()(shield::start_again(&mount)))
}

fn tell_plan(context: &Context, id: &str, plan: &plan::Plan, cgroup: &Path) {
    context.log.debug(|| format!("create {id:?}: cgroup {cgroup:?}"));
    for step in &plan.steps {
        context.log.debug(|| format!("create {id:?}: step: {step}"));
    }
}

/// The process is not there yet.
fn saved(args: &CreateArgs, bundle: PathBuf, spec: &Spec, cgroup: &Path) -> Saved {
    let root = spec.root().as_ref().map(|root| bundle.join(root.path()));
    let annotations = spec.annotations().iter().flatten();
    Saved {
        id: args.id.clone(),
        rootfs: root.unwrap_or_default(),
        mounts: Vec::new(),
        bundle,
        pid: 0,
        start_time: 0,
        cgroup: cgroup.to_owned(),
        created: time::rfc3339(time::now()),
        owner: nix::unistd::geteuid().as_raw(),
        own_keyring: args.own_keyring,
        annotations: annotations.map(|(key, value)| (key.clone(), value.clone())).collect(),
        listener: None,
        hooks: spec.hooks().clone(),
    }
}

fn begin(
    context: &Context,
    resources: Option<&LinuxResources>,
    plan: &plan::Plan,
    claimed: &mut Claimed,
    bond: Bond<'_>,
) -> Result<Birth, CliError> {
    fault("write the limits")?;
    claimed.furnish(&context.log, resources)?;
    let cgroup = &claimed.cgroup;
    let directory = File::open(cgroup).map_err(CliError::io(format!("open {cgroup:?}")))?;
    let streams = [0, 1, 2].map(sys::borrow);
    fault("begin the first process")?;
    let birth = create::launch(plan, bond, Some(directory.as_fd()), streams)?;
    claimed.settle(resources)?;
    Ok(birth)
}

pub(super) fn fault(point: &str) -> Result<(), CliError> {
    fault::point(point).map_err(CliError::io(point))
}

/// Whole or not at all: others wait for it to appear.
pub(super) fn write_pid(path: Option<&Path>, pid: i32) -> Result<(), CliError> {
    let Some(path) = path else { return Ok(()) };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.{pid}"));
    fs::write(&new, pid.to_string())
        .and_then(|()| fs::rename(&new, path))
        .map_err(CliError::io(format!("write pid file {path:?}")))
}

fn start(context: &Context, id: &str) -> Result<(), CliError> {
    let lock = context.store.lock(id)?;
    let saved = context.store.load(id)?;
    match context.store.status(&saved) {
        Status::Created => {}
        Status::Stopped => return message("cannot start a container that has stopped"),
        _ => return message("cannot start an already running container"),
    }
    let socket = context.store.start_socket(id);
    let reach = || CliError::io(format!("reach container {id:?}"));
    fault("connect to the start socket")?;
    let channel = create::connect(&socket).map_err(reach())?;
    fault("let the program be executed")?;
    channel.go().map_err(reach())?;
    fault("remove the start socket")?;
    // Whatever comes now, it is not waiting any more.
    let _ = fs::remove_file(&socket);
    fault("hear that the program is executed")?;
    let process = saved.process();
    let process = process.as_ref().map_or(channel.as_fd(), AsFd::as_fd);
    let state = saved.hook_state("creating", Some(saved.pid));
    attendant(&saved, process, &state, &mut Console::None).hear_executed(&channel)?;
    let told = run_poststart(&saved);
    if told.is_err() {
        // The first error is the one to tell.
        let _ = manage::forget(context, &saved, lock.release()?);
    }
    told
}

fn attendant<'a>(
    saved: &'a Saved,
    process: BorrowedFd<'a>,
    state: &'a State,
    console: &'a mut Console,
) -> Attendant<'a> {
    let (hooks, listener) = (saved.hooks.as_ref(), saved.listener.as_ref());
    Attendant { process, console, state, hooks, listener, pid: saved.pid }
}

/// The program runs. A failure ends the container as `delete` does: so runtime.md#lifecycle since 1.3 (before, it was
/// only a warning).
fn run_poststart(saved: &Saved) -> Result<(), CliError> {
    let Some(hooks) = &saved.hooks else { return Ok(()) };
    Ok(hooks::poststart(hooks, &saved.hook_state("running", Some(saved.pid)))?)
}

/// The exit code is the container's.
fn run(context: &Context, args: &CreateArgs, detach: bool, keep: bool) -> Result<u8, CliError> {
    if detach {
        create(context, args)?;
        let started = start(context, &args.id);
        if started.is_err() {
            let _ = manage::delete(context, &args.id, true);
        }
        return started.map(|()| 0);
    }
    let lock = context.store.reserve(&args.id)?;
    let begun = foreground::signals().and_then(|signals| {
        let made = make(context, args, Bond::Independent, false)?;
        Ok((signals, made))
    });
    let (signals, (saved, birth, console)) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            // It is undone but for the name, and its poststop hooks have run.
            let _ = context.store.remove(&args.id);
            return Err(error);
        }
    };
    match run_on(&saved, &birth, lock, |birth| foreground::wait(birth, &signals, console)) {
        Ok((code, _)) if keep => Ok(code),
        Ok((code, lock)) => {
            manage::forget(context, &saved, lock)?;
            Ok(code)
        }
        Err(error) => {
            let _ = manage::delete(context, &args.id, true);
            Err(error)
        }
    }
}

/// From the first process to its end.
fn run_on(
    saved: &Saved,
    birth: &Birth,
    lock: Lock,
    wait: impl FnOnce(&Birth) -> Result<u8, CliError>,
) -> Result<(u8, Released), CliError> {
    fault("let the program be executed")?;
    birth.channel.go().map_err(CliError::io("start the container"))?;
    let state = saved.hook_state("creating", Some(saved.pid));
    let process = birth.child.pidfd.as_fd();
    attendant(saved, process, &state, &mut Console::None).hear_executed(&birth.channel)?;
    run_poststart(saved)?;
    fault("wait for the first process")?;
    let lock = lock.release()?;
    Ok((wait(birth)?, lock))
}
