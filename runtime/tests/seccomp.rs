//! `linux.seccomp` through the command line. Needs root and busybox-static. `RUNTIME=/usr/sbin/runc` runs the same
//! tests against another runtime, which is how they were proven.

mod common;

use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use common::bundle::{Bundle, is_peer};
use serde_json::{Value, json};

/// Runs a shell script under a profile.
fn under(name: &str, profile: Value, script: &str, change: impl FnOnce(&mut Value)) -> String {
    let bundle = Bundle::new(name, &["/bin/sh", "-c", script]);
    bundle.configure(|config| {
        config["linux"]["seccomp"] = profile;
        change(config);
    });
    let output = bundle.runtime("run --bundle BUNDLE ID");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}{:?}", text(&output.stdout), text(&output.stderr), output.status.code())
}

fn deny(names: &[&str], action: &str, more: Value) -> Value {
    let mut rule = json!({"names": names, "action": action});
    rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
}

#[test]
fn a_denied_call_fails_with_the_profiles_error() {
    let names = ["mkdir", "mkdirat", "no_such_call"];
    let plain = deny(&names, "SCMP_ACT_ERRNO", json!({}));
    let seen = under("seccomp-errno", plain, "mkdir /tmp/a; touch /tmp/b && echo fine", |_| {});
    assert!(seen.contains("Operation not permitted") && seen.contains("fine\n"), "{seen}");
    let other = deny(&names, "SCMP_ACT_ERRNO", json!({"errnoRet": 28}));
    let seen = under("seccomp-errno-ret", other, "mkdir /tmp/a", |_| {});
    assert!(seen.contains("No space left on device"), "{seen}");
}

#[test]
fn arguments_are_compared() {
    let args = json!({"args": [{"index": 1, "value": 0o700, "op": "SCMP_CMP_EQ"}]});
    let profile = deny(&["chmod"], "SCMP_ACT_ERRNO", args);
    let script = "busybox chmod 700 /tmp; busybox chmod 755 /tmp && echo fine";
    let seen = under("seccomp-args", profile, script, |_| {});
    assert!(seen.contains("Operation not permitted") && seen.contains("fine\n"), "{seen}");
}

#[test]
fn killing_kills() {
    let profile = deny(&["mkdir", "mkdirat"], "SCMP_ACT_KILL_PROCESS", json!({}));
    let seen = under("seccomp-kill", profile, "mkdir /tmp/a; echo $?", |_| {});
    assert!(seen.contains("159\n"), "{seen}");
}

#[test]
fn the_filter_is_there_with_and_without_new_privileges() {
    for no_new_privileges in [true, false] {
        let profile = deny(&["mkdir"], "SCMP_ACT_ERRNO", json!({}));
        let script = "grep -E 'Seccomp:|NoNewPrivs' /proc/self/status";
        let seen = under("seccomp-nnp", profile, script, |config| {
            config["process"]["noNewPrivileges"] = no_new_privileges.into();
            config["process"]["user"] = json!({"uid": 7, "gid": 8});
        });
        let expected =
            format!("NoNewPrivs:\t{}\nSeccomp:\t2\nSome(0)", u8::from(no_new_privileges));
        assert_eq!(seen, expected);
    }
}

#[test]
fn later_processes_are_filtered_too() {
    let bundle = Bundle::new("seccomp-exec", &["/bin/sleep", "1000"]);
    bundle.configure(|config| {
        config["linux"]["seccomp"] = deny(&["mkdir", "mkdirat"], "SCMP_ACT_ERRNO", json!({}));
    });
    bundle.good("run --detach --bundle BUNDLE ID");
    let (_, error) = bundle.bad("exec ID /bin/mkdir /tmp/a");
    assert!(error.contains("Operation not permitted"), "{error}");
}

#[test]
fn calls_newer_than_an_allow_list_do_not_exist() {
    // What a shell needs, by what it does not.
    let mut names: Vec<String> = Vec::new();
    for number in 0..=334 {
        let call = syscalls::Sysno::new(number).filter(|call| call.name() != "sethostname");
        names.extend(call.map(|call| call.name().to_owned()));
    }
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]});
    let bundle = Bundle::new("seccomp-new", &["/bin/probe"]);
    // close_range is 436, sethostname 170.
    let program = compile(
        &bundle,
        r#"#include <stdio.h>
        #include <errno.h>
        #include <unistd.h>
        #include <sys/syscall.h>
        int main() { syscall(436, 100, 100, 0); int a = errno; syscall(170, "x", 1); printf("%d %d\n", a, errno); }"#,
    );
    std::fs::copy(program, bundle.directory.path().join("rootfs/bin/probe")).unwrap();
    bundle.configure(|config| {
        config["linux"]["seccomp"] = profile;
        config["process"]["noNewPrivileges"] = true.into();
    });
    assert_eq!(
        bundle.good("run --bundle BUNDLE ID"),
        format!("{} {}\n", libc::ENOSYS, libc::EPERM)
    );
}

/// Compiles a C program into the bundle's directory.
fn compile(bundle: &Bundle, source: &str) -> std::path::PathBuf {
    let (from, to) = (bundle.directory.path().join("p.c"), bundle.directory.path().join("p"));
    std::fs::write(&from, source).unwrap();
    let done = Command::new("cc").arg("-static").arg("-o").arg(&to).arg(&from).status();
    assert!(done.unwrap().success(), "cc is needed");
    to
}

#[test]
fn who_listens_decides() {
    if is_peer() {
        // Debian's runc 1.1 never connects in this environment (youki's contest skips it there, too).
        return;
    }
    for no_new_privileges in [true, false] {
        let bundle =
            Bundle::new("seccomp-notify", &["/bin/sh", "-c", "mkdir /tmp/a; ls -d /tmp/a"]);
        let path = bundle.directory.path().join("agent");
        let agent = UnixListener::bind(&path).unwrap();
        bundle.configure(|config| {
            config["annotations"] = json!({"x": "y"});
            config["process"]["noNewPrivileges"] = no_new_privileges.into();
            let mut profile = deny(&["mkdir", "mkdirat"], "SCMP_ACT_NOTIFY", json!({}));
            profile["listenerPath"] = path.to_str().unwrap().into();
            profile["listenerMetadata"] = "meta".into();
            config["linux"]["seccomp"] = profile;
        });
        let mut decider = Command::new(compile(&bundle, include_str!("common/decider.c")));
        let decider = decider.stdin(OwnedFd::from(agent)).stdout(Stdio::piped()).spawn().unwrap();
        let output = bundle.runtime("run --bundle BUNDLE ID");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("No medium found"), "{error}");
        let told = decider.wait_with_output().unwrap();
        assert!(told.status.success(), "{:?}", told.status);
        check_told(&told.stdout, &bundle.id);
    }
}

/// A bundle whose profile has us asked about mkdir, and has these rules, too.
fn asking(name: &str, no_new_privileges: bool, more: &[Value]) -> (Bundle, UnixListener) {
    let bundle = Bundle::new(name, &["/bin/sh", "-c", "echo ran > /ran"]);
    let path = bundle.directory.path().join("agent");
    let agent = UnixListener::bind(&path).unwrap();
    agent.set_nonblocking(true).unwrap();
    bundle.configure(|config| {
        config["annotations"] = json!({"x": "y"});
        config["process"]["noNewPrivileges"] = no_new_privileges.into();
        let mut profile = deny(&["mkdir", "mkdirat"], "SCMP_ACT_NOTIFY", json!({}));
        profile["syscalls"].as_array_mut().unwrap().extend(more.iter().cloned());
        profile["listenerPath"] = path.to_str().unwrap().into();
        profile["listenerMetadata"] = "meta".into();
        config["linux"]["seccomp"] = profile;
    });
    (bundle, agent)
}

fn told(agent: &UnixListener) -> Vec<u8> {
    let mut text = Vec::new();
    let (mut connection, _) = agent.accept().unwrap();
    connection.read_to_end(&mut text).unwrap();
    text
}

#[test]
fn who_listens_is_told_by_create() {
    if is_peer() {
        // See above.
        return;
    }
    for no_new_privileges in [true, false] {
        let (bundle, agent) = asking("seccomp-create", no_new_privileges, &[]);
        bundle.good("create --bundle BUNDLE ID");
        let text = told(&agent);
        check_told(&text, &bundle.id);
        let heard: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(bundle.status(), "created");
        assert_eq!(heard["pid"], bundle.state()["pid"]);
        bundle.good("start ID");
        common::wait_until("the program ran", || bundle.rootfs().join("ran").exists());
    }
}

/// A process cannot wait for its start under such a filter, so this one comes afterwards.
#[test]
fn who_listens_is_told_by_start_where_waiting_is_refused() {
    if is_peer() {
        return;
    }
    let rule = json!({"names": ["accept4"], "action": "SCMP_ACT_ERRNO"});
    let (bundle, agent) = asking("seccomp-start", true, &[rule]);
    bundle.good("create --bundle BUNDLE ID");
    assert_eq!(agent.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    bundle.good("start ID");
    check_told(&told(&agent), &bundle.id);
    common::wait_until("the program ran", || bundle.rootfs().join("ran").exists());
}

/// What the agent has heard beside the listener.
fn check_told(text: &[u8], id: &str) {
    let state: Value = serde_json::from_slice(text).unwrap();
    assert_eq!(state["metadata"], "meta");
    assert_eq!(state["fds"], json!(["seccompFd"]));
    assert_eq!(state["state"]["id"], id);
    assert_eq!(state["state"]["status"], "creating");
    assert_eq!(state["state"]["annotations"]["x"], "y");
    assert_eq!(state["pid"], state["state"]["pid"]);
}

#[test]
fn a_listener_that_is_not_there_is_an_error() {
    let mut profile = deny(&["mkdir"], "SCMP_ACT_NOTIFY", json!({}));
    profile["listenerPath"] = "/no/such/socket".into();
    let seen = under("seccomp-nobody", profile, "echo ran", |_| {});
    assert!(!seen.contains("ran\n") && seen.contains("/no/such/socket"), "{seen}");
}
