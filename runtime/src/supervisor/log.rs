//! A container's log file: appended to, rotated, never an obstacle. What cannot be written is dropped, since a full
//! disk must neither stop the container nor fill the supervisor's memory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::time;
use crate::wire::LogConfig;

#[derive(Debug)]
pub(super) struct LogFile {
    config: LogConfig,
    file: Option<File>,
    size: u64,
}

impl LogFile {
    /// Opens (and makes, with its directory) the file.
    pub(super) fn open(config: LogConfig) -> io::Result<LogFile> {
        if let Some(directory) = config.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let file = open(&config.path)?;
        let size = file.metadata()?.len();
        Ok(LogFile { config, file: Some(file), size })
    }

    /// Appends whole records.
    pub(super) fn append(&mut self, records: &[u8]) {
        if records.is_empty() {
            return;
        }
        let full = self.size > 0 && self.size + records.len() as u64 > self.config.max_size;
        if self.config.max_size > 0 && full {
            self.rotate();
        }
        if self.file.is_none() {
            self.file = open(&self.config.path).ok();
        }
        if let Some(file) = &mut self.file {
            // Dropped on failure; see above.
            let _ = file.write_all(records);
            self.size += records.len() as u64;
        }
    }

    /// Renames the file and begins a new one; what cannot be renamed is continued.
    fn rotate(&mut self) {
        let suffix = time::compact(time::now());
        let mut name = self.config.path.clone().into_os_string();
        name.push(format!(".{suffix}"));
        if fs::rename(&self.config.path, &name).is_ok() {
            self.file = None;
            self.size = 0;
            self.remove_oldest();
        }
    }

    fn remove_oldest(&self) {
        let mut old = rotated(&self.config.path);
        let keep = self.config.max_files.max(1) as usize - 1;
        old.sort();
        for path in old.iter().take(old.len().saturating_sub(keep)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Rotated files of the log at `path`.
fn rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Vec::new();
    };
    let prefix = format!("{}.", name.to_string_lossy());
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    ours.map(|entry| entry.path()).collect()
}

fn open(path: &Path) -> io::Result<File> {
    // A link in the log directory must not lead our writing elsewhere, nor a fifo make us wait.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file =
        File::options().create(true).append(true).mode(0o640).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn rotation_keeps_the_newest_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app/0.log");
        let config = LogConfig { path: path.clone(), max_size: 10, max_files: 3 };
        let mut log = LogFile::open(config).unwrap();
        for record in ["aaaaaaa\n", "bbbbbbb\n", "ccccccc\n", "ddddddd\n", "eeeeeee\n"] {
            log.append(record.as_bytes());
        }
        let names = names(path.parent().unwrap());
        assert_eq!(names.len(), 3);
        let texts: Vec<_> = names
            .iter()
            .map(|name| fs::read_to_string(path.with_file_name(name)).unwrap())
            .collect();
        // The live file sorts first.
        assert_eq!(texts, ["eeeeeee\n", "ccccccc\n", "ddddddd\n"]);
    }

    #[test]
    fn a_log_is_continued() {
        let directory = tempfile::tempdir().unwrap();
        let config = LogConfig { path: directory.path().join("0.log"), max_size: 0, max_files: 1 };
        LogFile::open(config.clone()).unwrap().append(b"one\n");
        LogFile::open(config.clone()).unwrap().append(b"two\n");
        assert_eq!(fs::read_to_string(config.path).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn only_a_file_is_a_log() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let config = LogConfig { path: path.clone(), max_size: 0, max_files: 1 };
        assert!(LogFile::open(config.clone()).is_err());
        // Somebody reads it: it could be opened now.
        let _reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
        assert!(LogFile::open(config).is_err());
    }

    #[test]
    fn links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(LogFile::open(LogConfig { path, max_size: 0, max_files: 1 }).is_err());
        assert!(!directory.path().join("elsewhere").exists());
    }
}
