//! What is wrong with an applied configuration: lists whose items cannot be told apart.

use std::collections::HashSet;

use serde_json::Value;

use super::set::shown;
use super::shape::Shape;

/// The first mistake, as upstream words it.
pub(super) fn check(value: &Value, shape: Shape, path: &str) -> Result<(), String> {
    let shape = shape.fit(value);
    match (shape, value) {
        (Shape::Leaf, _) => Ok(()),
        (_, Value::Object(map)) => map.iter().try_for_each(|(key, value)| {
            check(value, shape.field(key).shape, &format!("{path}.{key}"))
        }),
        (_, Value::Array(list)) => items(list, shape, path),
        _ => Ok(()),
    }
}

fn items(list: &[Value], shape: Shape, path: &str) -> Result<(), String> {
    let mut seen = HashSet::new();
    for (index, item) in list.iter().enumerate() {
        let Some(element) = shape.element(item) else {
            return Err(format!("{path}: element {index}: {}", nameless(shape, item)));
        };
        let name = shown(&element);
        if !seen.insert(element) {
            return Err(format!("{path}: duplicate entries for key {name}"));
        }
        check(item, shape.item(), &format!("{path}{name}"))?;
    }
    Ok(())
}

fn nameless(shape: Shape, item: &Value) -> String {
    match (shape, item) {
        (Shape::Keyed(keys, _), Value::Object(_)) => {
            let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
            format!(
                "associative list with keys has an element that omits all key fields {names:?} (and doesn't have default values for any key fields)"
            )
        }
        (Shape::Keyed(..), Value::Null) => {
            "associative list with keys may not contain a null element".into()
        }
        (Shape::Keyed(..), _) => {
            "associative list with keys may not contain non-map elements".into()
        }
        (_, Value::Null) => {
            "associative list without keys has an element that's an explicit null".into()
        }
        (_, Value::Object(_)) => {
            "associative list without keys has an element that's a map type".into()
        }
        _ => "associative list without keys has an element that's a list type".into(),
    }
}
