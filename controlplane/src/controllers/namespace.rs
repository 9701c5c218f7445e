//! Namespace deletion: everything in it goes, then the Namespace itself.
//!
//! Knows no kind by name but Pods, which go last: whoever would replace them is marked before.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NamespaceCondition;
use serde_json::{Value, json};

use super::look;
use super::outcome::{Act, Outcome};
use super::runner::{Controller, Seen};
use crate::kinds;
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;
use crate::writer::Change;

const FINALIZER: &str = "kubernetes";

pub struct Namespaces;

impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:namespace-controller"
    }

    fn watches(&self) -> Vec<Resource> {
        contents().chain(["namespaces"]).collect()
    }

    /// Anything that happens in a Namespace that is going away may be what it waits for.
    fn keys(&self, world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        let Some(object) = seen.latest() else { return Vec::new() };
        let meta = &object.meta;
        let name = if seen.resource == "namespaces" { &meta.name } else { &meta.namespace };
        let going = world.get("namespaces", "", name).is_some_and(|n| look::is_deleting(&n.meta));
        if going { vec![Key::new("namespaces", "", name)] } else { Vec::new() }
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, now: Timestamp) -> Outcome {
        match world.get("namespaces", "", &key.name) {
            Some(namespace) if look::is_deleting(&namespace.meta) => empty(world, &namespace, now),
            _ => Outcome::idle(),
        }
    }
}

fn contents() -> impl Iterator<Item = Resource> {
    kinds::all().iter().filter(|kind| kind.namespaced && kind.is_stored()).map(|kind| kind.resource)
}

fn empty(world: &dyn Reader, namespace: &Object, now: Timestamp) -> Outcome {
    let mut outcome = Outcome::idle();
    let mut remaining = BTreeMap::new();
    let mut pods = Vec::new();
    let mut others = Vec::new();
    for resource in contents() {
        let objects = world.list(resource, Some(&namespace.meta.name));
        let going = if resource == "pods" { &mut pods } else { &mut others };
        let fresh = objects.iter().filter(|object| !look::is_deleting(&object.meta));
        going.extend(fresh.map(|object| Act::from(look::deletion(object))));
        if !objects.is_empty() {
            remaining.insert(resource, objects);
        }
    }
    outcome.together(others);
    outcome.together(pods);
    if !outcome.is_idle() {
        return outcome;
    }
    if remaining.is_empty() {
        outcome.together(finalize(namespace).map(Act::from).into_iter().collect());
        return outcome;
    }
    let stuck = conditions(namespace, &remaining, now);
    outcome.together(stuck.map(Act::from).into_iter().collect());
    outcome
}

/// Nothing is left: the Namespace may go.
fn finalize(namespace: &Object) -> Option<Change> {
    let mut object = namespace.value();
    let finalizers = object["spec"]["finalizers"].as_array_mut()?;
    let before = finalizers.len();
    finalizers.retain(|name| name != FINALIZER);
    let changed = finalizers.len() != before;
    changed.then_some(Change::Update {
        resource: "namespaces",
        subresource: Some("finalize"),
        object,
    })
}

type Remaining = BTreeMap<Resource, Vec<std::sync::Arc<Object>>>;

/// Says what the Namespace waits for.
fn conditions(namespace: &Object, remaining: &Remaining, now: Timestamp) -> Option<Change> {
    let kinds: Vec<String> = remaining
        .iter()
        .map(|(resource, objects)| format!("{resource} has {} resource instances", objects.len()))
        .collect();
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for name in remaining.values().flatten().flat_map(|object| &object.meta.finalizers) {
        *finalizers.entry(name).or_default() += 1;
    }
    let held: Vec<String> =
        finalizers.iter().map(|(name, n)| format!("{name} in {n} resource instances")).collect();
    let content = format!("Some resources are remaining: {}", kinds.join(", "));
    let wanted = [
        ("NamespaceContentRemaining", "True", "SomeResourcesRemain", content),
        if held.is_empty() {
            let message = "All content-preserving finalizers finished".to_owned();
            ("NamespaceFinalizersRemaining", "False", "ContentHasNoFinalizers", message)
        } else {
            let message = format!(
                "Some content in the namespace has finalizers remaining: {}",
                held.join(", ")
            );
            ("NamespaceFinalizersRemaining", "True", "SomeFinalizersRemain", message)
        },
    ];
    let mut object = namespace.value();
    let before = object["status"]["conditions"].clone();
    for (name, status, reason, message) in wanted {
        set_condition(&mut object["status"]["conditions"], now, name, status, reason, message);
    }
    let changed = object["status"]["conditions"] != before;
    changed.then_some(Change::Update {
        resource: "namespaces",
        subresource: Some("status"),
        object,
    })
}

fn set_condition(
    list: &mut Value,
    now: Timestamp,
    name: &str,
    status: &str,
    reason: &str,
    message: String,
) {
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(items) = list.as_array_mut() else { return };
    let known = items.iter().position(|item| item["type"] == name);
    let since = known.map(|i| &items[i]).filter(|item| item["status"] == status);
    let since = since.map(|item| item["lastTransitionTime"].clone());
    let condition = NamespaceCondition {
        type_: name.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: None,
    };
    let mut condition = json!(condition);
    condition["lastTransitionTime"] = since.unwrap_or_else(|| json!(look::stamp(now)));
    match known {
        Some(index) => items[index] = condition,
        None => items.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::world::{World, pod};

    fn namespace() -> (Resource, Value) {
        let value = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"},
            "spec": {"finalizers": ["kubernetes"]},
        });
        ("namespaces", value)
    }

    fn step(world: &mut World) -> usize {
        let key = Key::new("namespaces", "", "team");
        let acts: Vec<Act> =
            Namespaces.reconcile(world, &key, world.now).batches.into_iter().flatten().collect();
        let count = acts.len();
        for act in acts {
            world.apply(act.change).expect("apply");
        }
        count
    }

    #[test]
    fn a_namespace_goes_after_its_contents_and_neighbours_stay() {
        let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "team"}});
        let mut bound = pod("team", "p").1;
        bound["spec"]["nodeName"] = json!("n");
        let mut world =
            World::with([namespace(), ("configmaps", config), ("pods", bound), pod("other", "p")]);
        assert_eq!(step(&mut world), 0, "nobody asked for it");
        world.delete("namespaces", "", "team", None, None, false).expect("delete");
        step(&mut world);
        assert!(world.get("configmaps", "team", "c").is_none());
        step(&mut world);
        let conditions = world.value("namespaces", "", "team")["status"]["conditions"].clone();
        assert_eq!(
            conditions[0]["message"],
            "Some resources are remaining: pods has 1 resource instances"
        );
        assert_eq!(step(&mut world), 0, "said once");
        world.delete("pods", "team", "p", None, None, true).expect("delete");
        step(&mut world);
        assert!(world.get("namespaces", "", "team").is_none());
        assert!(world.get("pods", "other", "p").is_some());
    }

    #[test]
    fn only_what_happens_in_a_dying_namespace_concerns_it() {
        let mut world = World::with([namespace(), pod("team", "p")]);
        let pod = world.object("pods", "team", "p");
        let seen = Seen { resource: "pods", old: Some(&pod), new: None };
        assert!(Namespaces.keys(&world, seen).is_empty());
        world.delete("namespaces", "", "team", None, None, false).expect("delete");
        assert_eq!(Namespaces.keys(&world, seen), [Key::new("namespaces", "", "team")]);
    }
}
