//! Ingress.

use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend, IngressSpec};
use serde_json::{Value, json};

use super::GROUP;
use crate::kinds::field::{Errors, Path};
use crate::kinds::{Column, Kind, Operation, Strategy, edit, metadata, names, table, typed};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "Ingress",
    plural: "ingresses",
    singular: "ingress",
    resource: "ingresses.networking.k8s.io",
    short_names: &["ing"],
    categories: &[],
    namespaced: true,
    subresources: &["status"],
    strategy: &Ingresses,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Class", "The name of the IngressClass resource that should be used"),
    table::text(
        "Hosts",
        "Hosts that incoming requests are matched against before the ingress rule",
    ),
    table::text("Address", "Address is a list containing ingress points for the load-balancer"),
    table::text("Ports", "Ports of TLS configurations that open"),
    table::AGE,
];
const SHOWN: usize = 3;

struct Ingresses;

impl Strategy for Ingresses {
    typed!(Ingress);

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::guard_status(value, op);
        edit::count_generation(value, op);
        if let Operation::Create = op {
            value["status"] = json!({"loadBalancer": {}});
        }
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::validated::<Ingress>(named, value, op, |errors, ingress| {
            check(errors, &ingress.spec.clone().unwrap_or_default());
        })
    }

    fn warn(&self, _: &Value, op: Operation<'_>) -> Vec<String> {
        match op {
            Operation::Create => vec![
                "no ingress controller comes with this cluster: the rules take effect only where one is installed".into(),
            ],
            Operation::Update { .. } => Vec::new(),
        }
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let ingress = object.view::<Ingress>().unwrap_or_default();
        let spec = ingress.spec.clone().unwrap_or_default();
        let hosts: Vec<String> =
            spec.rules.iter().flatten().filter_map(|r| r.host.clone()).collect();
        let balancer = ingress.status.as_ref().and_then(|s| s.load_balancer.clone());
        let points = balancer.and_then(|balancer| balancer.ingress).unwrap_or_default();
        let address = |point: k8s_openapi::api::networking::v1::IngressLoadBalancerIngress| {
            point.ip.filter(|ip| !ip.is_empty()).or(point.hostname)
        };
        let addresses: Vec<String> = points.into_iter().filter_map(address).collect();
        let tls = spec.tls.as_ref().is_some_and(|tls| !tls.is_empty());
        vec![
            table::name(object),
            table::or_none(spec.ingress_class_name.as_deref().unwrap_or_default()),
            if hosts.is_empty() { "*".into() } else { table::first_few(&hosts, SHOWN) }.into(),
            addresses.join(",").into(),
            if tls { "80, 443" } else { "80" }.into(),
            table::age(object, now),
        ]
    }
}

fn check(errors: &mut Errors, spec: &IngressSpec) {
    let path = Path::new("spec");
    let rules = spec.rules.as_deref().unwrap_or_default();
    if spec.default_backend.is_none() && rules.is_empty() {
        errors.invalid(&path, "", "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(default) = &spec.default_backend {
        backend(errors, &path.child("defaultBackend"), default);
    }
    if let Some(class) = spec.ingress_class_name.as_deref() {
        errors.all_invalid(&path.child("ingressClassName"), class, names::dns_subdomain(class));
    }
    for (index, rule) in rules.iter().enumerate() {
        let at = path.child("rules").index(index);
        host(errors, &at.child("host"), rule.host.as_deref().unwrap_or_default());
        let Some(http) = &rule.http else { continue };
        let at = at.child("http").child("paths");
        if http.paths.is_empty() {
            errors.required(&at, "");
        }
        for (index, one) in http.paths.iter().enumerate() {
            http_path(errors, &at.index(index), one);
        }
    }
    for (index, tls) in spec.tls.iter().flatten().enumerate() {
        let at = path.child("tls").index(index).child("hosts");
        for (index, name) in tls.hosts.iter().flatten().enumerate() {
            host(errors, &at.index(index), name);
        }
    }
}

fn host(errors: &mut Errors, path: &Path, host: &str) {
    if host.is_empty() {
        return;
    }
    if host.parse::<std::net::IpAddr>().is_ok() {
        errors.invalid(path, host, "must be a DNS name, not an IP address");
    }
    let name = host.strip_prefix("*.").unwrap_or(host);
    errors.all_invalid(path, host, names::dns_subdomain(name));
}

fn http_path(errors: &mut Errors, path: &Path, one: &HTTPIngressPath) {
    const TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
    let text = one.path.as_deref().unwrap_or_default();
    match one.path_type.as_str() {
        "" => errors.required(&path.child("pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                errors.invalid(&path.child("path"), text, "must be an absolute path");
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if text.contains(bad) {
                    errors.invalid(&path.child("path"), text, &format!("must not contain {bad:?}"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                errors.invalid(&path.child("path"), text, "must be an absolute path");
            }
        }
        other => errors.not_supported(&path.child("pathType"), other, TYPES),
    }
    backend(errors, &path.child("backend"), &one.backend);
}

fn backend(errors: &mut Errors, path: &Path, backend: &IngressBackend) {
    match (&backend.service, &backend.resource) {
        (Some(_), Some(_)) => {
            errors.invalid(path, "", "cannot set both resource and service backends");
        }
        (None, None) => errors.required(path, "resource or service backend is required"),
        (None, Some(_)) => {}
        (Some(service), None) => {
            let at = path.child("service");
            if service.name.is_empty() {
                errors.required(&at.child("name"), "");
            } else {
                let wrong = names::dns1035_label(&service.name);
                errors.all_invalid(&at.child("name"), &service.name, wrong);
            }
            let port = service.port.clone().unwrap_or_default();
            let name = port.name.filter(|name| !name.is_empty());
            match (name, port.number.filter(|number| *number != 0)) {
                (Some(_), Some(_)) => {
                    errors.invalid(
                        &at.child("port"),
                        "",
                        "cannot set both port name & port number",
                    );
                }
                (None, None) => {
                    errors.required(&at.child("port"), "port name or number is required")
                }
                (None, Some(number)) => errors.port(&at.child("port").child("number"), number),
                (Some(name), None) => {
                    let wrong = names::port_name(&name);
                    errors.all_invalid(&at.child("port").child("name"), &name, wrong);
                }
            }
        }
    }
}
