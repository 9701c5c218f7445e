//! What is remembered of a container between commands: the directory `<root>/<id>`, and in it
//!
//! | name | what | from … to |
//! |---|---|---|
//! | `cgroup.wanted` | a link to the cgroup that will be made: it may be somebody else's | before the cgroup … |
//! | `cgroup` | the same link: it is ours. A creation that was killed can be cleaned up | … deleted |
//! | `unit` | a link to the name of systemd's unit, if that makes the cgroup | before the unit … deleted |
//! | `start.sock` | listens while the container waits to be started | created … started |
//! | `config.json` | as it was at the creation: for `exec` | before the first process … deleted |
//! | `state.json` | whole or not at all | created … deleted |
//!
//! Commands that change a container hold a lock on its directory; those that only look need none.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use oci_spec::runtime::Hooks;
use serde::{Deserialize, Serialize};

use super::{CliError, message};
use crate::hooks::State;
use crate::oci;
use crate::plan::Listener;
use crate::sys::pidfd;
use crate::{bounded, cgroup, create, fault};

// The names in a container's directory.
const STATE: &str = "state.json";
const NEW_STATE: &str = "state.new";
const WANTED: &str = "cgroup.wanted";
const CLAIMED: &str = "cgroup";
const UNIT: &str = "unit";
const CONFIG: &str = "config.json";

/// The largest state.json in bytes.
const MAX_STATE: u64 = 1 << 20;

/// Fields that a later version may add are ignored; those that this one has added since have defaults.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Saved {
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    #[serde(default)]
    pub(super) rootfs: PathBuf,
    /// Places in it where mounts outlive the container (see `Plan::lasting_mounts`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) mounts: Vec<PathBuf>,
    pub(super) pid: i32,
    /// Clock ticks since boot: tells the process from a later one of the same number.
    pub(super) start_time: u64,
    pub(super) cgroup: PathBuf,
    /// RFC 3339.
    pub(super) created: String,
    /// uid of the creator.
    #[serde(default)]
    pub(super) owner: u32,
    /// Whether its processes have a session keyring of their own.
    #[serde(default)]
    pub(super) own_keyring: bool,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
    /// Who is to be given the listener of a seccomp filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) listener: Option<Listener>,
    /// Those of `start` and `delete`: config.json may change meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hooks: Option<Hooks>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// What is known of a container's cgroup without its state.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Noted {
    Nothing,
    /// Perhaps made, perhaps somebody else's.
    Wanted(PathBuf),
    Claimed(PathBuf),
}

/// While it lives, no other command changes the container.
#[derive(Debug)]
pub(super) struct Lock {
    directory: Flock<File>,
}

/// A lock to be taken again, of this very container: another one may get the name meanwhile.
#[derive(Debug)]
pub(super) struct Released {
    directory: File,
}

impl Lock {
    pub(super) fn release(self) -> Result<Released, CliError> {
        match self.directory.unlock() {
            Ok(directory) => Ok(Released { directory }),
            Err((_, errno)) => Err(CliError::io("unlock the container")(errno.into())),
        }
    }
}

impl Released {
    /// `None` when somebody has deleted the container.
    pub(super) fn again(self) -> Result<Option<Lock>, CliError> {
        let failed = || CliError::io("lock the container");
        let directory = Flock::lock(self.directory, FlockArg::LockExclusive)
            .map_err(|(_, errno)| failed()(errno.into()))?;
        let there = directory.metadata().map_err(failed())?.nlink() > 0;
        Ok(there.then_some(Lock { directory }))
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

    fn directory(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// Listening as long as the container waits to be started.
    pub(super) fn start_socket(&self, id: &str) -> PathBuf {
        self.directory(id).join("start.sock")
    }

    /// Takes the name.
    pub(super) fn reserve(&self, id: &str) -> Result<Lock, CliError> {
        check_id(id)?;
        let directory = self.directory(id);
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        let mut made = builder.create(&directory);
        if made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            // The first container of all.
            let root = DirBuilder::new().mode(0o700).recursive(true).create(&self.root);
            root.map_err(CliError::io(format!("make {:?}", self.root)))?;
            made = builder.create(&directory);
        }
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let hint = match directory.join(STATE).exists() {
                    true => "",
                    // Or another command is just making it.
                    false => " (incomplete; `delete --force` removes what was interrupted)",
                };
                message(format!("container with given ID already exists: {id:?}{hint}"))
            }
            Err(error) => Err(CliError::io(format!("make {directory:?}"))(error)),
            Ok(()) => self.lock(id),
        }
    }

    /// Waits until no other command is at work on the container.
    pub(super) fn lock(&self, id: &str) -> Result<Lock, CliError> {
        self.try_lock(id, FlockArg::LockExclusive)?.ok_or_else(|| absent(id))
    }

    /// Whether some command is at work on the container.
    pub(super) fn is_busy(&self, id: &str) -> Result<bool, CliError> {
        Ok(self.try_lock(id, FlockArg::LockExclusiveNonblock)?.is_none())
    }

    fn try_lock(&self, id: &str, how: FlockArg) -> Result<Option<Lock>, CliError> {
        check_id(id).map_err(|_| absent(id))?;
        let path = self.directory(id);
        let failed = || CliError::io(format!("lock {path:?}"));
        let directory = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(absent(id)),
            other => other.map_err(failed())?,
        };
        let directory = match Flock::lock(directory, how) {
            Ok(directory) => directory,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(failed()(errno.into())),
        };
        // The one before us may have deleted it.
        match directory.metadata().map_err(failed())?.nlink() {
            0 => Err(absent(id)),
            _ => Ok(Some(Lock { directory })),
        }
    }

    /// Notes the cgroup that is about to be made.
    pub(super) fn note_wanted_cgroup(&self, id: &str, cgroup: &Path) -> Result<(), CliError> {
        let link = self.directory(id).join(WANTED);
        fault::point("note the cgroup")
            .and_then(|()| std::os::unix::fs::symlink(cgroup, &link))
            .map_err(CliError::io(format!("make {link:?}")))
    }

    /// Notes that it is ours, and so is what lives in it.
    pub(super) fn note_claimed_cgroup(&self, id: &str) -> Result<(), CliError> {
        let directory = self.directory(id);
        let link = directory.join(CLAIMED);
        fs::rename(directory.join(WANTED), &link).map_err(CliError::io(format!("make {link:?}")))
    }

    /// The cgroup of a container, even of one whose creation was interrupted.
    pub(super) fn noted_cgroup(&self, id: &str) -> Noted {
        let directory = self.directory(id);
        let read = |name: &str| fs::read_link(directory.join(name)).ok().filter(|p| is_plain(p));
        if check_id(id).is_err() {
            Noted::Nothing
        } else if let Some(cgroup) = read(CLAIMED) {
            Noted::Claimed(cgroup)
        } else {
            read(WANTED).map_or(Noted::Nothing, Noted::Wanted)
        }
    }

    /// Notes the unit that is about to be made; it is ours as soon as its cgroup is.
    pub(super) fn note_unit(&self, id: &str, unit: &str) -> Result<(), CliError> {
        let link = self.directory(id).join(UNIT);
        std::os::unix::fs::symlink(unit, &link).map_err(CliError::io(format!("make {link:?}")))
    }

    /// systemd's unit for a container, if it has one.
    pub(super) fn unit(&self, id: &str) -> Option<String> {
        let unit = fs::read_link(self.directory(id).join(UNIT)).ok()?;
        unit.into_os_string().into_string().ok().filter(|unit| unit.ends_with(".scope"))
    }

    /// Keeps the config.json that a container is made of: its owner may change that for the next one.
    pub(super) fn keep_config(&self, id: &str, text: &[u8]) -> Result<(), CliError> {
        let path = self.directory(id).join(CONFIG);
        fs::write(&path, text).map_err(CliError::io(format!("write {path:?}")))
    }

    /// Where the config.json of a container is.
    pub(super) fn config(&self, saved: &Saved) -> PathBuf {
        let own = self.directory(&saved.id).join(CONFIG);
        // Those of former versions of this program have none of their own.
        if own.exists() { own } else { saved.bundle.join(CONFIG) }
    }

    /// Writes the state where nobody looks for it yet.
    pub(super) fn prepare(&self, saved: &Saved) -> Result<(), CliError> {
        let path = self.directory(&saved.id).join(NEW_STATE);
        let text = serde_json::to_vec(saved).unwrap_or_default();
        fs::write(&path, text).map_err(CliError::io(format!("write {path:?}")))
    }

    /// From now on the container exists, with the state that was prepared.
    pub(super) fn publish(&self, id: &str) -> Result<(), CliError> {
        let directory = self.directory(id);
        fault::point("rename the state")
            .and_then(|()| fs::rename(directory.join(NEW_STATE), directory.join(STATE)))
            .map_err(CliError::io(format!("write {:?}", directory.join(STATE))))
    }

    pub(super) fn load(&self, id: &str) -> Result<Saved, CliError> {
        check_id(id).map_err(|_| absent(id))?;
        let path = self.directory(id).join(STATE);
        let text = match bounded::read(&path, MAX_STATE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(absent(id)),
            other => other.map_err(CliError::io(format!("read {path:?}")))?,
        };
        decode(&text, id).map_err(|why| CliError::Message(format!("parse {path:?}: {why}")))
    }

    /// The names of all containers, sorted. Without the directory there are none.
    pub(super) fn ids(&self) -> Result<Vec<String>, CliError> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(CliError::io(format!("read {:?}", self.root)))?,
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut ids: Vec<_> = names.filter(|name| check_id(name).is_ok()).collect();
        ids.sort();
        Ok(ids)
    }

    /// Forgets the container; an absent one is no error.
    pub(super) fn remove(&self, id: &str) -> Result<(), CliError> {
        if check_id(id).is_err() {
            // Nothing of that name was ever made, and the path could be anybody's.
            return Ok(());
        }
        let directory = self.directory(id);
        // Mostly these are all; listing the directory would cost more than removing it.
        for name in [STATE, CLAIMED, CONFIG] {
            let _ = fs::remove_file(directory.join(name));
        }
        let removed = match fs::remove_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                fs::remove_dir_all(&directory)
            }
            other => other,
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(CliError::io(format!("remove {directory:?}"))(error))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn status(&self, saved: &Saved) -> Status {
        if saved.process().is_none() {
            Status::Stopped
        } else if cgroup::is_frozen(&saved.cgroup) {
            Status::Paused
        } else if create::is_listening(&self.start_socket(&saved.id)) {
            Status::Created
        } else {
            Status::Running
        }
    }
}

fn absent(id: &str) -> CliError {
    CliError::Absent(id.to_owned())
}

/// What a state.json says; what cannot be true is an error that names the field.
pub(super) fn decode(text: &[u8], id: &str) -> Result<Saved, String> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let saved: Saved = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let field = error.path().to_string();
        format!("{field}: {}", error.into_inner())
    })?;
    let checks = [
        (saved.id == id, "id: is not the name of the directory"),
        (saved.pid > 0, "pid: must be positive"),
        (is_plain(&saved.cgroup), "cgroup: must be an absolute path without \"..\""),
        (is_plain(&saved.bundle), "bundle: must be an absolute path without \"..\""),
    ];
    match checks.into_iter().find(|(fine, _)| !fine) {
        Some((_, why)) => Err(why.to_owned()),
        None => Ok(saved),
    }
}

fn is_plain(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part.as_os_str() == "..")
}

impl Saved {
    /// As hooks, and who decides about system calls, are told it.
    pub(super) fn hook_state(&self, status: &'static str, pid: Option<i32>) -> State {
        State {
            oci_version: oci::SPEC_VERSION,
            id: self.id.clone(),
            status,
            pid,
            bundle: self.bundle.clone(),
            annotations: self.annotations.clone(),
        }
    }

    /// The first process, if it lives.
    pub(super) fn process(&self) -> Option<OwnedFd> {
        // Opened before the check: what is checked cannot be replaced afterwards.
        let process = pidfd::open(self.pid).ok()?;
        (start_time(self.pid) == Some(self.start_time)).then_some(process)
    }
}

/// When a process was started; `None` for one that is gone or only waits to be reaped.
pub(super) fn start_time(pid: i32) -> Option<u64> {
    let path = format!("/proc/{pid}/stat");
    parse_stat(&bounded::read_virtual(Path::new(&path)).ok()?)
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

/// A name that becomes part of a path must not be one.
fn check_id(id: &str) -> Result<(), CliError> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    // 255: what a file name may have; that of the cgroup begins with our name.
    if (1..=255 - super::OWN_PREFIX.len()).contains(&id.len())
        && id.bytes().all(fine)
        && id != "."
        && id != ".."
    {
        return Ok(());
    }
    message(format!("invalid container id format: {id:?} (letters, digits and _+-. are allowed)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(parse_stat(&format!("9 (a) b) {tail}")), Some(4711));
        assert_eq!(parse_stat(&format!("9 (x) {}", tail.replacen('S', "Z", 1))), None);
        assert!(start_time(std::process::id() as i32).is_some());
    }

    #[test]
    fn ids_cannot_be_paths() {
        let long = "a".repeat(256);
        for bad in ["", ".", "..", "a/b", "a b", "a\0b", "a\n", "é", &long] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
        assert!(check_id("my_box-1.2+3").is_ok());
    }

    #[test]
    fn removing_what_is_no_id_removes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("root")).unwrap();
        fs::create_dir(directory.path().join("other")).unwrap();
        Store::new(directory.path().join("root")).remove("../other").unwrap();
        assert!(directory.path().join("other").exists());
    }

    fn saved() -> Value {
        json!({
            "id": "x", "bundle": "/b", "pid": 5, "startTime": 7, "cgroup": "/c", "created": "T",
        })
    }

    #[test]
    fn states_of_other_versions_are_read() {
        let mut value = saved();
        value["added"] = json!({"later": true});
        assert_eq!(decode(value.to_string().as_bytes(), "x").unwrap().pid, 5);
    }

    #[test]
    fn damage_names_the_field() {
        for (field, bad) in [
            ("id", json!("y")),
            ("pid", json!("5")),
            ("pid", json!(-1)),
            ("pid", json!(0)),
            ("startTime", json!(-7)),
            ("cgroup", json!("/c/../..")),
            ("cgroup", json!("c")),
            ("bundle", json!("../b")),
            ("annotations", json!({"a": 1})),
        ] {
            let mut value = saved();
            value[field] = bad;
            let error = decode(value.to_string().as_bytes(), "x").unwrap_err();
            assert!(error.starts_with(field), "{error:?} does not name {field:?}");
        }
        let whole = saved().to_string();
        for end in 0..whole.len() {
            decode(&whole.as_bytes()[..end], "x").unwrap_err();
        }
    }

    #[test]
    fn a_lock_excludes_and_a_deleted_container_cannot_be_locked() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(root.path().join("a/b"));
        let lock = store.reserve("x").unwrap();
        assert!(store.is_busy("x").unwrap());
        assert!(store.reserve("x").unwrap_err().to_string().contains("already exists"));
        let waiter = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| store.lock("x").map(drop));
            store.remove("x").unwrap();
            drop(lock);
            waiter.join().unwrap()
        });
        assert!(waiter.unwrap_err().to_string().contains("does not exist"));
        assert!(store.lock("x").is_err());
    }

    #[test]
    fn a_released_lock_is_of_that_container_only() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(root.path().to_owned());
        let released = store.reserve("x").unwrap().release().unwrap();
        assert!(!store.is_busy("x").unwrap());
        let lock = released.again().unwrap().unwrap();
        assert!(store.is_busy("x").unwrap());
        let released = lock.release().unwrap();
        store.remove("x").unwrap();
        let _other = store.reserve("x").unwrap();
        assert!(released.again().unwrap().is_none());
    }
}
