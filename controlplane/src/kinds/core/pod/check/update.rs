//! What may change in a Pod that exists.

use serde_json::Value;

use crate::kinds::edit;
use crate::kinds::field::{Errors, Path};

const FIXED: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// `value` and `old` are whole Pods.
pub(in crate::kinds) fn spec(errors: &mut Errors, value: &Value, old: &Value, subresource: &str) {
    let path = Path::new("spec");
    let (new, before) = (&value["spec"], &old["spec"]);
    deadline(errors, &path, new, before);
    tolerations(errors, &path, new, before);
    if subresource == "ephemeralcontainers" {
        ephemeral(errors, &path, new, before);
    }
    if rest(new, subresource) != rest(before, subresource) {
        errors.forbidden(&path, FIXED);
    }
}

/// The spec without what may change by this way.
fn rest(spec: &Value, subresource: &str) -> Value {
    let mut spec = spec.clone();
    let Some(object) = spec.as_object_mut() else { return spec };
    object.remove("activeDeadlineSeconds");
    object.remove("tolerations");
    match subresource {
        "binding" => drop(object.remove("nodeName")),
        "ephemeralcontainers" => drop(object.remove("ephemeralContainers")),
        _ => {}
    }
    // A list that is empty is a list that is not there.
    object.retain(|_, value| value.as_array().is_none_or(|items| !items.is_empty()));
    for list in ["containers", "initContainers"] {
        for container in edit::each(object, list) {
            container.remove("image");
            if subresource == "resize" {
                container.remove("resources");
                container.remove("resizePolicy");
            }
        }
    }
    // Gates may go, never come.
    object.remove("schedulingGates");
    spec
}

fn deadline(errors: &mut Errors, path: &Path, new: &Value, old: &Value) {
    let seconds = |spec: &Value| spec["activeDeadlineSeconds"].as_i64();
    let at = path.child("activeDeadlineSeconds");
    match (seconds(new), seconds(old)) {
        (Some(new), Some(old)) if new > old => {
            errors.invalid(&at, new, "must be less than or equal to previous value");
        }
        (None, Some(_)) => {
            errors.invalid(&at, "", "must not update from a positive integer to nil value");
        }
        _ => {}
    }
}

/// Existing ones stay; only their seconds may change.
fn tolerations(errors: &mut Errors, path: &Path, new: &Value, old: &Value) {
    let list = |spec: &Value| -> Vec<Value> {
        let mut items = spec["tolerations"].as_array().cloned().unwrap_or_default();
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            item.remove("tolerationSeconds");
        }
        items
    };
    let new = list(new);
    if list(old).iter().any(|kept| !new.contains(kept)) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden(&path.child("tolerations"), why);
    }
}

/// Ephemeral containers are only ever added.
fn ephemeral(errors: &mut Errors, path: &Path, new: &Value, old: &Value) {
    let list = |spec: &Value| spec["ephemeralContainers"].as_array().cloned().unwrap_or_default();
    let new = list(new);
    let at = path.child("ephemeralContainers");
    for container in list(old) {
        let same = |c: &&Value| c["name"] == container["name"];
        let name = container["name"].as_str().unwrap_or_default();
        match new.iter().find(same) {
            None => errors.forbidden(
                &at,
                &format!("existing ephemeral containers {name:?} may not be removed\n"),
            ),
            Some(changed) if *changed != container => errors.forbidden(
                &at,
                &format!("existing ephemeral containers {name:?} may not be changed\n"),
            ),
            Some(_) => {}
        }
    }
}
