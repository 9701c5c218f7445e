//! Server-side apply and the owners of fields, as requests see them.

use super::*;

const APPLY: &str = "application/apply-patch+yaml";

fn wish(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

async fn applied(c: &Client, name: &str, query: &str, body: Value) -> Answer {
    c.patch(&format!("{MAPS}/{name}?{query}"), APPLY, body).await
}

/// The entries of `object`: manager, operation, subresource.
fn managers(object: &Value) -> Vec<String> {
    let list = object["metadata"]["managedFields"].as_array();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entry = |e: &Value| {
        format!("{} {} {}", text(&e["manager"]), text(&e["operation"]), text(&e["subresource"]))
    };
    list.into_iter().flatten().map(|e| entry(e).trim_end().to_owned()).collect()
}

#[tokio::test]
async fn applying_makes_changes_and_leaves_alone() {
    let c = Client::new().await;
    let one = "fieldManager=one";
    let made = applied(&c, "a", one, wish("a", json!({"k": "v"}))).await.expect(201);
    assert_eq!(managers(&made), ["one Apply"]);
    assert_eq!(made["metadata"]["namespace"], "default");
    let again = applied(&c, "a", one, wish("a", json!({"k": "v"}))).await.expect(200);
    assert_eq!(again, made, "nothing changed, so no new version");
    let dry = format!("{one}&dryRun=All");
    let value = applied(&c, "a", &dry, wish("a", json!({"l": "w"}))).await.expect(200);
    assert_eq!(value["data"], json!({"l": "w"}));
    applied(&c, "b", &dry, wish("b", json!({}))).await.expect(201);
    assert_eq!(c.get(&format!("{MAPS}/a")).await.expect(200), made);
    c.get(&format!("{MAPS}/b")).await.refused(404, "NotFound");
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  l: w\n";
    let uri = format!("{MAPS}/a?{one}");
    let value = c.send(Method::PATCH, &uri, APPLY, yaml.into()).await.expect(200);
    assert_eq!(value["data"], json!({"l": "w"}));
}

#[tokio::test]
async fn conflicts_name_their_causes() {
    let c = Client::new().await;
    applied(&c, "a", "fieldManager=one", wish("a", json!({"k": "v"}))).await.expect(201);
    let other = wish("a", json!({"k": "w"}));
    let answer = applied(&c, "a", "fieldManager=two", other.clone()).await;
    let status = answer.expect(409);
    assert_eq!(status["reason"], "Conflict");
    let text = "Apply failed with 1 conflict: conflict with \"one\": .data.k";
    assert_eq!(status["message"], text);
    let cause = json!({"reason": "FieldManagerConflict", "field": ".data.k",
        "message": "conflict with \"one\""});
    assert_eq!(status["details"]["causes"], json!([cause]));
    let forced = applied(&c, "a", "fieldManager=two&force=true", other).await.expect(200);
    assert_eq!((managers(&forced), &forced["data"]["k"]), (vec!["two Apply".into()], &json!("w")));
    let stale = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "a", "resourceVersion": "1"}, "data": {"k": "w"}});
    applied(&c, "a", "fieldManager=two", stale).await.refused(409, "Conflict");
}

#[tokio::test]
async fn what_cannot_be_applied_is_refused() {
    let c = Client::new().await;
    let send = async |query: &str, body: Value, code, reason: &str| {
        applied(&c, "a", query, body).await.refused(code, reason)
    };
    let one = "fieldManager=one";
    send("", wish("a", json!({})), 422, "Invalid").await;
    send(one, json!({"kind": "ConfigMap"}), 400, "BadRequest").await;
    let mut old = wish("a", json!({}));
    old["apiVersion"] = "v1beta1".into();
    let text = send(one, old, 400, "BadRequest").await;
    assert!(text.ends_with("Specified patch version: v1beta1, expected: v1"), "{text}");
    let mut owned = wish("a", json!({}));
    owned["metadata"]["managedFields"] = json!([]);
    assert_eq!(send(one, owned, 400, "BadRequest").await, "metadata.managedFields must be nil");
    let mut unknown = wish("a", json!({}));
    unknown["dat"] = json!({});
    let text = send(one, unknown, 400, "BadRequest").await;
    assert!(text.ends_with("Kind=ConfigMap): .dat: field not declared in schema"), "{text}");
    send(one, wish("b", json!({})), 400, "BadRequest").await;
    let uri = format!("{MAPS}/a?{one}");
    c.send(Method::PATCH, &uri, APPLY, b"a: [".to_vec()).await.refused(400, "BadRequest");
    c.send(Method::PATCH, &uri, APPLY, b"[]".to_vec()).await.refused(400, "BadRequest");
    let status = format!("{DEPLOYMENTS}/none/status?{one}");
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "status": {"replicas": 1}});
    c.patch(&status, APPLY, body).await.refused(404, "NotFound");
    c.get(&format!("{MAPS}/a")).await.refused(404, "NotFound");
}

#[tokio::test]
async fn every_write_has_its_manager() {
    let c = Client::new().await;
    let mut body = deployment("d");
    body["status"] = json!({"replicas": 9});
    let made = c.post(&format!("{DEPLOYMENTS}?fieldManager=maker"), body).await.expect(201);
    assert_eq!(managers(&made), ["maker Update"]);
    assert_eq!(made["metadata"]["managedFields"][0]["fieldsV1"].get("f:status"), None);
    let one = format!("{DEPLOYMENTS}/d");
    let scale = json!({"spec": {"replicas": 3}});
    let uri = format!("{one}/scale?fieldManager=scaler");
    c.patch(&uri, "application/merge-patch+json", scale).await.expect(200);
    let mut now = c.get(&one).await.expect(200);
    now["status"]["replicas"] = 3.into();
    c.put(&format!("{one}/status?fieldManager=loop"), now).await.expect(200);
    let now = c.get(&one).await.expect(200);
    let mut found = managers(&now);
    found.sort();
    assert_eq!(found, ["loop Update status", "maker Update", "scaler Update scale"]);
    let owned = |manager: &str, object: &Value| {
        let list = object["metadata"]["managedFields"].as_array().unwrap().clone();
        list.into_iter().find(|e| e["manager"] == manager).map(|e| e["fieldsV1"].clone())
    };
    assert_eq!(owned("scaler", &now).unwrap(), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(owned("maker", &now).unwrap()["f:spec"].get("f:replicas"), None);
    // Through a Scale, too, a wish can be applied.
    let wish = json!({"apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {"name": "d"}, "spec": {"replicas": 4}});
    let uri = format!("{one}/scale?fieldManager=wisher");
    c.patch(&uri, APPLY, wish.clone()).await.refused(409, "Conflict");
    let scaled = c.patch(&format!("{uri}&force=true"), APPLY, wish).await.expect(200);
    assert_eq!((&scaled["kind"], &scaled["spec"]["replicas"]), (&json!("Scale"), &json!(4)));
    let now = c.get(&one).await.expect(200);
    assert!(managers(&now).contains(&"wisher Apply scale".to_owned()), "{:?}", managers(&now));
    assert_eq!(owned("scaler", &now), None);
}

#[tokio::test]
async fn programs_are_managers_by_their_name() {
    let c = Client::new().await;
    let request = Request::post(MAPS)
        .header(header::CONTENT_TYPE, JSON)
        .header(header::USER_AGENT, "tool/1.0 (linux)")
        .body(full(map("a", json!({"k": "v"})).to_string()))
        .unwrap();
    let answer = c.api.serve(&c.user, request).await;
    assert_eq!(answer.status(), 201);
    let made = c.get(&format!("{MAPS}/a")).await.expect(200);
    assert_eq!(managers(&made), ["tool Update"]);
    assert_eq!(
        made["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:data": {".": {}, "f:k": {}}})
    );
}

#[tokio::test]
async fn making_by_applying_takes_both_rights() {
    let (admin, ..) = Client::with_roles().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let rule = json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"]});
    let role = json!({"metadata": {"name": "r"}, "rules": [rule]});
    admin.post(&format!("{rbac}/roles"), role).await.expect(201);
    let binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "jane"}]});
    admin.post(&format!("{rbac}/rolebindings"), binding).await.expect(201);
    let jane = admin.acting(UserInfo::new("jane", &["system:authenticated"]));
    let one = "fieldManager=one";
    applied(&jane, "a", one, wish("a", json!({}))).await.refused(403, "Forbidden");
    applied(&admin, "a", one, wish("a", json!({}))).await.expect(201);
    applied(&jane, "a", one, wish("a", json!({}))).await.expect(200);
    // Nor does a role grow beyond who applies it.
    let rule = json!({"apiGroups": [""], "resources": ["roles"], "verbs": ["patch", "create"]});
    let mut role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "r"}, "rules": [rule]});
    let uri = format!("{rbac}/roles/r?{one}&force=true");
    role["rules"][0]["apiGroups"] = json!(["rbac.authorization.k8s.io"]);
    admin.patch(&uri, APPLY, role.clone()).await.expect(200);
    role["rules"][0]["resources"] = json!(["*"]);
    jane.patch(&uri, APPLY, role).await.refused(403, "Forbidden");
}
