//! Several control planes on one etcd, the one that decides killed in the middle of rollouts: nothing is lost, nothing
//! is done twice.
//!
//! Everything runs in a network namespace of its own. The servers are processes; this one looks at etcd as a store, so
//! that it sees every event, and plays the kubelet.

#[allow(dead_code)]
#[path = "store/bed.rs"]
mod bed;
#[allow(dead_code)]
#[path = "store/etcd.rs"]
mod etcd;
#[allow(dead_code)]
#[path = "store/model.rs"]
mod model;
#[allow(dead_code)]
#[path = "store/suite.rs"]
mod suite;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kobune_controlplane::object::Object;
use kobune_controlplane::reader::Reader;
use kobune_controlplane::store::{Store, Subscription, etcd::Options as Place};
use kobune_controlplane::{ControlPlane, Options};
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

const DIRECTORY: &str = "KOBUNE_TEST_DIRECTORY";
const STORE: &str = "etcd://127.0.0.1:2379/several";
const SERVERS: usize = 3;
const REPLICAS: usize = 12;
const SURGE: usize = 2;
const KILLS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(90);

fn options(dir: &Path) -> Options {
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Options {
        data_dir: dir.into(),
        bind_address: localhost,
        advertise_address: localhost,
        secure_port: 0,
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        node_cidr_mask: 24,
        load_balancer_pool: Default::default(),
        extra_sans: Vec::new(),
        etcd: Some(Place::parse(STORE, None).unwrap()),
    }
}

/// A server, until its standard input ends or it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "is started by the test below"]
async fn server() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let dir = Path::new(&dir);
    let plane = ControlPlane::start(options(dir)).await.unwrap();
    std::fs::write(dir.join("kubeconfig"), plane.admin_kubeconfig().unwrap()).unwrap();
    writeln!(std::io::stdout(), "\nserves {}", plane.address()).unwrap();
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()))
        .await
        .unwrap()
        .unwrap();
    plane.shutdown().await;
}

struct Server {
    dir: tempfile::TempDir,
    child: Child,
    /// Kept open: a server that cannot write to it ends.
    _lines: Lines<BufReader<ChildStdout>>,
    address: String,
    client: Client,
}

impl Server {
    async fn start(dir: tempfile::TempDir) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "server", "--ignored", "--nocapture"])
            .env(DIRECTORY, dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = lines.by_ref().map_while(Result::ok);
        let address = said.find_map(|line| line.strip_prefix("serves ").map(str::to_owned));
        let address = address.expect("the server has not started");
        let kubeconfig = Kubeconfig::read_from(dir.path().join("kubeconfig")).unwrap();
        let defaults = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &defaults).await.unwrap();
        let client = Client::try_from(config).unwrap();
        Self { dir, child, _lines: lines, address, client }
    }

    /// `kill -9`, and a new life on the same directory.
    async fn replace(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        Self::start(self.dir).await
    }
}

#[test]
fn leaders_killed_in_rollouts_lose_nothing_and_nothing_is_done_twice() {
    etcd::in_a_namespace("inside::rollouts");
}

mod inside {
    #[test]
    #[ignore = "is run by the test above"]
    fn rollouts() {
        super::suite::block_on(super::rollouts());
    }
}

async fn request(
    servers: &[Server],
    method: &str,
    path: &str,
    body: Value,
) -> Result<Value, kube::Error> {
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let deadline = Instant::now() + PATIENCE;
    for server in servers.iter().cycle() {
        let request =
            http::Request::builder().method(method).uri(path).header("content-type", media);
        let request = request.body(serde_json::to_vec(&body).unwrap()).unwrap();
        match server.client.request::<Value>(request).await {
            // The next server may live.
            Err(kube::Error::HyperError(_) | kube::Error::Service(_))
                if Instant::now() < deadline => {}
            other => return other,
        }
    }
    unreachable!("there is a server")
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "app", "namespace": "default"},
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": {"app": "app"}},
            "strategy": {"rollingUpdate": {"maxSurge": SURGE, "maxUnavailable": 1}},
            "template": template(0),
        },
    })
}

fn template(round: usize) -> Value {
    json!({
        "metadata": {"labels": {"app": "app"}},
        "spec": {
            "containers": [{"name": "c", "image": format!("app:{round}")}],
            "nodeName": "n", "terminationGracePeriodSeconds": 1,
        },
    })
}

/// What there is to see: every event, in order.
struct Witness {
    events: Subscription,
    pods: BTreeMap<String, Arc<Object>>,
    created: BTreeSet<String>,
    most: usize,
}

impl Witness {
    async fn next(&mut self) -> Option<Arc<Object>> {
        let event = self.events.recv().await.unwrap();
        if event.resource != "pods" {
            return None;
        }
        let name = event.object().meta.name.clone();
        match &event.new {
            Some(pod) => {
                if event.old.is_none() {
                    assert!(self.created.insert(pod.meta.uid.clone()), "{name} was made twice");
                }
                self.pods.insert(name, pod.clone());
            }
            None => drop(self.pods.remove(&name)),
        }
        self.most = self.most.max(self.pods.len());
        let most = REPLICAS + SURGE;
        assert!(self.pods.len() <= most, "{} Pods, {most} are allowed", self.pods.len());
        event.new.clone()
    }
}

fn image(pod: &Object) -> String {
    pod.value()["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned()
}

/// What a kubelet would do for the Pod now.
fn duty(pod: &Object) -> Option<(&'static str, String, Value)> {
    let path = format!("/api/v1/namespaces/default/pods/{}", pod.meta.name);
    if pod.meta.deletion_timestamp.is_some() {
        return Some(("DELETE", path, json!({"gracePeriodSeconds": 0})));
    }
    if pod.value()["status"]["phase"] == "Running" {
        return None;
    }
    let since = "2024-01-01T00:00:00Z";
    let conditions = json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
    let status = json!({"phase": "Running", "podIP": "10.244.0.2", "conditions": conditions});
    Some(("PATCH", format!("{path}/status"), json!({"status": status})))
}

async fn rollouts() {
    etcd::up();
    let observer = etcd::open(&Place::parse(STORE, None).unwrap()).await;
    let events = observer.subscribe();
    let mut witness = Witness { events, pods: BTreeMap::new(), created: BTreeSet::new(), most: 0 };
    let mut servers = Vec::new();
    for _ in 0..SERVERS {
        servers.push(Server::start(tempfile::tempdir().unwrap()).await);
    }
    // All of them have the same keys.
    let key = |server: &Server| std::fs::read(server.dir.path().join("pki/sa.key")).unwrap();
    assert!(servers.iter().all(|server| key(server) == key(&servers[0])));
    one_at_a_time(&servers).await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    request(&servers, "POST", "/api/v1/nodes", node).await.unwrap();
    let path = "/apis/apps/v1/namespaces/default/deployments";
    request(&servers, "POST", path, deployment()).await.unwrap();
    settle(&observer, &mut witness, &mut servers, 0, usize::MAX).await;
    for round in 1..=KILLS {
        let patch = json!({"spec": {"template": template(round)}});
        request(&servers, "PATCH", &format!("{path}/app"), patch).await.unwrap();
        // Each time in another moment of the rollout.
        let start = Instant::now();
        settle(&observer, &mut witness, &mut servers, round, round * 5 % 17).await;
        eprintln!("round {round}: {:.1} s with a leader's death", start.elapsed().as_secs_f32());
    }
    assert_eq!(witness.most, REPLICAS + SURGE);
    let sets = observer.list("replicasets.apps", None);
    assert_eq!(sets.len(), KILLS + 1, "a ReplicaSet for every template, and no more");
    observer.close();
}

/// What no two may have is given once, also by servers that do not know of each other.
async fn one_at_a_time(servers: &[Server]) {
    let at_once = async |path: &str, object: &dyn Fn(usize) -> Value| {
        let requests = (0..18).map(|n| {
            let servers = &servers[n % SERVERS..=n % SERVERS];
            request(servers, "POST", path, object(n))
        });
        futures::future::join_all(requests).await
    };
    let service = |n| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("s{n}")}, "spec": {"ports": [{"port": 80}]},
        })
    };
    let services = at_once("/api/v1/namespaces/default/services", &service).await;
    let ip = |service: Result<Value, _>| service.unwrap()["spec"]["clusterIP"].to_string();
    assert_eq!(services.into_iter().map(ip).collect::<BTreeSet<_>>().len(), 18);
    let tenant = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "t"}});
    request(servers, "POST", "/api/v1/namespaces", tenant).await.unwrap();
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "7"}},
    });
    request(servers, "POST", "/api/v1/namespaces/t/resourcequotas", quota).await.unwrap();
    let map =
        |n| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{n}")}});
    let maps = at_once("/api/v1/namespaces/t/configmaps", &map).await;
    let taken = maps.iter().filter(|made| made.is_ok()).count();
    // The one with the authority's certificate counts, too, when it comes in time.
    assert!((6..=7).contains(&taken), "{taken} were made where 7 may be");
}

/// Plays the kubelet until the rollout is complete. After so many events of Pods the leader dies.
async fn settle(
    observer: &Store,
    witness: &mut Witness,
    servers: &mut Vec<Server>,
    round: usize,
    kill_after: usize,
) {
    let deadline = Instant::now() + PATIENCE;
    let (mut seen, mut killed) = (0, kill_after == usize::MAX);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let next = tokio::time::timeout(left, witness.next()).await;
        let pods: Vec<_> = witness
            .pods
            .values()
            .map(|p| (image(p), p.meta.deletion_timestamp.is_some()))
            .collect();
        let pod = next.unwrap_or_else(|_| panic!("round {round} does not end: {pods:?}"));
        if let Some((method, path, body)) = pod.as_deref().and_then(duty) {
            match request(servers, method, &path, body).await {
                Ok(_) => {}
                // It is another Pod's turn, or the answer of the last attempt was lost.
                Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {}
                Err(error) => panic!("{error}"),
            }
        }
        seen += usize::from(pod.is_some());
        if !killed && seen > kill_after {
            killed = true;
            let leader = leader(observer, servers);
            let dead = servers.remove(leader);
            servers.push(dead.replace().await);
        }
        let wanted = format!("app:{round}");
        let done = witness.pods.len() == REPLICAS
            && witness.pods.values().all(|pod| image(pod) == wanted && duty(pod).is_none());
        if done && killed && complete(observer) {
            return;
        }
    }
}

fn leader(observer: &Store, servers: &[Server]) -> usize {
    let lease = observer.get("leases.coordination.k8s.io", "kube-system", "kobune").unwrap();
    let holder = lease.value()["spec"]["holderIdentity"].as_str().unwrap().to_owned();
    let found =
        servers.iter().position(|server| holder.starts_with(&format!("{}_", server.address)));
    found.unwrap_or_else(|| panic!("{holder} is none of the servers"))
}

fn complete(observer: &Store) -> bool {
    let object = observer.get("deployments.apps", "default", "app").unwrap().value();
    let status = &object["status"];
    let all = ["replicas", "updatedReplicas", "availableReplicas"];
    status["observedGeneration"] == object["metadata"]["generation"]
        && all.iter().all(|field| status[*field] == REPLICAS)
}
