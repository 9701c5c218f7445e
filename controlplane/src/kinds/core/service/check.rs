//! Validation of Services.

use k8s_openapi::api::core::v1::Service;

use crate::kinds::field::{Errors, Path};

pub(super) fn spec(errors: &mut Errors, service: &Service, _old: Option<&Service>) {
    if service.spec.is_none() {
        errors.required(&Path::new("spec"), "");
    }
}
