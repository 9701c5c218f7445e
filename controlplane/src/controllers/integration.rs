//! All controllers and the scheduler on the real API and store, with a node that is played by the test.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::daemonset::DAEMONSETS;
use super::deployment::DEPLOYMENTS;
use super::endpoints::SLICES;
use super::history::REVISIONS;
use super::job::JOBS;
use super::look::PodView;
use super::replicaset::REPLICASETS;
use super::statefulset::STATEFULSETS;
use crate::api::{Api, testing};
use crate::context::{Config, Ctx};
use crate::object::{Object, Resource};
use crate::reader::Reader;
use crate::store::{Event, Store, Subscription};
use crate::writer::{Change, Writer};

struct Cluster {
    api: Arc<Api>,
    store: Arc<Store>,
    events: Subscription,
    shutdown: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Cluster {
    async fn start() -> Self {
        let api = testing::api();
        let store = api.store().clone();
        let config = Config {
            service_cidr: "10.96.0.0/16".parse().expect("a range"),
            cluster_cidr: "10.244.0.0/16".parse().expect("a range"),
            node_cidr_mask: 24,
            load_balancer_pool: Default::default(),
            ca_pem: "PEM".into(),
            signer: None,
        };
        let shutdown = CancellationToken::new();
        let ctx = Ctx {
            store: store.clone(),
            writer: api.clone(),
            config: Arc::new(config),
            shutdown: shutdown.clone(),
        };
        let events = store.subscribe();
        let tasks = vec![
            tokio::spawn(super::run(ctx.clone())),
            tokio::spawn(crate::scheduler::run(ctx)),
            tokio::spawn(kubelet(api.clone(), store.subscribe())),
        ];
        let cluster = Self { api, store, events, shutdown, tasks };
        cluster
            .create(
                "namespaces",
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}),
            )
            .await;
        cluster
            .create("nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}))
            .await;
        cluster
            .change("nodes", "", "n", Some("status"), |node| {
                let room = json!({"cpu": "8", "memory": "16Gi", "pods": "110"});
                node["status"]["capacity"] = room.clone();
                node["status"]["allocatable"] = room;
                node["status"]["conditions"] =
                    json!([{"type": "Ready", "status": "True", "reason": "KubeletReady"}]);
            })
            .await;
        cluster
    }

    async fn create(&self, resource: Resource, object: Value) {
        self.api.apply("test", Change::Create { resource, object }).await.expect("create");
    }

    async fn change(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
        subresource: Option<&'static str>,
        edit: impl Fn(&mut Value),
    ) {
        loop {
            let mut object = self.store.get(resource, namespace, name).expect("it exists").value();
            edit(&mut object);
            match self.api.apply("test", Change::Update { resource, subresource, object }).await {
                Err(error) if error.is_conflict() => {}
                done => return drop(done.expect("update")),
            }
        }
    }

    async fn delete(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
        propagation: Option<&'static str>,
    ) {
        let change = Change::Delete {
            resource,
            namespace: namespace.into(),
            name: name.into(),
            uid: None,
            resource_version: None,
            propagation,
            grace_period_seconds: None,
        };
        self.api.apply("test", change).await.expect("delete");
    }

    /// Waits for `done`, looking after every event; `check` holds after every event too.
    async fn until(&mut self, what: &str, done: impl Fn(&Store) -> bool, check: impl Fn(&Store)) {
        let waited = tokio::time::timeout(Duration::from_secs(30), async {
            while !done(&self.store) {
                self.events.recv().await.expect("the store lives");
                check(&self.store);
            }
        });
        if waited.await.is_err() {
            let objects: Vec<Value> =
                [DEPLOYMENTS, REPLICASETS, DAEMONSETS, JOBS, "pods", "namespaces"]
                    .iter()
                    .flat_map(|r| self.store.list(r, None))
                    .map(|object| object.value())
                    .collect();
            panic!("{what} did not happen: {objects:#?}");
        }
    }

    fn value(&self, resource: Resource, namespace: &str, name: &str) -> Value {
        self.store.get(resource, namespace, name).expect("it exists").value()
    }

    /// Nothing is written when nothing happens.
    async fn is_quiet(&mut self) {
        for _ in 0..100 {
            let quiet = tokio::time::timeout(Duration::from_millis(300), self.events.recv()).await;
            match quiet {
                Err(_) => return,
                Ok(event) => drop(event.expect("the store lives")),
            }
        }
        panic!("never quiet");
    }

    async fn end(self) {
        self.shutdown.cancel();
        let [controllers, scheduler, kubelet]: [_; 3] = self.tasks.try_into().expect("three tasks");
        controllers.await.expect("controllers end");
        scheduler.await.expect("the scheduler ends");
        kubelet.abort();
    }
}

/// Starts what is bound and stops what is to stop.
async fn kubelet(api: Arc<Api>, mut events: Subscription) {
    let mut next = 1;
    while let Some(event) = events.recv().await {
        let Event { resource: "pods", new: Some(pod), .. } = &*event else { continue };
        let view = PodView::of(pod.clone()).expect("a pod");
        let change = if view.is_terminating() {
            Change::Delete {
                resource: "pods",
                namespace: pod.meta.namespace.clone(),
                name: pod.meta.name.clone(),
                uid: Some(pod.meta.uid.clone()),
                resource_version: None,
                propagation: None,
                grace_period_seconds: Some(0),
            }
        } else if !view.node().is_empty() && view.phase() == "Pending" {
            let mut object = pod.value();
            object["status"]["phase"] = json!("Running");
            object["status"]["podIP"] = json!(format!("10.244.0.{next}"));
            let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
            object["status"]["conditions"].as_array_mut().expect("bound").push(ready);
            next += 1;
            Change::Update { resource: "pods", subresource: Some("status"), object }
        } else {
            continue;
        };
        // Somebody else was first: their event comes.
        let _ = api.apply("kubelet", change).await;
    }
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "myapp", "namespace": "team"},
        "spec": {
            "replicas": 3, "selector": {"matchLabels": {"app": "myapp"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": {"app": "myapp"}},
                "spec": {"containers": [{
                    "name": "app", "image": "myapp:1.0", "ports": [{"containerPort": 8080}],
                    "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
                }]},
            },
        },
    })
}

fn pods(store: &Store) -> Vec<PodView> {
    store.list("pods", Some("team")).into_iter().filter_map(PodView::of).collect()
}

fn is_rolled_out(store: &Store, image: &str) -> bool {
    let Some(object) = store.get(DEPLOYMENTS, "team", "myapp") else { return false };
    let value = object.value();
    let complete = value["status"]["conditions"].as_array().is_some_and(|conditions| {
        conditions.iter().any(|c| c["reason"] == "NewReplicaSetAvailable")
    });
    let status = &value["status"];
    let all = |name: &str| status[name] == value["spec"]["replicas"];
    complete
        && status["observedGeneration"] == value["metadata"]["generation"]
        && all("replicas")
        && all("updatedReplicas")
        && all("availableReplicas")
        && pods(store)
            .iter()
            .all(|pod| pod.object.value()["spec"]["containers"][0]["image"] == image)
}

fn ready_endpoints(store: &Store) -> usize {
    let slices = store.list(SLICES, Some("team"));
    let endpoints =
        slices.iter().flat_map(|s| s.value()["endpoints"].as_array().cloned().unwrap_or_default());
    endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true).count()
}

fn find(objects: &[Arc<Object>], reason: &str) -> Vec<String> {
    let events =
        objects.iter().map(|event| event.value()).filter(|event| event["reason"] == reason);
    events.filter_map(|event| event["message"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_lives_through_the_real_api() {
    let mut cluster = Cluster::start().await;
    cluster.create("services", json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "myapp", "namespace": "team"},
        "spec": {"selector": {"app": "myapp"}, "ports": [{"port": 80, "targetPort": 8080}]},
    })).await;
    cluster.create(DEPLOYMENTS, deployment()).await;
    cluster
        .until("3/3 ready", |s| is_rolled_out(s, "myapp:1.0") && ready_endpoints(s) == 3, |_| ())
        .await;
    cluster.is_quiet().await;
    let generation = |cluster: &Cluster| {
        cluster.value(DEPLOYMENTS, "team", "myapp")["metadata"]["generation"].clone()
    };
    assert_eq!(generation(&cluster), 1, "the rollout itself wants nothing");
    assert_eq!(cluster.value("nodes", "", "n")["spec"]["podCIDR"], "10.244.0.0/24");
    assert_eq!(cluster.value("configmaps", "team", "kube-root-ca.crt")["data"]["ca.crt"], "PEM");
    let events = cluster.store.list("events", Some("team"));
    assert_eq!(find(&events, "Scheduled").len(), 3);
    assert_eq!(find(&events, "SuccessfulCreate").len(), 3);
    assert_eq!(find(&events, "ScalingReplicaSet").len(), 1);

    // Must-show 5: the bounds at every revision, with Pods that take a moment to stop.
    cluster
        .change(DEPLOYMENTS, "team", "myapp", None, |d| {
            d["spec"]["template"]["spec"]["containers"][0]["image"] = json!("myapp:2.0");
        })
        .await;
    let bounds = |store: &Store| {
        let pods = pods(store);
        let ready = pods.iter().filter(|p| p.is_active() && p.is_ready()).count();
        assert!(pods.len() <= 4, "{} pods exist", pods.len());
        assert!(ready >= 2, "{ready} pods are ready");
    };
    cluster.until("the new image", |s| is_rolled_out(s, "myapp:2.0"), bounds).await;
    cluster.is_quiet().await;
    assert_eq!(cluster.store.list(REPLICASETS, Some("team")).len(), 2);
    assert_eq!(
        cluster.value(DEPLOYMENTS, "team", "myapp")["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        "2"
    );
    assert_eq!(generation(&cluster), 2);

    cluster.change(DEPLOYMENTS, "team", "myapp", None, |d| d["spec"]["replicas"] = json!(5)).await;
    cluster
        .until("five", |s| is_rolled_out(s, "myapp:2.0") && ready_endpoints(s) == 5, |_| ())
        .await;

    cluster.delete(DEPLOYMENTS, "team", "myapp", None).await;
    let empty = |s: &Store| pods(s).is_empty() && s.list(REPLICASETS, Some("team")).is_empty();
    cluster
        .until("everything owned is gone", |s| empty(s) && ready_endpoints(s) == 0, |_| ())
        .await;
    cluster.is_quiet().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_set_lives_through_the_real_api() {
    let mut cluster = Cluster::start().await;
    let mut daemon = deployment();
    daemon["kind"] = json!("DaemonSet");
    for field in ["replicas", "strategy"] {
        daemon["spec"].as_object_mut().expect("a spec").remove(field);
    }
    cluster.create(DAEMONSETS, daemon).await;
    let rolled_out = |image: &'static str| {
        move |s: &Store| {
            let Some(object) = s.get(DAEMONSETS, "team", "myapp") else { return false };
            let (value, pods) = (object.value(), pods(s));
            let status = &value["status"];
            status["observedGeneration"] == value["metadata"]["generation"]
                && status["updatedNumberScheduled"] == 1
                && status["numberAvailable"] == 1
                && pods.len() == 1
                && pods[0].node() == "n"
                && pods[0].object.value()["spec"]["containers"][0]["image"] == image
        }
    };
    cluster.until("one on the node", rolled_out("myapp:1.0"), |_| ()).await;
    cluster.is_quiet().await;
    cluster
        .change(DAEMONSETS, "team", "myapp", None, |d| {
            d["spec"]["template"]["spec"]["containers"][0]["image"] = json!("myapp:2.0");
        })
        .await;
    cluster.until("the new image", rolled_out("myapp:2.0"), |_| ()).await;
    cluster.is_quiet().await;
    assert_eq!(cluster.value(DAEMONSETS, "team", "myapp")["metadata"]["generation"], 2);
    assert_eq!(cluster.store.list(REVISIONS, Some("team")).len(), 2);
    cluster.delete(DAEMONSETS, "team", "myapp", None).await;
    let empty = |s: &Store| pods(s).is_empty() && s.list(REVISIONS, Some("team")).is_empty();
    cluster.until("everything owned is gone", empty, |_| ()).await;
    cluster.end().await;
}

/// Pods whose containers said what they had to say.
async fn end_pods(cluster: &Cluster, phase: &str) {
    for pod in pods(&cluster.store).iter().filter(|pod| pod.is_ready() && pod.is_active()) {
        cluster
            .change("pods", "team", &pod.meta().name, Some("status"), |pod| {
                pod["status"]["phase"] = json!(phase);
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_lives_through_the_real_api() {
    let mut cluster = Cluster::start().await;
    let template =
        json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    let job = |name: &str| {
        json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": "team"},
            "spec": {"completions": 2, "parallelism": 2, "template": template},
        })
    };
    cluster.create(JOBS, job("work")).await;
    let running = |s: &Store| pods(s).iter().filter(|pod| pod.is_ready()).count() == 2;
    cluster.until("two run", running, |_| ()).await;
    cluster.is_quiet().await;
    let made = cluster.value(JOBS, "team", "work");
    let uid = made["metadata"]["uid"].clone();
    assert_eq!(
        made["spec"]["selector"]["matchLabels"],
        json!({"batch.kubernetes.io/controller-uid": uid})
    );
    assert_eq!(pods(&cluster.store)[0].meta().labels["job-name"], "work");
    end_pods(&cluster, "Succeeded").await;
    let complete = |s: &Store| {
        let status = s.get(JOBS, "team", "work").expect("the job").value()["status"].clone();
        status["succeeded"] == 2 && !status["completionTime"].is_null()
    };
    cluster.until("it is complete", complete, |_| ()).await;
    cluster.is_quiet().await;
    cluster.delete(JOBS, "team", "work", None).await;
    cluster.until("its pods are gone", |s| pods(s).is_empty(), |_| ()).await;

    cluster.create(JOBS, job("killed")).await;
    cluster.until("two run", running, |_| ()).await;
    cluster.delete(JOBS, "team", "killed", Some("Foreground")).await;
    let gone = |s: &Store| pods(s).is_empty() && s.get(JOBS, "team", "killed").is_none();
    cluster.until("nothing is held", gone, |_| ()).await;

    cluster.create(JOBS, job("left")).await;
    cluster.until("two run", running, |_| ()).await;
    cluster.delete(JOBS, "team", "left", None).await;
    cluster.until("nothing is held for nobody", |s| pods(s).is_empty(), |_| ()).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_and_a_foreground_deletion_end() {
    let mut cluster = Cluster::start().await;
    cluster.create(DEPLOYMENTS, deployment()).await;
    cluster.until("3/3 ready", |s| is_rolled_out(s, "myapp:1.0"), |_| ()).await;
    cluster.delete(DEPLOYMENTS, "team", "myapp", Some("Foreground")).await;
    let owner_last = |s: &Store| {
        let owner = s.get(DEPLOYMENTS, "team", "myapp").is_some();
        assert!(owner || pods(s).is_empty(), "the owner went before its pods");
    };
    cluster
        .until(
            "the deployment is gone",
            |s| s.get(DEPLOYMENTS, "team", "myapp").is_none(),
            owner_last,
        )
        .await;

    cluster.create(DEPLOYMENTS, deployment()).await;
    cluster.until("3/3 ready", |s| is_rolled_out(s, "myapp:1.0"), |_| ()).await;
    cluster.delete("namespaces", "", "team", None).await;
    cluster
        .until("the namespace is gone", |s| s.get("namespaces", "", "team").is_none(), |_| ())
        .await;
    for kind in crate::kinds::all().iter().filter(|kind| kind.namespaced && kind.is_stored()) {
        assert!(
            cluster.store.list(kind.resource, Some("team")).is_empty(),
            "{} are left",
            kind.resource
        );
    }
    cluster.is_quiet().await;
    cluster.end().await;
}

/// Claims, volumes, scheduler and StatefulSet together: the volumes are made where the Pods go, come back with them,
/// and are gone when nobody wants them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_gets_its_volumes_and_keeps_them() {
    const VOLUMES: Resource = super::volumes::VOLUMES;
    const CLAIMS: Resource = super::volumes::CLAIMS;
    let mut cluster = Cluster::start().await;
    cluster.create(super::volumes::CLASSES, super::volumes::local_path::class()).await;
    cluster
        .change("nodes", "", "n", None, |n| {
            n["metadata"]["labels"]["kubernetes.io/hostname"] = json!("n");
        })
        .await;
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": "team"},
        "spec": {
            "replicas": 2, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {"containers": [{
                    "name": "c", "image": "i:1", "volumeMounts": [{"name": "data", "mountPath": "/d"}],
                }]},
            },
            "volumeClaimTemplates": [{
                "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            }],
        },
    });
    cluster.create(STATEFULSETS, set).await;
    let ready = |n: i64| {
        move |s: &Store| {
            let set = s.get(STATEFULSETS, "team", "db").expect("it exists").value();
            set["status"]["readyReplicas"].as_i64().unwrap_or(0) == n
                && set["status"]["replicas"] == n
        }
    };
    cluster.until("2/2 ready", ready(2), |_| ()).await;
    let volume_of = |s: &Store| {
        let claim = s.get(CLAIMS, "team", "data-db-1").expect("a claim").value();
        assert_eq!(claim["spec"]["storageClassName"], "local-path");
        claim["spec"]["volumeName"].as_str().expect("a volume").to_owned()
    };
    let name = volume_of(&cluster.store);
    let bound = |s: &Store| {
        s.list(VOLUMES, None).iter().filter(|v| v.value()["status"]["phase"] == "Bound").count()
    };
    cluster.until("both volumes bound", |s| bound(s) == 2, |_| ()).await;
    cluster.is_quiet().await;

    // Gone and back: the same volume, however often.
    for replicas in [1, 2] {
        cluster
            .change(STATEFULSETS, "team", "db", None, |s| s["spec"]["replicas"] = json!(replicas))
            .await;
        cluster.until("scaled", ready(replicas), |_| ()).await;
    }
    assert_eq!(volume_of(&cluster.store), name);

    // A claim in use stays until its Pod is gone; then the volume goes, too.
    cluster.delete(CLAIMS, "team", "data-db-1", None).await;
    assert!(cluster.store.get(CLAIMS, "team", "data-db-1").is_some());
    cluster.change(STATEFULSETS, "team", "db", None, |s| s["spec"]["replicas"] = json!(1)).await;
    cluster.until("the volume is gone", |s| s.get(VOLUMES, "", &name).is_none(), |_| ()).await;
    cluster.is_quiet().await;
    cluster.end().await;
}
