//! Kinds that show what is stored as another kind: one event, whichever group it is asked for in.

use std::sync::Arc;

use serde_json::Value;

use crate::kinds::Kind;
use crate::object::{Object, Resource};

/// What the kind's objects are stored as.
pub(super) fn resource(kind: &Kind) -> Resource {
    kind.strategy.twin().map_or(kind.resource, |twin| twin.resource)
}

/// A stored object as the kind shows it.
pub(super) fn shown(kind: &Kind, object: Arc<Object>) -> Arc<Object> {
    let Some(twin) = kind.strategy.twin() else { return object };
    let mut value = object.value();
    (twin.shown)(&mut value);
    Object::from_value(kind.resource, &value).map_or(object, Arc::new)
}

/// An object of the kind as it is stored.
pub(super) fn stored(kind: &Kind, mut value: Value) -> Value {
    if let Some(twin) = kind.strategy.twin() {
        (twin.stored)(&mut value);
    }
    value
}
