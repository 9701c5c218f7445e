//! The container: the config.json of `crun spec` and `runc spec` with a cgroup namespace, a busybox root, and the command
//! lines to run it, start it, and execute something in it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::programs::Programs;
use super::{Who, output};

/// On the tmpfs of [`super::place`].
const ROOT: &str = "/run/bench";

const CGROUPS: &str = "/sys/fs/cgroup";

/// What the containers of a bundle are like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub(super) new_network: bool,
    pub(super) restrict_devices: bool,
}

#[derive(Debug)]
pub(super) struct Bundle<'a> {
    programs: &'a Programs,
    kind: Kind,
    directory: PathBuf,
    args: Vec<String>,
}

impl<'a> Bundle<'a> {
    /// Writes config.json, and the root if it is not there yet.
    pub(super) fn make(programs: &'a Programs, kind: Kind, args: &[&str]) -> Bundle<'a> {
        let rootfs = make_root(programs);
        let directory = Path::new(ROOT).join(if kind.new_network { "net" } else { "nonet" });
        fs::create_dir_all(&directory).expect("make the bundle");
        let config = config(&rootfs, kind, args);
        fs::write(directory.join("config.json"), config.to_string()).expect("write config.json");
        let args = args.iter().map(ToString::to_string).collect();
        Bundle { programs, kind, directory, args }
    }

    /// `run` to the end.
    pub(super) fn run(&self, who: Who, id: &str) -> Vec<String> {
        let mut line = who.program(self.programs);
        if who == Who::Floor {
            let network = if self.kind.new_network { "net" } else { "nonet" };
            let (rootfs, cgroup) = (format!("{ROOT}/rootfs"), format!("{CGROUPS}/floor-{id}"));
            line.extend(["run".into(), rootfs, cgroup, network.into()]);
            line.extend_from_slice(&self.args);
        } else {
            let bundle = self.directory.display().to_string();
            line.extend(["run".into(), "--bundle".into(), bundle, id.into()]);
        }
        line
    }

    /// Starts a container that stays.
    pub(super) fn start(&self, who: Who) -> Running<'a> {
        let id = format!("bench-{who:?}");
        let mut line = self.run(who, &id);
        let at = line.len() - 1;
        let pid_file = format!("{ROOT}/{id}.pid");
        line.splice(at..at, ["--detach".into(), "--pid-file".into(), pid_file.clone()]);
        super::spawn(&line);
        let pid = fs::read_to_string(&pid_file).expect("read the pid file").trim().to_owned();
        Running { programs: self.programs, who, id, pid }
    }
}

/// A container that `exec` goes into.
#[derive(Debug)]
pub(super) struct Running<'a> {
    programs: &'a Programs,
    pub(super) who: Who,
    id: String,
    pid: String,
}

impl Running<'_> {
    /// `exec`; the floor goes into anybody's container.
    pub(super) fn exec(&self, who: Who) -> Vec<String> {
        let mut line = who.program(self.programs);
        line.push("exec".into());
        if who == Who::Floor {
            let path = format!("/proc/{}/cgroup", self.pid);
            let text = fs::read_to_string(path).expect("read the container's cgroup");
            let cgroup = text.lines().find_map(|line| line.strip_prefix("0::"));
            let cgroup = format!("{CGROUPS}{}", cgroup.expect("a cgroup of version 2"));
            line.extend([self.pid.clone(), cgroup, "-".into()]);
        } else {
            line.push(self.id.clone());
        }
        line.push("/bin/true".into());
        line
    }

    pub(super) fn stop(self) {
        let mut line = self.who.program(self.programs);
        line.extend(["delete".into(), "--force".into(), self.id]);
        output(&line);
    }
}

fn make_root(programs: &Programs) -> PathBuf {
    let root = Path::new(ROOT).join("rootfs");
    if root.is_dir() {
        return root;
    }
    for directory in ["bin", "dev", "proc", "sys", "tmp"] {
        fs::create_dir_all(root.join(directory)).expect("make the root");
    }
    fs::copy(&programs.busybox, root.join("bin/busybox")).expect("copy busybox");
    for tool in ["sh", "true", "sleep", "grep", "hostname", "stat", "cat"] {
        symlink("busybox", root.join("bin").join(tool)).expect("link a tool");
    }
    root
}

fn config(rootfs: &Path, kind: Kind, args: &[&str]) -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let mut namespaces = vec!["pid", "ipc", "uts", "mount", "cgroup"];
    if kind.new_network {
        namespaces.push("network");
    }
    let namespaces: Vec<Value> = namespaces.iter().map(|kind| json!({ "type": kind })).collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": rootfs, "readonly": true },
        "hostname": "bench",
        "mounts": mounts(),
        "linux": {
            "resources": { "devices": [{ "allow": !kind.restrict_devices, "access": "rwm" }] },
            "namespaces": namespaces,
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
                "/proc/scsi",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    })
}

fn mounts() -> Value {
    json!([
        { "destination": "/proc", "type": "proc", "source": "proc" },
        { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
          "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
        { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
          "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
        { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
          "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
        { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
          "options": ["nosuid", "noexec", "nodev"] },
        { "destination": "/sys", "type": "sysfs", "source": "sysfs",
          "options": ["nosuid", "noexec", "nodev", "ro"] },
        { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
          "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] },
    ])
}
