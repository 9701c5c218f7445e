//! The few mounts that a Pod has on the host: memory-backed directories and subPaths. And their end.
//!
//! A subPath is resolved by the kernel and bound by descriptor, so that nobody who can write to the volume can
//! make it point elsewhere in between (CVE-2017-1002101, CVE-2021-25741).

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};

use super::{VolumeError, io as failed};

/// A tmpfs of at most `limit` bytes on `path`. One that is mounted there already is kept.
pub fn memory(path: &Path, limit: Option<u64>, mode: u32) -> Result<(), VolumeError> {
    fs::create_dir_all(path).map_err(failed("make directory", path))?;
    if is_mount_point(path)? {
        return Ok(());
    }
    let size = limit.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
    let options = format!("mode={mode:o}{size}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(|errno| failed("mount a tmpfs on", path)(errno.into()))
}

/// A directory that everybody in the Pod may write to; with `group` it belongs to it.
pub fn shared(path: &Path, group: Option<u32>) -> Result<(), VolumeError> {
    fs::create_dir_all(path).map_err(failed("make directory", path))?;
    if group.is_some() {
        chown(path, None, group).map_err(failed("change the group of", path))?;
    }
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(failed("change the mode of", path))
}

/// Binds `sub_path` of the volume at `root` to `target`; a missing one is made as a directory.
pub fn sub_path(
    volume: &str,
    root: &Path,
    sub_path: &str,
    target: &Path,
) -> Result<(), VolumeError> {
    let wrong = |problem: String| VolumeError::SubPath {
        volume: volume.into(),
        sub_path: sub_path.into(),
        problem,
    };
    let plain = Path::new(sub_path)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain {
        return Err(wrong("must be relative and without \"..\"".into()));
    }
    let found = resolve(root, sub_path).map_err(|errno| wrong(errno.desc().to_owned()))?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    let meta = fs::metadata(&source).map_err(failed("look at", &source))?;
    detach(target)?;
    make_target(target, meta.is_dir())?;
    mount(Some(&source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|errno| failed("bind a subPath to", target)(errno.into()))
}

fn make_target(target: &Path, directory: bool) -> Result<(), VolumeError> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(failed("make directory", parent))?;
    }
    if directory {
        fs::create_dir_all(target).map_err(failed("make directory", target))
    } else {
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(target)
            .map(drop)
            .map_err(failed("create", target))
    }
}

fn resolve(root: &Path, sub_path: &str) -> Result<OwnedFd, Errno> {
    let path_flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let root = open(root, path_flags | OFlag::O_DIRECTORY, Mode::empty())?;
    match beneath(&root, Path::new(sub_path)) {
        Err(Errno::ENOENT) => {}
        other => return other,
    }
    // Make it step by step, each step held by its descriptor.
    let mut directory = root;
    for part in Path::new(sub_path).components() {
        let Component::Normal(name) = part else { continue };
        match mkdirat(&directory, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        directory = beneath(&directory, Path::new(name))?;
    }
    Ok(directory)
}

fn beneath(directory: &impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(directory, path, how)
}

/// Unmounts everything at and below `directory`, innermost first. Absence is fine.
pub fn unmount_below(directory: &Path) -> Vec<VolumeError> {
    let points = match mount_points() {
        Ok(points) => points,
        Err(error) => return vec![error],
    };
    let mut below: Vec<PathBuf> =
        points.into_iter().filter(|point| point.starts_with(directory)).collect();
    // The list is in order of mounting.
    below.reverse();
    below.iter().filter_map(|point| detach(point).err()).collect()
}

fn detach(point: &Path) -> Result<(), VolumeError> {
    match umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(failed("unmount", point)(errno.into())),
    }
}

fn is_mount_point(path: &Path) -> Result<bool, VolumeError> {
    Ok(mount_points()?.iter().any(|point| point == path))
}

fn mount_points() -> Result<Vec<PathBuf>, VolumeError> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table).map_err(failed("read", table))?;
    Ok(text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).collect())
}

/// mountinfo writes blanks and backslashes in octal.
fn unescape(field: &str) -> PathBuf {
    let mut out = String::new();
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        match rest.get(at + 1..at + 4).and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(code) => {
                out.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out.into()
}

/// Removes a tree after making sure that nothing is mounted in it. Absence is fine.
pub fn remove_tree(directory: &Path) -> Vec<VolumeError> {
    let mut errors = unmount_below(directory);
    if errors.is_empty() {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                errors.push(failed("remove", directory)(error))
            }
            _ => {}
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CVE-2021-25741: a directory of the volume and a link out of it change places while it is resolved.
    #[test]
    fn a_sub_path_that_is_swapped_stays_in_the_volume() {
        use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
        use std::sync::atomic::{AtomicBool, Ordering};
        let root = tempfile::tempdir().unwrap();
        let (volume, outside) = (root.path().join("volume"), root.path().join("outside"));
        fs::create_dir_all(volume.join("x/inner")).unwrap();
        fs::create_dir_all(outside.join("inner")).unwrap();
        std::os::unix::fs::symlink("../outside", volume.join("link")).unwrap();
        let (one, other) = (volume.join("x"), volume.join("link"));
        let over = AtomicBool::new(false);
        let mut found = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let flags = RenameFlags::RENAME_EXCHANGE;
                    renameat2(AT_FDCWD, &one, AT_FDCWD, &other, flags).unwrap();
                }
            });
            for round in 0..3000 {
                let path = if round % 2 == 0 { "x/inner" } else { "x/made/deep" };
                let Ok(fd) = resolve(&volume, path) else { continue };
                let place = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
                assert!(place.starts_with(&volume), "{place:?}");
                found += 1;
            }
            over.store(true, Ordering::Relaxed);
        });
        assert!(found > 0, "it was never there");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::read_dir(outside.join("inner")).unwrap().count(), 0);
    }

    #[test]
    fn a_sub_path_is_made_and_never_leaves_the_volume() {
        let root = tempfile::tempdir().unwrap();
        let volume = root.path().join("volume");
        fs::create_dir_all(volume.join("real")).unwrap();
        fs::create_dir(root.path().join("outside")).unwrap();
        std::os::unix::fs::symlink("../outside", volume.join("out")).unwrap();
        std::os::unix::fs::symlink("real", volume.join("in")).unwrap();
        assert!(resolve(&volume, "in").is_ok());
        assert!(resolve(&volume, "a/b").is_ok());
        assert!(volume.join("a/b").is_dir());
        for path in ["out", "out/x"] {
            assert_eq!(resolve(&volume, path).err(), Some(Errno::EXDEV), "{path}");
        }
        assert!(!root.path().join("outside/x").exists());
        let refused = sub_path("v", &volume, "../outside", Path::new("/nowhere")).unwrap_err();
        assert!(refused.to_string().contains("must be relative"), "{refused}");
    }
}
