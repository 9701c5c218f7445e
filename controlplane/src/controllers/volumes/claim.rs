//! A claim finds its volume. Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::{Value, json};

use super::matching::{self, class_name};
use super::{
    BY_CONTROLLER, COMPLETED, SELECTED_NODE, VOLUMES, annotate, annotation, is_for, local_path,
    promise, protection, text,
};
use crate::controllers::look;
use crate::controllers::outcome::{Act, Note, Outcome};
use crate::object::Object;
use crate::reader::Reader;

const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";

pub(super) fn reconcile(world: &dyn Reader, object: &Arc<Object>) -> Outcome {
    let mut outcome = Outcome::idle();
    let Ok(view) = object.view::<PersistentVolumeClaim>() else { return outcome };
    if look::is_deleting(&object.meta) {
        outcome.together(protection::release_claim(world, object).into_iter().collect());
        return outcome;
    }
    let value = object.value();
    match text(&value, "/spec/volumeName") {
        "" => search(world, object, &view, &mut outcome),
        name => settle(world, object, &value, name, &mut outcome),
    }
    outcome
}

fn search(
    world: &dyn Reader,
    object: &Arc<Object>,
    view: &PersistentVolumeClaim,
    outcome: &mut Outcome,
) {
    let volumes = world.list(VOLUMES, None).into_iter().filter(|v| !look::is_deleting(&v.meta));
    let mut promised = volumes.filter(|volume| is_for(&volume.value()["spec"]["claimRef"], object));
    if let Some(volume) = promised.next() {
        return bind(object, &volume, outcome);
    }
    let Some(class) = class_name(view) else {
        if let Some(class) = matching::default_class(world) {
            let name = class.meta.name.clone();
            return outcome
                .push(look::edited(object, |v| v["spec"]["storageClassName"] = name.into()));
        }
        return find(
            world,
            object,
            view,
            outcome,
            "no persistent volumes available for this claim and no storage class is set",
        );
    };
    let found = matching::class_of(world, view);
    let value = object.value();
    let node = annotation(&value, SELECTED_NODE);
    match found {
        Some(class) if matching::waits_for_consumer(&class) && node.is_empty() => {
            let text = "waiting for first consumer to be created before binding";
            outcome.notes.push(Note::normal(object, "WaitForFirstConsumer", text));
        }
        Some(class) => {
            let waits = matching::waits_for_consumer(&class);
            // The scheduler has looked for volumes on the node that it chose.
            let volume = if waits { None } else { matching::smallest(world, view, |_| true) };
            match volume {
                Some(volume) => bind(object, &volume, outcome),
                None => provision(world, object, &value, &class, outcome),
            }
        }
        None if class.is_empty() => {
            find(
                world,
                object,
                view,
                outcome,
                "no persistent volumes available for this claim and no storage class is set",
            );
        }
        None => find(
            world,
            object,
            view,
            outcome,
            &format!("storageclass.storage.k8s.io {class:?} not found"),
        ),
    }
}

fn find(
    world: &dyn Reader,
    object: &Arc<Object>,
    view: &PersistentVolumeClaim,
    outcome: &mut Outcome,
    otherwise: &str,
) {
    match matching::smallest(world, view, |_| true) {
        Some(volume) => bind(object, &volume, outcome),
        None => outcome.notes.push(Note::normal(object, "FailedBinding", otherwise)),
    }
}

/// The volume's reference first; the claim's when that is written.
fn bind(claim: &Arc<Object>, volume: &Arc<Object>, outcome: &mut Outcome) {
    if volume.value()["spec"]["claimRef"]["uid"] != *claim.meta.uid {
        outcome.push(promise(volume, claim));
    }
    let name = volume.meta.name.clone();
    outcome.push(look::edited(claim, |value| {
        value["spec"]["volumeName"] = name.into();
        annotate(value, BY_CONTROLLER, "yes");
        annotate(value, COMPLETED, "yes");
    }));
}

fn provision(
    world: &dyn Reader,
    object: &Arc<Object>,
    value: &Value,
    class: &k8s_openapi::api::storage::v1::StorageClass,
    outcome: &mut Outcome,
) {
    let provisioner = class.provisioner.as_str();
    if provisioner == "kubernetes.io/no-provisioner" {
        let text =
            "no volume plugin matched: the class makes no volumes, one must be created by hand";
        return outcome.notes.push(Note::warning(object, "ProvisioningFailed", text));
    }
    if annotation(value, PROVISIONER) != provisioner {
        return outcome
            .push(look::edited(object, |value| annotate(value, PROVISIONER, provisioner)));
    }
    if provisioner != local_path::PROVISIONER {
        let text = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        );
        return outcome.notes.push(Note::normal(object, "ExternalProvisioning", text));
    }
    let node = annotation(value, SELECTED_NODE);
    if !node.is_empty() && world.get("nodes", "", node).is_none() {
        // The scheduler chooses again.
        return outcome.push(look::edited(object, |value| {
            if let Some(notes) = value["metadata"]["annotations"].as_object_mut() {
                notes.remove(SELECTED_NODE);
            }
        }));
    }
    match local_path::volume(world, object, value, class) {
        Ok(change) => {
            let done =
                Note::normal(object, "ProvisioningSucceeded", "Successfully provisioned volume {}");
            let refused =
                Note::warning(object, "ProvisioningFailed", "failed to provision volume: {}");
            outcome.push(Act::from(change).noting(done).or_noting(refused));
        }
        Err(why) => outcome.notes.push(Note::warning(object, "ProvisioningFailed", why)),
    }
}

/// The claim has said whose it is.
fn settle(
    world: &dyn Reader,
    object: &Arc<Object>,
    value: &Value,
    name: &str,
    outcome: &mut Outcome,
) {
    let completed = !annotation(value, COMPLETED).is_empty();
    let lost = |outcome: &mut Outcome, reason, text: &str| {
        if completed && value["status"]["phase"] != "Lost" {
            outcome.notes.push(Note::warning(object, reason, text));
            outcome.push(with_status(object, &json!({"phase": "Lost"})));
        } else if !completed {
            outcome.notes.push(Note::warning(object, "FailedBinding", text));
        }
    };
    let volume = world.get(VOLUMES, "", name);
    let Some(volume) = volume else {
        let text = match completed {
            true => {
                "Bound claim has lost its PersistentVolume. Data on the volume is lost!".to_owned()
            }
            false => format!("volume {name:?} not found"),
        };
        return lost(outcome, "ClaimLost", &text);
    };
    let held = &volume.value()["spec"]["claimRef"];
    if !held.is_null() && !is_for(held, object) {
        let text = match completed {
            true => {
                "Two claims are bound to the same volume, this one is bound incorrectly".to_owned()
            }
            false => format!("volume {name:?} already bound to a different claim."),
        };
        return lost(outcome, "ClaimMisbound", &text);
    }
    if held["uid"] != *object.meta.uid {
        return outcome.push(promise(&volume, object));
    }
    if !completed {
        return outcome.push(look::edited(object, |value| annotate(value, COMPLETED, "yes")));
    }
    let spec = &volume.value()["spec"];
    let status = json!({
        "phase": "Bound", "accessModes": spec["accessModes"], "capacity": spec["capacity"],
    });
    let known = &value["status"];
    if ["phase", "accessModes", "capacity"].iter().any(|key| known[key] != status[key]) {
        outcome.push(with_status(object, &status));
    }
}

fn with_status(claim: &Object, status: &Value) -> Act {
    let mut value = claim.value();
    for (key, field) in status.as_object().into_iter().flatten() {
        value["status"][key] = field.clone();
    }
    crate::writer::Change::Update {
        resource: claim.resource,
        subresource: Some("status"),
        object: value,
    }
    .into()
}
