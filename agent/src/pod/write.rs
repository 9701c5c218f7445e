//! Keeps the API's copy of a Pod's status true: one write at a time, only when something changed, never over
//! somebody else's newer version.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::state::PodState;
use super::status::{HostFacts, build};
use super::worker::Msg;
use crate::node::context::Context;

/// Between a failed write and the next try.
const RETRY: Duration = Duration::from_secs(1);
/// A Pod that is still Pending after a change may be Running in a moment: that long one write is saved.
const PATIENCE: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Writer {
    in_flight: bool,
    settled: bool,
    /// When a change that can wait was first seen.
    waiting_since: Option<Instant>,
    /// The object is gone: nothing to write to.
    closed: bool,
    failed: bool,
}

impl Writer {
    pub(super) fn is_settled(&self) -> bool {
        self.settled || self.closed
    }

    /// When [`Writer::write`] has to be called again although nothing happened.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting_since.map(|since| since + PATIENCE)
    }

    /// Starts a write if the API's status differs and none is under way.
    pub(super) fn write(
        &mut self,
        context: &Arc<Context>,
        pod: &Arc<Pod>,
        state: &PodState,
        outbox: &mpsc::UnboundedSender<Msg>,
    ) {
        if self.in_flight || self.closed {
            self.settled = false;
            return;
        }
        let host = HostFacts { ip: context.options.node_ip.to_string() };
        let status = build(pod, state, &host, Timestamp::now());
        let Some(patch) = patch(pod, &status) else {
            self.settled = true;
            self.waiting_since = None;
            return;
        };
        self.settled = false;
        if can_wait(pod, &status) {
            let since = *self.waiting_since.get_or_insert_with(Instant::now);
            if since.elapsed() < PATIENCE {
                return;
            }
        }
        self.waiting_since = None;
        self.in_flight = true;
        let delay = if std::mem::take(&mut self.failed) { RETRY } else { Duration::ZERO };
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let name = pod.metadata.name.clone().unwrap_or_default();
        let api = Api::<Pod>::namespaced(context.client.clone(), &namespace);
        let outbox = outbox.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let result = send(&api, &name, patch).await;
            let _ = outbox.send(Msg::Written(Box::new(result)));
        });
    }

    /// Takes a write's result; returns the newest object if there is one.
    pub(super) fn finish(&mut self, result: Result<Pod, kube::Error>) -> Option<Pod> {
        self.in_flight = false;
        match result {
            Ok(pod) => return Some(pod),
            Err(kube::Error::Api(status)) if status.code == 404 => self.closed = true,
            Err(error) => {
                tracing::warn!(%error, "write the status of a pod");
                self.failed = true;
            }
        }
        None
    }
}

/// Whether the change is one on the way to Running, of interest only if the way is long.
fn can_wait(pod: &Pod, status: &PodStatus) -> bool {
    let pending = |phase: Option<&str>| phase.is_none_or(|phase| phase == "Pending");
    let before = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pending(before) && pending(status.phase.as_deref())
}

/// On a conflict the newest object comes back: the worker builds the status anew from it.
async fn send(api: &Api<Pod>, name: &str, patch: Value) -> Result<Pod, kube::Error> {
    match api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 409 => api.get(name).await,
        other => other,
    }
}

/// The merge patch from the object's status to `status`; None if they say the same.
fn patch(pod: &Pod, status: &PodStatus) -> Option<Value> {
    let old = object(pod.status.as_ref());
    let new = object(Some(status));
    let mut changes = Map::new();
    for (key, value) in &new {
        if old.get(key) != Some(value) {
            changes.insert(key.clone(), value.clone());
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        changes.insert(key.clone(), Value::Null);
    }
    if changes.is_empty() {
        return None;
    }
    let meta = &pod.metadata;
    Some(json!({
        "metadata": { "uid": meta.uid, "resourceVersion": meta.resource_version },
        "status": changes,
    }))
}

/// A status as JSON without what means nothing: nulls and empty objects and lists.
fn object(status: Option<&PodStatus>) -> Map<String, Value> {
    match status.map(serde_json::to_value) {
        Some(Ok(mut value)) => {
            prune(&mut value);
            match value {
                Value::Object(map) => map,
                _ => Map::new(),
            }
        }
        _ => Map::new(),
    }
}

fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(prune);
            map.retain(|_, value| !is_nothing(value));
        }
        Value::Array(list) => list.iter_mut().for_each(prune),
        _ => {}
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: &str) -> Pod {
        let text =
            format!(r#"{{"metadata":{{"uid":"u","resourceVersion":"7"}},"status":{status}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    fn status(text: &str) -> PodStatus {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn only_what_changed_is_written_and_what_vanished_is_nulled() {
        let pod = pod(r#"{"phase":"Pending","reason":"x","hostIP":"1.2.3.4"}"#);
        let patch = patch(&pod, &status(r#"{"phase":"Running","hostIP":"1.2.3.4"}"#)).unwrap();
        assert_eq!(patch["status"], json!({ "phase": "Running", "reason": null }));
        assert_eq!(patch["metadata"], json!({ "uid": "u", "resourceVersion": "7" }));
    }

    #[test]
    fn what_means_nothing_is_no_change() {
        let pod = pod(
            r#"{"containerStatuses":[{"name":"a","lastState":{},"ready":true,"image":"","imageID":"","restartCount":0}]}"#,
        );
        let same = r#"{"containerStatuses":[{"name":"a","ready":true,"image":"","imageID":"","restartCount":0}],"conditions":[]}"#;
        assert_eq!(patch(&pod, &status(same)), None);
    }
}
