//! PriorityClass: a Pod names a class and gets its number.

use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::{Value, json};

use super::World;

const CLASSES: &str = "priorityclasses.scheduling.k8s.io";

/// What a Pod gets.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    class: String,
    priority: i32,
    preemption: Option<String>,
}

/// The class that the Pod names, or the cluster's default; the error says why there is none.
pub(super) fn resolve(world: World<'_>, pod: &Value) -> Result<Found, String> {
    let spec = &pod["spec"];
    let named = spec["priorityClassName"].as_str().unwrap_or_default();
    let found = match named {
        "" => by_default(world),
        name => {
            let class = world.typed::<PriorityClass>(CLASSES, "", name);
            let missing = || format!("no PriorityClass with name {name} was found");
            found(&*class.ok_or_else(missing)?)
        }
    };
    match spec["priority"].as_i64() {
        Some(given) if given != i64::from(found.priority) => Err(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
            found.priority
        )),
        _ => Ok(found),
    }
}

/// The lowest of those marked as default, if somebody marked several.
fn by_default(world: World<'_>) -> Found {
    let classes = world.typed_list::<PriorityClass>(CLASSES, None);
    let defaults = classes.iter().filter(|class| class.global_default == Some(true));
    defaults.min_by_key(|class| class.value).map(|class| found(class)).unwrap_or_default()
}

fn found(class: &PriorityClass) -> Found {
    Found {
        class: class.metadata.name.clone().unwrap_or_default(),
        priority: class.value,
        preemption: class.preemption_policy.clone(),
    }
}

pub(super) fn set(pod: &mut Value, found: Found) {
    let Some(spec) = pod["spec"].as_object_mut() else { return };
    if !found.class.is_empty() {
        spec.insert("priorityClassName".into(), found.class.into());
    }
    spec.insert("priority".into(), found.priority.into());
    let policy = found.preemption.unwrap_or_else(|| "PreemptLowerPriority".into());
    let given = spec.entry("preemptionPolicy").or_insert(Value::Null);
    if given.is_null() {
        *given = json!(policy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing;

    fn class(name: &str, value: i32, default: bool) -> (crate::object::Resource, Value) {
        let value = json!({"metadata": {"name": name}, "value": value, "globalDefault": default, "preemptionPolicy": "Never"});
        (CLASSES, value)
    }

    fn pod(spec: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": spec})
    }

    #[test]
    fn a_name_becomes_a_number() {
        let world = testing::World::of([class("high", 1000, false), class("usual", 5, true)]);
        let mut named = pod(json!({"priorityClassName": "high"}));
        let found = resolve(&world, &named).unwrap();
        set(&mut named, found);
        assert_eq!(named["spec"]["priority"], 1000);
        assert_eq!(named["spec"]["preemptionPolicy"], "Never");
        let mut plain = pod(json!({}));
        let found = resolve(&world, &plain).unwrap();
        set(&mut plain, found);
        assert_eq!(plain["spec"]["priorityClassName"], "usual");
        let none = testing::World::of([]);
        assert_eq!(resolve(&none, &pod(json!({}))).unwrap(), Found::default());
        let missing = resolve(&none, &pod(json!({"priorityClassName": "high"}))).unwrap_err();
        assert_eq!(missing, "no PriorityClass with name high was found");
        let own = resolve(&world, &pod(json!({"priority": 7}))).unwrap_err();
        assert!(own.contains("computed 5"), "{own}");
    }
}
