//! An overlay for a container in a user namespace: its layers are shown with the container's ids, so that what is root's
//! in an image is the container's root's. Overlays take no ids of their own, so each layer gets a mount that does;
//! such a mount must be attached somewhere, which a process in a mount namespace of its own does.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;

use super::{root, users};
use crate::plan::Root;
use crate::sys::mount as kernel;
use crate::sys::{clone, fdpass, process as sys};

/// Longer than any reason.
const MAX_ANSWER: usize = 1024;

/// The overlay, detached; ids are mapped by the user namespace.
pub(super) fn overlay(root: &Root, users: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let Root::Overlay { upper, work, .. } = root else { return root::detached(root) };
    fs::create_dir_all(upper)?;
    fs::create_dir_all(work)?;
    let kind = SockType::SeqPacket;
    let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?;
    let helper = clone::spawn(libc::CLONE_NEWNS, None, || {
        let told = match mount(root, users) {
            Ok(mount) => fdpass::send_all(&theirs, b"M", &[mount.as_fd()]),
            Err(error) => fdpass::send_all(&theirs, sys::reason(&error).as_bytes(), &[]),
        };
        i32::from(told.is_err())
    })?;
    drop(theirs);
    let (mut answer, mut fds) = ([0u8; MAX_ANSWER], Vec::new());
    let heard = fdpass::receive(ours.as_fd(), &mut answer, &mut fds);
    users::wait(Pid::from_raw(helper.pid))?;
    let length = heard?;
    let reason = || io::Error::other(String::from_utf8_lossy(&answer[..length]).into_owned());
    fds.pop().ok_or_else(reason)
}

fn mount(root: &Root, users: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    root::set_propagation("/", libc::MS_PRIVATE | libc::MS_REC)?;
    let Root::Overlay { lower, upper, .. } = root else { return root::detached(root) };
    let mut owner = None;
    for layer in lower {
        let shown = show_with_ids(layer, users)?;
        owner.get_or_insert(shown);
    }
    // The upper directory stays as it is: the overlay writes to it as we, and our ids are none of the container's. What
    // the container writes has its ids on the disk, too, and the topmost layer tells who owns the top.
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::chown(upper, Some(uid), Some(gid))?;
    }
    root::detached(root)
}

/// Covers the directory by itself, with other owners; returns its own.
fn show_with_ids(path: &Path, users: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let directory = root::open_directory(path)?;
    let mount = kernel::open_tree_clone(directory.as_fd(), c"", false)?;
    kernel::map_ids(mount.as_fd(), users, false).map_err(|error| {
        let why = sys::reason(&error);
        io::Error::other(format!("map the ids of layer {path:?}: {why}"))
    })?;
    kernel::attach(mount.as_fd(), directory.as_fd())?;
    let status = nix::sys::stat::fstat(&mount)?;
    Ok((status.st_uid, status.st_gid))
}
