//! Mounts inside the new root. Destinations are resolved by [`inside`]; mounts get
//! their attributes while still detached.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat};

use super::{copy_up, inside, root};
use crate::plan::{Change, Instead, MountKind, MountPlan};
use crate::sys::mount::{self as kernel, Filesystem, MountAttr};

/// Makes one mount of config.json and returns it; somebody with more rights may have opened it for us.
pub(super) fn mount(
    root: BorrowedFd<'_>,
    plan: &MountPlan,
    opened: Option<OwnedFd>,
) -> io::Result<OwnedFd> {
    let (mount, target) = match &plan.kind {
        MountKind::Remount { options } => return remount(root, plan, options),
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
        MountKind::Filesystem { kind, options, .. } => {
            let (target, mode) = filesystem_target(root, kind, &plan.destination)?;
            if options.iter().any(|(_, value)| is_long(value)) {
                return mount_at_once(root, plan, target.as_fd());
            }
            let mount = match opened {
                Some(mount) => mount,
                None => new_filesystem(plan, target.as_fd(), mode)?,
            };
            (mount, target)
        }
    };
    change(mount.as_fd(), plan.change, false)?;
    change(mount.as_fd(), plan.recursive, true)?;
    kernel::attach(mount.as_fd(), target.as_fd())?;
    propagate(mount.as_fd(), plan)?;
    Ok(mount)
}

/// After attaching: below a shared mount the new one has just become shared, too.
fn propagate(mount: BorrowedFd<'_>, plan: &MountPlan) -> io::Result<()> {
    let Some((propagation, recursive)) = plan.propagation else { return Ok(()) };
    let attr = MountAttr { propagation, ..MountAttr::default() };
    kernel::mount_setattr(mount, &attr, recursive)
}

/// Other attributes for a mount that is there.
fn remount(
    root: BorrowedFd<'_>,
    plan: &MountPlan,
    options: &[(String, Option<String>)],
) -> io::Result<OwnedFd> {
    let mount = inside::open(root, &plan.destination, OFlag::O_PATH)?;
    if !options.is_empty() {
        let filesystem = Filesystem::of(mount.as_fd())?;
        set_options(&filesystem, options)
            .and_then(|()| filesystem.reconfigure())
            .map_err(|error| root::explain(&filesystem, error))?;
    }
    change(mount.as_fd(), plan.change, false)?;
    change(mount.as_fd(), plan.recursive, true)?;
    propagate(mount.as_fd(), plan)?;
    Ok(mount)
}

/// A detached mount of a new filesystem. `mode` is that of the directory it will cover.
fn new_filesystem(
    plan: &MountPlan,
    target: BorrowedFd<'_>,
    mode: Option<u32>,
) -> io::Result<OwnedFd> {
    let MountKind::Filesystem { kind, source, options, instead, copy_up } = &plan.kind else {
        return Err(io::Error::other("not a filesystem"));
    };
    let has_mode = options.iter().any(|(key, _)| key == "mode");
    let mode = mode.filter(|_| kind == "tmpfs" && !has_mode);
    match (filesystem(kind, source.as_deref(), options, mode), instead) {
        (Err(error), Some(Instead::Host(host))) if error.raw_os_error() == Some(libc::EPERM) => {
            // With all below it: what hides a part of it must stay.
            let mount = open_source(Path::new(host), true).map_err(|_| error)?;
            change(mount.as_fd(), plan.change, true)?;
            Ok(mount)
        }
        (Ok(mount), _) if *copy_up => {
            copy_up::copy(target, mount.as_fd())?;
            Ok(mount)
        }
        (made, _) => made,
    }
}

/// A mount that the container's first process may not make itself, from a process that may.
pub(super) fn made_on_the_way(plan: &MountPlan) -> io::Result<Option<OwnedFd>> {
    match &plan.kind {
        MountKind::Filesystem { kind, source, options, instead: Some(Instead::Stage), .. } => {
            filesystem(kind, source.as_deref(), options, None).map(Some)
        }
        _ => Ok(None),
    }
}

/// Longer than fsconfig takes.
fn is_long(value: &Option<String>) -> bool {
    value.as_ref().is_some_and(|value| value.len() >= root::MAX_VALUE)
}

/// The old way, for options that are longer than the new one takes (an overlay of many layers).
fn mount_at_once(
    root: BorrowedFd<'_>,
    plan: &MountPlan,
    target: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    let MountKind::Filesystem { kind, source, options, .. } = &plan.kind else {
        return Err(io::Error::other("not a filesystem"));
    };
    let words = options.iter().map(|(key, value)| match value {
        // Labels have commas.
        Some(value) if key == "context" => format!("{key}=\"{value}\""),
        Some(value) => format!("{key}={value}"),
        None => key.clone(),
    });
    let data = words.collect::<Vec<_>>().join(",");
    let source = source.as_deref().unwrap_or(kind);
    // By its descriptor: no path is looked up twice.
    let place = format!("/proc/self/fd/{}", target.as_raw_fd());
    let flags = kernel::mount_flags(plan.change.set | plan.recursive.set);
    nix::mount::mount(Some(source), &*place, Some(&**kind), flags, Some(&*data))?;
    let mount = inside::open(root, &plan.destination, OFlag::O_PATH)?;
    propagate(mount.as_fd(), plan)?;
    Ok(mount)
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

pub(super) fn is(fd: &OwnedFd, kind: SFlag) -> io::Result<bool> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT == kind)
}

fn filesystem(
    kind: &str,
    source: Option<&str>,
    options: &[(String, Option<String>)],
    mode: Option<u32>,
) -> io::Result<OwnedFd> {
    let new = Filesystem::open(kind)?;
    let made = new.set("source", Some(source.unwrap_or(kind))).and_then(|()| {
        if let Some(mode) = mode {
            new.set("mode", Some(&format!("{mode:o}")))?;
        }
        set_options(&new, options)?;
        new.mount(0)
    });
    made.map_err(|error| root::explain(&new, error))
}

fn set_options(filesystem: &Filesystem, options: &[(String, Option<String>)]) -> io::Result<()> {
    options.iter().try_for_each(|(key, value)| filesystem.set(key, value.as_deref()))
}

/// Where to mount a filesystem, and the mode of what was there already if that matters: a tmpfs looks like what it
/// covers, as runc has it.
fn filesystem_target(
    root: BorrowedFd<'_>,
    kind: &str,
    destination: &Path,
) -> io::Result<(OwnedFd, Option<u32>)> {
    if kind == "tmpfs" {
        match inside::open(root, destination, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Ok(target) => {
                let mode = fstat(&target)?.st_mode & 0o7777;
                return Ok((target, Some(mode)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let target = inside::make_directory(root, destination)?;
    if matches!(kind, "proc" | "sysfs") {
        // What is mounted on /proc and /sys is trusted later, so a rootfs must not choose where that is
        // (CVE-2019-19921).
        let wanted = OFlag::O_PATH | OFlag::O_DIRECTORY;
        return Ok((inside::open_without_links(root, destination, wanted)?, None));
    }
    Ok((target, None))
}

/// The container's own cgroup: a mount of cgroup2 begins at the top of our cgroup namespace; when that is the
/// host's, our part of the host's mount is shown instead.
fn cgroup() -> io::Result<OwnedFd> {
    let lines = std::fs::read_to_string("/proc/self/cgroup")?;
    let own = lines.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    // In a cgroup namespace that is joined ours may lie beside its top.
    if own == "/" || own.starts_with("/..") {
        return filesystem("cgroup2", Some("cgroup"), &[], None);
    }
    let host = crate::cgroup::detect().map_err(|error| io::Error::other(error.to_string()))?;
    let mount = kernel::open_tree_clone(nix::fcntl::AT_FDCWD, &path(&host.path(own))?, false)?;
    Ok(mount)
}
