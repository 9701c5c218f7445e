//! Cgroups of containers that are gone but for processes that the kernel cannot end yet (in uninterruptible sleep): the
//! kernel tells when the last one has ended, and until then the Pod is served.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use crate::cgroup::{self, CgroupError, Events};

/// Most processes end at once, also on a busy machine; so long the Pod is not served.
pub(super) const AT_ONCE: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct Dying {
    list: Vec<(PathBuf, Events)>,
}

impl Dying {
    /// Kills and removes the cgroup, later if it has to be.
    pub(super) fn end(&mut self, cgroup: PathBuf) -> Result<(), CgroupError> {
        match cgroup::kill_and_remove(&cgroup, AT_ONCE) {
            Err(CgroupError::Busy { path }) => {
                if let Ok(events) = Events::open(&cgroup) {
                    self.list.push((cgroup, events));
                }
                Err(CgroupError::Busy { path })
            }
            other => other,
        }
    }

    /// What to wait for (POLLPRI).
    pub(super) fn watched(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.list.iter().map(|(_, events)| events.as_fd())
    }

    /// Removes those in which nobody lives any more.
    pub(super) fn bury(&mut self) {
        self.list.retain(|(cgroup, events)| {
            // Reading rearms the event. An error means that the cgroup is gone.
            let lives = events.says(b"populated 1").unwrap_or(false);
            lives
                || matches!(
                    cgroup::remove_within(cgroup, Duration::ZERO),
                    Err(CgroupError::Busy { .. })
                )
        });
    }
}
