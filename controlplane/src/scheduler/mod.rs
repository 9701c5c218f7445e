//! The scheduler: gives each Pod a node.
//!
//! `core` decides, purely, on an account of the nodes that events keep up to date. This file is the edge: it
//! feeds events in, writes bindings and conditions, and reports refused writes back. It never waits for a
//! write before it decides on the next Pod.

mod core;
mod filter;
mod need;
mod nodes;
mod score;
mod volumes;
mod waiting;

#[cfg(test)]
mod tests;

pub(crate) use filter::{suits, tolerates};

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::core::{Core, Decision, Verdict};
use crate::context::Ctx;
use crate::controllers::look;
use crate::controllers::outcome::Note;
use crate::controllers::runner::{Seen, Tools};
use crate::object::Object;
use crate::store::Subscription;
use crate::writer::Change;

const USER: &str = "system:kube-scheduler";
/// Writes in flight; they share the store's commits.
const AT_ONCE: usize = 256;

/// Schedules until `ctx.shutdown`; returns when the writes in flight are done.
pub fn run(ctx: Ctx) -> impl Future<Output = ()> + Send {
    // Subscribed before the first poll: whatever is written from now on is seen.
    let subscription = ctx.subscribe();
    async move {
        let mut tools = crate::controllers::tools(&ctx);
        tools.recorder = tools.recorder.for_component(self::core::NAME);
        serve(tools, subscription, ctx.shutdown.clone()).await;
    }
}

/// Decides and writes until `shutdown`.
async fn serve(tools: Tools, mut events: Subscription, shutdown: CancellationToken) {
    let mut core = Core::default();
    // Nodes first: Pods are accounted to nodes that are known. Claims before the Pods that name them.
    for resource in volumes::WATCHED.into_iter().chain(["nodes", "pods"]) {
        for object in tools.reader.list(resource, None) {
            let seen = Seen { resource, old: None, new: Some(&object) };
            core.observe(seen, Some(&object), Instant::now());
        }
    }
    let mut writes = JoinSet::new();
    loop {
        while let Ok(event) = events.try_recv() {
            observe(&mut core, &event);
        }
        while writes.len() < AT_ONCE
            && let Some(decision) = core.next(Instant::now())
        {
            writes.spawn(perform(tools.clone(), decision));
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = writes.join_next() => {
                if let Ok(Err(uid)) = ended {
                    core.refused(&uid, Instant::now());
                }
            }
            event = events.recv() => match event {
                Some(event) => observe(&mut core, &event),
                None => break,
            },
            () = timer(core.next_due()) => {}
        }
    }
    while writes.join_next().await.is_some() {}
}

async fn timer(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn observe(core: &mut Core, event: &crate::store::Event) {
    let seen =
        Seen { resource: event.resource, old: event.old.as_deref(), new: event.new.as_deref() };
    core.observe(seen, event.new.as_ref(), Instant::now());
}

/// Writes a decision; the uid of the Pod comes back when its binding was refused.
async fn perform(tools: Tools, decision: Decision) -> Result<(), String> {
    let Decision { pod, verdict } = decision;
    match verdict {
        Verdict::Bind { node } => bind(&tools, &pod, node).await,
        Verdict::Prepare { changes, .. } => prepare(&tools, &pod, changes).await,
        Verdict::Wait { reason, message } => {
            explain(&tools, &pod, reason, &message).await;
            Ok(())
        }
    }
}

/// Chooses volumes, or tells their provisioner the node; the Pod is bound when they are.
async fn prepare(tools: &Tools, pod: &Arc<Object>, changes: Vec<Change>) -> Result<(), String> {
    for change in changes {
        if let Err(error) = tools.writer.apply(USER, change).await {
            if !error.is_not_found() && !error.is_conflict() {
                let text = format!("running PreBind plugin \"VolumeBinding\": {error}");
                tools.recorder.note(Note::warning(pod, "FailedScheduling", text));
            }
            return Err(pod.meta.uid.clone());
        }
    }
    Ok(())
}

async fn bind(tools: &Tools, pod: &Arc<Object>, node: String) -> Result<(), String> {
    let (namespace, name) = (pod.meta.namespace.clone(), pod.meta.name.clone());
    let uid = pod.meta.uid.clone();
    let text = format!("Successfully assigned {namespace}/{name} to {node}");
    match tools.writer.apply(USER, Change::Bind { namespace, name, uid, node }).await {
        Ok(_) => {
            tools.recorder.note(Note::normal(pod, "Scheduled", text));
            Ok(())
        }
        Err(error) => {
            if !error.is_not_found() && !error.is_conflict() {
                let text = format!("binding rejected: {error}");
                tools.recorder.note(Note::warning(pod, "FailedScheduling", text));
            }
            Err(pod.meta.uid.clone())
        }
    }
}

/// Says why a Pod waits, where people look: in an event and in its conditions.
async fn explain(tools: &Tools, pod: &Object, reason: &'static str, message: &str) {
    if reason == "Unschedulable" {
        tools.recorder.note(Note::warning(pod, "FailedScheduling", message));
    }
    // A conflict means that somebody else wrote it since; a few tries are plenty, the next decision has more.
    for _ in 0..3 {
        let current = tools.reader.get("pods", &pod.meta.namespace, &pod.meta.name);
        let Some(current) = current.filter(|current| current.meta.uid == pod.meta.uid) else {
            return;
        };
        let Some(change) = waiting_condition(&current, reason, message, tools.clock.now()) else {
            return;
        };
        match tools.writer.apply(USER, change).await {
            Err(error) if error.is_conflict() => {}
            Err(error) => return tracing::debug!(%error, ?current, "say why the pod waits"),
            Ok(_) => return,
        }
    }
}

/// The write that makes PodScheduled say why; None when it says so already, or the Pod has a node by now.
fn waiting_condition(pod: &Object, reason: &str, message: &str, now: Timestamp) -> Option<Change> {
    let view: Arc<Pod> = pod.view().ok()?;
    if view.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) {
        return None;
    }
    let status = view.status.clone().unwrap_or_default();
    let mut conditions = status.conditions.unwrap_or_default();
    let known = conditions.iter().find(|c| c.type_ == "PodScheduled").cloned();
    let same_status = known.as_ref().filter(|c| c.status == "False");
    if same_status.is_some_and(|c| {
        c.reason.as_deref() == Some(reason) && c.message.as_deref() == Some(message)
    }) {
        return None;
    }
    let since = same_status.and_then(|c| c.last_transition_time.clone());
    conditions.retain(|c| c.type_ != "PodScheduled");
    conditions.push(PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: since.or_else(|| Some(look::stamp(now))),
        ..PodCondition::default()
    });
    let mut value = pod.value();
    value["status"]["conditions"] = json!(conditions);
    Some(Change::Update { resource: "pods", subresource: Some("status"), object: value })
}
