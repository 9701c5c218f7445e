//! The files of ConfigMap, Secret, downward API and projected volumes. Pure.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccountTokenProjection, Volume,
};

use super::VolumeError;
use crate::container::env::Sources;
use crate::container::field::{self, PodFacts};
use crate::pod::plan::find_container;

/// Path within the volume → content.
pub type Payload = BTreeMap<String, File>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub bytes: Vec<u8>,
    pub mode: u32,
    /// None for root.
    pub owner: Option<u32>,
}

impl File {
    fn new(bytes: Vec<u8>, mode: u32) -> Self {
        Self { bytes, mode, owner: None }
    }
}

/// None if the volume is of another kind.
pub fn payload(
    volume: &Volume,
    facts: &PodFacts<'_>,
    sources: &Sources,
) -> Result<Option<Payload>, VolumeError> {
    let mut out = Payload::new();
    if let Some(source) = &volume.config_map {
        let map = find(&sources.config_maps, &source.name, source.optional, "configmap", facts)?;
        let mode = mode(source.default_mode);
        pick(
            &mut out,
            map.map(config_map_data),
            &source.items,
            mode,
            source.optional,
            "configmap",
        )?;
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.clone().unwrap_or_default();
        let secret = find(&sources.secrets, &name, source.optional, "secret", facts)?;
        let mode = mode(source.default_mode);
        pick(&mut out, secret.map(secret_data), &source.items, mode, source.optional, "secret")?;
    } else if let Some(source) = &volume.downward_api {
        downward(
            &mut out,
            source.items.as_deref().unwrap_or_default(),
            mode(source.default_mode),
            facts,
        )?;
    } else if let Some(projected) = &volume.projected {
        let mode = mode(projected.default_mode);
        for source in projected.sources.iter().flatten() {
            if let Some(source) = &source.config_map {
                let map =
                    find(&sources.config_maps, &source.name, source.optional, "configmap", facts)?;
                pick(
                    &mut out,
                    map.map(config_map_data),
                    &source.items,
                    mode,
                    source.optional,
                    "configmap",
                )?;
            }
            if let Some(source) = &source.secret {
                let secret =
                    find(&sources.secrets, &source.name, source.optional, "secret", facts)?;
                pick(
                    &mut out,
                    secret.map(secret_data),
                    &source.items,
                    mode,
                    source.optional,
                    "secret",
                )?;
            }
            if let Some(source) = &source.downward_api {
                downward(&mut out, source.items.as_deref().unwrap_or_default(), mode, facts)?;
            }
            if let Some(source) = &source.service_account_token {
                token(&mut out, source, mode, facts.pod, sources)?;
            }
        }
    } else {
        return Ok(None);
    }
    Ok(Some(out))
}

type Data = BTreeMap<String, Vec<u8>>;

fn config_map_data(map: &ConfigMap) -> Data {
    let text =
        map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary =
        map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    text.chain(binary).collect()
}

fn secret_data(secret: &Secret) -> Data {
    secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect()
}

fn find<'a, T>(
    map: &'a BTreeMap<String, Option<T>>,
    name: &str,
    optional: Option<bool>,
    what: &str,
    facts: &PodFacts<'_>,
) -> Result<Option<&'a T>, VolumeError> {
    match map.get(name).and_then(Option::as_ref) {
        None if !optional.unwrap_or(false) => {
            Err(VolumeError::Source(format!("{what} \"{}/{name}\" not found", facts.namespace())))
        }
        found => Ok(found),
    }
}

/// All keys under their own names, or only the listed ones where they are wanted.
fn pick(
    out: &mut Payload,
    data: Option<Data>,
    items: &Option<Vec<KeyToPath>>,
    mode: u32,
    optional: Option<bool>,
    what: &str,
) -> Result<(), VolumeError> {
    let Some(mut data) = data else { return Ok(()) };
    let Some(items) = items.as_ref().filter(|items| !items.is_empty()) else {
        for (key, bytes) in data {
            check_path(&key)?;
            out.insert(key, File::new(bytes, mode));
        }
        return Ok(());
    };
    for item in items {
        check_path(&item.path)?;
        match data.remove(&item.key) {
            Some(bytes) => {
                out.insert(item.path.clone(), File::new(bytes, item.mode.map_or(mode, bits)));
            }
            None if optional.unwrap_or(false) => {}
            None => {
                let key = &item.key;
                return Err(VolumeError::Source(format!(
                    "{what} references non-existent config key: {key}"
                )));
            }
        }
    }
    Ok(())
}

fn downward(
    out: &mut Payload,
    items: &[DownwardAPIVolumeFile],
    mode: u32,
    facts: &PodFacts<'_>,
) -> Result<(), VolumeError> {
    for item in items {
        check_path(&item.path)?;
        let text = downward_value(item, facts.pod, facts).map_err(VolumeError::Source)?;
        let mode = item.mode.map_or(mode, bits);
        out.insert(item.path.clone(), File::new(text.into_bytes(), mode));
    }
    Ok(())
}

fn downward_value(
    item: &DownwardAPIVolumeFile,
    pod: &Pod,
    facts: &PodFacts<'_>,
) -> Result<String, String> {
    if let Some(reference) = &item.field_ref {
        return field::value(&reference.field_path, facts);
    }
    let Some(reference) = &item.resource_field_ref else { return Ok(String::new()) };
    let name = reference.container_name.as_deref().unwrap_or_default();
    let container =
        find_container(pod, name).ok_or_else(|| format!("container \"{name}\" not found"))?;
    field::resource(reference, container, facts)
}

/// Where all containers run as one user or share a group, nobody else may read it.
fn token(
    out: &mut Payload,
    source: &ServiceAccountTokenProjection,
    mode: u32,
    pod: &Pod,
    sources: &Sources,
) -> Result<(), VolumeError> {
    check_path(&source.path)?;
    let missing = || VolumeError::Source("there is no token of the service account".into());
    let token = sources.tokens.get(&super::token_wish(source)).ok_or_else(missing)?;
    let owner = user_of_all(pod);
    let private = owner.is_some() || super::group(pod).is_some();
    let mode = if private { 0o600 } else { mode };
    out.insert(source.path.clone(), File { bytes: token.clone().into_bytes(), mode, owner });
    Ok(())
}

/// The one user that the spec names for every container.
fn user_of_all(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut users = all.map(|container| {
        let own = container.security_context.as_ref().and_then(|context| context.run_as_user);
        own.or(of_pod)
    });
    let first = users.next()??;
    let one = users.all(|user| user == Some(first));
    u32::try_from(first).ok().filter(|_| one)
}

/// Relative, without `..`, and not one of the names that the writer itself uses.
fn check_path(path: &str) -> Result<(), VolumeError> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !plain || path.starts_with("..") {
        return Err(VolumeError::Source(format!(
            "path {path:?} of a volume's file is not allowed"
        )));
    }
    Ok(())
}

fn mode(default: Option<i32>) -> u32 {
    default.map_or(0o644, bits)
}

fn bits(mode: i32) -> u32 {
    (mode as u32) & 0o777
}

#[cfg(test)]
#[path = "payload_tests.rs"]
mod tests;
