//! Mounts inside the new root, and the read-only and masked paths. Destinations are resolved by [`inside`]; mounts get
//! their attributes while still detached.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat};

use super::{inside, root};
use crate::plan::{Change, MountKind, MountPlan};
use crate::sys::mount::{self as kernel, Filesystem, MountAttr};

/// Makes one mount of config.json; a bind mount may have been opened by the parent.
pub(super) fn mount(
    root: BorrowedFd<'_>,
    plan: &MountPlan,
    opened: Option<OwnedFd>,
) -> io::Result<()> {
    let (mount, target) = match &plan.kind {
        MountKind::Bind { source, recursive } => {
            let mount = match opened {
                Some(mount) => mount,
                None => open_source(source, *recursive)?,
            };
            let target = bind_target(root, &mount, &plan.destination)?;
            (mount, target)
        }
        MountKind::Cgroup => {
            let mount = cgroup()?;
            (mount, inside::make_directory(root, &plan.destination)?)
        }
        MountKind::Filesystem { kind, source, options, instead } => {
            let mount = match (filesystem(kind, source.as_deref(), options), instead) {
                (Err(error), Some(host)) if error.raw_os_error() == Some(libc::EPERM) => {
                    // With all below it: what hides a part of it must stay.
                    let mount = open_source(Path::new(host), true).map_err(|_| error)?;
                    change(mount.as_fd(), plan.change, true)?;
                    mount
                }
                (made, _) => made?,
            };
            (mount, filesystem_target(root, kind, &plan.destination)?)
        }
    };
    change(mount.as_fd(), plan.change, false)?;
    change(mount.as_fd(), plan.recursive, true)?;
    kernel::attach(mount.as_fd(), target.as_fd())?;
    if let Some((propagation, recursive)) = plan.propagation {
        // After attaching: below a shared mount the new one has just become shared, too.
        let attr = MountAttr { propagation, ..MountAttr::default() };
        kernel::mount_setattr(mount.as_fd(), &attr, recursive)?;
    }
    Ok(())
}

fn change(mount: BorrowedFd<'_>, change: Change, recursive: bool) -> io::Result<()> {
    if change.is_empty() {
        return Ok(());
    }
    let attr = MountAttr { set: change.set, clear: change.clear, ..MountAttr::default() };
    kernel::mount_setattr(mount, &attr, recursive)
}

/// A detached copy of what is at `source` on the host.
pub(super) fn open_source(source: &Path, recursive: bool) -> io::Result<OwnedFd> {
    kernel::open_tree_clone(nix::fcntl::AT_FDCWD, &path(source)?, recursive)
}

fn bind_target(root: BorrowedFd<'_>, mount: &OwnedFd, destination: &Path) -> io::Result<OwnedFd> {
    if is(mount, SFlag::S_IFDIR)? {
        inside::make_directory(root, destination)
    } else {
        inside::make_file(root, destination)
    }
}

fn path(path: &Path) -> io::Result<std::ffi::CString> {
    Ok(std::ffi::CString::new(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))?)
}

fn is(fd: &OwnedFd, kind: SFlag) -> io::Result<bool> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT == kind)
}

fn filesystem(
    kind: &str,
    source: Option<&str>,
    options: &[(String, Option<String>)],
) -> io::Result<OwnedFd> {
    let new = Filesystem::open(kind)?;
    let made = new.set("source", Some(source.unwrap_or(kind))).and_then(|()| {
        options.iter().try_for_each(|(key, value)| new.set(key, value.as_deref()))?;
        new.mount(0)
    });
    made.map_err(|error| root::explain(&new, error))
}

/// What is mounted on /proc and /sys is trusted later, so a rootfs must not choose where that is
/// (CVE-2019-19921).
fn filesystem_target(root: BorrowedFd<'_>, kind: &str, destination: &Path) -> io::Result<OwnedFd> {
    let target = inside::make_directory(root, destination)?;
    if matches!(kind, "proc" | "sysfs") {
        return inside::open_without_links(root, destination, OFlag::O_PATH | OFlag::O_DIRECTORY);
    }
    Ok(target)
}

/// The container's own cgroup: a mount of cgroup2 begins at the top of our cgroup namespace; when that is the
/// host's, our part of the host's mount is shown instead.
fn cgroup() -> io::Result<OwnedFd> {
    let lines = std::fs::read_to_string("/proc/self/cgroup")?;
    let own = lines.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    // In a cgroup namespace that is joined ours may lie beside its top.
    if own == "/" || own.starts_with("/..") {
        return filesystem("cgroup2", Some("cgroup"), &[]);
    }
    let host = crate::cgroup::detect().map_err(|error| io::Error::other(error.to_string()))?;
    let mount = kernel::open_tree_clone(nix::fcntl::AT_FDCWD, &path(&host.path(own))?, false)?;
    Ok(mount)
}

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

/// Hides what is at `path`: a directory under an empty one, anything else under /dev/null.
pub(super) fn mask(root: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let Some(found) = existing(root, path)? else { return Ok(()) };
    let mount = if is(&found, SFlag::S_IFDIR)? {
        let empty = Filesystem::open("tmpfs")?;
        empty.set("size", Some("0"))?;
        let empty = empty.mount(0)?;
        let attr = MountAttr { set: kernel::ATTR_RDONLY, ..MountAttr::default() };
        kernel::mount_setattr(empty.as_fd(), &attr, false)?;
        empty
    } else {
        kernel::open_tree_clone(null_device(root)?.as_fd(), c"", false)?
    };
    kernel::attach(mount.as_fd(), found.as_fd())
}

/// The container's /dev/null, if it really is that (CVE-2025-31133).
fn null_device(root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let null = inside::open_without_links(root, Path::new("/dev/null"), OFlag::O_PATH)?;
    let genuine =
        is(&null, SFlag::S_IFCHR)? && fstat(&null)?.st_rdev == nix::sys::stat::makedev(1, 3);
    if genuine { Ok(null) } else { Err(io::Error::other("/dev/null is not the null device")) }
}

pub(super) fn make_root_readonly(root: BorrowedFd<'_>) -> io::Result<()> {
    let attr = MountAttr { set: kernel::ATTR_RDONLY, ..MountAttr::default() };
    kernel::mount_setattr(root, &attr, false)
}
