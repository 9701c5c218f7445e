//! Endpoints.

use k8s_openapi::api::core::v1::Endpoints;
use serde_json::Value;

use crate::kinds::field::{Errors, Path};
use crate::kinds::{Column, Kind, Operation, Strategy, edit, metadata, names, table, typed};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    resource: "endpoints",
    short_names: &["ep"],
    categories: &[],
    namespaced: true,
    subresources: &[],
    strategy: &EndpointsStrategy,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Endpoints", "The set of all endpoints: addresses with their ports."),
    table::AGE,
];
const SHOWN: usize = 3;

struct EndpointsStrategy;

impl Strategy for EndpointsStrategy {
    typed!(Endpoints);

    fn default(&self, value: &mut Value) {
        let Some(endpoints) = value.as_object_mut() else { return };
        for subset in edit::each(endpoints, "subsets") {
            for port in edit::each(subset, "ports") {
                edit::default_to(port, "protocol", "TCP");
            }
        }
    }

    fn prepare(&self, value: &mut Value, _: Operation<'_>) {
        edit::no_generation(value);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::validated::<Endpoints>(named, value, op, |errors, endpoints| {
            check(errors, endpoints);
        })
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let list = object.view::<Endpoints>().map(|e| addresses(&e)).unwrap_or_default();
        let shown = match list.as_slice() {
            [] => table::NONE.into(),
            list => table::first_few(list, SHOWN),
        };
        vec![table::name(object), shown.into(), table::age(object, now)]
    }
}

fn addresses(endpoints: &Endpoints) -> Vec<String> {
    let mut list = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ips = || subset.addresses.iter().flatten().map(|a| a.ip.as_str());
        match subset.ports.as_deref() {
            None | Some([]) => list.extend(ips().map(str::to_owned)),
            Some(ports) => {
                for port in ports {
                    let join = |ip: &str| match ip.contains(':') {
                        true => format!("[{ip}]:{}", port.port),
                        false => format!("{ip}:{}", port.port),
                    };
                    list.extend(ips().map(join));
                }
            }
        }
    }
    list
}

fn check(errors: &mut Errors, endpoints: &Endpoints) {
    for (index, subset) in endpoints.subsets.iter().flatten().enumerate() {
        let path = Path::new("subsets").index(index);
        let (ready, waiting) = (&subset.addresses, &subset.not_ready_addresses);
        let is_empty = |list: &Option<Vec<_>>| list.as_ref().is_none_or(|l| l.is_empty());
        if is_empty(ready) && is_empty(waiting) {
            errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for (name, list) in [("addresses", ready), ("notReadyAddresses", waiting)] {
            for (index, address) in list.iter().flatten().enumerate() {
                if address.ip.parse::<std::net::IpAddr>().is_err() {
                    let place = path.child(name).index(index).child("ip");
                    errors.invalid(
                        &place,
                        &address.ip,
                        "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                    );
                }
            }
        }
        let ports = subset.ports.iter().flatten();
        let several = subset.ports.as_ref().is_some_and(|p| p.len() > 1);
        for (index, port) in ports.enumerate() {
            let place = path.child("ports").index(index);
            match port.name.as_deref().unwrap_or_default() {
                "" if several => errors.required(&place.child("name"), ""),
                "" => {}
                name => errors.all_invalid(&place.child("name"), name, names::dns_label(name)),
            }
            errors.port(&place.child("port"), port.port);
            let protocols = &["SCTP", "TCP", "UDP"];
            errors.one_of(&place.child("protocol"), port.protocol.as_deref(), protocols);
        }
    }
}
