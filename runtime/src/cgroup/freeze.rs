//! All processes of a cgroup stopped, and let go again.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::events::Events;
use super::{CgroupError, write_file};

/// How long [`freeze`] waits for processes that the kernel cannot stop at once (in uninterruptible sleep).
const FROZEN_WITHIN: Duration = Duration::from_secs(10);

/// Stops every process in the cgroup and below it, and waits until they stand still. If one does not, all go on.
pub fn freeze(cgroup: &Path) -> Result<(), CgroupError> {
    change(cgroup, "1")?;
    let deadline = Instant::now() + FROZEN_WITHIN;
    let frozen = Events::open(cgroup).is_ok_and(|mut events| events.wait(b"frozen 1", deadline));
    if frozen {
        return Ok(());
    }
    let _ = change(cgroup, "0");
    Err(CgroupError::Moving { path: cgroup.to_owned() })
}

/// Lets them go on.
pub fn thaw(cgroup: &Path) -> Result<(), CgroupError> {
    change(cgroup, "0")
}

fn change(cgroup: &Path, value: &str) -> Result<(), CgroupError> {
    let path = cgroup.join("cgroup.freeze");
    write_file(&path, value).map_err(|error| CgroupError::Write {
        path,
        value: value.to_owned(),
        error,
    })
}

/// Whether the processes of the cgroup have been told to stand still.
pub fn is_frozen(cgroup: &Path) -> bool {
    fs::read(cgroup.join("cgroup.freeze")).is_ok_and(|text| text == b"1\n")
}
