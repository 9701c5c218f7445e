//! Control groups, version 2: where they are mounted, directories made, limits written, processes stopped and
//! killed, statistics read, and all of it gone again. Never decides how much anybody may use.
//!
//! A host may have the version 2 tree without controllers (hybrid hosts keep them in version 1). Then
//! directories, `cgroup.kill` and `cgroup.events` still work and limits do not exist: that is data
//! ([`CgroupHost::controllers`], [`Outcome::missing`]); who must have the limit makes an error of it
//! ([`Outcome::demand_all`]).

mod apply;
mod devices;
mod events;
mod freeze;
mod host;
mod remove;
mod resources;
mod stats;
mod tree;
mod update;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;

pub use apply::{Outcome, apply};
pub(crate) use events::Events;
pub use freeze::{freeze, is_frozen, thaw};
pub(crate) use host::of_process;
pub use host::{CgroupHost, detect};
pub use remove::{is_populated, kill, kill_pod, remove, signal};
pub(crate) use remove::{kill_and_remove, remove_within};
pub use resources::{Missing, ResourceError, Setting, Settings, settings};
pub use stats::{Stats, stats};
pub use tree::{add_process, all_processes, claim, controllers, create, processes};
pub use update::{completed, update};

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("read the mounts of this process: {0}")]
    Mounts(io::Error),
    #[error("read the cgroup of this process: {0}")]
    Own(io::Error),
    #[error("mount cgroup2 on {path:?} (no cgroup2 is mounted): {error}")]
    Mount { path: &'static str, error: io::Error },
    #[error("linux.cgroupsPath: {path:?} {why}")]
    Place { path: PathBuf, why: &'static str },
    #[error("{verb} {path:?}: {error}")]
    Io { verb: &'static str, path: PathBuf, error: io::Error },
    #[error("write {value:?} to {path:?}: {error}")]
    Write { path: PathBuf, value: String, error: io::Error },
    #[error("linux.resources.{field}: write {value:?} to {path:?}: {error}")]
    Limit { field: String, path: PathBuf, value: String, error: io::Error },
    #[error("restrict the devices of cgroup {path:?}: {}", crate::sys::process::reason(error))]
    Devices { path: PathBuf, error: io::Error },
    #[error("{path:?} is not in a cgroup2 tree")]
    NotCgroup { path: PathBuf },
    #[error("cgroup {path:?} is in use: processes are running in it")]
    InUse { path: PathBuf },
    #[error("cgroup {path:?} is frozen")]
    Frozen { path: PathBuf },
    #[error("freeze cgroup {path:?}: its processes do not stand still")]
    Moving { path: PathBuf },
    #[error("remove cgroup {path:?}: processes are still running in it")]
    Busy { path: PathBuf },
    #[error(transparent)]
    Resources(#[from] ResourceError),
}

/// Makes a cgroup fit for a container: limits, and which devices may be used. `fresh` when it was made for it.
pub fn furnish(
    cgroup: &Path,
    resources: Option<&LinuxResources>,
    fresh: bool,
) -> Result<Outcome, CgroupError> {
    let outcome = resources.map(|resources| apply(cgroup, resources)).transpose()?;
    let rules = resources.and_then(|resources| resources.devices().as_deref());
    devices::restrict(cgroup, rules, !fresh)?;
    Ok(outcome.unwrap_or_default())
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    move |error| CgroupError::Io { verb, path: path.to_owned(), error }
}

/// How many processes of the cgroup the kernel killed for want of memory; 0 where it does not count.
pub fn oom_kills(cgroup: &Path) -> u64 {
    parse_oom_kills(&fs::read_to_string(cgroup.join("memory.events")).unwrap_or_default())
}

pub(crate) fn parse_oom_kills(events: &str) -> u64 {
    let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

fn is_absent(error: &io::Error) -> bool {
    // ENODEV: the directory went away between opening and using a file in it.
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

fn read_words(path: &Path) -> Result<BTreeSet<String>, CgroupError> {
    let text = crate::bounded::read_virtual(path).map_err(failed("read", path))?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// One write call: cgroup files take a value whole.
fn write_file(path: &Path, value: &str) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all(value.as_bytes())
}
