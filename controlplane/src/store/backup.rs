//! A backup as text: a head, a line per object, a tail that says whether it is whole. It is independent of where the
//! store keeps its objects. Keys of the cluster may stand between head and objects, put there by whoever has them.
//!
//! ```text
//! {"kobuneBackup":1,"revision":42}
//! {"file":"pki/ca.crt","text":"…"}
//! {"resource":"pods","object":{…}}
//! {"objects":1,"sha256":"…"}          over the lines of objects, with their ends
//! ```

use std::fs::{self, File};
use std::io::{self, BufRead};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::backend::{Backend, BackendError, Op};
use super::{Redb, Snapshot, stored_key};
use crate::object::{Object, intern};

const FORMAT: u32 = 1;
/// What was given out after the backup was made must not be given out again for something else: clients hold on to
/// it. As etcd's own documentation has it, more than anybody writes between two backups.
const LEAP: u64 = 1_000_000_000;
/// Objects per commit.
const BATCH: usize = 512;
/// What makes a data directory a used one.
const USED: [&str; 3] = [STORE, "pki", "token"];
const STORE: &str = "store.redb";
const UNFINISHED: &str = "store.redb.restoring";

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(
        "restore into {dir:?}: {used:?} is there already; a backup is only restored into an empty directory"
    )]
    Used { dir: PathBuf, used: &'static str },
    #[error("read backup: line {line}: {why}")]
    Broken { line: u64, why: String },
    #[error("{doing} {path:?}: {cause}")]
    File { doing: &'static str, path: PathBuf, cause: io::Error },
    #[error(transparent)]
    Store(#[from] BackendError),
}

/// What was restored.
#[derive(Debug, PartialEq)]
pub struct Restored {
    pub objects: u64,
    /// That of the backup; the store goes on far beyond it.
    pub revision: u64,
    /// Keys were in it.
    pub keys: bool,
}

/// Lines, one after the other.
pub struct Lines {
    revision: u64,
    objects: std::vec::IntoIter<std::sync::Arc<Object>>,
    hash: Sha256,
    count: u64,
    at: At,
}

enum At {
    Head,
    Objects,
    End,
}

impl Lines {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        let Snapshot { revision, objects } = snapshot;
        let objects = objects.into_iter();
        Self { revision, objects, hash: Sha256::new(), count: 0, at: At::Head }
    }
}

impl Iterator for Lines {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        match self.at {
            At::Head => {
                self.at = At::Objects;
                Some(line(&json!({"kobuneBackup": FORMAT, "revision": self.revision})))
            }
            At::Objects => match self.objects.next() {
                Some(object) => {
                    let head = format!(r#"{{"resource":"{}","object":"#, object.resource);
                    let line = [head.as_bytes(), object.raw(), b"}\n"].concat();
                    self.hash.update(&line);
                    self.count += 1;
                    Some(line.into())
                }
                None => {
                    self.at = At::End;
                    let hash = hex(std::mem::take(&mut self.hash));
                    Some(line(&json!({"objects": self.count, "sha256": hash})))
                }
            },
            At::End => None,
        }
    }
}

fn line(value: &Value) -> Bytes {
    format!("{value}\n").into()
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// A line that holds a key of the cluster; `name` is relative to the data directory.
pub fn file_line(name: &str, text: &str) -> Bytes {
    line(&json!({"file": name, "text": text}))
}

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Line {
    Head {
        #[serde(rename = "kobuneBackup")]
        format: u32,
        revision: u64,
    },
    File {
        file: String,
        text: String,
    },
    Object {
        resource: String,
        object: Value,
    },
    Tail {
        objects: u64,
        sha256: String,
    },
}

/// One line after it was checked.
pub enum Part {
    /// Of this revision.
    Head(u64),
    File {
        name: String,
        text: String,
    },
    Object(Box<Object>),
    /// The backup is whole; so many objects were in it.
    End(u64),
}

/// Reads a backup line by line and checks it on the way.
#[derive(Default)]
pub struct Check {
    line: u64,
    objects: u64,
    hash: Sha256,
    begun: bool,
    ended: bool,
}

impl Check {
    /// `line` without its end.
    pub fn line(&mut self, line: &str) -> Result<Part, RestoreError> {
        self.line += 1;
        let broken = |why: String| RestoreError::Broken { line: self.line, why };
        if self.ended {
            return Err(broken("there is something after the end".into()));
        }
        let parsed: Line =
            serde_json::from_str(line).map_err(|_| broken("it is no line of a backup".into()))?;
        match parsed {
            Line::Head { format: FORMAT, revision } if !self.begun => {
                self.begun = true;
                Ok(Part::Head(revision))
            }
            Line::Head { format, .. } if !self.begun => {
                Err(broken(format!("format {format} is not known")))
            }
            _ if !self.begun => Err(broken("it is not the beginning of a backup".into())),
            Line::Head { .. } => Err(broken("it begins a second time".into())),
            Line::File { file, text } => match is_key(&file) {
                true => Ok(Part::File { name: file, text }),
                false => Err(broken(format!("{file:?} does not belong into a backup"))),
            },
            Line::Object { resource, object } => {
                self.hash.update(line);
                self.hash.update("\n");
                self.objects += 1;
                let object = Object::from_value(intern(&resource), &object);
                let object = object.map_err(|e| broken(e.to_string()))?;
                match object.meta.name.is_empty() {
                    true => Err(broken("an object without a name".into())),
                    false => Ok(Part::Object(Box::new(object))),
                }
            }
            Line::Tail { objects, sha256 } => {
                let hash = hex(std::mem::take(&mut self.hash));
                if (objects, &sha256) != (self.objects, &hash) {
                    return Err(broken("objects before it are missing or changed".into()));
                }
                self.ended = true;
                Ok(Part::End(objects))
            }
        }
    }

    /// After the last line.
    pub fn finish(self) -> Result<(), RestoreError> {
        match self.ended {
            true => Ok(()),
            false => {
                let why = "the end is missing".to_owned();
                Err(RestoreError::Broken { line: self.line + 1, why })
            }
        }
    }
}

/// `token` and the files in `pki`.
fn is_key(name: &str) -> bool {
    let plain = |n: &str| {
        !n.starts_with('.') && n.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
    };
    name == "token" || name.strip_prefix("pki/").is_some_and(|n| !n.is_empty() && plain(n))
}

/// Makes a data directory out of a backup. Nothing is in place before all of it was read and found good.
pub fn restore(backup: impl BufRead, dir: &Path) -> Result<Restored, RestoreError> {
    if let Some(used) = USED.into_iter().find(|name| dir.join(name).exists()) {
        return Err(RestoreError::Used { dir: dir.into(), used });
    }
    let unfinished = dir.join(UNFINISHED);
    let result = fill(backup, dir, &unfinished);
    if result.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    result
}

fn fill(backup: impl BufRead, dir: &Path, unfinished: &Path) -> Result<Restored, RestoreError> {
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |cause| RestoreError::File { doing, path, cause }
    };
    match fs::remove_file(unfinished) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", unfinished)(e));
        }
        _ => {}
    }
    let mut store = Redb::open(unfinished)?;
    let mut check = Check::default();
    let (mut files, mut batch) = (Vec::new(), Vec::new());
    let mut restored = Restored { objects: 0, revision: 0, keys: false };
    for line in backup.lines() {
        let line =
            line.map_err(|e| RestoreError::Broken { line: check.line + 1, why: e.to_string() })?;
        match check.line(&line)? {
            Part::Head(revision) => restored.revision = revision,
            Part::File { name, text } => files.push((name, text)),
            Part::Object(object) => {
                batch
                    .push(Op { key: stored_key(&object.key()), value: Some(object.raw().clone()) });
            }
            Part::End(objects) => restored.objects = objects,
        }
        if batch.len() == BATCH {
            store.commit(&std::mem::take(&mut batch), restored.revision + LEAP)?;
        }
    }
    check.finish()?;
    store.commit(&batch, restored.revision + LEAP)?;
    drop(store);
    restored.keys = !files.is_empty();
    for (name, text) in files {
        let path = dir.join(name);
        let parent = path.parent().unwrap_or(dir);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(parent);
        made.map_err(failed("create directory", parent))?;
        write_private(&path, &text).map_err(failed("write", &path))?;
    }
    // Last: from now on it is a used directory with all that belongs to it.
    fs::rename(unfinished, dir.join(STORE)).map_err(failed("rename", unfinished))?;
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(failed("sync directory", dir))?;
    Ok(restored)
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Key;
    use crate::reader::Reader;
    use crate::store::{Store, Write};

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn create(store: &Store, name: &str) -> u64 {
        let key = Key::new("configmaps", "a", name);
        let value = json!({"metadata": {"name": name, "namespace": "a"}, "data": {"k": "ü\n\"x"}});
        let write = Write::Create { key, value };
        block_on(store.commit(write)).unwrap().meta.resource_version
    }

    fn text(store: &Store) -> Vec<u8> {
        let mut lines: Vec<Bytes> = store.backup().collect();
        lines.insert(1, file_line("pki/ca.crt", "certificate"));
        lines.concat()
    }

    #[test]
    fn a_backup_restored_is_the_same_later() {
        let store = Store::memory();
        for n in 0..700 {
            create(&store, &format!("m{n}"));
        }
        let backup = text(&store);
        let after = create(&store, "late");
        let dir = tempfile::tempdir().unwrap();
        let restored = restore(&backup[..], dir.path()).unwrap();
        assert_eq!(restored, Restored { objects: 700, revision: 700, keys: true });
        assert_eq!(fs::read_to_string(dir.path().join("pki/ca.crt")).unwrap(), "certificate");
        let again = Store::open(&dir.path().join(STORE)).unwrap();
        assert_eq!(again.list("configmaps", None).len(), 700);
        for object in again.list("configmaps", None) {
            let before = store.get("configmaps", "a", &object.meta.name).unwrap();
            assert_eq!(before.raw(), object.raw());
        }
        // Who saw what came after the backup is told so.
        assert!(again.revision() > after && again.watch("configmaps", after).is_err());
        assert!(create(&again, "late") > after);
        again.close();
        let used = restore(&backup[..], dir.path()).unwrap_err().to_string();
        assert!(used.contains("store.redb"), "{used}");
    }

    #[test]
    fn what_is_not_whole_is_refused_and_leaves_nothing() {
        let store = Store::memory();
        for n in 0..3 {
            create(&store, &format!("m{n}"));
        }
        let backup = String::from_utf8(text(&store)).unwrap();
        let lines: Vec<&str> = backup.lines().collect();
        let without = |n: usize| {
            let kept = lines.iter().enumerate().filter(|(i, _)| *i != n);
            kept.map(|(_, line)| format!("{line}\n")).collect::<String>()
        };
        let twice = format!("{backup}{backup}");
        let cases = [
            (without(0), "beginning"),
            (without(3), "missing or changed"),
            (without(lines.len() - 1), "the end is missing"),
            (backup.replace("\"k\":", "\"j\":"), "changed"),
            (backup.replace("pki/ca.crt", "../etc/passwd"), "does not belong"),
            (backup.replace("kobuneBackup\":1", "kobuneBackup\":9"), "format 9"),
            (twice, "after the end"),
            (backup[..backup.len() / 2].to_owned(), "line"),
            (String::new(), "the end is missing"),
        ];
        for (text, why) in cases {
            let dir = tempfile::tempdir().unwrap();
            let error = restore(text.as_bytes(), dir.path()).unwrap_err().to_string();
            assert!(error.contains(why), "{why}: {error}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{why}");
        }
    }
}
