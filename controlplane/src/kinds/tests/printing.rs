//! Rows as upstream's printers write them.

use serde_json::{Value, json};

use super::{MYAPP, row, yaml};

const NOW: &str = "2024-01-01T00:10:00Z";

fn check(text: &str, expected: &str) {
    let row = row(&yaml(text), NOW);
    assert_eq!(row.join(" | "), expected, "{text}");
}

fn pod(status: &str, spec: &str) -> Value {
    let mut pod = yaml(
        "{apiVersion: v1, kind: Pod, metadata: {name: p, creationTimestamp: '2024-01-01T00:00:00Z'}, spec: {containers: [{name: a}, {name: b}]}}",
    );
    if !spec.is_empty() {
        pod["spec"] = yaml(spec);
    }
    pod["status"] = yaml(status);
    pod
}

/// `ready status restarts`
#[test]
fn pod_states() {
    let two = "";
    let init = "{initContainers: [{name: i}, {name: j}], containers: [{name: a}]}";
    let sidecar = "{initContainers: [{name: s, restartPolicy: Always}], containers: [{name: a}]}";
    for (status, spec, expected) in [
        ("{phase: Pending}", two, "0/2 Pending 0"),
        (
            "{phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: SchedulingGated}]}",
            two,
            "0/2 SchedulingGated 0",
        ),
        ("{phase: Failed, reason: Evicted}", two, "0/2 Evicted 0"),
        (
            "{phase: Running, containerStatuses: [{name: a, ready: true, state: {running: {}}}, {name: b, ready: true, state: {running: {}}}]}",
            two,
            "2/2 Running 0",
        ),
        (
            "{phase: Running, containerStatuses: [{name: a, ready: true, state: {running: {}}}, {name: b, restartCount: 3, state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {exitCode: 1, finishedAt: '2024-01-01T00:09:55Z'}}}]}",
            two,
            "1/2 CrashLoopBackOff 3 (5s ago)",
        ),
        (
            "{phase: Pending, containerStatuses: [{name: a, state: {waiting: {reason: ContainerCreating}}}, {name: b, state: {waiting: {reason: ErrImagePull}}}]}",
            two,
            "0/2 ContainerCreating 0",
        ),
        (
            "{phase: Running, containerStatuses: [{name: a, state: {terminated: {exitCode: 137, reason: OOMKilled}}}]}",
            two,
            "0/2 OOMKilled 0",
        ),
        (
            "{phase: Running, containerStatuses: [{name: a, state: {terminated: {exitCode: 3}}}]}",
            two,
            "0/2 ExitCode:3 0",
        ),
        (
            "{phase: Running, containerStatuses: [{name: a, state: {terminated: {exitCode: 137, signal: 9}}}]}",
            two,
            "0/2 Signal:9 0",
        ),
        (
            "{phase: Succeeded, containerStatuses: [{name: a, state: {terminated: {exitCode: 0, reason: Completed}}}]}",
            two,
            "0/2 Completed 0",
        ),
        (
            "{phase: Running, conditions: [{type: Ready, status: 'True'}], containerStatuses: [{name: a, state: {terminated: {exitCode: 0, reason: Completed}}}, {name: b, ready: true, state: {running: {}}}]}",
            two,
            "1/2 Running 0",
        ),
        (
            "{phase: Running, containerStatuses: [{name: a, state: {terminated: {exitCode: 0, reason: Completed}}}, {name: b, ready: true, state: {running: {}}}]}",
            two,
            "1/2 NotReady 0",
        ),
        (
            "{phase: Pending, initContainerStatuses: [{name: i, state: {running: {}}}]}",
            init,
            "0/1 Init:0/2 0",
        ),
        (
            "{phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 0}}}, {name: j, restartCount: 2, state: {waiting: {reason: CrashLoopBackOff}}}], containerStatuses: [{name: a, state: {waiting: {reason: PodInitializing}}}]}",
            init,
            "0/1 Init:CrashLoopBackOff 2",
        ),
        (
            "{phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 1, reason: Error}}}]}",
            init,
            "0/1 Init:Error 0",
        ),
        (
            "{phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 0}}}, {name: j, state: {terminated: {exitCode: 0}}}], containerStatuses: [{name: a, state: {waiting: {reason: PodInitializing}}}]}",
            init,
            "0/1 PodInitializing 0",
        ),
        (
            "{phase: Running, conditions: [{type: Initialized, status: 'True'}], initContainerStatuses: [{name: s, started: true, ready: true, restartCount: 1, state: {running: {}}}], containerStatuses: [{name: a, ready: true, restartCount: 1, state: {running: {}}}]}",
            sidecar,
            "2/2 Running 2",
        ),
    ] {
        let cells = row(&pod(status, spec), NOW);
        assert_eq!(cells[1..4].join(" "), expected, "{status}");
    }
}

#[test]
fn pods_that_go() {
    let mut pod = pod("{phase: Running}", "");
    pod["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:09:00Z");
    assert_eq!(row(&pod, NOW)[2], "Terminating");
    pod["status"]["reason"] = json!("NodeLost");
    assert_eq!(row(&pod, NOW)[2], "Unknown");
    pod["status"] = json!({"phase": "Succeeded"});
    assert_eq!(row(&pod, NOW)[2], "Succeeded");
}

#[test]
fn pod_wide() {
    let mut pod = pod(
        "{phase: Running, podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}], conditions: [{type: x/y, status: 'True'}]}",
        "{nodeName: n1, containers: [{name: a}], readinessGates: [{conditionType: x/y}, {conditionType: z}]}",
    );
    let wide = |pod: &Value| row(pod, NOW)[4..].join(" ");
    assert_eq!(wide(&pod), "10m 10.0.0.2 n1 <none> 1/2");
    pod["status"] = json!({});
    pod["spec"] = json!({});
    pod["metadata"]["creationTimestamp"] = Value::Null;
    assert_eq!(wide(&pod), "<unknown> <none> <none> <none> <none>");
}

#[test]
fn workloads() {
    let mut deployment = yaml(MYAPP);
    deployment["metadata"]["creationTimestamp"] = json!("2024-01-01T00:09:00Z");
    deployment["status"] =
        json!({"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2, "replicas": 3});
    assert_eq!(
        row(&deployment, NOW).join(" | "),
        "myapp | 2/3 | 3 | 2 | 60s | app | myapp:1.0 | app=myapp"
    );
    check(
        "{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: r}, spec: {replicas: 2, selector: {matchExpressions: [{key: a, operator: In, values: [c, b]}]}, template: {spec: {containers: [{name: x, image: i}, {name: z, image: j}]}}}, status: {replicas: 1, readyReplicas: 0}}",
        "r | 2 | 1 | 0 | <unknown> | x,z | i,j | a in (b,c)",
    );
}

#[test]
fn stateful_sets_and_storage() {
    check(
        "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: w}, spec: {replicas: 3, selector: {}, template: {spec: {containers: [{name: x, image: i}]}}}, status: {replicas: 2, readyReplicas: 1}}",
        "w | 1/3 | <unknown> | x | i",
    );
    check(
        "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: c}, spec: {accessModes: [ReadWriteMany, ReadWriteOnce], volumeName: v, storageClassName: s, volumeMode: Filesystem}, status: {phase: Bound, accessModes: [ReadWriteMany, ReadWriteOnce], capacity: {storage: 1Gi}}}",
        "c | Bound | v | 1Gi | RWO,RWX | s | <unset> | <unknown> | Filesystem",
    );
    check(
        "{apiVersion: v1, kind: PersistentVolume, metadata: {name: v}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOncePod], persistentVolumeReclaimPolicy: Retain, claimRef: {namespace: d, name: c}}, status: {phase: Released}}",
        "v | 1Gi | RWOP | Retain | Released | d/c |  | <unset> |  | <unknown> | <unset>",
    );
    check(
        "{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: s, annotations: {storageclass.kubernetes.io/is-default-class: 'true'}}, provisioner: p, reclaimPolicy: Delete, volumeBindingMode: Immediate}",
        "s (default) | p | Delete | Immediate | false | <unknown>",
    );
}

#[test]
fn cron_jobs() {
    check(
        "{apiVersion: batch/v1, kind: CronJob, metadata: {name: c}, spec: {schedule: '@daily', timeZone: Europe/Rome, suspend: true, jobTemplate: {spec: {template: {spec: {containers: [{name: x, image: i}]}}}}}, status: {active: [{name: j}], lastScheduleTime: '2024-01-01T00:09:00Z'}}",
        "c | @daily | Europe/Rome | True | 1 | 60s | <unknown> | x | i | <none>",
    );
}

#[test]
fn services() {
    let head = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n";
    for (spec, expected) in [
        (
            "spec: {type: ClusterIP, clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ports: [{port: 80, protocol: TCP}, {port: 53, protocol: UDP}], selector: {b: '2', a: '1'}}",
            "s | ClusterIP | 10.96.0.1 | <none> | 80/TCP,53/UDP | <unknown> | a=1,b=2",
        ),
        (
            "spec: {type: NodePort, clusterIP: 10.96.0.1, externalIPs: [1.2.3.4], ports: [{port: 80, nodePort: 30080, protocol: TCP}]}",
            "s | NodePort | 10.96.0.1 | 1.2.3.4 | 80:30080/TCP | <unknown> | <none>",
        ),
        (
            "spec: {type: LoadBalancer, clusterIP: 10.96.0.1}",
            "s | LoadBalancer | 10.96.0.1 | <pending> | <none> | <unknown> | <none>",
        ),
        (
            "spec: {type: LoadBalancer, clusterIP: 10.96.0.1}\nstatus: {loadBalancer: {ingress: [{ip: 5.6.7.8}, {hostname: h}]}}",
            "s | LoadBalancer | 10.96.0.1 | 5.6.7.8,h | <none> | <unknown> | <none>",
        ),
        (
            "spec: {type: ExternalName, externalName: x.org}",
            "s | ExternalName | <none> | x.org | <none> | <unknown> | <none>",
        ),
        (
            "spec: {type: ClusterIP, clusterIP: None}",
            "s | ClusterIP | None | <none> | <none> | <unknown> | <none>",
        ),
    ] {
        check(&format!("{head}{spec}"), expected);
    }
}

#[test]
fn nodes() {
    check(
        "
apiVersion: v1
kind: Node
metadata: {name: n1, creationTimestamp: '2024-01-01T00:00:00Z', labels: {node-role.kubernetes.io/control-plane: '', node-role.kubernetes.io/a: ''}}
spec: {unschedulable: true}
status:
  conditions: [{type: Ready, status: 'True'}]
  addresses: [{type: InternalIP, address: 10.0.0.1}, {type: Hostname, address: n1}]
  nodeInfo: {kubeletVersion: v1.33.0, osImage: Debian, kernelVersion: '6.1', containerRuntimeVersion: 'kobune://0.1'}
",
        "n1 | Ready,SchedulingDisabled | a,control-plane | 10m | v1.33.0 | 10.0.0.1 | <none> | Debian | 6.1 | kobune://0.1",
    );
    check(
        "{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {conditions: [{type: Ready, status: Unknown}]}}",
        "n1 | NotReady | <none> | <unknown> |  | <none> | <none> | <unknown> | <unknown> | <unknown>",
    );
    check(
        "{apiVersion: v1, kind: Node, metadata: {name: n1}}",
        "n1 | Unknown | <none> | <unknown> |  | <none> | <none> | <unknown> | <unknown> | <unknown>",
    );
}

#[test]
fn events() {
    check(
        "
apiVersion: v1
kind: Event
metadata: {name: e}
involvedObject: {kind: Pod, name: p, fieldPath: 'spec.containers{a}'}
reason: Pulled
type: Normal
message: \" done\\n\"
source: {component: kubelet, host: n1}
count: 4
firstTimestamp: '2024-01-01T00:00:00Z'
lastTimestamp: '2024-01-01T00:09:30Z'
",
        "30s | Normal | Pulled | pod/p | spec.containers{a} | kubelet, n1 | done | 10m | 4 | e",
    );
    check(
        "{apiVersion: v1, kind: Event, metadata: {name: e}, involvedObject: {name: p}, eventTime: '2024-01-01T00:08:00.000000Z', reportingComponent: sched, reportingInstance: sched-1}",
        "2m |  |  | p |  | sched, sched-1 |  | 2m | 1 | e",
    );
}

#[test]
fn small_kinds() {
    check(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: b}, binaryData: {x: eA==}}",
        "c | 2 | <unknown>",
    );
    check(
        "{apiVersion: v1, kind: Secret, metadata: {name: s}, type: Opaque, data: {a: eA==}}",
        "s | Opaque | 1 | <unknown>",
    );
    check("{apiVersion: v1, kind: ServiceAccount, metadata: {name: s}}", "s | 0 | <unknown>");
    check(
        "{apiVersion: v1, kind: Namespace, metadata: {name: n1}, status: {phase: Active}}",
        "n1 | Active | <unknown>",
    );
    check(
        "{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: l}, spec: {holderIdentity: h}}",
        "l | h | <unknown>",
    );
    check(
        "{apiVersion: v1, kind: Endpoints, metadata: {name: e}, subsets: [{addresses: [{ip: 1.1.1.1}, {ip: 1.1.1.2}], ports: [{port: 80}, {port: 81}]}]}",
        "e | 1.1.1.1:80,1.1.1.2:80,1.1.1.1:81 + 1 more... | <unknown>",
    );
    check("{apiVersion: v1, kind: Endpoints, metadata: {name: e}}", "e | <none> | <unknown>");
    check(
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s}, addressType: IPv4, ports: [{port: 80}, {name: all}], endpoints: [{addresses: [1.1.1.1]}, {addresses: [1.1.1.2]}]}",
        "s | IPv4 | 80,* | 1.1.1.1,1.1.1.2 | <unknown>",
    );
    check(
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s}, addressType: IPv4, endpoints: []}",
        "s | IPv4 | <unset> | <unset> | <unknown>",
    );
}

#[test]
fn daemon_sets_and_revisions() {
    check(
        "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: d, creationTimestamp: '2024-01-01T00:00:00Z'}, spec: {selector: {matchLabels: {app: a}}, template: {spec: {nodeSelector: {disk: ssd, zone: z}, containers: [{name: c, image: i}]}}}, status: {desiredNumberScheduled: 5, currentNumberScheduled: 4, numberReady: 3, updatedNumberScheduled: 2, numberAvailable: 1, numberMisscheduled: 0}}",
        "d | 5 | 4 | 3 | 2 | 1 | disk=ssd,zone=z | 10m | c | i | app=a",
    );
    check(
        "{apiVersion: apps/v1, kind: ControllerRevision, metadata: {name: d-1, creationTimestamp: '2024-01-01T00:00:00Z', ownerReferences: [{apiVersion: apps/v1, kind: DaemonSet, name: d, uid: u, controller: true}]}, data: {}, revision: 3}",
        "d-1 | daemonset.apps/d | 3 | 10m",
    );
}

#[test]
fn jobs() {
    let job = |spec: &str, status: &str, expected: &str| {
        let text = format!(
            "{{apiVersion: batch/v1, kind: Job, metadata: {{name: j, creationTimestamp: '2024-01-01T00:00:00Z'}}, spec: {{{spec}, selector: {{matchLabels: {{u: x}}}}, template: {{spec: {{containers: [{{name: c, image: i}}]}}}}}}, status: {{{status}}}}}"
        );
        check(&text, &format!("j | {expected} | 10m | c | i | u=x"));
    };
    job("completions: 2, parallelism: 1", "", "Running | 0/2 | ");
    job(
        "parallelism: 3",
        "succeeded: 1, startTime: '2024-01-01T00:09:00Z'",
        "Running | 1/1 of 3 | 60s",
    );
    job(
        "completions: 1",
        "succeeded: 1, startTime: '2024-01-01T00:09:00Z', completionTime: '2024-01-01T00:09:07Z', conditions: [{type: SuccessCriteriaMet, status: 'True'}, {type: Complete, status: 'True'}]",
        "Complete | 1/1 | 7s",
    );
    job("completions: 1", "conditions: [{type: Suspended, status: 'True'}]", "Suspended | 0/1 | ");
}
