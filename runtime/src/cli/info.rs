//! `spec` and `features`: what to give us, and what we give.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::CliError;
use crate::oci;

/// Capabilities of the example: enough for a shell that talks.
const CAPABILITIES: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

/// `spec`. An existing file is not overwritten.
pub(super) fn spec(bundle: &Path) -> Result<(), CliError> {
    let path = bundle.join("config.json");
    let mut file = File::create_new(&path).map_err(CliError::io(format!("make {path:?}")))?;
    let text = format!("{:#}\n", example());
    file.write_all(text.as_bytes()).map_err(CliError::io(format!("write {path:?}")))
}

fn example() -> Value {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": oci::SPEC_VERSION,
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "kobune",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
            ],
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "mount"}, {"type": "cgroup"},
            ],
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

/// `features`: as the specification has it.
pub(super) fn features() -> Result<(), CliError> {
    let mut capabilities: Vec<String> =
        caps::all().into_iter().map(|capability| capability.to_string()).collect();
    capabilities.sort();
    let controllers = crate::cgroup::detect()?.controllers;
    let features = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": oci::SPEC_VERSION,
        "hooks": [],
        "mountOptions": crate::plan::MOUNT_OPTIONS,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "uts"],
            "capabilities": capabilities,
            "cgroup": {
                "v1": false, "v2": true, "systemd": false, "systemdUser": false, "rdma": false,
            },
            "seccomp": {"enabled": false},
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": false}},
        },
        "annotations": {
            "kobune.cgroup.controllers":
                controllers.into_iter().collect::<Vec<_>>().join(" "),
        },
    });
    println!("{features:#}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_accepted() {
        let spec = serde_json::from_value(example()).unwrap();
        oci::check(&spec).unwrap();
        crate::plan::plan(&spec, &crate::wire::Rootfs::Bundle, Path::new("/b")).unwrap();
    }
}
