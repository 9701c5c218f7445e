//! What is made in /dev: device nodes, links, and the console.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, SFlag, fstat, fstatat, makedev, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};

use super::inside::{self, LastParent};
use super::prepared::Prepared;
use super::process::Terminal;
use crate::plan::{Device, DeviceKind};
use crate::sys::mount::{self as kernel, MountAttr};

/// Makes a device node; what has its name and is something else is replaced.
pub(super) fn device(
    root: BorrowedFd<'_>,
    parents: &mut LastParent,
    device: &Device,
    prepared: &mut Vec<Prepared>,
) -> io::Result<()> {
    let (parent, name) = parents.of(root, &device.path)?;
    let (kind, number) = identity(device);
    let mode = Mode::from_bits_truncate(device.mode);
    let mut made = mknodat(parent, name, kind, mode, number);
    if made == Err(Errno::EEXIST) {
        let found = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let found_kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
        if found_kind == kind && found.st_rdev == number {
            return Ok(());
        }
        unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?;
        made = mknodat(parent, name, kind, mode, number);
    }
    match made {
        // We may not make nodes here: one that is there already is shown instead.
        Err(Errno::EPERM) => {
            let at = prepared.iter().position(|node| node.path == device.path);
            let node = match at.map(|at| prepared.swap_remove(at)) {
                Some(node) => node.mount,
                None => of_host(device)?,
            };
            return kernel::attach(node.as_fd(), inside::make_file(root, &device.path)?.as_fd());
        }
        other => other?,
    }
    if device.uid != 0 || device.gid != 0 {
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// What a device node is, whatever its name.
pub(super) fn identity(device: &Device) -> (SFlag, u64) {
    let kind = match device.kind {
        DeviceKind::Block => SFlag::S_IFBLK,
        DeviceKind::Character => SFlag::S_IFCHR,
        DeviceKind::Fifo => SFlag::S_IFIFO,
    };
    (kind, makedev(device.major, device.minor))
}

/// The host's node of that name, if it is this device.
fn of_host(device: &Device) -> io::Result<OwnedFd> {
    let source = std::ffi::CString::new(device.path.as_os_str().as_bytes())?;
    let mount = kernel::open_tree_clone(nix::fcntl::AT_FDCWD, &source, false)?;
    let found = fstat(&mount)?;
    let found_kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
    if (found_kind, found.st_rdev) != identity(device) {
        // As mknod said.
        return Err(Errno::EPERM.into());
    }
    kernel::mount_setattr(mount.as_fd(), &NODE, false)?;
    Ok(mount)
}

/// A device node is opened, and nothing else.
const NODE: MountAttr = MountAttr {
    set: kernel::ATTR_NOSUID | kernel::ATTR_NOEXEC,
    clear: 0,
    propagation: 0,
    userns_fd: 0,
};

/// Makes a link that every container has; one that is there already is replaced.
pub(super) fn symlink(
    root: BorrowedFd<'_>,
    parents: &mut LastParent,
    path: &Path,
    target: &str,
) -> io::Result<()> {
    let (parent, name) = parents.of(root, path)?;
    match symlinkat(target, parent, name) {
        Err(Errno::EEXIST) => {}
        other => return Ok(other?),
    }
    // A directory in the image stays: it cannot be removed, and nobody is worse off.
    let _ = unlinkat(parent, name, UnlinkatFlags::NoRemoveDir);
    match symlinkat(target, parent, name) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Puts the terminal on /dev/console.
pub(super) fn console(root: BorrowedFd<'_>, terminal: &Terminal) -> io::Result<()> {
    let mount = kernel::open_tree_clone(terminal.peer.as_fd(), c"", false)?;
    kernel::attach(mount.as_fd(), inside::make_file(root, Path::new("/dev/console"))?.as_fd())
}
