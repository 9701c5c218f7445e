//! `exec`.

use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxNamespaceType,
    Process, Spec,
};
use serde_json::{Value, json};

use super::attend::Attendant;
use super::console::Console;
use super::flags::{ANY, Command, Flag, Given};
use super::state::{Saved, Status};
use super::{CliError, Context, create as birth, foreground, message};
use crate::bounded;
use crate::create::{self, Bond, Preserved};
use crate::lsm::Labels;
use crate::oci;
use crate::plan::{Confinement, ProcessPlan};
use crate::shield;
use crate::sys::process as sys;

/// The largest file with a process, in bytes.
const MAX_PROCESS: u64 = 8 << 20;

pub(super) static COMMAND: Command = Command {
    name: "exec",
    about: "run one more process in a running container",
    operands: "<container-id> <command>… (no command with --process)",
    count: (1, ANY),
    verbatim: true,
    flags: &[
        Flag::value("process", "FILE", "the process as JSON, instead of a command").or('p'),
        Flag::value("cwd", "DIR", "working directory"),
        Flag::value("env", "NAME=value", "added to the container's environment").or('e'),
        Flag::switch("tty", "give it a terminal").or('t'),
        Flag::value("user", "UID[:GID]", "who executes it").or('u'),
        Flag::value("additional-gids", "GID", "one more group").or('g'),
        Flag::value("cap", "CAPABILITY", "one more capability").or('c'),
        Flag::switch("no-new-privs", "it cannot gain privileges"),
        Flag::value("apparmor", "PROFILE", "its AppArmor profile"),
        Flag::value("process-label", "LABEL", "its SELinux label"),
        Flag::switch("detach", "do not wait for it").or('d'),
        Flag::value("pid-file", "FILE", "write its pid to it"),
        Flag::value("console-socket", "SOCKET", "receives the master of its terminal"),
        Flag::value("preserve-fds", "N", "hand through this many descriptors from number 3 on"),
        Flag::value("cgroup", "PATH", "a cgroup below the container's that is there already"),
        Flag::switch("ignore-paused", "also in a paused container (it waits)"),
    ],
    run: |context, mut given| {
        let protect = || CliError::io("protect our program");
        if let Some(mount) = shield::raise().map_err(protect())? {
            return Err(protect()(shield::start_again(&mount)));
        }
        exec(context, &ExecArgs::read(&mut given)?)
    },
    failure: 255,
};

#[derive(Debug)]
struct ExecArgs {
    id: String,
    process: Option<PathBuf>,
    command: Vec<String>,
    change: Change,
    detach: bool,
    pid_file: Option<PathBuf>,
    console_socket: Option<PathBuf>,
    preserved: Preserved,
    cgroup: Option<PathBuf>,
    ignore_paused: bool,
}

/// What is different from the container's own process.
#[derive(Debug, Default)]
struct Change {
    terminal: bool,
    cwd: Option<PathBuf>,
    env: Vec<String>,
    user: Option<(u32, Option<u32>)>,
    groups: Vec<u32>,
    capabilities: Vec<String>,
    no_new_privileges: bool,
    apparmor: Option<String>,
    label: Option<String>,
}

impl ExecArgs {
    fn read(given: &mut Given) -> Result<ExecArgs, CliError> {
        // First of all: nothing else may have been opened.
        let preserved = Preserved::asked(given.number("preserve-fds")?.unwrap_or(0))
            .map_err(CliError::io("--preserve-fds"))?;
        let groups = given.texts("additional-gids")?;
        let change = Change {
            terminal: given.has("tty"),
            cwd: given.path("cwd"),
            env: given.texts("env")?,
            user: given.text("user")?.map(|text| user(&text)).transpose()?,
            groups: groups
                .iter()
                .map(|text| number(text, "additional-gids"))
                .collect::<Result<_, _>>()?,
            capabilities: given.texts("cap")?,
            no_new_privileges: given.has("no-new-privs"),
            apparmor: given.text("apparmor")?,
            label: given.text("process-label")?,
        };
        Ok(ExecArgs {
            id: given.operand()?,
            process: given.path("process"),
            command: given.rest()?,
            change,
            detach: given.has("detach"),
            pid_file: given.path("pid-file"),
            console_socket: given.path("console-socket"),
            preserved,
            cgroup: given.path("cgroup"),
            ignore_paused: given.has("ignore-paused"),
        })
    }
}

fn user(text: &str) -> Result<(u32, Option<u32>), CliError> {
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (uid, Some(number(gid, "user")?)),
        None => (text, None),
    };
    Ok((number(uid, "user")?, gid))
}

fn number(text: &str, flag: &str) -> Result<u32, CliError> {
    text.parse().map_err(|_| CliError::Message(format!("--{flag} {text:?}: must be a number")))
}

/// The exit code is the process'.
fn exec(context: &Context, args: &ExecArgs) -> Result<u8, CliError> {
    let saved = context.store.load(&args.id)?;
    let status = context.store.status(&saved);
    let fine = status == Status::Running || (status == Status::Paused && args.ignore_paused);
    let Some(init) = saved.process().filter(|_| fine) else {
        return message(format!("cannot exec in a {} container", status.name()));
    };
    let path = context.store.config(&saved);
    // The warnings have been told at its creation.
    let (spec, _) = oci::parse_leniently(&oci::read(&path)?, path)?;
    let (process, warnings) = process(&spec, args)?;
    warnings.iter().for_each(|text| context.log.warning(text));
    oci::check_process(&process, "process")?;
    let mut plan = ProcessPlan::of(&process, "process")?;
    if !has_users(&spec) {
        birth::warn_of_capabilities(context, &plan)?;
    }
    if let Some(linux) = spec.linux() {
        plan.confinement = Confinement::of(linux)?;
    }
    if let Some(first) = spec.process() {
        plan.labels = plan.labels.or(&Labels::of(first));
    }
    args.preserved.give(&mut plan);
    plan.keyring = create::session_keyring(&saved.id).filter(|_| saved.own_keyring);
    let terminal = plan.terminal.is_some();
    let mut console = Console::choose(terminal, args.detach, args.console_socket.clone())?;
    console.fit(&mut plan);
    let cgroup = cgroup(&saved, args)?;
    let signals = foreground::signals()?;
    let streams = [0, 1, 2].map(sys::borrow);
    context.log.debug(|| format!("exec in {:?}: {:?}", args.id, plan.args));
    let init = (saved.pid, init.as_fd());
    let new = create::enter_at(&plan, Bond::Independent, init, &cgroup, streams)?;
    let state = saved.hook_state("running", Some(saved.pid));
    let attendant = Attendant {
        process: new.child.pidfd.as_fd(),
        console: &mut console,
        state: &state,
        hooks: None,
        listener: plan.confinement.listener(),
        pid: new.child.pid,
    };
    attendant.hear_executed(&new.channel)?;
    birth::write_pid(args.pid_file.as_deref(), new.child.pid)?;
    if args.detach { Ok(0) } else { foreground::wait(&new, &signals, console) }
}

/// The container's cgroup, or the one below it that `--cgroup` names.
fn cgroup(saved: &Saved, args: &ExecArgs) -> Result<PathBuf, CliError> {
    let Some(wanted) = &args.cgroup else { return Ok(saved.cgroup.clone()) };
    let below = wanted.strip_prefix("/").unwrap_or(wanted);
    let plain = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
    if !plain(below) || below.to_string_lossy().contains(':') {
        return message(format!(
            "--cgroup {wanted:?}: must be a path below the container's cgroup"
        ));
    }
    Ok(saved.cgroup.join(below))
}

fn has_users(spec: &Spec) -> bool {
    let mut namespaces = spec.linux().iter().filter_map(|linux| linux.namespaces().as_ref());
    namespaces.any(|list| list.iter().any(|item| item.typ() == LinuxNamespaceType::User))
}

/// The process to run: a file, or the container's own with what the arguments change; and what is left out of it.
fn process(spec: &Spec, args: &ExecArgs) -> Result<(Process, Vec<String>), CliError> {
    if let Some(path) = &args.process {
        let text =
            bounded::read(path, MAX_PROCESS).map_err(CliError::io(format!("read {path:?}")))?;
        let (mut process, warnings) = parse(&text).map_err(|(field, error)| {
            CliError::Message(format!("parse {path:?}: {field}: {error}"))
        })?;
        if process.exec_cpu_affinity().is_none() {
            let own = spec.process().as_ref();
            process.set_exec_cpu_affinity(own.and_then(|own| own.exec_cpu_affinity().clone()));
        }
        return Ok((process, warnings));
    }
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(args.command.clone()));
    change(&mut process, &args.change)?;
    Ok((process, Vec::new()))
}

/// A process whose user is root if it names none.
fn parse(text: &[u8]) -> Result<(Process, Vec<String>), (String, serde_json::Error)> {
    let mut value: Value = serde_json::from_slice(text).map_err(|error| (".".to_owned(), error))?;
    if let Some(fields) = value.as_object_mut() {
        fields.entry("user").or_insert_with(|| json!({"uid": 0, "gid": 0}));
    }
    let warnings = oci::drop_unknown_capabilities(&mut value);
    serde_path_to_error::deserialize(value)
        .map(|process| (process, warnings))
        .map_err(|error| (error.path().to_string(), error.into_inner()))
}

fn change(process: &mut Process, change: &Change) -> Result<(), CliError> {
    process.set_terminal(Some(change.terminal));
    if let Some(cwd) = &change.cwd {
        process.set_cwd(cwd.clone());
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(change.env.iter().cloned());
    process.set_env(Some(env));
    if let Some((uid, gid)) = change.user {
        process.user_mut().set_uid(uid);
        if let Some(gid) = gid {
            process.user_mut().set_gid(gid);
        }
    }
    if !change.groups.is_empty() {
        let mut groups = process.user().additional_gids().clone().unwrap_or_default();
        groups.extend(&change.groups);
        process.user_mut().set_additional_gids(Some(groups));
    }
    if change.no_new_privileges {
        process.set_no_new_privileges(Some(true));
    }
    if change.apparmor.is_some() {
        process.set_apparmor_profile(change.apparmor.clone());
    }
    if change.label.is_some() {
        process.set_selinux_label(change.label.clone());
    }
    add_capabilities(process, &change.capabilities)
}

/// Not to the inheritable set (CVE-2022-29162), and so not to the ambient one, which needs it.
fn add_capabilities(process: &mut Process, names: &[String]) -> Result<(), CliError> {
    if names.is_empty() {
        return Ok(());
    }
    let parse = |name: &String| {
        let upper = name.to_uppercase();
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        serde_json::from_value::<Capability>(full.into())
            .map_err(|_| CliError::Message(format!("--cap {name:?}: no such capability")))
    };
    let more = names.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let own = process.capabilities().as_ref();
    let with = |set: Option<&Option<Capabilities>>| {
        let old = set.into_iter().flatten().flatten();
        Some(old.chain(&more).copied().collect::<Capabilities>())
    };
    let sets = LinuxCapabilitiesBuilder::default()
        .bounding(with(own.map(LinuxCapabilities::bounding)).unwrap_or_default())
        .effective(with(own.map(LinuxCapabilities::effective)).unwrap_or_default())
        .permitted(with(own.map(LinuxCapabilities::permitted)).unwrap_or_default())
        .inheritable(own.and_then(|sets| sets.inheritable().clone()).unwrap_or_default())
        .ambient(own.and_then(|sets| sets.ambient().clone()).unwrap_or_default())
        .build()
        .map_err(|error| CliError::Message(format!("--cap: {error}")))?;
    process.set_capabilities(Some(sets));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(process: serde_json::Value, wanted: Change) -> serde_json::Value {
        let mut process: Process = serde_json::from_value(process).unwrap();
        change(&mut process, &wanted).unwrap();
        serde_json::to_value(process).unwrap()
    }

    fn plain() -> serde_json::Value {
        json!({"user": {"uid": 7, "gid": 8}, "cwd": "/", "args": ["a"], "env": ["A=1"]})
    }

    #[test]
    fn without_flags_it_is_the_containers_own() {
        let process = changed(plain(), Change::default());
        assert_eq!(process["user"], json!({"uid": 7, "gid": 8}));
        assert_eq!(process["env"], json!(["A=1"]));
        assert!(process.get("capabilities").is_none_or(serde_json::Value::is_null));
    }

    #[test]
    fn capabilities_come_on_top_and_are_never_inheritable() {
        let mut process = plain();
        process["capabilities"] = json!({"bounding": ["CAP_KILL"], "inheritable": []});
        let wanted = Change {
            capabilities: vec!["sys_admin".into(), "CAP_CHOWN".into()],
            ..Change::default()
        };
        let sets = changed(process, wanted)["capabilities"].clone();
        assert_eq!(sets["bounding"].as_array().unwrap().len(), 3);
        assert_eq!(sets["effective"].as_array().unwrap().len(), 2);
        assert_eq!(sets["inheritable"], json!([]));
        let wrong = Change { capabilities: vec!["x".into()], ..Change::default() };
        let mut process: Process = serde_json::from_value(plain()).unwrap();
        assert!(change(&mut process, &wrong).is_err());
    }

    #[test]
    fn a_user_without_group_keeps_the_containers() {
        let wanted =
            Change { user: Some(user("5").unwrap()), groups: vec![9], ..Change::default() };
        assert_eq!(
            changed(plain(), wanted)["user"],
            json!({"uid": 5, "gid": 8, "additionalGids": [9]})
        );
        assert_eq!(user("5:6").unwrap(), (5, Some(6)));
        for bad in ["", "root", "5:", "-1", "4294967296"] {
            assert!(user(bad).is_err(), "{bad:?}");
        }
    }
}
