//! Bad manifests and what is said of them: StatefulSets, CronJobs, storage, networking.

use serde_json::{Value, json};

use super::validating::table;
use super::{admit, create, lines};
use crate::kinds::{Operation, find_kind};

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
