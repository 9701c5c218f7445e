//! events.k8s.io/v1: the core group's events under newer names. Stored once, as the core group's.

use k8s_openapi::api::events::v1::Event;
use serde_json::Value;

use super::core::event;
use super::field::{Errors, Path};
use super::{Column, Kind, Operation, Strategy, Twin, edit, metadata, names, typed};
use crate::object::Object;
use crate::status::Cause;

pub(super) const KIND: Kind = Kind {
    group: "events.k8s.io",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    resource: "events.events.k8s.io",
    short_names: &["ev"],
    categories: &[],
    namespaced: true,
    subresources: &[],
    strategy: &Events,
};

/// `(name here, name in the core group)`
const RENAMED: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingController", "reportingComponent"),
];
const TWIN: Twin = Twin { resource: "events", shown, stored };

fn shown(value: &mut Value) {
    rename(value, "events.k8s.io/v1", |(new, old)| (old, new));
}

fn stored(value: &mut Value) {
    rename(value, "v1", |(new, old)| (new, old));
}

fn rename(
    value: &mut Value,
    api_version: &str,
    direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let Some(event) = value.as_object_mut() else { return };
    for (from, to) in RENAMED.map(direction) {
        if let Some(field) = event.remove(from) {
            event.insert(to.into(), field);
        }
    }
    event.insert("apiVersion".into(), api_version.into());
}

struct Events;

impl Strategy for Events {
    typed!(Event);

    fn twin(&self) -> Option<&'static Twin> {
        Some(&TWIN)
    }

    fn prepare(&self, value: &mut Value, _: Operation<'_>) {
        edit::no_generation(value);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::validated::<Event>(named, value, op, |errors, event| check(errors, event, op))
    }

    fn field(&self, value: &Value, label: &str) -> Option<String> {
        let text = |pointer: &str| edit::text(value, pointer).to_owned();
        Some(match label {
            "reason" => text("/reason"),
            "type" => text("/type"),
            "reportingController" => text("/reportingController"),
            _ => text(&format!("/regarding/{}", label.strip_prefix("regarding.")?)),
        })
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ]
    }

    fn columns(&self) -> &'static [Column] {
        event::KIND.strategy.columns()
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let mut value = object.value();
        stored(&mut value);
        match Object::from_value(TWIN.resource, &value) {
            Ok(object) => event::KIND.strategy.row(&object, now),
            Err(_) => vec![Value::from(""); self.columns().len()],
        }
    }
}

fn check(errors: &mut Errors, event: &Event, op: Operation<'_>) {
    let regarding =
        event.regarding.as_ref().and_then(|r| r.namespace.as_deref()).unwrap_or_default();
    let own = event.metadata.namespace.as_deref().unwrap_or_default();
    let matches = match regarding {
        "" => matches!(own, "default" | "kube-system"),
        namespace => namespace == own,
    };
    if !matches {
        let at = Path::new("regarding").child("namespace");
        errors.invalid(&at, regarding, "does not match event.namespace");
    }
    // Events of the core group have no time of this kind; they may be counted up here all the same.
    if event.event_time.is_none() && !matches!(op, Operation::Create) {
        return;
    }
    if event.event_time.is_none() {
        errors.required(&Path::new("eventTime"), "");
    }
    let controller = event.reporting_controller.as_deref().unwrap_or_default();
    let at = Path::new("reportingController");
    match controller {
        "" => errors.required(&at, ""),
        text => errors.all_invalid(&at, text, names::qualified_name(text)),
    }
    for (name, text) in [
        ("reportingInstance", &event.reporting_instance),
        ("action", &event.action),
        ("reason", &event.reason),
    ] {
        match text.as_deref().unwrap_or_default() {
            "" => errors.required(&Path::new(name), ""),
            text if text.len() > 128 => {
                errors.invalid(&Path::new(name), "", "can have at most 128 characters");
            }
            _ => {}
        }
    }
    errors.one_of(&Path::new("type"), event.type_.as_deref(), &["Normal", "Warning"]);
    if event.note.as_ref().is_some_and(|note| note.len() > 1024) {
        errors.invalid(&Path::new("note"), "", "can have at most 1024 characters");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_go_there_and_back() {
        let core = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"name": "p"},
            "message": "m", "source": {"component": "c"}, "count": 2, "reason": "r", "reportingComponent": "x",
        });
        let mut value = core.clone();
        shown(&mut value);
        assert_eq!(
            (&value["note"], &value["regarding"]["name"], &value["deprecatedCount"]),
            (&json!("m"), &json!("p"), &json!(2))
        );
        assert_eq!(
            (&value["apiVersion"], value.get("message")),
            (&json!("events.k8s.io/v1"), None)
        );
        stored(&mut value);
        assert_eq!(value, core);
    }
}
