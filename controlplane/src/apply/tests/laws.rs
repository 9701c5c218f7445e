//! Laws of ownership, on ConfigMaps, finalizers and container lists that are made up.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{apply_as, deployment, fields, kind, update_as, writing};
use crate::apply::compare;
use crate::apply::managers::Managers;
use crate::apply::set::Set;
use crate::apply::shape::Shape;
use crate::apply::{ApplyError, apply};

/// A Deployment of which each part may be there or not; `names` are those of its list items.
fn object(names: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let labels = proptest::collection::btree_map(prop::sample::select(names), "[xy]", 0..3);
    let env = proptest::collection::btree_map(prop::sample::select(names), "[xy]", 0..3);
    let container = (prop::sample::select(names), "[ij]", env).prop_map(|(name, image, env)| {
        let env: Vec<Value> =
            env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        (name, json!({"name": name, "image": image, "env": env}))
    });
    let containers = proptest::collection::vec(container, 0..3);
    let finalizers = proptest::collection::btree_set(prop::sample::select(names), 0..3);
    (labels, containers, finalizers).prop_map(|(labels, containers, finalizers)| {
        let containers: std::collections::BTreeMap<_, _> = containers.into_iter().collect();
        let containers: Vec<Value> = containers.into_values().collect();
        let mut value = deployment(json!({"template": {"spec": {"containers": containers}}}));
        value["metadata"]["labels"] = json!(labels);
        value["metadata"]["finalizers"] = json!(finalizers);
        value
    })
}

const SOME: &[&str] = &["a", "b", "c"];
const OTHERS: &[&str] = &["d", "e"];

fn shape() -> Shape {
    Shape::root(kind("deployments.apps").strategy.root())
}

/// Everything that anybody owns is there.
fn owned_fields_exist(object: &Value) -> bool {
    let mut all = compare::fields(object, shape());
    // A list or map is a field even when only its items count.
    all.unite(&compare::changes(&json!({}), object, shape()).added);
    let mut owned = Set::default();
    Managers::of(object).0.iter().for_each(|entry| owned.unite(&entry.fields));
    owned.subtract(&all);
    owned.is_empty()
}

fn forced(manager: &str, live: &Value, config: &Value) -> Value {
    apply(kind("deployments.apps"), writing(manager), Some(live), config, true).expect("forced")
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(config in object(SOME), other in object(SOME)) {
        let live = apply_as("one", None, &other).unwrap();
        let once = forced("two", &live, &config);
        prop_assert_eq!(apply_as("two", Some(&once), &config), Ok(once));
    }

    #[test]
    fn disjoint_fields_never_conflict(one in object(SOME), two in object(OTHERS)) {
        let object = apply_as("one", None, &one).unwrap();
        let both = apply_as("two", Some(&object), &two).unwrap();
        prop_assert_eq!(fields(&both, "one"), fields(&object, "one"));
        prop_assert!(apply_as("one", Some(&both), &one).is_ok());
    }

    #[test]
    fn force_takes_over(one in object(SOME), two in object(SOME)) {
        let object = apply_as("one", None, &one).unwrap();
        let taken = forced("two", &object, &two);
        // All that the second wants is there, as it wants it.
        prop_assert_eq!(apply_as("two", Some(&taken), &two), Ok(taken.clone()));
        if let Err(ApplyError::Conflicts(conflicts)) = apply_as("two", Some(&object), &two) {
            let mine = Set::decode(&fields(&taken, "one")).map(|set| set.paths()).unwrap_or_default();
            prop_assert!(conflicts.iter().all(|conflict| !mine.contains(&conflict.path)));
        }
    }

    #[test]
    fn what_its_only_owner_drops_is_gone(one in object(SOME), two in object(SOME)) {
        let object = apply_as("one", None, &one).unwrap();
        let changed = apply_as("one", Some(&object), &two).unwrap();
        let mut found = changed;
        found["metadata"].as_object_mut().unwrap().remove("managedFields");
        let mut found = compare::fields(&found, shape());
        found.subtract(&compare::fields(&two, shape()));
        prop_assert!(found.is_empty(), "{:?}", found.paths());
    }

    #[test]
    fn owners_own_what_exists(
        one in object(SOME), two in object(SOME), three in object(SOME), four in object(SOME),
    ) {
        let object = apply_as("one", None, &one).unwrap();
        prop_assert!(owned_fields_exist(&object));
        let object = forced("two", &object, &two);
        prop_assert!(owned_fields_exist(&object), "{object}");
        let managers = object["metadata"]["managedFields"].clone();
        let object = update_as("three", &object, |o| {
            *o = three.clone();
            o["metadata"]["managedFields"] = managers.clone();
        });
        prop_assert!(owned_fields_exist(&object), "{object}");
        let object = forced("one", &object, &four);
        prop_assert!(owned_fields_exist(&object), "{object}");
    }

    #[test]
    fn an_update_without_a_change_changes_nothing(one in object(SOME)) {
        let object = apply_as("one", None, &one).unwrap();
        prop_assert_eq!(update_as("two", &object, |_| ()), object);
    }
}
