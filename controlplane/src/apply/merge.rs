//! An applied configuration laid over the stored object, and what its manager no longer wants taken out again.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::set::Set;
use super::shape::{Part, Shape, field_element};

/// `live` with everything that `config` says.
pub(super) fn merge(live: &Value, config: &Value, shape: Shape) -> Value {
    let shape = if alike(live, config) { shape.fit(config) } else { Shape::Leaf };
    match (shape, live, config) {
        (Shape::Leaf, _, _) => config.clone(),
        (_, Value::Object(live), Value::Object(config)) => {
            let mut merged = live.clone();
            for (key, wanted) in config {
                let value = match live.get(key) {
                    Some(found) => merge(found, wanted, shape.field(key).shape),
                    None => wanted.clone(),
                };
                merged.insert(key.clone(), value);
            }
            Value::Object(merged)
        }
        (_, Value::Array(live), Value::Array(config)) => lists(live, config, shape).into(),
        _ => config.clone(),
    }
}

fn alike(one: &Value, other: &Value) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other)
}

/// Items of the configuration in its order; those that only the server knows keep their place among them.
fn lists(live: &[Value], config: &[Value], shape: Shape) -> Vec<Value> {
    let (live_names, names) = (shape.elements(live), shape.elements(config));
    let mut found: HashMap<&str, &Value> = HashMap::new();
    for (name, item) in live_names.iter().zip(live) {
        found.entry(name).or_insert(item);
    }
    let wanted: HashSet<&str> = names.iter().map(String::as_str).collect();
    // Items that both have, in the order in which they are met.
    let mut shared = names.iter().filter(|name| found.contains_key(name.as_str())).peekable();
    let mut coming = names.iter().zip(config);
    let mut merged = Vec::with_capacity(live.len().max(config.len()));
    let merged_item = |name: &str, item: &Value| match found.get(name) {
        Some(live) => merge(live, item, shape.item()),
        None => item.clone(),
    };
    for (name, item) in live_names.iter().zip(live) {
        if !wanted.contains(name.as_str()) {
            merged.push(item.clone());
        } else if shared.next_if(|next| *next == name).is_some() {
            for (other, item) in coming.by_ref() {
                merged.push(merged_item(other, item));
                if other == name {
                    break;
                }
            }
        }
    }
    merged.extend(coming.map(|(name, item)| merged_item(name, item)));
    merged
}

/// Takes out of `value` what is in `last` and that nobody in `managed` owns. What is empty then goes, too.
pub(super) fn prune(value: &mut Value, last: &Set, managed: Option<&Set>, shape: Shape) {
    let shape = shape.fit(value);
    match (shape, value) {
        (Shape::Leaf, _) => {}
        (_, Value::Object(map)) => entries(map, last, managed, shape),
        (_, Value::Array(items)) => {
            let names = shape.elements(items);
            let mut names = names.iter();
            items.retain_mut(|item| {
                let element = names.next().map_or("", String::as_str);
                keep(item, &Place { element, last, managed, named: false }, shape.item())
            });
        }
        _ => {}
    }
}

fn entries(map: &mut Map<String, Value>, last: &Set, managed: Option<&Set>, shape: Shape) {
    let mut gone = Vec::new();
    for (key, value) in map.iter_mut() {
        let Part { shape, named, .. } = shape.field(key);
        let element = field_element(key);
        if !keep(value, &Place { element: &element, last, managed, named }, shape) {
            gone.push(key.clone());
        }
    }
    for key in gone {
        map.remove(&key);
    }
}

/// Where one part stands in the sets of its parent.
struct Place<'s> {
    element: &'s str,
    last: &'s Set,
    /// None below something that nobody owns.
    managed: Option<&'s Set>,
    named: bool,
}

/// Whether the part stays; prunes it where it does.
fn keep(value: &mut Value, place: &Place<'_>, shape: Shape) -> bool {
    let Some(last) = place.last.below.get(place.element) else { return true };
    let owns = |set: &Set| set.member || (place.named && !set.below.is_empty());
    let managed = place.managed.and_then(|set| set.below.get(place.element));
    let managed = managed.filter(|set| owns(set));
    if managed.is_none() && owns(last) {
        return false;
    }
    let filled = !is_empty(value);
    prune(value, last, managed, shape);
    // Somebody may want it empty.
    !filled || !is_empty(value) || managed.is_some_and(|set| set.member)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}
