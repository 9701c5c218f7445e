//! Writes a volume's files so that a reader sees all of the old ones or all of the new ones.
//!
//! ```text
//! <dir>/..<n>/…           the files
//! <dir>/..data            -> ..<n>          replaced by one rename
//! <dir>/<first component> -> ..data/<first component>
//! ```
//! The layout is upstream's, since programs watch `..data`. One task owns the directory.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use super::payload::{File, Payload};
use super::{VolumeError, io as failed};

const DATA: &str = "..data";
const NEW: &str = "..data_tmp";

/// Makes `directory` show `payload`. Returns whether anything changed. Files belong to root (or
/// their own owner) and to `group`.
pub fn write(directory: &Path, payload: &Payload, group: Option<u32>) -> Result<bool, VolumeError> {
    fs::create_dir_all(directory).map_err(failed("make directory", directory))?;
    let old = current(directory)?;
    if let Some(old) = &old
        && holds(old, payload)
    {
        return Ok(false);
    }
    let fresh = next_directory(directory, old.as_deref());
    discard(&fresh)?;
    make_directory(&fresh, group)?;
    for (path, file) in payload {
        write_file(&fresh, path, file, group)?;
    }
    let new = directory.join(NEW);
    discard(&new)?;
    symlink(fresh.file_name().unwrap_or_default(), &new).map_err(failed("make symlink", &new))?;
    fs::rename(&new, directory.join(DATA)).map_err(failed("rename", &new))?;
    show(directory, payload)?;
    if let Some(old) = old {
        discard(&old)?;
    }
    Ok(true)
}

fn current(directory: &Path) -> Result<Option<PathBuf>, VolumeError> {
    let link = directory.join(DATA);
    match fs::read_link(&link) {
        Ok(target) => Ok(target.file_name().map(|name| directory.join(name))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read symlink", &link)(error)),
    }
}

fn next_directory(directory: &Path, old: Option<&Path>) -> PathBuf {
    let number = |path: &Path| path.file_name()?.to_str()?.strip_prefix("..")?.parse::<u64>().ok();
    let next = old.and_then(number).map_or(1, |number| number + 1);
    directory.join(format!("..{next}"))
}

/// Whether exactly these files are there already.
fn holds(directory: &Path, payload: &Payload) -> bool {
    let mut seen = 0;
    let same = payload.iter().all(|(path, file)| {
        seen += 1;
        fs::read(directory.join(path)).is_ok_and(|bytes| bytes == file.bytes)
    });
    same && count_files(directory) == Some(seen)
}

fn count_files(directory: &Path) -> Option<usize> {
    let mut count = 0;
    for entry in fs::read_dir(directory).ok()? {
        let entry = entry.ok()?;
        count += if entry.file_type().ok()?.is_dir() { count_files(&entry.path())? } else { 1 };
    }
    Some(count)
}

fn write_file(root: &Path, path: &str, file: &File, group: Option<u32>) -> Result<(), VolumeError> {
    let full = root.join(path);
    let mut parent = root.to_owned();
    for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
        parent.push(part);
        if !parent.is_dir() {
            make_directory(&parent, group)?;
        }
    }
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&full)
        .map_err(failed("create", &full))?;
    out.write_all(&file.bytes).map_err(failed("write", &full))?;
    if group.is_some() || file.owner.is_some() {
        chown(&full, file.owner, group).map_err(failed("change the owner of", &full))?;
    }
    // The group must be able to read what is there for it.
    let mode = if group.is_some() { file.mode | 0o440 } else { file.mode };
    fs::set_permissions(&full, fs::Permissions::from_mode(mode))
        .map_err(failed("change the mode of", &full))
}

fn make_directory(path: &Path, group: Option<u32>) -> Result<(), VolumeError> {
    fs::DirBuilder::new().mode(0o755).create(path).map_err(failed("make directory", path))?;
    match group {
        Some(_) => chown(path, None, group).map_err(failed("change the group of", path)),
        None => Ok(()),
    }
}

/// The names that readers use; those of files that are gone are removed.
fn show(directory: &Path, payload: &Payload) -> Result<(), VolumeError> {
    let first = |path: &String| path.split('/').next().unwrap_or_default().to_owned();
    let wanted: BTreeSet<String> = payload.keys().map(first).collect();
    for entry in fs::read_dir(directory).map_err(failed("list", directory))? {
        let entry = entry.map_err(failed("list", directory))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(&name) {
            discard(&entry.path())?;
        }
    }
    for name in wanted {
        let link = directory.join(&name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new(DATA).join(&name), &link).map_err(failed("make symlink", &link))?;
        }
    }
    Ok(())
}

fn discard(path: &Path) -> Result<(), VolumeError> {
    let result = match path.symlink_metadata() {
        Err(error) => Err(error),
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(path, text)| {
                ((*path).into(), File { bytes: text.as_bytes().into(), mode: 0o640, owner: None })
            })
            .collect()
    }

    fn read(directory: &Path, name: &str) -> Option<String> {
        fs::read_to_string(directory.join(name)).ok()
    }

    #[test]
    fn files_are_shown_replaced_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("volume");
        assert!(write(&directory, &payload(&[("a", "1"), ("d/b", "2")]), None).unwrap());
        assert_eq!(read(&directory, "a").as_deref(), Some("1"));
        assert_eq!(read(&directory, "d/b").as_deref(), Some("2"));
        let mode = fs::metadata(directory.join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);

        assert!(
            !write(&directory, &payload(&[("a", "1"), ("d/b", "2")]), None).unwrap(),
            "nothing changed"
        );

        assert!(write(&directory, &payload(&[("a", "3"), ("c", "4")]), None).unwrap());
        assert_eq!(read(&directory, "a").as_deref(), Some("3"));
        assert_eq!(read(&directory, "c").as_deref(), Some("4"));
        assert_eq!(read(&directory, "d/b"), None);
        let names: BTreeSet<String> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["..2", "..data", "a", "c"].map(String::from).into());
    }

    #[test]
    fn a_writer_that_was_interrupted_is_no_obstacle() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path();
        write(directory, &payload(&[("a", "1")]), None).unwrap();
        fs::create_dir(directory.join("..2")).unwrap();
        symlink("..2", directory.join(NEW)).unwrap();
        assert!(write(directory, &payload(&[("a", "2")]), None).unwrap());
        assert_eq!(read(directory, "a").as_deref(), Some("2"));
    }
}
