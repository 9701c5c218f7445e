//! Which fields a value has, and which of them a change adds, changes and removes. Linear in the size of the values.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::set::Set;
use super::shape::{Part, Shape, field_element};

/// Every field of `value`: what an applied configuration owns.
pub(super) fn fields(value: &Value, shape: Shape) -> Set {
    let mut set = Set::default();
    let shape = shape.fit(value);
    match (shape, value) {
        (Shape::Leaf, _) => set.member = true,
        (_, Value::Object(map)) => {
            for (key, value) in map {
                let Part { shape, named, .. } = shape.field(key);
                let mut child = fields(value, shape);
                // Structs are there because of what is in them; entries of maps are somebody's.
                child.member |= !named || value.as_object().is_some_and(Map::is_empty);
                set.put(field_element(key), child);
            }
        }
        (_, Value::Array(items)) => {
            for (element, item) in shape.elements(items).into_iter().zip(items) {
                let mut child = fields(item, shape.item());
                child.member = true;
                set.put(element, child);
            }
        }
        _ => set.member = true,
    }
    set
}

/// What becomes of the fields of one value.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub(super) added: Set,
    pub(super) modified: Set,
    pub(super) removed: Set,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    fn put(&mut self, element: String, child: Changes) {
        let Changes { added, modified, removed } = child;
        if !added.is_empty() {
            self.added.put(element.clone(), added);
        }
        if !modified.is_empty() {
            self.modified.put(element.clone(), modified);
        }
        self.removed.put(element, removed);
    }

    /// All three with the same edit.
    pub(super) fn each(&mut self, edit: impl Fn(&mut Set)) {
        for set in [&mut self.added, &mut self.modified, &mut self.removed] {
            edit(set);
        }
    }
}

/// From `old` to `new`, both objects of the kind with this shape.
pub(super) fn changes(old: &Value, new: &Value, shape: Shape) -> Changes {
    compare(Some(old), Some(new), shape)
}

fn compare(old: Option<&Value>, new: Option<&Value>, shape: Shape) -> Changes {
    let mut changes = Changes::default();
    let (Some(some), other) = (old.or(new), if old.is_some() { new } else { None }) else {
        return changes;
    };
    let fitting = shape.fit(some);
    let alike = other.is_none_or(|o| std::mem::discriminant(o) == std::mem::discriminant(some));
    let empty = is_empty(old) && is_empty(new);
    match fitting {
        Shape::Leaf => leaf(&mut changes, old, new),
        _ if !alike || empty => leaf(&mut changes, old, new),
        Shape::Set | Shape::Keyed(..) => items(&mut changes, list(old), list(new), fitting),
        _ => entries(&mut changes, map(old), map(new), fitting),
    }
    changes.added.member |= old.is_none();
    changes.removed.member |= new.is_none();
    changes
}

/// There is nothing to descend to.
fn is_empty(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        _ => true,
    }
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn map(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

fn leaf(changes: &mut Changes, old: Option<&Value>, new: Option<&Value>) {
    match (old, new) {
        (Some(old), Some(new)) => changes.modified.member = old != new,
        (None, _) => changes.added.member = true,
        (_, None) => changes.removed.member = true,
    }
}

fn entries(
    changes: &mut Changes,
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    shape: Shape,
) {
    let olds = old.into_iter().flat_map(|map| map.keys());
    let only_new = new.into_iter().flat_map(|map| map.keys()).filter(|key| get(old, key).is_none());
    for key in olds.chain(only_new) {
        let Part { shape, always, .. } = shape.field(key);
        let (mut before, mut after) = (get(old, key), get(new, key));
        if always {
            let empty = if before.or(after).is_some_and(Value::is_array) { &LIST } else { &MAP };
            before = before.or(old.map(|_| &**empty));
            after = after.or(new.map(|_| &**empty));
        }
        let child = compare(before, after, shape);
        if !child.is_empty() {
            changes.put(field_element(key), child);
        }
    }
}

static MAP: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
static LIST: LazyLock<Value> = LazyLock::new(|| Value::Array(Vec::new()));

fn get<'m>(map: Option<&'m Map<String, Value>>, key: &str) -> Option<&'m Value> {
    map.and_then(|map| map.get(key))
}

fn items(changes: &mut Changes, old: &[Value], new: &[Value], shape: Shape) {
    let mut sides: BTreeMap<String, [Vec<&Value>; 2]> = BTreeMap::new();
    for (side, items) in [old, new].into_iter().enumerate() {
        for (element, item) in shape.elements(items).into_iter().zip(items) {
            sides.entry(element).or_default()[side].push(item);
        }
    }
    for (element, [before, after]) in sides {
        let child = match (before.as_slice(), after.as_slice()) {
            ([] | [_], [] | [_]) => {
                compare(before.first().copied(), after.first().copied(), shape.item())
            }
            // Items of the same name: all of them are one value.
            _ => Changes {
                added: marked(before.is_empty()),
                modified: marked(!before.is_empty() && !after.is_empty() && before != after),
                removed: marked(after.is_empty()),
            },
        };
        if !child.is_empty() {
            changes.put(element, child);
        }
    }
}

fn marked(member: bool) -> Set {
    if member { Set::leaf() } else { Set::default() }
}
