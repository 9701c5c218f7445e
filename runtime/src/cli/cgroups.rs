//! Which cgroup a container of the command line gets, and its limits there: who asks for one must get it.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Spec};

use super::log::Log;
use super::{CgroupManager, CliError, OWN_PREFIX, message};
use crate::cgroup;

/// `linux.cgroupsPath`, or one of our own. Without a manager the container stays with its creator: in a cgroup below
/// the creator's, whose limits hold, and by which all of the container can be ended.
pub(super) fn place(manager: CgroupManager, spec: &Spec, id: &str) -> Result<PathBuf, CliError> {
    let host = cgroup::detect()?;
    match manager {
        CgroupManager::Cgroupfs => {}
        CgroupManager::Systemd if !Path::new("/run/systemd/system").exists() => {
            return message("cgroup manager systemd: systemd does not run here, use cgroupfs");
        }
        CgroupManager::Systemd => {
            return message("cgroup manager systemd: not supported, use cgroupfs");
        }
        CgroupManager::Disabled => {
            let text = std::fs::read_to_string("/proc/self/cgroup");
            let text = text.map_err(CliError::io("read /proc/self/cgroup"))?;
            let own = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
            return Ok(host.path(own).join(format!("{OWN_PREFIX}{id}")));
        }
    }
    let linux = spec.linux().as_ref();
    let wanted = linux.and_then(|linux| linux.cgroups_path().as_ref());
    match wanted.filter(|path| !path.as_os_str().is_empty()) {
        Some(path) => Ok(host.place(path)?),
        None => Ok(host.path(format!("{OWN_PREFIX}{id}"))),
    }
}

/// Limits and devices; a limit that the host cannot keep is an error.
pub(super) fn furnish(
    log: &Log,
    cgroup: &Path,
    resources: Option<&LinuxResources>,
    fresh: bool,
) -> Result<(), CliError> {
    let outcome = cgroup::furnish(cgroup, resources, fresh)?;
    outcome.demand_all(cgroup)?;
    tell_ignored(log, &outcome);
    Ok(())
}

/// runc takes these without a word; whoever reads the log may want to know.
pub(super) fn tell_ignored(log: &Log, outcome: &cgroup::Outcome) {
    for field in &outcome.ignored {
        log.warning(&format!("linux.resources.{field}: no meaning in cgroup version 2"));
    }
}
