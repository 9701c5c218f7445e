//! The runtime interrupted at every step of create, start, run, exec and delete. Needs root, busybox-static and a debug
//! build.
//!
//! Nothing here lists the steps: a life in trace mode prints them (`runtime/src/fault.rs`), and each is then tried with
//! the runtime killed there, with the container's half-born process killed there, with both, and with an error there.
//! Whatever happened, `delete --force` leaves no process, cgroup, namespace, mount or file; after an error there is
//! nothing to remove in the first place; and who makes the container again is told what to do.
//!
//! Seen failing: without the note of the cgroup before the first process, the runtime killed at "save the state" left that
//! process; with the closed channel taken for "ready", `create` of a killed child succeeded; with the cgroup not removed after an
//! error, it was there. That namespaces are counted a living container shows each time.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::bundle::Bundle;
use common::fault::{Victim, is_stopped, kill, until};
use common::users::UserNamespace;
use serde_json::{Value, json};

/// The commands of one life.
const LIFE: [&str; 3] = ["create --bundle BUNDLE ID", "start ID", "delete --force ID"];

/// From here on, in such a life, there is a container.
const MADE: &str = "runtime: connect to the start socket";

struct Case {
    bundle: Bundle,
    cgroup: PathBuf,
    /// Processes of containers that were seen.
    pids: BTreeSet<i32>,
    /// Where the commands run, if not beside us.
    users: Option<UserNamespace>,
}

impl Case {
    fn new(name: &str) -> Case {
        let bundle = Bundle::new(name, &["/bin/sleep", "1000"]);
        bundle.configure(|config| {
            // Paths of every kind, so that every kind of step is there.
            config["root"]["readonly"] = true.into();
            config["linux"]["cgroupsPath"] = format!("/{}", bundle.id).into();
            config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "0"});
            config["process"]["rlimits"] =
                json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}]);
        });
        let cgroup = kobune_runtime::cgroup::detect().unwrap().path(&bundle.id);
        Case { bundle, cgroup, pids: BTreeSet::new(), users: None }
    }

    fn spawn(&self, words: &str, fault: &str) -> Child {
        // Appended to: a container that is created writes there while it is started.
        let file = |name: &str| {
            let path = self.bundle.directory.path().join(name);
            fs::File::options().append(true).create(true).open(path).unwrap()
        };
        let mut command = self.command(words);
        command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
        command.env("KOBUNE_FAULT", fault).spawn().unwrap()
    }

    fn command(&self, words: &str) -> Command {
        let command = self.bundle.command(&words.split_whitespace().collect::<Vec<_>>());
        match &self.users {
            Some(users) => users.wrap(&command),
            None => command,
        }
    }

    fn good(&self, words: &str) {
        let status = self.spawn(words, "").wait().unwrap();
        assert!(status.success(), "{words}: {}", self.stderr());
    }

    fn forget_stderr(&self) {
        let _ = fs::remove_file(self.bundle.directory.path().join("stderr"));
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.bundle.directory.path().join("stderr")).unwrap()
    }

    /// Runs a command to its end, or to the point where it or the container's process stops: then the pid of who
    /// stopped.
    fn until_stopped(&mut self, command: &mut Child) -> Option<i32> {
        until("the end or the fault point", || {
            // Looked at before the processes: who stopped is found even if the command ended meanwhile.
            let ended = command.try_wait().unwrap().is_some();
            let mut all = vec![command.id() as i32];
            all.extend(self.processes());
            let stopped = all.into_iter().find(|pid| is_stopped(*pid));
            match stopped {
                Some(pid) => Some(Some(pid)),
                None if ended => Some(None),
                None => None,
            }
        })
    }

    fn processes(&mut self) -> Vec<i32> {
        let pids = kobune_runtime::cgroup::processes(&self.cgroup).unwrap_or_default();
        self.pids.extend(&pids);
        pids
    }

    fn assert_nothing_left(&self, when: &str) {
        let state = self.bundle.directory.path().join("state");
        let left: Vec<_> =
            fs::read_dir(state).into_iter().flatten().flatten().map(|e| e.path()).collect();
        assert!(left.is_empty(), "{when}: {left:?} is left");
        assert!(!self.cgroup.exists(), "{when}: {:?} is left", self.cgroup);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours = self.bundle.directory.path().to_str().unwrap();
        assert!(!mounts.contains(ours), "{when}: a mount is left");
        for pid in &self.pids {
            // It leaves its cgroup a moment before it is dead.
            until(&format!("{when}: the end of process {pid}"), || {
                (!common::is_alive(*pid)).then_some(())
            });
        }
        for entry in fs::read_dir(self.bundle.directory.path()).unwrap().flatten() {
            let known = ["rootfs", "state", "config.json", "stdout", "stderr", "console.sock"];
            let name = entry.file_name();
            assert!(known.iter().any(|k| name == *k), "{when}: {name:?} was not there before");
        }
    }
}

/// All points of the commands, in the order in which they are passed.
fn points(case: &Case, commands: &[&str]) -> Vec<String> {
    case.forget_stderr();
    for words in commands {
        let status = case.spawn(words, "trace").wait().unwrap();
        assert!(status.success(), "{words}: {}", case.stderr());
    }
    let found = common::fault::points(&case.stderr());
    assert!(found.len() > 15, "a release build? {found:?}");
    found
}

/// Kills `victim` when the point is reached. False when these commands do not come there.
fn interrupt(case: &mut Case, commands: &[&str], point: &str, victim: Victim) -> bool {
    let when = format!("{victim:?} killed at {point:?}");
    case.forget_stderr();
    for words in commands {
        let mut command = case.spawn(words, &format!("stop:{point}"));
        let Some(stopped) = case.until_stopped(&mut command) else {
            assert!(command.wait().unwrap().success(), "{when}: {words}: {}", case.stderr());
            continue;
        };
        let children = case.processes();
        let runtime = command.id() as i32;
        if victim != Victim::Child {
            kill(runtime);
        }
        if victim != Victim::Runtime {
            children.iter().for_each(|pid| kill(*pid));
        }
        if victim == Victim::Child && stopped != runtime {
            // The runtime notices and fails, and `create` leaves nothing behind.
            let status =
                until(&format!("{when}: the end of {words}"), || command.try_wait().unwrap());
            if words.starts_with("create") {
                assert!(!status.success(), "{when}: {words} succeeded");
                case.assert_nothing_left(&when);
            }
        }
        kill(runtime);
        command.wait().unwrap();
        let create = commands.iter().find(|words| words.starts_with("create"));
        make_again(case, create.unwrap_or(&LIFE[0]), &when);
        case.good("delete --force ID");
        case.assert_nothing_left(&when);
        return true;
    }
    false
}

/// A second `create` works, or says what to do.
fn make_again(case: &mut Case, create: &str, when: &str) {
    case.forget_stderr();
    let status = case.spawn(create, "").wait().unwrap();
    let error = case.stderr();
    let told = error.contains("delete --force") || error.contains("already exists");
    assert!(status.success() || told, "{when}: create again: {error}");
    case.processes();
}

/// The commands with an error at `point`: the first that fails must say so.
fn fail(case: &mut Case, commands: &[&str], point: &str, made: bool) {
    let when = format!("an error at {point:?}");
    case.forget_stderr();
    for words in commands {
        let status = case.spawn(words, &format!("error:{point}")).wait().unwrap();
        case.processes();
        if !status.success() {
            let text = case.stderr();
            assert!(text.contains("fault at"), "{when}: {words}: {text}");
            // One that cannot be removed is kept: it can be tried again.
            if !made && !words.starts_with("delete") {
                case.assert_nothing_left(&when);
            }
            case.good("delete --force ID");
            case.assert_nothing_left(&when);
            return;
        }
    }
    // What comes when everything is gone is a warning.
    assert!(point.contains("hooks.poststop"), "{when}: all commands succeeded");
    assert!(case.stderr().contains("fault at"), "{when}: {}", case.stderr());
    case.assert_nothing_left(&when);
}

/// From the point `made` on there is a container; an error before leaves nothing of it.
fn try_all(case: &mut Case, points: &[String], commands: &[&str], made: &str) {
    let made = points.iter().position(|point| point == made).expect("the point is passed");
    for (at, point) in points.iter().enumerate() {
        fail(case, commands, point, at >= made);
        for victim in [Victim::Runtime, Victim::Child, Victim::Both] {
            let reached = interrupt(case, commands, point, victim);
            assert!(reached, "{point:?} was never reached");
        }
    }
}

#[test]
fn create_start_and_delete_at_every_step() {
    let mut case = Case::new("fault-life");
    let points = points(&case, &LIFE);
    case.assert_nothing_left("a whole life");
    try_all(&mut case, &points, &LIFE, MADE);
}

/// Points that a plain life does not have.
fn more_points(case: &mut Case, commands: &[&str]) -> Vec<String> {
    let plain = Case::new(&format!("{}-plain", case.bundle.id));
    let known = points(&plain, &LIFE);
    let mut all = points(case, commands);
    case.assert_nothing_left("a whole life");
    all.retain(|point| !known.contains(point) || point == MADE);
    all
}

#[test]
fn hooks_at_every_step() {
    let mut case = Case::new("fault-hooks");
    case.bundle.configure(|config| {
        for phase in [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        ] {
            let path = if phase == "startContainer" { "/bin/true" } else { "/usr/bin/true" };
            config["hooks"][phase] = json!([{"path": path}]);
        }
    });
    let points = more_points(&mut case, &LIFE);
    assert_eq!(points.iter().filter(|point| point.contains("run hooks.")).count(), 6, "{points:?}");
    try_all(&mut case, &points, &LIFE, MADE);
}

/// Somebody takes the terminals, and holds them.
fn console(case: &Case) -> String {
    let path = case.bundle.directory.path().join("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || listener.incoming().map_while(Result::ok).collect::<Vec<_>>());
    format!("create --console-socket {} --bundle BUNDLE ID", path.display())
}

#[test]
fn terminals_at_every_step() {
    let mut case = Case::new("fault-terminal");
    case.bundle.configure(|config| config["process"]["terminal"] = true.into());
    let create = console(&case);
    let commands = [&*create, LIFE[1], LIFE[2]];
    let points = more_points(&mut case, &commands);
    assert!(points.contains(&"runtime: pass on the terminal".to_owned()), "{points:?}");
    try_all(&mut case, &points, &commands, MADE);
}

/// A process between the runtime and the container's first: there are namespaces to enter and users to map.
#[test]
fn entering_namespaces_at_every_step() {
    let mut holder = Command::new("unshare").args(["--net", "/bin/sleep", "1000"]).spawn().unwrap();
    let network = format!("/proc/{}/ns/net", holder.id());
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    until("the other network", || {
        fs::read_link(&network).is_ok_and(|other| other != own).then_some(())
    });
    let mut case = Case::new("fault-stage");
    case.bundle.configure(|config| {
        config["linux"]["sysctl"] = Value::Null;
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.extend([json!({"type": "network", "path": network}), json!({"type": "user"})]);
        let ids = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        config["linux"]["uidMappings"] = ids.clone();
        config["linux"]["gidMappings"] = ids;
    });
    let points = more_points(&mut case, &LIFE);
    assert!(points.iter().filter(|point| point.starts_with("stage: ")).count() > 2, "{points:?}");
    try_all(&mut case, &points, &LIFE, MADE);
    holder.kill().unwrap();
    holder.wait().unwrap();
}

/// The kernel counts the namespaces that are made in a user namespace.
#[test]
fn no_namespace_is_left() {
    let mut case = Case::new("fault-namespaces");
    case.users = Some(UserNamespace::new());
    case.bundle.configure(|config| {
        // Which devices a cgroup may use only the host's root decides.
        config["linux"]["resources"] = json!({"devices": [{"allow": true, "access": "rwm"}]});
    });
    let left = |case: &Case| case.users.as_ref().unwrap().left();
    assert!(left(&case).is_empty());
    case.good(LIFE[0]);
    assert_eq!(left(&case), ["mnt", "pid", "net", "ipc", "uts", "cgroup"], "of a container");
    case.good("delete --force ID");
    for point in &points(&case, &LIFE) {
        for victim in [Victim::Runtime, Victim::Child, Victim::Both] {
            assert!(interrupt(&mut case, &LIFE, point, victim), "{point:?} was never reached");
        }
    }
    // They go a moment after their last process.
    until("the end of all namespaces", || left(&case).is_empty().then_some(()));
}

/// In the foreground it removes the container itself; killed, it leaves what `delete --force` finds.
#[test]
fn run_at_every_step() {
    let mut case = Case::new("fault-run");
    case.bundle.configure(|config| config["process"]["args"] = json!(["/bin/true"]));
    let run = ["run --bundle BUNDLE ID"];
    let points = points(&case, &run);
    try_all(&mut case, &points, &run, "runtime: wait for the first process");
}

#[test]
fn exec_at_every_step() {
    let mut case = Case::new("fault-exec");
    let all = [LIFE[0], LIFE[1], "exec ID /bin/true"];
    let before = points(&case, &all[..2]);
    case.good("delete --force ID");
    let mut points = points(&case, &all);
    case.good("delete --force ID");
    // Those of creation have their own test; what both processes pass stops the container's.
    points.retain(|point| !before.contains(point));
    assert!(!points.is_empty());
    let made = points[0].clone();
    try_all(&mut case, &points, &all, &made);
}

/// The words are for tests: a program for users must not know them.
#[test]
fn a_release_build_has_no_fault_points() {
    let mut release = common::program();
    release.pop();
    assert!(release.ends_with("debug"), "{release:?} is no debug build");
    let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/fault.rs"));
    let source = source.unwrap();
    let (open, guarded) = source.split_once("#[cfg(debug_assertions)]\nmod debug").unwrap();
    assert!(guarded.contains("std::env::var"));
    assert!(!open.contains("std::env") && !open.contains("std::fs"));
}
