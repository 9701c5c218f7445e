//! What the tests need of the machine: root, namespaces, cgroup v2; and Debian packages, which are
//! installed when they are missing. Says clearly what is not there, and never works around it.

use std::fs;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use super::steps::call;
use crate::paths;

/// Program → the Debian package that has it. Only what a test uses.
const PROGRAMS: &[(&str, &str)] = &[
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("busybox", "busybox-static"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mke2fs", "e2fsprogs"),
    ("depmod", "kmod"),
    ("dpkg", "dpkg"),
    ("openssl", "openssl"),
    ("podman", "podman"),
    ("conmon", "conmon"),
    ("containerd", "containerd"),
    ("script", "bsdutils"),
    ("apparmor_parser", "apparmor"),
    ("dbus-daemon", "dbus"),
    ("systemctl", "systemd"),
    ("docker-registry", "docker-registry"),
    ("skopeo", "skopeo"),
    ("etcd", "etcd-server"),
    ("unshare", "util-linux"),
];

/// What the runtime is measured beside, and what compiles the measuring programs.
const PEERS: &[(&str, &str)] = &[("crun", "crun"), ("runc", "runc"), ("cc", "gcc")];

/// Checks that do not depend on packages; each message says what to do.
pub(super) fn check() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("the tests make namespaces, mounts and cgroups: run them as root".to_owned());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| format!("read /proc/self/mountinfo: {error}"))?;
    if !mounts.lines().any(|line| line.contains(" - cgroup2 ")) {
        return Err("no cgroup2 file system is mounted: mount one on /sys/fs/cgroup".to_owned());
    }
    // In a thread of its own: namespaces belong to threads.
    let flags = CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    std::thread::spawn(move || unshare(flags))
        .join()
        .map_err(|_| "unshare panicked".to_owned())?
        .map_err(|error| format!("make a mount and a network namespace: {error}"))
}

/// Installs the packages of missing programs with apt-get.
pub(super) fn install() -> Result<(), String> {
    install_missing(PROGRAMS)
}

/// The same for [`PEERS`].
pub(super) fn install_peers() -> Result<(), String> {
    install_missing(PEERS)
}

fn install_missing(programs: &[(&str, &str)]) -> Result<(), String> {
    let mut missing: Vec<&str> = programs
        .iter()
        .filter(|(program, _)| paths::on_path(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("installing: {}", missing.join(" "));
    apt_get(&["update", "-q"])?;
    let mut arguments = vec!["install", "-y", "-q", "--no-install-recommends"];
    arguments.extend(missing);
    apt_get(&arguments)
}

/// kubectl is no Debian 12 package; the tests use the one that people use.
pub(super) fn need_kubectl() -> Result<(), String> {
    match paths::kubectl() {
        Some(path) if path.is_file() => Ok(()),
        Some(path) => Err(format!("$KUBECTL names {}, which is not there", path.display())),
        None => Err("no kubectl: put one on PATH or name it in $KUBECTL \
             (https://kubernetes.io/docs/tasks/tools/)"
            .to_owned()),
    }
}

fn apt_get(arguments: &[&str]) -> Result<(), String> {
    call(Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
}
