//! A Pod's volumes: which there are and what is in them (pure, here and in [`payload`]), and how they come to be
//! on the host ([`atomic`], [`host`], [`mount`], [`persistent`]).
//!
//! ConfigMap, Secret, downward API and projected volumes live in the run directory (memory on any usual host:
//! secrets never reach a disk) and are rewritten when their sources change. An emptyDir lives in the data
//! directory, with `medium: Memory` on a tmpfs of its own. What stands behind a claim ([`claim`]) is somewhere else, and
//! a link in the run directory leads there. Nothing here talks to the API.

pub mod affinity;
pub mod atomic;
pub mod claim;
pub mod host;
pub mod mount;
pub mod owner;
pub mod payload;
pub mod persistent;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, ServiceAccountTokenProjection, Volume};

use crate::container::env::{Needs, TokenWish};
use crate::container::mounts::VolumeBind;
use crate::pod::qos;

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The sources are not what the Pod asks for; trying again helps when they change.
    #[error("{0}")]
    Source(String),
    #[error("{verb} {path:?}: {source}")]
    Io { verb: &'static str, path: PathBuf, source: std::io::Error },
    #[error("volume \"{volume}\": hostPath type check failed: {path:?} is not {expected}")]
    HostPath { volume: String, path: PathBuf, expected: &'static str },
    #[error("volume \"{volume}\": subPath {sub_path:?}: {problem}")]
    SubPath { volume: String, sub_path: String, problem: String },
}

pub(crate) fn io(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> VolumeError {
    move |source| VolumeError::Io { verb, path: path.to_owned(), source }
}

/// Where one Pod's volumes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Below the data directory: survives a reboot.
    pub data: PathBuf,
    /// Below the run directory.
    pub run: PathBuf,
}

/// What a volume is, as far as the host is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Medium {
    /// Files written by [`atomic`].
    Payload,
    Directory,
    /// Bytes; None for the kernel's default, half of the memory.
    Memory {
        limit: Option<u64>,
    },
    HostPath {
        path: PathBuf,
        kind: String,
    },
    /// Where [`claim::backing`] says.
    Claim {
        read_only: bool,
    },
}

pub fn medium(volume: &Volume) -> Medium {
    if let Some(host) = &volume.host_path {
        return Medium::HostPath {
            path: host.path.clone().into(),
            kind: host.type_.clone().unwrap_or_default(),
        };
    }
    if let Some(source) = &volume.persistent_volume_claim {
        return Medium::Claim { read_only: source.read_only.unwrap_or(false) };
    }
    match &volume.empty_dir {
        Some(empty) if empty.medium.as_deref() == Some("Memory") => {
            let limit = empty.size_limit.as_ref().and_then(|limit| qos::millis(&limit.0));
            Medium::Memory {
                limit: limit
                    .and_then(|millis| u64::try_from(millis / 1000).ok())
                    .filter(|bytes| *bytes > 0),
            }
        }
        Some(_) => Medium::Directory,
        None => Medium::Payload,
    }
}

/// Where the volume's content is on the host.
pub fn location(volume: &Volume, places: &Places) -> PathBuf {
    match medium(volume) {
        Medium::Payload => places.run.join("volumes").join(&volume.name),
        Medium::Memory { .. } => places.run.join("memory").join(&volume.name),
        Medium::Directory => places.data.join("volumes").join(&volume.name),
        Medium::HostPath { path, .. } => path,
        Medium::Claim { .. } => places.run.join("claims").join(&volume.name),
    }
}

/// Which ConfigMaps and Secrets the Pod's volumes refer to.
pub fn needs(pod: &Pod) -> Needs {
    let mut needs = Needs::default();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        needs.config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        needs.secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        for source in
            volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten())
        {
            needs.config_maps.extend(source.config_map.iter().map(|source| source.name.clone()));
            needs.secrets.extend(source.secret.iter().map(|source| source.name.clone()));
        }
    }
    for list in [&mut needs.config_maps, &mut needs.secrets] {
        list.sort();
        list.dedup();
    }
    needs
}

/// Which tokens the Pod's volumes show.
pub fn token_wishes(pod: &Pod) -> BTreeSet<TokenWish> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let sources = volumes
        .filter_map(|volume| volume.projected.as_ref())
        .flat_map(|projected| projected.sources.iter().flatten());
    sources.filter_map(|source| source.service_account_token.as_ref()).map(token_wish).collect()
}

fn token_wish(source: &ServiceAccountTokenProjection) -> TokenWish {
    const HOUR: i64 = 3600;
    TokenWish {
        audience: source.audience.clone().unwrap_or_default(),
        seconds: source.expiration_seconds.unwrap_or(HOUR),
    }
}

/// One `volumeMounts` entry with its volume found.
#[derive(Debug, Clone, PartialEq)]
pub struct Mounted<'a> {
    pub volume: &'a Volume,
    pub bind: VolumeBind,
    pub sub_path: Option<String>,
}

/// What a container wants mounted; sources are not resolved below the volume's root yet (see [`mount::sub_path`]).
pub fn mounted<'a>(
    pod: &'a Pod,
    container: &Container,
    places: &Places,
) -> Result<Vec<Mounted<'a>>, VolumeError> {
    let volumes = || pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let one = |mount: &k8s_openapi::api::core::v1::VolumeMount| {
        let volume = volumes().find(|volume| volume.name == mount.name);
        let volume = volume
            .ok_or_else(|| VolumeError::Source(format!("volume \"{}\" not found", mount.name)))?;
        let never_written = match medium(volume) {
            // By the agent only, as upstream.
            Medium::Payload => true,
            Medium::Claim { read_only } => read_only,
            _ => false,
        };
        let read_only = mount.read_only.unwrap_or(false) || never_written;
        let destination = Path::new("/").join(&mount.mount_path);
        let bind = VolumeBind { source: location(volume, places), destination, read_only };
        Ok(Mounted {
            volume,
            bind,
            sub_path: mount.sub_path.clone().filter(|path| !path.is_empty()),
        })
    };
    container.volume_mounts.iter().flatten().map(one).collect()
}

/// The group that owns the Pod's own volumes.
pub fn group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    context.fs_group.and_then(|group| u32::try_from(group).ok())
}

/// The same for volumes that were there before the Pod.
pub fn lasting_group(pod: &Pod) -> Option<persistent::Group> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    let policy = context.fs_group_change_policy.as_deref();
    let unless_root_fits = policy == Some("OnRootMismatch");
    group(pod).map(|id| persistent::Group { id, unless_root_fits })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_mounted_by_its_link_and_read_only_where_either_says_so() {
        let volume = |name: &str, read_only: bool| {
            let claim = json!({"claimName": "c", "readOnly": read_only});
            json!({"name": name, "persistentVolumeClaim": claim})
        };
        let mount = |name: &str, read_only: bool| json!({"name": name, "mountPath": "/m", "readOnly": read_only});
        let mounts = json!([mount("rw", false), mount("rw", true), mount("ro", false)]);
        let pod = json!({"spec": {
            "securityContext": {"fsGroup": 7, "fsGroupChangePolicy": "OnRootMismatch"},
            "containers": [{"name": "a", "volumeMounts": mounts}],
            "volumes": [volume("rw", false), volume("ro", true)],
        }});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let places = Places { data: "/d".into(), run: "/r".into() };
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let mounted = mounted(&pod, container, &places).unwrap();
        assert_eq!(mounted[0].bind.source, Path::new("/r/claims/rw"));
        let read_only: Vec<bool> = mounted.iter().map(|mounted| mounted.bind.read_only).collect();
        assert_eq!(read_only, [false, true, true]);
        let group = persistent::Group { id: 7, unless_root_fits: true };
        assert_eq!(lasting_group(&pod), Some(group));
    }
}
