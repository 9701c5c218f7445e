//! Garbage collection by ownerReferences.
//!
//! ```text
//! owner gone, no other owner left ───→ dependent is deleted (background)
//! owner gone, another owner left ────→ the reference to the one that is gone is removed
//! owner has foregroundDeletion ──────→ its blocking dependents are deleted first, then the finalizer
//! owner has orphan ──────────────────→ its dependents let go of it, then the finalizer
//! ```
//! Owners are looked up by name and told apart by uid, so a new object of an old name owns nothing of the old
//! one's. An owner of a kind that is not served here counts as existing: nothing is deleted on a guess.
//!
//! Who depends on whom is an index of the events; it only says where to look, decisions read the world.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::look;
use super::outcome::{Act, Outcome};
use super::runner::{Controller, Seen};
use crate::kinds;
use crate::object::{Key, Object, OwnerReference, Resource};
use crate::reader::Reader;
use crate::writer::Change;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

#[derive(Default)]
pub struct Collector {
    /// Owner's uid to those who name it.
    dependents: Mutex<HashMap<String, BTreeSet<Key>>>,
}

impl Controller for Collector {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:generic-garbage-collector"
    }

    fn watches(&self) -> Vec<Resource> {
        kinds::all().iter().filter(|kind| kind.is_stored()).map(|kind| kind.resource).collect()
    }

    fn keys(&self, _world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        let mut index = self.index();
        if let Some(old) = seen.old {
            for owner in &old.meta.owner_references {
                if let Some(keys) = index.get_mut(&owner.uid) {
                    keys.remove(&old.key());
                    if keys.is_empty() {
                        index.remove(&owner.uid);
                    }
                }
            }
        }
        if let Some(new) = seen.new {
            for owner in &new.meta.owner_references {
                index.entry(owner.uid.clone()).or_default().insert(new.key());
            }
        }
        concerned(&index, seen)
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, _now: Timestamp) -> Outcome {
        let Some(object) = world.get(key.resource, &key.namespace, &key.name) else {
            return Outcome::idle();
        };
        let mut outcome = Outcome::idle();
        if look::is_deleting(&object.meta) {
            self.release_or_delete_dependents(world, &object, &mut outcome);
        } else if !object.meta.owner_references.is_empty() {
            outcome.together(self.judge(world, &object, None).into_iter().collect());
        }
        outcome
    }
}

/// Objects to look at after an event: itself when its owners, finalizers or fate changed; its dependents when
/// it is gone; its owners, which may wait for it, when it is.
fn concerned(index: &HashMap<String, BTreeSet<Key>>, seen: Seen<'_>) -> Vec<Key> {
    let Some(new) = seen.new else {
        let Some(old) = seen.old else { return Vec::new() };
        let owners = old.meta.owner_references.iter().filter_map(|owner| owner_key(old, owner));
        let dependents = index.get(&old.meta.uid).into_iter().flatten().cloned();
        return owners.chain(dependents).collect();
    };
    let same = seen.old.is_some_and(|old| {
        let (old, new) = (&old.meta, &new.meta);
        old.owner_references == new.owner_references
            && old.finalizers == new.finalizers
            && old.deletion_timestamp == new.deletion_timestamp
    });
    let matters = !new.meta.owner_references.is_empty() || look::is_deleting(&new.meta);
    if same || !matters {
        return Vec::new();
    }
    // A dependent that let go may be what its former owner waits for.
    let former = seen
        .old
        .into_iter()
        .flat_map(|old| old.meta.owner_references.iter().filter_map(|owner| owner_key(old, owner)));
    former.chain([new.key()]).collect()
}

/// Where the owner would be; None for kinds that are not served, or that cannot own this object.
fn owner_key(object: &Object, owner: &OwnerReference) -> Option<Key> {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    let kind = kinds::all().iter().find(|k| k.group == group && k.kind == owner.kind)?;
    let namespace = match (kind.namespaced, object.meta.namespace.as_str()) {
        (true, "") => return None,
        (true, namespace) => namespace,
        (false, _) => "",
    };
    Some(Key::new(kind.resource, namespace, &owner.name))
}

#[derive(PartialEq)]
enum Owner {
    Here,
    /// It is being deleted and waits for its dependents.
    Waiting,
    Gone,
}

fn state(world: &dyn Reader, object: &Object, owner: &OwnerReference) -> Owner {
    let Some(key) = owner_key(object, owner) else { return Owner::Here };
    match world.get(key.resource, &key.namespace, &key.name) {
        Some(found) if found.meta.uid == owner.uid => {
            let waits = look::is_deleting(&found.meta) && has_finalizer(&found, FOREGROUND);
            if waits { Owner::Waiting } else { Owner::Here }
        }
        _ => Owner::Gone,
    }
}

fn has_finalizer(object: &Object, name: &str) -> bool {
    object.meta.finalizers.iter().any(|finalizer| finalizer == name)
}

impl Collector {
    fn index(&self) -> MutexGuard<'_, HashMap<String, BTreeSet<Key>>> {
        self.dependents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Objects that name `owner`, with that reference.
    fn dependents(&self, world: &dyn Reader, owner: &Object) -> Vec<(Arc<Object>, OwnerReference)> {
        let keys: Vec<Key> =
            self.index().get(&owner.meta.uid).into_iter().flatten().cloned().collect();
        let found =
            keys.iter().filter_map(|key| world.get(key.resource, &key.namespace, &key.name));
        found
            .filter_map(|object| {
                let mut owners = object.meta.owner_references.iter();
                let reference = owners.find(|r| r.uid == owner.meta.uid)?.clone();
                Some((object, reference))
            })
            .collect()
    }

    /// What becomes of an object by what became of its owners.
    fn judge(&self, world: &dyn Reader, object: &Object, leaving: Option<&str>) -> Option<Act> {
        let owners = &object.meta.owner_references;
        let states: Vec<Owner> = owners
            .iter()
            .map(|owner| {
                let leaves = leaving == Some(owner.uid.as_str());
                if leaves { Owner::Waiting } else { state(world, object, owner) }
            })
            .collect();
        if states.contains(&Owner::Here) {
            let with_states = owners.iter().zip(&states);
            let lost: Vec<&str> = with_states
                .filter(|(_, state)| **state != Owner::Here)
                .map(|(owner, _)| owner.uid.as_str())
                .collect();
            let release = || look::release(object, |uid| lost.contains(&uid)).into();
            return (!lost.is_empty()).then(release);
        }
        let foreground =
            states.contains(&Owner::Waiting) && !self.dependents(world, object).is_empty();
        Some(deletion(object, foreground).into())
    }

    fn release_or_delete_dependents(
        &self,
        world: &dyn Reader,
        owner: &Object,
        outcome: &mut Outcome,
    ) {
        if has_finalizer(owner, ORPHAN) {
            let gone = |uid: &str| uid == owner.meta.uid;
            let dependents = self.dependents(world, owner);
            let released = dependents.iter().map(|(object, _)| look::release(object, gone).into());
            outcome.together(released.collect());
            outcome.push(without_finalizer(owner, ORPHAN));
        } else if has_finalizer(owner, FOREGROUND) {
            let mut blocking = self.dependents(world, owner);
            blocking.retain(|(_, reference)| reference.block_owner_deletion);
            if blocking.is_empty() {
                outcome.push(without_finalizer(owner, FOREGROUND));
            }
            let fresh = blocking.iter().filter(|(object, _)| !look::is_deleting(&object.meta));
            let judged =
                fresh.filter_map(|(object, _)| self.judge(world, object, Some(&owner.meta.uid)));
            outcome.together(judged.collect());
        }
    }
}

/// Only in the version that was judged: its owners may have changed since.
fn deletion(object: &Object, foreground: bool) -> Change {
    let own = if has_finalizer(object, ORPHAN) {
        "Orphan"
    } else if foreground || has_finalizer(object, FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    };
    Change::Delete {
        resource: object.resource,
        namespace: object.meta.namespace.clone(),
        name: object.meta.name.clone(),
        uid: Some(object.meta.uid.clone()),
        resource_version: Some(object.meta.resource_version),
        propagation: Some(own),
        grace_period_seconds: None,
    }
}

fn without_finalizer(object: &Object, name: &str) -> Change {
    look::edited(object, |value| {
        if let Some(finalizers) = value["metadata"]["finalizers"].as_array_mut() {
            finalizers.retain(|finalizer| finalizer != name);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::world::World;
    use serde_json::{Value, json};

    const SETS: Resource = "replicasets.apps";

    fn object(kind: &str, name: &str, owners: &[(&str, &str, &str)]) -> Value {
        let owners: Vec<Value> = owners
            .iter()
            .map(|(kind, name, uid)| {
                let version = if *kind == "Pod" { "v1" } else { "apps/v1" };
                json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": true, "blockOwnerDeletion": true})
            })
            .collect();
        json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "default", "uid": name, "ownerReferences": owners}})
    }

    fn family() -> World {
        World::with([
            ("deployments.apps", object("Deployment", "d", &[])),
            (SETS, object("ReplicaSet", "rs", &[("Deployment", "d", "d")])),
            ("pods", object("Pod", "p", &[("ReplicaSet", "rs", "rs")])),
        ])
    }

    /// Feeds all events since the start and does what is wanted, until nothing is.
    fn settle(world: &mut World) {
        let collector = Collector::default();
        let mut fed = 0;
        for _ in 0..50 {
            let mut keys = Vec::new();
            for event in &world.log[fed..] {
                let seen = Seen {
                    resource: event.resource,
                    old: event.old.as_deref(),
                    new: event.new.as_deref(),
                };
                keys.extend(collector.keys(world, seen));
            }
            fed = world.log.len();
            if keys.is_empty() {
                return;
            }
            for key in keys {
                for act in collector.reconcile(world, &key, world.now).batches.into_iter().flatten()
                {
                    world.apply(act.change).expect("apply");
                }
            }
        }
        panic!("never idle");
    }

    fn left(world: &World) -> Vec<String> {
        let resources = ["deployments.apps", SETS, "pods"];
        resources.iter().flat_map(|r| world.list(r, None)).map(|o| o.meta.name.clone()).collect()
    }

    #[test]
    fn an_intact_family_is_left_alone() {
        let mut world = family();
        let before = world.log.len();
        settle(&mut world);
        assert_eq!(world.log.len(), before);
    }

    #[test]
    fn dependents_of_a_gone_owner_go_all_the_way_down() {
        let mut world = family();
        world.remove("deployments.apps", "default", "d");
        settle(&mut world);
        assert_eq!(left(&world), Vec::<String>::new());
    }

    #[test]
    fn a_new_object_of_the_same_name_is_not_the_owner() {
        let mut world = family();
        world.remove("deployments.apps", "default", "d");
        let mut other = object("Deployment", "d", &[]);
        other["metadata"]["uid"] = json!("another");
        world.add("deployments.apps", other);
        settle(&mut world);
        assert_eq!(left(&world), ["d"]);
    }

    #[test]
    fn in_the_foreground_the_owner_goes_last() {
        let mut world = family();
        world.edit("deployments.apps", "default", "d", |d| {
            d["metadata"]["finalizers"] = json!([FOREGROUND])
        });
        world.edit("pods", "default", "p", |p| p["spec"]["nodeName"] = json!("n"));
        world.delete("deployments.apps", "default", "d", None, None, false).expect("delete");
        // The world's delete ignores propagation, as the API would set the finalizer.
        world.edit(SETS, "default", "rs", |rs| rs["metadata"]["finalizers"] = json!([FOREGROUND]));
        settle(&mut world);
        assert_eq!(left(&world), ["d", "rs", "p"], "the pod is still stopping");
        assert!(look::is_deleting(&world.object("pods", "default", "p").meta));
        world.delete("pods", "default", "p", None, None, true).expect("delete");
        settle(&mut world);
        assert_eq!(left(&world), Vec::<String>::new());
    }

    #[test]
    fn orphans_let_go_before_the_owner_does() {
        let mut world = family();
        world.edit(SETS, "default", "rs", |rs| rs["metadata"]["finalizers"] = json!([ORPHAN]));
        world.delete(SETS, "default", "rs", None, None, false).expect("delete");
        settle(&mut world);
        assert_eq!(left(&world), ["d", "p"]);
        assert_eq!(world.value("pods", "default", "p")["metadata"]["ownerReferences"], json!([]));
    }

    #[test]
    fn one_owner_left_is_enough() {
        let mut world = World::with([
            (SETS, object("ReplicaSet", "a", &[])),
            (SETS, object("ReplicaSet", "b", &[])),
            ("pods", object("Pod", "p", &[("ReplicaSet", "a", "a"), ("ReplicaSet", "b", "b")])),
        ]);
        world.remove(SETS, "default", "a");
        settle(&mut world);
        let owners = world.value("pods", "default", "p")["metadata"]["ownerReferences"].clone();
        assert_eq!(owners.as_array().map(Vec::len), Some(1));
        assert_eq!(owners[0]["uid"], "b");
    }

    #[test]
    fn an_owner_of_an_unknown_kind_is_given_the_benefit_of_the_doubt() {
        let mut world = World::with([("pods", object("Pod", "p", &[("Rocket", "r", "r")]))]);
        settle(&mut world);
        assert_eq!(left(&world), ["p"]);
    }
}
