//! The end of a cgroup: everything in it killed, itself and what its processes made below it removed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::events::Events;
use super::{CgroupError, failed, is_absent, tree, write_file};
use crate::sys::pidfd;

/// How long [`remove`] waits for killed processes to be gone.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);

/// How often the processes of a cgroup without `cgroup.kill` are signalled: they may fork meanwhile.
const ROUNDS: u32 = 1000;

/// Kills every process in the cgroup and below it, frozen ones too. An absent cgroup has none.
pub fn kill(cgroup: &Path) -> Result<(), CgroupError> {
    let path = cgroup.join("cgroup.kill");
    match write_file(&path, "1") {
        Ok(()) => Ok(()),
        Err(error) if is_absent(&error) && cgroup.exists() => kill_each(cgroup),
        Err(error) if is_absent(&error) => Ok(()),
        Err(error) => Err(CgroupError::Write { path, value: "1".into(), error }),
    }
}

/// Before Linux 5.14, and in threaded cgroups.
fn kill_each(cgroup: &Path) -> Result<(), CgroupError> {
    for _ in 0..ROUNDS {
        // Who stands still does not fork. Where that cannot be had, rounds must do.
        let frozen = super::freeze(cgroup).is_ok();
        let signalled = signal(cgroup, libc::SIGKILL);
        if frozen {
            super::thaw(cgroup)?;
        }
        if frozen || signalled? == 0 {
            break;
        }
    }
    Ok(())
}

/// Sends a signal to every process in the cgroup and below it; tells how many there were. The tree's top, which alone
/// has no `cgroup.events`, is refused: that would be every process of the machine.
pub fn signal(cgroup: &Path, number: i32) -> Result<usize, CgroupError> {
    if !cgroup.join("cgroup.events").exists() && cgroup.exists() {
        return Err(CgroupError::NotCgroup { path: cgroup.to_owned() });
    }
    let pids = match tree::all_processes(cgroup) {
        Err(CgroupError::Io { error, .. }) if is_absent(&error) => Vec::new(),
        other => other?,
    };
    for pid in &pids {
        // One that has just ended needs no signal.
        let _ = pidfd::open(*pid).and_then(|process| pidfd::send_signal(process.as_fd(), number));
    }
    Ok(pids.len())
}

/// Removes the cgroup and those below it, waiting (bounded) for processes that have been killed but are not
/// gone yet. An absent cgroup is no error.
pub fn remove(cgroup: &Path) -> Result<(), CgroupError> {
    remove_within(cgroup, EMPTY_WITHIN)
}

/// As [`remove`], but waits no longer than that.
pub(crate) fn remove_within(cgroup: &Path, patience: Duration) -> Result<(), CgroupError> {
    match try_remove(cgroup) {
        Ok(()) => return Ok(()),
        Err(Errno::EBUSY) => {}
        Err(errno) => return Err(failed("remove cgroup", cgroup)(errno.into())),
    }
    let deadline = Instant::now() + patience;
    if let Ok(mut events) = Events::open(cgroup) {
        events.wait(b"populated 0", deadline);
    }
    match remove_below(cgroup, deadline) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(Errno::EBUSY) => return Err(CgroupError::Busy { path: cgroup.to_owned() }),
        Err(errno) => return Err(failed("remove the cgroups below", cgroup)(errno.into())),
    }
    match try_remove(cgroup) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Err(CgroupError::Busy { path: cgroup.to_owned() }),
        Err(errno) => Err(failed("remove cgroup", cgroup)(errno.into())),
    }
}

/// Removes the cgroup if nothing is in it, without waiting.
pub(crate) fn try_remove(cgroup: &Path) -> Result<(), Errno> {
    match fs::remove_dir(cgroup) {
        Err(error) if !is_absent(&error) => {
            Err(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
        }
        _ => Ok(()),
    }
}

/// Removes what is below `top`, deepest first. Step by step with one descriptor: containers may nest cgroups
/// deeper than a path can be long or descriptors can be many.
fn remove_below(top: &Path, deadline: Instant) -> Result<(), Errno> {
    let mut here: OwnedFd =
        File::open(top).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?.into();
    let mut names: Vec<OsString> = Vec::new();
    loop {
        match first_child(here.as_fd())? {
            Some(name) => {
                here = open(here.as_fd(), &name)?;
                names.push(name);
            }
            None => {
                let Some(name) = names.pop() else { return Ok(()) };
                let parent = open(here.as_fd(), OsStr::new(".."))?;
                remove_empty(parent.as_fd(), &name, here.as_fd(), deadline)?;
                here = parent;
            }
        }
    }
}

/// A directory without children goes as soon as its last process has gone.
fn remove_empty(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    itself: BorrowedFd<'_>,
    deadline: Instant,
) -> Result<(), Errno> {
    match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
        Err(Errno::EBUSY) => {}
        Err(Errno::ENOENT) => return Ok(()),
        other => return other,
    }
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let file = openat(itself, "cgroup.events", flags, Mode::empty())?;
    Events::of(File::from(file)).wait(b"populated 0", deadline);
    unlinkat(parent, name, UnlinkatFlags::RemoveDir)
}

fn open(at: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    openat(at, name, flags, Mode::empty())
}

fn first_child(directory: BorrowedFd<'_>) -> Result<Option<OsString>, Errno> {
    let mut entries = Dir::from_fd(open(directory, OsStr::new("."))?)?;
    for entry in entries.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if entry.file_type() == Some(Type::Directory) && name != b"." && name != b".." {
            return Ok(Some(OsStr::from_bytes(name).to_owned()));
        }
    }
    Ok(None)
}

/// Whether any process lives in the cgroup or below it.
pub fn is_populated(cgroup: &Path) -> bool {
    Events::open(cgroup).and_then(|events| events.says(b"populated 1")).unwrap_or(false)
}

/// Kills everything in a Pod's cgroup (its supervisor included) and removes it.
pub fn kill_pod(cgroup: &Path) -> Result<(), CgroupError> {
    kill_and_remove(cgroup, EMPTY_WITHIN)
}

pub(crate) fn kill_and_remove(cgroup: &Path, patience: Duration) -> Result<(), CgroupError> {
    // Most are empty by now.
    if try_remove(cgroup).is_ok() {
        return Ok(());
    }
    kill(cgroup)?;
    remove_within(cgroup, patience)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_machine_is_not_signalled() {
        // Signal 0 asks only: were this to fail, nobody would be hurt.
        let top = crate::cgroup::detect().unwrap().mount;
        assert!(matches!(signal(&top, 0), Err(CgroupError::NotCgroup { .. })));
        assert!(matches!(signal(Path::new("/"), 0), Err(CgroupError::NotCgroup { .. })));
        assert_eq!(signal(&top.join("kobune-no-such"), 0).unwrap(), 0);
    }
}
