//! Under the engines that people use: Debian's podman and containerd start, enter, watch and end containers of this
//! runtime, unchanged. Needs root, busybox-static, podman, containerd, and cgroup version 2. `RUNTIME=/usr/sbin/runc`
//! runs the same tests against another runtime, which is how they were proven (`--cgroups=disabled` with crun: runc
//! does not know it).
//!
//! Everything happens in a room without a network (see `common/engine.rs`).

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::bundle::{is_peer, runtime};
use common::engine::{IMAGE, Room, outcome};
use kobune_runtime::cgroup;

/// Whether limits can be asked for at all.
fn has_controllers() -> bool {
    let host = cgroup::detect().unwrap();
    host.has("memory") && host.has("pids")
}

struct Podman {
    room: Room,
}

impl Podman {
    fn new() -> Podman {
        let room = Room::new();
        // podman asks of a runtime what it is by its name.
        let link = room.path("kobune-runtime");
        std::os::unix::fs::symlink(runtime(), &link).unwrap();
        let config = format!(
            "[engine]\n\
             runtime_supports_json = [\"kobune-runtime\"]\n\
             runtime_supports_nocgroup = [\"kobune-runtime\"]\n\
             [engine.runtimes]\n\
             kobune-runtime = [{link:?}]\n"
        );
        fs::write(room.path("containers.conf"), config).unwrap();
        let policy = room.path("policy.json");
        fs::write(&policy, r#"{"default": [{"type": "insecureAcceptAnything"}]}"#).unwrap();
        let podman = Podman { room };
        let image = podman.room.image();
        let (code, text) = podman.call(&["load", "--input", image.to_str().unwrap()]);
        assert_eq!(code, 0, "{text}");
        podman
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.room.command("podman");
        command.env("CONTAINERS_CONF", self.room.path("containers.conf"));
        for (flag, name) in [("--root", "st"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(flag).arg(self.room.path(name));
        }
        command.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs"]);
        command.args(["--events-backend=none", "--runtime=kobune-runtime"]);
        command.args(words);
        command
    }

    fn call(&self, words: &[&str]) -> (i32, String) {
        outcome(self.command(words))
    }

    /// The words of `podman run` or `create`, with what this host needs: it may have no pids controller, and may
    /// not let us raise limits (podman asks for both by default).
    fn run(&self, flags: &[&str], command: &[&str]) -> (i32, String) {
        let limits = [
            "--network=none",
            "--ulimit=nofile=1024:1024",
            "--ulimit=nproc=1024:1024",
            "--log-driver=k8s-file",
        ];
        let pids = if has_controllers() { "--pids-limit=100" } else { "--pids-limit=0" };
        let mut words = vec!["run", pids];
        words.extend(limits.iter().chain(flags));
        words.push(IMAGE);
        words.extend(command);
        self.call(&words)
    }

    fn good(&self, words: &[&str]) -> String {
        let (code, text) = self.call(words);
        assert_eq!(code, 0, "podman {words:?}: {text}");
        text
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.call(&["rm", "--all", "--force", "--time=0"]);
    }
}

#[test]
fn podman_runs_to_the_end() {
    let podman = Podman::new();
    assert_eq!(
        podman.run(&["--rm"], &["/bin/sh", "-c", "echo out; echo err >&2; exit 3"]),
        (3, "out\nerr\n".into())
    );
    let (code, text) = podman.run(&["--rm", "--tty"], &["tty"]);
    assert_eq!((code, text.trim()), (0, "/dev/pts/0"));
    let flags = ["--rm", "--user=5:6", "--workdir=/tmp", "--env=A=b c", "--hostname=box"];
    let (code, text) =
        podman.run(&flags, &["/bin/sh", "-c", "id -u; id -g; pwd; hostname; echo $A"]);
    assert_eq!((code, &*text), (0, "5\n6\n/tmp\nbox\nb c\n"));
}

#[test]
fn podman_learns_why_a_program_cannot_be_run() {
    let podman = Podman::new();
    // 127 is podman's code for a program that is not there, 126 for one that cannot be executed.
    let (code, text) = podman.run(&["--rm"], &["/no/such"]);
    assert_eq!(code, 127, "{text}");
    assert!(text.contains("no such file or directory"), "{text}");
    let (code, text) = podman.run(&["--rm"], &["nosuch"]);
    assert_eq!(code, 127, "{text}");
    assert!(text.contains("executable file not found in $PATH"), "{text}");
    let (code, text) = podman.run(&["--rm"], &["/etc/passwd"]);
    assert_eq!(code, 126, "{text}");
}

#[test]
fn podman_lives_with_a_container() {
    let podman = Podman::new();
    let program = "trap 'echo ended; exit 9' TERM; echo begun; while :; do sleep 0.05; done";
    let (code, text) = podman.run(&["--detach", "--name=x"], &["/bin/sh", "-c", program]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(podman.call(&["exec", "x", "/bin/sh", "-c", "echo in; exit 7"]), (7, "in\n".into()));
    assert_eq!(podman.call(&["exec", "--user=5", "x", "id", "-u"]), (0, "5\n".into()));
    let (code, text) = podman.call(&["exec", "--tty", "x", "tty"]);
    assert_eq!((code, text.trim()), (0, "/dev/pts/0"));
    let (code, text) = podman.call(&["exec", "x", "/no/such"]);
    assert_eq!(code, 127, "{text}");
    assert!(podman.good(&["top", "x"]).contains("sleep"));
    podman.good(&["pause", "x"]);
    let status = || podman.good(&["inspect", "--format={{.State.Status}}", "x"]);
    assert_eq!(status(), "paused\n");
    podman.good(&["unpause", "x"]);
    assert_eq!(status(), "running\n");
    podman.good(&["stop", "--time=20", "x"]);
    assert_eq!(podman.good(&["logs", "x"]), "begun\nended\n");
    assert_eq!(podman.good(&["wait", "x"]), "9\n");
    podman.good(&["start", "x"]);
    podman.good(&["kill", "--signal=KILL", "x"]);
    assert_eq!(podman.good(&["wait", "x"]), "137\n");
    podman.good(&["rm", "x"]);
    assert_eq!(podman.good(&["ps", "--all", "--quiet"]), "");
}

#[test]
fn podman_mounts() {
    let podman = Podman::new();
    let shared = podman.room.path("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    let volume = format!("--volume={}:/mnt/a", shared.display());
    let read_only = format!("--volume={}:/mnt/b:ro", shared.display());
    let script = "echo hi > /mnt/a/f; cat /mnt/b/f; touch /mnt/b/g || touch /g || echo refused";
    let flags = ["--rm", "--read-only", "--read-only-tmpfs=false", &volume, &read_only];
    let (code, text) = podman.run(&flags, &["/bin/sh", "-c", script]);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("hi\nrefused\n"), "{text}");
    assert_eq!(fs::read_to_string(shared.join("f")).unwrap(), "hi\n");
}

#[test]
fn podman_can_do_without_cgroups() {
    let podman = Podman::new();
    assert_eq!(
        podman.run(&["--rm", "--cgroups=disabled"], &["echo", "hello"]),
        (0, "hello\n".into())
    );
}

/// Where the host cannot limit, asking for a limit is an error that says so.
#[test]
fn podman_limits() {
    let podman = Podman::new();
    let (code, text) = podman.run(&["--rm", "--memory=64m"], &["cat", "/sys/fs/cgroup/memory.max"]);
    if has_controllers() {
        assert_eq!((code, &*text), (0, "67108864\n"));
    } else {
        assert_ne!(code, 0, "{text}");
        assert!(is_peer() || text.contains("memory"), "{text}");
    }
}

struct Containerd {
    room: Room,
    daemon: Child,
}

impl Containerd {
    fn new() -> Containerd {
        let room = Room::new();
        let at = |name: &str| room.path(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            at("root"),
            at("state"),
            at("sock"),
            at("ttrpc"),
        );
        fs::write(room.path("config.toml"), config).unwrap();
        let log = fs::File::create(room.path("log")).unwrap();
        let mut daemon = room.command("containerd");
        daemon.arg("--config").arg(room.path("config.toml"));
        daemon.stdout(Stdio::null()).stderr(log);
        let daemon = daemon.spawn().unwrap();
        let containerd = Containerd { room, daemon };
        containerd.wait_for("containerd to answer", || containerd.call(&["version"]).0 == 0);
        let image = containerd.room.image();
        let (code, text) = containerd.call(&["images", "import", image.to_str().unwrap()]);
        assert_eq!(code, 0, "{text}");
        containerd
    }

    /// Asks again until it is so; each question is a process of its own.
    fn wait_for(&self, what: &str, mut done: impl FnMut() -> bool) {
        let started = Instant::now();
        while !done() {
            let log = || fs::read_to_string(self.room.path("log")).unwrap();
            assert!(started.elapsed() < Duration::from_secs(30), "no {what}: {}", log());
        }
    }

    fn call(&self, words: &[&str]) -> (i32, String) {
        let mut command = self.room.command("ctr");
        command.arg("--address").arg(self.room.path("sock")).args(words);
        outcome(command)
    }

    /// ctr wants a terminal for one.
    fn call_with_terminal(&self, words: &[&str]) -> (i32, String) {
        let line =
            format!("ctr --address {} {}", self.room.path("sock").display(), words.join(" "));
        let mut command = self.room.command("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        outcome(command)
    }

    fn run_words<'a>(
        id: &'a str,
        flags: &[&'a str],
        command: &[&'a str],
        binary: &'a str,
    ) -> Vec<&'a str> {
        let mut words = vec!["run", "--runtime=io.containerd.runc.v2", "--runc-binary", binary];
        if !has_controllers() {
            // A weight is asked for by default.
            words.push("--cpu-shares=0");
        }
        words.extend(flags);
        words.extend([IMAGE, id]);
        words.extend(command);
        words
    }

    fn run(&self, id: &str, flags: &[&str], command: &[&str]) -> (i32, String) {
        let binary = runtime();
        self.call(&Containerd::run_words(id, flags, command, binary.to_str().unwrap()))
    }

    fn good(&self, words: &[&str]) -> String {
        let (code, text) = self.call(words);
        assert_eq!(code, 0, "ctr {words:?}: {text}");
        text
    }

    fn status(&self, id: &str) -> String {
        let list = self.good(&["tasks", "list"]);
        let line = list.lines().find(|line| line.starts_with(id)).unwrap_or_default();
        line.split_whitespace().nth(2).unwrap_or_default().to_owned()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

#[test]
fn containerd_runs_to_the_end() {
    let containerd = Containerd::new();
    assert_eq!(
        containerd.run("a", &["--rm"], &["/bin/sh", "-c", "echo out; exit 3"]),
        (3, "out\n".into())
    );
    let (code, text) = containerd.run("b", &["--rm"], &["/no/such"]);
    assert_ne!(code, 0, "{text}");
    assert!(text.contains("OCI runtime create failed") && text.contains("no such file"), "{text}");
    let flags = ["--rm", "--cwd=/tmp", "--env=A=b", "--read-only"];
    let script = "id -u; pwd; echo $A; touch /x 2>/dev/null || echo ro";
    let (code, text) = containerd.run("c", &flags, &["/bin/sh", "-c", script]);
    assert_eq!((code, &*text), (0, "0\n/tmp\nb\nro\n"));
    let binary = runtime();
    let words = Containerd::run_words("d", &["--rm", "--tty"], &["tty"], binary.to_str().unwrap());
    let (code, text) = containerd.call_with_terminal(&words);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("/dev/pts/0"), "{text}");
    assert_eq!(containerd.good(&["containers", "list", "--quiet"]), "");
}

#[test]
fn containerd_lives_with_a_container() {
    let containerd = Containerd::new();
    let (code, text) = containerd.run("x", &["--detach"], &["sleep", "1000"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(containerd.status("x"), "RUNNING");
    let exec = |id: &str, command: &[&str]| {
        let mut words = vec!["tasks", "exec", "--exec-id", id, "x"];
        words.extend(command);
        containerd.call(&words)
    };
    assert_eq!(exec("e1", &["/bin/sh", "-c", "echo in; exit 7"]), (7, "in\n".into()));
    let (code, text) = exec("e2", &["/no/such"]);
    assert_ne!(code, 0, "{text}");
    assert!(text.contains("OCI runtime exec failed") && text.contains("no such file"), "{text}");
    let words = ["tasks", "exec", "--tty", "--exec-id", "e3", "x", "tty"];
    let (code, text) = containerd.call_with_terminal(&words);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("/dev/pts/"), "{text}");
    // A heading and one process.
    assert_eq!(containerd.good(&["tasks", "ps", "x"]).lines().count(), 2);
    containerd.good(&["tasks", "metrics", "x"]);
    containerd.good(&["tasks", "pause", "x"]);
    assert_eq!(containerd.status("x"), "PAUSED");
    containerd.good(&["tasks", "resume", "x"]);
    assert_eq!(containerd.status("x"), "RUNNING");
    containerd.good(&["tasks", "kill", "--signal=SIGKILL", "x"]);
    containerd.wait_for("end of the task", || containerd.status("x") == "STOPPED");
    let (code, text) = containerd.call(&["tasks", "delete", "x"]);
    // ctr's exit code is the task's.
    assert!(code == 137 || text.contains("137"), "{code} {text}");
    containerd.good(&["containers", "delete", "x"]);
    assert_eq!(containerd.good(&["tasks", "list", "--quiet"]), "");
}

/// Where the host cannot limit, asking for a limit is an error that says so.
#[test]
fn containerd_limits() {
    let containerd = Containerd::new();
    let (code, text) = containerd.run(
        "m",
        &["--rm", "--memory-limit=67108864"],
        &["cat", "/sys/fs/cgroup/memory.max"],
    );
    if has_controllers() {
        assert_eq!((code, &*text), (0, "67108864\n"));
    } else {
        assert_ne!(code, 0, "{text}");
        assert!(is_peer() || text.contains("memory"), "{text}");
    }
}
