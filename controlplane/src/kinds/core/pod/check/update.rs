//! What may change in a Pod that exists.

use serde_json::Value;

use crate::kinds::field::{Errors, Path};

const WHY: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// `value` and `old` are whole Pods.
pub(in crate::kinds) fn spec(errors: &mut Errors, value: &Value, old: &Value, subresource: &str) {
    let (mut new, mut before) = (value["spec"].clone(), old["spec"].clone());
    for spec in [&mut new, &mut before] {
        let Some(spec) = spec.as_object_mut() else { continue };
        for key in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"] {
            spec.remove(key);
        }
        if subresource == "binding" {
            spec.remove("nodeName");
        }
        if subresource == "ephemeralcontainers" {
            spec.remove("ephemeralContainers");
        }
        for list in ["containers", "initContainers"] {
            for container in crate::kinds::edit::each(spec, list) {
                container.remove("image");
            }
        }
    }
    if new != before {
        errors.forbidden(&Path::new("spec"), WHY);
    }
}
