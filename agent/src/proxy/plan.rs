//! Services and EndpointSlices → what the rules balance, and what they cannot yet (pure).

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kobune_netplugin::HostConfig;
use kobune_netplugin::nft::services::{Backend, Protocol, ServiceTable, VipPort};

use crate::dns;

/// Names the Service of a slice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Services (and slices) with one of these belong to somebody else.
const NOT_OURS: [&str; 2] =
    ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];

/// What to balance, and what to tell people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) table: ServiceTable,
    pub(crate) warnings: Vec<Warning>,
}

/// A Service asks for something that this node does not do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Warning {
    pub(crate) namespace: String,
    pub(crate) service: String,
    pub(crate) uid: String,
    /// Path of the field, e.g. `spec.type`.
    pub(crate) field: String,
    pub(crate) problem: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Warning { namespace, service, field, problem, .. } = self;
        write!(f, "service {namespace}/{service}: {field}: {problem}")
    }
}

/// What the rules should say on the node whose network `host` describes.
pub(crate) fn plan<'a>(
    services: impl Iterator<Item = &'a Service>,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    host: &HostConfig,
) -> Planned {
    let slices = by_service(slices);
    let mut planned = Planned::default();
    for service in services {
        let name = service_name(service);
        let own = slices.get(&name).map(Vec::as_slice).unwrap_or_default();
        plan_service(service, own, host, &mut planned);
    }
    for backend in planned.table.ports.values_mut().flatten() {
        // A machine without any network announces its API server on the loopback. That is not
        // reachable from a Pod, but the same machine is under its bridge address.
        if backend.address.is_loopback() {
            backend.address = host.gateway();
        }
    }
    let addresses = planned.table.ports.values().flatten().map(|backend| backend.address);
    planned.table.local_pods =
        addresses.filter(|one| host.node_cidr.contains(one) && *one != host.gateway()).collect();
    planned.warnings.sort();
    planned
}

type Name<'a> = (&'a str, &'a str);

fn by_service<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
) -> BTreeMap<Name<'a>, Vec<&'a EndpointSlice>> {
    let mut sorted: BTreeMap<Name<'a>, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices.filter(|slice| slice.address_type == "IPv4") {
        let Some(labels) = &slice.metadata.labels else { continue };
        let Some(service) = labels.get(SERVICE_NAME) else { continue };
        if NOT_OURS.iter().any(|label| labels.contains_key(*label)) {
            continue;
        }
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        sorted.entry((namespace, service.as_str())).or_default().push(slice);
    }
    sorted
}

fn service_name(service: &Service) -> Name<'_> {
    let metadata = &service.metadata;
    (
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

fn plan_service(
    service: &Service,
    slices: &[&EndpointSlice],
    host: &HostConfig,
    planned: &mut Planned,
) {
    let Some(spec) = &service.spec else { return };
    let foreign = service
        .metadata
        .labels
        .as_ref()
        .is_some_and(|labels| NOT_OURS.iter().any(|label| labels.contains_key(*label)));
    if foreign || spec.type_.as_deref() == Some("ExternalName") {
        return;
    }
    let mut warn = |field: String, problem: String| {
        let (namespace, name) = service_name(service);
        planned.warnings.push(Warning {
            namespace: namespace.into(),
            service: name.into(),
            uid: service.metadata.uid.clone().unwrap_or_default(),
            field,
            problem,
        });
    };
    warn_unsupported(spec, &mut warn);
    // Empty: not allocated yet. "None": headless, nothing to balance.
    let address = match spec.cluster_ip.as_deref() {
        None | Some("" | "None") => return,
        Some(text) => text.parse::<Ipv4Addr>(),
    };
    let Ok(address) = address else {
        warn("spec.clusterIP".into(), "only IPv4 addresses are balanced".into());
        return;
    };
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let field = |name| format!("spec.ports[{index}].{name}");
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some(other) => {
                warn(field("protocol"), format!("{other} is not balanced"));
                continue;
            }
        };
        let Ok(number) = u16::try_from(port.port) else {
            warn(field("port"), format!("{} is no port number", port.port));
            continue;
        };
        let vip = VipPort { address, protocol, port: number };
        let mut backends = backends(spec, port, slices);
        if backends.is_empty() && is_our_dns(service) {
            backends.push(Backend { address: host.gateway(), port: dns::PORT });
        }
        backends.sort_unstable();
        backends.dedup();
        planned.table.ports.insert(vip, backends);
    }
}

/// Cluster DNS, unless somebody runs their own: then it selects Pods, or has endpoints.
fn is_our_dns(service: &Service) -> bool {
    let selects = |service: &Service| {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|selector| !selector.is_empty())
    };
    service_name(service) == ("kube-system", "kube-dns") && !selects(service)
}

/// Ready endpoints of one port. Slices carry target ports already resolved, per port name.
fn backends(spec: &ServiceSpec, port: &ServicePort, slices: &[&EndpointSlice]) -> Vec<Backend> {
    let not_ready_too = spec.publish_not_ready_addresses == Some(true);
    let name = port.name.as_deref().unwrap_or_default();
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let mut found = Vec::new();
    for slice in slices {
        let numbers = slice.ports.iter().flatten().filter(|candidate| {
            candidate.name.as_deref().unwrap_or_default() == name
                && candidate.protocol.as_deref().unwrap_or("TCP") == protocol
        });
        for number in numbers.filter_map(|port| u16::try_from(port.port?).ok()) {
            let ready = slice.endpoints.iter().filter(|one| not_ready_too || is_ready(one));
            // All addresses of one endpoint are the same Pod; the first is the one to use.
            let addresses = ready.filter_map(|one| one.addresses.first()?.parse().ok());
            found.extend(addresses.map(|address| Backend { address, port: number }));
        }
    }
    found
}

/// Unknown counts as ready, as the API documents.
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
}

fn warn_unsupported(spec: &ServiceSpec, warn: &mut impl FnMut(String, String)) {
    if let Some(kind @ ("NodePort" | "LoadBalancer")) = spec.type_.as_deref() {
        let problem = format!("{kind} is not implemented; only the cluster address works");
        warn("spec.type".into(), problem);
    }
    if spec.session_affinity.as_deref() == Some("ClientIP") {
        let problem = "ClientIP is not implemented; every connection picks an endpoint anew";
        warn("spec.sessionAffinity".into(), problem.into());
    }
    if spec.internal_traffic_policy.as_deref() == Some("Local") {
        let problem = "Local is not implemented; endpoints of all nodes are used";
        warn("spec.internalTrafficPolicy".into(), problem.into());
    }
    if spec.external_ips.as_ref().is_some_and(|list| !list.is_empty()) {
        warn("spec.externalIPs".into(), "external addresses are not implemented".into());
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
