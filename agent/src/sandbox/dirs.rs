//! Where a Pod's things are, and its record on disk. Names are checked before any path is built from them.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use crate::volume::Places;

#[derive(Debug, thiserror::Error)]
pub enum DirsError {
    #[error("use {what} {value:?} in a path: only letters, digits, \"-\" and \".\" are allowed")]
    Name { what: &'static str, value: String },
    #[error("{verb} {path:?}: {source}")]
    Io { verb: &'static str, path: PathBuf, source: io::Error },
    #[error("decode {path:?}: {source}")]
    Decode { path: PathBuf, source: serde_json::Error },
}

/// The roots, one set per node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    pub data: PathBuf,
    pub run: PathBuf,
    pub logs: PathBuf,
}

/// One Pod's directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodDirs {
    pub run: PathBuf,
    pub data: PathBuf,
    pub logs: PathBuf,
}

impl PodDirs {
    pub fn new(roots: &Roots, namespace: &str, name: &str, uid: &str) -> Result<Self, DirsError> {
        check_name("namespace", namespace)?;
        check_name("pod name", name)?;
        check_name("uid", uid)?;
        Ok(Self {
            run: roots.run.join("pods").join(uid),
            data: roots.data.join("pods").join(uid),
            logs: roots.logs.join(format!("{namespace}_{name}_{uid}")),
        })
    }

    pub fn of(roots: &Roots, pod: &Pod) -> Result<Self, DirsError> {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let meta = &pod.metadata;
        for container in pod
            .spec
            .iter()
            .flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
        {
            check_name("container name", &container.name)?;
        }
        Self::new(roots, &text(&meta.namespace), &text(&meta.name), &text(&meta.uid))
    }

    pub fn socket(&self) -> PathBuf {
        self.run.join("supervisor.sock")
    }

    pub fn record(&self) -> PathBuf {
        self.run.join("pod.json")
    }

    pub fn shm(&self) -> PathBuf {
        self.run.join("memory").join(".shm")
    }

    pub fn bundle(&self, container: &str, attempt: u32) -> PathBuf {
        self.run.join("bundles").join(container).join(attempt.to_string())
    }

    /// Writable layer and termination message of one run.
    pub fn layer(&self, container: &str, attempt: u32) -> PathBuf {
        self.layers(container).join(attempt.to_string())
    }

    pub fn layers(&self, container: &str) -> PathBuf {
        self.data.join("containers").join(container)
    }

    pub fn termination_log(&self, container: &str, attempt: u32) -> PathBuf {
        self.layer(container, attempt).join("termination-log")
    }

    pub fn container_logs(&self, container: &str) -> PathBuf {
        self.logs.join(container)
    }

    pub fn log(&self, container: &str, attempt: u32) -> PathBuf {
        self.container_logs(container).join(format!("{attempt}.log"))
    }

    pub fn places(&self) -> Places {
        Places { data: self.data.clone(), run: self.run.clone() }
    }
}

/// `<run dir>/pods/<uid>/pod.json`: what is needed to find a Pod again, or to take it down without the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRecord {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Of the host when this was written: a record of an earlier boot tells of nothing that lives.
    pub boot_id: String,
    pub hostname: String,
    /// None for a Pod in the host's network.
    pub netns: Option<String>,
    pub address: Option<Ipv4Addr>,
    /// The Pod's cgroup directory.
    pub cgroup: PathBuf,
    /// 0 until there is one.
    pub supervisor_pid: i32,
}

impl PodRecord {
    pub fn read(path: &Path) -> Result<Option<Self>, DirsError> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| DirsError::Decode { path: path.into(), source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DirsError::Io { verb: "read", path: path.into(), source }),
        }
    }

    pub fn write(&self, path: &Path) -> Result<(), DirsError> {
        let bytes = serde_json::to_vec(self)
            .map_err(|source| DirsError::Decode { path: path.into(), source })?;
        let new = path.with_extension("new");
        fs::write(&new, bytes).map_err(|source| DirsError::Io {
            verb: "write",
            path: new.clone(),
            source,
        })?;
        fs::rename(&new, path).map_err(|source| DirsError::Io {
            verb: "rename",
            path: new.clone(),
            source,
        })
    }
}

/// DNS names of the API have no other characters; anything else must not become part of a path.
fn check_name(what: &'static str, value: &str) -> Result<(), DirsError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let fine = !value.is_empty()
        && value.len() <= 253
        && !value.starts_with('.')
        && value.bytes().all(plain);
    if fine { Ok(()) } else { Err(DirsError::Name { what, value: value.into() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_directory() {
        let roots = Roots { data: "/d".into(), run: "/r".into(), logs: "/l".into() };
        let dirs = PodDirs::new(&roots, "default", "web-0.a", "1-2").unwrap();
        assert_eq!(dirs.log("app", 3), Path::new("/l/default_web-0.a_1-2/app/3.log"));
        for bad in ["", "..", ".", "a/b", "../x", "a\0", "a b", ".hidden"] {
            assert!(PodDirs::new(&roots, bad, "n", "u").is_err(), "{bad:?}");
            assert!(PodDirs::new(&roots, "ns", bad, "u").is_err(), "{bad:?}");
            assert!(PodDirs::new(&roots, "ns", "n", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("pod.json");
        assert_eq!(PodRecord::read(&path).unwrap(), None);
        let record = PodRecord {
            namespace: "ns".into(),
            name: "n".into(),
            uid: "u".into(),
            boot_id: "b".into(),
            hostname: "n".into(),
            netns: Some("n".into()),
            address: Some(Ipv4Addr::new(10, 0, 0, 2)),
            cgroup: "/sys/fs/cgroup/kobune/podu".into(),
            supervisor_pid: 7,
        };
        record.write(&path).unwrap();
        assert_eq!(PodRecord::read(&path).unwrap(), Some(record));
        fs::write(&path, "{").unwrap();
        assert!(PodRecord::read(&path).is_err());
    }
}
