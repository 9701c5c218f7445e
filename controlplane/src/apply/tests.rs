//! Ownership as upstream's documentation tells it, and what must hold for all objects.

mod laws;

use serde_json::{Value, json};

use super::*;
use crate::kinds::find_resource;

fn kind(resource: &str) -> &'static Kind {
    find_resource(resource).expect("a served kind")
}

fn writing(manager: &str) -> Writing<'_> {
    Writing { manager, subresource: "", now: "2026-01-01T00:00:00Z" }
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"}, "spec": spec})
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "m", "namespace": "default"}, "data": data})
}

fn of(value: &Value) -> &'static Kind {
    let version = value["apiVersion"].as_str().expect("apiVersion");
    crate::kinds::find_kind(version, value["kind"].as_str().expect("kind")).expect("served")
}

fn apply_as(manager: &str, live: Option<&Value>, config: &Value) -> Result<Value, ApplyError> {
    apply(of(config), writing(manager), live, config, false)
}

fn update_as(manager: &str, old: &Value, change: impl Fn(&mut Value)) -> Value {
    let mut new = old.clone();
    change(&mut new);
    track(of(old), writing(manager), Some(old), &mut new);
    new
}

/// The fields of `manager`, of whatever operation.
fn fields(object: &Value, manager: &str) -> Value {
    let list = object["metadata"]["managedFields"].as_array();
    let entry = list.into_iter().flatten().find(|entry| entry["manager"] == manager);
    entry.map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

fn conflicts(result: Result<Value, ApplyError>) -> String {
    result.expect_err("must conflict").to_string()
}

#[test]
fn what_is_applied_is_owned() {
    let object = apply_as("kubectl", None, &map(json!({"key": "some value"}))).unwrap();
    let list = json!([{"manager": "kubectl", "operation": "Apply", "apiVersion": "v1",
        "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:data": {"f:key": {}}}}]);
    assert_eq!(object["metadata"]["managedFields"], list);
    assert_eq!(object["data"], json!({"key": "some value"}));
    let later = Writing { now: "2026-01-02T00:00:00Z", ..writing("kubectl") };
    let config = map(json!({"key": "some value"}));
    let again = apply(kind("configmaps"), later, Some(&object), &config, false);
    assert_eq!(again, Ok(object), "nothing happened, at no time");
}

/// The first example of the documentation: an update takes the field.
#[test]
fn who_updates_a_field_owns_it() {
    let object = apply_as("kubectl", None, &map(json!({"key": "some value"}))).unwrap();
    let object = update_as("kube-controller-manager", &object, |o| o["data"]["key"] = "new".into());
    assert_eq!(fields(&object, "kube-controller-manager"), json!({"f:data": {"f:key": {}}}));
    assert_eq!(fields(&object, "kubectl"), Value::Null);
    assert_eq!(object["metadata"]["managedFields"][0]["operation"], "Update");
}

#[test]
fn conflicts_are_told_with_manager_and_path() {
    let object = apply_as("one", None, &map(json!({"a": "1", "b": "1"}))).unwrap();
    let object = update_as("two", &object, |o| o["data"]["a"] = "2".into());
    let error = conflicts(apply_as("one", Some(&object), &map(json!({"a": "1", "b": "1"}))));
    assert_eq!(error, "Apply failed with 1 conflict: conflict with \"two\" using v1: .data.a");
    let error = conflicts(apply_as("three", Some(&object), &map(json!({"a": "3", "b": "3"}))));
    let expected = "Apply failed with 2 conflicts: conflicts with \"one\":\n- .data.b\nconflicts with \"two\" using v1:\n- .data.a";
    assert_eq!(error, expected);
    let forced =
        apply(kind("configmaps"), writing("one"), Some(&object), &map(json!({"a": "1"})), true);
    let forced = forced.unwrap();
    assert_eq!(forced["data"], json!({"a": "1"}));
    assert_eq!(fields(&forced, "two"), Value::Null);
    assert_eq!(fields(&forced, "one"), json!({"f:data": {"f:a": {}}}));
}

#[test]
fn fields_may_be_shared_and_live_as_long_as_one_owner() {
    let one = map(json!({"shared": "x", "mine": "1"}));
    let object = apply_as("one", None, &one).unwrap();
    let object = apply_as("two", Some(&object), &map(json!({"shared": "x"}))).unwrap();
    assert_eq!(fields(&object, "two"), json!({"f:data": {"f:shared": {}}}));
    let object = apply_as("one", Some(&object), &map(json!({}))).unwrap();
    assert_eq!(object["data"], json!({"shared": "x"}), "the other one still wants it");
    assert_eq!(fields(&object, "one"), json!({"f:data": {}}));
    let object = apply_as(
        "two",
        Some(&object),
        &json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "m", "namespace": "default"}}),
    )
    .unwrap();
    assert_eq!(fields(&object, "two"), Value::Null);
}

#[test]
fn lists_are_merged_by_their_keys() {
    let template =
        |containers: Value| deployment(json!({"template": {"spec": {"containers": containers}}}));
    let app = json!({"name": "app", "image": "a", "ports": [{"containerPort": 80}]});
    let object = apply_as("app", None, &template(json!([app]))).unwrap();
    let side = json!({"name": "side", "image": "s"});
    let object = apply_as("side", Some(&object), &template(json!([side]))).unwrap();
    let containers = &object["spec"]["template"]["spec"]["containers"];
    assert_eq!(*containers, json!([app, side]));
    let expected = json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {
        "k:{\"name\":\"app\"}": {".": {}, "f:image": {}, "f:name": {}, "f:ports": {
            "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}});
    assert_eq!(fields(&object, "app"), expected);
    // The protocol that defaulting has filled in is the one that is meant.
    let mut defaulted = object.clone();
    defaulted["spec"]["template"]["spec"]["containers"][0]["ports"][0]["protocol"] = "TCP".into();
    let again = apply_as("app", Some(&defaulted), &template(json!([app]))).unwrap();
    assert_eq!(again, defaulted);
    let less = apply_as("app", Some(&defaulted), &template(json!([{"name": "app", "image": "a"}])));
    let less = less.unwrap();
    assert_eq!(
        less["spec"]["template"]["spec"]["containers"],
        json!([{"name": "app", "image": "a"}, side])
    );
    let without = apply_as("app", Some(&less), &deployment(json!({}))).unwrap();
    assert_eq!(without["spec"]["template"]["spec"]["containers"], json!([side]));
}

#[test]
fn items_keep_their_order() {
    let env = |names: &[&str]| {
        let items: Vec<Value> = names.iter().map(|n| json!({"name": n, "value": "x"})).collect();
        deployment(json!({"template": {"spec": {"containers": [{"name": "c", "env": items}]}}}))
    };
    let order = |object: &Value| -> Vec<String> {
        let items = object["spec"]["template"]["spec"]["containers"][0]["env"].as_array();
        let name = |item: &Value| item["name"].as_str().unwrap_or_default().to_owned();
        items.into_iter().flatten().map(name).collect()
    };
    let object = apply_as("one", None, &env(&["a", "b", "c"])).unwrap();
    let object = apply_as("two", Some(&object), &env(&["x", "b", "y"])).unwrap();
    assert_eq!(order(&object), ["a", "x", "b", "c", "y"]);
    let object = apply_as("one", Some(&object), &env(&["c", "b", "a"])).unwrap();
    assert_eq!(order(&object), ["x", "c", "y", "b", "a"]);
}

#[test]
fn sets_and_atomic_values() {
    let finalizers = |names: &[&str]| {
        let mut value = map(json!({}));
        value["metadata"]["finalizers"] = json!(names);
        value
    };
    let object = apply_as("one", None, &finalizers(&["a/x", "a/y"])).unwrap();
    let object = apply_as("two", Some(&object), &finalizers(&["a/z"])).unwrap();
    assert_eq!(object["metadata"]["finalizers"], json!(["a/x", "a/y", "a/z"]));
    let owned = json!({"f:metadata": {"f:finalizers": {"v:\"a/z\"": {}}}, "f:data": {}});
    assert_eq!(fields(&object, "two"), owned);
    let object = apply_as("one", Some(&object), &finalizers(&["a/y"])).unwrap();
    assert_eq!(object["metadata"]["finalizers"], json!(["a/y", "a/z"]));

    let selector = |value: &str| deployment(json!({"selector": {"matchLabels": {"app": value}}}));
    let object = apply_as("one", None, &selector("a")).unwrap();
    assert_eq!(fields(&object, "one"), json!({"f:spec": {"f:selector": {}}}));
    let error = conflicts(apply_as("two", Some(&object), &selector("b")));
    assert!(error.ends_with(": .spec.selector"), "{error}");
}

#[test]
fn what_was_there_before_the_first_apply_is_protected() {
    let live = map(json!({"a": "1"}));
    let error = conflicts(apply_as("one", Some(&live), &map(json!({"a": "2"}))));
    assert!(error.contains("\"before-first-apply\" using v1: .data.a"), "{error}");
    let object = apply_as("one", Some(&live), &map(json!({"b": "2"}))).unwrap();
    assert_eq!(fields(&object, "before-first-apply"), json!({"f:data": {".": {}, "f:a": {}}}));
}

#[test]
fn kubectl_inherits_what_its_client_side_form_has_applied() {
    let config = deployment(json!({"replicas": 2}));
    let mut live = config.clone();
    live["metadata"]["annotations"] = json!({LAST_APPLIED: config.to_string()});
    let empty = json!({"apiVersion": "apps/v1", "kind": "Deployment"});
    let live = update_as("kubectl-client-side-apply", &empty, |o| *o = live.clone());
    let wanted = deployment(json!({"replicas": 3}));
    let error = conflicts(apply_as("other", Some(&live), &wanted));
    let expected = "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas";
    assert_eq!(error, expected);
    let object = apply_as("kubectl", Some(&live), &wanted).unwrap();
    assert_eq!(object["spec"]["replicas"], 3);
    let note = object["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(note).unwrap(), wanted);
    // Somebody scaled it since: that is no longer what kubectl has set.
    let scaled = update_as("kubectl-scale", &live, |o| o["spec"]["replicas"] = 5.into());
    assert!(conflicts(apply_as("kubectl", Some(&scaled), &wanted)).contains("kubectl-scale"));
}

#[test]
fn created_objects_belong_to_their_creator() {
    let mut object = deployment(json!({
        "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
            "containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}}}]}},
    }));
    object["status"] = json!({"replicas": 7});
    track(kind("deployments.apps"), writing("kubectl-create"), None, &mut object);
    // As upstream 1.33 has it, but for what its defaulting adds.
    let expected = json!({"f:spec": {
        "f:replicas": {}, "f:selector": {},
        "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
        "f:template": {
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {},
                "f:resources": {".": {}, "f:limits": {".": {}, "f:cpu": {}}}}}}}}});
    assert_eq!(fields(&object, "kubectl-create"), expected);
}

#[test]
fn subresources_have_entries_of_their_own() {
    let object = apply_as("one", None, &deployment(json!({"replicas": 1}))).unwrap();
    let mut new = object.clone();
    new["status"] = json!({"replicas": 1});
    let status = Writing { subresource: "status", ..writing("controller") };
    track(kind("deployments.apps"), status, Some(&object), &mut new);
    let entry = &new["metadata"]["managedFields"][1];
    assert_eq!(
        (&entry["manager"], &entry["subresource"]),
        (&json!("controller"), &json!("status"))
    );
    assert_eq!(entry["fieldsV1"], json!({"f:status": {"f:replicas": {}}}));
    // Through the main resource nobody comes to own a status.
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web",
        "namespace": "default"}, "spec": {"replicas": 1}, "status": {"replicas": 9}});
    let object = apply_as("one", Some(&object), &config).unwrap();
    assert_eq!(fields(&object, "one"), json!({"f:spec": {"f:replicas": {}}}));
}

#[test]
fn the_list_can_be_rewritten_and_reset() {
    let object = apply_as("one", None, &map(json!({"a": "1"}))).unwrap();
    for list in [json!([]), json!([{}])] {
        let reset = update_as("two", &object, |o| o["metadata"]["managedFields"] = list.clone());
        assert_eq!(reset["metadata"].get("managedFields"), None);
    }
    let renamed = update_as("two", &object, |o| {
        o["metadata"]["managedFields"][0]["manager"] = "three".into();
    });
    assert_eq!(fields(&renamed, "three"), json!({"f:data": {"f:a": {}}}));
    // Clients that do not know of it leave it out; it stays.
    let kept = update_as("two", &object, |o| {
        o["metadata"].as_object_mut().unwrap().remove("managedFields");
    });
    assert_eq!(kept, object);
    let nonsense = update_as("two", &object, |o| {
        o["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    });
    assert_eq!(nonsense, object);
    let mut through_status = object.clone();
    through_status["metadata"]["managedFields"] = json!([]);
    let status = Writing { subresource: "status", ..writing("two") };
    track(kind("configmaps"), status, Some(&object), &mut through_status);
    assert_eq!(through_status, object);
}

#[test]
fn items_that_cannot_be_told_apart_are_refused() {
    let spec = |ports: Value| {
        deployment(json!({"template": {"spec": {"containers": [{"name": "c", "ports": ports}]}}}))
    };
    let twice = spec(json!([{"containerPort": 80}, {"containerPort": 80, "protocol": "TCP"}]));
    let error = apply_as("one", None, &twice).unwrap_err().to_string();
    let place = ".spec.template.spec.containers[name=\"c\"].ports";
    assert_eq!(
        error,
        format!("{place}: duplicate entries for key [containerPort=80,protocol=\"TCP\"]")
    );
    let two = spec(json!([{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]));
    assert!(apply_as("one", None, &two).is_ok());
}
