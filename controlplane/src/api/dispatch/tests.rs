//! HTTP requests in, responses out, in memory.

mod access;
mod apply;
mod nodes;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::super::body::full;
use super::*;
use crate::api::testing;

const JSON: &str = "application/json";

struct Client {
    api: Arc<Api>,
    user: UserInfo,
}

struct Answer {
    code: u16,
    value: Value,
    response: Response<()>,
}

impl Client {
    async fn new() -> Self {
        let client = Self { api: testing::api(), user: UserInfo::admin() };
        let namespace = json!({"metadata": {"name": "default"}});
        client.post("/api/v1/namespaces", namespace).await.expect(201);
        client
    }

    async fn raw(&self, method: Method, uri: &str, media: &str, body: Vec<u8>) -> Response<Body> {
        let request =
            Request::builder().method(method).uri(uri).header(header::CONTENT_TYPE, media);
        self.api.serve(&self.user, request.body(full(body)).unwrap()).await
    }

    async fn send(&self, method: Method, uri: &str, media: &str, body: Vec<u8>) -> Answer {
        let (parts, body) = self.raw(method, uri, media, body).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { code: parts.status.as_u16(), value, response: Response::from_parts(parts, ()) }
    }

    async fn get(&self, uri: &str) -> Answer {
        self.send(Method::GET, uri, JSON, Vec::new()).await
    }

    async fn post(&self, uri: &str, body: Value) -> Answer {
        self.send(Method::POST, uri, JSON, body.to_string().into()).await
    }

    async fn put(&self, uri: &str, body: Value) -> Answer {
        self.send(Method::PUT, uri, JSON, body.to_string().into()).await
    }

    async fn patch(&self, uri: &str, media: &str, body: Value) -> Answer {
        self.send(Method::PATCH, uri, media, body.to_string().into()).await
    }

    async fn delete(&self, uri: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(Method::DELETE, uri, JSON, body.into()).await
    }

    /// The events of a watch, as they are there without waiting.
    async fn watch(&self, uri: &str) -> (Vec<Value>, Body) {
        let mut body = self.raw(Method::GET, uri, JSON, Vec::new()).await.into_body();
        let events = events(&mut body).await;
        (events, body)
    }
}

async fn events(body: &mut Body) -> Vec<Value> {
    let frame: Bytes = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let lines = frame.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    lines.map(|l| serde_json::from_slice(l).unwrap()).collect()
}

impl Answer {
    #[track_caller]
    fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.value);
        self.value
    }

    #[track_caller]
    fn refused(self, code: u16, reason: &str) -> String {
        assert_eq!((self.code, &self.value["reason"]), (code, &json!(reason)), "{}", self.value);
        self.value["message"].as_str().unwrap().to_owned()
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn map(name: &str, data: Value) -> Value {
    json!({"metadata": {"name": name}, "data": data})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn deployment(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": 2,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[tokio::test]
async fn create_get_update_delete() {
    let c = Client::new().await;
    let made = c.post(MAPS, map("a", json!({"k": "v"}))).await.expect(201);
    assert_eq!((&made["kind"], &made["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    assert_eq!(made["metadata"]["namespace"], "default");
    let text = c.post(MAPS, map("a", json!({}))).await.refused(409, "AlreadyExists");
    assert_eq!(text, r#"configmaps "a" already exists"#);
    let one = format!("{MAPS}/a");
    assert_eq!(c.get(&one).await.expect(200), made);
    // The version that the caller saw must still be the one there is.
    let mut next = made.clone();
    next["data"]["k"] = "w".into();
    let updated = c.put(&one, next.clone()).await.expect(200);
    assert_eq!(updated["metadata"]["uid"], made["metadata"]["uid"]);
    let text = c.put(&one, next).await.refused(409, "Conflict");
    assert!(text.starts_with(
        r#"Operation cannot be fulfilled on configmaps "a": the object has been modified"#
    ));
    // Without a version the update is unconditional, and one that changes nothing writes nothing.
    let same = c.put(&one, map("a", json!({"k": "w"}))).await.expect(200);
    assert_eq!(same["metadata"]["resourceVersion"], updated["metadata"]["resourceVersion"]);
    let status = c.delete(&one, Value::Null).await.expect(200);
    assert_eq!(status["status"], "Success");
    assert_eq!(status["details"]["uid"], made["metadata"]["uid"]);
    let text = c.get(&one).await.refused(404, "NotFound");
    assert_eq!(text, r#"configmaps "a" not found"#);
}

#[tokio::test]
async fn creation_is_checked() {
    let c = Client::new().await;
    let text = c.post("/api/v1/namespaces/none/configmaps", map("a", json!({}))).await;
    assert_eq!(text.refused(404, "NotFound"), r#"namespaces "none" not found"#);
    c.post(MAPS, json!({"kind": "Secret", "metadata": {"name": "a"}}))
        .await
        .refused(400, "BadRequest");
    c.post(MAPS, json!({"metadata": {"name": "a", "namespace": "b"}}))
        .await
        .refused(400, "BadRequest");
    let versioned = json!({"metadata": {"name": "a", "resourceVersion": "1"}});
    c.post(MAPS, versioned).await.refused(400, "BadRequest");
    let text = c.post(MAPS, json!({"metadata": {}})).await.refused(422, "Invalid");
    assert!(text.contains("metadata.name: Required value"), "{text}");
    let made = c.post(MAPS, json!({"metadata": {"generateName": "x-"}})).await.expect(201);
    assert_eq!(made["metadata"]["name"].as_str().unwrap().len(), 7);
    let dry = c.post(&format!("{MAPS}?dryRun=All"), map("dry", json!({}))).await;
    assert_eq!(dry.expect(201)["metadata"]["name"], "dry");
    c.get(&format!("{MAPS}/dry")).await.refused(404, "NotFound");
    let text = c.post(DEPLOYMENTS, json!({"metadata": {"name": "d"}, "spec": {}})).await;
    assert!(text.refused(422, "Invalid").starts_with(r#"Deployment.apps "d" is invalid: "#));
    let yaml = b"metadata:\n  name: from-yaml\ndata:\n  a: b\n".to_vec();
    let made = c.send(Method::POST, MAPS, "application/yaml", yaml).await.expect(201);
    assert_eq!(made["data"]["a"], "b");
    let cbor = "application/cbor";
    c.send(Method::POST, MAPS, cbor, b"\xa0".to_vec()).await.refused(415, "UnsupportedMediaType");
}

#[tokio::test]
async fn unknown_fields_are_warned_about_or_refused() {
    let c = Client::new().await;
    let odd = |name: &str| json!({"metadata": {"name": name}, "dta": {}});
    let warned = c.post(MAPS, odd("a")).await;
    let header = warned.response.headers()[header::WARNING].to_str().unwrap().to_owned();
    assert!(header.starts_with("299 - \"") && header.contains("dta"), "{header}");
    assert!(warned.expect(201).get("dta").is_none());
    let strict = format!("{MAPS}?fieldValidation=Strict");
    assert!(c.post(&strict, odd("b")).await.refused(400, "BadRequest").contains("dta"));
}

#[tokio::test]
async fn lists_are_selected_and_cut_into_pages() {
    let c = Client::new().await;
    for name in ["a", "b", "c"] {
        c.post(PODS, pod(name)).await.expect(201);
    }
    let names = |v: &Value| -> Vec<String> {
        let items = v["items"].as_array().unwrap().iter();
        items.map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let all = c.get("/api/v1/pods").await.expect(200);
    assert_eq!(names(&all), ["a", "b", "c"]);
    assert_eq!(all["kind"], "PodList");
    let some = c.get(&format!("{PODS}?labelSelector=app%20in%20(a,c)")).await.expect(200);
    assert_eq!(names(&some), ["a", "c"]);
    let some = c.get(&format!("{PODS}?fieldSelector=metadata.name%3Db")).await.expect(200);
    assert_eq!(names(&some), ["b"]);
    let some = c.get(&format!("{PODS}?fieldSelector=spec.nodeName%3D")).await.expect(200);
    assert_eq!(names(&some).len(), 3);
    let text = c.get(&format!("{PODS}?fieldSelector=spec.x%3D1")).await.refused(400, "BadRequest");
    assert_eq!(text, "field label not supported: spec.x");
    let first = c.get(&format!("{PODS}?limit=2")).await.expect(200);
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    // What is written in between is not seen by the second page.
    c.post(PODS, pod("d")).await.expect(201);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = c.get(&format!("{PODS}?limit=2&continue={token}")).await.expect(200);
    assert_eq!(names(&second), ["c"]);
    let then = all["metadata"]["resourceVersion"].as_str().unwrap();
    let exact = format!("{PODS}?resourceVersion={then}&resourceVersionMatch=Exact");
    assert_eq!(names(&c.get(&exact).await.expect(200)).len(), 3);
}

#[tokio::test]
async fn patches() {
    let c = Client::new().await;
    c.post(MAPS, map("a", json!({"k": "v", "l": "w"}))).await.expect(201);
    let one = format!("{MAPS}/a");
    let merge = json!({"data": {"k": null, "m": "x"}});
    let value = c.patch(&one, "application/merge-patch+json", merge).await.expect(200);
    assert_eq!(value["data"], json!({"l": "w", "m": "x"}));
    let json_patch = "application/json-patch+json";
    let add = json!([{"op": "test", "path": "/data/l", "value": "w"}, {"op": "remove", "path": "/data/l"}]);
    let value = c.patch(&one, json_patch, add.clone()).await.expect(200);
    assert_eq!(value["data"], json!({"m": "x"}));
    c.patch(&one, json_patch, add).await.refused(422, "Invalid");
    let stale = json!({"metadata": {"resourceVersion": "1"}, "data": {"k": "z"}});
    c.patch(&one, "application/merge-patch+json", stale).await.refused(409, "Conflict");
    for unknown in ["text/plain", "application/apply-patch+cbor"] {
        c.patch(&one, unknown, json!({})).await.refused(415, "UnsupportedMediaType");
    }
    let none = format!("{MAPS}/none");
    c.patch(&none, "application/merge-patch+json", json!({})).await.refused(404, "NotFound");
}

#[tokio::test]
async fn watches_see_the_world_through_their_selectors() {
    let c = Client::new().await;
    c.post(MAPS, map("old", json!({}))).await.expect(201);
    let (first, mut all) = c.watch(&format!("{MAPS}?watch=1")).await;
    assert_eq!((first.len(), &first[0]["type"]), (1, &json!("ADDED")));
    let version = first[0]["object"]["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut labelled = map("a", json!({}));
    labelled["metadata"]["labels"] = json!({"x": "1"});
    c.post(MAPS, labelled).await.expect(201);
    let from = format!("{MAPS}?watch=1&labelSelector=x%3D1&resourceVersion={version}");
    let (seen, mut some) = c.watch(&from).await;
    assert_eq!(seen[0]["type"], "ADDED");
    assert_eq!(events(&mut all).await[0]["object"]["metadata"]["name"], "a");
    // It stops matching: gone for one watcher, changed for the other.
    let unlabel = json!({"metadata": {"labels": null}});
    let one = format!("{MAPS}/a");
    let value = c.patch(&one, "application/merge-patch+json", unlabel).await.expect(200);
    let gone = events(&mut some).await;
    assert_eq!(gone[0]["type"], "DELETED");
    let at = &value["metadata"]["resourceVersion"];
    assert_eq!(&gone[0]["object"]["metadata"]["resourceVersion"], at);
    assert_eq!(gone[0]["object"]["metadata"]["labels"]["x"], "1");
    assert_eq!(events(&mut all).await[0]["type"], "MODIFIED");
    c.delete(&one, Value::Null).await.expect(200);
    let deleted = events(&mut all).await;
    assert_eq!(deleted[0]["type"], "DELETED");
    assert_ne!(&deleted[0]["object"]["metadata"]["resourceVersion"], at);
}

#[tokio::test(start_paused = true)]
async fn streaming_lists_bookmarks_and_timeouts() {
    let c = Client::new().await;
    c.post(MAPS, map("a", json!({}))).await.expect(201);
    let streaming =
        "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let (seen, mut body) = c.watch(&format!("{MAPS}?{streaming}&timeoutSeconds=100")).await;
    let kinds: Vec<_> = seen.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["ADDED", "BOOKMARK"]);
    assert_eq!(seen[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    // A later bookmark tells of progress elsewhere.
    c.post(PODS, pod("p")).await.expect(201);
    let later = events(&mut body).await;
    assert_eq!(later[0]["type"], "BOOKMARK");
    assert_eq!(later[0]["object"]["metadata"]["resourceVersion"], "3");
    assert!(body.frame().await.is_none());
    let uri = format!("{MAPS}?watch=1&sendInitialEvents=true");
    c.get(&uri).await.refused(422, "Invalid");
    c.get(&format!("{MAPS}?watch=1&resourceVersion=999")).await.refused(504, "Timeout");
}

#[tokio::test]
async fn deletions_wait_for_grace_and_finalizers() {
    let c = Client::new().await;
    let mut held = map("held", json!({}));
    held["metadata"]["finalizers"] = json!(["a.b/c"]);
    c.post(MAPS, held).await.expect(201);
    let one = format!("{MAPS}/held");
    let going = c.delete(&one, Value::Null).await.expect(200);
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    let release = json!({"metadata": {"finalizers": null}});
    c.patch(&one, "application/merge-patch+json", release).await.expect(200);
    c.get(&one).await.refused(404, "NotFound");

    let made = c.post(PODS, pod("p")).await.expect(201);
    let one = format!("{PODS}/p");
    let binding = json!({"target": {"kind": "Node", "name": "n"}});
    c.post(&format!("{one}/binding"), binding.clone()).await.expect(201);
    c.post(&format!("{one}/binding"), binding).await.refused(409, "Conflict");
    let going = c.delete(&one, json!({"gracePeriodSeconds": 5})).await.expect(200);
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 5);
    let wrong = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "other"}});
    c.delete(&one, wrong).await.refused(409, "Conflict");
    let right = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": made["metadata"]["uid"]}});
    c.delete(&one, right).await.expect(200);
    c.get(&one).await.refused(404, "NotFound");
}

#[tokio::test]
async fn namespaces_end_when_they_are_finalized() {
    let c = Client::new().await;
    c.delete("/api/v1/namespaces/default", Value::Null).await.refused(403, "Forbidden");
    c.post("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await.expect(201);
    let going = c.delete("/api/v1/namespaces/n", Value::Null).await.expect(200);
    assert_eq!(going["status"]["phase"], "Terminating");
    let refused = c.post("/api/v1/namespaces/n/configmaps", map("a", json!({}))).await;
    assert!(refused.refused(403, "Forbidden").contains("because it is being terminated"));
    let mut last = going;
    last["spec"]["finalizers"] = json!([]);
    c.put("/api/v1/namespaces/n/finalize", last).await.expect(200);
    c.get("/api/v1/namespaces/n").await.refused(404, "NotFound");
}

#[tokio::test]
async fn scale_and_status() {
    let c = Client::new().await;
    c.post(DEPLOYMENTS, deployment("d")).await.expect(201);
    let one = format!("{DEPLOYMENTS}/d");
    let scale = c.get(&format!("{one}/scale")).await.expect(200);
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    let patch = json!({"spec": {"replicas": 5}});
    let scaled = c.patch(&format!("{one}/scale"), "application/merge-patch+json", patch).await;
    assert_eq!(scaled.expect(200)["spec"]["replicas"], 5);
    let now = c.get(&one).await.expect(200);
    assert_eq!((&now["spec"]["replicas"], &now["metadata"]["generation"]), (&json!(5), &json!(2)));
    let mut status = now;
    status["status"]["replicas"] = 3.into();
    status["spec"]["replicas"] = 9.into();
    let now = c.put(&format!("{one}/status"), status).await.expect(200);
    assert_eq!((&now["spec"]["replicas"], &now["status"]["replicas"]), (&json!(5), &json!(3)));
}

#[tokio::test]
async fn services_get_addresses() {
    let c = Client::new().await;
    let uri = "/api/v1/namespaces/default/services";
    let service =
        |name: &str| json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    let made = c.post(uri, service("a")).await.expect(201);
    let ip = made["spec"]["clusterIP"].as_str().unwrap();
    assert!(ip.starts_with("10.96."), "{ip}");
    let other = c.post(uri, service("b")).await.expect(201);
    assert_ne!(other["spec"]["clusterIP"], ip);
    // Replacing without an address keeps it.
    let kept = c.put(&format!("{uri}/a"), service("a")).await.expect(200);
    assert_eq!(kept["spec"]["clusterIP"], ip);
    let mut taken = service("c");
    taken["spec"]["clusterIP"] = ip.into();
    let text = c.post(uri, taken).await.refused(422, "Invalid");
    assert!(text.contains("provided IP is already allocated"), "{text}");
}

#[tokio::test]
async fn tables_and_partial_objects() {
    let c = Client::new().await;
    c.post(PODS, pod("a")).await.expect(201);
    let ask = |uri: String, accept: &'static str| {
        let request = Request::builder().uri(uri).header(header::ACCEPT, accept);
        let request = request.body(full("")).unwrap();
        let (api, user) = (c.api.clone(), c.user.clone());
        async move {
            let bytes = api.serve(&user, request).await.into_body().collect().await.unwrap();
            serde_json::from_slice::<Value>(&bytes.to_bytes()).unwrap()
        }
    };
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let table = ask(PODS.into(), accept).await;
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let table = ask(format!("{PODS}?includeObject=Object"), accept).await;
    assert_eq!(table["rows"][0]["object"]["kind"], "Pod");
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = ask(PODS.into(), partial).await;
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert!(list["items"][0].get("spec").is_none());
}

#[tokio::test]
async fn strangers_see_health_and_version_only() {
    let mut c = Client::new().await;
    c.user = UserInfo::anonymous();
    assert_eq!(c.get("/livez").await.code, 200);
    assert_eq!(c.get("/version").await.expect(200)["major"], "1");
    c.get("/api").await.refused(401, "Unauthorized");
    c.get(PODS).await.refused(401, "Unauthorized");
    c.get("/nowhere").await.refused(401, "Unauthorized");
    c.user = UserInfo::new("jane", &["system:authenticated"]);
    let text = c.get(PODS).await.refused(403, "Forbidden");
    assert_eq!(
        text,
        r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#
    );
}

#[tokio::test]
async fn collections_are_deleted_by_selector() {
    let c = Client::new().await;
    for name in ["a", "b"] {
        let mut labelled = map(name, json!({}));
        labelled["metadata"]["labels"] = json!({"n": name});
        c.post(MAPS, labelled).await.expect(201);
    }
    c.delete(&format!("{MAPS}?labelSelector=n%3Da"), Value::Null).await.expect(200);
    let left = c.get(MAPS).await.expect(200);
    assert_eq!(left["items"][0]["metadata"]["name"], "b");
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn fields_that_stand_twice_are_told_of() {
    let c = Client::new().await;
    let body = |name: &str| {
        format!(r#"{{"metadata": {{"name": "{name}"}}, "data": {{"k": "v", "k": "w"}}}}"#)
            .into_bytes()
    };
    let post = async |query: &str, name: &str| {
        c.send(Method::POST, &format!("{MAPS}?{query}"), JSON, body(name)).await
    };
    let text = post("fieldValidation=Strict", "a").await.refused(400, "BadRequest");
    let expected = "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: duplicate field \"data.k\"";
    assert_eq!(text, expected);
    let told = post("fieldValidation=Warn", "a").await;
    let warning = told.response.headers()[header::WARNING].to_str().unwrap().to_owned();
    assert_eq!(warning, "299 - \"duplicate field \\\"data.k\\\"\"");
    assert_eq!(told.expect(201)["data"], json!({"k": "w"}));
    let silent = post("fieldValidation=Ignore", "b").await;
    assert!(!silent.response.headers().contains_key(header::WARNING));
    let merge = "application/merge-patch+json";
    let uri = format!("{MAPS}/a?fieldValidation=Strict");
    c.send(Method::PATCH, &uri, merge, body("a")).await.refused(400, "BadRequest");
    let uri = format!("{MAPS}/a?fieldValidation=Strict&fieldManager=one");
    let apply = "application/apply-patch+yaml";
    let twice = b"apiVersion: v1\nkind: ConfigMap\ndata:\n  l: v\n  l: w\n".to_vec();
    c.send(Method::PATCH, &uri, apply, twice).await.refused(400, "BadRequest");
}

/// One event under both its names: written here, read, changed, watched and deleted there.
#[tokio::test]
async fn events_are_the_same_in_both_groups() {
    let client = Client::new().await;
    let (new, old) =
        ("/apis/events.k8s.io/v1/namespaces/default/events", "/api/v1/namespaces/default/events");
    let event = json!({
        "metadata": {"name": "e", "namespace": "default"}, "eventTime": "2024-01-01T00:00:00.000000Z",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}, "note": "hello",
        "reportingController": "x.io/c", "reportingInstance": "c-1", "action": "Bind", "reason": "R", "type": "Normal",
    });
    let made = client.post(new, event).await.expect(201);

    assert_eq!((&made["note"], &made["apiVersion"]), (&json!("hello"), &json!("events.k8s.io/v1")));
    let core = client.get(&format!("{old}/e")).await;
    assert_eq!(
        (&core.value["message"], &core.value["involvedObject"]["name"]),
        (&json!("hello"), &json!("p"))
    );
    assert_eq!((&core.value["apiVersion"], core.value.get("note")), (&json!("v1"), None));
    let patch = json!({"series": {"count": 2, "lastObservedTime": "2024-01-01T00:00:00.000000Z"}})
        .to_string();
    let patched = client
        .send(Method::PATCH, &format!("{new}/e"), "application/merge-patch+json", patch.into())
        .await;
    patched.expect(200);
    let list = client.get(&format!("{new}?fieldSelector=regarding.name%3Dp")).await;
    assert_eq!(list.value["items"][0]["series"]["count"], 2, "{}", list.value);
    assert_eq!(list.value["items"][0]["note"], "hello");
    let bad = client.post(new, json!({"metadata": {"name": "f", "namespace": "default"}, "regarding": {"namespace": "default"}})).await;
    assert_eq!(bad.code, 422, "{}", bad.value);
    client.send(Method::DELETE, &format!("{new}/e"), JSON, Vec::new()).await.expect(200);
    assert_eq!(client.get(&format!("{old}/e")).await.code, 404);
}
