//! Who may do what, over requests.

use super::*;
use crate::auth::{Accounts, policy};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

impl Client {
    /// With the roles that every cluster has, and accounts with tokens.
    pub(super) async fn with_roles() -> (Self, Arc<Accounts>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pki")).unwrap();
        let api = Arc::into_inner(testing::api()).unwrap();
        let accounts = Arc::new(Accounts::open(dir.path(), api.store().clone()).unwrap());
        let api = Arc::new(api.with_accounts(accounts.clone()));
        let client = Self { api, user: UserInfo::admin() };
        for name in ["default", "other"] {
            client
                .post("/api/v1/namespaces", json!({"metadata": {"name": name}}))
                .await
                .expect(201);
            client
                .post(
                    &format!("/api/v1/namespaces/{name}/serviceaccounts"),
                    json!({"metadata": {"name": "default"}}),
                )
                .await
                .expect(201);
        }
        let (roles, bindings) = policy::defaults();
        for (plural, list) in [("clusterroles", roles), ("clusterrolebindings", bindings)] {
            for value in list {
                client.post(&format!("{RBAC}/{plural}"), value).await.expect(201);
            }
        }
        (client, accounts, dir)
    }

    pub(super) fn acting(&self, user: UserInfo) -> Self {
        Self { api: self.api.clone(), user }
    }

    async fn give(&self, role: &str, user: &str) -> Answer {
        let binding = json!({
            "metadata": {"name": format!("{role}-{user}").replace(':', "-")},
            "roleRef": {"kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "name": user}],
        });
        self.post(&format!("{RBAC}/namespaces/default/rolebindings"), binding).await
    }
}

fn jane() -> UserInfo {
    UserInfo::new("jane", &["system:authenticated"])
}

/// What `view` becomes when the aggregation has run: here its one part is bound itself.
const VIEW: &str = "system:aggregate-to-view";

#[tokio::test]
async fn a_tenant_sees_its_namespace_and_no_other() {
    let (admin, ..) = Client::with_roles().await;
    let jane = admin.acting(jane());
    jane.get(PODS).await.refused(403, "Forbidden");
    admin.give(VIEW, "jane").await.expect(201);
    jane.get(PODS).await.expect(200);
    jane.get("/api/v1/namespaces/default").await.expect(200);
    let read =
        ["/api/v1/pods", "/api/v1/namespaces/other/pods", SECRETS, "/api/v1/nodes", "/metrics"];
    for path in read {
        jane.get(path).await.refused(403, "Forbidden");
    }
    jane.post(MAPS, map("x", json!({}))).await.refused(403, "Forbidden");
    assert_eq!(jane.get("/apis").await.code, 200);
}

#[tokio::test]
async fn reviews_tell_what_requests_would_meet() {
    let (admin, ..) = Client::with_roles().await;
    admin.give(VIEW, "jane").await.expect(201);
    let jane = admin.acting(jane());
    let can = |verb: &str, resource: &str, namespace: &str| json!({"spec": {"resourceAttributes": {"verb": verb, "resource": resource, "namespace": namespace}}});
    const AUTH: &str = "/apis/authorization.k8s.io/v1";
    let url = format!("{AUTH}/selfsubjectaccessreviews");
    let yes = jane.post(&url, can("list", "pods", "default")).await.expect(201);
    assert_eq!(yes["status"]["allowed"], true);
    assert!(yes["status"]["reason"].as_str().unwrap().contains("RoleBinding"));
    let no = jane.post(&url, can("list", "pods", "other")).await.expect(201);
    assert_eq!(no["status"], json!({"allowed": false}));
    let rules = json!({"spec": {"namespace": "default"}});
    let rules = jane.post(&format!("{AUTH}/selfsubjectrulesreviews"), rules).await.expect(201);
    let listed = rules["status"]["resourceRules"].as_array().unwrap();
    assert!(
        listed.iter().any(|rule| rule["resources"].as_array().unwrap().contains(&json!("pods")))
    );
    let mut about = can("list", "pods", "default");
    about["spec"]["user"] = "jane".into();
    let url = format!("{AUTH}/subjectaccessreviews");
    jane.post(&url, about.clone()).await.refused(403, "Forbidden");
    assert_eq!(admin.post(&url, about).await.expect(201)["status"]["allowed"], true);
    let who =
        jane.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({})).await.expect(201);
    assert_eq!(who["status"]["userInfo"]["username"], "jane");
    admin.get(&format!("{AUTH}/selfsubjectaccessreviews")).await.refused(405, "MethodNotAllowed");
}

#[tokio::test]
async fn nobody_makes_himself_stronger() {
    let (admin, ..) = Client::with_roles().await;
    admin.give("system:aggregate-to-admin", "jane").await.expect(201);
    admin.give(VIEW, "jane").await.expect(201);
    let jane = admin.acting(jane());
    let roles = format!("{RBAC}/namespaces/default/roles");
    let role = |name: &str, verb: &str, resource: &str| json!({"metadata": {"name": name}, "rules": [{"verbs": [verb], "apiGroups": [""], "resources": [resource]}]});
    jane.post(&roles, role("fine", "get", "pods")).await.expect(201);
    let text = jane.post(&roles, role("more", "get", "secrets")).await.refused(403, "Forbidden");
    assert!(text.contains("not currently held"), "{text}");
    let merge = "application/merge-patch+json";
    let stronger = json!({"rules": role("x", "delete", "nodes")["rules"]});
    jane.patch(&format!("{roles}/fine"), merge, stronger.clone()).await.refused(403, "Forbidden");
    jane.put(&format!("{roles}/fine"), role("fine", "*", "*")).await.refused(403, "Forbidden");
    let binding = jane.give("cluster-admin", "jane").await;
    binding.refused(403, "Forbidden");
    jane.give(VIEW, "joe").await.expect(201);
}

#[tokio::test]
async fn acting_for_another_needs_the_right_to() {
    let (admin, ..) = Client::with_roles().await;
    let ask = |client: Client, user: &'static str| async move {
        let request = Request::builder()
            .uri("/apis/authentication.k8s.io/v1/selfsubjectreviews")
            .method(Method::POST)
            .header("impersonate-user", user)
            .header("impersonate-group", "builders");
        let request = request.body(full(b"{}".to_vec())).unwrap();
        let (parts, body) = client.api.serve(&client.user, request).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), serde_json::from_slice::<Value>(&bytes).unwrap())
    };
    let (code, who) = ask(admin.acting(UserInfo::admin()), "joe").await;
    assert_eq!((code, &who["status"]["userInfo"]["username"]), (201, &json!("joe")));
    assert_eq!(who["status"]["userInfo"]["groups"], json!(["builders", "system:authenticated"]));
    let (code, why) = ask(admin.acting(jane()), "joe").await;
    assert_eq!(code, 403, "{why}");
}

#[tokio::test]
async fn accounts_get_tokens_that_end_with_their_pod() {
    let (admin, accounts, _dir) = Client::with_roles().await;
    const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
    admin.post(ACCOUNTS, json!({"metadata": {"name": "build"}})).await.expect(201);
    let pod = json!({
        "metadata": {"name": "p"},
        "spec": {"serviceAccountName": "build", "containers": [{"name": "c", "image": "i"}]},
    });
    admin.post(PODS, pod).await.expect(201);
    let url = format!("{ACCOUNTS}/build/token");
    let ask = |spec: Value| admin.post(&url, json!({"spec": spec}));
    let bound = json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p"}});
    let answer = ask(bound).await.expect(201);
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    let (user, _) = accounts.user(&token, &[]).unwrap();
    assert_eq!(user.name, "system:serviceaccount:default:build");
    let build = admin.acting(user);
    build.get(PODS).await.refused(403, "Forbidden");
    admin.give(VIEW, "system:serviceaccount:default:build").await.expect(201);
    build.get(PODS).await.expect(200);
    let review = json!({"spec": {"token": token}});
    const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
    let answer = admin.post(REVIEWS, review.clone()).await.expect(201);
    assert_eq!(answer["status"]["authenticated"], true);
    assert_eq!(answer["status"]["user"]["username"], "system:serviceaccount:default:build");
    admin.delete(&format!("{PODS}/p?gracePeriodSeconds=0"), Value::Null).await.expect(200);
    let answer = admin.post(REVIEWS, review).await.expect(201);
    assert_ne!(answer["status"]["authenticated"], true);
    ask(json!({"expirationSeconds": 60})).await.refused(422, "Invalid");
    let gone = json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p"}});
    ask(gone).await.refused(404, "NotFound");
}

/// Group versions as discovery tells them: `/api/v1`, `/apis/apps/v1` …
async fn group_versions(client: &Client) -> Vec<String> {
    let core = client.get("/api").await.expect(200);
    let core = core["versions"].as_array().unwrap().iter();
    let mut all: Vec<String> = core.map(|v| format!("/api/{}", v.as_str().unwrap())).collect();
    let groups = client.get("/apis").await.expect(200);
    for group in groups["groups"].as_array().unwrap() {
        let versions = group["versions"].as_array().unwrap().iter();
        all.extend(versions.map(|v| format!("/apis/{}", v["groupVersion"].as_str().unwrap())));
    }
    all
}

#[tokio::test]
async fn every_endpoint_refuses_the_anonymous() {
    let (admin, ..) = Client::with_roles().await;
    let nobody = admin.acting(UserInfo::anonymous());
    let root = admin.get("/").await.expect(200);
    let open = ["/healthz", "/livez", "/readyz", "/version"];
    for path in root["paths"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()) {
        match open.contains(&path) {
            true => assert_eq!(nobody.get(path).await.code, 200, "{path}"),
            false => drop(nobody.get(path).await.refused(401, "Unauthorized")),
        }
    }
    let mut tried = 0;
    for root in group_versions(&admin).await {
        let listed = admin.get(&root).await.expect(200);
        for resource in listed["resources"].as_array().unwrap() {
            let place = if resource["namespaced"] == true { "/namespaces/default" } else { "" };
            let name = resource["name"].as_str().unwrap();
            let (plural, sub) = name.split_once('/').unwrap_or((name, ""));
            let collection = format!("{root}{place}/{plural}");
            let object = format!("{collection}/x/{sub}");
            for verb in resource["verbs"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()) {
                let (method, path) = match verb {
                    "get" => (Method::GET, object.clone()),
                    "list" => (Method::GET, collection.clone()),
                    "watch" => (Method::GET, format!("{collection}?watch=true")),
                    "create" if sub.is_empty() => (Method::POST, collection.clone()),
                    "create" => (Method::POST, object.clone()),
                    "update" => (Method::PUT, object.clone()),
                    "patch" => (Method::PATCH, object.clone()),
                    "delete" => (Method::DELETE, object.clone()),
                    "deletecollection" => (Method::DELETE, collection.clone()),
                    other => panic!("{other} of {name}: say how it is asked for"),
                };
                let path = path.trim_end_matches('/');
                nobody.send(method, path, JSON, b"{}".to_vec()).await.refused(401, "Unauthorized");
                tried += 1;
            }
        }
    }
    assert!(tried > 200, "discovery tells of {tried} ways in only");
}

/// Whoever is known, but has no role, gets discovery, reviews of himself and nothing else.
#[tokio::test]
async fn who_has_no_role_sees_no_object() {
    let (admin, ..) = Client::with_roles().await;
    let jane = admin.acting(jane());
    for root in group_versions(&admin).await {
        let listed = jane.get(&root).await.expect(200);
        for resource in listed["resources"].as_array().unwrap() {
            let name = resource["name"].as_str().unwrap();
            let listable = resource["verbs"].as_array().unwrap().contains(&json!("list"));
            if listable {
                jane.get(&format!("{root}/{name}")).await.refused(403, "Forbidden");
            }
        }
    }
}

#[tokio::test]
async fn a_tenant_keeps_to_its_quota_and_limits() {
    let (admin, ..) = Client::with_roles().await;
    const HOME: &str = "/api/v1/namespaces/default";
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "200m"}, "max": {"cpu": "1"}},
    ]}});
    admin.post(&format!("{HOME}/limitranges"), range).await.expect(201);
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"limits.cpu": "500m"}}});
    admin.post(&format!("{HOME}/resourcequotas"), quota).await.expect(201);
    let made = admin.post(PODS, pod("a")).await.expect(201);
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!(resources, &json!({"limits": {"cpu": "200m"}, "requests": {"cpu": "200m"}}));
    assert_eq!(made["spec"]["priority"], 0);
    admin.post(PODS, pod("b")).await.expect(201);
    let text = admin.post(PODS, pod("c")).await.refused(403, "Forbidden");
    assert_eq!(
        text,
        r#"pods "c" is forbidden: exceeded quota: q, requested: limits.cpu=200m, used: limits.cpu=400m, limited: limits.cpu=500m"#
    );
    let mut big = pod("d");
    big["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "2"}});
    let text = admin.post(PODS, big).await.refused(403, "Forbidden");
    assert!(text.contains("maximum cpu usage per Container is 1, but limit is 2"), "{text}");
    let mut named = pod("e");
    named["spec"]["priorityClassName"] = "none".into();
    let text = admin.post(PODS, named).await.refused(403, "Forbidden");
    assert!(text.ends_with("no PriorityClass with name none was found"), "{text}");
}

/// Twenty at once, and room for three.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_holds_against_a_crowd() {
    let (admin, ..) = Client::with_roles().await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "3"}}});
    admin.post("/api/v1/namespaces/default/resourcequotas", quota).await.expect(201);
    let tries = (0..20).map(|n| {
        let client = admin.acting(UserInfo::admin());
        tokio::spawn(async move { client.post(MAPS, map(&format!("m{n}"), json!({}))).await.code })
    });
    let codes = futures::future::join_all(tries).await;
    let made = codes.into_iter().filter(|code| *code.as_ref().unwrap() == 201).count();
    assert_eq!(made, 3);
}

#[tokio::test]
async fn a_namespace_says_how_safe_its_pods_must_be() {
    let (admin, ..) = Client::with_roles().await;
    let labels =
        json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    let merge = "application/merge-patch+json";
    admin.patch("/api/v1/namespaces/default", merge, labels).await.expect(200);
    admin.post(PODS, pod("fine")).await.expect(201);
    let mut bad = pod("bad");
    bad["spec"]["hostPID"] = true.into();
    let text = admin.post(PODS, bad.clone()).await.refused(403, "Forbidden");
    assert_eq!(
        text,
        r#"pods "bad" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostPID=true)"#
    );
    let mut deployment = deployment("d");
    deployment["spec"]["template"]["spec"]["hostPID"] = true.into();
    let made = admin.post(DEPLOYMENTS, deployment).await;
    assert_eq!(made.code, 201, "{}", made.value);
    let warning = made.response.headers()[header::WARNING].to_str().unwrap();
    assert!(warning.contains("would violate PodSecurity"), "{warning}");
}

#[tokio::test]
async fn an_eviction_takes_from_the_budget() {
    let (admin, ..) = Client::with_roles().await;
    const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"metadata": {"name": "b"}, "spec": {
        "minAvailable": 1, "selector": {"matchLabels": {"app": "x"}},
    }});
    admin.post(BUDGETS, budget).await.expect(201);
    for name in ["x", "y"] {
        let mut member = pod(name);
        member["metadata"]["labels"]["app"] = "x".into();
        let mut made = admin.post(PODS, member).await.expect(201);
        made["status"] =
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        admin.put(&format!("{PODS}/{name}/status"), made).await.expect(200);
    }
    let evict = async |name: &str| {
        admin.post(&format!("{PODS}/{name}/eviction"), json!({"metadata": {"name": name}})).await
    };
    evict("x").await.refused(429, "TooManyRequests");
    let mut budget = admin.get(&format!("{BUDGETS}/b")).await.expect(200);
    budget["status"] = json!({"disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1,
        "expectedPods": 2, "observedGeneration": 1});
    admin.put(&format!("{BUDGETS}/b/status"), budget).await.expect(200);
    evict("x").await.expect(201);
    evict("y").await.refused(429, "TooManyRequests");
    let status = admin.get(&format!("{BUDGETS}/b")).await.expect(200)["status"].clone();
    assert_eq!(status["disruptionsAllowed"], 0);
    assert!(status["disruptedPods"]["x"].is_string());
}

#[tokio::test]
async fn a_pod_waits_for_the_account_of_its_namespace() {
    let (admin, ..) = Client::with_roles().await;
    const NEW: &str = "/api/v1/namespaces/new";
    admin.post("/api/v1/namespaces", json!({"metadata": {"name": "new"}})).await.expect(201);
    let mut early = pod("early");
    early["spec"]["serviceAccountName"] = "ghost".into();
    let text = admin.post(&format!("{NEW}/pods"), early).await.refused(403, "Forbidden");
    assert_eq!(
        text,
        r#"pods "early" is forbidden: error looking up service account new/ghost: serviceaccount "ghost" not found"#
    );
    let later = admin.acting(UserInfo::admin());
    let waits = tokio::spawn(async move { later.post(&format!("{NEW}/pods"), pod("p")).await });
    tokio::task::yield_now().await;
    let account = json!({"metadata": {"name": "default"}});
    admin.post(&format!("{NEW}/serviceaccounts"), account).await.expect(201);
    let made = waits.await.unwrap().expect(201);
    let volume = &made["spec"]["volumes"][0];
    assert!(volume["name"].as_str().unwrap().starts_with("kube-api-access-"), "{volume}");
    let mount = &made["spec"]["containers"][0]["volumeMounts"][0];
    assert_eq!(mount["name"], volume["name"]);
    admin.put(&format!("{NEW}/pods/p"), made).await.expect(200);
    let mirror = json!({"metadata": {"name": "m", "annotations": {"kubernetes.io/config.mirror": "x"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = admin.post(&format!("{NEW}/pods"), mirror).await.expect(201);
    assert_eq!(made["spec"]["serviceAccountName"], Value::Null);
}
