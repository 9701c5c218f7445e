//! Which volume suits a claim, and what its class says. Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use super::{CLASSES, VOLUMES};
use crate::controllers::look;
use crate::kinds::Quantity;
use crate::object::Object;
use crate::reader::Reader;

const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const IS_DEFAULT: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];

/// The name of the claim's class; None when nobody has said, empty when it wants none.
pub(crate) fn class_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    let beta = claim.metadata.annotations.as_ref().and_then(|notes| notes.get(BETA_CLASS));
    let field = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_ref());
    beta.or(field).map(String::as_str)
}

/// The class for claims that name none: of several the newest.
pub(crate) fn default_class(world: &dyn Reader) -> Option<Arc<Object>> {
    let is_default = |class: &Arc<Object>| {
        let view: Option<Arc<StorageClass>> = class.view().ok();
        let notes = view.and_then(|class| class.metadata.annotations.clone()).unwrap_or_default();
        IS_DEFAULT.iter().any(|key| notes.get(*key).is_some_and(|value| value == "true"))
    };
    let all = world.list(CLASSES, None).into_iter().filter(is_default);
    all.max_by_key(|class| {
        (class.meta.creation_timestamp.clone(), std::cmp::Reverse(class.meta.name.clone()))
    })
}

pub(crate) fn class_of(
    world: &dyn Reader,
    claim: &PersistentVolumeClaim,
) -> Option<Arc<StorageClass>> {
    let name = class_name(claim).filter(|name| !name.is_empty())?;
    world.get(CLASSES, "", name)?.view().ok()
}

pub(crate) fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

fn storage(
    amounts: Option<
        &std::collections::BTreeMap<
            String,
            k8s_openapi::apimachinery::pkg::api::resource::Quantity,
        >,
    >,
) -> Quantity {
    let text = amounts.and_then(|amounts| amounts.get("storage"));
    text.and_then(|text| Quantity::parse(&text.0).ok()).unwrap_or(Quantity::ZERO)
}

/// Whether the volume has everything that the claim asks for, nodes aside.
pub(crate) fn suits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(offer), Some(wish)) = (&volume.spec, &claim.spec) else { return false };
    let asked = wish.resources.as_ref().and_then(|r| r.requests.as_ref());
    let modes = offer.access_modes.as_deref().unwrap_or_default();
    let labels = volume.metadata.labels.clone().unwrap_or_default();
    let block = |mode: &Option<String>| mode.as_deref() == Some("Block");
    storage(offer.capacity.as_ref()) >= storage(asked)
        && wish.access_modes.iter().flatten().all(|mode| modes.contains(mode))
        && offer.storage_class_name.as_deref().unwrap_or_default()
            == class_name(claim).unwrap_or_default()
        && block(&offer.volume_mode) == block(&wish.volume_mode)
        && wish.selector.as_ref().is_none_or(|selector| look::selects(selector, &labels))
}

/// The smallest volume that suits, is free, and satisfies `may`.
pub(crate) fn smallest(
    world: &dyn Reader,
    claim: &PersistentVolumeClaim,
    may: impl Fn(&PersistentVolume) -> bool,
) -> Option<Arc<Object>> {
    let free = world.list(VOLUMES, None).into_iter().filter(|v| !look::is_deleting(&v.meta));
    let candidates = free.filter_map(|object| {
        let volume: Arc<PersistentVolume> = object.view().ok()?;
        let is_free = volume.spec.as_ref()?.claim_ref.is_none();
        let fits = is_free && suits(&volume, claim) && may(&volume);
        fits.then(|| (storage(volume.spec.as_ref().and_then(|s| s.capacity.as_ref())), object))
    });
    candidates
        .min_by_key(|(size, object)| (*size, object.meta.name.clone()))
        .map(|(_, object)| object)
}
