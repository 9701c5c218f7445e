//! Offsets of a new time namespace. Pure.

use oci_spec::runtime::{Linux, LinuxNamespaceType};

use crate::oci::ConfigError;

/// What a new time namespace begins with: the lines of /proc/self/timens_offsets. `None` when none is to be made.
pub(super) fn plan(linux: &Linux) -> Result<Option<String>, ConfigError> {
    let mut namespaces = linux.namespaces().iter().flatten();
    let new =
        namespaces.any(|item| item.typ() == LinuxNamespaceType::Time && item.path().is_none());
    let mut lines = Vec::new();
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        let field = || format!("linux.timeOffsets[{clock:?}]");
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(ConfigError::field(field(), "must be monotonic or boottime"));
        }
        let nanoseconds = offset.nanosecs().unwrap_or(0);
        if nanoseconds >= 1_000_000_000 {
            return Err(ConfigError::field(format!("{}.nanosecs", field()), "a second or more"));
        }
        lines.push(format!("{clock} {} {nanoseconds}\n", offset.secs().unwrap_or(0)));
    }
    if !new && !lines.is_empty() {
        let why = "needs a new time namespace in linux.namespaces";
        return Err(ConfigError::field("linux.timeOffsets", why));
    }
    Ok(new.then(|| lines.concat()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(value: Value) -> Result<Option<String>, ConfigError> {
        plan(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn offsets_become_lines() {
        let time = json!([{"type": "time"}]);
        let offsets = json!({"monotonic": {"secs": -5, "nanosecs": 7}});
        let plan = of(json!({"namespaces": time, "timeOffsets": offsets})).unwrap();
        assert_eq!(plan.as_deref(), Some("monotonic -5 7\n"));
        assert_eq!(of(json!({"namespaces": time})).unwrap().as_deref(), Some(""));
        assert_eq!(of(json!({})).unwrap(), None);
    }

    #[test]
    fn each_mistake_names_its_field() {
        let offsets = json!({"boottime": {"secs": 5}});
        let joined = json!([{"type": "time", "path": "/x"}]);
        let time = json!([{"type": "time"}]);
        let cases = [
            (json!({"timeOffsets": offsets}), "linux.timeOffsets: needs"),
            (json!({"timeOffsets": offsets, "namespaces": joined}), "linux.timeOffsets: needs"),
            (
                json!({"timeOffsets": {"realtime": {"secs": 1}}, "namespaces": time}),
                "linux.timeOffsets[\"realtime\"]: must be",
            ),
            (
                json!({"timeOffsets": {"boottime": {"nanosecs": 1_000_000_000}}, "namespaces": time}),
                "linux.timeOffsets[\"boottime\"].nanosecs: a second",
            ),
        ];
        for (value, expected) in cases {
            let error = of(value).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error:?} does not start with {expected:?}");
        }
    }
}
