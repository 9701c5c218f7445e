//! What state a volume is in, and what becomes of it when its claim is gone. Pure.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{BY_CONTROLLER, CLAIMS, PROVISIONED_BY, annotation, local_path, protection, text};
use crate::controllers::look;
use crate::controllers::outcome::{Act, Note, Outcome};
use crate::object::Object;
use crate::reader::Reader;
use crate::writer::Change;

pub(super) fn reconcile(world: &dyn Reader, object: &Arc<Object>, now: Timestamp) -> Outcome {
    let mut outcome = Outcome::idle();
    let value = object.value();
    let reference = &value["spec"]["claimRef"];
    let claim = world.get(CLAIMS, text(reference, "/namespace"), text(reference, "/name"));
    let claim = claim.filter(|claim| reference["uid"] == *claim.meta.uid);
    let phase = match &claim {
        // A wish for a name that nobody has yet.
        None if text(reference, "/uid").is_empty() => "Available",
        None => "Released",
        Some(claim) => match text(&claim.value(), "/spec/volumeName") {
            name if name == object.meta.name => "Bound",
            // The claim follows; or has followed another.
            "" => text(&value, "/status/phase"),
            _ => "Released",
        },
    };
    if look::is_deleting(&object.meta) {
        outcome.together(protection::release_volume(object, phase).into_iter().collect());
        return outcome;
    }
    let phase = if phase.is_empty() { "Pending" } else { phase };
    if phase == "Released" {
        return released(object, &value, claim.is_some(), now);
    }
    outcome.together(in_phase(object, &value, phase, None, now).into_iter().collect());
    outcome
}

fn in_phase(
    object: &Object,
    value: &Value,
    phase: &str,
    message: Option<&str>,
    now: Timestamp,
) -> Option<Act> {
    let known = &value["status"];
    if known["phase"] == phase && known["message"].as_str() == message {
        return None;
    }
    let mut value = value.clone();
    let mut status = json!({"phase": phase, "lastPhaseTransitionTime": look::stamp(now)});
    if let Some(message) = message {
        status["message"] = message.into();
    }
    value["status"] = status;
    Some(
        Change::Update { resource: object.resource, subresource: Some("status"), object: value }
            .into(),
    )
}

/// The claim is gone, or `elsewhere`: it has another volume.
fn released(object: &Object, value: &Value, elsewhere: bool, now: Timestamp) -> Outcome {
    let mut outcome = Outcome::idle();
    let by = annotation(value, PROVISIONED_BY);
    if elsewhere && by.is_empty() && !annotation(value, BY_CONTROLLER).is_empty() {
        // Promised but never held: free for others.
        outcome.push(look::edited(object, |value| {
            if let Some(spec) = value["spec"].as_object_mut() {
                spec.remove("claimRef");
            }
            if let Some(notes) = value["metadata"]["annotations"].as_object_mut() {
                notes.remove(BY_CONTROLLER);
            }
        }));
        return outcome;
    }
    let policy = text(value, "/spec/persistentVolumeReclaimPolicy");
    let (phase, message) = match (policy, by) {
        ("Delete", "") => (
            "Failed",
            Some(
                "error getting deleter volume plugin for volume: no deletable volume plugin matched",
            ),
        ),
        _ => ("Released", None),
    };
    let act = in_phase(object, value, phase, message, now);
    let act = act.map(|act| match message {
        Some(text) => act.noting(Note::warning(object, "VolumeFailedDelete", text)),
        None => act,
    });
    outcome.together(act.into_iter().collect());
    if outcome.is_idle() && policy == "Delete" && by == local_path::PROVISIONER {
        let path = text(value, "/spec/hostPath/path");
        let kept = format!("nobody removes directory {path:?} yet: it stays on its node");
        let note = Note::warning(object, "VolumeDirectoryKept", kept);
        outcome.push(Act::from(look::deletion(object)).noting(note));
    }
    outcome
}
