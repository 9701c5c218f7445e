//! Which cgroup a container of the command line gets, and its limits there: who asks for one must get it.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Spec};

use super::log::Log;
use super::state::Store;
use super::{CgroupManager, CliError, Context, OWN_PREFIX};
use crate::cgroup::{self, Setting};
use crate::systemd;

/// Where the cgroup of a container will be, and who makes it.
pub(super) struct Place {
    pub(super) cgroup: PathBuf,
    systemd: Option<systemd::Plan>,
}

/// `linux.cgroupsPath`, or one of our own. Without a manager the container stays with its creator: in a cgroup below
/// the creator's, whose limits hold, and by which all of the container can be ended.
pub(super) fn place(manager: CgroupManager, spec: &Spec, id: &str) -> Result<Place, CliError> {
    let host = cgroup::detect()?;
    let linux = spec.linux().as_ref();
    let wanted = linux.and_then(|linux| linux.cgroups_path().as_ref());
    let wanted = wanted.filter(|path| !path.as_os_str().is_empty());
    let cgroup = match manager {
        CgroupManager::Systemd => {
            let wanted = wanted.map(|path| path.to_string_lossy()).unwrap_or_default();
            let plan = systemd::plan(&wanted, OWN_PREFIX.trim_end_matches('-'), id)?;
            return Ok(Place { cgroup: host.path(&plan.cgroup), systemd: Some(plan) });
        }
        CgroupManager::Disabled => {
            let text = std::fs::read_to_string("/proc/self/cgroup");
            let text = text.map_err(CliError::io("read /proc/self/cgroup"))?;
            let own = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
            host.path(own).join(format!("{OWN_PREFIX}{id}"))
        }
        CgroupManager::Cgroupfs => match wanted {
            Some(path) => host.place(path)?,
            None => host.path(format!("{OWN_PREFIX}{id}")),
        },
    };
    Ok(Place { cgroup, systemd: None })
}

/// A cgroup for a container alone.
pub(super) struct Claimed {
    pub(super) cgroup: PathBuf,
    /// Made for it.
    fresh: bool,
    scope: Option<systemd::Scope>,
}

impl Place {
    /// The name of the unit that [`Place::claim`] will make.
    pub(super) fn unit(&self) -> Option<&str> {
        self.systemd.as_ref().map(|plan| plan.name.unit.as_str())
    }

    pub(super) fn claim(
        self,
        id: &str,
        resources: Option<&LinuxResources>,
    ) -> Result<Claimed, CliError> {
        let Place { cgroup, systemd } = self;
        let Some(plan) = systemd else {
            let fresh = cgroup::claim(&cgroup)?;
            return Ok(Claimed { cgroup, fresh, scope: None });
        };
        let limits = with_room(resources).map(|room| limits(&room)).transpose()?;
        let scope = plan.start(id, &limits.unwrap_or_default())?;
        // It is there; systemd may not have handed down all controllers.
        cgroup::create(&cgroup)?;
        Ok(Claimed { cgroup, fresh: true, scope: Some(scope) })
    }
}

impl Claimed {
    /// Limits and devices; a limit that the host cannot keep is an error.
    pub(super) fn furnish(
        &self,
        log: &Log,
        resources: Option<&LinuxResources>,
    ) -> Result<(), CliError> {
        let room = self.scope.as_ref().and_then(|_| with_room(resources));
        let outcome = cgroup::furnish(&self.cgroup, room.as_ref().or(resources), self.fresh)?;
        outcome.demand_all(&self.cgroup)?;
        tell_ignored(log, &outcome);
        Ok(())
    }

    /// The first process is there.
    pub(super) fn settle(&mut self, resources: Option<&LinuxResources>) -> Result<(), CliError> {
        let Some(scope) = &mut self.scope else { return Ok(()) };
        scope.leave();
        if let Some(resources) = resources.filter(|resources| allows_one(resources)) {
            scope.update(&limits(resources)?)?;
            cgroup::apply(&self.cgroup, resources)?;
        }
        Ok(())
    }
}

/// Whether a second process would be too many.
fn allows_one(resources: &LinuxResources) -> bool {
    resources.pids().is_some_and(|pids| pids.limit() == 1)
}

/// The limits, with room for the process that waits in systemd's scope for the first one.
fn with_room(resources: Option<&LinuxResources>) -> Option<LinuxResources> {
    let mut room = resources?.clone();
    if allows_one(&room)
        && let Some(pids) = room.pids_mut()
    {
        pids.set_limit(2);
    }
    Some(room)
}

fn limits(resources: &LinuxResources) -> Result<Vec<Setting>, CliError> {
    let settings = cgroup::settings(resources).map_err(cgroup::CgroupError::from)?;
    Ok(settings.list)
}

/// Limits that have been changed, as systemd shall keep them.
pub(super) fn tell_systemd(
    unit: &str,
    cgroup: &Path,
    resources: &LinuxResources,
) -> Result<(), CliError> {
    systemd::update(unit, &limits(resources)?)?;
    // It has written them itself, and rounded some.
    cgroup::apply(cgroup, resources)?;
    Ok(())
}

/// Kills what is in the cgroup and removes it, and systemd's unit, if it has one.
pub(super) fn remove(store: &Store, id: &str, cgroup: &Path) -> Result<(), CliError> {
    let Some(unit) = store.unit(id) else { return Ok(cgroup::kill_pod(cgroup)?) };
    // systemd would ask the processes to end, and wait.
    cgroup::kill(cgroup)?;
    let stopped = systemd::stop(&unit);
    cgroup::kill_pod(cgroup)?;
    Ok(stopped?)
}

/// What of a unit runc lets annotations set.
const PROPERTY: &str = "org.systemd.property.";

/// Nothing of a unit but its limits is for the container to choose, here.
pub(super) fn tell_ignored_properties(context: &Context, spec: &Spec) {
    if context.cgroups == CgroupManager::Systemd {
        ignored_properties(spec).iter().for_each(|text| context.log.warning(text));
    }
}

fn ignored_properties(spec: &Spec) -> Vec<String> {
    let keys = spec.annotations().iter().flatten().map(|(key, _)| key);
    let mut keys: Vec<&String> = keys.filter(|key| key.starts_with(PROPERTY)).collect();
    keys.sort();
    let text =
        |key| format!("annotations[{key:?}]: properties of units are not supported, left out");
    keys.into_iter().map(text).collect()
}

/// runc takes these without a word; whoever reads the log may want to know.
pub(super) fn tell_ignored(log: &Log, outcome: &cgroup::Outcome) {
    for field in &outcome.ignored {
        log.warning(&format!("linux.resources.{field}: no meaning in cgroup version 2"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_property_that_is_left_out_is_named() {
        let spec = serde_json::from_value(json!({"annotations": {
            "org.systemd.property.TimeoutStopUSec": "uint64 5", "org.systemd.property.CollectMode": "'x'", "org.other": "",
        }}));
        let told = ignored_properties(&spec.unwrap());
        let expected = |name| {
            format!(
                "annotations[\"org.systemd.property.{name}\"]: properties of units are not supported, left out"
            )
        };
        assert_eq!(told, [expected("CollectMode"), expected("TimeoutStopUSec")]);
    }
}
