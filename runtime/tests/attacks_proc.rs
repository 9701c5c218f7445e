//! Attacks through what lies in a container's /proc and /dev: masks, the null device, sysctls, and what the runtime
//! writes to procfs. See `attacks.rs`.
//!
//! Seen failing: without masks; with links to /dev/null followed; with any file taken for the null device; with the
//! score, the sysctl or the label written once the container's /proc is there; without the check of sysctl names.

mod common;

use std::fs;
use std::os::unix::fs::symlink;

use common::bundle::Bundle;
use common::host::{Host, mounts};
use serde_json::json;

/// CVE-2019-16884: a VOLUME over /proc takes the masks, and its links lead them astray. Wherever they lead, what is
/// there is hidden, and nothing is written to it.
#[test]
fn masks_do_not_reach_the_host() {
    let host = Host::new();
    let bundle = Bundle::new("attack-mask", &["/bin/true"]);
    let volume = bundle.directory.path().join("volume");
    fs::create_dir_all(volume.join("sys")).unwrap();
    symlink("/host/file", volume.join("kcore")).unwrap();
    symlink("../../../../host/file", volume.join("keys")).unwrap();
    symlink(host.file(), volume.join("scsi")).unwrap();
    bundle.configure(|config| {
        mounts(config).push(json!({
            "destination": "/proc", "type": "bind", "source": volume, "options": ["bind"],
        }));
        host.show(config);
    });
    let script = "cat /proc/kcore /proc/keys /proc/scsi; for name in kcore keys scsi; do \
        echo pwned > /proc/$name; done; mount -t proc p /proc; ls /proc";
    let seen = bundle.sh(&format!("{{ {script}; }} 2>/dev/null"));
    // Neither the file nor a procfs without masks.
    assert_eq!(seen, "kcore\nkeys\nscsi\nsys\n");
    host.assert_untouched();
}

/// CVE-2025-31133: /dev/null of the rootfs is something else, and masking would show that, writable, in the place of what
/// is to be hidden.
#[test]
fn a_false_null_device_masks_nothing() {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let host = Host::new();
    let script = "echo pwned > /proc/version; cat /proc/version; echo ran";
    let bundle = Bundle::new("attack-null", &["/bin/sh", "-c", script]);
    let dev = bundle.directory.path().join("dev");
    fs::create_dir(&dev).unwrap();
    let null = dev.join("null");
    bundle.configure(|config| {
        let mounts = mounts(config);
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        mounts.push(
            json!({"destination": "/dev", "type": "bind", "source": dev, "options": ["bind"]}),
        );
        host.show(config);
        config["linux"]["maskedPaths"] = json!(["/proc/version"]);
    });
    let node = |minor| {
        mknod(&null, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, minor)).unwrap()
    };
    let attempt = |what: &str| {
        let output = bundle.runtime("run --bundle BUNDLE ID");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{what}: it ran");
        assert!(error.contains("mask \"/proc/version\""), "{what}: {error}");
        host.assert_untouched();
        fs::remove_file(&null).unwrap();
    };
    symlink("/host/file", &null).unwrap();
    attempt("a link to a file of the host");
    // Read-only in the container, and of the host where the network is.
    symlink("/proc/sys/net/ipv4/ip_forward", &null).unwrap();
    attempt("a link to a setting");
    fs::hard_link(host.file(), &null).unwrap();
    attempt("a file of the host");
    node(5);
    attempt("another device");
    // The genuine one does.
    node(3);
    let output = bundle.runtime("run --bundle BUNDLE ID");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ran\n");
}

/// CVE-2022-0811 and its kind: settings of the host, or several in one.
#[test]
fn sysctls_of_the_host_are_refused() {
    let core_pattern = fs::read("/proc/sys/kernel/core_pattern").unwrap();
    let bundle = Bundle::new("attack-sysctl", &["/bin/true"]);
    for (key, value) in [
        ("kernel.core_pattern", "kobune-was-here"),
        ("kernel/core_pattern", "kobune-was-here"),
        ("net.ipv4.ip_forward", "1\nkernel.core_pattern=kobune-was-here"),
        ("net.../kernel/core_pattern", "kobune-was-here"),
        ("net/../kernel/core_pattern", "kobune-was-here"),
        ("net.ipv4.ip_forward=1+kernel.core_pattern", "kobune-was-here"),
        ("vm.panic_on_oom", "2"),
    ] {
        bundle.configure(|config| config["linux"]["sysctl"] = json!({ key: value }));
        let error = bundle.refused();
        assert!(error.contains("linux.sysctl["), "{key}: {error}");
    }
    bundle.configure(|config| {
        config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "network");
    });
    assert!(bundle.refused().contains("needs a network namespace"));
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), core_pattern);
}

/// CVE-2025-52881: what we write to procfs must not land elsewhere, whatever covers /proc in the container.
#[test]
fn writes_to_procfs_stay_there() {
    let host = Host::new();
    let bundle = Bundle::new("attack-procfs", &["/bin/sleep", "1000"]);
    let fake = bundle.directory.path().join("fake");
    for name in [
        "self/oom_score_adj",
        "thread-self/oom_score_adj",
        "1/oom_score_adj",
        "self/attr/exec",
        "thread-self/attr/exec",
        "self/attr/apparmor/exec",
        "thread-self/attr/apparmor/exec",
        "thread-self/attr/keycreate",
        "sys/net/ipv4/ip_forward",
        "self/timerslack_ns",
        "self/timens_offsets",
        "self/uid_map",
        "self/setgroups",
    ] {
        let path = fake.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink("/host/file", path).unwrap();
    }
    bundle.configure(|config| {
        config["process"]["oomScoreAdj"] = 777.into();
        config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        config["linux"]["readonlyPaths"] = json!([]);
        config["linux"]["maskedPaths"] = json!([]);
        mounts(config).push(json!({
            "destination": "/proc", "type": "bind", "source": fake, "options": ["bind"],
        }));
        host.show(config);
    });
    let pid = bundle.start();
    let score = |pid: i32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(score(pid), "777\n");
    // Another process, into a container whose /proc is false.
    let mut process = common::process(&["/bin/sleep", "1000"]);
    process["oomScoreAdj"] = 888.into();
    let (file, pid_file) =
        (bundle.directory.path().join("process"), bundle.directory.path().join("pid"));
    fs::write(&file, process.to_string()).unwrap();
    let words =
        format!("exec --detach --pid-file {} --process {} ID", pid_file.display(), file.display());
    bundle.good(&words);
    assert_eq!(score(fs::read_to_string(pid_file).unwrap().parse().unwrap()), "888\n");
    host.assert_untouched();
}
