//! NodeRestriction: what a node writes is about itself and its Pods. Pure; the rules are upstream's.
//!
//! The node authorizer has said which resources a node may write at all; here the objects are looked at.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{World, account};
use crate::auth::node::LEASES;
use crate::kinds::{Kind, Operation};

/// Labels of administrators' own: whoever takes over a node must not draw Pods to it.
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Labels of Kubernetes itself that a node sets.
const OWN_LABELS: [&str; 14] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/instance-type",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// And those in these domains.
const OWN_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// One node, writing.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a> {
    pub(crate) world: World<'a>,
    pub(crate) node: &'a str,
}

type Checked = Result<(), String>;

impl Writer<'_> {
    /// A create or an update; `value` is what would be stored.
    pub(crate) fn write(
        self,
        kind: &Kind,
        subresource: &str,
        value: &Value,
        op: Operation<'_>,
    ) -> Checked {
        match (kind.resource, subresource, op) {
            ("pods", "", Operation::Create) => self.mirror(value),
            ("pods", "status", Operation::Update { old, .. }) => self.pod_status(value, old),
            ("pods", "", _) => {
                Err(format!("node {:?} can only create and delete mirror pods", self.node))
            }
            ("pods", other, _) => Err(format!(
                "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
            )),
            ("nodes", _, op) => self.own_node(value, op),
            ("persistentvolumeclaims", "status", Operation::Update { .. }) => Ok(()),
            ("persistentvolumeclaims", ..) => Err("may only update PVC status".into()),
            ("leases.coordination.k8s.io", ..) => self.lease(text(value, "namespace"), name(value)),
            ("csinodes.storage.k8s.io", ..) => self.csi_node(name(value)),
            _ => Ok(()),
        }
    }

    pub(crate) fn delete(self, kind: &Kind, object: &Value) -> Checked {
        match kind.resource {
            "pods" => self.own_pod(object, "can only delete pods"),
            "nodes" => Err(format!("node {:?} cannot delete nodes", self.node)),
            "leases.coordination.k8s.io" => self.lease(text(object, "namespace"), name(object)),
            "csinodes.storage.k8s.io" => self.csi_node(name(object)),
            _ => Ok(()),
        }
    }

    pub(crate) fn evict(self, pod: &Value) -> Checked {
        self.own_pod(pod, "can only evict pods")
    }

    /// A token must end with a Pod of the node, and speak to whom the Pod speaks.
    pub(crate) fn token(self, namespace: &str, request: &Value) -> Checked {
        let bound = &request["spec"]["boundObjectRef"];
        let of = |field: &str| bound[field].as_str().unwrap_or_default();
        if (of("apiVersion"), of("kind")) != ("v1", "Pod") || of("name").is_empty() {
            return Err("node requested token not bound to a pod".into());
        }
        if of("uid").is_empty() {
            return Err("node requested token with a pod binding without a uid".into());
        }
        let pod = self.world.get("pods", namespace, of("name"));
        let pod = pod.filter(|pod| pod.meta.uid == of("uid")).ok_or_else(|| {
            format!("pod {:?} of the token is not there, or another one", of("name"))
        })?;
        let pod = pod.value();
        if pod["spec"]["nodeName"] != self.node {
            return Err("node requested token bound to a pod scheduled on a different node".into());
        }
        let audiences = request["spec"]["audiences"].as_array().into_iter().flatten();
        for audience in audiences.filter_map(Value::as_str).filter(|name| !name.is_empty()) {
            if !self.speaks_to(&pod, audience) {
                return Err(format!("audience {audience:?} not found in pod spec volume"));
            }
        }
        Ok(())
    }

    fn speaks_to(self, pod: &Value, audience: &str) -> bool {
        let projected = |volume: &Value| {
            let sources = volume["projected"]["sources"].as_array().into_iter().flatten();
            sources.map(|s| &s["serviceAccountToken"]["audience"]).any(|a| a == audience)
        };
        let by_driver = |volume: &Value| {
            let driver = volume["csi"]["driver"].as_str()?;
            let driver = self.world.get("csidrivers.storage.k8s.io", "", driver)?.value();
            let wished = driver["spec"]["tokenRequests"].as_array()?;
            Some(wished.iter().any(|request| request["audience"] == audience))
        };
        let mut volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        volumes.any(|volume| projected(volume) || by_driver(volume) == Some(true))
    }

    /// The Pod of a file on the node: owned by the Node, and with nothing that only the API could give it.
    fn mirror(self, pod: &Value) -> Checked {
        let node = self.node;
        if !account::is_mirror(pod) {
            let mark = account::MIRROR;
            return Err(format!(
                "pod does not have {mark:?} annotation, node {node:?} can only create mirror pods"
            ));
        }
        self.own_pod(pod, "can only create pods")?;
        let can = |what: &str| Err(format!("node {node:?} can only create pods with {what}"));
        let owner = match pod["metadata"]["ownerReferences"].as_array().map(Vec::as_slice) {
            Some([owner]) => owner,
            Some([_, _, ..]) => return can("a single owner reference set to itself"),
            _ => return can("an owner reference set to itself"),
        };
        let itself = self.world.get("nodes", "", node);
        let uid = itself.map(|node| node.meta.uid.clone()).unwrap_or_default();
        if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
            return can("an owner reference set to itself");
        }
        if owner["controller"] != true {
            return can("a controller owner reference set to itself");
        }
        if owner["blockOwnerDeletion"] == true {
            return Err(format!(
                "node {node:?} must not set blockOwnerDeletion on an owner reference"
            ));
        }
        if owner["uid"].as_str().is_none_or(|found| found != uid || found.is_empty()) {
            return Err(format!(
                "node {node:?} UID mismatch: expected {uid:?}, got {}",
                owner["uid"]
            ));
        }
        match needs(pod) {
            None => Ok(()),
            Some(what) => Err(format!("node {node:?} can not create pods that reference {what}")),
        }
    }

    fn pod_status(self, pod: &Value, old: &Value) -> Checked {
        self.own_pod(old, "can only update pod status for pods")?;
        let labels = |pod: &Value| pod["metadata"]["labels"].clone();
        if labels(pod) != labels(old) {
            return Err(format!("node {:?} cannot update labels through pod status", self.node));
        }
        Ok(())
    }

    fn own_pod(self, pod: &Value, does: &str) -> Checked {
        match pod["spec"]["nodeName"] == self.node {
            true => Ok(()),
            false => Err(format!("node {:?} {does} with spec.nodeName set to itself", self.node)),
        }
    }

    fn own_node(self, value: &Value, op: Operation<'_>) -> Checked {
        let node = self.node;
        if name(value) != node {
            return Err(format!("node {node:?} is not allowed to modify node {:?}", name(value)));
        }
        let old = match op {
            Operation::Create => &Value::Null,
            Operation::Update { old, .. } => old,
        };
        let changed = |pointer: &str| value.pointer(pointer) != old.pointer(pointer);
        if changed("/spec/configSource") && !value["spec"]["configSource"].is_null() {
            return Err(format!("node {node:?} is not allowed to set configSource"));
        }
        // A node may come with taints, and never take one off.
        if !old.is_null() && changed("/spec/taints") {
            return Err(format!("node {node:?} is not allowed to modify taints"));
        }
        if changed("/metadata/ownerReferences") {
            return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
        }
        let refused: Vec<String> =
            changed_labels(value, old).into_iter().filter(|label| is_forbidden(label)).collect();
        if !refused.is_empty() {
            let does = if old.is_null() { "set" } else { "modify" };
            let refused = refused.join(", ");
            return Err(format!(
                "node {node:?} is not allowed to {does} the following labels: {refused}"
            ));
        }
        Ok(())
    }

    fn lease(self, namespace: &str, name: &str) -> Checked {
        if namespace != LEASES {
            return Err(format!("can only access leases in the {LEASES:?} system namespace"));
        }
        match name == self.node {
            true => Ok(()),
            false => {
                Err("can only access node lease with the same name as the requesting node".into())
            }
        }
    }

    fn csi_node(self, name: &str) -> Checked {
        match name == self.node {
            true => Ok(()),
            false => {
                Err("can only access CSINode with the same name as the requesting node".into())
            }
        }
    }
}

/// What of the API the Pod would need, if anything.
fn needs(pod: &Value) -> Option<&'static str> {
    let spec = &pod["spec"];
    if spec["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        return Some("a service account");
    }
    let has = |field: &'static str| {
        move |volume: &Value| !volume.get(field).unwrap_or(&Value::Null).is_null()
    };
    let volumes = || spec["volumes"].as_array().into_iter().flatten();
    let text = spec.to_string();
    if text.contains("secretKeyRef")
        || text.contains("secretRef")
        || volumes().any(has("secret"))
        || spec["imagePullSecrets"].as_array().is_some_and(|list| !list.is_empty())
    {
        return Some("secrets");
    }
    if text.contains("configMapKeyRef")
        || text.contains("configMapRef")
        || volumes().any(has("configMap"))
    {
        return Some("configmaps");
    }
    if volumes().any(has("persistentVolumeClaim")) || volumes().any(has("ephemeral")) {
        return Some("persistentvolumeclaims");
    }
    volumes().any(has("projected")).then_some("projected volumes")
}

fn changed_labels(value: &Value, old: &Value) -> BTreeSet<String> {
    let (new, old) = (&value["metadata"]["labels"], &old["metadata"]["labels"]);
    let keys = |labels: &Value| {
        labels.as_object().into_iter().flatten().map(|(k, _)| k.clone()).collect::<Vec<_>>()
    };
    let all = keys(new).into_iter().chain(keys(old));
    all.filter(|key| new.get(key.as_str()) != old.get(key.as_str())).collect()
}

fn is_forbidden(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let within = |of: &str| {
        domain.strip_suffix(of).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if within(RESTRICTED) {
        return true;
    }
    let kubernetes = within("kubernetes.io") || within("k8s.io");
    kubernetes && !OWN_LABELS.contains(&label) && !OWN_DOMAINS.into_iter().any(within)
}

fn name(value: &Value) -> &str {
    text(value, "name")
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value["metadata"][field].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::testing;
    use crate::kinds::find_resource;

    fn world() -> testing::World {
        let pod = |name: &str, node: &str| {
            let volumes = json!([{"name": "t", "projected": {"sources": [
                {"serviceAccountToken": {"audience": "vault", "path": "t"}},
            ]}}]);
            json!({"metadata": {"name": name, "namespace": "a", "uid": format!("{name}-uid")},
                "spec": {"nodeName": node, "volumes": volumes}})
        };
        testing::World::of([
            ("nodes", json!({"metadata": {"name": "n1", "uid": "n1-uid"}})),
            ("pods", pod("p1", "n1")),
            ("pods", pod("p2", "n2")),
        ])
    }

    fn write(resource: &str, subresource: &str, value: &Value, old: Option<&Value>) -> Checked {
        let op = match old {
            None => Operation::Create,
            Some(old) => Operation::Update { old, subresource },
        };
        let kind = find_resource(resource).unwrap();
        Writer { world: &world(), node: "n1" }.write(kind, subresource, value, op)
    }

    fn node(labels: Value) -> Value {
        json!({"metadata": {"name": "n1", "labels": labels}, "spec": {"taints": [{"key": "a"}]}})
    }

    #[test]
    fn a_node_describes_itself() {
        let own =
            node(json!({"kubernetes.io/hostname": "n1", "rack": "7", "node.kubernetes.io/x": "y"}));
        write("nodes", "", &own, None).unwrap();
        write("nodes", "status", &own, Some(&own)).unwrap();
        write("nodes", "", &node(json!({"rack": "8"})), Some(&own)).unwrap();
        let mut other = own.clone();
        other["metadata"]["name"] = "n2".into();
        let why = write("nodes", "", &other, None).unwrap_err();
        assert_eq!(why, r#"node "n1" is not allowed to modify node "n2""#);
        for label in [
            "node-restriction.kubernetes.io/pool",
            "x.node-restriction.kubernetes.io/pool",
            "node-role.kubernetes.io/control-plane",
            "anything.k8s.io/x",
            "kubernetes.io/role",
        ] {
            for old in [None, Some(&own)] {
                let why = write("nodes", "", &node(json!({label: "x"})), old).unwrap_err();
                assert!(why.contains(label), "{why}");
            }
            // Taking one off is no better.
            let old = node(json!({label: "x"}));
            assert!(write("nodes", "", &node(json!({})), Some(&old)).is_err(), "{label}");
            write("nodes", "status", &old, Some(&old)).unwrap();
        }
        for (pointer, value) in [
            ("/spec", json!({"taints": []})),
            ("/spec", json!({"configSource": {}, "taints": [{"key": "a"}]})),
        ] {
            let mut changed = own.clone();
            *changed.pointer_mut(pointer).unwrap() = value;
            assert!(write("nodes", "", &changed, Some(&own)).is_err(), "{changed}");
        }
        let mut owned = own.clone();
        owned["metadata"]["ownerReferences"] = json!([{"uid": "x"}]);
        assert!(write("nodes", "status", &owned, Some(&own)).is_err());
    }

    #[test]
    fn a_node_writes_the_status_of_its_own_pods() {
        let pod = |node: &str, labels: Value| json!({"metadata": {"name": "p", "labels": labels}, "spec": {"nodeName": node}});
        let (own, foreign) = (pod("n1", json!({})), pod("n2", json!({})));
        write("pods", "status", &own, Some(&own)).unwrap();
        assert!(write("pods", "status", &foreign, Some(&foreign)).is_err());
        assert!(write("pods", "status", &own, Some(&foreign)).is_err());
        assert!(write("pods", "status", &pod("n1", json!({"app": "x"})), Some(&own)).is_err());
        assert!(write("pods", "", &own, Some(&own)).is_err());
        assert!(write("pods", "ephemeralcontainers", &own, Some(&own)).is_err());
        let (world, kind) = (world(), find_resource("pods").unwrap());
        let writer = Writer { world: &world, node: "n1" };
        writer.delete(kind, &own).unwrap();
        writer.evict(&own).unwrap();
        assert!(writer.delete(kind, &foreign).is_err() && writer.evict(&foreign).is_err());
    }

    #[test]
    fn a_node_creates_mirrors_of_its_files_only() {
        let mirror = json!({
            "metadata": {"name": "m", "annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n1-uid", "controller": true},
            ]},
            "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
        });
        write("pods", "", &mirror, None).unwrap();
        let secret = json!([{"name": "s", "secret": {"secretName": "s"}}]);
        for (pointer, value) in [
            ("/metadata/annotations", json!({})),
            ("/spec/nodeName", json!("n2")),
            ("/metadata/ownerReferences", json!([])),
            ("/metadata/ownerReferences/0/uid", json!("other")),
            ("/metadata/ownerReferences/0/controller", json!(false)),
            ("/spec", json!({"nodeName": "n1", "volumes": secret})),
            ("/spec", json!({"nodeName": "n1", "serviceAccountName": "default"})),
            ("/spec/containers/0", json!({"envFrom": [{"configMapRef": {"name": "m"}}]})),
        ] {
            let mut wrong = mirror.clone();
            *wrong.pointer_mut(pointer).unwrap() = value;
            assert!(write("pods", "", &wrong, None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_node_asks_tokens_for_its_pods() {
        let ask = |bound: Value, audiences: Value| {
            let request = json!({"spec": {"boundObjectRef": bound, "audiences": audiences}});
            Writer { world: &world(), node: "n1" }.token("a", &request)
        };
        let bound = |name: &str, uid: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
        ask(bound("p1", "p1-uid"), json!([])).unwrap();
        ask(bound("p1", "p1-uid"), json!(["vault"])).unwrap();
        for (wrong, says) in [
            (Value::Null, "not bound to a pod"),
            (
                json!({"apiVersion": "v1", "kind": "Secret", "name": "p1", "uid": "p1-uid"}),
                "not bound to a pod",
            ),
            (bound("p1", ""), "without a uid"),
            (bound("p1", "older"), "another one"),
            (bound("p2", "p2-uid"), "on a different node"),
        ] {
            let why = ask(wrong, json!([])).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
        let why = ask(bound("p1", "p1-uid"), json!(["bank"])).unwrap_err();
        assert_eq!(why, r#"audience "bank" not found in pod spec volume"#);
    }

    #[test]
    fn leases_are_the_nodes_own() {
        let lease = |namespace: &str, name: &str| json!({"metadata": {"name": name, "namespace": namespace}});
        let write = |value: Value| write("leases.coordination.k8s.io", "", &value, None);
        write(lease(LEASES, "n1")).unwrap();
        assert!(write(lease(LEASES, "n2")).is_err() && write(lease("default", "n1")).is_err());
    }
}
