//! `metadata` of a value under change: what the server owns of it. Pure, except that names and uids are drawn.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::errors;
use crate::kinds::Kind;
use crate::object::Object;
use crate::status::ApiError;

/// Whole seconds in UTC, as `metav1.Time` is written.
pub(crate) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

pub(crate) fn metadata(value: &mut Value) -> Result<&mut Map<String, Value>, ApiError> {
    let object = value.as_object_mut();
    let object = object.ok_or_else(|| errors::bad_request("the body is not an object"))?;
    let metadata = object.entry("metadata").or_insert_with(|| json!({}));
    if metadata.is_null() {
        *metadata = json!({});
    }
    metadata.as_object_mut().ok_or_else(|| errors::bad_request("metadata is not an object"))
}

pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value["metadata"][field].as_str().unwrap_or_default()
}

/// The body must be of the kind that the path names.
pub(crate) fn check_type(kind: &Kind, value: &mut Value) -> Result<(), ApiError> {
    let expected = kind.api_version();
    let object = value.as_object_mut().ok_or_else(|| errors::bad_request("not an object"))?;
    for (field, expected) in [("apiVersion", expected.as_str()), ("kind", kind.kind)] {
        match object.get(field).map(|v| v.as_str().unwrap_or_default()) {
            None | Some("") => {
                object.insert(field.into(), expected.into());
            }
            Some(found) if found == expected => {}
            Some(found) => {
                let what = if field == "kind" { "kind" } else { "API version" };
                let text = format!(
                    "the {what} in the data ({found}) does not match the expected {what} ({expected})"
                );
                return Err(errors::bad_request(text));
            }
        }
    }
    Ok(())
}

/// Name and namespace of the body agree with those of the path, which fill what the body leaves out.
pub(crate) fn check_place(value: &mut Value, namespace: &str, name: &str) -> Result<(), ApiError> {
    let metadata = metadata(value)?;
    let found = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if !found.is_empty() && found != namespace {
        let text =
            "the namespace of the provided object does not match the namespace sent on the request";
        return Err(errors::bad_request(text));
    }
    match namespace {
        "" => metadata.remove("namespace"),
        namespace => metadata.insert("namespace".into(), namespace.into()),
    };
    if name.is_empty() {
        return Ok(());
    }
    let found = metadata.get("name").and_then(Value::as_str).unwrap_or_default();
    if !found.is_empty() && found != name {
        return Err(errors::bad_request(format!(
            "the name of the object ({found}) does not match the name on the URL ({name})"
        )));
    }
    metadata.insert("name".into(), name.into());
    Ok(())
}

/// A new object's identity. A name that was asked to be generated is drawn anew each time.
pub(crate) fn born(value: &mut Value, now: Timestamp) -> Result<(), ApiError> {
    let metadata = metadata(value)?;
    let prefix = metadata.get("generateName").and_then(Value::as_str).unwrap_or_default();
    let named = metadata.get("name").and_then(Value::as_str).is_some_and(|n| !n.is_empty());
    if !named && !prefix.is_empty() {
        let name = generate(prefix);
        metadata.insert("name".into(), name.into());
    }
    for owned in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        metadata.remove(owned);
    }
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), time(now).into());
    Ok(())
}

/// `prefix` (cut to fit a DNS label) and five characters that spell no words.
pub(crate) fn generate(prefix: &str) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let prefix: String = prefix.chars().take(63 - 5).collect();
    let random = uuid::Uuid::new_v4();
    // Bytes 6 and 8 of a random UUID are partly fixed.
    let bytes = random.as_bytes();
    let drawn = [0, 1, 2, 3, 4].map(|i| char::from(ALPHABET[usize::from(bytes[i]) % 27]));
    prefix + &drawn.iter().collect::<String>()
}

/// What no update may change comes from the stored object.
pub(crate) fn keep(value: &mut Value, old: &Value) -> Result<(), ApiError> {
    const OWNED: [&str; 7] = [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "selfLink",
        "generateName",
    ];
    let metadata = metadata(value)?;
    for field in OWNED {
        match &old["metadata"][field] {
            Value::Null => metadata.remove(field),
            found => metadata.insert(field.into(), found.clone()),
        };
    }
    Ok(())
}

/// The version that the body was based on; None when it does not say.
pub(crate) fn version(value: &Value) -> Result<Option<u64>, ApiError> {
    match text(value, "resourceVersion") {
        "" | "0" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            errors::bad_request(format!(
                "metadata.resourceVersion: Invalid value: {text:?}: must be an unsigned integer"
            ))
        }),
    }
}

/// Marks an object as being deleted, `grace` seconds from now.
pub(crate) fn doom(value: &mut Value, now: Timestamp, grace: i64) -> Result<(), ApiError> {
    let metadata = metadata(value)?;
    let at = now.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(now);
    metadata.insert("deletionTimestamp".into(), time(at).into());
    metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64)
        && generation > 0
    {
        metadata.insert("generation".into(), (generation + 1).into());
    }
    Ok(())
}

pub(crate) fn set_finalizers(value: &mut Value, finalizers: &[String]) -> Result<(), ApiError> {
    let metadata = metadata(value)?;
    match finalizers {
        [] => metadata.remove("finalizers"),
        some => metadata.insert("finalizers".into(), json!(some)),
    };
    Ok(())
}

/// Nothing but the final act is left: no finalizer holds it and no grace runs.
pub(crate) fn finished(object: &Object) -> bool {
    let meta = &object.meta;
    meta.deletion_timestamp.is_some()
        && meta.finalizers.is_empty()
        && meta.deletion_grace_period_seconds.unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_a_label() {
        let name = generate(&"x".repeat(80));
        assert_eq!(name.len(), 63);
        assert_ne!(generate("web-"), generate("web-"));
        assert!(generate("web-").starts_with("web-"));
    }

    #[test]
    fn a_body_cannot_bring_what_the_server_owns() {
        let mut value = json!({"metadata": {"name": "a", "uid": "mine", "resourceVersion": "5",
            "deletionTimestamp": "2020-01-01T00:00:00Z", "labels": {"a": "b"}}});
        born(&mut value, Timestamp::UNIX_EPOCH).unwrap();
        assert_ne!(value["metadata"]["uid"], "mine");
        assert_eq!(value["metadata"]["creationTimestamp"], "1970-01-01T00:00:00Z");
        assert!(value["metadata"].get("deletionTimestamp").is_none());
        assert_eq!(value["metadata"]["labels"]["a"], "b");
    }

    #[test]
    fn places_agree() {
        let place = |mut value: Value, namespace: &str, name: &str| {
            check_place(&mut value, namespace, name).map(|()| value)
        };
        let value = place(json!({"metadata": {}}), "ns", "a").unwrap();
        assert_eq!(value["metadata"], json!({"namespace": "ns", "name": "a"}));
        assert!(place(json!({"metadata": {"namespace": "other"}}), "ns", "a").is_err());
        assert!(place(json!({"metadata": {"name": "b"}}), "ns", "a").is_err());
    }
}
