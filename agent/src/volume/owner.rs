//! fsGroup of volumes that outlive their Pod: everything in them belongs to the group, and it may write.
//!
//! Each file is held by its descriptor while it is changed, and no link is followed: another Pod may be writing to the
//! volume at the same time.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::{VolumeError, io as failed};

/// Upstream's bits: new files of a directory inherit its group.
const DIRECTORY: u32 = 0o2770;
const FILE: u32 = 0o660;

/// Gives all of `root` to `group`; with `unless_root_fits` only if the root does not belong to it yet.
pub fn give(root: &Path, group: u32, unless_root_fits: bool) -> Result<(), VolumeError> {
    let work = || {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = File::from(open(root, flags, Mode::empty())?);
        let meta = directory.metadata()?;
        if unless_root_fits && meta.gid() == group && meta.mode() & DIRECTORY == DIRECTORY {
            return Ok(());
        }
        tree(&directory, group)
    };
    work().map_err(failed("change the group of all in", root))
}

/// The directory itself comes last: what was interrupted begins anew.
fn tree(directory: &File, group: u32) -> io::Result<()> {
    for entry in fs::read_dir(through(directory))? {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let child = match openat(directory, entry?.file_name().as_os_str(), flags, Mode::empty()) {
            Ok(child) => File::from(child),
            Err(Errno::ENOENT) => continue,
            Err(errno) => return Err(errno.into()),
        };
        let kind = child.metadata()?.file_type();
        if kind.is_dir() {
            tree(&child, group)?;
        } else if !kind.is_symlink() {
            own(&child, group, FILE)?;
        }
    }
    own(directory, group, DIRECTORY)
}

fn own(file: &File, group: u32, bits: u32) -> io::Result<()> {
    let mode = file.metadata()?.mode() & 0o7777;
    chown(through(file), None, Some(group))?;
    fs::set_permissions(through(file), fs::Permissions::from_mode(mode | bits))
}

fn through(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root, which alone may give files away to any group.
    #[test]
    fn all_belongs_to_the_group_and_no_link_is_followed() {
        let root = tempfile::tempdir().unwrap();
        let (volume, outside) = (root.path().join("volume"), root.path().join("outside"));
        fs::create_dir_all(volume.join("deep")).unwrap();
        fs::write(volume.join("deep/file"), "").unwrap();
        fs::set_permissions(volume.join("deep/file"), fs::Permissions::from_mode(0o500)).unwrap();
        fs::write(&outside, "").unwrap();
        let before = fs::metadata(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, volume.join("link")).unwrap();
        give(&volume, 4242, false).unwrap();
        let seen = |path: &str| {
            let meta = fs::metadata(volume.join(path)).unwrap();
            (meta.gid(), meta.mode() & 0o7777)
        };
        assert_eq!(seen("deep/file"), (4242, 0o760));
        assert_eq!((seen("deep").0, seen("").0), (4242, 4242));
        assert_eq!(seen("deep").1 & DIRECTORY, DIRECTORY);
        let after = fs::metadata(&outside).unwrap();
        assert_eq!((after.gid(), after.mode()), (before.gid(), before.mode()));

        chown(volume.join("deep"), None, Some(0)).unwrap();
        give(&volume, 4242, true).unwrap();
        assert_eq!(seen("deep").0, 0, "the root fits");
        give(&volume, 4242, false).unwrap();
        assert_eq!(seen("deep").0, 4242);
    }
}
