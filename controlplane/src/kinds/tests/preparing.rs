//! Who may write what: status, spec, generation; what an update inherits.

use serde_json::{Value, json};

use super::{MYAPP, admit, create, lines, yaml};
use crate::kinds::Operation;

fn update(old: &Value, subresource: &str, change: impl FnOnce(&mut Value)) -> (Value, Vec<String>) {
    let mut new = old.clone();
    change(&mut new);
    let causes = admit(&mut new, Operation::Update { old, subresource });
    (new, lines(&causes))
}

#[test]
fn generation_counts_what_is_wanted() {
    let (stored, _) = create(MYAPP);
    let generation = |v: &Value| v["metadata"]["generation"].clone();
    let (same, _) = update(&stored, "", |_| {});
    assert_eq!(generation(&same), 1);
    let (scaled, causes) = update(&stored, "", |v| v["spec"]["replicas"] = json!(5));
    assert_eq!((generation(&scaled), causes), (json!(2), vec![]));
    let (labelled, _) = update(&stored, "", |v| v["metadata"]["labels"] = json!({"a": "b"}));
    assert_eq!(generation(&labelled), 1);
    let (annotated, _) = update(&stored, "", |v| v["metadata"]["annotations"] = json!({"a": "b"}));
    assert_eq!(generation(&annotated), 2);
    let revision = json!({"deployment.kubernetes.io/revision": "1"});
    let (noted, _) = update(&stored, "status", |v| v["metadata"]["annotations"] = revision.clone());
    assert_eq!((generation(&noted), &noted["metadata"]["annotations"]), (json!(1), &revision));
    let (forged, _) = update(&stored, "", |v| v["metadata"]["generation"] = json!(9));
    assert_eq!(generation(&forged), 1);
}

#[test]
fn status_and_spec_keep_apart() {
    let mut text = yaml(MYAPP);
    text["status"] = json!({"replicas": 7});
    admit(&mut text, Operation::Create);
    assert_eq!(text.get("status"), None, "not on create");
    let (stored, _) = create(MYAPP);
    let (main, _) = update(&stored, "", |v| v["status"] = json!({"replicas": 7}));
    assert_eq!(main.get("status"), None, "not through the main resource");
    let (status, _) = update(&stored, "status", |v| {
        v["status"] = json!({"replicas": 7});
        v["spec"]["replicas"] = json!(9);
        v["metadata"]["labels"] = json!({"a": "b"});
    });
    assert_eq!(status["status"], json!({"replicas": 7}));
    assert_eq!(status["spec"], stored["spec"]);
    assert_eq!(status["metadata"], stored["metadata"]);
}

#[test]
fn pods_start_pending() {
    let (pod, causes) = create(
        "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: d}, status: {phase: Running}, spec: {containers: [{name: a, image: i, resources: {limits: {cpu: 1, memory: 1Gi}}}]}}",
    );
    assert_eq!(lines(&causes), Vec::<String>::new());
    assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "Guaranteed"}));
}

#[test]
fn namespaces_have_a_phase_and_a_finalizer() {
    let (stored, causes) = create("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}");
    assert_eq!(lines(&causes), Vec::<String>::new());
    assert_eq!(stored["status"], json!({"phase": "Active"}));
    assert_eq!(stored["spec"], json!({"finalizers": ["kubernetes"]}));
    let (kept, _) = update(&stored, "", |v| v["spec"] = json!({}));
    assert_eq!(kept["spec"], stored["spec"]);
    let (finalized, _) = update(&stored, "finalize", |v| v["spec"] = json!({"finalizers": []}));
    assert_eq!(finalized["spec"], json!({"finalizers": []}));
}

const SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: d}, spec: {clusterIP: 10.96.0.7, ports: [{port: 80}]}}";

#[test]
fn services_keep_their_address() {
    let (stored, causes) = create(SERVICE);
    assert_eq!(lines(&causes), Vec::<String>::new());
    assert_eq!(stored["spec"]["clusterIPs"], json!(["10.96.0.7"]));
    let (kept, causes) = update(&stored, "", |v| {
        let spec = v["spec"].as_object_mut().expect("spec");
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
    });
    assert_eq!((kept["spec"]["clusterIP"].clone(), causes), (json!("10.96.0.7"), vec![]));
    let (_, causes) = update(&stored, "", |v| v["spec"]["clusterIP"] = json!("10.96.0.8"));
    assert_eq!(
        causes,
        ["spec.clusterIPs[0]: Invalid value: \"10.96.0.8\": may not change once set"]
    );
    let (renamed, causes) = update(&stored, "", |v| {
        v["spec"]["type"] = json!("ExternalName");
        v["spec"]["externalName"] = json!("x.org");
    });
    assert_eq!((renamed["spec"].get("clusterIP"), causes), (None, vec![]));
}

#[test]
fn immutable_fields() {
    let (stored, _) = create(MYAPP);
    let (_, causes) = update(&stored, "", |v| {
        v["spec"]["selector"]["matchLabels"]["app"] = json!("b");
        v["spec"]["template"]["metadata"]["labels"]["app"] = json!("b");
    });
    let why = "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"b\"}}: field is immutable";
    assert_eq!(causes, [why]);
    let (_, causes) = update(&stored, "", |v| v["metadata"]["uid"] = json!("x"));
    assert_eq!(causes, ["metadata.uid: Invalid value: \"x\": field is immutable"]);
    let (secret, _) = create(
        "{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: d}, immutable: true, data: {a: eA==}}",
    );
    let (_, causes) = update(&secret, "", |v| v["data"]["a"] = json!("eQ=="));
    assert_eq!(causes, ["data: Forbidden: field is immutable when `immutable` is set"]);
    let (_, causes) = update(&secret, "", |v| v["type"] = json!("x/y"));
    assert_eq!(causes, ["type: Invalid value: \"x/y\": field is immutable"]);
}

#[test]
fn of_a_pod_only_a_few_fields_change() {
    let (stored, causes) = create(
        "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: d}, spec: {containers: [{name: a, image: i}], tolerations: [{key: k, operator: Exists}]}}",
    );
    assert_eq!(lines(&causes), Vec::<String>::new());
    let fine =
        |change: fn(&mut Value)| assert_eq!(update(&stored, "", change).1, Vec::<String>::new());
    fine(|v| v["spec"]["containers"][0]["image"] = json!("j"));
    fine(|v| v["spec"]["activeDeadlineSeconds"] = json!(5));
    fine(|v| v["metadata"]["labels"] = json!({"a": "b"}));
    fine(|v| {
        v["spec"]["tolerations"].as_array_mut().expect("list").push(json!({"operator": "Exists"}));
    });
    let refused = |change: fn(&mut Value)| {
        let causes = update(&stored, "", change).1;
        assert!(causes[0].contains("Forbidden"), "{causes:?}");
    };
    refused(|v| v["spec"]["containers"][0]["command"] = json!(["x"]));
    refused(|v| v["spec"]["nodeName"] = json!("n"));
    refused(|v| v["spec"]["tolerations"] = json!([]));
    let (bound, causes) = update(&stored, "binding", |v| v["spec"]["nodeName"] = json!("n"));
    assert_eq!((bound["spec"]["nodeName"].clone(), causes), (json!("n"), vec![]));
}
