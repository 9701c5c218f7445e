//! The contents of a directory into a filesystem that will cover it. Works on descriptors and follows no links: what is
//! copied belongs to an image, and may be hostile.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, fchown, fchownat, symlinkat};

/// Copies what is in the directory `from` (an O_PATH descriptor will do) to `to`, with owners and modes.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut entries =
        Dir::openat(from, c".", OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let to = open(to, c".", OFlag::O_DIRECTORY)?;
    let from = entries.as_fd().try_clone_to_owned()?;
    for entry in entries.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from.as_fd(), to.as_fd(), name)?;
        }
    }
    // Last: a directory that may not be written to is filled first.
    same_owner(&to, &fstat(&from)?)
}

fn copy_entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let status = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
    match kind {
        SFlag::S_IFDIR => {
            mkdirat(to, name, Mode::S_IRWXU)?;
            let open = |at| open(at, name, OFlag::O_DIRECTORY);
            copy(open(from)?.as_fd(), open(to)?.as_fd())
        }
        SFlag::S_IFREG => {
            let mut source = File::from(open(from, name, OFlag::O_NONBLOCK)?);
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
            let mut copied = File::from(open(to, name, flags)?);
            io::copy(&mut source, &mut copied)?;
            same_owner(&copied.into(), &fstat(&source)?)
        }
        SFlag::S_IFLNK => {
            symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?;
            same_owner_at(to, name, &status)
        }
        // Nobody listens at a copy.
        SFlag::S_IFSOCK => Ok(()),
        _ => {
            mknodat(to, name, kind, permissions(&status), status.st_rdev)?;
            same_owner_at(to, name, &status)
        }
    }
}

fn open(at: BorrowedFd<'_>, name: &CStr, flags: OFlag) -> io::Result<OwnedFd> {
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(at, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?)
}

fn permissions(status: &FileStat) -> Mode {
    Mode::from_bits_truncate(status.st_mode)
}

fn same_owner(fd: &OwnedFd, status: &FileStat) -> io::Result<()> {
    fchown(fd, Some(Uid::from_raw(status.st_uid)), Some(Gid::from_raw(status.st_gid)))?;
    // After the owner, whose change clears set-user-id.
    Ok(fchmod(fd, permissions(status))?)
}

fn same_owner_at(at: BorrowedFd<'_>, name: &CStr, status: &FileStat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
    Ok(fchownat(at, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?)
}
