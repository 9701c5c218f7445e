//! What the node tells the API of itself: registration, status, Lease.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::facts::{self, HostFacts, Pressure};
use super::options::NodeOptions;
use super::status::{self, Input};
use crate::events::{Note, Recorder};
use crate::image::Image;

const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Upstream's `--node-status-update-frequency`: how often the node looks whether something changed.
const LOOK: Duration = Duration::from_secs(10);
/// Upstream's `--node-status-report-frequency`: how often it reports without any change.
const REPORT: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_secs(1);

/// Creates the Node, or takes over the one of that name. Tries until the API answers.
pub(super) async fn register(
    client: &Client,
    options: &NodeOptions,
    facts: &HostFacts,
    controllers: &BTreeSet<String>,
) -> Node {
    let starting = Input {
        options,
        facts,
        controllers,
        pressure: Pressure::default(),
        images: &[],
        not_ready: Some("the network of the node is not set up yet"),
    };
    let api = Api::<Node>::all(client.clone());
    loop {
        match try_register(&api, &starting).await {
            Ok(node) => return node,
            Err(error) => tracing::warn!(%error, "register the node"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn try_register(api: &Api<Node>, input: &Input<'_>) -> Result<Node, kube::Error> {
    let name = &input.options.node_name;
    match api.create(&PostParams::default(), &status::object(input, Timestamp::now())).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let labels = status::labels(input.options, input.facts);
            let patch = json!({ "metadata": { "labels": labels } });
            api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
        }
        other => other,
    }
}

/// Waits until the control plane has given this node a range of Pod addresses.
pub(super) async fn pod_cidr(client: &Client, name: &str) -> String {
    let cidr = |node: &Node| {
        node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone()).filter(|cidr| !cidr.is_empty())
    };
    let api = Api::<Node>::all(client.clone());
    loop {
        match await_condition(api.clone(), name, move |node: Option<&Node>| {
            node.is_some_and(|node| cidr(node).is_some())
        })
        .await
        {
            Ok(Some(node)) => {
                if let Some(cidr) = cidr(&node) {
                    return cidr;
                }
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "wait for the node's podCIDR"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Renews the Lease until the node shuts down.
pub(super) async fn keep_lease(context: Arc<Context>, shutdown: CancellationToken) {
    let api = Api::<Lease>::namespaced(context.client.clone(), LEASE_NAMESPACE);
    let mut ticks = tokio::time::interval(context.options.lease_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        while let Err(error) = renew(&api, &context).await {
            tracing::warn!(%error, "renew the node's lease");
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }
}

async fn renew(api: &Api<Lease>, context: &Context) -> Result<(), kube::Error> {
    let name = &context.options.node_name;
    let now = Timestamp::now();
    let patch = json!({ "spec": { "holderIdentity": name, "renewTime": MicroTime(now) } });
    match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let owner = Api::<Node>::all(context.client.clone()).get_opt(name).await?;
            api.create(&PostParams::default(), &lease(context, owner.as_ref(), now)).await.map(drop)
        }
        other => other.map(drop),
    }
}

fn lease(context: &Context, owner: Option<&Node>, now: Timestamp) -> Lease {
    let name = &context.options.node_name;
    let owner = owner.and_then(|node| node.metadata.uid.clone()).map(|uid| OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.clone(),
        uid,
        ..OwnerReference::default()
    });
    Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(LEASE_NAMESPACE.into()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(40),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    }
}

/// Keeps the Node's status true until the node shuts down.
pub(super) async fn keep_status(
    context: Arc<Context>,
    facts: HostFacts,
    shutdown: CancellationToken,
) {
    let api = Api::<Node>::all(context.client.clone());
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reported: Option<tokio::time::Instant> = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let due = reported.is_none_or(|at| at.elapsed() >= REPORT);
        match look(&api, &context, &facts, due).await {
            Ok(true) => reported = Some(tokio::time::Instant::now()),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "report the node's status"),
        }
    }
}

/// Writes the status if it is due or has changed; returns whether it was written.
async fn look(
    api: &Api<Node>,
    context: &Arc<Context>,
    facts: &HostFacts,
    due: bool,
) -> Result<bool, kube::Error> {
    let name = &context.options.node_name;
    let observed = observe(context).await;
    let input = Input {
        options: &context.options,
        facts,
        controllers: &context.sandbox.cgroups.controllers,
        pressure: observed.0,
        images: &observed.1,
        not_ready: None,
    };
    let node = match api.get_opt(name).await? {
        Some(node) => node,
        // Somebody deleted it; a node that runs is registered.
        None => try_register(api, &input).await?,
    };
    let before = node.status.unwrap_or_default();
    let after = status::status(&input, &before, Timestamp::now());
    if !due && !status::differs(&before, &after) {
        return Ok(false);
    }
    let patch = json!({ "status": after });
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| true)
}

async fn observe(context: &Arc<Context>) -> (Pressure, Vec<Image>) {
    let data_dir = context.options.data_dir.clone();
    let images = Arc::clone(&context.images);
    let look = move || (facts::pressure(&data_dir), images.list().unwrap_or_default());
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

/// How events name a node.
pub(super) fn about_node(name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        // As upstream: a node's events carry its name for a uid.
        uid: Some(name.into()),
        name: Some(name.into()),
        ..ObjectReference::default()
    }
}

/// Says what people should know of a node that has just started.
pub(super) fn announce(recorder: &Recorder, node: &Node, missing: &[&str]) {
    let name = node.metadata.name.clone().unwrap_or_default();
    let about = about_node(&name);
    let note = |warning, reason: &str, message: String| Note {
        about: about.clone(),
        warning,
        reason: reason.into(),
        message,
    };
    recorder.record(note(false, "Starting", "Starting kubelet.".into()));
    if !missing.is_empty() {
        recorder.record(note(true, "CgroupLimitsMissing", status::missing_message(missing)));
    }
    recorder.record(note(false, "NodeReady", format!("Node {name} status is now: NodeReady")));
}
