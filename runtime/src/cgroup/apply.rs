//! Limits written to a cgroup.

use std::fs;
use std::io;
use std::path::Path;

use oci_spec::runtime::LinuxResources;

use super::resources::{Missing, Setting, settings};
use super::tree::{self, WANTED};
use super::{CgroupError, ResourceError, write_file};

/// What could not be done about limits that are no mistake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Limits whose controller the cgroup does not have.
    pub missing: Vec<Setting>,
    /// Fields of version 1 without any meaning in version 2.
    pub ignored: Vec<&'static str>,
}

impl Outcome {
    /// The first missing limit as an error that says why it is missing.
    pub fn demand_all(&self, cgroup: &Path) -> Result<(), CgroupError> {
        match self.missing.first() {
            None => Ok(()),
            Some(setting) => {
                let why = tree::why_missing(cgroup, setting.controller(), &setting.file);
                Err(CgroupError::Resources(ResourceError { field: setting.field.clone(), why }))
            }
        }
    }
}

/// Writes the limits as far as the cgroup has their controllers.
pub fn apply(cgroup: &Path, resources: &LinuxResources) -> Result<Outcome, CgroupError> {
    let wanted = settings(resources)?;
    let mut further: Vec<&str> = wanted.list.iter().map(Setting::controller).collect();
    further.retain(|name| *name != "cgroup" && !WANTED.contains(name));
    further.dedup();
    if !further.is_empty() {
        tree::enable(cgroup, &further)?;
    }
    if let Some(check) = wanted.check_memory {
        check_memory(cgroup, check.limit, check.swap)?;
    }
    let mut missing = Vec::new();
    let mut again = None;
    for setting in wanted.list {
        match write(cgroup, &setting) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(setting),
            // A burst must not exceed the quota: which of both comes first depends on what was there.
            Err(error) if is_burst(&setting) && is_invalid(&error) => again = Some(setting),
            Err(error) => return Err(refused(cgroup, setting, error)),
        }
    }
    if let Some(setting) = again {
        write(cgroup, &setting).map_err(|error| refused(cgroup, setting, error))?;
    }
    Ok(Outcome { missing, ignored: wanted.ignored })
}

fn is_burst(setting: &Setting) -> bool {
    setting.file == "cpu.max.burst"
}

fn is_invalid(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

fn write(cgroup: &Path, setting: &Setting) -> io::Result<()> {
    let absent = match write_file(&cgroup.join(&setting.file), &setting.value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => error,
        other => return other,
    };
    match &setting.missing {
        Missing::IsFine => Ok(()),
        Missing::Instead(file, value) => write_file(&cgroup.join(file), value),
        Missing::Matters => Err(absent),
    }
}

fn refused(cgroup: &Path, setting: Setting, error: io::Error) -> CgroupError {
    let path = cgroup.join(setting.file);
    CgroupError::Limit { field: setting.field, path, value: setting.value, error }
}

/// Refuses limits that would make the kernel kill at once.
fn check_memory(cgroup: &Path, limit: Option<u64>, swap: Option<u64>) -> Result<(), CgroupError> {
    let text = fs::read_to_string(cgroup.join("memory.current")).unwrap_or_default();
    // Where nothing is counted there is nothing to compare.
    let Ok(used) = text.trim().parse::<u64>() else { return Ok(()) };
    for (limit, field) in [(swap, "memory.swap"), (limit, "memory.limit")] {
        if let Some(limit) = limit.filter(|limit| *limit <= used) {
            let why = format!("{limit} is not more than the {used} bytes in use");
            return Err(ResourceError { field: field.into(), why }.into());
        }
    }
    Ok(())
}
