//! NetworkPolicy. Nothing enforces it yet: whoever writes one is told.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::GROUP;
use crate::kinds::field::{Errors, Path};
use crate::kinds::{
    Column, Kind, Operation, Strategy, edit, metadata, names, table, template, typed,
};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "NetworkPolicy",
    plural: "networkpolicies",
    singular: "networkpolicy",
    resource: "networkpolicies.networking.k8s.io",
    short_names: &["netpol"],
    categories: &[],
    namespaced: true,
    subresources: &[],
    strategy: &Policies,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Pod-Selector", "The pods to which this NetworkPolicy object applies."),
    table::AGE,
];
const TYPES: &[&str] = &["Egress", "Ingress"];

struct Policies;

impl Strategy for Policies {
    typed!(NetworkPolicy);

    fn default(&self, value: &mut Value) {
        let Some(policy) = value.as_object_mut() else { return };
        let spec = edit::make(policy, "spec");
        for direction in ["ingress", "egress"] {
            for rule in edit::each(spec, direction) {
                for port in edit::each(rule, "ports") {
                    edit::default_to(port, "protocol", "TCP");
                }
            }
        }
        let leaves = spec.get("egress").and_then(Value::as_array).is_some_and(|e| !e.is_empty());
        if spec.get("policyTypes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            let types = if leaves { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
            spec.insert("policyTypes".into(), types);
        }
    }

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::count_generation(value, op);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::validated::<NetworkPolicy>(named, value, op, |errors, policy| {
            check(errors, &policy.spec.clone().unwrap_or_default());
        })
    }

    fn warn(&self, _: &Value, _: Operation<'_>) -> Vec<String> {
        vec!["not enforced by this cluster's nodes yet: all Pods still reach each other".into()]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let policy = object.view::<NetworkPolicy>().unwrap_or_default();
        let selector = policy.spec.as_ref().and_then(|spec| spec.pod_selector.clone());
        let selector = template::selector_cell(&selector.unwrap_or_default());
        vec![table::name(object), selector, table::age(object, now)]
    }
}

fn check(errors: &mut Errors, spec: &NetworkPolicySpec) {
    let path = Path::new("spec");
    if let Some(selector) = &spec.pod_selector {
        template::label_selector(errors, &path.child("podSelector"), selector);
    }
    let types = spec.policy_types.as_deref().unwrap_or_default();
    for (index, kind) in types.iter().enumerate() {
        errors.one_of(&path.child("policyTypes").index(index), Some(kind), TYPES);
    }
    for (index, rule) in spec.ingress.iter().flatten().enumerate() {
        let at = path.child("ingress").index(index);
        check_rule(errors, &at, rule.ports.as_deref(), ("from", rule.from.as_deref()));
    }
    for (index, rule) in spec.egress.iter().flatten().enumerate() {
        let at = path.child("egress").index(index);
        check_rule(errors, &at, rule.ports.as_deref(), ("to", rule.to.as_deref()));
    }
}

fn check_rule(
    errors: &mut Errors,
    path: &Path,
    ports: Option<&[NetworkPolicyPort]>,
    (side, peers): (&str, Option<&[NetworkPolicyPeer]>),
) {
    for (index, one) in ports.unwrap_or_default().iter().enumerate() {
        port(errors, &path.child("ports").index(index), one);
    }
    for (index, one) in peers.unwrap_or_default().iter().enumerate() {
        peer(errors, &path.child(side).index(index), one);
    }
}

fn port(errors: &mut Errors, path: &Path, one: &NetworkPolicyPort) {
    let protocols = &["SCTP", "TCP", "UDP"];
    errors.optional_one_of(&path.child("protocol"), one.protocol.as_deref(), protocols);
    let at = path.child("port");
    match (&one.port, one.end_port) {
        (Some(IntOrString::Int(number)), end) => {
            errors.port(&at, *number);
            if end.is_some_and(|end| end < *number) {
                let why = "must be greater than or equal to `port`";
                errors.invalid(&path.child("endPort"), end.unwrap_or(0), why);
            }
        }
        (Some(IntOrString::String(name)), end) => {
            errors.all_invalid(&at, name, names::port_name(name));
            if let Some(end) = end {
                let why = "may not be specified when `port` is non-numeric";
                errors.invalid(&path.child("endPort"), end, why);
            }
        }
        (None, Some(end)) => {
            let why = "may not be specified when `port` is not specified";
            errors.invalid(&path.child("endPort"), end, why);
        }
        (None, None) => {}
    }
}

fn peer(errors: &mut Errors, path: &Path, peer: &NetworkPolicyPeer) {
    for (name, selector) in
        [("podSelector", &peer.pod_selector), ("namespaceSelector", &peer.namespace_selector)]
    {
        if let Some(selector) = selector {
            template::label_selector(errors, &path.child(name), selector);
        }
    }
    let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
    let Some(block) = &peer.ip_block else {
        if !selects {
            errors.required(path, "must specify a peer");
        }
        return;
    };
    let at = path.child("ipBlock");
    if selects {
        errors.forbidden(path, "may not specify both ipBlock and another peer");
    }
    let Ok(range) = block.cidr.parse::<ipnet::IpNet>() else {
        let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        return errors.invalid(&at.child("cidr"), &block.cidr, why);
    };
    for (index, text) in block.except.iter().flatten().enumerate() {
        let inside = text.parse::<ipnet::IpNet>().is_ok_and(|e| range.contains(&e) && e != range);
        if !inside {
            let why = format!("must be a strict subset of `cidr` {:?}", block.cidr);
            errors.invalid(&at.child("except").index(index), text, &why);
        }
    }
}
