//! Validation of `metadata`, the same for all kinds but for the grammar of the name.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::field::{Errors, Path};
use super::{Kind, Operation, names};
use crate::status::Cause;

/// A kind and the grammar of its names.
pub(crate) type Named<'k> = (&'k Kind, fn(&str) -> Vec<String>);

const MAX_ANNOTATIONS: usize = 256 * 1024;
const IMMUTABLE: &str = "field is immutable";

/// Validate the metadata and give the typed view for the rest of the validation.
pub(crate) fn check<T: DeserializeOwned>(
    errors: &mut Errors,
    named: Named<'_>,
    value: &Value,
    op: Operation<'_>,
) -> Option<T> {
    validate(errors, named, value, op);
    match T::deserialize(value) {
        Ok(typed) => Some(typed),
        Err(why) => {
            // Decoding has refused such objects before; this is for objects that never passed it.
            errors.invalid(&Path::new(""), named.0.kind, &why.to_string());
            None
        }
    }
}

/// The frame of a kind's validation: the metadata, then what `rest` finds in the typed view.
pub(crate) fn validated<T: DeserializeOwned>(
    named: Named<'_>,
    value: &Value,
    op: Operation<'_>,
    rest: impl FnOnce(&mut Errors, &T),
) -> Vec<Cause> {
    let mut errors = Errors::default();
    if let Some(typed) = check::<T>(&mut errors, named, value, op) {
        rest(&mut errors, &typed);
    }
    errors.into_causes()
}

fn validate(errors: &mut Errors, (kind, grammar): Named<'_>, value: &Value, op: Operation<'_>) {
    let path = Path::new("metadata");
    let text = |key: &str| value["metadata"][key].as_str().unwrap_or_default();
    let name = text("name");
    if let Operation::Update { old, .. } = op {
        immutable(errors, &path, value, old);
    } else {
        let generate = text("generateName");
        if !generate.is_empty() {
            errors.all_invalid(&path.child("generateName"), generate, prefix(generate, grammar));
        }
        if name.is_empty() {
            errors.required(&path.child("name"), "name or generateName is required");
        } else {
            errors.all_invalid(&path.child("name"), name, grammar(name));
        }
    }
    namespace(errors, &path, kind, text("namespace"));
    let map = |key: &str| -> BTreeMap<String, String> {
        let entries = value["metadata"][key].as_object().into_iter().flatten();
        entries.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().into())).collect()
    };
    labels(errors, &path.child("labels"), &map("labels"));
    annotations(errors, &path.child("annotations"), &map("annotations"));
    owners(errors, &path.child("ownerReferences"), &value["metadata"]["ownerReferences"]);
    finalizers(errors, &path.child("finalizers"), value, op);
}

/// A prefix is a name that may end in a hyphen, since a suffix follows.
fn prefix(text: &str, grammar: fn(&str) -> Vec<String>) -> Vec<String> {
    match text.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => grammar(&format!("{rest}a")),
        _ => grammar(text),
    }
}

fn namespace(errors: &mut Errors, path: &Path, kind: &Kind, namespace: &str) {
    let path = path.child("namespace");
    match (kind.namespaced, namespace) {
        (true, "") => errors.required(&path, ""),
        (true, name) => errors.all_invalid(&path, name, names::dns_label(name)),
        (false, "") => {}
        (false, _) => errors.forbidden(&path, "not allowed on this type"),
    }
}

pub(crate) fn labels(errors: &mut Errors, path: &Path, labels: &BTreeMap<String, String>) {
    for (key, value) in labels {
        errors.all_invalid(path, key, names::qualified_name(key));
        errors.all_invalid(path, value, names::label_value(value));
    }
}

pub(crate) fn annotations(
    errors: &mut Errors,
    path: &Path,
    annotations: &BTreeMap<String, String>,
) {
    let mut size = 0;
    for (key, value) in annotations {
        // The prefix may be of any case.
        errors.all_invalid(path, key, names::qualified_name(&key.to_ascii_lowercase()));
        size += key.len() + value.len();
    }
    if size > MAX_ANNOTATIONS {
        errors.too_long(path, MAX_ANNOTATIONS);
    }
}

fn owners(errors: &mut Errors, path: &Path, owners: &Value) {
    let mut controller: Option<String> = None;
    for (index, owner) in owners.as_array().into_iter().flatten().enumerate() {
        let place = path.index(index);
        let text = |key: &str| owner[key].as_str().unwrap_or_default();
        for key in ["kind", "name", "uid"] {
            if text(key).is_empty() {
                errors.invalid(&place.child(key), "", "must not be empty");
            }
        }
        if text("apiVersion").is_empty() {
            errors.invalid(&place.child("apiVersion"), "", "version must not be empty");
        }
        if owner["controller"] == true {
            let this = format!("{}/{}", text("kind"), text("name"));
            if let Some(first) = &controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                );
                errors.invalid(path, "", &detail);
            }
            controller.get_or_insert(this);
        }
    }
}

fn finalizers(errors: &mut Errors, path: &Path, value: &Value, op: Operation<'_>) {
    let list = |value: &Value| -> Vec<String> {
        let items = value["metadata"]["finalizers"].as_array().into_iter().flatten();
        items.filter_map(|f| f.as_str().map(str::to_owned)).collect()
    };
    let new = list(value);
    for name in &new {
        errors.all_invalid(path, name, names::qualified_name(name));
    }
    let Operation::Update { old, .. } = op else { return };
    if old["metadata"]["deletionTimestamp"].is_null() {
        return;
    }
    let before = list(old);
    let added: Vec<_> = new.iter().filter(|f| !before.contains(f)).collect();
    if !added.is_empty() {
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
        );
        errors.forbidden(path, &detail);
    }
}

fn immutable(errors: &mut Errors, path: &Path, value: &Value, old: &Value) {
    for key in ["name", "namespace", "uid", "creationTimestamp"] {
        let (new, old) = (&value["metadata"][key], &old["metadata"][key]);
        // What is left out is filled in from the stored object.
        if !new.is_null() && new != "" && new != old {
            errors.invalid(&path.child(key), new.as_str().unwrap_or_default(), IMMUTABLE);
        }
    }
}

/// `field is immutable` when the two differ.
pub(crate) fn same<T: PartialEq + super::field::Shown>(
    errors: &mut Errors,
    path: &Path,
    new: T,
    old: T,
) {
    if new != old {
        errors.invalid(path, new, IMMUTABLE);
    }
}
