//! Under the engines that people use: Debian's podman and containerd start, enter, watch and end containers of this
//! runtime, unchanged. Needs root, busybox-static, podman, containerd, and cgroup version 2. `RUNTIME=/usr/sbin/runc`
//! runs the same tests against another runtime, which is how they were proven (`--cgroups=disabled` with crun: runc
//! does not know it).
//!
//! Everything happens in a room without a network (see `common/engine.rs`).

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::bundle::is_peer;
use common::containerd::Containerd;
use common::engine::has_controllers;
use common::podman::Podman;

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
    podman.assert_nothing_left();
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
    let words = containerd.run_words("d", &["--rm", "--tty"], &["tty"]);
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
    containerd.assert_nothing_left();
}

/// Where the host cannot limit, asking for a limit is an error that says so.
#[test]
fn containerd_limits() {
    let containerd = Containerd::new();
    let flags = ["--detach", "--memory-limit=67108864"];
    let (code, text) = containerd.run("m", &flags, &["sleep", "1000"]);
    if has_controllers() {
        assert_eq!(code, 0, "{text}");
        assert_eq!(containerd.room.read("default/m/memory.max"), "67108864\n");
    } else {
        assert_ne!(code, 0, "{text}");
        assert!(is_peer() || text.contains("memory"), "{text}");
    }
}
