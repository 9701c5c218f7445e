//! What is remembered of a container between commands: `<root>/<id>/state.json`, whole or not at all.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{CliError, message};
use crate::bounded;
use crate::sys::pidfd;

/// The largest state.json in bytes.
const MAX_STATE: u64 = 1 << 20;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Saved {
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) pid: i32,
    /// Clock ticks since boot: tells the process from a later one of the same number.
    pub(super) start_time: u64,
    pub(super) cgroup: PathBuf,
    /// RFC 3339.
    pub(super) created: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Created,
    Running,
    Stopped,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Stopped => "stopped",
        }
    }
}

#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
}

impl Store {
    pub(super) fn new(root: PathBuf) -> Store {
        Store { root }
    }

    pub(super) fn directory(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// Listening as long as the container waits to be started.
    pub(super) fn start_socket(&self, id: &str) -> PathBuf {
        self.directory(id).join("start.sock")
    }

    /// Takes the name.
    pub(super) fn reserve(&self, id: &str) -> Result<(), CliError> {
        if !is_id(id) {
            return message(format!("container id {id:?}: must be letters, digits, and _+-."));
        }
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700).recursive(true);
        builder.create(&self.root).map_err(CliError::io(format!("make {:?}", self.root)))?;
        let directory = self.directory(id);
        match builder.recursive(false).create(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                message(format!("container {id:?} exists already"))
            }
            other => other.map_err(CliError::io(format!("make {directory:?}"))),
        }
    }

    pub(super) fn save(&self, saved: &Saved) -> Result<(), CliError> {
        let path = self.directory(&saved.id).join("state.json");
        let new = path.with_extension("new");
        let text = serde_json::to_vec(saved).unwrap_or_default();
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(CliError::io(format!("write {path:?}")))
    }

    pub(super) fn load(&self, id: &str) -> Result<Saved, CliError> {
        if !is_id(id) {
            return message(format!("container {id:?} does not exist"));
        }
        let path = self.directory(id).join("state.json");
        match bounded::read(&path, MAX_STATE) {
            Ok(text) => parse(&text, id)
                .map_err(|error| CliError::Message(format!("parse {path:?}: {error}"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                message(format!("container {id:?} does not exist"))
            }
            Err(error) => Err(CliError::io(format!("read {path:?}"))(error)),
        }
    }

    /// Forgets the container; an absent one is no error.
    pub(super) fn remove(&self, id: &str) -> Result<(), CliError> {
        if !is_id(id) {
            // Nothing of that name was ever made, and the path could be anybody's.
            return Ok(());
        }
        match fs::remove_dir_all(self.directory(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(CliError::io(format!("remove {:?}", self.directory(id)))(error))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn status(&self, saved: &Saved) -> Status {
        if saved.process().is_none() {
            Status::Stopped
        } else if self.start_socket(&saved.id).exists() {
            Status::Created
        } else {
            Status::Running
        }
    }
}

impl Saved {
    /// The first process, if it lives.
    pub(super) fn process(&self) -> Option<OwnedFd> {
        // Opened before the check: what is checked cannot be replaced afterwards.
        let process = pidfd::open(self.pid).ok()?;
        (start_time(self.pid) == Some(self.start_time)).then_some(process)
    }
}

/// When a process was started; `None` for one that is gone or only waits to be reaped.
pub(super) fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    parse_stat(&stat)
}

fn parse_stat(stat: &str) -> Option<u64> {
    // The name, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// What [`Store::save`] wrote. The file is ours alone; but what it names is killed and removed, so it is looked at.
fn parse(text: &[u8], id: &str) -> Result<Saved, String> {
    let saved: Saved = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if saved.id != id {
        return Err(format!("id: is {:?}", saved.id));
    }
    if saved.pid <= 0 {
        return Err("pid: not a process".into());
    }
    let plain = saved.cgroup.is_absolute()
        && !saved.cgroup.components().any(|part| part == std::path::Component::ParentDir);
    if plain { Ok(saved) } else { Err("cgroup: not an absolute path without ..".into()) }
}

fn is_id(id: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    (1..=1024).contains(&id.len()) && id.bytes().all(fine) && id != "." && id != ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(parse_stat(&format!("9 (a) b) {tail}")), Some(4711));
        assert_eq!(parse_stat(&format!("9 (x) {}", tail.replacen('S', "Z", 1))), None);
        assert!(start_time(std::process::id() as i32).is_some());
    }

    #[test]
    fn a_state_that_we_did_not_write_is_refused() {
        let of = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut value = serde_json::json!({"id": "a", "bundle": "/b", "pid": 7, "startTime": 1,
                "cgroup": "/sys/fs/cgroup/a", "created": ""});
            change(&mut value);
            parse(value.to_string().as_bytes(), "a")
        };
        of(&|_| {}).unwrap();
        assert!(of(&|state| state["pid"] = (-1).into()).unwrap_err().starts_with("pid: "));
        assert!(of(&|state| state["pid"] = 0.into()).unwrap_err().starts_with("pid: "));
        assert!(of(&|state| state["id"] = "b".into()).unwrap_err().starts_with("id: "));
        for path in ["etc", "/sys/fs/cgroup/../../../etc", ""] {
            let error = of(&|state| state["cgroup"] = path.into()).unwrap_err();
            assert!(error.starts_with("cgroup: "), "{path}: {error}");
        }
    }

    #[test]
    fn removing_what_is_no_id_removes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("root")).unwrap();
        fs::create_dir(directory.path().join("other")).unwrap();
        Store::new(directory.path().join("root")).remove("../other").unwrap();
        assert!(directory.path().join("other").exists());
    }

    #[test]
    fn ids_cannot_be_paths() {
        for bad in ["", ".", "..", "a/b", "a b"] {
            assert!(!is_id(bad), "{bad:?}");
        }
        assert!(is_id("my_box-1.2+3"));
    }
}
