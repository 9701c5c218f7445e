//! hostPath volumes: what has to be there, and what is made if it is not.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::{VolumeError, io as failed};

/// Checks (and for the `…OrCreate` types makes) the path. `kind` is the API's `type`.
pub fn prepare(volume: &str, path: &Path, kind: &str) -> Result<(), VolumeError> {
    match kind {
        "DirectoryOrCreate" if path.symlink_metadata().is_err() => {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(path)
                .map_err(failed("make directory", path))?;
        }
        "FileOrCreate" if path.symlink_metadata().is_err() => {
            let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
            made.map(drop).map_err(failed("create", path))?;
        }
        _ => {}
    }
    let found = match fs::metadata(path) {
        Ok(meta) => Some(meta.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed("look at", path)(error)),
    };
    let (right, expected) = match (kind, found) {
        // No check at all; the mount itself fails if there is nothing.
        ("", _) => (true, "anything"),
        ("Directory" | "DirectoryOrCreate", found) => {
            (found.is_some_and(|found| found.is_dir()), "a directory")
        }
        ("File" | "FileOrCreate", found) => (found.is_some_and(|found| found.is_file()), "a file"),
        ("Socket", found) => (found.is_some_and(|found| found.is_socket()), "a socket"),
        ("CharDevice", found) => {
            (found.is_some_and(|found| found.is_char_device()), "a character device")
        }
        ("BlockDevice", found) => {
            (found.is_some_and(|found| found.is_block_device()), "a block device")
        }
        _ => (false, "of a type known to this node"),
    };
    if right {
        return Ok(());
    }
    Err(VolumeError::HostPath { volume: volume.into(), path: path.into(), expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_and_made() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir(path("dir")).unwrap();
        fs::write(path("file"), "").unwrap();
        std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        let table = [
            ("dir", "Directory", true),
            ("dir", "File", false),
            ("dir", "DirectoryOrCreate", true),
            ("file", "File", true),
            ("file", "DirectoryOrCreate", false),
            ("socket", "Socket", true),
            ("file", "Socket", false),
            ("none", "Directory", false),
            ("none", "", true),
            ("new/dir", "DirectoryOrCreate", true),
            ("newfile", "FileOrCreate", true),
            ("file", "Unheard", false),
        ];
        for (name, kind, right) in table {
            assert_eq!(prepare("v", &path(name), kind).is_ok(), right, "{name} as {kind}");
        }
        assert!(path("new/dir").is_dir() && path("newfile").is_file());
        assert!(prepare("v", Path::new("/dev/null"), "CharDevice").is_ok());
    }
}
