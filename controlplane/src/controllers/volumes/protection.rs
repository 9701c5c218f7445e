//! Claims that a Pod uses and volumes that a claim holds are not gone before those are. Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::CLAIMS;
use crate::controllers::look::{self, PodView};
use crate::controllers::outcome::Act;
use crate::object::{Key, Object};
use crate::reader::Reader;

pub(crate) const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
pub(crate) const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

/// The claims that a Pod names.
pub(super) fn claims_of(pod: &Object) -> Vec<Key> {
    let view: Option<Arc<Pod>> = pod.view().ok();
    let spec = view.as_ref().and_then(|pod| pod.spec.as_ref());
    let volumes = spec.into_iter().flat_map(|spec| spec.volumes.iter().flatten());
    let names = volumes.filter_map(|v| Some(&v.persistent_volume_claim.as_ref()?.claim_name));
    names.map(|name| Key::new(CLAIMS, &pod.meta.namespace, name)).collect()
}

pub(super) fn release_claim(world: &dyn Reader, claim: &Object) -> Option<Act> {
    let key = claim.key();
    let mut pods = world.list("pods", Some(&claim.meta.namespace)).into_iter();
    let uses = |pod: Arc<Object>| {
        claims_of(&pod).contains(&key)
            && PodView::of(pod).is_some_and(|pod| !pod.is_finished() && !pod.node().is_empty())
    };
    if pods.any(uses) { None } else { without(claim, CLAIM_FINALIZER) }
}

pub(super) fn release_volume(volume: &Object, phase: &str) -> Option<Act> {
    if phase == "Bound" { None } else { without(volume, VOLUME_FINALIZER) }
}

fn without(object: &Object, finalizer: &str) -> Option<Act> {
    let has = object.meta.finalizers.iter().any(|f| f == finalizer);
    let change = || {
        look::edited(object, |value| {
            if let Some(list) = value["metadata"]["finalizers"].as_array_mut() {
                list.retain(|f| f != finalizer);
            }
        })
    };
    has.then(|| change().into())
}
