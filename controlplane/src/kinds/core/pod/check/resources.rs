//! Requests and limits.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::kinds::field::{Errors, Path};
use crate::kinds::{Quantity, names};

const STANDARD: &[&str] = &["cpu", "ephemeral-storage", "memory"];

type Amounts = BTreeMap<String, Text>;

pub(super) fn check(errors: &mut Errors, path: &Path, wanted: &ResourceRequirements) {
    let (none_limits, none_requests) = (Amounts::new(), Amounts::new());
    let limits = wanted.limits.as_ref().unwrap_or(&none_limits);
    let requests = wanted.requests.as_ref().unwrap_or(&none_requests);
    for (field, amounts) in [("limits", limits), ("requests", requests)] {
        for (name, amount) in amounts {
            let at = path.child(field).key(name);
            resource_name(errors, &at, name);
            quantity(errors, &at, name, amount);
        }
    }
    for (name, amount) in requests {
        let Ok(request) = Quantity::parse(&amount.0) else { continue };
        let limit = limits.get(name).map(|l| (l, Quantity::parse(&l.0)));
        let at = path.child("requests");
        match limit {
            Some((text, Ok(limit))) if exact(name) && request != limit => {
                let why = format!("must be equal to {name} limit of {}", text.0);
                errors.invalid(&at, &amount.0, &why);
            }
            Some((text, Ok(limit))) if !exact(name) && request > limit => {
                let why = format!("must be less than or equal to {name} limit of {}", text.0);
                errors.invalid(&at, &amount.0, &why);
            }
            None if exact(name) => {
                let why = "Limit must be set for non overcommitable resources";
                errors.required(&path.child("limits"), why);
            }
            _ => {}
        }
    }
}

/// Resources that cannot be promised twice.
fn exact(name: &str) -> bool {
    !STANDARD.contains(&name)
}

fn resource_name(errors: &mut Errors, path: &Path, name: &str) {
    let wrong = names::qualified_name(name);
    if !wrong.is_empty() {
        return errors.all_invalid(path, name, wrong);
    }
    if !name.contains('/') && !STANDARD.contains(&name) && !name.starts_with("hugepages-") {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
        errors.invalid(path, name, "must be a standard resource for containers");
    }
}

fn quantity(errors: &mut Errors, path: &Path, name: &str, amount: &Text) {
    match Quantity::parse(&amount.0) {
        Err(why) => errors.invalid(path, &amount.0, &why.to_string()),
        Ok(q) if q.is_negative() => {
            errors.invalid(path, &amount.0, "must be greater than or equal to 0");
        }
        Ok(q) if exact(name) && !q.is_whole() => {
            errors.invalid(path, &amount.0, "must be an integer");
        }
        Ok(_) => {}
    }
}
