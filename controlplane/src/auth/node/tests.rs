//! What a node reaches, by example.

use serde_json::{Value, json};

use super::*;
use crate::admission::testing::World;
use crate::object::Resource;

fn world() -> World {
    let pod = |name: &str, node: &str, spec: Value| {
        let mut pod = json!({"metadata": {"name": name, "namespace": "a"}, "spec": spec});
        pod["spec"]["nodeName"] = node.into();
        pod["spec"]["containers"] = json!([{"name": "c", "env": [
            {"name": "E", "valueFrom": {"secretKeyRef": {"name": format!("{name}-env"), "key": "k"}}},
        ], "envFrom": [{"configMapRef": {"name": format!("{name}-map")}}]}]);
        pod["spec"]["serviceAccountName"] = format!("{name}-account").into();
        ("pods" as Resource, pod)
    };
    let volumes = json!({"imagePullSecrets": [{"name": "pull"}], "volumes": [
        {"name": "s", "secret": {"secretName": "mounted"}},
        {"name": "p", "projected": {"sources": [{"secret": {"name": "projected"}}]}},
        {"name": "c", "persistentVolumeClaim": {"claimName": "data"}},
        {"name": "own", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
    ]});
    let mirror = (
        "pods" as Resource,
        json!({
            "metadata": {"name": "m", "namespace": "a", "annotations": {"kubernetes.io/config.mirror": "x"}},
            "spec": {"nodeName": "n1", "containers": [], "imagePullSecrets": [{"name": "of-mirror"}]},
        }),
    );
    let claim =
        json!({"metadata": {"name": "data", "namespace": "a"}, "spec": {"volumeName": "v"}});
    let volume = json!({"metadata": {"name": "v"}, "spec": {
        "claimRef": {"namespace": "a", "name": "data"},
        "csi": {"driver": "d", "volumeHandle": "h",
            "nodeStageSecretRef": {"namespace": "storage", "name": "stage"}},
    }});
    World::of([
        pod("p1", "n1", volumes),
        pod("p2", "n2", json!({})),
        mirror,
        (CLAIMS, claim),
        (VOLUMES, volume),
    ])
}

/// `get secrets a/x`, with a subresource after a slash, a node after an `@`.
fn ask(node: &str, wish: &str) -> Verdict {
    let world = world();
    let pods = |namespace: Option<&str>| {
        let on = |o: &Arc<crate::object::Object>| {
            o.view::<Pod>()
                .is_ok_and(|p| p.spec.as_ref().unwrap().node_name.as_deref() == Some(node))
        };
        let all = world.list("pods", namespace).into_iter().filter(on);
        all.map(|o| (o.meta.namespace.clone(), o.meta.name.clone())).collect()
    };
    let (wish, on_node) = wish.split_once('@').unwrap_or((wish, ""));
    let mut words = wish.split(' ');
    let (verb, what) = (words.next().unwrap(), words.next().unwrap());
    let (namespace, name) = words.next().unwrap_or_default().split_once('/').unwrap_or_default();
    let (what, group) = what.split_once('.').unwrap_or((what, ""));
    let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
    let wanted = Attributes { verb, group, resource, subresource, namespace, name, on_node };
    Asking { world: &world, node, pods: &pods }.decide(Action::Resource(wanted))
}

#[test]
fn a_node_reaches_what_its_pods_need() {
    for wish in [
        "get secrets a/p1-env",
        "list secrets a/p1-env",
        "watch secrets a/mounted",
        "get secrets a/projected",
        "get secrets a/pull",
        "get secrets storage/stage",
        "get configmaps a/p1-map",
        "get persistentvolumeclaims a/data",
        "patch persistentvolumeclaims/status a/data",
        "get persistentvolumeclaims a/p1-own",
        "get persistentvolumes /v",
        "create serviceaccounts/token a/p1-account",
        "get pods a/p1",
        "list pods @n1",
        "watch pods @n1",
        "watch pods a/p1",
        "patch pods/status a/p1",
        "create pods/eviction a/p1",
        "delete pods a/p1",
        "get nodes /n1",
        "watch nodes /n1",
        "create nodes",
        "patch nodes/status /n1",
        "update leases.coordination.k8s.io kube-node-lease/n1",
        "create leases.coordination.k8s.io kube-node-lease/",
        "get csinodes.storage.k8s.io /n1",
        "list services",
        "create events a/",
        "create certificatesigningrequests.certificates.k8s.io",
        "create subjectaccessreviews.authorization.k8s.io",
    ] {
        let verdict = ask("n1", wish);
        assert!(verdict.is_ok(), "{wish}: {verdict:?}");
    }
}

#[test]
fn a_node_reaches_nothing_else() {
    for wish in [
        "get secrets a/p2-env",
        "get secrets a/of-mirror",
        "get secrets b/p1-env",
        "list secrets a/",
        "list secrets",
        "update secrets a/p1-env",
        "delete secrets a/p1-env",
        "get configmaps a/p2-map",
        "list persistentvolumeclaims a/",
        "update persistentvolumeclaims a/data",
        "get persistentvolumes /other",
        "list persistentvolumes",
        "create serviceaccounts/token a/p2-account",
        // The mirror Pod has no account.
        "create serviceaccounts/token a/default",
        "create serviceaccounts/token a/",
        "create serviceaccounts a/",
        "get serviceaccounts a/p1-account",
        "get pods a/p2",
        "list pods",
        "list pods @n2",
        "watch pods a/p2",
        "patch pods a/p1",
        "create pods/binding a/p1",
        "create pods/exec a/p1",
        "get nodes /n2",
        "list nodes",
        "delete nodes /n1",
        "update leases.coordination.k8s.io kube-node-lease/n2",
        "list leases.coordination.k8s.io kube-node-lease/",
        "create leases.coordination.k8s.io kube-system/",
        "get csinodes.storage.k8s.io /n2",
        "update certificatesigningrequests/approval.certificates.k8s.io /x",
        "create namespaces",
        "get services/proxy a/s",
        "list deployments.apps a/",
    ] {
        assert!(ask("n1", wish).is_err(), "{wish}");
    }
    let why = ask("n1", "get secrets a/p2-env").unwrap_err();
    assert_eq!(why, "no relationship found between node 'n1' and this object");
}

#[test]
fn a_node_has_a_name_and_its_group() {
    let node = |name, groups: &[&str]| identity(&UserInfo::new(name, groups)).map(str::to_owned);
    assert_eq!(node("system:node:n1", &["system:nodes"]).as_deref(), Some("n1"));
    assert_eq!(node("system:node:", &["system:nodes"]), None);
    assert_eq!(node("system:node", &["system:nodes"]), None);
    assert_eq!(node("system:node:n1", &["system:authenticated"]), None);
}
