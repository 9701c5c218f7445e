//! Volumes of a Pod.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, PodSpec, ProjectedVolumeSource, Volume,
};

use super::env;
use crate::kinds::field::{Errors, Path};
use crate::kinds::{Quantity, names};

const DOWNWARD_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
const HOST_PATH_TYPES: &[&str] = &[
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

/// The names of the volumes that mounts may refer to.
pub(super) fn check(errors: &mut Errors, path: &Path, spec: &PodSpec) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let at = path.index(index);
        if volume.name.is_empty() {
            errors.required(&at.child("name"), "");
        } else {
            errors.all_invalid(&at.child("name"), &volume.name, names::dns_label(&volume.name));
            if !known.insert(volume.name.clone()) {
                errors.duplicate(&at.child("name"), &volume.name);
            }
        }
        one_source(errors, &at, volume);
        source(errors, &at, volume);
    }
    known
}

fn one_source(errors: &mut Errors, path: &Path, volume: &Volume) {
    // All fields but the name are sources.
    let tree = serde_json::to_value(volume).unwrap_or_default();
    let sources: Vec<&String> =
        tree.as_object().into_iter().flat_map(|o| o.keys()).filter(|k| *k != "name").collect();
    match sources.as_slice() {
        [] => errors.required(path, "must specify a volume type"),
        [_] => {}
        [_, more @ ..] => {
            for field in more {
                errors.forbidden(&path.child(field), "may not specify more than 1 volume type");
            }
        }
    }
}

fn source(errors: &mut Errors, path: &Path, volume: &Volume) {
    if let Some(host) = &volume.host_path {
        host_path(errors, &path.child("hostPath"), host);
    }
    if let Some(map) = &volume.config_map {
        let at = path.child("configMap");
        if map.name.is_empty() {
            errors.required(&at.child("name"), "");
        }
        files(errors, &at, map.default_mode, map.items.as_deref());
    }
    if let Some(secret) = &volume.secret {
        let at = path.child("secret");
        if secret.secret_name.as_deref().unwrap_or_default().is_empty() {
            errors.required(&at.child("secretName"), "");
        }
        files(errors, &at, secret.default_mode, secret.items.as_deref());
    }
    if let Some(dir) = &volume.empty_dir {
        let negative = |q: &str| Quantity::parse(q).map_or(true, |amount| amount.is_negative());
        if dir.size_limit.as_ref().is_some_and(|q| negative(&q.0)) {
            let why = "SizeLimit field must be a valid resource quantity";
            errors.forbidden(&path.child("emptyDir").child("sizeLimit"), why);
        }
    }
    if let Some(downward) = &volume.downward_api {
        let at = path.child("downwardAPI");
        mode(errors, &at.child("defaultMode"), downward.default_mode);
        downward_items(errors, &at, downward.items.as_deref());
    }
    if let Some(projected) = &volume.projected {
        projections(errors, &path.child("projected"), projected);
    }
    if let Some(claim) = &volume.persistent_volume_claim
        && claim.claim_name.is_empty()
    {
        errors.required(&path.child("persistentVolumeClaim").child("claimName"), "");
    }
    if let Some(nfs) = &volume.nfs {
        let at = path.child("nfs");
        for (field, text) in [("server", &nfs.server), ("path", &nfs.path)] {
            if text.is_empty() {
                errors.required(&at.child(field), "");
            }
        }
        if !nfs.path.is_empty() && !nfs.path.starts_with('/') {
            errors.invalid(&at.child("path"), &nfs.path, "must be an absolute path");
        }
    }
    if let Some(csi) = &volume.csi
        && csi.driver.is_empty()
    {
        errors.required(&path.child("csi").child("driver"), "");
    }
    if let Some(ephemeral) = &volume.ephemeral
        && ephemeral.volume_claim_template.is_none()
    {
        errors.required(&path.child("ephemeral").child("volumeClaimTemplate"), "");
    }
}

fn host_path(errors: &mut Errors, path: &Path, host: &HostPathVolumeSource) {
    let at = path.child("path");
    if host.path.is_empty() {
        errors.required(&at, "");
    } else if host.path.split('/').any(|part| part == "..") {
        errors.invalid(&at, &host.path, "must not contain '..'");
    }
    errors.optional_one_of(&path.child("type"), host.type_.as_deref(), HOST_PATH_TYPES);
}

fn files(errors: &mut Errors, path: &Path, default: Option<i32>, items: Option<&[KeyToPath]>) {
    mode(errors, &path.child("defaultMode"), default);
    for (index, item) in items.unwrap_or_default().iter().enumerate() {
        let at = path.child("items").index(index);
        if item.key.is_empty() {
            errors.required(&at.child("key"), "");
        }
        file_path(errors, &at.child("path"), &item.path);
        mode(errors, &at.child("mode"), item.mode);
    }
}

fn mode(errors: &mut Errors, path: &Path, mode: Option<i32>) {
    if let Some(mode) = mode
        && !(0..=0o777).contains(&mode)
    {
        let why = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.invalid(path, mode, why);
    }
}

fn file_path(errors: &mut Errors, path: &Path, text: &str) {
    if text.is_empty() {
        return errors.required(path, "");
    }
    inside(errors, path, text);
    if text.starts_with("..") && !text.starts_with("../") {
        errors.invalid(path, text, "must not start with '..'");
    }
}

/// A path that stays below where it is put.
pub(super) fn inside(errors: &mut Errors, path: &Path, text: &str) {
    if text.starts_with('/') {
        errors.invalid(path, text, "must be a relative path");
    }
    if text.split('/').any(|part| part == "..") {
        errors.invalid(path, text, "must not contain '..'");
    }
}

fn downward_items(errors: &mut Errors, path: &Path, items: Option<&[DownwardAPIVolumeFile]>) {
    for (index, item) in items.unwrap_or_default().iter().enumerate() {
        let at = path.child("items").index(index);
        file_path(errors, &at.child("path"), &item.path);
        mode(errors, &at.child("mode"), item.mode);
        match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), None) => {
                env::field_ref(errors, &at.child("fieldRef"), field, DOWNWARD_FIELDS);
            }
            (None, Some(resource)) => {
                let at = at.child("resourceFieldRef");
                if resource.container_name.as_deref().unwrap_or_default().is_empty() {
                    errors.required(&at.child("containerName"), "");
                }
                env::resource_ref(errors, &at, resource);
            }
            (None, None) => {
                errors.required(&at, "one of fieldRef and resourceFieldRef is required");
            }
            _ => {
                let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.invalid(&at, "resource", why);
            }
        }
    }
}

fn projections(errors: &mut Errors, path: &Path, projected: &ProjectedVolumeSource) {
    mode(errors, &path.child("defaultMode"), projected.default_mode);
    for (index, source) in projected.sources.iter().flatten().enumerate() {
        let at = path.child("sources").index(index);
        let tree = serde_json::to_value(source).unwrap_or_default();
        let count = tree.as_object().map_or(0, |o| o.len());
        if count > 1 {
            errors.forbidden(&at, "may not specify more than 1 volume type per source");
        } else if count == 0 {
            errors.required(&at, "must specify exactly one volume type");
        }
        if let Some(map) = &source.config_map {
            if map.name.is_empty() {
                errors.required(&at.child("configMap").child("name"), "");
            }
            files(errors, &at.child("configMap"), None, map.items.as_deref());
        }
        if let Some(secret) = &source.secret {
            if secret.name.is_empty() {
                errors.required(&at.child("secret").child("name"), "");
            }
            files(errors, &at.child("secret"), None, secret.items.as_deref());
        }
        if let Some(downward) = &source.downward_api {
            downward_items(errors, &at.child("downwardAPI"), downward.items.as_deref());
        }
        if let Some(token) = &source.service_account_token {
            let at = at.child("serviceAccountToken");
            file_path(errors, &at.child("path"), &token.path);
            if let Some(seconds) = token.expiration_seconds
                && seconds < 600
            {
                let why = "may not specify a duration less than 10 minutes";
                errors.invalid(&at.child("expirationSeconds"), seconds, why);
            }
        }
    }
}
