//! User namespaces, the parent's part: ids are mapped, and the new process is given what it cannot take itself once
//! it is root of nothing but its namespace.

use std::fs::{self, File};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid, Uid, fchown, fchownat};

use super::{LaunchError, failed};
use crate::plan::{IdMaps, Plan, encode_ids};
use crate::sys::clone::{self, Child};
use crate::sys::process as sys;

/// Maps the ids of a child in a new user namespace, and does for it what needs the host's privileges.
pub(super) fn settle(
    plan: &Plan,
    maps: &IdMaps,
    child: &Child,
    streams: [BorrowedFd<'_>; 3],
) -> Result<(), LaunchError> {
    map(child.pid, maps).map_err(failed("map the ids of the user namespace"))?;
    for limit in &plan.process.limits {
        match sys::raise_limit(child.pid, limit.resource, limit.hard) {
            // We may not either: the process sees to it, as it would without a user namespace.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
            other => other.map_err(|error| failed(limit.verb())(error))?,
        }
    }
    if let Some(score) = plan.process.oom_score_adj {
        let set = fs::write(format!("/proc/{}/oom_score_adj", child.pid), score.to_string());
        match set {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => {}
            other => other.map_err(failed("set oom_score_adj"))?,
        }
    }
    own_streams(plan, maps, streams).map_err(failed("give the standard streams to the user"))
}

/// What of a cgroup its owner needs to divide it, when the kernel does not tell (before Linux 4.15).
const DELEGATED: &str = "cgroup.procs cgroup.subtree_control cgroup.threads";

/// Gives the directory of a cgroup, and the files in it that are no limits, to a user.
pub(super) fn own_cgroup(cgroup: BorrowedFd<'_>, owner: u32) -> io::Result<()> {
    let owner = Some(Uid::from_raw(owner));
    fchown(cgroup, owner, None)?;
    let names = fs::read_to_string("/sys/kernel/cgroup/delegate");
    for name in names.as_deref().unwrap_or(DELEGATED).split_whitespace() {
        match fchownat(cgroup, name, owner, None, AtFlags::AT_SYMLINK_NOFOLLOW) {
            // Some come with a controller that this cgroup lacks.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn map(pid: i32, maps: &IdMaps) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/uid_map"), encode_ids(&maps.uids))?;
    fs::write(format!("/proc/{pid}/gid_map"), encode_ids(&maps.gids))
}

/// Pipes belong to the user, or /dev/stdout could not be opened by name.
fn own_streams(plan: &Plan, maps: &IdMaps, streams: [BorrowedFd<'_>; 3]) -> io::Result<()> {
    let uid = maps.outside_uid(plan.process.uid).map(Uid::from_raw);
    let gid = maps.outside_gid(plan.process.gid).map(Gid::from_raw);
    for stream in streams {
        let kind = SFlag::from_bits_truncate(fstat(stream)?.st_mode) & SFlag::S_IFMT;
        if kind == SFlag::S_IFIFO {
            fchown(stream, uid, gid)?;
        }
    }
    Ok(())
}

/// The user namespace of a process of ours.
pub(super) fn of(child: &Child) -> io::Result<OwnedFd> {
    Ok(File::open(format!("/proc/{}/ns/user", child.pid))?.into())
}

/// A user namespace with these maps and nobody in it, for a mount.
pub(super) fn make(maps: &IdMaps) -> io::Result<OwnedFd> {
    let child = clone::spawn(libc::CLONE_NEWUSER, None, || {
        // Nobody but us ends it.
        if nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).is_ok() {
            nix::unistd::pause();
        }
        0
    })?;
    let made = map(child.pid, maps).and_then(|()| of(&child));
    end(&child)?;
    made
}

/// Kills a child and takes its exit, so that nobody else sees it.
pub(super) fn end(child: &Child) -> io::Result<()> {
    let pid = Pid::from_raw(child.pid);
    let _ = kill(pid, Signal::SIGKILL);
    wait(pid)
}

/// Takes the exit of a child, so that nobody else sees it.
pub(super) fn wait(pid: Pid) -> io::Result<()> {
    loop {
        match waitpid(pid, None) {
            Err(Errno::EINTR) => {}
            // SIGCHLD is ignored: the kernel took it.
            Ok(_) | Err(Errno::ECHILD) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}
