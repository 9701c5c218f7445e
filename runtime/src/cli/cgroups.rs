//! Which cgroup a container of the command line gets, and its limits there: who asks for one must get it.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Spec};

use super::log::Log;
use super::{CliError, OWN_PREFIX};
use crate::cgroup;

/// `linux.cgroupsPath`, or one of our own.
pub(super) fn place(spec: &Spec, id: &str) -> Result<PathBuf, CliError> {
    let host = cgroup::detect()?;
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
