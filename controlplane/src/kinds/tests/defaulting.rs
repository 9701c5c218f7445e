//! What defaults add, against recorded expectations; and that they add it only once.

use super::{MYAPP, create, kind_of, lines, yaml};

#[track_caller]
fn check(text: &str, expected: &str) {
    let mut value = yaml(text);
    let strategy = kind_of(&value).strategy;
    strategy.default(&mut value);
    assert_eq!(value, yaml(expected));
    let once = value.clone();
    strategy.default(&mut value);
    assert_eq!(value, once, "defaults are stable");
}

#[test]
fn myapp_is_admitted_with_all_defaults() {
    let (value, causes) = create(MYAPP);
    assert_eq!(lines(&causes), Vec::<String>::new());
    let expected = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: myapp, namespace: default, generation: 1}
spec:
  progressDeadlineSeconds: 600
  replicas: 3
  revisionHistoryLimit: 10
  selector: {matchLabels: {app: myapp}}
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 25%, maxUnavailable: 25%}}
  template:
    metadata: {labels: {app: myapp}}
    spec:
      dnsPolicy: ClusterFirst
      restartPolicy: Always
      schedulerName: default-scheduler
      securityContext: {}
      terminationGracePeriodSeconds: 30
      containers:
      - name: app
        image: myapp:1.0
        imagePullPolicy: IfNotPresent
        ports: [{containerPort: 8080, protocol: TCP}]
        resources:
          requests: {cpu: 100m, memory: 128Mi}
          limits: {cpu: 500m, memory: 512Mi}
        terminationMessagePath: /dev/termination-log
        terminationMessagePolicy: File
";
    assert_eq!(value, yaml(expected));
}

#[test]
fn pods() {
    check(
        "
apiVersion: v1
kind: Pod
spec:
  hostNetwork: true
  serviceAccount: robot
  containers:
  - name: a
    image: web
    ports: [{containerPort: 80}]
    env: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
    resources: {limits: {cpu: '1', memory: 1Gi}, requests: {cpu: 500m}}
    livenessProbe: {httpGet: {port: 80}}
    readinessProbe: {exec: {command: [x]}, periodSeconds: 1}
    startupProbe: {grpc: {port: 1}, failureThreshold: 30}
    lifecycle: {preStop: {httpGet: {port: 80}}}
  volumes:
  - name: none
  - {name: c, configMap: {name: c}}
  - {name: s, secret: {secretName: s, defaultMode: 256}}
  - {name: h, hostPath: {path: /x}}
  - name: p
    projected:
      sources:
      - serviceAccountToken: {path: token}
      - downwardAPI: {items: [{path: n, fieldRef: {fieldPath: metadata.name}}]}
",
        "
apiVersion: v1
kind: Pod
spec:
  dnsPolicy: ClusterFirst
  enableServiceLinks: true
  hostNetwork: true
  restartPolicy: Always
  schedulerName: default-scheduler
  securityContext: {}
  serviceAccount: robot
  serviceAccountName: robot
  terminationGracePeriodSeconds: 30
  containers:
  - name: a
    image: web
    imagePullPolicy: Always
    ports: [{containerPort: 80, hostPort: 80, protocol: TCP}]
    env: [{name: IP, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: status.podIP}}}]
    resources: {limits: {cpu: '1', memory: 1Gi}, requests: {cpu: 500m, memory: 1Gi}}
    terminationMessagePath: /dev/termination-log
    terminationMessagePolicy: File
    livenessProbe:
      httpGet: {port: 80, path: /, scheme: HTTP}
      timeoutSeconds: 1
      periodSeconds: 10
      successThreshold: 1
      failureThreshold: 3
    readinessProbe:
      exec: {command: [x]}
      timeoutSeconds: 1
      periodSeconds: 1
      successThreshold: 1
      failureThreshold: 3
    startupProbe:
      grpc: {port: 1, service: ''}
      timeoutSeconds: 1
      periodSeconds: 10
      successThreshold: 1
      failureThreshold: 30
    lifecycle: {preStop: {httpGet: {port: 80, path: /, scheme: HTTP}}}
  volumes:
  - {name: none, emptyDir: {}}
  - {name: c, configMap: {name: c, defaultMode: 420}}
  - {name: s, secret: {secretName: s, defaultMode: 256}}
  - {name: h, hostPath: {path: /x, type: ''}}
  - name: p
    projected:
      defaultMode: 420
      sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3600}
      - downwardAPI: {items: [{path: n, fieldRef: {apiVersion: v1, fieldPath: metadata.name}}]}
",
    );
}

#[test]
fn services() {
    check(
        "{apiVersion: v1, kind: Service, spec: {selector: {a: b}, ports: [{port: 80}, {name: x, port: 81, targetPort: web, protocol: UDP}]}}",
        "
apiVersion: v1
kind: Service
spec:
  internalTrafficPolicy: Cluster
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  selector: {a: b}
  sessionAffinity: None
  type: ClusterIP
  ports:
  - {port: 80, protocol: TCP, targetPort: 80}
  - {name: x, port: 81, protocol: UDP, targetPort: web}
",
    );
    check(
        "{apiVersion: v1, kind: Service, spec: {type: LoadBalancer, sessionAffinity: ClientIP, ports: [{port: 80}]}}",
        "
apiVersion: v1
kind: Service
spec:
  allocateLoadBalancerNodePorts: true
  externalTrafficPolicy: Cluster
  internalTrafficPolicy: Cluster
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 10800}}
  type: LoadBalancer
  ports: [{port: 80, protocol: TCP, targetPort: 80}]
",
    );
    check(
        "{apiVersion: v1, kind: Service, spec: {type: ExternalName, externalName: x.org}}",
        "{apiVersion: v1, kind: Service, spec: {type: ExternalName, externalName: x.org, sessionAffinity: None}}",
    );
}

#[test]
fn the_others() {
    check(
        "{apiVersion: v1, kind: Secret, stringData: {a: hello}, data: {a: eA==, b: eA==}}",
        "{apiVersion: v1, kind: Secret, type: Opaque, data: {a: aGVsbG8=, b: eA==}}",
    );
    check(
        "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}",
        "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {kubernetes.io/metadata.name: shop}}}",
    );
    check(
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, ports: [{port: 80}]}",
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, ports: [{port: 80, name: '', protocol: TCP}]}",
    );
    check(
        "{apiVersion: v1, kind: Endpoints, subsets: [{ports: [{port: 80}]}]}",
        "{apiVersion: v1, kind: Endpoints, subsets: [{ports: [{port: 80, protocol: TCP}]}]}",
    );
    check(
        "{apiVersion: v1, kind: Node, status: {capacity: {cpu: '2'}}}",
        "{apiVersion: v1, kind: Node, status: {capacity: {cpu: '2'}, allocatable: {cpu: '2'}}}",
    );
    check(
        "{apiVersion: apps/v1, kind: Deployment, spec: {strategy: {type: Recreate}, template: {spec: {}}}}",
        "
apiVersion: apps/v1
kind: Deployment
spec:
  progressDeadlineSeconds: 600
  replicas: 1
  revisionHistoryLimit: 10
  strategy: {type: Recreate}
  template:
    spec:
      dnsPolicy: ClusterFirst
      restartPolicy: Always
      schedulerName: default-scheduler
      securityContext: {}
      terminationGracePeriodSeconds: 30
",
    );
}
