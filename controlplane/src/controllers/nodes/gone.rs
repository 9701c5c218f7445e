//! Pods of Nodes that no longer exist: nobody is left to stop them, so they are deleted at once.
//!
//! A Node that vanished may be coming back under the same name (an agent that registers anew), so it is given
//! some time first.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::{key, node_of, pods_on};
use crate::controllers::look;
use crate::controllers::outcome::Outcome;
use crate::controllers::runner::{Controller, Seen};
use crate::object::{Key, Resource};
use crate::reader::Reader;
use crate::writer::Change;

const QUARANTINE: Duration = Duration::from_secs(40);

#[derive(Default)]
pub struct Orphans {
    /// Nodes that Pods name and that are not there, and since when that is known.
    missing: Mutex<HashMap<Key, Timestamp>>,
}

impl Controller for Orphans {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:pod-garbage-collector"
    }

    fn watches(&self) -> Vec<Resource> {
        vec!["nodes", "pods"]
    }

    fn keys(&self, world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        if seen.resource == "nodes" {
            let matters = seen.is_deletion() || seen.old.is_none();
            return seen
                .latest()
                .filter(|_| matters)
                .map(|node| key(&node.meta.name))
                .into_iter()
                .collect();
        }
        let named = seen.new.and_then(node_of);
        let lost = named.filter(|node| world.get("nodes", "", node).is_none());
        lost.map(|node| key(&node)).into_iter().collect()
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, now: Timestamp) -> Outcome {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut outcome = Outcome::idle();
        let pods = if world.get("nodes", "", &key.name).is_none() {
            pods_on(world, &key.name)
        } else {
            Vec::new()
        };
        if pods.is_empty() {
            missing.remove(key);
            return outcome;
        }
        let since = *missing.entry(key.clone()).or_insert(now);
        if let Some(left) = look::remaining(since, QUARANTINE, now) {
            outcome.again_after(left);
            return outcome;
        }
        let doomed = pods.iter().map(|pod| at_once(look::deletion(&pod.object)).into());
        outcome.together(doomed.collect());
        outcome
    }
}

fn at_once(mut deletion: Change) -> Change {
    if let Change::Delete { grace_period_seconds, .. } = &mut deletion {
        *grace_period_seconds = Some(0);
    }
    deletion
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::world::{World, node, pod};
    use serde_json::json;

    #[test]
    fn pods_of_a_vanished_node_go_after_a_while_unless_it_comes_back() {
        let mut lost = pod("default", "p").1;
        lost["spec"]["nodeName"] = json!("a");
        let mut world = World::with([("pods", lost), pod("default", "unbound")]);
        let orphans = Orphans::default();
        let look_at = |world: &World| orphans.reconcile(world, &key("a"), world.now);
        assert_eq!(look_at(&world).requeue_after, Some(QUARANTINE));
        world.now += QUARANTINE;
        world.add("nodes", node("a").1);
        assert!(look_at(&world).is_idle(), "it came back");
        world.remove("nodes", "", "a");
        assert_eq!(look_at(&world).requeue_after, Some(QUARANTINE));
        world.now += QUARANTINE;
        let outcome = look_at(&world);
        let [act] = outcome.batches[0].as_slice() else { panic!("one pod: {outcome:?}") };
        let Change::Delete { name, grace_period_seconds, .. } = &act.change else {
            panic!("{act:?}")
        };
        assert_eq!((name.as_str(), *grace_period_seconds), ("p", Some(0)));
    }
}
