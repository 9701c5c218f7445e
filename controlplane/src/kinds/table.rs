//! Cells of Tables as upstream's printers write them: ages, `<none>`, joined lists. Knows no kind.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use serde_json::Value;

use super::Column;
use crate::object::Object;

pub(crate) const NONE: &str = "<none>";
pub(crate) const UNKNOWN: &str = "<unknown>";

const NAME_DESCRIPTION: &str =
    "Name must be unique within a namespace. Is required when creating resources.";
const AGE_DESCRIPTION: &str = "Time since the object was created.";

pub(crate) const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    priority: 0,
    description: NAME_DESCRIPTION,
};
pub(crate) const AGE: Column = text("Age", AGE_DESCRIPTION);

pub(crate) const fn text(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 0, description }
}

pub(crate) const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 1, description }
}

pub(crate) const fn integer(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "integer", format: "", priority: 0, description }
}

/// Seconds as people read them: `5s`, `3m10s`, `2d4h`.
pub fn human_duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".into();
    }
    let seconds = seconds.max(0);
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let pair = |big: i64, unit: char, small: i64, small_unit: char| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{small_unit}"),
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, 'm', seconds % 60, 's'),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => pair(hours / 24, 'd', hours % 24, 'h'),
        () if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        () if hours < 24 * 365 * 8 => pair(hours / 24 / 365, 'y', hours / 24 % 365, 'd'),
        () => format!("{}y", hours / 24 / 365),
    }
}

fn since(at: Timestamp, now: i64) -> String {
    human_duration(now - at.as_second())
}

pub(crate) fn age_of(time: Option<&Time>, now: i64) -> String {
    time.map_or_else(|| UNKNOWN.into(), |t| since(t.0, now))
}

pub(crate) fn age_of_micro(time: Option<&MicroTime>, now: i64) -> String {
    time.map_or_else(|| UNKNOWN.into(), |t| since(t.0, now))
}

/// The name cell.
pub(crate) fn name(object: &Object) -> Value {
    object.meta.name.as_str().into()
}

/// The age cell.
pub(crate) fn age(object: &Object, now: i64) -> Value {
    let created = object.meta.creation_timestamp.as_deref().and_then(|t| t.parse().ok());
    created.map_or_else(|| UNKNOWN.into(), |t| since(t, now)).into()
}

pub(crate) fn or_none(text: &str) -> Value {
    if text.is_empty() { NONE.into() } else { text.into() }
}

pub(crate) fn or_unknown(text: &str) -> Value {
    if text.is_empty() { UNKNOWN.into() } else { text.into() }
}

/// `a,b,c + 2 more...` with at most `max` shown.
pub(crate) fn first_few(items: &[String], max: usize) -> String {
    let shown = items[..items.len().min(max)].join(",");
    if items.len() > max { format!("{shown} + {} more...", items.len() - max) } else { shown }
}

/// Names and images of a template's containers.
pub(crate) fn containers(template: Option<&PodTemplateSpec>) -> [Value; 2] {
    let list = template.and_then(|t| t.spec.as_ref()).map_or(&[][..], |s| &s.containers);
    let join = |texts: Vec<&str>| Value::from(texts.join(","));
    [
        join(list.iter().map(|c| c.name.as_str()).collect()),
        join(list.iter().map(|c| c.image.as_deref().unwrap_or_default()).collect()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_people_know_them() {
        const M: i64 = 60;
        const H: i64 = 3600;
        const D: i64 = 24 * H;
        for (seconds, expected) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (2 * M + 5, "2m5s"),
            (10 * M + 5, "10m"),
            (179 * M, "179m"),
            (3 * H, "3h"),
            (3 * H + 2 * M, "3h2m"),
            (8 * H + 2 * M, "8h"),
            (47 * H, "47h"),
            (2 * D, "2d"),
            (2 * D + 3 * H, "2d3h"),
            (8 * D + 3 * H, "8d"),
            (729 * D, "729d"),
            (731 * D, "2y1d"),
            (8 * 365 * D, "8y"),
        ] {
            assert_eq!(human_duration(seconds), expected, "{seconds}");
        }
    }
}
