//! Tells people what their Services ask for in vain: once in the log and once as an event.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use super::plan::Warning;

/// Remembers what has been said.
pub(crate) struct Announcer {
    client: Client,
    node_name: String,
    said: BTreeSet<Warning>,
}

impl Announcer {
    pub(crate) fn new(client: Client, node_name: String) -> Announcer {
        Announcer { client, node_name, said: BTreeSet::new() }
    }

    /// Says what is new among `warnings`, which are all that hold now.
    pub(crate) fn announce(&mut self, warnings: Vec<Warning>) {
        let warnings: BTreeSet<Warning> = warnings.into_iter().collect();
        for warning in warnings.difference(&self.said) {
            tracing::warn!("{warning}");
            let api = Api::namespaced(self.client.clone(), &warning.namespace);
            let event = event(warning, &self.node_name, jiff::Timestamp::now());
            // An event is a courtesy: nobody waits for it, and rules do not depend on it.
            tokio::spawn(async move {
                if let Err(error) = api.create(&PostParams::default(), &event).await {
                    tracing::debug!(%error, "event not recorded");
                }
            });
        }
        self.said = warnings;
    }
}

fn event(warning: &Warning, node_name: &str, now: jiff::Timestamp) -> Event {
    let time = Some(Time(now));
    Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}.", warning.service)),
            namespace: Some(warning.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Service".into()),
            namespace: Some(warning.namespace.clone()),
            name: Some(warning.service.clone()),
            uid: Some(warning.uid.clone()),
            ..ObjectReference::default()
        },
        type_: Some("Warning".into()),
        reason: Some("UnsupportedService".into()),
        message: Some(format!("{}: {}", warning.field, warning.problem)),
        source: Some(EventSource {
            component: Some("kobune-proxy".into()),
            host: Some(node_name.into()),
        }),
        first_timestamp: time.clone(),
        last_timestamp: time,
        count: Some(1),
        ..Event::default()
    }
}
