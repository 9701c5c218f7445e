//! What stands behind the claims of a Pod, asked of the API. Nothing that is there already is asked again: what a
//! bound claim means does not change while its Pod stands. A node may get claims and volumes of its Pods, and not watch
//! them: what is not bound yet is looked at again with the next try.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::Api;

use super::sources::failed_mount;
use crate::node::context::Context;
use crate::volume::claim::{self, Backing};
use crate::volume::{self, Places};

/// By the name of the Pod's volume.
pub(super) async fn fetch(
    context: &Context,
    pod: &Pod,
    places: &Places,
) -> Result<BTreeMap<String, Backing>, String> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let mut found = BTreeMap::new();
    for one in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Some(source) = &one.persistent_volume_claim else { continue };
        if volume::location(one, places).symlink_metadata().is_ok() {
            continue;
        }
        let backing = backing(context, &namespace, &source.claim_name).await;
        found.insert(one.name.clone(), backing.map_err(|error| failed_mount(&one.name, &error))?);
    }
    Ok(found)
}

async fn backing(context: &Context, namespace: &str, name: &str) -> Result<Backing, String> {
    let client = &context.client;
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    let claim = claims.get(name).await.map_err(|error| error.to_string())?;
    let bound = claim::volume_of(&claim)?;
    let node = Api::<Node>::all(client.clone()).get(&context.options.node_name).await;
    let node = node.map_err(|error| error.to_string())?;
    let volumes = Api::<PersistentVolume>::all(client.clone());
    let volume = volumes.get(bound).await.map_err(|error| error.to_string())?;
    claim::backing(&volume, &claim, &node)
}
