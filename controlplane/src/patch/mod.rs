//! Patches of objects as trees: JSON patch, JSON merge patch, strategic merge patch. Values in, values out; each is
//! bounded in memory and time. What comes out still has to pass decode, defaults and validation.

mod keys;
mod order;
mod strategic;

use http::StatusCode;
use json_patch::{Patch, PatchOperation};
use serde_json::Value;

use crate::kinds::{Kind, Type, types};
use crate::status::ApiError;

pub use keys::{MergeStrategy, merge_strategy};

/// What `Content-Type` of a PATCH says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    Json,
    Merge,
    Strategic,
}

/// Operations in one JSON patch, as upstream.
const MAX_OPERATIONS: usize = 10_000;
/// Bytes that the `copy` operations of one JSON patch may add, as upstream.
const MAX_COPIED: usize = 3 * 1024 * 1024;

impl PatchType {
    /// None for types that are not served; parameters are ignored.
    pub fn from_content_type(text: &str) -> Option<Self> {
        match text.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            _ => None,
        }
    }
}

/// `current` with the patch applied.
pub fn apply(
    kind: &Kind,
    patch_type: PatchType,
    current: &Value,
    patch: &Value,
) -> Result<Value, ApiError> {
    match patch_type {
        PatchType::Json => json(current, patch),
        PatchType::Merge => {
            object(patch)?;
            let mut merged = current.clone();
            json_patch::merge(&mut merged, patch);
            Ok(merged)
        }
        PatchType::Strategic => {
            let types = types();
            let root = kind.strategy.root().map_or(Type::Any, Type::Struct);
            strategic::merge(types, &root, current, object(patch)?)
        }
    }
}

fn object(patch: &Value) -> Result<&serde_json::Map<String, Value>, ApiError> {
    patch.as_object().ok_or_else(|| bad_request("invalid patch: it must be a JSON object".into()))
}

fn bad_request(text: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "BadRequest", text)
}

/// The patch is well-formed but does not fit this object.
fn unprocessable(why: String) -> ApiError {
    let text = format!("the server rejected our request due to an error in our request: {why}");
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", text)
}

fn too_large(text: String) -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", text)
}

fn json(current: &Value, patch: &Value) -> Result<Value, ApiError> {
    use serde::Deserialize;
    let count = patch.as_array().map_or(0, Vec::len);
    if count > MAX_OPERATIONS {
        return Err(too_large(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"
        )));
    }
    let Patch(operations) = Patch::deserialize(patch)
        .map_err(|why| bad_request(format!("invalid JSON patch: {why}")))?;
    let mut patched = current.clone();
    let mut copied = 0;
    for (index, operation) in operations.iter().enumerate() {
        if let PatchOperation::Copy(copy) = operation {
            copied += copy.from.resolve(&patched).map_or(0, size);
            if copied > MAX_COPIED {
                let text = format!("JSON patch copies more than {MAX_COPIED} bytes");
                return Err(too_large(text));
            }
        }
        // Nothing to roll back: on failure the copy is dropped.
        json_patch::patch_unsafe(&mut patched, std::slice::from_ref(operation))
            .map_err(|why| unprocessable(format!("operation {index}: {}", why.kind)))?;
    }
    Ok(patched)
}

fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|v| size(v) + 1).sum::<usize>(),
        Value::Object(map) => 2 + map.iter().map(|(k, v)| k.len() + size(v) + 4).sum::<usize>(),
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::find;
    use serde_json::json;

    fn patch(patch_type: PatchType, current: Value, patch: Value) -> Result<Value, ApiError> {
        apply(find("", "v1", "pods").expect("pods"), patch_type, &current, &patch)
    }

    #[test]
    fn content_types() {
        let read = PatchType::from_content_type;
        assert_eq!(read("application/merge-patch+json; charset=utf-8"), Some(PatchType::Merge));
        assert_eq!(read("application/json-patch+json"), Some(PatchType::Json));
        assert_eq!(read("application/strategic-merge-patch+json"), Some(PatchType::Strategic));
        assert_eq!(read("application/apply-patch+yaml"), None);
    }

    #[test]
    fn json_patch_applies_in_order() {
        let operations = json!([
            {"op": "test", "path": "/a", "value": 1},
            {"op": "add", "path": "/l/-", "value": 3},
            {"op": "remove", "path": "/l/0"},
            {"op": "copy", "from": "/l", "path": "/m"},
            {"op": "move", "from": "/a", "path": "/b~1c"},
        ]);
        let patched = patch(PatchType::Json, json!({"a": 1, "l": [1, 2]}), operations);
        assert_eq!(patched, Ok(json!({"b/c": 1, "l": [2, 3], "m": [2, 3]})));
    }

    #[test]
    fn json_patch_errors_tell_the_operation() {
        let failing = json!([{"op": "add", "path": "/b", "value": 1}, {"op": "test", "path": "/a", "value": 2}]);
        let error = patch(PatchType::Json, json!({"a": 1}), failing).expect_err("test must fail");
        assert_eq!((error.code.as_u16(), error.reason), (422, "Invalid"));
        assert!(error.message.contains("operation 1"), "{error}");
        for bad in [json!({}), json!([{"op": "fly", "path": "/a"}]), json!([{"op": "add"}])] {
            let error = patch(PatchType::Json, json!({}), bad).expect_err("malformed");
            assert_eq!(error.reason, "BadRequest");
        }
        let missing = json!([{"op": "remove", "path": "/x"}]);
        assert_eq!(
            patch(PatchType::Json, json!({}), missing).map_err(|e| e.reason),
            Err("Invalid")
        );
    }

    #[test]
    fn json_patch_is_bounded() {
        let many = Value::Array(vec![json!({"op": "remove", "path": "/a"}); MAX_OPERATIONS + 1]);
        let code = |r: Result<Value, ApiError>| r.expect_err("must be refused").code.as_u16();
        assert_eq!(code(patch(PatchType::Json, json!({}), many)), 413);
        // Each copy doubles the list.
        let doubling = Value::Array(vec![json!({"op": "copy", "from": "/a", "path": "/a/-"}); 100]);
        assert_eq!(code(patch(PatchType::Json, json!({"a": ["x"]}), doubling)), 413);
    }

    #[test]
    fn merge_patch_merges_maps_and_replaces_lists() {
        let current = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "l": [1, 2]});
        let change = json!({"metadata": {"labels": {"a": null, "c": "3"}}, "l": [3]});
        let patched = patch(PatchType::Merge, current, change);
        assert_eq!(patched, Ok(json!({"metadata": {"labels": {"b": "2", "c": "3"}}, "l": [3]})));
        assert!(patch(PatchType::Merge, json!({}), json!([])).is_err());
    }
}
