//! One Service and its EndpointSlices → what the rules balance, and what they cannot (pure).
//!
//! Who answers: ready endpoints; without any, those that stop but still serve. Under policy `Local` only
//! endpoints of this node count, for the traffic that the policy is about; whoever is inside (Pods, the host)
//! goes to a Service's external doors as if the policy were `Cluster`, as upstream.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kobune_netplugin::HostConfig;
use kobune_netplugin::nft::services::{
    self, Backend, Door, Group, Otherwise, Place, Protocol, VipPort,
};

use crate::dns;

/// Names the Service of a slice.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Services (and slices) with one of these belong to somebody else.
const NOT_OURS: [&str; 2] =
    ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];
/// How long a client is remembered if the Service does not say.
const AFFINITY_SECONDS: i32 = 10800;

/// Where the plan is for.
#[derive(Debug, Clone)]
pub(crate) struct Here {
    pub(crate) host: HostConfig,
    pub(crate) node_name: String,
}

/// What to balance, and what to tell people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Planned {
    /// None: nothing of it is balanced here.
    pub(crate) service: Option<services::Service>,
    pub(crate) health: Option<Health>,
    pub(crate) announced: Option<Announced>,
    pub(crate) warnings: Vec<Warning>,
}

/// What balancers outside ask this node about a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) port: u16,
    pub(crate) local_endpoints: usize,
}

/// Addresses that one node must answer for on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) addresses: Vec<Ipv4Addr>,
    /// Under policy `Local`, the nodes that have endpoints; others would drop what comes.
    pub(crate) only: Option<BTreeSet<String>>,
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

/// The Service that a slice is of, if it is ours to balance.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<(String, String)> {
    let labels = slice.metadata.labels.as_ref()?;
    let service = labels.get(SERVICE_NAME)?;
    let foreign = NOT_OURS.iter().any(|label| labels.contains_key(*label));
    let namespace = slice.metadata.namespace.clone().unwrap_or_default();
    (!foreign && slice.address_type == "IPv4").then(|| (namespace, service.clone()))
}

/// What the rules should say of `service` at `here`.
pub(crate) fn plan(service: &Service, slices: &[&EndpointSlice], here: &Here) -> Planned {
    let mut planner = Planner { service, slices, here, planned: Planned::default() };
    planner.run();
    planner.planned.warnings.sort();
    planner.planned
}

struct Planner<'a> {
    service: &'a Service,
    slices: &'a [&'a EndpointSlice],
    here: &'a Here,
    planned: Planned,
}

impl Planner<'_> {
    fn run(&mut self) {
        let Some(spec) = &self.service.spec else { return };
        let foreign = self
            .service
            .metadata
            .labels
            .as_ref()
            .is_some_and(|labels| NOT_OURS.iter().any(|label| labels.contains_key(*label)));
        if foreign || spec.type_.as_deref() == Some("ExternalName") {
            return;
        }
        // Empty: not allocated yet. "None": headless, nothing to balance.
        let address = match spec.cluster_ip.as_deref() {
            None | Some("" | "None") => return,
            Some(text) => text.parse::<Ipv4Addr>(),
        };
        let Ok(address) = address else {
            return self.warn("spec.clusterIP", "only IPv4 addresses are balanced".into());
        };
        let mut plan = services::Service { cluster_ips: [address].into(), ..Default::default() };
        let external = self.external_addresses(spec);
        let guarded = self.source_ranges(spec);
        for (index, port) in spec.ports.iter().flatten().enumerate() {
            let Some((protocol, number)) = self.protocol_and_number(index, port) else { continue };
            let place = |address: &Ipv4Addr| VipPort { address: *address, protocol, port: number };
            let mut outside: Vec<Place> =
                external.all().map(|address| Place::Address(place(address))).collect();
            outside.extend(node_port(spec, port).map(|port| Place::Node { protocol, port }));
            self.groups(spec, port, Place::Address(place(&address)), &outside, &mut plan);
            if let Some(ranges) = &guarded {
                let places = external.balancer.iter().map(|one| (place(one), ranges.clone()));
                plan.allowed.extend(places);
            }
        }
        let backends = plan.groups.values().flat_map(|group| &group.backends);
        let host = &self.here.host;
        plan.local_pods = backends
            .map(|backend| backend.address)
            .filter(|one| host.node_cidr.contains(one) && *one != host.gateway())
            .collect();
        self.planned.health = self.health(spec);
        self.planned.announced = self.announced(spec, external.balancer);
        self.planned.service = Some(plan);
    }

    /// The groups of one port: one for all doors, and others where a policy is `Local`.
    fn groups(
        &self,
        spec: &ServiceSpec,
        port: &ServicePort,
        cluster: Place,
        outside: &[Place],
        plan: &mut services::Service,
    ) {
        let endpoints = self.endpoints(port);
        let affinity = affinity(spec);
        let inside_local = spec.internal_traffic_policy.as_deref() == Some("Local");
        let outside_local = is_local_outside(spec);
        let name = format!("{}/{}", port.port, port.protocol.as_deref().unwrap_or("TCP"));
        let cluster_door = Door::for_all(cluster);
        let mut doors: BTreeSet<Door> = outside.iter().copied().map(Door::for_all).collect();
        if inside_local {
            let group = Group {
                doors: [cluster_door].into(),
                backends: self.backends(&endpoints, true, spec),
                affinity,
                otherwise: Otherwise::Drop,
                ..Group::default()
            };
            plan.groups.insert(format!("{name} inside"), group);
        } else {
            doors.insert(cluster_door);
        }
        if !doors.is_empty() {
            let backends = self.backends(&endpoints, false, spec);
            let group = Group { doors, backends, affinity, ..Group::default() };
            plan.groups.insert(name.clone(), group);
        }
        if outside_local && !outside.is_empty() {
            let group = Group {
                doors: outside.iter().copied().map(Door::from_outside).collect(),
                backends: self.backends(&endpoints, true, spec),
                affinity,
                keep_source: true,
                otherwise: Otherwise::Drop,
            };
            plan.groups.insert(format!("{name} outside"), group);
        }
    }

    /// All endpoints of one port, with its number there. Slices carry target ports already resolved, per port name.
    fn endpoints(&self, port: &ServicePort) -> Vec<(&Endpoint, u16)> {
        let name = port.name.as_deref().unwrap_or_default();
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let mut found = Vec::new();
        for slice in self.slices {
            let numbers = slice.ports.iter().flatten().filter(|candidate| {
                candidate.name.as_deref().unwrap_or_default() == name
                    && candidate.protocol.as_deref().unwrap_or("TCP") == protocol
            });
            for number in numbers.filter_map(|port| u16::try_from(port.port?).ok()) {
                found.extend(slice.endpoints.iter().map(|endpoint| (endpoint, number)));
            }
        }
        found
    }

    /// Those of `endpoints` that answer.
    fn backends(
        &self,
        endpoints: &[(&Endpoint, u16)],
        local: bool,
        spec: &ServiceSpec,
    ) -> Vec<Backend> {
        let not_ready_too = spec.publish_not_ready_addresses == Some(true);
        let candidates: Vec<_> =
            endpoints.iter().filter(|(endpoint, _)| !local || self.is_here(endpoint)).collect();
        let ready = |(endpoint, _): &(&Endpoint, u16)| not_ready_too || is_ready(endpoint);
        let mut chosen: Vec<_> = candidates.iter().copied().filter(|one| ready(one)).collect();
        if chosen.is_empty() {
            chosen = candidates.into_iter().filter(|(endpoint, _)| is_leaving(endpoint)).collect();
        }
        if spec.traffic_distribution.as_deref() == Some("PreferSameNode")
            && chosen.iter().any(|(endpoint, _)| self.is_here(endpoint))
        {
            chosen.retain(|(endpoint, _)| self.is_here(endpoint));
        }
        // All addresses of one endpoint are the same Pod; the first is the one to use.
        let backend = |(endpoint, port): &(&Endpoint, u16)| {
            let address = endpoint.addresses.first()?.parse().ok()?;
            Some(Backend { address: self.reachable(address), port: *port })
        };
        let mut found: Vec<Backend> = chosen.into_iter().filter_map(backend).collect();
        if found.is_empty() && is_our_dns(self.service) {
            found.push(Backend { address: self.here.host.gateway(), port: dns::PORT });
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// A machine without any network announces its API server on the loopback. That is not reachable from a Pod,
    /// but the same machine is under its bridge address.
    fn reachable(&self, address: Ipv4Addr) -> Ipv4Addr {
        if address.is_loopback() { self.here.host.gateway() } else { address }
    }

    fn is_here(&self, endpoint: &Endpoint) -> bool {
        endpoint.node_name.as_deref() == Some(&self.here.node_name)
    }

    fn health(&self, spec: &ServiceSpec) -> Option<Health> {
        let port = u16::try_from(spec.health_check_node_port?).ok().filter(|port| *port != 0)?;
        if spec.type_.as_deref() != Some("LoadBalancer") || !is_local_outside(spec) {
            return None;
        }
        let ready = self.slices.iter().flat_map(|slice| &slice.endpoints);
        let ready = ready.filter(|one| self.is_here(one) && is_ready(one));
        let addresses: BTreeSet<_> = ready.filter_map(|one| one.addresses.first()).collect();
        Some(Health { port, local_endpoints: addresses.len() })
    }

    fn announced(&self, spec: &ServiceSpec, addresses: Vec<Ipv4Addr>) -> Option<Announced> {
        if addresses.is_empty() {
            return None;
        }
        let serving = self.slices.iter().flat_map(|slice| &slice.endpoints);
        let serving = serving.filter(|one| is_ready(one) || is_leaving(one));
        let nodes = || serving.filter_map(|one| one.node_name.clone()).collect();
        Some(Announced { addresses, only: is_local_outside(spec).then(nodes) })
    }

    fn external_addresses(&mut self, spec: &ServiceSpec) -> External {
        let mut found = External::default();
        for (index, text) in spec.external_ips.iter().flatten().enumerate() {
            match text.parse() {
                Ok(address) => found.external.push(address),
                Err(_) => {
                    let field = format!("spec.externalIPs[{index}]");
                    self.warn(&field, format!("{text:?}: only IPv4 addresses are balanced"));
                }
            }
        }
        if spec.type_.as_deref() == Some("LoadBalancer") {
            let status = self.service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
            let ingress = status.and_then(|balancer| balancer.ingress.as_ref());
            // "Proxy": the balancer rewrites packets; nobody sends here to its own address.
            let vip =
                ingress.into_iter().flatten().filter(|i| i.ip_mode.as_deref() != Some("Proxy"));
            found.balancer = vip.filter_map(|one| one.ip.as_ref()?.parse().ok()).collect();
        }
        found
    }

    /// Who may use the balancer's addresses; None: everybody.
    fn source_ranges(&mut self, spec: &ServiceSpec) -> Option<Vec<Ipv4Net>> {
        let texts = spec.load_balancer_source_ranges.as_ref().filter(|list| !list.is_empty())?;
        let mut ranges = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            match text.trim().parse::<Ipv4Net>() {
                Ok(range) => ranges.push(range.trunc()),
                // No IPv4 client is in such a range; that is no mistake.
                Err(_) if text.contains(':') => {}
                Err(_) => {
                    let field = format!("spec.loadBalancerSourceRanges[{index}]");
                    self.warn(&field, format!("{text:?} is not a range, and lets nobody in"));
                }
            }
        }
        Some(ranges)
    }

    fn protocol_and_number(&mut self, index: usize, port: &ServicePort) -> Option<(Protocol, u16)> {
        let field = |name| format!("spec.ports[{index}].{name}");
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            Some(other) => {
                self.warn(&field("protocol"), format!("{other} is not balanced"));
                return None;
            }
        };
        let Ok(number) = u16::try_from(port.port) else {
            self.warn(&field("port"), format!("{} is no port number", port.port));
            return None;
        };
        Some((protocol, number))
    }

    fn warn(&mut self, field: &str, problem: String) {
        let metadata = &self.service.metadata;
        self.planned.warnings.push(Warning {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            service: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            field: field.into(),
            problem,
        });
    }
}

/// Addresses by which a Service is reached from outside.
#[derive(Debug, Default)]
struct External {
    external: Vec<Ipv4Addr>,
    balancer: Vec<Ipv4Addr>,
}

impl External {
    fn all(&self) -> impl Iterator<Item = &Ipv4Addr> {
        self.external.iter().chain(&self.balancer)
    }
}

fn is_local_outside(spec: &ServiceSpec) -> bool {
    spec.external_traffic_policy.as_deref() == Some("Local")
}

fn node_port(spec: &ServiceSpec, port: &ServicePort) -> Option<u16> {
    let has_them = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    let number = u16::try_from(port.node_port?).ok()?;
    (has_them && number != 0).then_some(number)
}

fn affinity(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
    Some(u32::try_from(seconds).unwrap_or(0).max(1))
}

/// Cluster DNS, unless somebody runs their own: then it selects Pods, or has endpoints.
fn is_our_dns(service: &Service) -> bool {
    let metadata = &service.metadata;
    let name = (metadata.namespace.as_deref(), metadata.name.as_deref());
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    name == (Some("kube-system"), Some("kube-dns")) && selector.is_none_or(|map| map.is_empty())
}

/// Unknown counts as ready, as the API documents.
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
}

/// Told to stop, but still able to answer.
fn is_leaving(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().is_some_and(|conditions| {
        conditions.terminating == Some(true)
            && conditions.serving.or(conditions.ready).unwrap_or(true)
    })
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
