//! A question about the cluster → its records (pure), as the Kubernetes DNS specification 1.1 says.
//!
//! | name (below `cluster.local`) | records |
//! |---|---|
//! | `service.namespace.svc` | A/AAAA of the cluster addresses; headless: of every ready endpoint; ExternalName: CNAME |
//! | `_port._protocol.service.namespace.svc` | SRV; headless: one per endpoint |
//! | `endpoint.service.namespace.svc` | A/AAAA of one endpoint: its host name, or its address with dashes |
//! | `1-2-3-4.namespace.pod` | A/AAAA of what the name says (CoreDNS: `pods insecure`) |
//! | `dns-version` | TXT |
//!
//! And PTR of cluster addresses and endpoints. A name that has other records, or names below it, is
//! NODATA and not NXDOMAIN.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::rr::rdata::{self, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::{IpNet, Ipv4Net};

use super::zone::{Entry, Key, Kind, Port, Zone};

/// Seconds that an answer holds: changes must be seen soon.
pub(super) const TTL: u32 = 5;
/// Of the specification that is followed.
const VERSION: &str = "1.1.0";

/// What is known about a name.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    Records {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    /// Another name, which is to be looked up in turn.
    Alias {
        record: Record,
        target: Name,
    },
    /// The name is there, records of this type are not. With the SOA to say so.
    NoData(Record),
    NoName(Record),
    /// The cluster is not completely known yet.
    NotYet,
    /// Somebody else's name.
    Foreign,
}

/// What is the cluster's own beside the names below its domain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ranges {
    pub(super) services: Ipv4Net,
    pub(super) pods: Ipv4Net,
    /// Cluster DNS itself.
    pub(super) dns: Ipv4Addr,
}

/// Looks up `name` for records of the type `wanted`.
pub(super) fn lookup(zone: &Zone, ranges: &Ranges, name: &Name, wanted: RecordType) -> Found {
    let lower: Vec<String> =
        name.iter().map(|l| String::from_utf8_lossy(l).to_ascii_lowercase()).collect();
    let labels: Vec<&str> = lower.iter().map(String::as_str).collect();
    let ask = Ask { zone, ranges, name, wanted };
    match labels.as_slice() {
        [below @ .., "cluster", "local"] if zone.is_complete() => ask.below_domain(below),
        [.., "in-addr" | "ip6", "arpa"] => ask.reverse(),
        [.., "cluster", "local"] => Found::NotYet,
        _ => Found::Foreign,
    }
}

/// Where SRV records lead: name and port, with the name's addresses.
type Targets = BTreeMap<(Name, u16), BTreeSet<IpAddr>>;

struct Ask<'a> {
    zone: &'a Zone,
    ranges: &'a Ranges,
    name: &'a Name,
    wanted: RecordType,
}

impl Ask<'_> {
    fn below_domain(&self, labels: &[&str]) -> Found {
        match labels {
            [] => self.apex(),
            ["dns-version"] => {
                self.typed(vec![RData::TXT(TXT::new(vec![VERSION.into()]))], Vec::new())
            }
            ["ns", "dns"] => self.addresses([self.ranges.dns.into()]),
            ["dns" | "svc" | "pod"] => self.no_data(),
            [namespace, "svc"] if self.zone.has_namespace(namespace) => self.no_data(),
            [service, namespace, "svc"] => self.service(namespace, service),
            [label, service, namespace, "svc"] => self.below_service(namespace, service, label),
            [port, protocol, service, namespace, "svc"] => {
                self.port(namespace, service, port, protocol)
            }
            // Which namespaces there are is not watched: every one might be.
            [_, "pod"] => self.no_data(),
            [address, _, "pod"] => match dashed(address) {
                Some(address) => self.addresses([address]),
                None => self.no_name(),
            },
            _ => self.no_name(),
        }
    }

    fn apex(&self) -> Found {
        let data = match self.wanted {
            RecordType::NS => RData::NS(rdata::NS(self.server())),
            _ => soa(&domain(&[])).data,
        };
        let host = Record::from_rdata(self.server(), TTL, address(self.ranges.dns.into()));
        match self.wanted {
            RecordType::NS => self.typed(vec![data], vec![host]),
            _ => self.typed(vec![data], Vec::new()),
        }
    }

    fn server(&self) -> Name {
        domain(&["ns", "dns"])
    }

    fn service(&self, namespace: &str, service: &str) -> Found {
        let Some((entry, kind)) = self.entry(namespace, service) else { return self.no_name() };
        match kind {
            Kind::External(target) => self.alias(target),
            _ if self.wanted == RecordType::SRV => {
                self.services(namespace, service, entry, |_| true)
            }
            // Not allocated yet: as if it were not there.
            Kind::Addresses(own) if own.is_empty() => self.no_name(),
            Kind::Addresses(own) => self.addresses(own.iter().copied()),
            Kind::Headless => self.addresses(
                entry.endpoints().flat_map(|(_, endpoint)| endpoint.addresses.iter().copied()),
            ),
        }
    }

    fn entry(&self, namespace: &str, service: &str) -> Option<(&Entry, &Kind)> {
        let entry = self.zone.entry(namespace, service)?;
        Some((entry, &entry.service.as_ref()?.kind))
    }

    fn alias(&self, target: &str) -> Found {
        let labels = target.trim_end_matches('.').split('.').map(str::as_bytes);
        let Ok(target) = Name::from_labels(labels) else { return self.no_name() };
        let record = self.record(RData::CNAME(CNAME(target.clone())));
        match self.wanted {
            RecordType::CNAME => Found::Records { answers: vec![record], additionals: Vec::new() },
            _ => Found::Alias { record, target },
        }
    }

    /// One endpoint, or the protocol half of a port's name.
    fn below_service(&self, namespace: &str, service: &str, label: &str) -> Found {
        let Some((entry, kind)) = self.entry(namespace, service) else { return self.no_name() };
        if let Some(protocol) = label.strip_prefix('_') {
            let ports = ports(entry, kind);
            return match ports.into_iter().any(|port| port.protocol == protocol) {
                true => self.no_data(),
                false => self.no_name(),
            };
        }
        let all = entry.endpoints().flat_map(|(_, one)| {
            one.addresses.iter().filter(|address| one.is_called(label, address))
        });
        self.addresses(all.copied())
    }

    fn port(&self, namespace: &str, service: &str, port: &str, protocol: &str) -> Found {
        let Some((entry, _)) = self.entry(namespace, service) else { return self.no_name() };
        let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_'))
        else {
            return self.no_name();
        };
        self.services(namespace, service, entry, |one| one.name == port && one.protocol == protocol)
    }

    /// SRV of the ports that `choose` takes, and the addresses that they lead to.
    fn services(
        &self,
        namespace: &str,
        service: &str,
        entry: &Entry,
        choose: impl Fn(&Port) -> bool,
    ) -> Found {
        let mut targets = Targets::new();
        match entry.service.as_ref().map(|one| &one.kind) {
            Some(Kind::Addresses(own)) if !own.is_empty() => {
                let name = domain(&[service, namespace, "svc"]);
                let ports = entry.service.iter().flat_map(|one| &one.ports);
                for port in ports.filter(|port| choose(port)) {
                    targets.entry((name.clone(), port.number)).or_default().extend(own);
                }
            }
            Some(Kind::Headless) => {
                for (slice, endpoint) in entry.endpoints() {
                    for address in &endpoint.addresses {
                        let label = endpoint.label(address);
                        let name = domain(&[&label, service, namespace, "svc"]);
                        for port in slice.ports.iter().filter(|port| choose(port)) {
                            let key = (name.clone(), port.number);
                            targets.entry(key).or_default().insert(*address);
                        }
                    }
                }
            }
            _ => {}
        }
        self.targets(targets)
    }

    fn targets(&self, targets: Targets) -> Found {
        if targets.is_empty() {
            return self.no_name();
        }
        let weight = u16::try_from(100 / targets.len()).unwrap_or(0).max(1);
        let mut answers = Vec::new();
        let mut leads_to = BTreeSet::new();
        for ((name, port), addresses) in targets {
            leads_to.extend(addresses.into_iter().map(|one| (name.clone(), one)));
            answers.push(RData::SRV(SRV::new(0, weight, port, name)));
        }
        let additional = |(name, one)| Record::from_rdata(name, TTL, address(one));
        self.typed(answers, leads_to.into_iter().map(additional).collect())
    }

    fn reverse(&self) -> Found {
        let Some(address) = reversed(self.name) else { return Found::Foreign };
        if !self.zone.is_complete() {
            return if self.is_ours(&address) { Found::NotYet } else { Found::Foreign };
        }
        let mut names = Vec::new();
        for key in self.zone.owners_of(&address) {
            self.names_of(key, &address, &mut names);
        }
        if names.is_empty() {
            return if self.is_ours(&address) { self.no_name() } else { Found::Foreign };
        }
        self.typed(names.into_iter().map(|name| RData::PTR(PTR(name))).collect(), Vec::new())
    }

    fn names_of(&self, (namespace, service): &Key, address: &IpAddr, names: &mut Vec<Name>) {
        let Some((entry, kind)) = self.entry(namespace, service) else { return };
        if matches!(kind, Kind::Addresses(own) if own.contains(address)) {
            push_new(names, domain(&[service, namespace, "svc"]));
        }
        for (_, endpoint) in entry.endpoints().filter(|(_, one)| one.addresses.contains(address)) {
            push_new(names, domain(&[&endpoint.label(address), service, namespace, "svc"]));
        }
    }

    fn is_ours(&self, address: &IpAddr) -> bool {
        match address {
            IpAddr::V4(one) => self.ranges.services.contains(one) || self.ranges.pods.contains(one),
            IpAddr::V6(_) => false,
        }
    }

    /// A and AAAA of a name; a name without any address is none.
    fn addresses(&self, all: impl IntoIterator<Item = IpAddr>) -> Found {
        // Each one once, though several slices may have it.
        let all: BTreeSet<IpAddr> = all.into_iter().collect();
        match all.is_empty() {
            true => self.no_name(),
            false => self.typed(all.into_iter().map(address).collect(), Vec::new()),
        }
    }

    /// All records of a name → those of the type that was asked for.
    fn typed(&self, all: Vec<RData>, additionals: Vec<Record>) -> Found {
        let fitting = all.into_iter().filter(|data| data.record_type() == self.wanted);
        let answers: Vec<Record> = fitting.map(|data| self.record(data)).collect();
        match answers.is_empty() {
            true => self.no_data(),
            false => Found::Records { answers, additionals },
        }
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), TTL, data)
    }

    fn no_data(&self) -> Found {
        Found::NoData(soa(&self.authority()))
    }

    fn no_name(&self) -> Found {
        Found::NoName(soa(&self.authority()))
    }

    /// The zone that the name is in: `cluster.local`, `in-addr.arpa` or `ip6.arpa`.
    fn authority(&self) -> Name {
        self.name.trim_to(2).to_lowercase()
    }
}

fn push_new<T: PartialEq>(all: &mut Vec<T>, one: T) {
    if !all.contains(&one) {
        all.push(one);
    }
}

fn ports<'a>(entry: &'a Entry, kind: &Kind) -> Vec<&'a Port> {
    match kind {
        Kind::Headless => entry.endpoints().flat_map(|(slice, _)| &slice.ports).collect(),
        _ => entry.service.iter().flat_map(|one| &one.ports).collect(),
    }
}

fn address(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(one) => RData::A(one.into()),
        IpAddr::V6(one) => RData::AAAA(one.into()),
    }
}

/// A name of the cluster. Labels of objects are valid; the root stands in for what is not.
fn domain(labels: &[&str]) -> Name {
    let all = labels.iter().chain(&["cluster", "local"]).flat_map(|part| part.split('.'));
    Name::from_labels(all.map(str::as_bytes)).unwrap_or_else(|_| Name::root())
}

fn soa(zone: &Name) -> Record {
    let (server, mail) = (domain(&["ns", "dns"]), domain(&["hostmaster"]));
    // The times are CoreDNS's. Nobody transfers this zone, so the serial need not count.
    Record::from_rdata(
        zone.clone(),
        TTL,
        RData::SOA(SOA::new(server, mail, 1, 7200, 1800, 86400, TTL)),
    )
}

/// `10-0-0-1` or `fd00--1`.
fn dashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse().map(IpAddr::V6)).ok()
}

fn reversed(name: &Name) -> Option<IpAddr> {
    let mut name = name.clone();
    name.set_fqdn(true);
    match name.parse_arpa_name().ok()? {
        IpNet::V4(net) if net.prefix_len() == 32 => Some(net.addr().into()),
        IpNet::V6(net) if net.prefix_len() == 128 => Some(net.addr().into()),
        _ => None,
    }
}
