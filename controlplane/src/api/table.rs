//! Objects in the shapes that clients ask for: whole, metadata only, or as rows of a Table. Pure.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::accept::{Include, Shape};
use crate::kinds::Kind;
use crate::object::Object;

/// One object as JSON; Tables are made by [`table`].
pub(crate) fn shaped(object: &Object, shape: Shape) -> Bytes {
    match shape {
        Shape::Object | Shape::Table(_) => object.raw().clone(),
        Shape::Partial => partial(object).to_string().into(),
    }
}

fn partial(object: &Object) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.value()["metadata"].take(),
    })
}

/// A Table of `objects` with `metadata` of the list.
pub(crate) fn table(
    kind: &Kind,
    objects: &[Arc<Object>],
    include: Include,
    metadata: &Value,
    now: i64,
) -> String {
    with_rows(&columns(kind), kind, objects, include, metadata, now)
}

/// A Table of one object; in a watch only the first event names the columns.
pub(crate) fn one(
    kind: &Kind,
    object: &Arc<Object>,
    include: Include,
    head: bool,
    now: i64,
) -> String {
    let metadata = json!({"resourceVersion": object.meta.resource_version.to_string()});
    let columns = if head { columns(kind) } else { Value::Null };
    with_rows(&columns, kind, std::slice::from_ref(object), include, &metadata, now)
}

fn with_rows(
    columns: &Value,
    kind: &Kind,
    objects: &[Arc<Object>],
    include: Include,
    metadata: &Value,
    now: i64,
) -> String {
    let mut out = format!(
        r#"{{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{metadata},"columnDefinitions":{columns},"rows":["#
    );
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        let cells = Value::Array(kind.strategy.row(object, now));
        out.push_str(&format!(r#"{{"cells":{cells},"object":"#));
        match include {
            Include::None => out.push_str("null"),
            Include::Metadata => out.push_str(&partial(object).to_string()),
            Include::Object => out.push_str(&String::from_utf8_lossy(object.raw())),
        }
        out.push('}');
    }
    out.push_str("]}");
    out
}

fn columns(kind: &Kind) -> Value {
    let column = |c: &crate::kinds::Column| {
        json!({
            "name": c.name, "type": c.kind, "format": c.format,
            "description": c.description, "priority": c.priority,
        })
    };
    kind.strategy.columns().iter().map(column).collect()
}
