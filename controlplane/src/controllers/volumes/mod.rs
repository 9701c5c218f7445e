//! Volumes and claims: who gets whom, what becomes of a volume whose claim is gone, and who protects both.
//!
//! ```text
//! claim ─┬─ no class: the default one              volume ─┬─ nobody's ─→ Available
//!        ├─ a volume that names it ─→ bound               ├─ its claim holds it ─→ Bound
//!        ├─ waits for its first Pod, until the            └─ its claim is gone ─→ Released
//!        │  scheduler names a node                               ├─ Delete, ours ─→ deleted
//!        ├─ Immediate: smallest volume that fits                 ├─ Delete, nobody's ─→ Failed
//!        └─ none: made by the class's provisioner                └─ Retain ─→ stays
//! ```
//! A bond is two references: `claimRef` of the volume is written first, `volumeName` of the claim follows, so
//! that a volume is never promised twice. Each reconcile writes one of them; its event brings the next.

mod claim;
pub(crate) mod local_path;
pub(crate) mod matching;
pub(crate) mod protection;
#[cfg(test)]
mod tests;
mod volume;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::look;
use super::outcome::Outcome;
use super::runner::{Controller, Seen};
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;

pub(crate) const CLAIMS: Resource = "persistentvolumeclaims";
pub(crate) const VOLUMES: Resource = "persistentvolumes";
pub(crate) const CLASSES: Resource = "storageclasses.storage.k8s.io";

/// Both are bound for good.
pub(crate) const COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Not by the user, so it may be undone.
const BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

pub(super) struct Binder;

impl Controller for Binder {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:persistent-volume-binder"
    }

    fn watches(&self) -> Vec<Resource> {
        vec![CLAIMS, VOLUMES, CLASSES, "pods"]
    }

    fn keys(&self, world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        match seen.resource {
            CLAIMS => {
                let claim = seen.latest().map(Object::key);
                let held = seen.states().filter_map(|claim| {
                    let name = text(&claim.value(), "/spec/volumeName").to_owned();
                    (!name.is_empty()).then(|| Key::new(VOLUMES, "", &name))
                });
                let promised = world.list(VOLUMES, None).into_iter().filter(|volume| {
                    claim
                        .as_ref()
                        .is_some_and(|claim| names(&volume.value()["spec"]["claimRef"], claim))
                });
                let mut keys: Vec<Key> =
                    claim.iter().cloned().chain(held).chain(promised.map(|v| v.key())).collect();
                keys.sort();
                keys.dedup();
                keys
            }
            VOLUMES => {
                let volume = seen.latest().map(Object::key).into_iter();
                let claims =
                    world.list(CLAIMS, None).into_iter().filter(|claim| waits(claim, seen));
                volume.chain(claims.map(|claim| claim.key())).collect()
            }
            CLASSES => {
                let claims = world.list(CLAIMS, None).into_iter();
                claims
                    .filter(|c| c.value()["status"]["phase"] != "Bound")
                    .map(|c| c.key())
                    .collect()
            }
            _ => seen.states().flat_map(protection::claims_of).collect(),
        }
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, now: Timestamp) -> Outcome {
        let Some(object) = world.get(key.resource, &key.namespace, &key.name) else {
            return Outcome::idle();
        };
        match key.resource {
            CLAIMS => claim::reconcile(world, &object),
            _ => volume::reconcile(world, &object, now),
        }
    }
}

/// Whether an event of a volume may be news for a claim: it has none yet, or it is this one.
fn waits(claim: &Object, seen: Seen<'_>) -> bool {
    let value = claim.value();
    let name = text(&value, "/spec/volumeName");
    name.is_empty()
        || value["status"]["phase"] != "Bound"
        || seen.latest().is_some_and(|v| v.meta.name == name)
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn annotation<'v>(value: &'v Value, key: &str) -> &'v str {
    value["metadata"]["annotations"][key].as_str().unwrap_or_default()
}

pub(crate) fn annotate(value: &mut Value, key: &str, text: &str) {
    let notes = &mut value["metadata"]["annotations"];
    if !notes.is_object() {
        *notes = json!({});
    }
    notes[key] = text.into();
}

/// Whether a claimRef is about the claim of this name.
fn names(reference: &Value, claim: &Key) -> bool {
    reference["namespace"] == *claim.namespace && reference["name"] == *claim.name
}

/// Whether a claimRef is about this very claim; one without a uid is a wish for the name.
pub(crate) fn is_for(reference: &Value, claim: &Object) -> bool {
    let uid = reference["uid"].as_str().unwrap_or_default();
    names(reference, &claim.key()) && (uid.is_empty() || uid == claim.meta.uid)
}

pub(crate) fn reference(claim: &Object) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.meta.namespace,
        "name": claim.meta.name, "uid": claim.meta.uid,
        "resourceVersion": claim.meta.resource_version.to_string(),
    })
}

/// Promises the volume to the claim.
pub(crate) fn promise(volume: &Object, claim: &Object) -> crate::writer::Change {
    look::edited(volume, |value| {
        if value["spec"]["claimRef"].is_null() {
            annotate(value, BY_CONTROLLER, "yes");
        }
        value["spec"]["claimRef"] = reference(claim);
    })
}
