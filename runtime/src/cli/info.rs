//! `features` and the version: what we give; and the commands that we do not have.

use std::path::Path;

use serde_json::json;

use super::flags::{ANY, Command, ID};
use super::{CliError, message, say};
use crate::lsm;
use crate::oci;
use crate::plan::seccomp;

pub(super) static FEATURES: Command = Command {
    name: "features",
    about: "print what this runtime can do as JSON",
    operands: "",
    count: (0, 0),
    verbatim: false,
    flags: &[],
    run: |_, _| features().map(|()| 0),
    failure: 1,
};

pub(super) static CHECKPOINT: Command = Command {
    name: "checkpoint",
    about: "not supported",
    operands: ID,
    count: (0, ANY),
    verbatim: true,
    flags: &[],
    run: |_, _| message("checkpoint: not supported by this runtime (it does not use CRIU)"),
    failure: 1,
};

pub(super) static RESTORE: Command = Command {
    name: "restore",
    about: "not supported",
    operands: ID,
    count: (0, ANY),
    verbatim: true,
    flags: &[],
    run: |_, _| message("restore: not supported by this runtime (it does not use CRIU)"),
    failure: 1,
};

/// As runc prints its own: programs read the words before the colons.
pub(super) fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("kobune-runtime version {version}\nspec: {}\n", oci::SPEC_VERSION)
}

/// As the specification has it.
fn features() -> Result<(), CliError> {
    let mut capabilities: Vec<String> =
        caps::all().into_iter().map(|capability| capability.to_string()).collect();
    capabilities.sort();
    let controllers = crate::cgroup::detect()?.controllers;
    let features = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": oci::SPEC_VERSION,
        "hooks": crate::hooks::PHASES,
        "mountOptions": crate::plan::MOUNT_OPTIONS,
        "linux": {
            "namespaces": namespaces(|name| Path::new("/proc/self/ns").join(name).exists()),
            "capabilities": capabilities,
            "cgroup": {
                "v1": false, "v2": true, "systemd": true, "systemdUser": false, "rdma": false,
            },
            "seccomp": seccomp::features(),
            "apparmor": {"enabled": lsm::has_apparmor()},
            "selinux": {"enabled": lsm::has_selinux()},
            "memoryPolicy": {"modes": crate::plan::MEMORY_MODES, "flags": crate::plan::MEMORY_FLAGS},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": true},
        },
        "annotations": {
            "kobune.cgroup.controllers":
                controllers.into_iter().collect::<Vec<_>>().join(" "),
        },
    });
    say(&format!("{features:#}\n"))
}

/// Those that we can make, as far as this kernel has them: the specification's names for the kernel's.
fn namespaces(has: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let all = [
        ("cgroup", "cgroup"),
        ("ipc", "ipc"),
        ("mount", "mnt"),
        ("network", "net"),
        ("pid", "pid"),
        ("time", "time"),
        ("user", "user"),
        ("uts", "uts"),
    ];
    all.into_iter().filter(|(_, file)| has(file)).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::namespaces;

    #[test]
    fn only_what_the_kernel_has_is_promised() {
        assert_eq!(namespaces(|name| name != "time").len(), 7);
        assert_eq!(namespaces(|name| name == "mnt"), ["mount"]);
    }
}
