//! ConfigMaps and Secrets that a Pod refers to: read when they are needed, watched while a volume shows them.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::claims;
use super::token::Tokens;
use super::worker::Msg;
use crate::container::env::{Needs, Sources};
use crate::node::context::Context;
use crate::sandbox::Standing;
use crate::volume::claim::Backing;
use crate::volume::{self, VolumeError, atomic, payload, persistent};

/// Reads all of `needs`; what does not exist is there as None.
pub(super) async fn fetch(
    client: &Client,
    namespace: &str,
    needs: &Needs,
) -> Result<Sources, kube::Error> {
    let mut sources = Sources::default();
    let maps = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    for name in &needs.config_maps {
        if !sources.config_maps.contains_key(name) {
            sources.config_maps.insert(name.clone(), maps.get_opt(name).await?);
        }
    }
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    for name in &needs.secrets {
        if !sources.secrets.contains_key(name) {
            sources.secrets.insert(name.clone(), secrets.get_opt(name).await?);
        }
    }
    Ok(sources)
}

/// Makes every volume of the Pod: content, directories, memory. Done again, it refreshes what has changed.
pub(super) async fn make_volumes(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    tokens: &Tokens,
    dirs: &crate::sandbox::dirs::PodDirs,
    pod_ip: Option<String>,
) -> Result<(), String> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let needs = volume::needs(pod);
    let places = dirs.places();
    let (sources, tokens, backings) = tokio::join!(
        fetch(&context.client, &namespace, &needs),
        tokens.fetch(&context.client, pod, volume::token_wishes(pod)),
        claims::fetch(context, pod, &places),
    );
    let mut sources = sources.map_err(|error| error.to_string())?;
    sources.tokens = tokens.map_err(|error| error.to_string())?;
    let backings = backings?;
    let (context, pod) = (Arc::clone(context), Arc::clone(pod));
    let work = move || {
        let facts = context.facts(&pod, pod_ip);
        for one in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            make_volume(one, &facts, &sources, &places, &backings)
                .map_err(|error| failed_mount(&one.name, &error))?;
        }
        Ok(())
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}

pub(super) fn failed_mount(volume: &str, error: &impl std::fmt::Display) -> String {
    format!("MountVolume.SetUp failed for volume \"{volume}\" : {error}")
}

fn make_volume(
    volume: &k8s_openapi::api::core::v1::Volume,
    facts: &crate::container::field::PodFacts<'_>,
    sources: &Sources,
    places: &volume::Places,
    backings: &BTreeMap<String, Backing>,
) -> Result<(), VolumeError> {
    let group = volume::group(facts.pod);
    let location = volume::location(volume, places);
    match volume::medium(volume) {
        volume::Medium::Payload => match payload::payload(volume, facts, sources)? {
            Some(payload) => atomic::write(&location, &payload, group).map(drop),
            None => Err(VolumeError::Source("its source is not supported".into())),
        },
        volume::Medium::Directory => volume::mount::shared(&location, group),
        volume::Medium::Memory { limit } => {
            volume::mount::memory(&location, limit, 0o777)?;
            volume::mount::shared(&location, group)
        }
        volume::Medium::HostPath { path, kind } => {
            volume::host::prepare(&volume.name, &path, &kind)
        }
        volume::Medium::Claim { read_only } => match backings.get(&volume.name) {
            Some(backing) => {
                let group = volume::lasting_group(facts.pod).filter(|_| !read_only);
                persistent::lend(&volume.name, backing, group, &location)
            }
            // Lent already.
            None => Ok(()),
        },
    }
}

/// Tells the worker when what its volumes show has changed or ends. Ends when the set is dropped. `inherited` are
/// volumes that another agent wrote.
pub(super) fn watch(
    context: &Context,
    pod: &Pod,
    tokens: &Arc<Tokens>,
    inherited: bool,
    inbox: &mpsc::UnboundedSender<Msg>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    if !volume::token_wishes(pod).is_empty() {
        tasks.spawn(Arc::clone(tokens).renew(inherited, inbox.clone()));
    }
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let needs = volume::needs(pod);
    for name in needs.config_maps {
        tasks.spawn(watch_one::<ConfigMap>(
            context.client.clone(),
            namespace.clone(),
            name,
            inbox.clone(),
        ));
    }
    for name in needs.secrets {
        tasks.spawn(watch_one::<Secret>(
            context.client.clone(),
            namespace.clone(),
            name,
            inbox.clone(),
        ));
    }
    tasks
}

async fn watch_one<K>(
    client: Client,
    namespace: String,
    name: String,
    inbox: mpsc::UnboundedSender<Msg>,
) where
    K: Resource<Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
    K::DynamicType: Default,
{
    let api = Api::<K>::namespaced(client, &namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let changes = watcher(api, config).default_backoff().try_for_each(|event| {
        if matches!(event, watcher::Event::Apply(_) | watcher::Event::InitDone) {
            let _ = inbox.send(Msg::SourcesChanged);
        }
        futures::future::ready(Ok(()))
    });
    if let Err(error) = changes.await {
        tracing::debug!(%error, name, "watch the source of a volume");
    }
}

/// Where the volumes of a standing Pod are refreshed from, with its present address.
pub(super) async fn refresh(
    context: Arc<Context>,
    pod: Arc<Pod>,
    tokens: Arc<Tokens>,
    standing: Standing,
) {
    let address = standing.record.address.map(|address| address.to_string());
    if let Err(message) = make_volumes(&context, &pod, &tokens, &standing.dirs, address).await {
        // What is there stays; the next change or start tries again.
        tracing::debug!(message, pod = ?pod.metadata.name, "refresh volumes");
    }
}
