//! Cases of strategic merge, in YAML: original, patch, expected.

use serde_json::{Value, json};

use crate::kinds::find;
use crate::patch::{PatchType, apply};

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn check(name: &str, plural: &str, [original, patch, expected]: [&str; 3]) {
    let group = if plural == "deployments" { "apps" } else { "" };
    let kind = find(group, "v1", plural).expect(plural);
    let patched = apply(kind, PatchType::Strategic, &yaml(original), &yaml(patch));
    assert_eq!(patched, Ok(yaml(expected)), "{name}");
}

#[test]
fn containers_merge_by_name() {
    check(
        "change, add, keep",
        "pods",
        [
            "spec: {containers: [{name: a, image: i1, args: [x]}, {name: b, image: i1}]}",
            "spec: {containers: [{name: b, image: i2}, {name: c, image: i3}]}",
            "spec: {containers: [{name: a, image: i1, args: [x]}, {name: b, image: i2}, {name: c, image: i3}]}",
        ],
    );
    check(
        "delete one",
        "pods",
        [
            "spec: {containers: [{name: a}, {name: b}]}",
            "spec: {containers: [{name: a, $patch: delete}]}",
            "spec: {containers: [{name: b}]}",
        ],
    );
    check(
        "replace the list",
        "pods",
        [
            "spec: {containers: [{name: a}, {name: b}]}",
            "spec: {containers: [{$patch: replace}, {name: c}]}",
            "spec: {containers: [{name: c}]}",
        ],
    );
    check(
        "atomic list inside",
        "pods",
        [
            "spec: {containers: [{name: a, args: [x, y], env: [{name: A, value: '1'}, {name: B, value: '2'}]}]}",
            "spec: {containers: [{name: a, args: [z], env: [{name: B, value: null, valueFrom: {fieldRef: {fieldPath: p}}}]}]}",
            "spec: {containers: [{name: a, args: [z], env: [{name: A, value: '1'}, {name: B, valueFrom: {fieldRef: {fieldPath: p}}}]}]}",
        ],
    );
}

#[test]
fn through_the_template() {
    check(
        "rollout restart",
        "deployments",
        [
            "spec: {replicas: 3, template: {metadata: {labels: {app: a}}, spec: {containers: [{name: a, image: i}]}}}",
            "spec: {template: {metadata: {annotations: {'kubectl.kubernetes.io/restartedAt': t}}}}",
            "spec: {replicas: 3, template: {metadata: {labels: {app: a}, annotations: {'kubectl.kubernetes.io/restartedAt': t}}, spec: {containers: [{name: a, image: i}]}}}",
        ],
    );
    check(
        "ports by containerPort, mounts by mountPath",
        "deployments",
        [
            "spec: {template: {spec: {containers: [{name: a, ports: [{containerPort: 80}], volumeMounts: [{mountPath: /a, name: v}]}]}}}",
            "spec: {template: {spec: {containers: [{name: a, ports: [{containerPort: 81}, {containerPort: 80, name: http}], volumeMounts: [{mountPath: /a, readOnly: true}]}]}}}",
            "spec: {template: {spec: {containers: [{name: a, ports: [{containerPort: 81}, {containerPort: 80, name: http}], volumeMounts: [{mountPath: /a, name: v, readOnly: true}]}]}}}",
        ],
    );
    check(
        "retainKeys of the strategy",
        "deployments",
        [
            "spec: {strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 1}}}",
            "spec: {strategy: {$retainKeys: [type], type: Recreate}}",
            "spec: {strategy: {type: Recreate}}",
        ],
    );
}

#[test]
fn element_order() {
    check(
        "reorder only",
        "pods",
        [
            "spec: {containers: [{name: a}, {name: b}, {name: c}]}",
            "spec: {$setElementOrder/containers: [{name: c}, {name: a}, {name: b}]}",
            "spec: {containers: [{name: c}, {name: a}, {name: b}]}",
        ],
    );
    check(
        "as kubectl apply adds and deletes",
        "pods",
        [
            "spec: {containers: [{name: a}, {name: s}, {name: b}]}",
            "spec: {$setElementOrder/containers: [{name: n}, {name: a}], containers: [{name: n, image: i}, {$patch: delete, name: b}]}",
            "spec: {containers: [{name: n, image: i}, {name: a}, {name: s}]}",
        ],
    );
    check(
        "nothing there yet",
        "pods",
        [
            "spec: {containers: [{name: a}]}",
            "spec: {$setElementOrder/volumes: [{name: v}], volumes: [{name: v, emptyDir: {}, secret: null}]}",
            "spec: {containers: [{name: a}], volumes: [{name: v, emptyDir: {}}]}",
        ],
    );
    let pods = find("", "v1", "pods").expect("pods");
    let bad = json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]}});
    assert!(apply(pods, PatchType::Strategic, &json!({"spec": {}}), &bad).is_err());
}

#[test]
fn volumes_retain_keys() {
    check(
        "another source",
        "pods",
        [
            "spec: {volumes: [{name: v, emptyDir: {}}]}",
            "spec: {volumes: [{$retainKeys: [name, hostPath], name: v, hostPath: {path: /x}}]}",
            "spec: {volumes: [{name: v, hostPath: {path: /x}}]}",
        ],
    );
}

#[test]
fn primitives() {
    check(
        "finalizers are a set",
        "pods",
        [
            "metadata: {finalizers: [a, b]}",
            "metadata: {finalizers: [b, c]}",
            "metadata: {finalizers: [a, b, c]}",
        ],
    );
    check(
        "delete from primitives",
        "pods",
        [
            "metadata: {finalizers: [a, b, c]}",
            "metadata: {$deleteFromPrimitiveList/finalizers: [b, x]}",
            "metadata: {finalizers: [a, c]}",
        ],
    );
    check(
        "delete and reorder",
        "pods",
        [
            "metadata: {finalizers: [a, b, c]}",
            "metadata: {$deleteFromPrimitiveList/finalizers: [b], $setElementOrder/finalizers: [c, a]}",
            "metadata: {finalizers: [c, a]}",
        ],
    );
}

#[test]
fn maps() {
    check(
        "labels: set, change, remove",
        "pods",
        [
            "metadata: {labels: {a: '1', b: '2'}}",
            "metadata: {labels: {a: null, b: '3', c: '4', d: null}}",
            "metadata: {labels: {b: '3', c: '4'}}",
        ],
    );
    check(
        "replace a map",
        "pods",
        [
            "metadata: {labels: {a: '1'}}",
            "metadata: {labels: {$patch: replace, b: '2'}}",
            "metadata: {labels: {b: '2'}}",
        ],
    );
    check(
        "delete a map's content",
        "pods",
        [
            "spec: {securityContext: {runAsUser: 1}}",
            "spec: {securityContext: {$patch: delete}}",
            "spec: {securityContext: {}}",
        ],
    );
}

#[test]
fn status_conditions_merge_by_type() {
    check(
        "node status",
        "nodes",
        [
            "status: {conditions: [{type: Ready, status: 'True'}, {type: MemoryPressure, status: 'False'}], addresses: [{type: InternalIP, address: a}]}",
            "status: {$setElementOrder/conditions: [{type: MemoryPressure}, {type: Ready}], conditions: [{type: Ready, status: Unknown, reason: r}], addresses: [{type: Hostname, address: h}]}",
            "status: {conditions: [{type: MemoryPressure, status: 'False'}, {type: Ready, status: Unknown, reason: r}], addresses: [{type: Hostname, address: h}, {type: InternalIP, address: a}]}",
        ],
    );
    check(
        "service ports by port",
        "services",
        [
            "spec: {ports: [{port: 80, protocol: TCP, targetPort: 8080}]}",
            "spec: {ports: [{port: 80, targetPort: 9090}, {port: 443}]}",
            "spec: {ports: [{port: 80, protocol: TCP, targetPort: 9090}, {port: 443}]}",
        ],
    );
}

#[test]
fn refuses_what_it_cannot_do() {
    let pods = find("", "v1", "pods").expect("pods");
    let current = json!({"spec": {"containers": [{"name": "a"}]}});
    for (patch, part) in [
        (
            json!({"spec": {"containers": [{"image": "x"}]}}),
            "does not contain declared merge key: name",
        ),
        (json!({"spec": {"$patch": "explode"}}), "Unknown patch type"),
        (json!({"spec": {"containers": ["a"]}}), "must be an object"),
        (json!({"spec": {"$retainKeys": "x"}}), "must be a list"),
        (json!({"spec": {"$setElementOrder/containers": 1}}), "must be a list"),
        (json!([]), "must be a JSON object"),
    ] {
        let error = apply(pods, PatchType::Strategic, &current, &patch).expect_err(part);
        assert_eq!(error.reason, "BadRequest", "{error}");
        assert!(error.message.contains(part), "{error}");
    }
}

/// Any tree, with directives in likely and unlikely places.
fn tree() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i8>().prop_map(|n| json!(n)),
        prop::sample::select(vec!["a", "b", "delete", "replace", "merge"]).prop_map(|s| json!(s)),
    ];
    leaf.prop_recursive(5, 48, 4, |inner| {
        let keys = prop::sample::select(vec![
            "spec",
            "metadata",
            "finalizers",
            "containers",
            "name",
            "env",
            "volumes",
            "$patch",
            "$retainKeys",
            "$setElementOrder/containers",
            "$deleteFromPrimitiveList/finalizers",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((keys, inner), 0..4).prop_map(|entries| {
                Value::Object(entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
}

proptest::proptest! {
    #[test]
    fn never_panics_and_leaves_no_directive(original in tree(), patch in tree()) {
        let pods = find("", "v1", "pods").expect("pods");
        // An original has no directives of its own.
        let original: Value = serde_json::from_str(&original.to_string().replace('$', "x")).expect("json");
        if let Ok(patched) = apply(pods, PatchType::Strategic, &original, &patch) {
            proptest::prop_assert!(!patched.to_string().contains("\"$setElementOrder"));
        }
    }
}

#[test]
fn a_replacement_loses_its_other_directives() {
    let pods = find("", "v1", "pods").expect("pods");
    let patch = json!({"spec": {"$patch": "replace", "$retainKeys": ["a"], "nodeName": "n"}});
    let current = json!({"spec": {"hostname": "h"}});
    let patched = apply(pods, PatchType::Strategic, &current, &patch).expect("patch");
    assert_eq!(patched, json!({"spec": {"nodeName": "n"}}));
}
