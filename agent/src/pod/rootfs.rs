//! What has to be read from an image's layers and from the host before a container's configuration can be written.
//!
//! Layers are other people's files: looked into with the layer as root, regular files only, to a bound.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, major, minor};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};

use crate::container::user::Accounts;

const MAX_ACCOUNTS: u64 = 1 << 20;

/// `/etc/passwd` and `/etc/group` as a process in the image would see them. `layers` are topmost first.
pub(super) fn accounts(layers: &[PathBuf]) -> Accounts {
    let read = |path: &str| find(layers, path).unwrap_or_default();
    Accounts { passwd: read("etc/passwd"), group: read("etc/group") }
}

fn find(layers: &[PathBuf], path: &str) -> Option<String> {
    for layer in layers {
        let Ok(file) = open_inside(layer, path) else { continue };
        // The topmost layer that knows the name decides; a whiteout is a device and says "gone".
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(MAX_ACCOUNTS).read_to_end(&mut bytes).ok()?;
        return Some(String::from_utf8_lossy(&bytes).into_owned());
    }
    None
}

fn open_inside(layer: &Path, path: &str) -> nix::Result<File> {
    let root = open(layer, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let how = |flags: OFlag| {
        OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)
    };
    // A device must not be opened: what it is, is found out first.
    let found = File::from(openat2(&root, path, how(OFlag::O_PATH))?);
    if !found.metadata().is_ok_and(|meta| meta.is_file()) {
        return Ok(found);
    }
    openat2(&root, path, how(OFlag::O_RDONLY | OFlag::O_NONBLOCK)).map(File::from)
}

/// Every device node of the host, for privileged containers.
pub(super) fn host_devices() -> Vec<LinuxDevice> {
    let mut out = Vec::new();
    collect_devices(Path::new("/dev"), &mut out);
    out
}

fn collect_devices(directory: &Path, out: &mut Vec<LinuxDevice>) {
    // These are file systems of their own, and the container has its own ones.
    const OWN: [&str; 6] = ["pts", "shm", "fd", "mqueue", "console", "hugepages"];
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if OWN.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if kind.is_dir() {
            collect_devices(&path, out);
        } else if kind.is_char_device() || kind.is_block_device() {
            out.extend(device(&path, kind.is_char_device()));
        }
    }
}

fn device(path: &Path, character: bool) -> Option<LinuxDevice> {
    let meta = path.symlink_metadata().ok()?;
    LinuxDeviceBuilder::default()
        .path(path)
        .typ(if character { LinuxDeviceType::C } else { LinuxDeviceType::B })
        .major(i64::try_from(major(meta.rdev())).ok()?)
        .minor(i64::try_from(minor(meta.rdev())).ok()?)
        .file_mode(meta.mode() & 0o7777)
        .uid(meta.uid())
        .gid(meta.gid())
        .build()
        .ok()
}

/// Removes what runs before the previous one left: files and directories named `<n>` or `<n>.…`.
pub(super) fn forget_old(directory: &Path, attempt: u32) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.split('.').next()?.parse::<u32>().ok());
        if number.is_none_or(|number| number + 1 >= attempt) {
            continue;
        }
        let path = entry.path();
        let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(error) = gone {
            tracing::debug!(%error, ?path, "remove what an earlier run left");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_files_come_from_the_topmost_layer_and_never_from_the_host() {
        let root = tempfile::tempdir().unwrap();
        let layer = |name: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.join("etc")).unwrap();
            path
        };
        let (top, bottom) = (layer("top"), layer("bottom"));
        fs::write(bottom.join("etc/passwd"), "bottom").unwrap();
        fs::write(bottom.join("etc/group"), "group").unwrap();
        let layers = [top.clone(), bottom.clone()];
        assert_eq!(accounts(&layers).passwd, "bottom");
        fs::write(top.join("etc/passwd"), "top").unwrap();
        assert_eq!(
            (accounts(&layers).passwd, accounts(&layers).group),
            ("top".into(), "group".into())
        );
        fs::remove_file(top.join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink("/../../../../etc/hostname", top.join("etc/passwd")).unwrap();
        assert_eq!(accounts(&[top]).passwd, "", "resolved inside the layer");
    }

    #[test]
    fn only_the_previous_run_is_remembered() {
        let root = tempfile::tempdir().unwrap();
        for name in ["0.log", "1.log", "1.log.20260101-000000", "2.log", "other"] {
            fs::write(root.path().join(name), "").unwrap();
        }
        fs::create_dir(root.path().join("0")).unwrap();
        forget_old(root.path(), 3);
        let mut left: Vec<String> = fs::read_dir(root.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["2.log", "other"]);
    }
}
