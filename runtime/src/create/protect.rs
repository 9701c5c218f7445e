//! What the finished container may not write to or not see at all: read-only and masked paths, and a read-only root.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat};

use super::inside;
use super::mounts::is;
use crate::sys::mount::{self as kernel, Filesystem, MountAttr};

/// Opens a path of the finished container, `None` when there is none: nothing to protect then.
fn existing(root: BorrowedFd<'_>, path: &Path) -> io::Result<Option<OwnedFd>> {
    match inside::open(root, path, OFlag::O_PATH) {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Makes what is at `path`, and all below it, read-only.
pub(super) fn make_readonly(root: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let Some(found) = existing(root, path)? else { return Ok(()) };
    let mount = kernel::open_tree_clone(found.as_fd(), c"", true)?;
    let attr = MountAttr { set: kernel::ATTR_RDONLY, ..MountAttr::default() };
    kernel::mount_setattr(mount.as_fd(), &attr, true)?;
    kernel::attach(mount.as_fd(), found.as_fd())
}

/// What masked paths are hidden under, made for the first and used for all: a filesystem of its own for each empty
/// directory would be the dearest part of it, when it is made and again when it goes.
#[derive(Debug, Default)]
pub(super) struct Masks {
    /// Attached: older kernels copy no mount that is not.
    empty: Option<OwnedFd>,
    null: Option<OwnedFd>,
}

impl Masks {
    /// Hides what is at `path`: a directory under an empty one, anything else under /dev/null.
    pub(super) fn mask(&mut self, root: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
        let Some(found) = existing(root, path)? else { return Ok(()) };
        let cover = if is(&found, SFlag::S_IFDIR)? {
            let Some(empty) = &self.empty else {
                let empty = self.empty.insert(empty_directory()?);
                return kernel::attach(empty.as_fd(), found.as_fd());
            };
            empty
        } else {
            match self.null.take() {
                Some(null) => self.null.insert(null),
                None => self.null.insert(null_device(root)?),
            }
        };
        let mount = kernel::open_tree_clone(cover.as_fd(), c"", false)?;
        kernel::attach(mount.as_fd(), found.as_fd())
    }
}

fn empty_directory() -> io::Result<OwnedFd> {
    let empty = Filesystem::open("tmpfs")?;
    empty.set("size", Some("0"))?;
    empty.mount(kernel::ATTR_RDONLY)
}

/// The container's /dev/null, if it really is that (CVE-2025-31133).
fn null_device(root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let null = inside::open_without_links(root, Path::new("/dev/null"), OFlag::O_PATH)?;
    let status = fstat(&null)?;
    let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
    let genuine = kind == SFlag::S_IFCHR && status.st_rdev == nix::sys::stat::makedev(1, 3);
    if genuine { Ok(null) } else { Err(io::Error::other("/dev/null is not the null device")) }
}

pub(super) fn make_root_readonly(root: BorrowedFd<'_>) -> io::Result<()> {
    let attr = MountAttr { set: kernel::ATTR_RDONLY, ..MountAttr::default() };
    kernel::mount_setattr(root, &attr, false)
}
