//! What a node may do, and how certificates are asked for, over requests.

use k8s_openapi::ByteString;

use super::*;
use crate::auth::signer::tests::request;

const NODES: &str = "/api/v1/nodes";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const MERGE: &str = "application/merge-patch+json";

fn node(name: &str) -> UserInfo {
    UserInfo::new(&format!("system:node:{name}"), &["system:nodes", "system:authenticated"])
}

/// A Pod `p1` on `n1` and `p2` on `n2`, each with a Secret and an account of its own.
async fn two_nodes() -> (Client, Client, tempfile::TempDir) {
    let (admin, _, dir) = Client::with_roles().await;
    for n in [1, 2] {
        let account = json!({"metadata": {"name": format!("a{n}")}});
        admin.post("/api/v1/namespaces/default/serviceaccounts", account).await.expect(201);
        admin.post(SECRETS, json!({"metadata": {"name": format!("s{n}")}})).await.expect(201);
        let mut wanted = pod(&format!("p{n}"));
        wanted["spec"]["nodeName"] = format!("n{n}").into();
        wanted["spec"]["serviceAccountName"] = format!("a{n}").into();
        wanted["spec"]["volumes"] =
            json!([{"name": "s", "secret": {"secretName": format!("s{n}")}}]);
        admin.post(PODS, wanted).await.expect(201);
    }
    let node = admin.acting(node("n1"));
    node.post(NODES, json!({"metadata": {"name": "n1"}})).await.expect(201);
    (admin, node, dir)
}

#[tokio::test]
async fn a_node_reads_what_its_pods_need_from_the_moment_they_are_bound() {
    let (admin, node, _dir) = two_nodes().await;
    node.get(&format!("{SECRETS}/s1")).await.expect(200);
    node.get(&format!("{SECRETS}?fieldSelector=metadata.name%3Ds1")).await.expect(200);
    let why = node.get(&format!("{SECRETS}/s2")).await.refused(403, "Forbidden");
    assert_eq!(
        why,
        r#"secrets "s2" is forbidden: User "system:node:n1" cannot get resource "secrets" in API group "" in the namespace "default": no relationship found between node 'n1' and this object"#
    );
    node.get(SECRETS).await.refused(403, "Forbidden");
    node.get(&format!("{SECRETS}?fieldSelector=metadata.name%3Ds2"))
        .await
        .refused(403, "Forbidden");
    let mut late = pod("late");
    late["spec"]["imagePullSecrets"] = json!([{"name": "s2"}]);
    late["spec"]["schedulerName"] = "nobody".into();
    admin.post(PODS, late).await.expect(201);
    node.get(&format!("{SECRETS}/s2")).await.refused(403, "Forbidden");
    let binding = json!({"metadata": {"name": "late"}, "target": {"kind": "Node", "name": "n1"}});
    admin.post(&format!("{PODS}/late/binding"), binding).await.expect(201);
    node.get(&format!("{SECRETS}/s2")).await.expect(200);
    admin.delete(&format!("{PODS}/late?gracePeriodSeconds=0"), Value::Null).await.expect(200);
    node.get(&format!("{SECRETS}/s2")).await.refused(403, "Forbidden");
}

#[tokio::test]
async fn a_node_sees_its_own_pods() {
    let (_, node, _dir) = two_nodes().await;
    let mine = node.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.expect(200);
    assert_eq!(mine["items"].as_array().unwrap().len(), 1);
    for path in [
        "/api/v1/pods",
        "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2",
        "/api/v1/pods?fieldSelector=spec.nodeName!%3Dn1",
        // One selector with a comma in its value, not two.
        "/api/v1/pods?fieldSelector=metadata.name!%3Dx%5C%2Cspec.nodeName%3Dn1",
        "/api/v1/namespaces/default/pods/p2",
        "/api/v1/namespaces/default/configmaps",
        "/apis/apps/v1/deployments",
    ] {
        node.get(path).await.refused(403, "Forbidden");
    }
    // As the balancer of its Services it sees these.
    for path in ["/api/v1/services", "/api/v1/nodes", "/apis/discovery.k8s.io/v1/endpointslices"] {
        node.get(path).await.expect(200);
    }
}

#[tokio::test]
async fn a_node_writes_about_itself_and_its_pods() {
    let (_, node, _dir) = two_nodes().await;
    let status = json!({"status": {"phase": "Running"}});
    node.patch(&format!("{PODS}/p1/status"), MERGE, status.clone()).await.expect(200);
    node.patch(&format!("{PODS}/p2/status"), MERGE, status.clone()).await.refused(403, "Forbidden");
    node.patch(&format!("{PODS}/p1"), MERGE, json!({"metadata": {"labels": {"a": "b"}}}))
        .await
        .refused(403, "Forbidden");
    let own = format!("{NODES}/n1");
    node.patch(&own, MERGE, json!({"metadata": {"labels": {"rack": "7"}}})).await.expect(200);
    let label = json!({"metadata": {"labels": {"node-restriction.kubernetes.io/pool": "bank"}}});
    let why = node.patch(&own, MERGE, label.clone()).await.refused(403, "Forbidden");
    assert!(
        why.ends_with(
            "is not allowed to modify the following labels: node-restriction.kubernetes.io/pool"
        ),
        "{why}"
    );
    node.patch(&format!("{own}/status"), MERGE, label).await.refused(403, "Forbidden");
    let taint = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
    node.patch(&own, MERGE, taint).await.refused(403, "Forbidden");
    node.post(NODES, json!({"metadata": {"name": "n2"}})).await.refused(403, "Forbidden");
    node.delete(&own, Value::Null).await.refused(403, "Forbidden");
    node.delete(&format!("{PODS}/p2"), Value::Null).await.refused(403, "Forbidden");
    let eviction = |name: &str| json!({"metadata": {"name": name}});
    node.post(&format!("{PODS}/p2/eviction"), eviction("p2")).await.refused(403, "Forbidden");
    node.post(PODS, pod("of-its-own")).await.refused(403, "Forbidden");
    node.delete(&format!("{PODS}/p1?gracePeriodSeconds=0"), Value::Null).await.expect(200);
}

#[tokio::test]
async fn a_node_gets_tokens_of_its_pods_accounts() {
    let (admin, node, _dir) = two_nodes().await;
    let ask = async |account: &str, pod: &str| {
        let uid = admin.get(&format!("{PODS}/{pod}")).await.expect(200)["metadata"]["uid"].clone();
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid});
        let url = format!("/api/v1/namespaces/default/serviceaccounts/{account}/token");
        node.post(&url, json!({"spec": {"boundObjectRef": bound}})).await
    };
    ask("a1", "p1").await.expect(201);
    ask("a2", "p2").await.refused(403, "Forbidden");
    ask("a1", "p2").await.refused(403, "Forbidden");
    let url = "/api/v1/namespaces/default/serviceaccounts/a1/token";
    let why = node.post(url, json!({"spec": {}})).await.refused(403, "Forbidden");
    assert!(why.ends_with("not bound to a pod"), "{why}");
}

#[tokio::test]
async fn what_a_put_would_create_needs_the_right_to_create() {
    let (admin, ..) = Client::with_roles().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let rules = json!([{"verbs": ["get", "update"], "apiGroups": [""], "resources": ["services"]}]);
    admin
        .post(&format!("{roles}/roles"), json!({"metadata": {"name": "r"}, "rules": rules}))
        .await
        .expect(201);
    let binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "jane"}]});
    admin.post(&format!("{roles}/rolebindings"), binding).await.expect(201);
    let jane = admin.acting(UserInfo::new("jane", &["system:authenticated"]));
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let url = "/api/v1/namespaces/default/services/s";
    let why = jane.put(url, service.clone()).await.refused(403, "Forbidden");
    assert!(why.contains("cannot create"), "{why}");
    admin.put(url, service.clone()).await.expect(201);
    jane.patch(url, MERGE, json!({})).await.refused(403, "Forbidden");
    let stored = jane.get(url).await.expect(200);
    jane.put(url, stored).await.expect(200);
}

fn csr(name: &str, pem: &str, signer: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "request": ByteString(pem.as_bytes().to_vec()), "signerName": signer,
        "usages": ["digital signature", "client auth"], "username": "admin", "groups": ["system:masters"],
    }})
}

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

#[tokio::test]
async fn requests_for_certificates_say_who_asked_and_never_change() {
    let (admin, ..) = Client::with_roles().await;
    let mut wanted = csr("c", &request("jane", "people", &[]), CLIENT);
    wanted["status"] = json!({"conditions": [{"type": "Approved", "status": "True"}]});
    let made = admin.post(REQUESTS, wanted).await.expect(201);
    assert_eq!(made["spec"]["username"], "kubernetes-admin");
    assert_eq!(made["status"], json!({}));
    let mut other = made.clone();
    other["spec"]["signerName"] = "a.b/c".into();
    let url = format!("{REQUESTS}/c");
    assert_eq!(admin.put(&url, other).await.expect(200)["spec"]["signerName"], CLIENT);
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let request = Request::builder().uri(REQUESTS).header("accept", table);
    let answer = admin.api.serve(&admin.user, request.body(full(Vec::new())).unwrap()).await;
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    let table: Value = serde_json::from_slice(&bytes).unwrap();
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(
        cells[2..],
        [json!(CLIENT), json!("kubernetes-admin"), json!("<none>"), json!("Pending")]
    );
    for (field, value, says) in [
        ("request", json!(""), "CERTIFICATE REQUEST"),
        ("usages", json!([]), "Required value"),
        ("usages", json!(["fishing"]), "Unsupported value"),
        ("signerName", json!("nodomain"), "fully qualified domain"),
        ("expirationSeconds", json!(599), "600 seconds"),
    ] {
        let mut wrong = csr("wrong", &request_of_jane(), CLIENT);
        wrong["spec"][field] = value;
        let why = admin.post(REQUESTS, wrong).await.refused(422, "Invalid");
        assert!(why.contains(&format!("spec.{field}")) && why.contains(says), "{why}");
    }
    let masters = csr("m", &self::request("jane", "system:masters", &[]), CLIENT);
    let why = admin.post(REQUESTS, masters).await.refused(403, "Forbidden");
    assert!(why.contains("system:masters group is not allowed"), "{why}");
    let foreign = self::request("system:node:n2", "system:nodes", &[]);
    let foreign = csr("n", &foreign, "kubernetes.io/kube-apiserver-client-kubelet");
    let why = admin.acting(node("n1")).post(REQUESTS, foreign).await.refused(403, "Forbidden");
    assert!(why.contains("can only create a node CSR with CN=system:node:n1"), "{why}");
}

fn request_of_jane() -> String {
    request("jane", "people", &[])
}

#[tokio::test]
async fn who_answers_needs_a_right_over_the_signer() {
    let (admin, ..) = Client::with_roles().await;
    let made = admin.post(REQUESTS, csr("c", &request_of_jane(), CLIENT)).await.expect(201);
    const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
    let role = |name: &str, more: Value| {
        let requests = json!({"verbs": ["get", "update", "patch"], "apiGroups": ["certificates.k8s.io"],
            "resources": ["certificatesigningrequests/approval", "certificatesigningrequests/status", "certificatesigningrequests"]});
        let rules = if more.is_null() { json!([requests]) } else { json!([requests, more]) };
        json!({"metadata": {"name": name}, "rules": rules})
    };
    let over = |name: &str| json!({"verbs": ["approve"], "apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": [name]});
    for (name, more) in [
        ("joe", Value::Null),
        ("ann", over("kubernetes.io/kubelet-serving")),
        ("jane", over("kubernetes.io/*")),
    ] {
        admin.post(&format!("{RBAC}/clusterroles"), role(name, more)).await.expect(201);
        let binding = json!({"metadata": {"name": name}, "roleRef": {"kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "User", "name": name}]});
        admin.post(&format!("{RBAC}/clusterrolebindings"), binding).await.expect(201);
    }
    let of = |name: &str| admin.acting(UserInfo::new(name, &["system:authenticated"]));
    let mut approved = made.clone();
    approved["status"] =
        json!({"conditions": [{"type": "Approved", "status": "True", "reason": "KubectlApprove"}]});
    let url = format!("{REQUESTS}/c/approval");
    for other in ["joe", "ann"] {
        let why = of(other).put(&url, approved.clone()).await.refused(403, "Forbidden");
        assert!(why.contains("not permitted to approve"), "{why}");
    }
    let answer = of("jane").put(&url, approved).await.expect(200);
    assert!(answer["status"]["conditions"][0]["lastUpdateTime"].is_string());
    let issued = json!({"status": {"certificate": "eA=="}});
    of("jane")
        .patch(&format!("{REQUESTS}/c/status"), MERGE, issued.clone())
        .await
        .refused(403, "Forbidden");
    let why =
        admin.patch(&format!("{REQUESTS}/c/status"), MERGE, issued).await.refused(422, "Invalid");
    assert!(why.contains("status.certificate"), "{why}");
}
