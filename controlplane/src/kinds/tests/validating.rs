//! Bad manifests and what is said of them.

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
fn table(base: &str, cases: &[(&str, Value, &[&str])]) {
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

const SET: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web, namespace: d}
spec:
  serviceName: nginx
  selector: {matchLabels: {app: a}}
  updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 0}}
  template:
    metadata: {labels: {app: a}}
    spec: {containers: [{name: a, image: i, volumeMounts: [{name: www, mountPath: /v}]}]}
  volumeClaimTemplates:
  - metadata: {name: www}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
";

#[test]
fn stateful_sets() {
    table(
        SET,
        &[
            ("/spec/replicas", json!(2), &[]),
            (
                "/spec/podManagementPolicy",
                json!("Any"),
                &[
                    "spec.podManagementPolicy: Invalid value: \"Any\": must be 'OrderedReady' or 'Parallel'",
                ],
            ),
            (
                "/spec/updateStrategy/type",
                json!("Any"),
                &[
                    "spec.updateStrategy: Invalid value: \"Any\": must be 'RollingUpdate' or 'OnDelete'",
                ],
            ),
            (
                "/spec/updateStrategy/type",
                json!("OnDelete"),
                &[
                    "spec.updateStrategy.rollingUpdate: Invalid value: \"\": only allowed for updateStrategy 'RollingUpdate'",
                ],
            ),
            (
                "/spec/updateStrategy/rollingUpdate/partition",
                json!(-1),
                &[
                    "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
            (
                "/spec/ordinals",
                json!({"start": -1}),
                &["spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                "/spec/persistentVolumeClaimRetentionPolicy",
                json!({"whenScaled": "Keep"}),
                &[
                    "spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: \"Keep\": supported values: \"Delete\", \"Retain\"",
                ],
            ),
            (
                "/spec/selector",
                json!({"matchLabels": {"app": "b"}}),
                &[
                    "spec.template.metadata.labels: Invalid value: map[string]string{\"app\":\"a\"}: `selector` does not match template `labels`",
                ],
            ),
            (
                "/spec/volumeClaimTemplates/0/spec/accessModes",
                json!([]),
                &[
                    "spec.volumeClaimTemplates[0].spec.accessModes: Required value: at least one access mode is required",
                ],
            ),
            (
                "/spec/template/spec/restartPolicy",
                json!("Never"),
                &[
                    "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                ],
            ),
        ],
    );
    let (old, causes) = create(SET);
    assert_eq!(lines(&causes), Vec::<String>::new());
    for (pointer, value, expected) in [
        ("/spec/replicas", json!(5), None),
        ("/spec/template/spec/containers/0/image", json!("j"), None),
        (
            "/spec/serviceName",
            json!("other"),
            Some(
                "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            ),
        ),
    ] {
        let mut new = old.clone();
        *new.pointer_mut(pointer).expect(pointer) = value;
        let causes = admit(&mut new, Operation::Update { old: &old, subresource: "" });
        assert_eq!(lines(&causes), expected.into_iter().collect::<Vec<_>>(), "{pointer}");
    }
}

#[test]
fn claims_and_volumes() {
    const CLAIM: &str = "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: c, namespace: d}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}";
    table(
        CLAIM,
        &[
            (
                "/spec/accessModes",
                json!(["Any"]),
                &[
                    "spec.accessModes: Unsupported value: \"Any\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                ],
            ),
            ("/spec/resources", json!({}), &["spec.resources.requests[storage]: Required value"]),
            (
                "/spec/resources/requests/storage",
                json!("0"),
                &[
                    "spec.resources.requests[storage]: Invalid value: \"0\": must be greater than zero",
                ],
            ),
            (
                "/spec/dataSource",
                json!({"kind": "VolumeSnapshot", "name": "s"}),
                &["spec.dataSource: Forbidden: not supported by this control plane"],
            ),
        ],
    );
    let (old, _) = create(CLAIM);
    let change = |pointer: &str, value: Value, bound: bool| {
        let mut old = old.clone();
        if bound {
            old["status"]["phase"] = json!("Bound");
        }
        let mut new = old.clone();
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        new.pointer_mut(parent).expect(pointer)[key] = value;
        lines(&admit(&mut new, Operation::Update { old: &old, subresource: "" })).len()
    };
    assert_eq!(change("/spec/volumeName", json!("v"), false), 0, "the binder fills it in");
    assert_eq!(change("/spec/storageClassName", json!("fast"), false), 0);
    assert_eq!(change("/spec/accessModes", json!(["ReadOnlyMany"]), false), 1);
    assert_eq!(change("/spec/resources/requests/storage", json!("2Gi"), false), 1);
    assert_eq!(change("/spec/resources/requests/storage", json!("2Gi"), true), 0);
    assert_eq!(change("/spec/resources/requests/storage", json!("1Mi"), true), 1);
    const VOLUME: &str = "{apiVersion: v1, kind: PersistentVolume, metadata: {name: v}, spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, hostPath: {path: /x}}}";
    table(
        VOLUME,
        &[
            ("/spec/capacity", json!({}), &["spec.capacity: Required value"]),
            (
                "/spec/nfs",
                json!({"server": "s", "path": "/"}),
                &["spec.nfs: Forbidden: may not specify more than 1 volume type"],
            ),
            (
                "/spec/hostPath/path",
                json!("/a/../b"),
                &["spec.hostPath.path: Invalid value: \"/a/../b\": must not contain '..'"],
            ),
            ("/spec/hostPath", Value::Null, &["spec: Required value: must specify a volume type"]),
            (
                "/spec/persistentVolumeReclaimPolicy",
                json!("Recycle"),
                &[
                    "spec.persistentVolumeReclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
                ],
            ),
        ],
    );
    const CLASS: &str = "{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: s}, provisioner: a/b}";
    table(
        CLASS,
        &[
            ("/provisioner", json!(""), &["provisioner: Required value"]),
            (
                "/reclaimPolicy",
                json!("Recycle"),
                &[
                    "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
                ],
            ),
        ],
    );
}

#[test]
fn cron_jobs() {
    const CRON: &str = "
apiVersion: batch/v1
kind: CronJob
metadata: {name: c, namespace: d}
spec:
  schedule: '*/5 * * * *'
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: i}]}}}}
";
    let long = "c".repeat(53);
    table(
        CRON,
        &[
            ("/spec/timeZone", json!("Europe/Berlin"), &[]),
            (
                "/spec/timeZone",
                json!("Mars"),
                &["spec.timeZone: Invalid value: \"Mars\": unknown time zone Mars"],
            ),
            (
                "/spec/timeZone",
                json!("Local"),
                &[
                    "spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
                ],
            ),
            ("/spec/schedule", json!(""), &["spec.schedule: Required value"]),
            (
                "/spec/schedule",
                json!("* * *"),
                &[
                    "spec.schedule: Invalid value: \"* * *\": expected exactly 5 fields, found 3: \"* * *\"",
                ],
            ),
            (
                "/spec/schedule",
                json!("TZ=UTC * * * * *"),
                &[
                    "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
                ],
            ),
            (
                "/spec/concurrencyPolicy",
                json!("Any"),
                &[
                    "spec.concurrencyPolicy: Unsupported value: \"Any\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
                ],
            ),
            (
                "/spec/failedJobsHistoryLimit",
                json!(-1),
                &[
                    "spec.failedJobsHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
            (
                "/spec/jobTemplate/spec/template/spec/restartPolicy",
                json!("Always"),
                &[
                    "spec.jobTemplate.spec.template.spec.restartPolicy: Unsupported value: \"Always\": supported values: \"Never\", \"OnFailure\"",
                ],
            ),
            (
                "/spec/jobTemplate/spec/backoffLimit",
                json!(-1),
                &[
                    "spec.jobTemplate.spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
            (
                "/metadata/name",
                json!(long),
                &[&format!(
                    "metadata.name: Invalid value: {long:?}: must be no more than 52 characters"
                )],
            ),
        ],
    );
}

#[test]
fn networking() {
    const INGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: i, namespace: d}
spec:
  rules:
  - host: example.org
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
";
    let path = "/spec/rules/0/http/paths/0";
    let at = |rest: &str| format!("{path}{rest}");
    table(
        INGRESS,
        &[
            ("/spec/tls", json!([{"hosts": ["*.example.org"]}]), &[]),
            (
                "/spec/rules",
                json!([]),
                &[
                    "spec: Invalid value: \"\": either `defaultBackend` or `rules` must be specified",
                ],
            ),
            (
                &at("/path"),
                json!("x"),
                &[
                    "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path",
                ],
            ),
            (
                &at("/pathType"),
                json!("Any"),
                &[
                    "spec.rules[0].http.paths[0].pathType: Unsupported value: \"Any\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\"",
                ],
            ),
            (
                &at("/backend"),
                json!({}),
                &[
                    "spec.rules[0].http.paths[0].backend: Required value: resource or service backend is required",
                ],
            ),
            (
                &at("/backend/service/port"),
                json!({}),
                &[
                    "spec.rules[0].http.paths[0].backend.service.port: Required value: port name or number is required",
                ],
            ),
            (
                "/spec/rules/0/host",
                json!("10.0.0.1"),
                &[
                    "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
                ],
            ),
        ],
    );
    const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: np, namespace: d}
spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 80}]}]}
";
    table(
        POLICY,
        &[
            (
                "/spec/policyTypes",
                json!(["Any"]),
                &[
                    "spec.policyTypes[0]: Unsupported value: \"Any\": supported values: \"Egress\", \"Ingress\"",
                ],
            ),
            (
                "/spec/ingress/0/from/0/ipBlock/except",
                json!(["11.0.0.0/8"]),
                &[
                    "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/8\": must be a strict subset of `cidr` \"10.0.0.0/8\"",
                ],
            ),
            (
                "/spec/ingress/0/from/0",
                json!({}),
                &["spec.ingress[0].from[0]: Required value: must specify a peer"],
            ),
            (
                "/spec/ingress/0/ports/0/port",
                json!(0),
                &[
                    "spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                ],
            ),
        ],
    );
    let (policy, _) = create(POLICY);
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]));
    assert_eq!(policy["spec"]["ingress"][0]["ports"][0]["protocol"], "TCP");
    for (text, words) in [(POLICY, "not enforced"), (INGRESS, "no ingress controller")] {
        let (value, _) = create(text);
        let kind = find_kind(
            value["apiVersion"].as_str().expect("text"),
            value["kind"].as_str().expect("text"),
        );
        let warnings = kind.expect("served").strategy.warn(&value, Operation::Create);
        assert!(warnings.iter().any(|warning| warning.contains(words)), "{warnings:?}");
    }
}

#[test]
fn replication_controllers() {
    const CONTROLLER: &str = "
apiVersion: v1
kind: ReplicationController
metadata: {name: r, namespace: d}
spec:
  template:
    metadata: {labels: {app: a}}
    spec: {containers: [{name: a, image: i}]}
";
    let (value, causes) = create(CONTROLLER);
    assert_eq!(lines(&causes), Vec::<String>::new());
    assert_eq!(
        (&value["spec"]["selector"], &value["metadata"]["labels"]),
        (&json!({"app": "a"}), &json!({"app": "a"}))
    );
    table(
        CONTROLLER,
        &[
            (
                "/spec/selector",
                json!({"app": "b"}),
                &[
                    "spec.template.metadata.labels: Invalid value: map[string]string{\"app\":\"a\"}: `selector` does not match template `labels`",
                ],
            ),
            (
                "/spec/replicas",
                json!(-1),
                &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
            ),
        ],
    );
}
