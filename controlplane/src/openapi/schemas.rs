//! Component schemas of API types, with the extensions that strategic merge and `explain` read.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::gvk;
use crate::kinds::{Kind, Struct, Type, Types, types};
use crate::patch::merge_strategy;

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

/// The schemas of the kinds and everything that they refer to.
pub(super) fn of(kinds: &[&Kind]) -> Map<String, Value> {
    let types = types();
    let mut found = scalars();
    let mut seen = BTreeSet::new();
    for kind in kinds {
        let Some(root) = kind.strategy.root() else { continue };
        reach(types, root, &mut seen, &mut found);
        let schema = found.get_mut(&types.get(root).name);
        if let Some(schema) = schema.and_then(Value::as_object_mut) {
            let own = json!([gvk(kind.group, kind.version, kind.kind)]);
            schema.insert("x-kubernetes-group-version-kind".into(), own);
        }
    }
    found
}

fn scalars() -> Map<String, Value> {
    let int_or_string = [json!({"type": "integer"}), json!({"type": "string"})];
    let quantity = [json!({"type": "string"}), json!({"type": "number"})];
    [
        (QUANTITY, json!({ "oneOf": quantity })),
        (TIME, json!({"type": "string", "format": "date-time"})),
        (MICRO_TIME, json!({"type": "string", "format": "date-time"})),
        (INT_OR_STRING, json!({"format": "int-or-string", "oneOf": int_or_string})),
    ]
    .into_iter()
    .map(|(name, schema)| (name.to_owned(), schema))
    .collect()
}

fn reach(types: &Types, index: usize, seen: &mut BTreeSet<usize>, found: &mut Map<String, Value>) {
    if !seen.insert(index) {
        return;
    }
    let def = types.get(index);
    found.insert(def.name.clone(), object(types, def));
    for field in &def.fields {
        let mut ty = &field.ty;
        while let Type::List(item) | Type::Map(item) = ty {
            ty = item;
        }
        if let Type::Struct(index) = ty {
            reach(types, *index, seen, found);
        }
    }
}

fn object(types: &Types, def: &Struct) -> Value {
    let mut properties = Map::new();
    for field in &def.fields {
        let mut schema = schema(types, &field.ty);
        let strategy = merge_strategy(def.short(), field.name);
        let mut words = Vec::new();
        if strategy.merge {
            words.push("merge");
        }
        if strategy.retain_keys {
            words.push("retainKeys");
        }
        if !words.is_empty() {
            schema["x-kubernetes-patch-strategy"] = words.join(",").into();
        }
        if !strategy.key.is_empty() {
            schema["x-kubernetes-patch-merge-key"] = strategy.key.into();
        }
        properties.insert(field.name.into(), schema);
    }
    json!({"type": "object", "properties": properties})
}

fn schema(types: &Types, ty: &Type) -> Value {
    let refer = |name: &str| json!({"allOf": [{"$ref": format!("#/components/schemas/{name}")}]});
    match ty {
        Type::Any => json!({"x-kubernetes-preserve-unknown-fields": true, "type": "object"}),
        Type::Bool => json!({"type": "boolean"}),
        Type::Int32 => json!({"type": "integer", "format": "int32"}),
        Type::Int64 => json!({"type": "integer", "format": "int64"}),
        Type::Double => json!({"type": "number", "format": "double"}),
        Type::String => json!({"type": "string"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Time => refer(TIME),
        Type::MicroTime => refer(MICRO_TIME),
        Type::Quantity => refer(QUANTITY),
        Type::IntOrString => refer(INT_OR_STRING),
        Type::List(item) => json!({"type": "array", "items": schema(types, item)}),
        Type::Map(item) => json!({"type": "object", "additionalProperties": schema(types, item)}),
        Type::Struct(index) => refer(&types.get(*index).name),
    }
}
