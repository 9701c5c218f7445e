//! Eviction by taint: Pods that do not tolerate a NoExecute taint of their Node leave it, at once or after the
//! seconds that they tolerate it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint, Toleration};

use super::{key, node_of, pods_on};
use crate::controllers::look::{self, PodView};
use crate::controllers::outcome::{Act, Note, Outcome};
use crate::controllers::runner::{Controller, Seen};
use crate::object::{Key, Resource};
use crate::reader::Reader;
use crate::scheduler::tolerates;

pub struct Eviction;

impl Controller for Eviction {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:taint-eviction-controller"
    }

    fn watches(&self) -> Vec<Resource> {
        vec!["nodes", "pods"]
    }

    fn keys(&self, world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        let name = match seen.resource {
            "nodes" => seen.new.map(|node| node.meta.name.clone()),
            _ => seen.new.and_then(node_of),
        };
        let tainted = name.filter(|name| !taints(world, name).is_empty());
        tainted.map(|name| key(&name)).into_iter().collect()
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::idle();
        let taints = taints(world, &key.name);
        if taints.is_empty() {
            return outcome;
        }
        let mut evicted = Vec::new();
        for pod in pods_on(world, &key.name).iter().filter(|pod| pod.is_active()) {
            match patience(pod, &taints, now) {
                Patience::Forever => {}
                Patience::For(left) => outcome.again_after(left),
                Patience::Over => evicted.push(evict(pod)),
            }
        }
        outcome.together(evicted);
        outcome
    }
}

fn taints(world: &dyn Reader, node: &str) -> Vec<Taint> {
    let node: Option<Arc<Node>> = world.typed("nodes", "", node);
    let taints = node.and_then(|node| node.spec.as_ref()?.taints.clone()).unwrap_or_default();
    taints.into_iter().filter(|taint| taint.effect == "NoExecute").collect()
}

#[derive(Debug, PartialEq)]
enum Patience {
    Forever,
    For(Duration),
    Over,
}

/// How long the Pod may stay: the shortest of what it tolerates of each taint.
fn patience(pod: &PodView, taints: &[Taint], now: Timestamp) -> Patience {
    let tolerations =
        pod.pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let mut shortest = None;
    for taint in taints {
        let matching: Vec<&Toleration> =
            tolerations.iter().filter(|t| tolerates(t, taint)).collect();
        if matching.is_empty() {
            return Patience::Over;
        }
        let Some(seconds) = matching.iter().filter_map(|t| t.toleration_seconds).min() else {
            continue;
        };
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let wait = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        match look::remaining(since, wait, now) {
            None => return Patience::Over,
            Some(left) => shortest = Some(shortest.map_or(left, |s: Duration| s.min(left))),
        }
    }
    shortest.map_or(Patience::Forever, Patience::For)
}

fn evict(pod: &PodView) -> Act {
    let meta = pod.meta();
    let text = format!("Marking for deletion Pod {}/{}", meta.namespace, meta.name);
    Act::from(look::deletion(&pod.object)).noting(Note::normal(
        &pod.object,
        "TaintManagerEviction",
        text,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::world::{World, node, pod};
    use serde_json::{Value, json};

    fn case(tolerations: Value, after: u64) -> Patience {
        let mut value = pod("default", "p").1;
        value["spec"]["tolerations"] = tolerations;
        let world = World::with([("pods", value)]);
        let view = PodView::of(world.object("pods", "default", "p")).expect("a pod");
        let taint = Taint {
            key: "k".into(),
            effect: "NoExecute".into(),
            time_added: Some(look::stamp(world.now)),
            value: None,
        };
        patience(&view, &[taint], world.now + Duration::from_secs(after))
    }

    #[test]
    fn patience_is_what_the_tolerations_say() {
        let for_seconds = |seconds: i64| json!([{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
        assert_eq!(case(Value::Null, 0), Patience::Over);
        assert_eq!(case(json!([{"key": "k", "operator": "Exists"}]), 9999), Patience::Forever);
        assert_eq!(case(for_seconds(300), 100), Patience::For(Duration::from_secs(200)));
        assert_eq!(case(for_seconds(300), 300), Patience::Over);
        assert_eq!(case(for_seconds(0), 0), Patience::Over);
        assert_eq!(case(json!([{"key": "other", "operator": "Exists"}]), 0), Patience::Over);
    }

    #[test]
    fn only_pods_of_a_tainted_node_are_looked_at() {
        let mut bound = pod("default", "p").1;
        bound["spec"]["nodeName"] = json!("a");
        let mut world = World::with([node("a"), ("pods", bound)]);
        let object = world.object("pods", "default", "p");
        let seen = Seen { resource: "pods", old: None, new: Some(&object) };
        assert!(Eviction.keys(&world, seen).is_empty());
        world.edit("nodes", "", "a", |n| {
            n["spec"]["taints"] = json!([{"key": "k", "effect": "NoExecute"}])
        });
        assert_eq!(Eviction.keys(&world, seen), [key("a")]);
        let outcome = Eviction.reconcile(&world, &key("a"), world.now);
        assert_eq!(outcome.batches.len(), 1);
    }
}
