//! Into a running container, or into a user namespace: what of it the process does itself.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use nix::sys::stat::{FileStat, stat};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::child::{Done, Inherited};
use super::process;
use crate::plan::Plan;
use crate::sys::{fdpass, process as sys};

/// All namespaces of the process `init` but the pid namespace, which we were born into.
pub(super) fn container(inherited: &Inherited, channel: BorrowedFd<'_>) -> Done {
    let init = sys::adopt(inherited.extra_number());
    let all = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    let users = CloneFlags::CLONE_NEWUSER;
    let time = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);
    // All at once or none. A user namespace that is ours already is refused, and so is a kind that the kernel lacks.
    let outside = stat("/")?;
    for more in [users | time, time, users, CloneFlags::empty()] {
        match setns(&init, all | more) {
            Err(Errno::EINVAL) if !more.is_empty() => {}
            Err(errno) => return Err(errno.into()),
            Ok(()) => {
                change_root(init.as_fd(), &outside)?;
                if more.contains(users) {
                    become_root()?;
                    stay_mortal(inherited.mortal, channel)?;
                }
                break;
            }
        }
    }
    Ok(())
}

/// A container without a mount namespace has only a root of its own: still seeing the host's, we take that.
fn change_root(init: BorrowedFd<'_>, outside: &FileStat) -> Done {
    let now = stat("/")?;
    if (now.st_dev, now.st_ino) != (outside.st_dev, outside.st_ino) {
        return Ok(());
    }
    // The mounts are the host's, and so is this /proc.
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", init.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap_or_default();
    let path = format!("/proc/{}/root", pid.trim());
    super::root::change(super::root::open_directory(Path::new(&path))?.as_fd())
}

/// Waits until our ids are mapped, if they are to be, and takes those of the new user namespace.
pub(super) fn users(plan: &Plan, channel: BorrowedFd<'_>, mortal: bool) -> Done {
    if !plan.has_users() {
        return Ok(());
    }
    let mut byte = [0u8; 1];
    if plan.users.is_some() && fdpass::receive(channel, &mut byte, &mut Vec::new())? != 1 {
        // The parent failed, and has told why.
        sys::exit_now(128);
    }
    become_root()?;
    stay_mortal(mortal, channel)
}

/// Root of the user namespace that we have entered, without the groups of the host's root.
pub(super) fn become_root() -> Done {
    match setgroups(&[]) {
        // A namespace that somebody without privileges made: nobody in it may, and the groups are as they are.
        Err(Errno::EPERM) if users_may_not_set_groups() => {}
        other => other?,
    }
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid)?;
    Ok(setresuid(uid, uid, uid)?)
}

fn users_may_not_set_groups() -> bool {
    std::fs::read("/proc/self/setgroups").is_ok_and(|text| text.starts_with(b"deny"))
}

/// Changing the user has cleared the parent-death signal.
fn stay_mortal(mortal: bool, channel: BorrowedFd<'_>) -> Done {
    if mortal {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        process::end_without(channel)?;
    }
    Ok(())
}
