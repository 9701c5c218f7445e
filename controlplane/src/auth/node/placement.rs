//! Which Pods are on which node, kept from the changes of Pods: they are taken when somebody asks, so that an answer is
//! never older than the cache, and nothing has to run meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;

use crate::object::Object;
use crate::store::{Store, Watcher};

const PODS: &str = "pods";

/// Node → namespace → names.
#[derive(Default)]
struct Placement(HashMap<String, BTreeMap<String, BTreeSet<Box<str>>>>);

impl Placement {
    fn see(&mut self, old: Option<&Object>, new: Option<&Object>) {
        let (before, after) = (old.and_then(node), new.and_then(node));
        if before == after && old.is_some() && new.is_some() {
            return;
        }
        if let (Some(pod), Some(node)) = (old, before) {
            self.remove(&node, pod);
        }
        if let (Some(pod), Some(node)) = (new, after) {
            let namespaces = self.0.entry(node).or_default();
            let names = namespaces.entry(pod.meta.namespace.clone()).or_default();
            names.insert(pod.meta.name.as_str().into());
        }
    }

    fn remove(&mut self, node: &str, pod: &Object) {
        let Some(namespaces) = self.0.get_mut(node) else { return };
        if let Some(names) = namespaces.get_mut(&pod.meta.namespace) {
            names.remove(pod.meta.name.as_str());
            if names.is_empty() {
                namespaces.remove(&pod.meta.namespace);
            }
        }
        if namespaces.is_empty() {
            self.0.remove(node);
        }
    }

    fn on(&self, node: &str, namespace: Option<&str>) -> Vec<(String, String)> {
        let Some(namespaces) = self.0.get(node) else { return Vec::new() };
        let wanted = |of: &&String| namespace.is_none_or(|namespace| namespace == of.as_str());
        let each = namespaces.iter().filter(|(of, _)| wanted(of));
        each.flat_map(|(of, names)| names.iter().map(|name| (of.clone(), name.to_string())))
            .collect()
    }
}

fn node(pod: &Object) -> Option<String> {
    let pod = pod.view::<Pod>().ok()?;
    pod.spec.as_ref()?.node_name.clone().filter(|node| !node.is_empty())
}

/// The placement of one store's Pods.
pub(crate) struct Placed {
    store: Arc<Store>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    placement: Placement,
    /// None: nothing is known yet, or too much has happened since.
    changes: Option<Watcher>,
}

impl Placed {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store, known: Mutex::default() }
    }

    /// Namespace and name of the Pods on a node.
    pub(crate) fn on(&self, node: &str, namespace: Option<&str>) -> Vec<(String, String)> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.refresh(&self.store);
        known.placement.on(node, namespace)
    }
}

impl Known {
    fn refresh(&mut self, store: &Store) {
        if let Some(Ok(news)) = self.changes.as_mut().map(|changes| changes.take(usize::MAX)) {
            for event in news.events {
                self.placement.see(event.old.as_deref(), event.new.as_deref());
            }
            return;
        }
        let all = store.snapshot(PODS, None);
        self.placement = Placement::default();
        for pod in &all.objects {
            self.placement.see(None, Some(pod));
        }
        self.changes = store.watch(PODS, all.revision).ok();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: Option<&str>) -> Object {
        let value = json!({"metadata": {"name": name, "namespace": "a"},
            "spec": {"nodeName": node, "containers": []}});
        Object::from_value(PODS, &value).unwrap()
    }

    #[test]
    fn pods_come_to_a_node_and_leave_it() {
        let mut placement = Placement::default();
        let named = |placement: &Placement, node: &str, namespace: Option<&str>| {
            placement.on(node, namespace).into_iter().map(|(_, name)| name).collect::<Vec<_>>()
        };
        placement.see(None, Some(&pod("p", None)));
        assert!(placement.0.is_empty());
        placement.see(Some(&pod("p", None)), Some(&pod("p", Some("n"))));
        placement.see(None, Some(&pod("q", Some("n"))));
        placement.see(Some(&pod("q", Some("n"))), Some(&pod("q", Some("n"))));
        assert_eq!(named(&placement, "n", None), ["p", "q"]);
        assert_eq!(named(&placement, "n", Some("a")), ["p", "q"]);
        assert!(
            named(&placement, "n", Some("b")).is_empty() && named(&placement, "m", None).is_empty()
        );
        placement.see(Some(&pod("p", Some("n"))), None);
        assert_eq!(named(&placement, "n", None), ["q"]);
        placement.see(Some(&pod("q", Some("n"))), None);
        assert!(placement.0.is_empty(), "nothing is kept of a node without Pods");
    }
}
