//! A Pod's life through the supervisor's socket. Needs root and busybox-static.

mod common;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

use common::{Pod, exec, is_alive, namespace, process};
use kobune_runtime::wire::{
    Client, ContainerPhase, ErrorKind, Event, ExecRequest, Request, Response,
};
use serde_json::json;

#[test]
fn exit_code_and_log_lines() {
    let pod = Pod::new();
    let (record, log) = pod.run(&["sh", "-c", "echo out; echo err >&2; exit 7"], |_| {});
    assert_eq!((record.exit_code, record.signal), (Some(7), None));
    assert!(record.started_at.unwrap() <= record.finished_at.unwrap());
    assert!(log.contains(&"stdout F out".to_owned()), "{log:?}");
    assert!(log.contains(&"stderr F err".to_owned()), "{log:?}");
    let path = pod.pod_dir().join("containers/app.json");
    let on_disk: kobune_runtime::wire::ContainerRecord =
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(on_disk, record);
    pod.end();
}

#[test]
fn a_container_waits_until_it_is_started() {
    let pod = Pod::new();
    let mut client = pod.client();
    let request = pod.request("app", &["/bin/touch", "/tmp/ran"], |_| {});
    let Response::Created { pid } = client.call(&request).unwrap() else { panic!() };
    let Response::State(state) = client.call(&Request::State).unwrap() else { panic!() };
    assert_eq!(state.pid, pod.supervisor);
    assert_eq!(state.containers[0].phase, ContainerPhase::Created);
    assert!(!fs::exists(format!("/proc/{pid}/root/tmp/ran")).unwrap());
    client.call(&Request::Start { container: "app".into() }).unwrap();
    assert_eq!(pod.wait("app").exit_code, Some(0));
    pod.end();
}

#[test]
fn a_created_container_can_be_killed() {
    let pod = Pod::new();
    let mut client = pod.client();
    client.call(&pod.request("app", &["/bin/true"], |_| {})).unwrap();
    client.call(&Request::Kill { container: "app".into(), signal: libc::SIGKILL }).unwrap();
    let record = pod.wait("app");
    assert_eq!((record.exit_code, record.started_at), (Some(137), None));
    pod.end();
}

#[test]
fn a_program_that_is_missing_or_cannot_be_executed() {
    let pod = Pod::new();
    let cases = [
        ("/foo", "exec \"/foo\": no such file or directory", 127),
        ("foo", "exec \"foo\": executable file not found in $PATH", 127),
        ("/etc/passwd", "exec \"/etc/passwd\": permission denied (it is not executable)", 126),
        ("/tmp", "exec \"/tmp\": permission denied (it is a directory)", 126),
    ];
    for (program, message, code) in cases {
        let mut client = pod.client();
        client.call(&pod.request("app", &[program], |_| {})).unwrap();
        let error = client.call(&Request::Start { container: "app".into() }).unwrap_err();
        assert_eq!(error.kind(), Some(ErrorKind::CannotRun), "{error}");
        assert_eq!(error.to_string(), message);
        let record = pod.wait("app");
        assert_eq!((record.exit_code, record.started_at), (Some(code), None));
        assert_eq!(record.message.as_deref(), Some(message));
    }
    pod.end();
}

#[test]
fn a_missing_interpreter_is_told_apart() {
    let pod = Pod::new();
    let script = pod.directory.path().join("layer/bin/script");
    fs::write(&script, "#!/no/such/shell\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut client = pod.client();
    client.call(&pod.request("app", &["/bin/script"], |_| {})).unwrap();
    let error = client.call(&Request::Start { container: "app".into() }).unwrap_err();
    assert!(error.to_string().contains("interpreter \"/no/such/shell\" does not exist"), "{error}");
    pod.end();
}

#[test]
fn a_bad_config_is_refused_by_its_path_and_leaves_nothing() {
    let pod = Pod::new();
    let mut client = pod.client();
    let request = pod.request("app", &["/bin/true"], |config| {
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_NOTIFY"});
    });
    let error = client.call(&request).unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::Invalid));
    assert!(error.to_string().starts_with("linux.seccomp.defaultAction: "), "{error}");
    let request = pod.request("app", &["/bin/true"], |config| {
        config["mounts"][0]["type"] = "nosuchfs".into();
    });
    let error = client.call(&request).unwrap_err();
    assert!(error.to_string().starts_with("mount nosuchfs on \"/proc\": "), "{error}");
    let Response::State(state) = client.call(&Request::State).unwrap() else { panic!() };
    assert_eq!(state.containers, []);
    assert!(!pod.cgroup.join("app").exists());
    pod.end();
}

#[test]
fn containers_of_a_pod_share_what_they_should() {
    let pod = Pod::new();
    let first = pod.start("a", &["/bin/sleep", "1000"], |_| {});
    let second = pod.start("b", &["/bin/sleep", "1000"], |_| {});
    for (kind, shared) in [
        ("ipc", true),
        ("uts", true),
        ("net", true),
        ("pid", false),
        ("mnt", false),
        ("cgroup", false),
    ] {
        assert_eq!(namespace(first, kind) == namespace(second, kind), shared, "{kind}");
    }
    assert_eq!(namespace(first, "uts"), namespace(pod.supervisor, "uts"));
    assert_ne!(namespace(first, "uts"), namespace(std::process::id() as i32, "uts"));
    let (_, name, _) = exec(&pod, "a", process(&["hostname"])).unwrap();
    assert_eq!(name, "testpod\n");
    pod.end();
}

#[test]
fn exec_runs_beside_the_first_process() {
    let pod = Pod::new();
    let pid = pod.start("app", &["/bin/sleep", "1000"], |_| {});
    let script = "echo out; echo err >&2; echo $PPID $$; exit 9";
    let (code, out, err) = exec(&pod, "app", process(&["/bin/sh", "-c", script])).unwrap();
    assert_eq!((code, err.as_str()), (9, "err\n"));
    // Born into the container's pid namespace, where its parent is not visible.
    assert!(out.starts_with("out\n0 "), "{out}");
    let (code, _, _) = exec(&pod, "app", process(&["sh", "-c", "kill -9 $$"])).unwrap();
    assert_eq!(code, 137);
    let error = exec(&pod, "app", process(&["/nothing"])).unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::CannotRun));
    assert_eq!(error.to_string(), "exec \"/nothing\": no such file or directory");
    assert!(is_alive(pid));
    let error = exec(&pod, "other", process(&["/bin/true"])).unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::NotFound));
    pod.end();
}

#[test]
fn exec_with_a_terminal() {
    use std::io::{Read, Write};
    let pod = Pod::new();
    pod.start("app", &["/bin/sleep", "1000"], |_| {});
    let mut shell = process(&["/bin/sh", "-c", "tty; read line; echo \"got $line\"; exit 3"]);
    shell["terminal"] = true.into();
    shell["consoleSize"] = json!({"height": 40, "width": 100});
    let null = fs::File::open("/dev/null").unwrap();
    let request =
        ExecRequest { container: "app".into(), process: serde_json::from_value(shell).unwrap() };
    let mut session = pod.client().exec(request, [null.as_fd(); 3]).unwrap();
    let mut master = fs::File::from(session.terminal.take().unwrap());
    master.write_all(b"hello\n").unwrap();
    let mut shown = Vec::new();
    // Ends with EIO once the other side is closed.
    let _ = master.read_to_end(&mut shown);
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("/dev/pts/0"), "{shown}");
    assert!(shown.contains("got hello"), "{shown}");
    assert_eq!(session.wait().unwrap(), 3);
    pod.end();
}

#[test]
fn a_container_with_a_terminal_writes_its_log() {
    let pod = Pod::new();
    let lines = pod.sh("tty; test -c /dev/console && echo console", |config| {
        config["process"]["terminal"] = true.into();
    });
    assert_eq!(lines, ["/dev/pts/0", "console"]);
    pod.end();
}

#[test]
fn a_signal_ends_it_and_the_exit_is_told() {
    let pod = Pod::new();
    let mut events = pod.client();
    events.call(&Request::Subscribe).unwrap();
    pod.start(
        "app",
        &["/bin/sh", "-c", "trap 'exit 5' TERM; while :; do sleep 1000 & wait; done"],
        |_| {},
    );
    let mut client = pod.client();
    // The shell may not have set its trap yet; an init without handler ignores the signal. And it may
    // have ended since the last turn: then the signal is refused.
    let record = loop {
        let _ = client.call(&Request::Kill { container: "app".into(), signal: libc::SIGTERM });
        let Response::State(state) = client.call(&Request::State).unwrap() else { panic!() };
        if state.containers[0].phase == ContainerPhase::Exited {
            break state.containers[0].clone();
        }
    };
    assert_eq!(record.exit_code, Some(5));
    let mut phases = Vec::new();
    while phases.last() != Some(&ContainerPhase::Exited) {
        let Event::Container(record) = events.next_event().unwrap() else { panic!() };
        phases.push(record.phase);
    }
    use ContainerPhase::{Created, Exited, Running};
    assert_eq!(phases, [Created, Running, Exited]);
    client.call(&Request::Remove { container: "app".into() }).unwrap();
    assert_eq!(events.next_event().unwrap(), Event::Removed { container: "app".into() });
    assert!(!pod.cgroup.join("app").exists());
    assert!(!pod.pod_dir().join("containers/app.json").exists());
    pod.end();
}

#[test]
fn a_name_is_used_again_after_an_exit() {
    let pod = Pod::new();
    for _ in 0..3 {
        assert_eq!(pod.run(&["/bin/true"], |_| {}).0.exit_code, Some(0));
    }
    pod.end();
}

#[test]
fn a_lost_client_changes_nothing() {
    let pod = Pod::new();
    let mut client = pod.client();
    client.call(&pod.request("app", &["/bin/sleep", "1000"], |_| {})).unwrap();
    client.call(&Request::Start { container: "app".into() }).unwrap();
    drop(client);
    // In the middle of a request, too.
    let stream = pod.client().into_stream();
    std::io::Write::write_all(&mut &stream, b"{\"request\":\"st").unwrap();
    drop(stream);
    let mut client = pod.client();
    let Response::State(state) = client.call(&Request::State).unwrap() else { panic!() };
    assert_eq!(state.containers[0].phase, ContainerPhase::Running);
    pod.end();
}

#[test]
fn nonsense_is_answered_and_the_connection_lives() {
    let pod = Pod::new();
    let stream = pod.client().into_stream();
    std::io::Write::write_all(&mut &stream, b"nonsense\n").unwrap();
    let answer: Response = kobune_runtime::wire::receive_line(&stream, &mut Vec::new()).unwrap();
    assert!(matches!(answer, Response::Error { kind: ErrorKind::Invalid, .. }));
    assert!(matches!(Client::from_stream(stream).call(&Request::State), Ok(Response::State(_))));
    pod.end();
}

#[test]
fn killing_the_supervisor_kills_its_containers() {
    let pod = Pod::new();
    let running = pod.start("a", &["/bin/sleep", "1000"], |config| {
        // The hardest case: no pid namespace, and a change of user that clears the death signal.
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    });
    let mut client = pod.client();
    let Response::Created { pid: waiting } =
        client.call(&pod.request("b", &["/bin/true"], |_| {})).unwrap()
    else {
        panic!()
    };
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pod.supervisor),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    common::wait_closed(&client.into_stream());
    // Removing waits for the last process; nothing has been killed by way of the cgroup.
    kobune_runtime::cgroup::remove(&pod.cgroup).unwrap();
    assert!(!is_alive(running) && !is_alive(waiting));
    pod.assert_nothing_left();
}

#[test]
fn a_flood_of_output_is_logged_whole() {
    let pod = Pod::new();
    let lines = pod.sh("seq 1 100000", |_| {});
    assert_eq!(lines.len(), 100_000);
    assert_eq!((lines[0].as_str(), lines[99_999].as_str()), ("1", "100000"));
    pod.end();
}

#[test]
fn the_first_process_takes_the_others_with_it() {
    let pod = Pod::new();
    let (record, log) = pod.run(&["/bin/sh", "-c", "sleep 1000 & echo started"], |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
    });
    assert_eq!((record.exit_code, log), (Some(0), vec!["stdout F started".to_owned()]));
    pod.end();
}

#[test]
fn sysctls_are_set_in_the_pod_only() {
    let before = fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap();
    assert_eq!(before, "0\n", "this test wants to see a change");
    let pod = Pod::with_sysctls(&[("kernel.shm_rmid_forced", "1")], None);
    assert_eq!(pod.sh("cat /proc/sys/kernel/shm_rmid_forced", |_| {}), ["1"]);
    assert_eq!(fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap(), before);
    pod.end();
}
