//! `cgroup.events`: whether anybody lives in a cgroup, whether all stand still. The kernel tells when it changes.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// An open `cgroup.events`; becomes ready (POLLPRI) at every change.
#[derive(Debug)]
pub(crate) struct Events {
    file: File,
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Events {
    pub(crate) fn open(cgroup: &Path) -> io::Result<Events> {
        Ok(Events { file: File::open(cgroup.join("cgroup.events"))? })
    }

    pub(super) fn of(file: File) -> Events {
        Events { file }
    }

    /// Whether it has this line now; an error when the cgroup is gone.
    pub(crate) fn says(&self, line: &[u8]) -> io::Result<bool> {
        let mut text = [0u8; 256];
        let length = self.file.read_at(&mut text, 0)?;
        Ok(text[..length].split(|byte| *byte == b'\n').any(|found| found == line))
    }

    /// Waits until it has this line; false when the time is over or the cgroup is gone.
    pub(super) fn wait(&mut self, line: &[u8], deadline: Instant) -> bool {
        // The kernel raises POLLPRI when the file has changed since it was last read through this descriptor: so
        // it is read first, and no change is missed.
        loop {
            match self.says(line) {
                Ok(true) => return true,
                Ok(false) => {}
                Err(_) => return false,
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let _ = poll(&mut [PollFd::new(self.file.as_fd(), PollFlags::POLLPRI)], timeout);
        }
    }
}
