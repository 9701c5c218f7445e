//! What stands behind a claim: which directory of this node it is, or why it cannot be mounted here. Pure.

use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};

use super::affinity;

/// The control plane's provisioner.
const LOCAL_PATH: &str = "kobune.io/local-path";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// A bound volume, as far as this node is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    HostPath {
        path: PathBuf,
        kind: String,
    },
    /// There already, and for Pods alone.
    Local {
        path: PathBuf,
    },
    /// The same, but made by the first Pod.
    Provisioned {
        path: PathBuf,
    },
}

/// The name of the volume that the claim is bound to.
pub fn volume_of(claim: &PersistentVolumeClaim) -> Result<&str, String> {
    let named = |problem: &str| {
        let meta = &claim.metadata;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        format!("error processing PVC {}/{}: {problem}", text(&meta.namespace), text(&meta.name))
    };
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(named("PVC is being deleted"));
    }
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    let volume = volume.filter(|name| phase == Some("Bound") && !name.is_empty());
    let volume = volume.ok_or_else(|| named("PVC is not bound"))?;
    let mode = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    if mode == Some("Block") {
        return Err(named("volumeMode Block is not supported by this node"));
    }
    Ok(volume)
}

/// Where the volume is, if it belongs to the claim and can be mounted on `node`.
pub fn backing(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
    node: &Node,
) -> Result<Backing, String> {
    let named = |problem: String| format!("PersistentVolume {:?}: {problem}", name(volume));
    let spec = volume.spec.as_ref().ok_or_else(|| named("it has no spec".into()))?;
    let holder = spec.claim_ref.as_ref().and_then(|claim| claim.uid.as_ref());
    if holder.is_none() || holder != claim.metadata.uid.as_ref() {
        return Err(named("spec.claimRef does not point to the claim".into()));
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(named("spec.volumeMode: Block is not supported by this node".into()));
    }
    if spec.mount_options.as_ref().is_some_and(|options| !options.is_empty()) {
        return Err(named("spec.mountOptions: not supported for a directory".into()));
    }
    if !affinity::fits(volume, node) {
        return Err(named("spec.nodeAffinity does not match the labels of this node".into()));
    }
    let backing = if let Some(path) = provisioned(volume) {
        Backing::Provisioned { path: path.into() }
    } else if let Some(host) = &spec.host_path {
        let kind = host.type_.clone().unwrap_or_default();
        Backing::HostPath { path: host.path.clone().into(), kind }
    } else if let Some(local) = &spec.local {
        Backing::Local { path: local.path.clone().into() }
    } else {
        return Err(named(format!("spec.{}: not supported by this node", source(volume))));
    };
    let (Backing::HostPath { path, .. } | Backing::Local { path } | Backing::Provisioned { path }) =
        &backing;
    if !is_plain(path) {
        return Err(named(format!("path {path:?} must be absolute and without \"..\"")));
    }
    Ok(backing)
}

/// The directory that the provisioner chose: it bears the volume's name, `pvc-<uid>_<namespace>_<claim>`.
fn provisioned(volume: &PersistentVolume) -> Option<&Path> {
    let by = volume.metadata.annotations.as_ref()?.get(PROVISIONED_BY)?;
    let path = Path::new(&volume.spec.as_ref()?.host_path.as_ref()?.path);
    let directory = path.file_name()?.to_str()?;
    let own = name(volume).starts_with("pvc-")
        && directory.strip_prefix(name(volume)).is_some_and(|rest| rest.starts_with('_'));
    (by == LOCAL_PATH && own && is_plain(path)).then_some(path)
}

fn is_plain(path: &Path) -> bool {
    let fine = |part| matches!(part, Component::RootDir | Component::Normal(_));
    path.is_absolute() && path.components().all(fine)
}

fn name(volume: &PersistentVolume) -> &str {
    volume.metadata.name.as_deref().unwrap_or_default()
}

/// The field of the spec that says what the volume is.
fn source(volume: &PersistentVolume) -> String {
    const OTHERS: [&str; 9] = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    let spec = serde_json::to_value(&volume.spec).unwrap_or_default();
    let mut fields = spec.as_object().into_iter().flatten().map(|(field, _)| field.clone());
    fields.find(|field| !OTHERS.contains(&field.as_str())).unwrap_or_else(|| "hostPath".into())
}

#[cfg(test)]
#[path = "claim_tests.rs"]
mod tests;
