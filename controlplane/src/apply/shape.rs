//! What inside a value can have an owner of its own, according to the API types, and how its parts are called.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::kinds::{Field, ListKey, Struct, Topology, Type, Types, types};

/// How one value is divided among owners.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// Not at all.
    Leaf,
    Struct(&'static Struct),
    /// By key; all values are of one type.
    Map(&'static Type),
    /// Unknown to the API types: objects by key, all else is one value.
    Free,
    /// A list whose items are their own names.
    Set,
    /// A list whose items are told apart by some of their fields.
    Keyed(&'static [ListKey], &'static Type),
}

/// A part of a value, named by a path element.
pub(super) struct Part {
    pub(super) shape: Shape,
    /// A field of a struct: its parent is there when it is.
    pub(super) named: bool,
    /// A struct or list that upstream's objects always have, if only empty.
    pub(super) always: bool,
}

impl Shape {
    /// Of the objects of a kind.
    pub(super) fn root(index: Option<usize>) -> Self {
        let types: &'static Types = types();
        index.map_or(Shape::Free, |index| Shape::Struct(types.get(index)))
    }

    fn of(ty: &'static Type, topology: &'static Topology) -> Self {
        let types: &'static Types = types();
        match (ty, topology) {
            (_, Topology::Atomic) => Shape::Leaf,
            (Type::Struct(index), topology) => match types.get(*index) {
                def if def.atomic && *topology != Topology::Granular => Shape::Leaf,
                def => Shape::Struct(def),
            },
            (Type::Map(item), _) => Shape::Map(item),
            (Type::List(_), Topology::Set) => Shape::Set,
            (Type::List(item), Topology::Keyed(keys)) => Shape::Keyed(keys, item),
            (Type::Any, _) => Shape::Free,
            _ => Shape::Leaf,
        }
    }

    /// The shape that fits what is there: what is neither object nor list is one value.
    pub(super) fn fit(self, value: &Value) -> Self {
        match (self, value) {
            (Shape::Struct(_) | Shape::Map(_) | Shape::Free, Value::Object(_)) => self,
            (Shape::Set | Shape::Keyed(..), Value::Array(_)) => self,
            _ => Shape::Leaf,
        }
    }

    /// What a key of an object leads to.
    pub(super) fn field(self, key: &str) -> Part {
        let plain = |shape| Part { shape, named: false, always: false };
        match self {
            Shape::Struct(def) => match def.fields.iter().find(|f| f.name == key) {
                None => plain(Shape::Free),
                Some(field) => named(field),
            },
            Shape::Map(item) => plain(Shape::of(item, &Topology::Plain)),
            _ => plain(Shape::Free),
        }
    }

    /// What the items of a list are.
    pub(super) fn item(self) -> Shape {
        match self {
            Shape::Keyed(_, item) => Shape::of(item, &Topology::Plain),
            _ => Shape::Leaf,
        }
    }

    /// The items' names in the list's order. What has no name goes by its place.
    pub(super) fn elements(self, items: &[Value]) -> Vec<String> {
        let place = |index: usize| format!("i:{index}");
        let named = |(index, item)| self.element(item).unwrap_or_else(|| place(index));
        items.iter().enumerate().map(named).collect()
    }

    /// The name of one item.
    pub(super) fn element(self, item: &Value) -> Option<String> {
        match (self, item) {
            (Shape::Keyed(keys, _), Value::Object(item)) => key_element(keys, item),
            (Shape::Set, Value::String(_) | Value::Number(_) | Value::Bool(_)) => {
                Some(format!("v:{item}"))
            }
            _ => None,
        }
    }
}

fn named(field: &'static Field) -> Part {
    let shape = Shape::of(&field.ty, &field.topology);
    Part { shape, named: true, always: field.always }
}

pub(super) fn field_element(key: &str) -> String {
    format!("f:{key}")
}

/// `k:{"containerPort":80,"protocol":"TCP"}`; None without any key.
fn key_element(keys: &[ListKey], item: &Map<String, Value>) -> Option<String> {
    let found = keys.iter().filter_map(|key| {
        let value = item.get(key.name).filter(|v| !v.is_null()).or(key.default.as_ref())?;
        Some((key.name.to_owned(), value.clone()))
    });
    let found: BTreeMap<_, _> = found.collect();
    if found.is_empty() {
        return None;
    }
    serde_json::to_string(&found).ok().map(|keys| format!("k:{keys}"))
}
