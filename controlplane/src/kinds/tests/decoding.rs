//! Unknown fields, wrong types, nulls, canonical forms.

use serde_json::{Value, json};

use super::{MYAPP, kind_of, yaml};
use crate::kinds::FieldValidation;

fn decode(value: &mut Value, level: FieldValidation) -> Result<Vec<String>, String> {
    kind_of(value).strategy.decode(value, level).map_err(|e| {
        assert_eq!((e.code.as_u16(), e.reason), (400, "BadRequest"));
        e.message
    })
}

#[test]
fn unknown_fields() {
    let mut value = yaml(MYAPP);
    value["spec"]["replica"] = json!(3);
    value["spec"]["template"]["spec"]["containers"][0]["imag"] = json!("x");
    let unknown = [
        "unknown field \"spec.replica\"".to_owned(),
        "unknown field \"spec.template.spec.containers[0].imag\"".to_owned(),
    ];
    let strict = decode(&mut value.clone(), FieldValidation::Strict);
    let text = format!(
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: {}",
        unknown.join(", ")
    );
    assert_eq!(strict, Err(text));
    assert_eq!(decode(&mut value.clone(), FieldValidation::Ignore), Ok(vec![]));
    assert_eq!(decode(&mut value, FieldValidation::Warn), Ok(unknown.to_vec()));
    assert_eq!(value, yaml(MYAPP), "unknown fields are dropped");
}

#[test]
fn wrong_types_name_the_field() {
    let pod = "spec.template.spec.containers";
    for (pointer, wrong, expected) in [
        (
            "/spec/replicas",
            json!("three"),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "/spec/replicas",
            json!(1.5),
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "/spec/template/spec/containers",
            json!({}),
            &format!(
                "json: cannot unmarshal object into Go struct field PodSpec.{pod} of type []v1.Container"
            ),
        ),
        (
            "/spec/template/spec/containers/0/ports/0/containerPort",
            json!(5_000_000_000_i64),
            &format!(
                "json: cannot unmarshal number 5000000000 into Go struct field ContainerPort.{pod}.ports.containerPort of type int32"
            ),
        ),
        (
            "/spec/selector/matchLabels/app",
            json!(1),
            "json: cannot unmarshal number into Go struct field LabelSelector.spec.selector.matchLabels.app of type string",
        ),
        (
            "/spec/template/spec/containers/0/resources/limits/cpu",
            json!("lots"),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            "/spec",
            json!([]),
            "json: cannot unmarshal array into Go struct field Deployment.spec of type v1.DeploymentSpec",
        ),
    ] {
        let mut value = yaml(MYAPP);
        *value.pointer_mut(pointer).expect(pointer) = wrong;
        let found = decode(&mut value, FieldValidation::Ignore);
        let prefix = "Deployment in version \"v1\" cannot be handled as a Deployment: ";
        assert_eq!(found, Err(format!("{prefix}{expected}")), "{pointer}");
    }
}

#[test]
fn nulls_are_absent_and_amounts_canonical() {
    let mut value = yaml(
        "
apiVersion: v1
kind: Pod
metadata: {name: a, creationTimestamp: null, labels: {a: null}}
spec:
  nodeName: null
  containers:
  - name: a
    command: [null, x]
    resources: {limits: {cpu: 0.5, memory: 1024Mi}, requests: {cpu: 1000m}}
",
    );
    assert_eq!(decode(&mut value, FieldValidation::Strict), Ok(vec![]));
    let expected = yaml(
        "
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {a: ''}}
spec:
  containers:
  - name: a
    command: ['', x]
    resources: {limits: {cpu: 500m, memory: 1Gi}, requests: {cpu: '1'}}
",
    );
    assert_eq!(value, expected);
}

#[test]
fn bytes_and_times() {
    for (text, good) in [
        ("data: {a: aGVsbG8=}", true),
        ("data: {a: \"aGVs\\nbG8=\"}", true),
        ("data: {a: ''}", true),
        ("data: {a: hello!}", false),
        ("data: {a: aGVsbG8}", false),
        ("metadata: {creationTimestamp: '2024-01-01T00:00:00Z'}", true),
        ("metadata: {creationTimestamp: yesterday}", false),
    ] {
        let mut value = yaml(&format!("apiVersion: v1\nkind: Secret\n{text}"));
        let decoded = decode(&mut value, FieldValidation::Strict);
        assert_eq!(decoded.is_ok(), good, "{text}: {decoded:?}");
        if good {
            let typed = serde_json::from_value::<k8s_openapi::api::core::v1::Secret>(value);
            assert!(typed.is_ok(), "{text}: {typed:?}");
        }
    }
}

/// Whatever passes the decoder can be read as the type.
mod typed {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            prop::sample::select(vec!["", "a", "1", "100m", "Zm8=", "2024-01-01T00:00:00Z"])
                .prop_map(Value::from),
        ];
        leaf.prop_recursive(8, 64, 5, |inner| {
            let keys = prop::sample::select(vec![
                "spec",
                "metadata",
                "containers",
                "name",
                "image",
                "ports",
                "containerPort",
                "env",
                "resources",
                "limits",
                "cpu",
                "livenessProbe",
                "httpGet",
                "port",
                "volumes",
                "hostPath",
                "labels",
                "ownerReferences",
                "status",
                "conditions",
                "lastTransitionTime",
                "nope",
            ]);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::vec((keys, inner), 0..5).prop_map(|entries| Value::Object(
                    entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
                )),
            ]
        })
    }

    proptest! {
        #[test]
        fn after_decoding(spec in tree(), metadata in tree(), status in tree()) {
            use crate::kinds::{FieldValidation, find_kind};
            let mut value = json!({"apiVersion": "v1", "kind": "Pod", "spec": spec, "metadata": metadata, "status": status});
            let pods = find_kind("v1", "Pod").expect("pods").strategy;
            if pods.decode(&mut value, FieldValidation::Ignore).is_ok() {
                let typed = serde_json::from_value::<k8s_openapi::api::core::v1::Pod>(value.clone());
                prop_assert!(typed.is_ok(), "{value}: {typed:?}");
            }
        }
    }
}
