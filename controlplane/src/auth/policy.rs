//! The roles and bindings that every cluster has, as upstream ships them: those for people (`cluster-admin`, `admin`, `edit`,
//! `view`), for everybody (discovery, one's own rights), and for components that bring their own certificate.

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde::Deserialize;
use serde_json::{Value, json};

use super::rbac;

const GROUP: &str = "rbac.authorization.k8s.io";
const CERTIFICATES: &str = "certificates.k8s.io";
/// Whose bootstrap tokens are for nodes.
const JOINING: &str = "system:bootstrappers:kubeadm:default-node-token";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];

/// Every default ClusterRole and ClusterRoleBinding.
pub(crate) fn defaults() -> (Vec<Value>, Vec<Value>) {
    let mut roles = people();
    roles.extend(everybody());
    roles.extend(components());
    (roles, bindings())
}

fn role(name: &str, rules: Value) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
            "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        },
        "rules": rules,
    })
}

fn rule(verbs: &[&str], groups: &[&str], resources: &[&str]) -> Value {
    json!({"verbs": verbs, "apiGroups": groups, "resources": resources})
}

fn paths(paths: &[&str]) -> Value {
    json!({"verbs": ["get"], "nonResourceURLs": paths})
}

/// A role whose rules are those of all roles labelled `rbac.authorization.k8s.io/aggregate-to-…`; CRD authors add theirs.
fn aggregated(name: &str, label: Option<&str>) -> Value {
    let mut role = role(name, json!([]));
    let from = format!("rbac.authorization.k8s.io/aggregate-to-{name}");
    role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {from: "true"}}]});
    if let Some(to) = label {
        role["metadata"]["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{to}")] =
            "true".into();
    }
    role
}

fn part(of: &str, rules: Value) -> Value {
    let mut role = role(&format!("system:aggregate-to-{of}"), rules);
    role["metadata"]["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{of}")] =
        "true".into();
    role
}

const CORE_EDITED: &[&str] = &[
    "configmaps",
    "events",
    "persistentvolumeclaims",
    "replicationcontrollers",
    "replicationcontrollers/scale",
    "secrets",
    "serviceaccounts",
    "services",
    "services/proxy",
];
const APPS_EDITED: &[&str] = &[
    "daemonsets",
    "deployments",
    "deployments/rollback",
    "deployments/scale",
    "replicasets",
    "replicasets/scale",
    "statefulsets",
    "statefulsets/scale",
];
const NETWORKING: &[&str] = &["ingresses", "networkpolicies"];

fn people() -> Vec<Value> {
    let everything = json!([
        rule(&["*"], &["*"], &["*"]), {"verbs": ["*"], "nonResourceURLs": ["*"]},
    ]);
    let admin = json!([
        rule(&["create"], &["authorization.k8s.io"], &["localsubjectaccessreviews"]),
        rule(&[READ, WRITE].concat(), &[GROUP], &["rolebindings", "roles"]),
    ]);
    let edit = json!([
        rule(
            READ,
            &[""],
            &[
                "pods/attach",
                "pods/exec",
                "pods/portforward",
                "pods/proxy",
                "secrets",
                "services/proxy"
            ]
        ),
        rule(&["impersonate"], &[""], &["serviceaccounts"]),
        rule(WRITE, &[""], &["pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"]),
        rule(&["create"], &[""], &["pods/eviction"]),
        rule(WRITE, &[""], CORE_EDITED),
        rule(&["create"], &[""], &["serviceaccounts/token"]),
        rule(WRITE, &["apps"], APPS_EDITED),
        rule(WRITE, &["autoscaling"], &["horizontalpodautoscalers"]),
        rule(WRITE, &["batch"], &["cronjobs", "jobs"]),
        rule(WRITE, &["policy"], &["poddisruptionbudgets"]),
        rule(WRITE, &["networking.k8s.io"], NETWORKING),
        rule(&[READ, WRITE].concat(), &["coordination.k8s.io"], &["leases"]),
    ]);
    let view = json!([
        rule(
            READ,
            &[""],
            &[
                "configmaps",
                "endpoints",
                "persistentvolumeclaims",
                "persistentvolumeclaims/status",
                "pods",
                "replicationcontrollers",
                "replicationcontrollers/scale",
                "serviceaccounts",
                "services",
                "services/status",
            ]
        ),
        rule(
            READ,
            &[""],
            &[
                "bindings",
                "events",
                "limitranges",
                "namespaces/status",
                "pods/log",
                "pods/status",
                "replicationcontrollers/status",
                "resourcequotas",
                "resourcequotas/status",
            ]
        ),
        rule(READ, &[""], &["namespaces"]),
        rule(READ, &["discovery.k8s.io"], &["endpointslices"]),
        rule(
            READ,
            &["apps"],
            &[
                "controllerrevisions",
                "daemonsets",
                "daemonsets/status",
                "deployments",
                "deployments/scale",
                "deployments/status",
                "replicasets",
                "replicasets/scale",
                "replicasets/status",
                "statefulsets",
                "statefulsets/scale",
                "statefulsets/status",
            ]
        ),
        rule(
            READ,
            &["autoscaling"],
            &["horizontalpodautoscalers", "horizontalpodautoscalers/status"]
        ),
        rule(READ, &["batch"], &["cronjobs", "cronjobs/status", "jobs", "jobs/status"]),
        rule(READ, &["policy"], &["poddisruptionbudgets", "poddisruptionbudgets/status"]),
        rule(READ, &["networking.k8s.io"], &["ingresses", "ingresses/status", "networkpolicies"]),
    ]);
    vec![
        role("cluster-admin", everything),
        aggregated("admin", None),
        aggregated("edit", Some("admin")),
        aggregated("view", Some("edit")),
        part("admin", admin),
        part("edit", edit),
        part("view", view),
    ]
}

fn everybody() -> Vec<Value> {
    let discovery = [
        "/api",
        "/api/*",
        "/apis",
        "/apis/*",
        "/healthz",
        "/livez",
        "/openapi",
        "/openapi/*",
        "/readyz",
        "/version",
        "/version/",
    ];
    let reviews = ["selfsubjectaccessreviews", "selfsubjectrulesreviews"];
    vec![
        role("system:discovery", json!([paths(&discovery)])),
        role(
            "system:public-info-viewer",
            json!([paths(&["/healthz", "/livez", "/readyz", "/version", "/version/"])]),
        ),
        role(
            "system:basic-user",
            json!([
                rule(&["create"], &["authorization.k8s.io"], &reviews),
                rule(&["create"], &["authentication.k8s.io"], &["selfsubjectreviews"]),
            ]),
        ),
        role(
            "system:service-account-issuer-discovery",
            json!([paths(&[
                "/.well-known/openid-configuration",
                "/.well-known/openid-configuration/",
                "/openid/v1/jwks",
                "/openid/v1/jwks/"
            ])]),
        ),
    ]
}

fn components() -> Vec<Value> {
    let monitoring = [
        "/healthz",
        "/healthz/*",
        "/livez",
        "/livez/*",
        "/metrics",
        "/metrics/slis",
        "/readyz",
        "/readyz/*",
    ];
    vec![
        role("system:monitoring", json!([paths(&monitoring)])),
        role("system:node", node_rules()),
        role(
            "system:auth-delegator",
            json!([
                rule(&["create"], &["authentication.k8s.io"], &["tokenreviews"]),
                rule(&["create"], &["authorization.k8s.io"], &["subjectaccessreviews"]),
            ]),
        ),
        role(
            "system:node-bootstrapper",
            json!([rule(
                &["create", "get", "list", "watch"],
                &[CERTIFICATES],
                &["certificatesigningrequests"]
            )]),
        ),
        automatic("nodeclient"),
        automatic("selfnodeclient"),
        approver("kube-apiserver-client"),
        approver("kube-apiserver-client-kubelet"),
        approver("kubelet-serving"),
        role(
            "system:kube-dns",
            json!([rule(&["list", "watch"], &[""], &["endpoints", "services"])]),
        ),
        role(
            "system:node-proxier",
            json!([
                rule(&["list", "watch"], &[""], &["endpoints", "services"]),
                rule(READ, &[""], &["nodes"]),
                rule(&["create", "patch", "update"], &["", "events.k8s.io"], &["events"]),
                rule(&["list", "watch"], &["discovery.k8s.io"], &["endpointslices"]),
            ]),
        ),
        role(
            "system:kubelet-api-admin",
            json!([
                rule(READ, &[""], &["nodes"]),
                rule(&["proxy"], &[""], &["nodes"]),
                rule(&["*"], &[""], &["nodes/log", "nodes/metrics", "nodes/proxy", "nodes/stats"]),
            ]),
        ),
        role(
            "system:persistent-volume-provisioner",
            json!([
                rule(&["create", "delete", "get", "list", "watch"], &[""], &["persistentvolumes"]),
                rule(&["get", "list", "update", "watch"], &[""], &["persistentvolumeclaims"]),
                rule(READ, &["storage.k8s.io"], &["storageclasses"]),
                rule(&["watch"], &[""], &["events"]),
                rule(&["create", "patch", "update"], &["", "events.k8s.io"], &["events"]),
            ]),
        ),
    ]
}

/// Whoever has it gets certificates of this sort approved by a controller.
fn automatic(sort: &str) -> Value {
    let resource = format!("certificatesigningrequests/{sort}");
    role(
        &format!("system:certificates.k8s.io:certificatesigningrequests:{sort}"),
        json!([rule(&["create"], &[CERTIFICATES], &[&resource])]),
    )
}

fn approver(signer: &str) -> Value {
    let mut over_signer = rule(&["approve"], &[CERTIFICATES], &["signers"]);
    over_signer["resourceNames"] = json!([format!("kubernetes.io/{signer}")]);
    role(&format!("system:certificates.k8s.io:{signer}-approver"), json!([over_signer]))
}

/// What a node may do whatever runs on it; its authorizer narrows this to the node's own.
pub(super) fn node_rules() -> Value {
    const AUTHENTICATION: &str = "authentication.k8s.io";
    const AUTHORIZATION: &str = "authorization.k8s.io";
    json!([
        rule(&["create"], &[AUTHENTICATION], &["tokenreviews"]),
        rule(&["create"], &[AUTHORIZATION], &["localsubjectaccessreviews", "subjectaccessreviews"]),
        rule(READ, &[""], &["services"]),
        rule(&["create", "get", "list", "patch", "update", "watch"], &[""], &["nodes"]),
        rule(&["patch", "update"], &[""], &["nodes/status"]),
        rule(&["create", "patch", "update"], &["", "events.k8s.io"], &["events"]),
        rule(&["create", "delete", "get", "list", "watch"], &[""], &["pods"]),
        rule(&["patch", "update"], &[""], &["pods/status"]),
        rule(&["create"], &[""], &["pods/eviction"]),
        rule(READ, &[""], &["configmaps", "secrets"]),
        rule(&["get"], &[""], &["persistentvolumeclaims", "persistentvolumes"]),
        rule(&["get", "patch", "update"], &[""], &["persistentvolumeclaims/status"]),
        rule(&["create"], &[""], &["serviceaccounts/token"]),
        rule(&["create", "get", "list", "watch"], &[CERTIFICATES], &["certificatesigningrequests"]),
        rule(
            &["create", "delete", "get", "patch", "update"],
            &["coordination.k8s.io"],
            &["leases"]
        ),
        rule(&["get"], &["storage.k8s.io"], &["volumeattachments"]),
        rule(READ, &["storage.k8s.io"], &["csidrivers"]),
        rule(&["create", "delete", "get", "patch", "update"], &["storage.k8s.io"], &["csinodes"]),
        rule(READ, &["node.k8s.io"], &["runtimeclasses"]),
    ])
}

fn bindings() -> Vec<Value> {
    let group = |role: &str, groups: &[&str]| binding(role, "Group", groups);
    vec![
        group("cluster-admin", &["system:masters"]),
        group("system:discovery", &["system:authenticated"]),
        group("system:basic-user", &["system:authenticated"]),
        group("system:public-info-viewer", &["system:authenticated", "system:unauthenticated"]),
        group("system:monitoring", &["system:monitoring"]),
        group("system:service-account-issuer-discovery", &["system:serviceaccounts"]),
        binding("system:node-proxier", "User", &["system:kube-proxy"]),
        // As kubeadm has it: whoever has a token of its may bring a node, and a node renews its certificate.
        named("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", "Group", &[JOINING]),
        named(
            "kubeadm:node-autoapprove-bootstrap",
            "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
            "Group",
            &[JOINING],
        ),
        named(
            "kubeadm:node-autoapprove-certificate-rotation",
            "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
            "Group",
            &["system:nodes"],
        ),
        // Every node balances Services itself, as itself.
        named("kobune:node-proxier", "system:node-proxier", "Group", &["system:nodes"]),
    ]
}

fn binding(role: &str, kind: &str, names: &[&str]) -> Value {
    named(role, role, kind, names)
}

fn named(name: &str, role: &str, kind: &str, names: &[&str]) -> Value {
    let subject = |name: &&str| json!({"apiGroup": GROUP, "kind": kind, "name": name});
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRoleBinding",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
            "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        },
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
        "subjects": names.iter().map(subject).collect::<Vec<_>>(),
    })
}

/// A stored role or binding with what `wanted` has and it has not; None when nothing is missing, or somebody has said that
/// it is theirs. What is more than wanted stays.
pub(crate) fn reconciled(stored: &Value, wanted: &Value) -> Option<Value> {
    let told = &stored["metadata"]["annotations"][AUTOUPDATE];
    if told.as_str().is_some_and(|text| text != "true") || stored["roleRef"] != wanted["roleRef"] {
        return None;
    }
    let mut value = stored.clone();
    for field in ["labels", "annotations"] {
        for (key, text) in wanted["metadata"][field].as_object().into_iter().flatten() {
            value["metadata"][field][key] = text.clone();
        }
    }
    if wanted["aggregationRule"].is_object() {
        // Its rules are the aggregation's.
        value["aggregationRule"] = wanted["aggregationRule"].clone();
    } else if wanted["rules"].is_array() {
        value["rules"] = completed(&stored["rules"], &wanted["rules"])?;
    } else {
        let mut subjects = stored["subjects"].as_array().cloned().unwrap_or_default();
        let missing = wanted["subjects"].as_array().into_iter().flatten();
        let missing: Vec<Value> = missing.filter(|s| !subjects.contains(s)).cloned().collect();
        subjects.extend(missing);
        value["subjects"] = subjects.into();
    }
    (value != *stored).then_some(value)
}

/// The rules, and those of `wanted` that they do not cover.
fn completed(stored: &Value, wanted: &Value) -> Option<Value> {
    let parse = |rules: &Value| match rules {
        Value::Null => Some(Vec::new()),
        rules => Vec::<PolicyRule>::deserialize(rules).ok(),
    };
    let (mut rules, wanted) = (parse(stored)?, parse(wanted)?);
    for rule in wanted {
        if rbac::uncovered(&rules, std::slice::from_ref(&rule)).is_some() {
            rules.push(rule);
        }
    }
    Some(json!(rules))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{Operation, find};

    #[test]
    fn the_defaults_are_valid_and_bind_what_exists() {
        let (roles, bindings) = defaults();
        for (plural, list) in [("clusterroles", &roles), ("clusterrolebindings", &bindings)] {
            let kind = find(GROUP, "v1", plural).unwrap();
            for value in list {
                let found = kind.strategy.validate(value, Operation::Create);
                assert!(found.is_empty(), "{value}: {found:?}");
            }
        }
        for binding in &bindings {
            let name = &binding["roleRef"]["name"];
            assert!(roles.iter().any(|role| role["metadata"]["name"] == *name), "{name}");
        }
    }

    #[test]
    fn what_is_missing_is_put_back_and_nothing_taken() {
        let wanted = role("r", json!([rule(READ, &[""], &["pods", "nodes"])]));
        assert_eq!(reconciled(&wanted, &wanted), None);
        let more = rule(WRITE, &[""], &["secrets"]);
        let less = rule(READ, &[""], &["pods"]);
        let mut stored = wanted.clone();
        stored["rules"] = json!([less, more]);
        let mended = reconciled(&stored, &wanted).unwrap();
        assert_eq!(mended["rules"].as_array().unwrap().len(), 3);
        assert!(mended["rules"].as_array().unwrap().contains(&more));
        assert_eq!(reconciled(&mended, &wanted), None);
        stored["metadata"]["annotations"][AUTOUPDATE] = "false".into();
        assert_eq!(reconciled(&stored, &wanted), None, "somebody's own");
        let wanted = binding("r", "Group", &["a", "b"]);
        let mut stored = wanted.clone();
        stored["subjects"] = binding("r", "Group", &["b", "c"])["subjects"].clone();
        let mended = reconciled(&stored, &wanted).unwrap();
        let names: Vec<_> =
            mended["subjects"].as_array().unwrap().iter().map(|s| &s["name"]).collect();
        assert_eq!(names, ["b", "c", "a"]);
        stored["roleRef"]["name"] = "other".into();
        assert_eq!(reconciled(&stored, &wanted), None);
    }
}
