//! One `kobune` per data directory: `<data-dir>/lock`, held with flock, and in it who holds it with which settings.
//!
//! The text outlives its holder, so that `kobune down` finds what a process that is gone has made.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::config::Settings;

/// Held as long as this lives.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
}

/// What the lock's file says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Holder {
    pub(crate) pid: i32,
    pub(crate) settings: Settings,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    #[error("lock data directory {dir:?}: process {pid} holds it")]
    Held { dir: PathBuf, pid: String },
    #[error("{verb} {path:?}: {source}")]
    Io { verb: &'static str, path: PathBuf, source: io::Error },
}

impl Lock {
    /// Take the lock of `data_dir`, making the directory; fails at once if another process has it.
    pub(crate) fn take(data_dir: &Path) -> Result<Self, LockError> {
        let path = data_dir.join("lock");
        let io = |verb| {
            let path = path.clone();
            move |source| LockError::Io { verb, path, source }
        };
        // Keys and Secrets are in there.
        let mut private = std::fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        private.create(data_dir).map_err(io("create directory of"))?;
        let options =
            File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = options.map_err(io("open"))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { file, path }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let pid = read(&file).map_or_else(|| "?".to_owned(), |h| h.pid.to_string());
                Err(LockError::Held { dir: data_dir.to_owned(), pid })
            }
            Err(e) => Err(io("lock")(e.into())),
        }
    }

    /// Say who holds it now; none: nobody has anything that would have to be removed.
    pub(crate) fn write(&mut self, holder: Option<&Holder>) -> Result<(), LockError> {
        let text = holder.map(serde_json::to_string).transpose();
        let io = |source| LockError::Io { verb: "write", path: self.path.clone(), source };
        let text = text.map_err(|e| io(e.into()))?.unwrap_or_default();
        let mut write = || {
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.file.write_all(text.as_bytes())
        };
        write().map_err(io)
    }
}

/// Who holds the lock of `data_dir`, or held it last.
pub(crate) fn holder(data_dir: &Path) -> Option<Holder> {
    read(&File::open(data_dir.join("lock")).ok()?)
}

fn read(mut file: &File) -> Option<Holder> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told_who_was_first() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let mut lock = Lock::take(&data).unwrap();
        let settings = Settings { secure_port: Some(7), ..Settings::default() };
        let me = Holder { pid: 4242, settings };
        lock.write(Some(&me)).unwrap();
        let error = Lock::take(&data).unwrap_err().to_string();
        assert!(error.contains("4242") && error.contains("data"), "{error}");
        drop(lock);
        assert_eq!(holder(&data), Some(me));
        let mut lock = Lock::take(&data).unwrap();
        lock.write(None).unwrap();
        assert_eq!(holder(&data), None);
    }
}
