//! One phase after the other: create, wait, ask through the VIP, look at the result.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::{Condition, await_condition};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::objects::{self, NAME, NAMESPACE, PORT, REPLICAS};
use super::progress::Progress;
use super::screen::{self, Facts, NodeFact, PodFact};
use crate::cli::Failure;

/// All of it must be over by then, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between Ready and the rule in the kernel there are milliseconds.
const VIP_PATIENCE: Duration = Duration::from_secs(10);
const REQUESTS: usize = 12;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Wait until the node can take Pods.
pub(crate) async fn node_ready(
    client: &Client,
    node: &str,
    progress: &mut Progress,
) -> Result<(), Failure> {
    progress.waiting("waiting for the node");
    let nodes: Api<Node> = Api::all(client.clone());
    let ready = wait(nodes, node, |node: Option<&Node>| node.is_some_and(is_node_ready));
    tokio::time::timeout(PATIENCE, ready)
        .await
        .map_err(|_| format!("node {node:?} was not Ready after {PATIENCE:?}"))??;
    progress.done(format!("node {node} is Ready"));
    Ok(())
}

/// Run the demo against a cluster of one node; prints as it goes.
pub(crate) async fn show(client: &Client, progress: &mut Progress) -> Result<(), Failure> {
    match tokio::time::timeout(PATIENCE, phases(client, progress)).await {
        Ok(Ok(facts)) => {
            progress.clear();
            print!("{}", screen::page(&facts));
            Ok(())
        }
        failed => {
            progress.clear();
            explain(client).await;
            match failed {
                Ok(Err(e)) => Err(e),
                _ => Err(format!("the demo was not over after {PATIENCE:?}").into()),
            }
        }
    }
}

async fn phases(client: &Client, progress: &mut Progress) -> Result<Facts, Failure> {
    progress.waiting("creating a Namespace, a Deployment and a Service");
    let service = create(client).await?;
    progress.waiting("waiting for the Pods");
    pods_ready(client, progress).await?;
    progress.done(format!("{REPLICAS} Pods are Ready"));

    progress.waiting("asking the Service");
    let vip = vip(&service)?;
    let first = first_answer(vip).await?;
    progress.done("first answer through the Service");
    let mut answers = vec![first];
    for _ in 1..REQUESTS {
        answers.push(ask(vip).await?);
    }
    let mut facts = look(client).await?;
    facts.vip = vip.to_string();
    facts.answers = answers;
    facts.phases = progress.phases.clone();
    Ok(facts)
}

async fn create(client: &Client) -> Result<Service, Failure> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let old = namespaces.get_opt(NAMESPACE).await.map_err(failed("look for", NAMESPACE))?;
    if old.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
        wait(namespaces.clone(), NAMESPACE, |n: Option<&Namespace>| n.is_none()).await?;
    }
    put(&namespaces, NAMESPACE, &objects::namespace()).await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    put(&deployments, NAME, &objects::deployment()).await?;
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    put(&services, NAME, &objects::service()).await
}

/// Create, or bring what an interrupted demo left to what it should be.
async fn put<K>(api: &Api<K>, name: &str, object: &K) -> Result<K, Failure>
where
    K: Clone + Debug + Serialize + DeserializeOwned,
{
    match api.create(&PostParams::default(), object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let patch = Patch::Merge(object);
            api.patch(name, &PatchParams::default(), &patch).await.map_err(failed("update", name))
        }
        result => result.map_err(failed("create", name)),
    }
}

async fn pods_ready(client: &Client, progress: &Progress) -> Result<(), Failure> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let stream = watcher(pods, watcher::Config::default()).default_backoff();
    tokio::pin!(stream);
    let mut ready = BTreeMap::new();
    while let Some(event) = stream.try_next().await? {
        match event {
            watcher::Event::Init => ready.clear(),
            watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) => {
                ready.insert(pod.name_any(), is_pod_ready(&pod));
            }
            watcher::Event::Delete(pod) => drop(ready.remove(&pod.name_any())),
            watcher::Event::InitDone => {}
        }
        let count = ready.values().filter(|ready| **ready).count();
        progress.waiting(format!("waiting for the Pods: {count} of {REPLICAS} are Ready"));
        if count >= REPLICAS {
            return Ok(());
        }
    }
    Err("the watch of the demo's Pods ended".into())
}

async fn wait<K, C>(api: Api<K>, name: &str, condition: C) -> Result<(), Failure>
where
    K: Clone + Debug + Send + DeserializeOwned + kube::Resource + 'static,
    C: Condition<K>,
{
    await_condition(api, name, condition).await.map_err(|e| format!("wait for {name:?}: {e}"))?;
    Ok(())
}

fn failed(verb: &'static str, name: &str) -> impl FnOnce(kube::Error) -> Failure {
    move |e| format!("{verb} {name:?}: {e}").into()
}

fn is_node_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn is_pod_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn vip(service: &Service) -> Result<SocketAddr, Failure> {
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_ref());
    let address: Option<IpAddr> = address.and_then(|text| text.parse().ok());
    Ok(SocketAddr::new(address.ok_or("the Service has no address")?, PORT))
}

async fn first_answer(vip: SocketAddr) -> Result<(String, Duration), Failure> {
    let deadline = Instant::now() + VIP_PATIENCE;
    loop {
        match ask(vip).await {
            Err(e) if Instant::now() > deadline => return Err(e),
            // The kernel tells nobody when a rule takes effect.
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            answer => return answer,
        }
    }
}

/// One request on one connection: who answered, and after how long.
async fn ask(vip: SocketAddr) -> Result<(String, Duration), Failure> {
    let start = Instant::now();
    let exchange = async {
        let mut stream = TcpStream::connect(vip).await?;
        let request = format!("GET / HTTP/1.1\r\nhost: {vip}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, exchange)
        .await
        .map_err(|_| format!("ask {vip}: no answer after {REQUEST_TIMEOUT:?}"))?
        .map_err(|e| format!("ask {vip}: {e}"))?;
    let took = start.elapsed();
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    let who: serde_json::Value =
        serde_json::from_str(body).map_err(|e| format!("read the answer of {vip}: {e}"))?;
    let pod = who["pod"].as_str().ok_or_else(|| format!("{vip} does not say who it is"))?;
    Ok((pod.to_owned(), took))
}

async fn look(client: &Client) -> Result<Facts, Failure> {
    let all = ListParams::default();
    let nodes: Api<Node> = Api::all(client.clone());
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let nodes = nodes.list(&all).await.map_err(failed("list", "nodes"))?;
    let pods = pods.list(&all).await.map_err(failed("list", "pods"))?;
    let pods = pods.iter().filter(|pod| is_pod_ready(pod));
    Ok(Facts {
        nodes: nodes.iter().map(node_fact).collect(),
        pods: pods.map(pod_fact).collect(),
        service: NAME.to_owned(),
        ..Facts::default()
    })
}

fn node_fact(node: &Node) -> NodeFact {
    let status = node.status.clone().unwrap_or_default();
    let addresses = status.addresses.unwrap_or_default();
    let internal = addresses.into_iter().find(|a| a.type_ == "InternalIP");
    NodeFact {
        name: node.name_any(),
        status: if is_node_ready(node) { "Ready" } else { "NotReady" }.into(),
        address: internal.map(|a| a.address).unwrap_or_default(),
        pod_cidr: node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone()).unwrap_or_default(),
        version: status.node_info.map(|info| info.kubelet_version).unwrap_or_default(),
    }
}

fn pod_fact(pod: &Pod) -> PodFact {
    let status = pod.status.clone().unwrap_or_default();
    let ready = if is_pod_ready(pod) { "Ready" } else { "not Ready" };
    PodFact {
        name: pod.name_any(),
        ready: format!("{}, {ready}", status.phase.unwrap_or_default()),
        address: status.pod_ip.unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
    }
}

/// What there is to know about a demo that did not work.
async fn explain(client: &Client) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let events: Api<Event> = Api::namespaced(client.clone(), NAMESPACE);
    let all = ListParams::default();
    for pod in pods.list(&all).await.map(|list| list.items).unwrap_or_default() {
        let fact = pod_fact(&pod);
        eprintln!("  pod {}: {} {}", fact.name, fact.ready, fact.address);
    }
    for event in events.list(&all).await.map(|list| list.items).unwrap_or_default() {
        let object = event.involved_object.name.unwrap_or_default();
        let (reason, message) =
            (event.reason.unwrap_or_default(), event.message.unwrap_or_default());
        eprintln!("  event {object}: {reason}: {message}");
    }
}

/// Delete what the demo created and wait until its Pods are gone.
pub(crate) async fn remove(client: &Client, patience: Duration) -> Result<(), Failure> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    match namespaces.delete(NAMESPACE, &DeleteParams::background()).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(e) => return Err(failed("delete", NAMESPACE)(e)),
    }
    let gone = wait(namespaces, NAMESPACE, |n: Option<&Namespace>| n.is_none());
    match tokio::time::timeout(patience, gone).await {
        Ok(result) => result,
        Err(_) => Err(format!("namespace {NAMESPACE:?} is not gone after {patience:?}").into()),
    }
}
