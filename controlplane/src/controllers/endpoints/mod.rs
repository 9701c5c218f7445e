//! Who answers for a Service: EndpointSlices, and Endpoints for those who still read them.
//!
//! A Pod is a candidate when the Service's selector matches it, it has an address, and it is not finished.
//! `serving` is its readiness; `ready` is the same, but false as soon as it is told to stop.

mod legacy;
mod slices;

#[cfg(test)]
mod tests;

pub use legacy::Legacy;
pub use slices::Slices;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::look::{self, Labels, PodView};
use super::runner::Seen;
use crate::object::{Key, Object};
use crate::reader::Reader;

pub const SLICES: &str = "endpointslices.discovery.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// A Service that selects its Pods.
struct Backed {
    object: Arc<Object>,
    service: Arc<Service>,
}

impl Backed {
    fn observe(world: &dyn Reader, key: &Key) -> Option<Self> {
        let object = world.get("services", &key.namespace, &key.name)?;
        let service: Arc<Service> = object.view().ok()?;
        let spec = service.spec.as_ref()?;
        let selects = spec.selector.as_ref().is_some_and(|selector| !selector.is_empty());
        let external = spec.type_.as_deref() == Some("ExternalName");
        (selects && !external && !look::is_deleting(&object.meta))
            .then_some(Self { object, service })
    }

    fn ports(&self) -> &[ServicePort] {
        self.service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default()
    }

    fn publishes_not_ready(&self) -> bool {
        self.service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
    }

    fn is_headless(&self) -> bool {
        let spec = self.service.spec.as_ref();
        spec.and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
    }

    /// Pods that may answer, in name order.
    fn candidates(&self, world: &dyn Reader) -> Vec<PodView> {
        let none = Labels::new();
        let selector =
            self.service.spec.as_ref().and_then(|s| s.selector.as_ref()).unwrap_or(&none);
        let pods = world.list("pods", Some(&self.object.meta.namespace));
        pods.into_iter()
            .filter(|pod| look::has_all(selector, &pod.meta.labels))
            .filter_map(PodView::of)
            .filter(|pod| !pod.is_finished() && address(&pod.pod).is_some())
            .collect()
    }
}

/// Services that an event concerns: itself, those of a Pod's labels, or the one that a slice names.
fn keys(world: &dyn Reader, seen: Seen<'_>, service_of: fn(&Object) -> Option<&str>) -> Vec<Key> {
    match seen.resource {
        "services" => seen.latest().map(Object::key).into_iter().collect(),
        "pods" => {
            let Some(latest) = seen.latest() else { return Vec::new() };
            let services = world.list("services", Some(&latest.meta.namespace));
            let concerns = |service: &&Arc<Object>| {
                let view: Option<Arc<Service>> = service.view().ok();
                let selector = view.and_then(|view| view.spec.as_ref()?.selector.clone());
                selector
                    .is_some_and(|s| seen.states().any(|pod| look::has_all(&s, &pod.meta.labels)))
            };
            services.iter().filter(concerns).map(|service| service.key()).collect()
        }
        _ => {
            let named = seen.latest().and_then(|object| Some((object, service_of(object)?)));
            named
                .map(|(object, service)| Key::new("services", &object.meta.namespace, service))
                .into_iter()
                .collect()
        }
    }
}

fn address(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.pod_ip.as_deref().filter(|ip| !ip.is_empty())
}

/// The port behind a Service port on this Pod; a name means the Pod's container port of that name.
fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            named_port(name, protocol(port.protocol.as_deref()), pod)
        }
    }
}

fn named_port(name: &str, wanted: &str, pod: &Pod) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(sidecar);
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter(|port| port.name.as_deref() == Some(name))
        .find(|port| protocol(port.protocol.as_deref()) == wanted)
        .map(|port| port.container_port)
}

fn protocol(given: Option<&str>) -> &str {
    given.unwrap_or("TCP")
}

/// The Pod's hostname, if the Service is its subdomain (its DNS name then is hostname.service).
fn hostname(pod: &Pod, service: &str) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let below = spec.subdomain.as_deref() == Some(service);
    spec.hostname.clone().filter(|name| below && !name.is_empty())
}

/// Labels that both kinds take over from the Service.
fn labels(backed: &Backed) -> Labels {
    let mut labels = backed.object.meta.labels.clone();
    labels.remove(HEADLESS);
    if backed.is_headless() {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}
