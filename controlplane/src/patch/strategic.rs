//! Strategic merge patch: like a merge patch, but lists are merged by key where the API says so, and directives
//! (`$patch`, `$retainKeys`, `$setElementOrder/…`, `$deleteFromPrimitiveList/…`) say more.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::keys::{MergeStrategy, merge_strategy};
use super::{bad_request, order};
use crate::kinds::{Type, Types};
use crate::status::ApiError;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER_PREFIX: &str = "$setElementOrder/";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";

type Object = Map<String, Value>;
type Merged<T> = Result<T, ApiError>;

/// `original` with `patch` applied, both of type `root`.
pub(super) fn merge(types: &Types, root: &Type, original: &Value, patch: &Object) -> Merged<Value> {
    let original = original.as_object().cloned().unwrap_or_default();
    Merge { types }.object(original, patch.clone(), root).map(Value::Object)
}

struct Merge<'t> {
    types: &'t Types,
}

impl<'t> Merge<'t> {
    /// Type and strategy of a field.
    fn field(&self, owner: &'t Type, name: &str) -> (&'t Type, MergeStrategy) {
        match owner {
            Type::Struct(index) => {
                let owner = self.types.get(*index);
                (owner.field(name).unwrap_or(&Type::Any), merge_strategy(owner.short(), name))
            }
            Type::Map(item) => (item, merge_strategy("", "")),
            _ => (&Type::Any, merge_strategy("", "")),
        }
    }

    fn object(&self, mut original: Object, mut patch: Object, ty: &'t Type) -> Merged<Object> {
        match patch.remove(DIRECTIVE).as_ref().map(|d| d.as_str().unwrap_or_default()) {
            None | Some("merge") => {}
            Some("replace") => {
                return Ok(match clean(Value::Object(patch))? {
                    Value::Object(whole) => whole,
                    _ => Object::new(),
                });
            }
            Some("delete") => return Ok(Object::new()),
            Some(other) => return Err(unknown_directive(other)),
        }
        retain_keys(&mut original, &mut patch)?;
        self.ordered_lists(&mut original, &mut patch, ty)?;
        for (name, change) in patch {
            if let Some(name) = name.strip_prefix(DELETE_PREFIX) {
                delete_primitives(&mut original, name, &change)?;
                continue;
            }
            if change.is_null() {
                original.remove(&name);
                continue;
            }
            let merged = match original.remove(&name) {
                None => clean(change)?,
                Some(before) => self.value(before, change, ty, &name)?,
            };
            original.insert(name, merged);
        }
        Ok(original)
    }

    fn value(&self, before: Value, change: Value, owner: &'t Type, name: &str) -> Merged<Value> {
        let (ty, strategy) = self.field(owner, name);
        match (before, change) {
            (Value::Object(before), Value::Object(change)) => {
                self.object(before, change, ty).map(Value::Object)
            }
            (Value::Array(before), Value::Array(change)) if strategy.merge => {
                self.list(before, change, item_type(ty), strategy.key).map(Value::Array)
            }
            (_, change) => clean(change),
        }
    }

    fn list(
        &self,
        original: Vec<Value>,
        patch: Vec<Value>,
        item: &'t Type,
        key: &str,
    ) -> Merged<Vec<Value>> {
        if key.is_empty() {
            let mut seen = HashSet::new();
            let all = original.iter().chain(&patch).cloned();
            let merged = all.filter(|v| seen.insert(v.to_string())).collect();
            return Ok(order::arrange(merged, &patch, &original, key));
        }
        let (mut merged, patch) = special_items(original.clone(), patch, key)?;
        let mut places = order::places(&merged, key);
        for change in &patch {
            let Value::Object(change) = change else { return Err(not_an_object(change)) };
            let Some(id) = change.get(key) else { return Err(no_merge_key(change, key)) };
            match places.get(&id.to_string()) {
                Some(place) => {
                    let before = merged[*place].as_object().cloned().unwrap_or_default();
                    merged[*place] = Value::Object(self.object(before, change.clone(), item)?);
                }
                None => {
                    places.insert(id.to_string(), merged.len());
                    merged.push(clean(Value::Object(change.clone()))?);
                }
            }
        }
        Ok(order::arrange(merged, &patch, &original, key))
    }

    /// Lists with a `$setElementOrder` are merged together with it.
    fn ordered_lists(&self, original: &mut Object, patch: &mut Object, ty: &'t Type) -> Merged<()> {
        let prefixed = patch.keys().filter_map(|k| k.strip_prefix(ORDER_PREFIX));
        let names: Vec<String> = prefixed.map(str::to_owned).collect();
        for name in names {
            let Some(Value::Array(wanted)) = patch.remove(&format!("{ORDER_PREFIX}{name}")) else {
                return Err(bad_request(format!(
                    "invalid patch: {ORDER_PREFIX}{name} must be a list"
                )));
            };
            let (_, strategy) = self.field(ty, &name);
            let key = if wanted.iter().any(Value::is_object) { strategy.key } else { "" };
            let before = original.get(&name).and_then(Value::as_array).cloned().unwrap_or_default();
            let merged = match (original.remove(&name), patch.remove(&name)) {
                (None, None) => continue,
                (_, Some(Value::Null)) => continue,
                (before, None) => before.unwrap_or_default(),
                (None, Some(change)) => {
                    check_order(&change, &wanted, key, &name)?;
                    clean(change)?
                }
                (Some(before), Some(change)) => {
                    check_order(&change, &wanted, key, &name)?;
                    self.value(before, change, ty, &name)?
                }
            };
            let merged = match merged {
                Value::Array(items) => Value::Array(order::arrange(items, &wanted, &before, key)),
                other => other,
            };
            original.insert(name, merged);
        }
        Ok(())
    }
}

fn item_type(ty: &Type) -> &Type {
    match ty {
        Type::List(item) => item,
        _ => &Type::Any,
    }
}

fn unknown_directive(directive: &str) -> ApiError {
    bad_request(format!("Unknown patch type found: {directive}"))
}

fn not_an_object(item: &Value) -> ApiError {
    bad_request(format!("invalid patch: {item} must be an object: the list is merged by key"))
}

fn no_merge_key(item: &Object, key: &str) -> ApiError {
    let item = Value::Object(item.clone());
    bad_request(format!("map: {item} does not contain declared merge key: {key}"))
}

/// `$retainKeys: [a, b]`: everything else goes.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Merged<()> {
    let Some(list) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(list) = list else {
        return Err(bad_request(format!("invalid patch: {RETAIN_KEYS} must be a list")));
    };
    let kept: HashSet<&str> = list.iter().filter_map(Value::as_str).collect();
    let known = |key: &str| kept.contains(key) || key.starts_with('$');
    if let Some((key, _)) = patch.iter().find(|(k, v)| !v.is_null() && !known(k)) {
        return Err(bad_request(format!(
            "invalid patch: {key:?} is set but not in the {RETAIN_KEYS} list"
        )));
    }
    original.retain(|key, _| kept.contains(key.as_str()));
    Ok(())
}

fn delete_primitives(original: &mut Object, name: &str, gone: &Value) -> Merged<()> {
    let Value::Array(gone) = gone else {
        return Err(bad_request(format!("invalid patch: {DELETE_PREFIX}{name} must be a list")));
    };
    let gone: HashSet<String> = gone.iter().map(Value::to_string).collect();
    if let Some(Value::Array(items)) = original.get_mut(name) {
        items.retain(|item| !gone.contains(&item.to_string()));
    }
    Ok(())
}

/// Items that are directives: `{$patch: delete, name: x}`, `{$patch: replace}`. What is left of both lists.
fn special_items(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Merged<(Vec<Value>, Vec<Value>)> {
    let (mut rest, mut deleted, mut replace) = (Vec::new(), HashSet::new(), false);
    for item in patch {
        match item.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
            None | Some("merge") => rest.push(item),
            Some("replace") => {
                replace = true;
                // A whole item may carry the directive, too.
                if item.get(key).is_some() {
                    rest.push(clean(item)?);
                }
            }
            Some("delete") => match item.get(key) {
                Some(id) => drop(deleted.insert(id.to_string())),
                None => {
                    let item = item.as_object().cloned().unwrap_or_default();
                    return Err(no_merge_key(&item, key));
                }
            },
            Some(other) => return Err(unknown_directive(other)),
        }
    }
    if replace {
        original.clear();
    }
    original.retain(|item| !deleted.contains(&order::identity(item, key)));
    Ok((original, rest))
}

/// Everything that the patch sets must stand in the order list, in that order.
fn check_order(change: &Value, wanted: &[Value], key: &str, name: &str) -> Merged<()> {
    let places = order::places(wanted, key);
    let mut last = 0;
    for item in change.as_array().into_iter().flatten() {
        if item.get(DIRECTIVE).is_some() {
            continue;
        }
        match places.get(&order::identity(item, key)) {
            Some(place) if *place >= last => last = *place,
            _ => {
                return Err(bad_request(format!(
                    "invalid patch: the order of {name} does not match {ORDER_PREFIX}{name}"
                )));
            }
        }
    }
    Ok(())
}

/// A value that meets nothing in the original: without nulls and directives.
fn clean(value: Value) -> Merged<Value> {
    match value {
        Value::Object(mut map) => {
            match map.remove(DIRECTIVE).as_ref().map(|d| d.as_str().unwrap_or_default()) {
                None | Some("merge" | "replace") => {}
                Some("delete") => return Ok(Value::Object(Object::new())),
                Some(other) => return Err(unknown_directive(other)),
            }
            let mut cleaned = Object::new();
            for (key, value) in map {
                let directive = key == RETAIN_KEYS
                    || key.starts_with(ORDER_PREFIX)
                    || key.starts_with(DELETE_PREFIX);
                if !directive && !value.is_null() {
                    cleaned.insert(key, clean(value)?);
                }
            }
            Ok(Value::Object(cleaned))
        }
        Value::Array(items) => {
            let deleted = |v: &Value| v.get(DIRECTIVE).is_some_and(|d| d == "delete");
            let lone_replace = |v: &Value| {
                v.get(DIRECTIVE).is_some() && v.as_object().is_some_and(|o| o.len() == 1)
            };
            let kept = items.into_iter().filter(|v| !deleted(v) && !lone_replace(v));
            kept.map(clean).collect::<Merged<Vec<_>>>().map(Value::Array)
        }
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests;
