//! discovery.k8s.io/v1: EndpointSlice.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

use super::field::{Errors, Path};
use super::{Column, Kind, Operation, Strategy, edit, metadata, names, table, typed};
use crate::object::Object;
use crate::status::Cause;

pub(super) const KIND: Kind = Kind {
    group: "discovery.k8s.io",
    version: "v1",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    resource: "endpointslices.discovery.k8s.io",
    short_names: &[],
    categories: &[],
    namespaced: true,
    subresources: &[],
    strategy: &EndpointSlices,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("AddressType", "addressType specifies the type of address carried by this slice"),
    table::text("Ports", "ports lists the ports exposed by each endpoint of this slice"),
    table::text("Endpoints", "endpoints lists the endpoints of this slice"),
    table::AGE,
];
const SHOWN: usize = 3;
const MAX_ENDPOINTS: usize = 1000;

struct EndpointSlices;

impl Strategy for EndpointSlices {
    typed!(EndpointSlice);

    fn default(&self, value: &mut Value) {
        let Some(slice) = value.as_object_mut() else { return };
        for port in edit::each(slice, "ports") {
            if !port.contains_key("name") {
                port.insert("name".into(), "".into());
            }
            edit::default_to(port, "protocol", "TCP");
        }
    }

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::count_generation(value, op);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::validated::<EndpointSlice>(named, value, op, |errors, slice| {
            check(errors, slice, op);
        })
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let Ok(slice) = object.view::<EndpointSlice>() else {
            return vec![
                table::name(object),
                "".into(),
                "".into(),
                "".into(),
                table::age(object, now),
            ];
        };
        let port = |p: &k8s_openapi::api::discovery::v1::EndpointPort| {
            p.port.map_or_else(|| "*".into(), |n| n.to_string())
        };
        let ports: Vec<String> = slice.ports.iter().flatten().map(port).collect();
        let addresses: Vec<String> =
            slice.endpoints.iter().flat_map(|e| e.addresses.iter().cloned()).collect();
        vec![
            table::name(object),
            slice.address_type.as_str().into(),
            or_unset(&ports),
            or_unset(&addresses),
            table::age(object, now),
        ]
    }
}

fn or_unset(items: &[String]) -> Value {
    if items.is_empty() { "<unset>".into() } else { table::first_few(items, SHOWN).into() }
}

fn check(errors: &mut Errors, slice: &EndpointSlice, op: Operation<'_>) {
    const TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];
    errors.one_of(&Path::new("addressType"), Some(&slice.address_type), TYPES);
    if let Operation::Update { old, .. } = op {
        let before = edit::text(old, "/addressType");
        metadata::same(errors, &Path::new("addressType"), slice.address_type.as_str(), before);
    }
    let endpoints = Path::new("endpoints");
    if slice.endpoints.len() > MAX_ENDPOINTS {
        errors.too_many(&endpoints, slice.endpoints.len(), MAX_ENDPOINTS);
    }
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        let path = endpoints.index(index).child("addresses");
        if endpoint.addresses.is_empty() {
            errors.required(&path, "must contain at least 1 address");
        }
        for (index, address) in endpoint.addresses.iter().enumerate() {
            let place = path.index(index);
            match slice.address_type.as_str() {
                "IPv4" if address.parse::<std::net::Ipv4Addr>().is_err() => {
                    errors.invalid(&place, address, "must be a valid IPv4 address");
                }
                "IPv6" if address.parse::<std::net::Ipv6Addr>().is_err() => {
                    errors.invalid(&place, address, "must be a valid IPv6 address");
                }
                "FQDN" => errors.all_invalid(&place, address, names::dns_subdomain(address)),
                _ => {}
            }
        }
    }
    ports(errors, slice);
}

fn ports(errors: &mut Errors, slice: &EndpointSlice) {
    let mut seen = std::collections::BTreeSet::new();
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        let path = Path::new("ports").index(index);
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            errors.all_invalid(&path.child("name"), name, names::dns_label(name));
        }
        if !seen.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        let protocols = &["SCTP", "TCP", "UDP"];
        errors.one_of(&path.child("protocol"), port.protocol.as_deref(), protocols);
    }
}
