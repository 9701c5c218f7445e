//! Event as core/v1 sees it.

use k8s_openapi::api::core::v1::Event;
use serde_json::Value;

use crate::kinds::field::{Errors, Path};
use crate::kinds::{Column, Kind, Operation, Strategy, edit, metadata, names, table, typed};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    resource: "events",
    short_names: &["ev"],
    categories: &[],
    namespaced: true,
    subresources: &[],
    strategy: &Events,
};

const COLUMNS: &[Column] = &[
    table::text(
        "Last Seen",
        "The time at which the most recent occurrence of this event was recorded.",
    ),
    table::text(
        "Type",
        "Type of this event (Normal, Warning), new types could be added in the future.",
    ),
    table::text("Reason", "A short, machine understandable reason for the transition."),
    table::text("Object", "The object that this event is about."),
    table::wide("Subobject", "The part of the object that this event is about."),
    table::wide("Source", "The component reporting this event."),
    table::text("Message", "A human-readable description of the status of this operation."),
    table::wide("First Seen", "The time at which the event was first recorded."),
    table::wide("Count", "The number of times this event has occurred."),
    Column { priority: 1, ..table::NAME },
];

struct Events;

impl Strategy for Events {
    typed!(Event);

    fn prepare(&self, value: &mut Value, _: Operation<'_>) {
        edit::no_generation(value);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::validated::<Event>(named, value, op, |errors, event| {
            check(errors, event);
        })
    }

    fn field(&self, value: &Value, label: &str) -> Option<String> {
        let text = |pointer: &str| edit::text(value, pointer).to_owned();
        Some(match label {
            "reason" => text("/reason"),
            "type" => text("/type"),
            "reportingComponent" => text("/reportingComponent"),
            "source" => match text("/source/component") {
                source if source.is_empty() => text("/reportingComponent"),
                source => source,
            },
            _ => text(&format!("/involvedObject/{}", label.strip_prefix("involvedObject.")?)),
        })
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        match object.view::<Event>() {
            Ok(event) => row(&event, now),
            Err(_) => {
                let mut cells = vec![Value::from(""); COLUMNS.len() - 1];
                cells.push(table::name(object));
                cells
            }
        }
    }
}

fn check(errors: &mut Errors, event: &Event) {
    let involved = event.involved_object.namespace.as_deref().unwrap_or_default();
    let own = event.metadata.namespace.as_deref().unwrap_or_default();
    let path = Path::new("involvedObject").child("namespace");
    if involved.is_empty() {
        if !matches!(own, "" | "default") {
            errors.invalid(&path, involved, "does not match event.namespace");
        }
    } else if involved != own {
        errors.invalid(&path, involved, "does not match event.namespace");
    }
    if event.event_time.is_none() {
        return;
    }
    // The rules of the newer API hold for events that carry its time.
    let controller = event.reporting_component.as_deref().unwrap_or_default();
    let path = Path::new("reportingController");
    if controller.is_empty() {
        errors.required(&path, "");
    } else {
        errors.all_invalid(&path, controller, names::qualified_name(controller));
    }
    for (name, text, max) in [
        ("reportingInstance", event.reporting_instance.as_deref(), 128),
        ("action", event.action.as_deref(), 128),
        ("reason", event.reason.as_deref(), 128),
    ] {
        match text.unwrap_or_default() {
            "" => errors.required(&Path::new(name), ""),
            text if text.len() > max => {
                errors.invalid(&Path::new(name), "", &format!("can have at most {max} characters"));
            }
            _ => {}
        }
    }
    errors.one_of(&Path::new("type"), event.type_.as_deref(), &["Normal", "Warning"]);
}

fn row(event: &Event, now: i64) -> Vec<Value> {
    let text = |t: &Option<String>| Value::from(t.clone().unwrap_or_default());
    let first = match &event.first_timestamp {
        None => table::age_of_micro(event.event_time.as_ref(), now),
        some => table::age_of(some.as_ref(), now),
    };
    let mut last = match &event.last_timestamp {
        None => first.clone(),
        some => table::age_of(some.as_ref(), now),
    };
    let mut count = event.count.unwrap_or(0).max(1);
    if let Some(series) = &event.series {
        last = table::age_of_micro(series.last_observed_time.as_ref(), now);
        count = series.count.unwrap_or(0);
    }
    let involved = &event.involved_object;
    let name = involved.name.as_deref().unwrap_or_default();
    let object = match involved.kind.as_deref().unwrap_or_default() {
        "" => name.to_owned(),
        kind => format!("{}/{name}", kind.to_lowercase()),
    };
    let message = event.message.as_deref().unwrap_or_default().trim();
    vec![
        last.into(),
        text(&event.type_),
        text(&event.reason),
        object.into(),
        text(&involved.field_path),
        source(event).into(),
        message.into(),
        first.into(),
        count.into(),
        text(&event.metadata.name),
    ]
}

/// `kubelet, node-1`
fn source(event: &Event) -> String {
    let pick = |old: Option<&String>, new: Option<&String>| {
        let old = old.filter(|t| !t.is_empty());
        old.or(new).cloned().unwrap_or_default()
    };
    let legacy = event.source.as_ref();
    let component =
        pick(legacy.and_then(|s| s.component.as_ref()), event.reporting_component.as_ref());
    let host = pick(legacy.and_then(|s| s.host.as_ref()), event.reporting_instance.as_ref());
    if host.is_empty() { component } else { format!("{component}, {host}") }
}
