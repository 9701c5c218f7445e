//! Environment of a container.

use k8s_openapi::api::core::v1::{
    Container, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector,
};

use crate::kinds::field::{Errors, Path};
use crate::kinds::names;

const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

pub(super) fn check(errors: &mut Errors, path: &Path, one: &Container) {
    for (index, var) in one.env.iter().flatten().enumerate() {
        let at = path.child("env").index(index);
        if var.name.is_empty() {
            errors.required(&at.child("name"), "");
        } else {
            errors.all_invalid(&at.child("name"), &var.name, names::env_name(&var.name));
        }
        if let Some(from) = &var.value_from {
            let at = at.child("valueFrom");
            source(errors, &at, from);
            if var.value.as_ref().is_some_and(|v| !v.is_empty()) {
                errors.invalid(&at, "", "may not be specified when `value` is not empty");
            }
        }
    }
    for (index, from) in one.env_from.iter().flatten().enumerate() {
        let at = path.child("envFrom").index(index);
        if let Some(prefix) = from.prefix.as_deref().filter(|p| !p.is_empty()) {
            errors.all_invalid(&at.child("prefix"), prefix, names::env_name(prefix));
        }
        match (&from.config_map_ref, &from.secret_ref) {
            (Some(map), None) => name(errors, &at.child("configMapRef"), &map.name),
            (None, Some(secret)) => name(errors, &at.child("secretRef"), &secret.name),
            (None, None) => {
                errors.invalid(&at, "", "must specify one of: `configMapRef` or `secretRef`");
            }
            _ => errors.invalid(&at, "", "may not have more than one field specified at a time"),
        }
    }
}

fn name(errors: &mut Errors, path: &Path, name: &str) {
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    }
}

fn source(errors: &mut Errors, path: &Path, from: &EnvVarSource) {
    let mut count = 0;
    if let Some(field) = &from.field_ref {
        count += 1;
        field_ref(errors, &path.child("fieldRef"), field, FIELDS);
    }
    if let Some(resource) = &from.resource_field_ref {
        count += 1;
        resource_ref(errors, &path.child("resourceFieldRef"), resource);
    }
    if let Some(map) = &from.config_map_key_ref {
        count += 1;
        key(errors, &path.child("configMapKeyRef"), &map.name, &map.key);
    }
    if let Some(secret) = &from.secret_key_ref {
        count += 1;
        key(errors, &path.child("secretKeyRef"), &secret.name, &secret.key);
    }
    match count {
        1 => {}
        0 => errors.invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        ),
        _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
    }
}

fn key(errors: &mut Errors, path: &Path, of: &str, key: &str) {
    name(errors, path, of);
    if key.is_empty() {
        errors.required(&path.child("key"), "");
    } else {
        errors.all_invalid(&path.child("key"), key, names::config_key(key));
    }
}

/// Also used by downward API volumes, which know other fields.
pub(super) fn field_ref(
    errors: &mut Errors,
    path: &Path,
    field: &ObjectFieldSelector,
    supported: &[&str],
) {
    let at = path.child("fieldPath");
    let text = field.field_path.as_str();
    if field.api_version.as_deref().unwrap_or_default().is_empty() {
        errors.required(&path.child("apiVersion"), "");
    } else if text.is_empty() {
        errors.required(&at, "");
    } else if let Some((map, key)) = subscript(text) {
        match map {
            "metadata.labels" => errors.all_invalid(&at, text, names::qualified_name(key)),
            "metadata.annotations" => {
                let lower = key.to_ascii_lowercase();
                errors.all_invalid(&at, text, names::qualified_name(&lower));
            }
            _ => errors.invalid(&at, text, "does not support subscript"),
        }
    } else if !supported.contains(&text) {
        errors.not_supported(&at, text, supported);
    }
}

/// `metadata.labels['x']` → (`metadata.labels`, `x`)
fn subscript(text: &str) -> Option<(&str, &str)> {
    text.strip_suffix("']")?.split_once("['")
}

pub(super) fn resource_ref(errors: &mut Errors, path: &Path, resource: &ResourceFieldSelector) {
    let name = resource.resource.as_str();
    let at = path.child("resource");
    let huge = name.starts_with("limits.hugepages-") || name.starts_with("requests.hugepages-");
    if !huge {
        errors.one_of(&at, Some(name), RESOURCES);
    }
}
