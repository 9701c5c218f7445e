//! What a Pod needs of other objects, by what its spec names. Pure.

use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, EnvVar, EphemeralContainer, PersistentVolume, Pod, Volume,
};

use crate::admission::account::MIRROR;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Secret,
    ConfigMap,
    Claim,
    Account,
}

/// Whether one of the Pod's needs is `wanted`; all of them are in the Pod's namespace.
pub(super) fn any(pod: &Pod, wanted: impl Fn(Sort, &str) -> bool) -> bool {
    let mirrored = pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(MIRROR));
    let Some(spec) = pod.spec.as_ref().filter(|_| !mirrored) else { return false };
    let secret = |name: &str| wanted(Sort::Secret, name);
    wanted(Sort::Account, spec.service_account_name.as_deref().unwrap_or("default"))
        || spec.image_pull_secrets.iter().flatten().any(|reference| secret(&reference.name))
        || environments(pod).any(|(env, from)| in_environment(env, from, &wanted))
        || spec.volumes.iter().flatten().any(|volume| in_volume(pod, volume, &wanted))
}

type Environment<'p> = (&'p [EnvVar], &'p [EnvFromSource]);

fn environments(pod: &Pod) -> impl Iterator<Item = Environment<'_>> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| {
        let plain = spec.init_containers.iter().flatten().chain(&spec.containers);
        let plain = plain.map(|Container { env, env_from, .. }| (env, env_from));
        let late = spec.ephemeral_containers.iter().flatten();
        plain.chain(late.map(|EphemeralContainer { env, env_from, .. }| (env, env_from)))
    })
    .map(|(env, from)| (env.as_deref().unwrap_or_default(), from.as_deref().unwrap_or_default()))
}

fn in_environment(
    env: &[EnvVar],
    from: &[EnvFromSource],
    wanted: &impl Fn(Sort, &str) -> bool,
) -> bool {
    let sources = || env.iter().filter_map(|variable| variable.value_from.as_ref());
    sources().filter_map(|s| s.secret_key_ref.as_ref()).any(|r| wanted(Sort::Secret, &r.name))
        || sources()
            .filter_map(|s| s.config_map_key_ref.as_ref())
            .any(|r| wanted(Sort::ConfigMap, &r.name))
        || from.iter().filter_map(|s| s.secret_ref.as_ref()).any(|r| wanted(Sort::Secret, &r.name))
        || from
            .iter()
            .filter_map(|s| s.config_map_ref.as_ref())
            .any(|r| wanted(Sort::ConfigMap, &r.name))
}

fn in_volume(pod: &Pod, volume: &Volume, wanted: &impl Fn(Sort, &str) -> bool) -> bool {
    let secret = |name: &str| wanted(Sort::Secret, name);
    let named = |name: Option<&str>| name.is_some_and(secret);
    let claim = volume.persistent_volume_claim.as_ref();
    let own_claim = volume
        .ephemeral
        .as_ref()
        .map(|_| format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name));
    let sources = || volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
    named(volume.secret.as_ref().and_then(|s| s.secret_name.as_deref()))
        || volume.config_map.as_ref().is_some_and(|m| wanted(Sort::ConfigMap, &m.name))
        || claim.is_some_and(|c| wanted(Sort::Claim, &c.claim_name))
        || own_claim.is_some_and(|name| wanted(Sort::Claim, &name))
        || sources().filter_map(|s| s.secret.as_ref()).any(|s| secret(&s.name))
        || sources().filter_map(|s| s.config_map.as_ref()).any(|m| wanted(Sort::ConfigMap, &m.name))
        || driver_secrets(volume).into_iter().flatten().any(secret)
}

fn driver_secrets(volume: &Volume) -> [Option<&str>; 8] {
    [
        volume.csi.as_ref().and_then(|d| Some(d.node_publish_secret_ref.as_ref()?.name.as_str())),
        volume.iscsi.as_ref().and_then(|d| Some(d.secret_ref.as_ref()?.name.as_str())),
        volume.rbd.as_ref().and_then(|d| Some(d.secret_ref.as_ref()?.name.as_str())),
        volume.cephfs.as_ref().and_then(|d| Some(d.secret_ref.as_ref()?.name.as_str())),
        volume.flex_volume.as_ref().and_then(|d| Some(d.secret_ref.as_ref()?.name.as_str())),
        volume.scale_io.as_ref().map(|d| d.secret_ref.name.as_str()),
        volume.storageos.as_ref().and_then(|d| Some(d.secret_ref.as_ref()?.name.as_str())),
        volume.azure_file.as_ref().map(|d| d.secret_name.as_str()),
    ]
}

/// Namespace (empty: the claim's) and name of the Secrets that a volume's driver needs on the node.
pub(super) fn secrets_of(volume: &PersistentVolume) -> impl Iterator<Item = (&str, &str)> {
    let driver = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref());
    let references = driver.into_iter().flat_map(|csi| {
        [&csi.node_publish_secret_ref, &csi.node_stage_secret_ref, &csi.node_expand_secret_ref]
    });
    references.flatten().map(|reference| {
        (
            reference.namespace.as_deref().unwrap_or_default(),
            reference.name.as_deref().unwrap_or_default(),
        )
    })
}
