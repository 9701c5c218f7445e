//! `spec`: an example to start from.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::flags::{Command, Flag};
use super::{CliError, message};
use crate::oci;

/// Capabilities of the example: enough for a shell that talks.
const CAPABILITIES: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

pub(super) static COMMAND: Command = Command {
    name: "spec",
    about: "write an example config.json",
    operands: "",
    count: (0, 0),
    verbatim: false,
    flags: &[
        Flag::value("bundle", "DIR", "where to (default: here)").or('b'),
        Flag::switch("rootless", "for a user who is not root"),
    ],
    run: |_, mut given| {
        let bundle = given.path("bundle").unwrap_or_else(|| ".".into());
        spec(&bundle, given.has("rootless")).map(|()| 0)
    },
    failure: 1,
};

/// An existing file is not overwritten.
fn spec(bundle: &Path, rootless: bool) -> Result<(), CliError> {
    let path = bundle.join("config.json");
    let mut config = example();
    if rootless {
        let id = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        make_rootless(&mut config, id(uid.as_raw()), id(gid.as_raw()));
    }
    let mut file = match File::create_new(&path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return message(format!("file {path:?} exists. Remove it first"));
        }
        other => other.map_err(CliError::io(format!("make {path:?}")))?,
    };
    let text = format!("{config:#}\n");
    file.write_all(text.as_bytes()).map_err(CliError::io(format!("write {path:?}")))
}

fn example() -> Value {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": oci::SPEC_VERSION,
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "kobune",
        "process": {
            "terminal": true,
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

/// What a user without privileges can have: a user namespace instead of a network, /sys of the host, no cgroup.
fn make_rootless(config: &mut Value, uids: Value, gids: Value) {
    let linux = &mut config["linux"];
    linux["uidMappings"] = uids;
    linux["gidMappings"] = gids;
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    let Some(mounts) = config["mounts"].as_array_mut() else { return };
    mounts.retain(|mount| {
        mount["destination"].as_str().is_some_and(|path| !path.starts_with("/sys"))
    });
    for mount in mounts.iter_mut() {
        if let Some(options) = mount["options"].as_array_mut() {
            let names_id = |option: &Value| {
                option
                    .as_str()
                    .is_some_and(|text| text.starts_with("gid=") || text.starts_with("uid="))
            };
            options.retain(|option| !names_id(option));
        }
    }
    mounts.push(json!({
        "destination": "/sys", "type": "none", "source": "/sys",
        "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
    }));
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

    #[test]
    fn rootless_asks_for_nothing_that_root_only_has() {
        let mut config = example();
        let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        make_rootless(&mut config, map.clone(), map);
        let text = config.to_string();
        assert!(!text.contains("gid=5") && !text.contains("\"network\""), "{text}");
        assert!(!text.contains("/sys/fs/cgroup"), "{text}");
        assert_eq!(config["linux"]["uidMappings"][0]["hostID"], 1000);
    }
}
