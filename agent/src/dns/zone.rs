//! What cluster DNS knows (pure): Services and their endpoints, kept per Service, so that one change
//! costs the size of that Service and not of the cluster. Answers are made in `lookup`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// Names the Service of a slice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Namespace and name.
pub(super) type Key = (String, String);

/// All that names can be made of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Zone {
    /// Namespace → Service name → what is known of it.
    entries: HashMap<String, HashMap<String, Entry>>,
    /// Which Service a slice was of: the label may change, and a deleted slice must be found.
    owners: HashMap<Key, Key>,
    /// Which Services an address belongs to.
    reverse: HashMap<IpAddr, BTreeSet<Key>>,
    services_known: bool,
    slices_known: bool,
}

/// A Service, its slices, or what came first of both.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) service: Option<ServiceData>,
    slices: BTreeMap<String, SliceData>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServiceData {
    pub(super) kind: Kind,
    pub(super) ports: Vec<Port>,
    not_ready_too: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Has cluster addresses; none yet while they are being allocated.
    Addresses(Vec<IpAddr>),
    Headless,
    /// Another name for something else.
    External(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) name: String,
    /// Lower case, as in names.
    pub(super) protocol: String,
    pub(super) number: u16,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct SliceData {
    pub(super) ports: Vec<Port>,
    endpoints: Vec<EndpointData>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct EndpointData {
    pub(super) addresses: Vec<IpAddr>,
    hostname: Option<String>,
    ready: bool,
}

impl EndpointData {
    /// The label before the Service's name: the host name, or the address with dashes.
    pub(super) fn label(&self, address: &IpAddr) -> String {
        self.hostname.clone().unwrap_or_else(|| address.to_string().replace(['.', ':'], "-"))
    }

    pub(super) fn is_called(&self, label: &str, address: &IpAddr) -> bool {
        match &self.hostname {
            Some(name) => name == label,
            None => address.to_string().replace(['.', ':'], "-") == label,
        }
    }
}

impl Entry {
    /// Endpoints that have a name now, each with the slice it is in.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = (&SliceData, &EndpointData)> {
        let service = self.service.as_ref();
        let external = service.is_none_or(|one| matches!(one.kind, Kind::External(_)));
        let all = service.is_some_and(|one| one.not_ready_too);
        let slices = self.slices.values().filter(move |_| !external);
        slices
            .flat_map(|slice| slice.endpoints.iter().map(move |one| (slice, one)))
            .filter(move |(_, one)| all || one.ready)
    }

    /// All addresses that lead back to this Service.
    fn addresses(&self) -> BTreeSet<IpAddr> {
        let mut found: BTreeSet<IpAddr> =
            self.endpoints().flat_map(|(_, one)| one.addresses.iter().copied()).collect();
        if let Some(ServiceData { kind: Kind::Addresses(own), .. }) = &self.service {
            found.extend(own);
        }
        found
    }

    fn is_empty(&self) -> bool {
        self.service.is_none() && self.slices.is_empty()
    }
}

impl Zone {
    /// Before both kinds are completely known, a name that is not there may only not be there yet.
    pub(super) fn is_complete(&self) -> bool {
        self.services_known && self.slices_known
    }

    pub(super) fn has_namespace(&self, namespace: &str) -> bool {
        let entries = self.entries.get(namespace);
        entries.is_some_and(|all| all.values().any(|one| one.service.is_some()))
    }

    pub(super) fn entry(&self, namespace: &str, service: &str) -> Option<&Entry> {
        self.entries.get(namespace)?.get(service)
    }

    pub(super) fn owners_of(&self, address: &IpAddr) -> impl Iterator<Item = &Key> {
        self.reverse.get(address).into_iter().flatten()
    }

    pub(crate) fn apply_service(&mut self, service: &Service) {
        let Some(key) = key(&service.metadata) else { return };
        let data = service_data(service);
        self.change(&key, |entry| entry.service = data);
    }

    pub(crate) fn delete_service(&mut self, service: &Service) {
        let Some(key) = key(&service.metadata) else { return };
        self.change(&key, |entry| entry.service = None);
    }

    pub(crate) fn apply_slice(&mut self, slice: &EndpointSlice) {
        let Some(own) = key(&slice.metadata) else { return };
        let labels = slice.metadata.labels.as_ref();
        let service = labels.and_then(|labels| labels.get(SERVICE_NAME));
        let owner = service.map(|service| (own.0.clone(), service.clone()));
        if self.owners.get(&own) != owner.as_ref() {
            self.delete_slice(slice);
        }
        let Some(owner) = owner else { return };
        let data = slice_data(slice);
        self.change(&owner, |entry| drop(entry.slices.insert(own.1.clone(), data)));
        self.owners.insert(own, owner);
    }

    pub(crate) fn delete_slice(&mut self, slice: &EndpointSlice) {
        let Some(own) = key(&slice.metadata) else { return };
        let Some(owner) = self.owners.remove(&own) else { return };
        self.change(&owner, |entry| drop(entry.slices.remove(&own.1)));
    }

    /// A complete list: what is not in it is gone.
    pub(crate) fn replace_services<'a>(&mut self, all: impl Iterator<Item = &'a Service>) {
        let mut gone: BTreeSet<Key> = self
            .entries
            .iter()
            .flat_map(|(namespace, names)| {
                names.keys().map(move |name| (namespace.clone(), name.clone()))
            })
            .collect();
        for service in all {
            self.apply_service(service);
            if let Some(key) = key(&service.metadata) {
                gone.remove(&key);
            }
        }
        for key in gone {
            self.change(&key, |entry| entry.service = None);
        }
        self.services_known = true;
    }

    /// A complete list: what is not in it is gone.
    pub(crate) fn replace_slices<'a>(&mut self, all: impl Iterator<Item = &'a EndpointSlice>) {
        let mut gone: BTreeSet<Key> = self.owners.keys().cloned().collect();
        for slice in all {
            self.apply_slice(slice);
            if let Some(key) = key(&slice.metadata) {
                gone.remove(&key);
            }
        }
        for own in gone {
            if let Some(owner) = self.owners.remove(&own) {
                self.change(&owner, |entry| drop(entry.slices.remove(&own.1)));
            }
        }
        self.slices_known = true;
    }

    /// Changes one entry and keeps the addresses' way back in step.
    fn change(&mut self, key: &Key, work: impl FnOnce(&mut Entry)) {
        let names = self.entries.entry(key.0.clone()).or_default();
        let entry = names.entry(key.1.clone()).or_default();
        let before = entry.addresses();
        work(entry);
        let after = entry.addresses();
        if entry.is_empty() {
            names.remove(&key.1);
            if names.is_empty() {
                self.entries.remove(&key.0);
            }
        }
        for address in before.difference(&after) {
            if let Some(owners) = self.reverse.get_mut(address) {
                owners.remove(key);
                if owners.is_empty() {
                    self.reverse.remove(address);
                }
            }
        }
        for address in after.difference(&before) {
            self.reverse.entry(*address).or_default().insert(key.clone());
        }
    }
}

fn key(metadata: &kube::api::ObjectMeta) -> Option<Key> {
    Some((metadata.namespace.clone()?, metadata.name.clone()?))
}

fn service_data(service: &Service) -> Option<ServiceData> {
    let spec = service.spec.as_ref()?;
    let kind = if spec.type_.as_deref() == Some("ExternalName") {
        Kind::External(spec.external_name.clone().unwrap_or_default())
    } else if spec.cluster_ip.as_deref() == Some("None") {
        Kind::Headless
    } else {
        let all = spec.cluster_ips.as_deref().unwrap_or_default();
        let first = spec.cluster_ip.iter().filter(|ip| !all.contains(ip));
        Kind::Addresses(first.chain(all).filter_map(|ip| ip.parse().ok()).collect())
    };
    let ports = spec.ports.iter().flatten();
    let ports = ports.filter_map(|one| port(&one.name, &one.protocol, Some(one.port))).collect();
    let not_ready_too = spec.publish_not_ready_addresses == Some(true);
    Some(ServiceData { kind, ports, not_ready_too })
}

fn slice_data(slice: &EndpointSlice) -> SliceData {
    let ports = slice.ports.iter().flatten();
    SliceData {
        ports: ports.filter_map(|one| port(&one.name, &one.protocol, one.port)).collect(),
        endpoints: slice.endpoints.iter().map(endpoint_data).collect(),
    }
}

fn endpoint_data(endpoint: &Endpoint) -> EndpointData {
    EndpointData {
        addresses: endpoint.addresses.iter().filter_map(|one| one.parse().ok()).collect(),
        hostname: endpoint.hostname.clone().filter(|name| !name.is_empty()),
        // Unknown counts as ready, as the API documents.
        ready: endpoint.conditions.as_ref().and_then(|c| c.ready) != Some(false),
    }
}

/// Only ports with a name have a name in DNS.
fn port(name: &Option<String>, protocol: &Option<String>, number: Option<i32>) -> Option<Port> {
    Some(Port {
        name: name.clone().filter(|name| !name.is_empty())?,
        protocol: protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase(),
        number: u16::try_from(number?).ok()?,
    })
}
