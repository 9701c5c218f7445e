//! Validation of the Pod spec.

pub(in crate::kinds) mod update;

use k8s_openapi::api::core::v1::PodSpec;

use crate::kinds::field::{Errors, Path};

/// Everything wrong with a Pod spec, of a Pod or a template.
pub(in crate::kinds) fn spec(errors: &mut Errors, path: &Path, spec: &PodSpec) {
    if spec.containers.is_empty() {
        errors.required(&path.child("containers"), "");
    }
}
