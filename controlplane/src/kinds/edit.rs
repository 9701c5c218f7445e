//! Small edits of JSON trees that defaulting and preparing share. Knows no kind.

use serde_json::{Map, Value};

use super::Operation;

pub(crate) type Object = Map<String, Value>;

/// Absent, null and the empty string are the same for upstream's types.
pub(crate) fn is_unset(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    }
}

/// Set `key` unless it is set.
pub(crate) fn default_to(object: &mut Object, key: &str, value: impl Into<Value>) {
    if is_unset(object.get(key)) {
        object.insert(key.into(), value.into());
    }
}

/// The object at `key`, if there is one.
pub(crate) fn child<'v>(object: &'v mut Object, key: &str) -> Option<&'v mut Object> {
    object.get_mut(key)?.as_object_mut()
}

/// The object at `key`, made if it is absent.
pub(crate) fn make<'v>(object: &'v mut Object, key: &str) -> &'v mut Object {
    let slot = object.entry(key).or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    // Just made sure of.
    slot.as_object_mut().unwrap_or_else(|| unreachable!("an object was put there"))
}

/// The list at `key`, made if it is absent.
pub(crate) fn make_list<'v>(object: &'v mut Object, key: &str) -> &'v mut Vec<Value> {
    let slot = object.entry(key).or_insert_with(|| Value::Array(Vec::new()));
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    // Just made sure of.
    slot.as_array_mut().unwrap_or_else(|| unreachable!("a list was put there"))
}

/// `key` as it was before the change.
pub(crate) fn keep(object: &mut Object, old: &Value, key: &str) {
    match old.get(key) {
        Some(before) => object.insert(key.into(), before.clone()),
        None => object.remove(key),
    };
}

/// The objects in the list at `key`.
pub(crate) fn each<'v>(object: &'v mut Object, key: &str) -> impl Iterator<Item = &'v mut Object> {
    object
        .get_mut(key)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

pub(crate) fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn set_generation(value: &mut Value, generation: i64) {
    if let Some(object) = value.as_object_mut() {
        make(object, "metadata").insert("generation".into(), generation.into());
    }
}

fn take_from(value: &mut Value, old: &Value, pointer: (&str, &str)) {
    let (parent, key) = pointer;
    let before = old.pointer(&format!("{parent}/{key}")).cloned();
    let Some(object) = value.pointer_mut(parent).and_then(Value::as_object_mut) else { return };
    match before {
        Some(before) => object.insert(key.into(), before),
        None => object.remove(key),
    };
}

/// Everything but the metadata and the status.
fn differs(value: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (value.as_object(), old.as_object()) else { return true };
    let relevant = |key: &&String| !matches!(key.as_str(), "metadata" | "status");
    let changed = |key: &String| new.get(key) != old.get(key);
    new.keys().chain(old.keys()).filter(relevant).any(changed)
}

/// The usual rules of kinds with a status: the main resource cannot write it, `status` can write nothing else.
pub(crate) fn guard_status(value: &mut Value, op: Operation<'_>) {
    match op {
        Operation::Create => {
            if let Some(object) = value.as_object_mut() {
                object.remove("status");
            }
        }
        Operation::Update { old, subresource: "status" } => {
            take_from(value, old, ("", "spec"));
            for key in ["labels", "ownerReferences", "finalizers", "deletionTimestamp"] {
                take_from(value, old, ("/metadata", key));
            }
        }
        Operation::Update { old, .. } => take_from(value, old, ("", "status")),
    }
}

/// `metadata.generation` counts changes of what is wanted.
pub(crate) fn count_generation(value: &mut Value, op: Operation<'_>) {
    let generation = match op {
        Operation::Create => 1,
        Operation::Update { old, .. } => {
            let before = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
            before + i64::from(differs(value, old))
        }
    };
    set_generation(value, generation);
}

/// For kinds whose generation nobody counts: whatever a client sent is dropped.
pub(crate) fn no_generation(value: &mut Value) {
    if let Some(metadata) = value.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.remove("generation");
    }
}
