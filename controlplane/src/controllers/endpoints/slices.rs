//! EndpointSlices of a Service. Pure.
//!
//! One group of slices per set of ports (Pods may resolve a named port differently). An endpoint stays in
//! the slice it is in; freed places are filled before a slice is added; a slice that is as it should be is
//! not written. Slices go with their Service by garbage collection.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use serde_json::json;

use super::{Backed, SLICES, address, hostname, keys, labels, target_port};
use crate::controllers::look::{self, Labels, PodView};
use crate::controllers::outcome::{Act, Outcome};
use crate::controllers::runner::{Controller, Seen};
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;
use crate::writer::Change;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const FULL: usize = 100;

pub struct Slices;

impl Controller for Slices {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:endpointslice-controller"
    }

    fn watches(&self) -> Vec<Resource> {
        vec!["services", "pods", SLICES]
    }

    fn keys(&self, world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        keys(world, seen, |slice| {
            let managed = slice.meta.labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER);
            slice.meta.labels.get(SERVICE_NAME).filter(|_| managed).map(String::as_str)
        })
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, _now: Timestamp) -> Outcome {
        let mut outcome = Outcome::idle();
        if let Some(backed) = Backed::observe(world, key) {
            outcome.together(plan(world, &backed));
        }
        outcome
    }
}

type Ports = Vec<EndpointPort>;
/// By address and Pod: what must be in some slice.
type Wanted = BTreeMap<(String, String), Endpoint>;

fn plan(world: &dyn Reader, backed: &Backed) -> Vec<Act> {
    let mut groups = wanted(world, backed);
    // Without endpoints one empty slice stays, so that readers can tell "none" from "not yet".
    let placeholder = groups.len() == 1 && groups.iter().all(|(_, wanted)| wanted.is_empty());
    let (mut acts, mut slices) = (Vec::new(), Vec::new());
    for slice in existing(world, backed) {
        let ports = slice.view.ports.clone().unwrap_or_default();
        match groups.iter_mut().position(|(group, _)| *group == ports) {
            Some(group) => slices.push((slice.keep(&mut groups[group].1), group, slice)),
            None => acts.push(look::deletion(&slice.object).into()),
        }
    }
    let mut kept = 0;
    for (mut endpoints, group, slice) in slices {
        fill(&mut endpoints, &mut groups[group].1);
        if endpoints.is_empty() && !(placeholder && kept == 0) {
            acts.push(look::deletion(&slice.object).into());
            continue;
        }
        kept += 1;
        acts.extend(slice.updated(backed, endpoints));
    }
    for (ports, mut wanted) in groups {
        while !wanted.is_empty() || (placeholder && kept == 0) {
            let mut endpoints = Vec::new();
            fill(&mut endpoints, &mut wanted);
            kept += 1;
            acts.push(creation(backed, &ports, endpoints));
        }
    }
    acts
}

fn fill(endpoints: &mut Vec<Endpoint>, wanted: &mut Wanted) {
    while endpoints.len() < FULL
        && let Some((_, endpoint)) = wanted.pop_first()
    {
        endpoints.push(endpoint);
    }
}

/// Endpoints by the ports that they offer; one group without endpoints when there are none.
fn wanted(world: &dyn Reader, backed: &Backed) -> Vec<(Ports, Wanted)> {
    let mut groups: Vec<(Ports, Wanted)> = Vec::new();
    for pod in backed.candidates(world) {
        let ports = ports(backed, &pod);
        let endpoint = endpoint(world, backed, &pod);
        let name = (endpoint.addresses.join(","), pod.meta().uid.clone());
        match groups.iter_mut().find(|(group, _)| *group == ports) {
            Some((_, wanted)) => {
                wanted.insert(name, endpoint);
            }
            None => groups.push((ports, Wanted::from([(name, endpoint)]))),
        }
    }
    if groups.is_empty() {
        groups.push((Ports::new(), Wanted::new()));
    }
    groups
}

fn ports(backed: &Backed, pod: &PodView) -> Ports {
    let resolve = |port: &k8s_openapi::api::core::v1::ServicePort| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(target_port(port, &pod.pod)?),
            protocol: Some(super::protocol(port.protocol.as_deref()).into()),
            app_protocol: port.app_protocol.clone(),
        })
    };
    backed.ports().iter().filter_map(resolve).collect()
}

fn endpoint(world: &dyn Reader, backed: &Backed, pod: &PodView) -> Endpoint {
    let serving = pod.is_ready();
    let terminating = pod.is_terminating();
    let ready = backed.publishes_not_ready() || (serving && !terminating);
    let node = Some(pod.node()).filter(|node| !node.is_empty());
    Endpoint {
        addresses: address(&pod.pod).map(str::to_owned).into_iter().collect(),
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        node_name: node.map(str::to_owned),
        zone: node.and_then(|node| zone(world, node)),
        hostname: hostname(&pod.pod, &backed.object.meta.name),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some(pod.meta().namespace.clone()),
            name: Some(pod.meta().name.clone()),
            uid: Some(pod.meta().uid.clone()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn zone(world: &dyn Reader, node: &str) -> Option<String> {
    let node: Arc<Node> = world.typed("nodes", "", node)?;
    node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").cloned()
}

struct Slice {
    object: Arc<Object>,
    view: Arc<EndpointSlice>,
}

fn existing(world: &dyn Reader, backed: &Backed) -> Vec<Slice> {
    let meta = &backed.object.meta;
    let ours = |slice: &Arc<Object>| {
        slice.meta.labels.get(SERVICE_NAME) == Some(&meta.name)
            && slice.meta.labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER)
            && !look::is_deleting(&slice.meta)
    };
    let slices = world.list(SLICES, Some(&meta.namespace)).into_iter().filter(ours);
    slices.filter_map(|object| Some(Slice { view: object.view().ok()?, object })).collect()
}

impl Slice {
    /// Its endpoints that are still wanted, as they should be now.
    fn keep(&self, wanted: &mut Wanted) -> Vec<Endpoint> {
        let name = |endpoint: &Endpoint| {
            let uid = endpoint.target_ref.as_ref().and_then(|t| t.uid.clone()).unwrap_or_default();
            (endpoint.addresses.join(","), uid)
        };
        self.view.endpoints.iter().filter_map(|endpoint| wanted.remove(&name(endpoint))).collect()
    }

    fn updated(&self, backed: &Backed, endpoints: Vec<Endpoint>) -> Option<Act> {
        let labels = slice_labels(backed);
        if self.view.endpoints == endpoints && self.object.meta.labels == labels {
            return None;
        }
        let change = look::edited(&self.object, |value| {
            value["endpoints"] = json!(endpoints);
            value["metadata"]["labels"] = json!(labels);
        });
        Some(change.into())
    }
}

fn slice_labels(backed: &Backed) -> Labels {
    let mut labels = labels(backed);
    labels.insert(SERVICE_NAME.into(), backed.object.meta.name.clone());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

fn creation(backed: &Backed, ports: &Ports, endpoints: Vec<Endpoint>) -> Act {
    let meta = &backed.object.meta;
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "generateName": format!("{}-", meta.name), "namespace": meta.namespace,
            "labels": slice_labels(backed),
            "ownerReferences": [look::controller_reference("v1", "Service", meta)],
        },
        "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
    });
    Change::Create { resource: SLICES, object }.into()
}
