//! The Endpoints object of a Service: one object, addresses split by readiness. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, ServicePort,
};
use serde_json::json;

use super::{Backed, address, hostname, keys, labels, target_port};
use crate::controllers::look::{self, Labels, PodView};
use crate::controllers::outcome::Outcome;
use crate::controllers::runner::{Controller, Seen};
use crate::object::{Key, Resource};
use crate::reader::Reader;
use crate::writer::Change;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// More addresses than this do not fit; those left out are still in the slices.
const MOST: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

pub struct Legacy;

impl Controller for Legacy {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:endpoint-controller"
    }

    fn watches(&self) -> Vec<Resource> {
        vec!["services", "pods", "endpoints"]
    }

    fn keys(&self, world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        keys(world, seen, |endpoints| Some(&endpoints.meta.name))
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, _now: Timestamp) -> Outcome {
        let mut outcome = Outcome::idle();
        if let Some(backed) = Backed::observe(world, key) {
            outcome.together(plan(world, &backed).map(Into::into).into_iter().collect());
        } else if world.get("services", &key.namespace, &key.name).is_none()
            && let Some(left) = world.get("endpoints", &key.namespace, &key.name)
            && left.meta.labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER)
            && !look::is_deleting(&left.meta)
        {
            outcome.push(look::deletion(&left));
        }
        outcome
    }
}

fn plan(world: &dyn Reader, backed: &Backed) -> Option<Change> {
    let (subsets, truncated) = subsets(world, backed);
    let mut labels: Labels = labels(backed);
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let meta = &backed.object.meta;
    let Some(object) = world.get("endpoints", &meta.namespace, &meta.name) else {
        let mut object = json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": meta.name, "namespace": meta.namespace, "labels": labels},
            "subsets": subsets,
        });
        if truncated {
            object["metadata"]["annotations"][OVER_CAPACITY] = json!("truncated");
        }
        return Some(Change::Create { resource: "endpoints", object });
    };
    let view: std::sync::Arc<Endpoints> = object.view().ok()?;
    let known = view.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(OVER_CAPACITY));
    let same = view.subsets.clone().unwrap_or_default() == subsets;
    if same && object.meta.labels == labels && known == truncated {
        return None;
    }
    Some(look::edited(&object, |value| {
        value["subsets"] = json!(subsets);
        value["metadata"]["labels"] = json!(labels);
        if truncated {
            value["metadata"]["annotations"][OVER_CAPACITY] = json!("truncated");
        } else if let Some(annotations) = value["metadata"]["annotations"].as_object_mut() {
            annotations.remove(OVER_CAPACITY);
        }
    }))
}

/// Addresses by the ports that they offer, ready ones first when they do not all fit.
fn subsets(world: &dyn Reader, backed: &Backed) -> (Vec<EndpointSubset>, bool) {
    let mut pods = backed.candidates(world);
    if !backed.publishes_not_ready() {
        pods.retain(|pod| !pod.is_terminating());
    }
    pods.sort_by_key(|pod| !pod.is_ready());
    let truncated = pods.len() > MOST;
    pods.truncate(MOST);
    let mut subsets: Vec<EndpointSubset> = Vec::new();
    for pod in &pods {
        let ports = ports(backed, pod);
        let index = subsets.iter().position(|subset| subset.ports == ports).unwrap_or_else(|| {
            subsets.push(EndpointSubset { ports, ..Default::default() });
            subsets.len() - 1
        });
        let subset = &mut subsets[index];
        let ready = backed.publishes_not_ready() || pod.is_ready();
        let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(endpoint(backed, pod));
    }
    for subset in &mut subsets {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses].into_iter().flatten() {
            list.sort_by(|a, b| a.ip.cmp(&b.ip));
        }
    }
    subsets.sort_by_key(first_address);
    (subsets, truncated)
}

fn first_address(subset: &EndpointSubset) -> Option<String> {
    let all = subset.addresses.iter().chain(&subset.not_ready_addresses).flatten();
    all.map(|address| address.ip.clone()).min()
}

fn ports(backed: &Backed, pod: &PodView) -> Option<Vec<EndpointPort>> {
    let resolve = |port: &ServicePort| {
        Some(EndpointPort {
            name: port.name.clone(),
            port: target_port(port, &pod.pod)?,
            protocol: Some(super::protocol(port.protocol.as_deref()).into()),
            app_protocol: port.app_protocol.clone(),
        })
    };
    let ports: Vec<_> = backed.ports().iter().filter_map(resolve).collect();
    (!ports.is_empty()).then_some(ports)
}

fn endpoint(backed: &Backed, pod: &PodView) -> EndpointAddress {
    EndpointAddress {
        ip: address(&pod.pod).unwrap_or_default().to_owned(),
        hostname: hostname(&pod.pod, &backed.object.meta.name),
        node_name: Some(pod.node()).filter(|node| !node.is_empty()).map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some(pod.meta().namespace.clone()),
            name: Some(pod.meta().name.clone()),
            uid: Some(pod.meta().uid.clone()),
            ..Default::default()
        }),
    }
}
