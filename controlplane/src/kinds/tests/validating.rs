//! Bad manifests and what is said of them: Pods and what makes them.

use serde_json::{Value, json};

use super::{MYAPP, admit, create, lines, yaml};
use crate::kinds::{Operation, find_kind, invalid};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: d}
spec:
  containers: [{name: a, image: i, volumeMounts: [{name: v, mountPath: /v}]}]
  volumes: [{name: v, emptyDir: {}}]
";

/// Each change of `base` gives exactly these lines.
pub(super) fn table(base: &str, cases: &[(&str, Value, &[&str])]) {
    for (pointer, value, expected) in cases {
        let mut object = yaml(base);
        let (parent, key) = pointer.rsplit_once('/').expect("pointer");
        let parent = object.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}"));
        match key.parse::<usize>() {
            Ok(index) => parent.as_array_mut().expect("list").insert(index, value.clone()),
            Err(_) => parent[key] = value.clone(),
        }
        let causes = admit(&mut object, Operation::Create);
        assert_eq!(lines(&causes), *expected, "{pointer} = {value}");
    }
}

#[test]
fn good_ones_pass() {
    for text in [POD, MYAPP] {
        assert_eq!(lines(&create(text).1), Vec::<String>::new());
    }
}

#[test]
fn metadata() {
    const LABEL: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    let bad_name = format!("metadata.name: Invalid value: \"My_App\": {LABEL}");
    table(
        POD,
        &[
            ("/metadata/name", json!("My_App"), &[&bad_name]),
            (
                "/metadata/name",
                json!(""),
                &["metadata.name: Required value: name or generateName is required"],
            ),
            ("/metadata/namespace", json!(""), &["metadata.namespace: Required value"]),
            ("/metadata/finalizers", json!(["a/b"]), &[]),
            (
                "/metadata/ownerReferences",
                json!([{"apiVersion": "v1", "kind": "X", "name": "n", "uid": ""}]),
                &["metadata.ownerReferences[0].uid: Invalid value: \"\": must not be empty"],
            ),
        ],
    );
    let mut node = yaml("{apiVersion: v1, kind: Node, metadata: {name: n1, namespace: d}}");
    let causes = admit(&mut node, Operation::Create);
    assert_eq!(lines(&causes), ["metadata.namespace: Forbidden: not allowed on this type"]);
}

#[test]
fn containers() {
    let a = "/spec/containers/0";
    let at = |rest: &str| format!("{a}{rest}");
    table(
        POD,
        &[
            ("/spec/containers", json!([]), &["spec.containers: Required value"]),
            (&at("/image"), json!(""), &["spec.containers[0].image: Required value"]),
            (&at("/name"), json!(""), &["spec.containers[0].name: Required value"]),
            (
                "/spec/containers/1",
                json!({"name": "a", "image": "i"}),
                &["spec.containers[1].name: Duplicate value: \"a\""],
            ),
            (
                &at("/imagePullPolicy"),
                json!("Sometimes"),
                &[
                    "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
                ],
            ),
            (
                &at("/ports"),
                json!([{"containerPort": 0}, {"containerPort": 70000}, {"containerPort": 1, "name": "Web"}, {"containerPort": 1, "protocol": "ICMP"}]),
                &[
                    "spec.containers[0].ports[0].containerPort: Required value",
                    "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                    "spec.containers[0].ports[2].name: Invalid value: \"Web\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                    "spec.containers[0].ports[3].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                ],
            ),
            (
                &at("/env"),
                json!([{"name": ""}, {"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}, {"name": "B", "valueFrom": {}}, {"name": "C", "valueFrom": {"secretKeyRef": {"name": "", "key": "k"}}}]),
                &[
                    "spec.containers[0].env[0].name: Required value",
                    "spec.containers[0].env[1].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
                    "spec.containers[0].env[2].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
                    "spec.containers[0].env[3].valueFrom.secretKeyRef.name: Required value",
                ],
            ),
            (
                &at("/volumeMounts"),
                json!([{"name": "x", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/b", "subPath": "../x"}]),
                &[
                    "spec.containers[0].volumeMounts[0].name: Not found: \"x\"",
                    "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
                    "spec.containers[0].volumeMounts[2].subPath: Invalid value: \"../x\": must not contain '..'",
                ],
            ),
            (
                &at("/restartPolicy"),
                json!("Always"),
                &[
                    "spec.containers[0].restartPolicy: Forbidden: may not be set for non-init containers",
                ],
            ),
            (
                "/spec/initContainers",
                json!([{"name": "b", "image": "i", "readinessProbe": {"exec": {"command": ["x"]}}}]),
                &[
                    "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
                ],
            ),
            (
                &at("/securityContext"),
                json!({"privileged": true, "allowPrivilegeEscalation": false, "runAsUser": -1}),
                &[
                    "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                    "spec.containers[0].securityContext.allowPrivilegeEscalation: Invalid value: false: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
                ],
            ),
        ],
    );
}

#[test]
fn resources_and_probes() {
    let at = "/spec/containers/0";
    table(
        POD,
        &[
            (
                &format!("{at}/resources"),
                json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
                &[
                    "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
                ],
            ),
            (
                &format!("{at}/resources"),
                json!({"limits": {"memory": "-1", "gpu": "1"}}),
                &[
                    "spec.containers[0].resources.limits[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified",
                    "spec.containers[0].resources.limits[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
                    "spec.containers[0].resources.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
                    "spec.containers[0].resources.requests[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified",
                    "spec.containers[0].resources.requests[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
                    "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
                ],
            ),
            (
                &format!("{at}/livenessProbe"),
                json!({"successThreshold": 2, "periodSeconds": -1}),
                &[
                    "spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
                    "spec.containers[0].livenessProbe: Required value: must specify a handler type",
                    "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
                ],
            ),
            (
                &format!("{at}/readinessProbe"),
                json!({"exec": {}, "tcpSocket": {"port": 0}, "httpGet": {"port": "Web", "scheme": "FTP"}}),
                &[
                    "spec.containers[0].readinessProbe.exec.command: Required value",
                    "spec.containers[0].readinessProbe.httpGet.port: Invalid value: \"Web\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                    "spec.containers[0].readinessProbe.httpGet.scheme: Unsupported value: \"FTP\": supported values: \"HTTP\", \"HTTPS\"",
                    "spec.containers[0].readinessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "spec.containers[0].readinessProbe.httpGet: Forbidden: may not specify more than 1 handler type",
                    "spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
                ],
            ),
        ],
    );
}

#[test]
fn pod_level() {
    table(
        POD,
        &[
            (
                "/spec/restartPolicy",
                json!("Maybe"),
                &[
                    "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"Never\", \"OnFailure\"",
                ],
            ),
            (
                "/spec/dnsPolicy",
                json!("None"),
                &[
                    "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
                ],
            ),
            (
                "/spec/volumes/1",
                json!({"name": "v", "emptyDir": {}, "hostPath": {"path": ""}}),
                &[
                    "spec.volumes[1].name: Duplicate value: \"v\"",
                    "spec.volumes[1].hostPath: Forbidden: may not specify more than 1 volume type",
                    "spec.volumes[1].hostPath.path: Required value",
                ],
            ),
            (
                "/spec/volumes/1",
                json!({"name": "c", "configMap": {"name": "", "defaultMode": 1000, "items": [{"key": "", "path": "/x"}]}}),
                &[
                    "spec.volumes[1].configMap.name: Required value",
                    "spec.volumes[1].configMap.defaultMode: Invalid value: 1000: must be a number between 0 and 0777 (octal), both inclusive",
                    "spec.volumes[1].configMap.items[0].key: Required value",
                    "spec.volumes[1].configMap.items[0].path: Invalid value: \"/x\": must be a relative path",
                ],
            ),
            (
                "/spec/tolerations",
                json!([{"value": "x"}, {"key": "k", "operator": "Exists", "value": "x"}]),
                &[
                    "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
                    "spec.tolerations[1].operator: Invalid value: \"Exists\": value must be empty when `operator` is 'Exists'",
                ],
            ),
            (
                "/spec/activeDeadlineSeconds",
                json!(0),
                &[
                    "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
                ],
            ),
        ],
    );
}

#[test]
fn workloads() {
    table(
        MYAPP,
        &[
            (
                "/spec/template/metadata/labels",
                json!({"app": "other"}),
                &[
                    "spec.template.metadata.labels: Invalid value: map[string]string{\"app\":\"other\"}: `selector` does not match template `labels`",
                ],
            ),
            (
                "/spec/selector",
                Value::Null,
                &[
                    "spec.selector: Required value",
                    "spec.template.metadata.labels: Invalid value: map[string]string{\"app\":\"myapp\"}: `selector` does not match template `labels`",
                ],
            ),
            (
                "/spec/replicas",
                json!(-1),
                &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                "/spec/strategy",
                json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}),
                &[
                    "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
                ],
            ),
            (
                "/spec/strategy",
                json!({"type": "Recreate", "rollingUpdate": {}}),
                &[
                    "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
                ],
            ),
            (
                "/spec/template/spec/restartPolicy",
                json!("Never"),
                &[
                    "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                ],
            ),
            (
                "/spec/template/spec/containers",
                json!([{"name": "app"}]),
                &["spec.template.spec.containers[0].image: Required value"],
            ),
        ],
    );
}

#[test]
fn services_and_secrets() {
    let service = "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: d}, spec: {ports: [{port: 80}]}}";
    const NAME: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
    let bad_name = format!("metadata.name: Invalid value: \"1s\": {NAME}");
    table(
        service,
        &[
            ("/metadata/name", json!("1s"), &[&bad_name]),
            ("/spec/ports", json!([]), &["spec.ports: Required value"]),
            (
                "/spec/ports/1",
                json!({"port": 80}),
                &[
                    "spec.ports[0].name: Required value",
                    "spec.ports[1].name: Required value",
                    "spec.ports[1]: Duplicate value: \"TCP/80\"",
                ],
            ),
            (
                "/spec/type",
                json!("Magic"),
                &[
                    "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
                ],
            ),
            (
                "/spec/clusterIP",
                json!("300.1.1.1"),
                &[
                    "spec.clusterIPs[0]: Invalid value: \"300.1.1.1\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                ],
            ),
            (
                "/spec/externalTrafficPolicy",
                json!("Local"),
                &[
                    "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
                ],
            ),
        ],
    );
    let secret = "{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: d}, type: kubernetes.io/tls, data: {tls.crt: eA==, tls.key: eA==}}";
    table(secret, &[("/data", json!({"tls.crt": ""}), &["data[tls.key]: Required value"])]);
}

#[test]
fn the_error_names_object_and_fields() {
    let mut object = yaml(MYAPP);
    object["spec"]["replicas"] = json!(-1);
    let causes = admit(&mut object, Operation::Create);
    let kind = find_kind("apps/v1", "Deployment").expect("kind");
    let error = invalid(kind, "myapp", causes.clone());
    let one = "spec.replicas: Invalid value: -1: must be greater than or equal to 0";
    assert_eq!(error.message, format!("Deployment.apps \"myapp\" is invalid: {one}"));
    assert_eq!((error.code.as_u16(), error.reason), (422, "Invalid"));
    assert_eq!(error.to_value()["details"]["causes"][0]["reason"], "FieldValueInvalid");
    let two =
        [causes.clone(), vec![super::Cause { field: "x".into(), ..causes[0].clone() }]].concat();
    assert!(invalid(kind, "myapp", two).message.contains("is invalid: [spec.replicas: "));
}

#[test]
fn daemon_set_strategies() {
    let refused = |strategy: &str| {
        let text = format!(
            "{{apiVersion: apps/v1, kind: DaemonSet, metadata: {{name: d, namespace: team}}, spec: {{selector: {{matchLabels: {{app: a}}}}, updateStrategy: {strategy}, template: {{metadata: {{labels: {{app: a}}}}, spec: {{containers: [{{name: c, image: i}}]}}}}}}}}"
        );
        lines(&create(&text).1)
    };
    assert_eq!(refused("{}"), [""; 0]);
    assert_eq!(refused("{type: OnDelete}"), [""; 0]);
    assert_eq!(refused("{rollingUpdate: {maxSurge: 20%, maxUnavailable: 0}}"), [""; 0]);
    assert_eq!(
        refused("{rollingUpdate: {maxSurge: 1}}"),
        [
            "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero"
        ]
    );
    assert_eq!(
        refused("{rollingUpdate: {maxUnavailable: 0}}"),
        [
            "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"
        ]
    );
    assert_eq!(
        refused("{type: Recreate}"),
        [
            "spec.updateStrategy.type: Unsupported value: \"Recreate\": supported values: \"OnDelete\", \"RollingUpdate\""
        ]
    );
}

#[test]
fn jobs_refuse_what_would_be_ignored() {
    let refused = |spec: &str| {
        let text = format!(
            "{{apiVersion: batch/v1, kind: Job, metadata: {{name: j, namespace: team, uid: u}}, spec: {{{spec}template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: i}}]}}}}}}}}"
        );
        lines(&create(&text).1)
    };
    assert_eq!(refused(""), [""; 0]);
    let no = "Forbidden: not supported by this control plane";
    for (field, value) in [
        ("podFailurePolicy", "{rules: []}"),
        ("successPolicy", "{rules: []}"),
        ("backoffLimitPerIndex", "1"),
        ("maxFailedIndexes", "1"),
        ("managedBy", "example.com/x"),
        ("podReplacementPolicy", "Failed"),
    ] {
        assert_eq!(refused(&format!("{field}: {value}, ")), [format!("spec.{field}: {no}")]);
    }
    assert_eq!(
        refused("completionMode: Indexed, parallelism: 2, "),
        ["spec.completions: Required value: when completion mode is Indexed"]
    );
    assert_eq!(
        refused("backoffLimit: -1, "),
        ["spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0"]
    );
    let always = "{apiVersion: batch/v1, kind: Job, metadata: {name: j, namespace: team, uid: u}, spec: {template: {spec: {containers: [{name: c, image: i}]}}}}";
    assert_eq!(
        lines(&create(always).1),
        [
            "spec.template.spec.restartPolicy: Unsupported value: \"Always\": supported values: \"Never\", \"OnFailure\""
        ]
    );
    let (mut changed, _) = create(always);
    let old = changed.clone();
    changed["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
    let causes = admit(&mut changed, Operation::Update { old: &old, subresource: "" });
    assert_eq!(causes[0].field, "spec.template");
    assert!(causes[0].message.ends_with("field is immutable"), "{causes:?}");
}
