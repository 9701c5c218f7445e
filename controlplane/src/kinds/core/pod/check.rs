//! Validation of the Pod spec as upstream does it; what a node cannot do yet is the node's to refuse.

mod container;
mod env;
mod probes;
mod resources;
pub(in crate::kinds::core) mod scheduling;
mod security;
pub(in crate::kinds) mod update;
mod volumes;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::kinds::field::{Errors, Path};
use crate::kinds::{metadata, names};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const MAX_INT32: i64 = i32::MAX as i64;

/// Everything wrong with a Pod spec, of a Pod or a template.
pub(in crate::kinds) fn spec(errors: &mut Errors, path: &Path, spec: &PodSpec) {
    let volumes = volumes::check(errors, &path.child("volumes"), spec);
    containers(errors, path, spec, &volumes);
    const RESTART: &[&str] = &["Always", "Never", "OnFailure"];
    errors.one_of(&path.child("restartPolicy"), spec.restart_policy.as_deref(), RESTART);
    dns(errors, path, spec);
    security::pod(errors, path, spec);
    scheduling::check(errors, path, spec);
    identity(errors, path, spec);
    if let Some(seconds) = spec.active_deadline_seconds {
        between(errors, &path.child("activeDeadlineSeconds"), seconds, 1);
    }
    let grace = path.child("terminationGracePeriodSeconds");
    errors.not_negative(&grace, spec.termination_grace_period_seconds);
}

fn between(errors: &mut Errors, path: &Path, number: i64, least: i64) {
    if !(least..=MAX_INT32).contains(&number) {
        let why = format!("must be between {least} and {MAX_INT32}, inclusive");
        errors.invalid(path, number, &why);
    }
}

fn containers(errors: &mut Errors, path: &Path, spec: &PodSpec, volumes: &BTreeSet<String>) {
    let host_network = spec.host_network == Some(true);
    let place = path.child("containers");
    if spec.containers.is_empty() {
        errors.required(&place, "");
    }
    let mut seen = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    for (index, one) in spec.containers.iter().enumerate() {
        let at = place.index(index);
        container::check(errors, &at, one, volumes, host_network);
        container::host_ports(errors, &at, one, &mut host_ports);
        if one.restart_policy.is_some() {
            errors.forbidden(&at.child("restartPolicy"), "may not be set for non-init containers");
        }
        unique(errors, &at, &mut seen, &one.name);
    }
    let place = path.child("initContainers");
    for (index, one) in spec.init_containers.iter().flatten().enumerate() {
        let at = place.index(index);
        container::check(errors, &at, one, volumes, host_network);
        container::init(errors, &at, one);
        unique(errors, &at, &mut seen, &one.name);
    }
    let place = path.child("ephemeralContainers");
    for (index, one) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let at = place.index(index);
        // The same fields and one more.
        let plain = serde_json::to_value(one).and_then(serde_json::from_value::<Container>);
        if let Ok(plain) = plain {
            container::check(errors, &at, &plain, volumes, host_network);
            container::ephemeral(errors, &at, &plain);
        }
        unique(errors, &at, &mut seen, &one.name);
    }
}

fn unique(errors: &mut Errors, path: &Path, seen: &mut BTreeSet<String>, name: &str) {
    if !name.is_empty() && !seen.insert(name.to_owned()) {
        errors.duplicate(&path.child("name"), name);
    }
}

fn dns(errors: &mut Errors, path: &Path, spec: &PodSpec) {
    const POLICIES: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    let policy = spec.dns_policy.as_deref();
    errors.one_of(&path.child("dnsPolicy"), policy, POLICIES);
    let place = path.child("dnsConfig");
    let servers: &[String] =
        spec.dns_config.as_ref().and_then(|c| c.nameservers.as_deref()).unwrap_or_default();
    if policy == Some("None") && spec.dns_config.is_none() {
        let why = "must provide `dnsConfig` when `dnsPolicy` is None";
        errors.required(&place, why);
    } else if policy == Some("None") && servers.is_empty() {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.required(&place.child("nameservers"), why);
    }
    if servers.len() > 3 {
        errors.too_many(&place.child("nameservers"), servers.len(), 3);
    }
    for (index, server) in servers.iter().enumerate() {
        ip(errors, &place.child("nameservers").index(index), server);
    }
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let at = path.child("hostAliases").index(index);
        ip(errors, &at.child("ip"), &alias.ip);
        for (index, name) in alias.hostnames.iter().flatten().enumerate() {
            let at = at.child("hostnames").index(index);
            errors.all_invalid(&at, name, names::dns_subdomain(name));
        }
    }
}

fn ip(errors: &mut Errors, path: &Path, text: &str) {
    if text.parse::<std::net::IpAddr>().is_err() {
        errors.invalid(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
}

/// The names that the spec gives.
fn identity(errors: &mut Errors, path: &Path, spec: &PodSpec) {
    type Grammar = fn(&str) -> Vec<String>;
    let named: [(&str, &Option<String>, Grammar); 7] = [
        ("nodeName", &spec.node_name, names::dns_subdomain),
        ("serviceAccountName", &spec.service_account_name, names::dns_subdomain),
        ("hostname", &spec.hostname, names::dns_label),
        ("subdomain", &spec.subdomain, names::dns_label),
        ("priorityClassName", &spec.priority_class_name, names::dns_subdomain),
        ("runtimeClassName", &spec.runtime_class_name, names::dns_subdomain),
        ("schedulerName", &spec.scheduler_name, names::qualified_name),
    ];
    for (field, name, grammar) in named {
        if let Some(name) = name.as_deref().filter(|n| !n.is_empty()) {
            errors.all_invalid(&path.child(field), name, grammar(name));
        }
    }
    if let Some(labels) = &spec.node_selector {
        metadata::labels(errors, &path.child("nodeSelector"), labels);
    }
    for (index, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let at = path.child("readinessGates").index(index).child("conditionType");
        errors.all_invalid(&at, &gate.condition_type, names::qualified_name(&gate.condition_type));
    }
    if let Some(os) = &spec.os {
        errors.one_of(&path.child("os").child("name"), Some(&os.name), &["linux", "windows"]);
    }
}
