//! What every Namespace has: a ServiceAccount `default`, and the cluster's CA in `kube-root-ca.crt`.

use jiff::Timestamp;
use serde_json::json;

use super::look;
use super::outcome::{Act, Outcome};
use super::runner::{Controller, Seen};
use crate::object::{Key, Resource};
use crate::reader::Reader;
use crate::writer::Change;

const ROOT_CA: &str = "kube-root-ca.crt";

pub struct Furnishing {
    ca_pem: Option<String>,
}

impl Furnishing {
    pub fn new(ca_pem: Option<String>) -> Self {
        Self { ca_pem }
    }
}

impl Controller for Furnishing {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:service-account-controller"
    }

    fn watches(&self) -> Vec<Resource> {
        vec!["namespaces", "serviceaccounts", "configmaps"]
    }

    fn keys(&self, _world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        let Some(object) = seen.latest() else { return Vec::new() };
        let name = match (seen.resource, object.meta.name.as_str()) {
            ("namespaces", name) => name,
            ("serviceaccounts", "default") | ("configmaps", ROOT_CA) => &object.meta.namespace,
            _ => return Vec::new(),
        };
        vec![Key::new("namespaces", "", name)]
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, _now: Timestamp) -> Outcome {
        let mut outcome = Outcome::idle();
        let namespace = world.get("namespaces", "", &key.name);
        if namespace.is_none_or(|namespace| look::is_deleting(&namespace.meta)) {
            return outcome;
        }
        // Together, and first what Pods mount: they wait for the other.
        let mut acts: Vec<Act> =
            self.root_ca(world, &key.name).map(Into::into).into_iter().collect();
        if world.get("serviceaccounts", &key.name, "default").is_none() {
            let object = json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": "default", "namespace": &*key.name},
            });
            acts.push(Change::Create { resource: "serviceaccounts", object }.into());
        }
        outcome.together(acts);
        outcome
    }
}

impl Furnishing {
    fn root_ca(&self, world: &dyn Reader, namespace: &str) -> Option<Change> {
        let data = json!({"ca.crt": self.ca_pem.as_ref()?});
        match world.get("configmaps", namespace, ROOT_CA) {
            Some(known) if known.value()["data"] == data => None,
            Some(known) => Some(look::edited(&known, |value| value["data"] = data)),
            None => {
                let about = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";
                let object = json!({
                    "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {
                        "name": ROOT_CA, "namespace": namespace,
                        "annotations": {"kubernetes.io/description": about},
                    },
                    "data": data,
                });
                Some(Change::Create { resource: "configmaps", object })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::world::World;

    fn settle(world: &mut World, furnishing: &Furnishing) -> usize {
        let key = Key::new("namespaces", "", "team");
        let outcome = furnishing.reconcile(world, &key, world.now);
        let acts: Vec<_> = outcome.batches.into_iter().flatten().collect();
        let count = acts.len();
        for act in acts {
            world.apply(act.change).expect("apply");
        }
        count
    }

    #[test]
    fn a_namespace_is_furnished_mended_and_left_alone_when_it_goes() {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}, "spec": {"finalizers": ["kubernetes"]}});
        let mut world = World::with([("namespaces", namespace)]);
        let furnishing = Furnishing::new(Some("PEM".into()));
        assert_eq!(settle(&mut world, &furnishing), 2);
        assert_eq!(settle(&mut world, &furnishing), 0);
        world.edit("configmaps", "team", ROOT_CA, |map| map["data"] = json!({"ca.crt": "forged"}));
        settle(&mut world, &furnishing);
        assert_eq!(world.value("configmaps", "team", ROOT_CA)["data"]["ca.crt"], "PEM");
        world.remove("serviceaccounts", "team", "default");
        world.delete("namespaces", "", "team", None, None, false).expect("delete");
        assert_eq!(settle(&mut world, &furnishing), 0);
    }

    #[test]
    fn without_a_known_ca_there_is_no_config_map() {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
        let mut world = World::with([("namespaces", namespace)]);
        assert_eq!(settle(&mut world, &Furnishing::new(None)), 1);
        assert!(world.get("configmaps", "team", ROOT_CA).is_none());
    }
}
