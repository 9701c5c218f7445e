//! Every error names its field: a config that uses everything, with one field broken, is refused by a message that begins
//! with the JSON path of that field, or of what holds it.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::wire::Rootfs;

const FULL: &str = include_str!("../../fuzz/seeds/full.json");

/// Both forms of a path: as JSON pointer, and as our messages have it.
fn paths(value: &Value, pointer: String, path: String, out: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                let escaped = key.replace('~', "~0").replace('/', "~1");
                let dotted = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                paths(inner, format!("{pointer}/{escaped}"), dotted, out);
            }
        }
        Value::Array(list) => {
            for (index, inner) in list.iter().enumerate() {
                paths(inner, format!("{pointer}/{index}"), format!("{path}[{index}]"), out);
            }
        }
        _ => {}
    }
    if !pointer.is_empty() {
        out.push((pointer, path));
    }
}

fn read(config: &Value) -> Result<(), String> {
    let text = config.to_string();
    let spec = super::parse(text.as_bytes(), "config.json".into()).map_err(|e| e.to_string())?;
    crate::plan::plan(&spec, &Rootfs::Bundle, Path::new("/b")).map_err(|e| e.to_string())?;
    Ok(())
}

fn wrong() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(-7)),
        Just(json!(1e300)),
        Just(json!(u64::MAX)),
        Just(json!("\u{0}")),
        Just(json!("nonsense")),
        Just(json!("")),
        Just(json!([])),
        Just(json!({})),
        Just(json!([[]])),
        Just(json!(true)),
        Just(json!("..")),
        Just(json!([{"x": 1}])),
    ]
}

/// The first name of the path that a message begins with.
fn named(error: &str) -> String {
    let error = error.strip_prefix("parse \"config.json\": ").unwrap_or(error);
    error.split(": ").next().unwrap_or_default().to_owned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn a_broken_field_is_named(at in any::<prop::sample::Index>(), wrong in wrong()) {
        let mut config = valid();
        let mut all = Vec::new();
        paths(&config, String::new(), String::new(), &mut all);
        let (pointer, path) = at.get(&all);
        *config.pointer_mut(pointer).unwrap() = wrong;
        if let Err(error) = read(&config) {
            // The field, or one above it, or (where two do not fit together) a neighbour below the same section.
            let name = named(&error);
            let section = |path: &str| path.split(['.', '[']).next().unwrap_or_default().to_owned();
            prop_assert!(!name.is_empty() && name != "." && name != "?", "{pointer}: {error:?}");
            let related = section(&name) == section(path)
                || ["hostname", "domainname", "linux", "mounts"].contains(&section(&name).as_str());
            prop_assert!(related, "{path} was broken, and it says {error:?}");
        }
    }
}

/// [`FULL`] without what is refused: each section alone is enough of it.
fn valid() -> Value {
    let mut config: Value = serde_json::from_str(FULL).unwrap();
    for _ in 0..200 {
        let Err(error) = read(&config) else { return config };
        let name = named(&error);
        let mut all = Vec::new();
        paths(&config, String::new(), String::new(), &mut all);
        let (pointer, _) = all
            .iter()
            .find(|(_, path)| *path == name)
            .unwrap_or_else(|| panic!("the refusal {error:?} names no field of the config"));
        remove(&mut config, pointer);
    }
    panic!("nothing is left of the config");
}

fn remove(config: &mut Value, pointer: &str) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match config.pointer_mut(parent).unwrap() {
        Value::Object(map) => drop(map.remove(&key.replace("~1", "/").replace("~0", "~"))),
        Value::Array(list) => drop(list.remove(key.parse().unwrap())),
        _ => unreachable!(),
    }
}

#[test]
fn most_of_the_full_config_is_accepted() {
    let config = valid();
    for field in
        ["/process/capabilities", "/mounts/0", "/linux/resources/memory", "/linux/maskedPaths"]
    {
        assert!(config.pointer(field).is_some(), "{field} is gone from {config:#}");
    }
}
