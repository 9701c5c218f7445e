//! Container records on disk: `<pod dir>/containers/<name>.json`, whole or not at all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::fault;
use crate::wire::ContainerRecord;

pub(super) fn directory(pod_dir: &Path) -> PathBuf {
    pod_dir.join("containers")
}

/// Replaces the record. Not synced: the run directory does not outlive the kernel.
pub(super) fn write(pod_dir: &Path, record: &ContainerRecord) -> io::Result<()> {
    fault::point("write a record")?;
    let directory = directory(pod_dir);
    let path = directory.join(format!("{}.json", record.container));
    // Container names have no dots, so this is nobody's record.
    let new = directory.join(format!("{}.json.new", record.container));
    fs::write(&new, serde_json::to_vec(record)?)?;
    fs::rename(new, path)
}

pub(super) fn remove(pod_dir: &Path, container: &str) -> io::Result<()> {
    fault::point("remove a record")?;
    match fs::remove_file(directory(pod_dir).join(format!("{container}.json"))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
