//! Validation of Services.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::kinds::field::{Errors, Path};
use crate::kinds::{metadata, names};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const MAX_AFFINITY_SECONDS: i32 = 86400;

pub(super) fn spec(errors: &mut Errors, service: &Service, old: Option<&Service>) {
    let path = Path::new("spec");
    let Some(spec) = &service.spec else { return errors.required(&path, "") };
    let kind = spec.type_.as_deref().unwrap_or_default();
    errors.one_of(&path.child("type"), Some(kind), TYPES);
    ports(errors, &path.child("ports"), spec);
    addresses(errors, &path, spec);
    affinity(errors, &path, spec);
    policies(errors, &path, spec);
    if let Some(labels) = &spec.selector {
        metadata::labels(errors, &path.child("selector"), labels);
    }
    if kind == "ExternalName" {
        let name = spec.external_name.as_deref().unwrap_or_default();
        let at = path.child("externalName");
        let trimmed = name.trim_end_matches('.');
        if trimmed.is_empty() {
            errors.required(&at, "");
        } else {
            errors.all_invalid(&at, name, names::dns_subdomain(trimmed));
        }
    }
    if let Some(old) = old.and_then(|o| o.spec.as_ref()) {
        allocated_once(errors, &path, spec, old);
    }
}

fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

fn ports(errors: &mut Errors, path: &Path, spec: &ServiceSpec) {
    let list = spec.ports.as_deref().unwrap_or_default();
    let kind = spec.type_.as_deref().unwrap_or_default();
    if list.is_empty() && !is_headless(spec) && kind != "ExternalName" {
        errors.required(path, "");
    }
    let (mut seen_names, mut seen_ports, mut seen_nodes) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, port) in list.iter().enumerate() {
        let at = path.index(index);
        one_port(errors, &at, port, list.len() > 1, spec);
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() && !seen_names.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        let protocol = port.protocol.as_deref().unwrap_or_default();
        if !seen_ports.insert((protocol, port.port)) {
            errors.duplicate(&at, format!("{protocol}/{}", port.port));
        }
        let node_port = port.node_port.unwrap_or(0);
        if node_port != 0 && !seen_nodes.insert((protocol, node_port)) {
            errors.duplicate(&at.child("nodePort"), i64::from(node_port));
        }
    }
}

fn one_port(
    errors: &mut Errors,
    path: &Path,
    port: &ServicePort,
    name_needed: bool,
    spec: &ServiceSpec,
) {
    match port.name.as_deref().unwrap_or_default() {
        "" if name_needed => errors.required(&path.child("name"), ""),
        "" => {}
        name => errors.all_invalid(&path.child("name"), name, names::dns_label(name)),
    }
    errors.port(&path.child("port"), port.port);
    errors.one_of(&path.child("protocol"), port.protocol.as_deref(), super::PROTOCOLS);
    let at = path.child("targetPort");
    match &port.target_port {
        Some(IntOrString::Int(number)) if is_headless(spec) && *number != port.port => {
            // Upstream tolerates it: nobody translates ports of a headless Service.
            errors.port(&at, *number);
        }
        Some(IntOrString::Int(number)) => errors.port(&at, *number),
        Some(IntOrString::String(name)) => {
            errors.all_invalid(&at, name, names::port_name(name));
        }
        None => {}
    }
    if port.node_port.unwrap_or(0) != 0 {
        errors.port(&path.child("nodePort"), port.node_port.unwrap_or(0));
        if spec.type_.as_deref() == Some("ClusterIP") {
            let why = "may not be used when `type` is 'ClusterIP'";
            errors.forbidden(&path.child("nodePort"), why);
        }
    }
    if let Some(app) = port.app_protocol.as_deref() {
        errors.all_invalid(&path.child("appProtocol"), app, names::qualified_name(app));
    }
}

fn addresses(errors: &mut Errors, path: &Path, spec: &ServiceSpec) {
    let kind = spec.type_.as_deref().unwrap_or_default();
    let single = spec.cluster_ip.as_deref().unwrap_or_default();
    let list = spec.cluster_ips.as_deref().unwrap_or_default();
    let at = path.child("clusterIPs");
    if kind == "ExternalName" {
        if !single.is_empty() {
            let why = "may not be set when `type` is 'ExternalName'";
            errors.forbidden(&path.child("clusterIP"), why);
        }
    } else if kind != "ClusterIP" && single == "None" {
        let why = format!("may not be set to 'None' for {kind} services");
        errors.invalid(&at.index(0), "None", &why);
    }
    if let Some(first) = list.first()
        && first != single
    {
        errors.invalid(&at, first, "first value must match `clusterIP`");
    }
    for (index, address) in list.iter().enumerate() {
        if address == "None" {
            if index > 0 || list.len() > 1 {
                errors.invalid(
                    &at.index(index),
                    address,
                    "'None' must be the first and only value",
                );
            }
        } else if address.parse::<IpAddr>().is_err() {
            errors.invalid(&at.index(index), address, IP);
        }
    }
    for (index, address) in spec.external_ips.iter().flatten().enumerate() {
        let at = path.child("externalIPs").index(index);
        match address.parse::<IpAddr>() {
            Err(_) => errors.invalid(&at, address, IP),
            Ok(ip) if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() => {
                errors.invalid(&at, address, "may not be unspecified, loopback or multicast");
            }
            Ok(_) => {}
        }
    }
}

fn affinity(errors: &mut Errors, path: &Path, spec: &ServiceSpec) {
    const KINDS: &[&str] = &["ClientIP", "None"];
    errors.one_of(&path.child("sessionAffinity"), spec.session_affinity.as_deref(), KINDS);
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    if let Some(seconds) = config.and_then(|c| c.timeout_seconds)
        && !(1..=MAX_AFFINITY_SECONDS).contains(&seconds)
    {
        let at = path.child("sessionAffinityConfig").child("clientIP").child("timeoutSeconds");
        let why = format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
        errors.invalid(&at, seconds, &why);
    }
}

fn policies(errors: &mut Errors, path: &Path, spec: &ServiceSpec) {
    const TRAFFIC: &[&str] = &["Cluster", "Local"];
    const FAMILY: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];
    let kind = spec.type_.as_deref().unwrap_or_default();
    let external = spec.external_traffic_policy.as_deref().filter(|p| !p.is_empty());
    let at = path.child("externalTrafficPolicy");
    let outside = matches!(kind, "NodePort" | "LoadBalancer")
        || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    if let Some(policy) = external {
        if outside {
            errors.one_of(&at, Some(policy), TRAFFIC);
        } else {
            errors.invalid(&at, policy, "may only be set for externally-accessible services");
        }
    }
    let internal = spec.internal_traffic_policy.as_deref();
    errors.optional_one_of(&path.child("internalTrafficPolicy"), internal, TRAFFIC);
    errors.optional_one_of(&path.child("ipFamilyPolicy"), spec.ip_family_policy.as_deref(), FAMILY);
    for (index, family) in spec.ip_families.iter().flatten().enumerate() {
        let at = path.child("ipFamilies").index(index);
        errors.one_of(&at, Some(family), &["IPv4", "IPv6"]);
    }
    if kind != "LoadBalancer" {
        if spec.load_balancer_class.is_some() {
            let why = "may only be used when `type` is 'LoadBalancer'";
            errors.forbidden(&path.child("loadBalancerClass"), why);
        }
        if spec.load_balancer_source_ranges.as_ref().is_some_and(|r| !r.is_empty()) {
            let why = "may only be used when `type` is 'LoadBalancer'";
            errors.forbidden(&path.child("loadBalancerSourceRanges"), why);
        }
    }
}

/// The address does not change while the Service has one.
fn allocated_once(errors: &mut Errors, path: &Path, new: &ServiceSpec, old: &ServiceSpec) {
    let external = |s: &ServiceSpec| s.type_.as_deref() == Some("ExternalName");
    if external(new) || external(old) {
        return;
    }
    let before = old.cluster_ip.as_deref().unwrap_or_default();
    let after = new.cluster_ip.as_deref().unwrap_or_default();
    if !before.is_empty() && before != after {
        let at = path.child("clusterIPs").index(0);
        errors.invalid(&at, after, "may not change once set");
    }
}
