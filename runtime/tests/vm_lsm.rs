//! AppArmor as a container meets it: confined from its first instruction, in every way in, whatever its /proc looks like.
//! Needs a kernel with AppArmor and Debian's apparmor_parser: so these tests are ignored on the host and run in the
//! virtual machine (`cargo xtask vm vm_lsm`).
//!
//! Seen failing: with the label not written; with it written by the name that the container's /proc has.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use common::Pod;
use common::bundle::Bundle;
use common::host::{Host, mounts};
use serde_json::{Value, json};

const PROFILE: &str = "kobune-test";

/// Everything is allowed but what lies in /secret and the bind mount below it.
const TEXT: &str = "profile kobune-test flags=(attach_disconnected,mediate_deleted) {
  file, capability, network, mount, umount, pivot_root, signal, ptrace, unix,
  deny /secret/** rwl,
}
";

/// What is tried inside: it says `kobune-test (enforce)` and nothing else when it is confined.
const TRY: &str = "cat /proc/thread-self/attr/current; cat /secret/file; echo pwned >/secret/file; \
                   echo pwned >/secret/new";

/// Loads the profile; the kernel replaces one of the same name.
fn load() {
    let security = Path::new("/sys/kernel/security");
    if !security.join("apparmor").exists() {
        let none = None::<&str>;
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("securityfs"), security, Some("securityfs"), flags, none).unwrap();
    }
    let mut parser = Command::new("apparmor_parser")
        .args(["--replace", "--skip-cache", "--quiet", "--config-file", "/dev/null"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("apparmor_parser (Debian package apparmor)");
    parser.stdin.take().unwrap().write_all(TEXT.as_bytes()).unwrap();
    assert!(parser.wait().unwrap().success());
}

/// A bundle that tries it, with the host's directory at /secret.
fn bundle(name: &str, host: &Host) -> Bundle {
    load();
    let bundle = Bundle::new(name, &["/bin/sh", "-c", TRY]);
    bundle.configure(|config| {
        mounts(config).push(json!({
            "destination": "/secret", "type": "bind", "source": host.path(), "options": ["bind"],
        }));
        config["process"]["apparmorProfile"] = PROFILE.into();
    });
    bundle
}

/// What it says on stdout.
fn said(bundle: &Bundle, words: &[&str]) -> String {
    String::from_utf8(bundle.run(words).stdout).unwrap()
}

const RUN: [&str; 4] = ["run", "--bundle", "BUNDLE", "ID"];

#[test]
#[ignore = "needs AppArmor"]
fn a_profile_confines_the_program() {
    let host = Host::new();
    let bundle = bundle("lsm-run", &host);
    let features: Value = serde_json::from_str(&bundle.good("features")).unwrap();
    assert_eq!(features["linux"]["apparmor"]["enabled"], true);
    for no_new_privileges in [false, true] {
        bundle.configure(|config| config["process"]["noNewPrivileges"] = no_new_privileges.into());
        assert_eq!(said(&bundle, &RUN), "kobune-test (enforce)\n");
        host.assert_untouched();
    }
    // Without a profile all of it is possible: the test is one.
    bundle.configure(|config| config["process"]["apparmorProfile"] = "".into());
    let free = said(&bundle, &RUN);
    assert!(free.starts_with("unconfined\nonly the host"), "{free}");
    assert!(host.path().join("new").exists());
}

#[test]
#[ignore = "needs AppArmor"]
fn a_profile_confines_who_comes_later() {
    let host = Host::new();
    let bundle = bundle("lsm-exec", &host);
    bundle.configure(|config| config["process"]["args"] = json!(["/bin/sleep", "1000"]));
    bundle.start();
    // As the container's first process, or as asked for.
    let again = ["exec", "ID", "/bin/sh", "-c", TRY];
    assert_eq!(said(&bundle, &again), "kobune-test (enforce)\n");
    let file = bundle.directory.path().join("process.json");
    // One that names no profile gets the container's, as runc has it.
    for profile in [PROFILE, ""] {
        let mut process = common::process(&["/bin/sh", "-c", TRY]);
        process["apparmorProfile"] = profile.into();
        fs::write(&file, process.to_string()).unwrap();
        let given = ["exec", "--process", file.to_str().unwrap(), "ID"];
        assert_eq!(said(&bundle, &given), "kobune-test (enforce)\n");
    }
    host.assert_untouched();
}

#[test]
#[ignore = "needs AppArmor"]
fn an_unknown_profile_is_named() {
    let host = Host::new();
    let bundle = bundle("lsm-unknown", &host);
    bundle.configure(|config| config["process"]["apparmorProfile"] = "nobody".into());
    let expected = "process.apparmorProfile: \"nobody\" is not loaded on this host";
    let error = bundle.refused();
    assert!(error.contains(expected), "{error}");
    bundle.configure(|config| {
        config["process"]["apparmorProfile"] = PROFILE.into();
        config["process"]["args"] = json!(["/bin/sleep", "1000"]);
    });
    bundle.start();
    let (_, error) = bundle.bad("exec --apparmor nobody ID /bin/true");
    assert!(error.contains(expected), "{error}");
    host.assert_untouched();
}

/// CVE-2025-52881, CVE-2019-16884: the label is written to the real procfs, whatever the container puts in its place.
#[test]
#[ignore = "needs AppArmor"]
fn a_label_is_not_led_astray() {
    let host = Host::new();
    let bundle = bundle("lsm-proc", &host);
    let fake = bundle.directory.path().join("fake");
    for name in ["self/attr/exec", "self/attr/apparmor/exec"] {
        for name in [name.to_owned(), name.replace("self", "thread-self")] {
            let path = fake.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink("/secret/file", path).unwrap();
        }
    }
    bundle.configure(|config| {
        mounts(config).push(json!({
            "destination": "/proc", "type": "bind", "source": fake, "options": ["bind"],
        }));
        config["linux"]["maskedPaths"] = json!([]);
        config["linux"]["readonlyPaths"] = json!([]);
        config["process"]["args"] = json!(["/bin/sleep", "1000"]);
    });
    let pid = bundle.start();
    let label = |pid: i32| fs::read_to_string(format!("/proc/{pid}/attr/current")).unwrap();
    assert_eq!(label(pid), "kobune-test (enforce)\n");
    let pid_file = bundle.directory.path().join("pid");
    let words = format!("exec --detach --pid-file {} ID /bin/sleep 1000", pid_file.display());
    bundle.good(&words);
    let pid = fs::read_to_string(pid_file).unwrap().parse().unwrap();
    assert_eq!(label(pid), "kobune-test (enforce)\n");
    host.assert_untouched();
}

/// The way of the agent.
#[test]
#[ignore = "needs AppArmor"]
fn a_profile_confines_in_a_pod() {
    load();
    let host = Host::new();
    let pod = Pod::new();
    let confine = |config: &mut Value| {
        mounts(config).push(json!({
            "destination": "/secret", "type": "bind", "source": host.path(), "options": ["bind"],
        }));
        config["process"]["apparmorProfile"] = PROFILE.into();
    };
    let (_, log) = pod.run(&["/bin/sh", "-c", &format!("{{ {TRY}; }} 2>/dev/null")], confine);
    assert_eq!(log, ["stdout F kobune-test (enforce)"]);
    pod.start("stays", &["/bin/sleep", "1000"], confine);
    // It names none.
    let process = common::process(&["/bin/sh", "-c", TRY]);
    let (_, said, _) = common::exec(&pod, "stays", process).unwrap();
    assert_eq!(said, "kobune-test (enforce)\n");
    host.assert_untouched();
    pod.end();
}
