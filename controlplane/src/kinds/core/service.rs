//! Service: defaults, what an update inherits, and the printer. Validation is in `service/check.rs`.

mod check;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use serde_json::{Value, json};

use crate::kinds::{
    Column, Kind, Operation, Selector, Strategy, edit, metadata, names, table, typed,
};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Service",
    plural: "services",
    singular: "service",
    resource: "services",
    short_names: &["svc"],
    categories: &["all"],
    namespaced: true,
    subresources: &["status"],
    strategy: &Services,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Type", "Type determines how the Service is exposed."),
    table::text("Cluster-IP", "The address of the service inside the cluster."),
    table::text("External-IP", "Addresses of the service outside the cluster."),
    table::text("Port(s)", "The ports that are exposed by this service."),
    table::AGE,
    table::wide("Selector", "Labels of the Pods behind the service."),
];
const AFFINITY_SECONDS: i32 = 10800;
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

struct Services;

impl Strategy for Services {
    typed!(Service);

    fn default(&self, value: &mut Value) {
        let Some(service) = value.as_object_mut() else { return };
        default(edit::make(service, "spec"));
    }

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::no_generation(value);
        edit::guard_status(value, op);
        if let Some(service) = value.as_object_mut() {
            edit::default_to(service, "status", json!({"loadBalancer": {}}));
        }
        let Some(spec) = value.pointer_mut("/spec").and_then(Value::as_object_mut) else { return };
        if let Operation::Update { old, .. } = op {
            inherit(spec, &old["spec"]);
        }
        address_lists(spec, op);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&KIND, names::dns1035_label as fn(&str) -> Vec<String>);
        metadata::validated::<Service>(named, value, op, |errors, service| {
            let old = match op {
                Operation::Create => None,
                Operation::Update { old, .. } => {
                    serde_json::from_value::<Service>(old.clone()).ok()
                }
            };
            check::spec(errors, service, old.as_ref());
        })
    }

    fn field(&self, value: &Value, label: &str) -> Option<String> {
        match label {
            "spec.clusterIP" => Some(edit::text(value, "/spec/clusterIP").into()),
            "spec.type" => Some(edit::text(value, "/spec/type").into()),
            _ => None,
        }
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &["spec.clusterIP", "spec.type"]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let service = object.view::<Service>().unwrap_or_default();
        let empty = ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&empty);
        let cluster_ip = match spec.cluster_ips.as_deref() {
            Some([first, ..]) => first,
            _ => spec.cluster_ip.as_deref().unwrap_or_default(),
        };
        let ports: Vec<String> = spec.ports.iter().flatten().map(port).collect();
        let selector = spec.selector.as_ref().map(Selector::from_labels).unwrap_or_default();
        vec![
            table::name(object),
            spec.type_.clone().unwrap_or_default().into(),
            table::or_none(cluster_ip),
            external(&service, spec).into(),
            table::or_none(&ports.join(",")),
            table::age(object, now),
            table::or_none(&selector.to_string()),
        ]
    }
}

fn default(spec: &mut edit::Object) {
    edit::default_to(spec, "type", "ClusterIP");
    edit::default_to(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "ClientIP" {
        let config = edit::make(spec, "sessionAffinityConfig");
        edit::default_to(edit::make(config, "clientIP"), "timeoutSeconds", AFFINITY_SECONDS);
    } else {
        spec.remove("sessionAffinityConfig");
    }
    for port in edit::each(spec, "ports") {
        edit::default_to(port, "protocol", "TCP");
        if edit::is_unset(port.get("targetPort")) || port["targetPort"] == 0 {
            let number = port.get("port").cloned().unwrap_or_default();
            port.insert("targetPort".into(), number);
        }
    }
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    if matches!(&*kind, "NodePort" | "LoadBalancer") {
        edit::default_to(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        edit::default_to(spec, "allocateLoadBalancerNodePorts", true);
    }
    if matches!(&*kind, "ClusterIP" | "NodePort" | "LoadBalancer") {
        edit::default_to(spec, "internalTrafficPolicy", "Cluster");
        edit::default_to(spec, "ipFamilyPolicy", "SingleStack");
        edit::default_to(spec, "ipFamilies", json!(["IPv4"]));
    }
}

fn has_address(spec_type: &Value) -> bool {
    spec_type != "ExternalName"
}

/// What was allocated stays when an update leaves it out.
fn inherit(spec: &mut edit::Object, old: &Value) {
    if has_address(&spec["type"]) && has_address(&old["type"]) {
        for key in ["clusterIP", "clusterIPs"] {
            let unset = edit::is_unset(spec.get(key));
            if unset && let Some(before) = old.get(key) {
                spec.insert(key.into(), before.clone());
            }
        }
    }
    let wants_ports = |kind: &Value| kind == "NodePort" || kind == "LoadBalancer";
    if !wants_ports(&spec["type"]) || !wants_ports(&old["type"]) {
        return;
    }
    let before = old["ports"].as_array().into_iter().flatten();
    let by_port: Vec<_> =
        before.map(|p| (p["port"].clone(), p["protocol"].clone(), p["nodePort"].clone())).collect();
    for port in edit::each(spec, "ports") {
        let unset = port.get("nodePort").is_none_or(|n| n.is_null() || n == 0);
        let same = |(number, protocol, _): &&(Value, Value, Value)| {
            port.get("port") == Some(number) && port.get("protocol") == Some(protocol)
        };
        let found = by_port.iter().find(same).map(|(_, _, node_port)| node_port.clone());
        if unset && let Some(node_port) = found.filter(|n| !n.is_null()) {
            port.insert("nodePort".into(), node_port);
        }
    }
}

/// `clusterIP` and `clusterIPs[0]` are one value; the older field leads.
fn address_lists(spec: &mut edit::Object, op: Operation<'_>) {
    if !has_address(&spec["type"]) {
        if let Operation::Update { old, .. } = op {
            // A Service that turns into a mere name gives its address back.
            for key in ["clusterIP", "clusterIPs"] {
                if spec.get(key) == old["spec"].get(key) {
                    spec.remove(key);
                }
            }
        }
        return;
    }
    let single = spec.get("clusterIP").cloned().filter(|ip| !edit::is_unset(Some(ip)));
    let first = spec.get("clusterIPs").and_then(|l| l.get(0)).cloned();
    let changed = |key: &str| match op {
        Operation::Create => false,
        Operation::Update { old, .. } => spec.get(key) != old["spec"].get(key),
    };
    match (single, first) {
        (Some(ip), None) => drop(spec.insert("clusterIPs".into(), json!([ip]))),
        (None, Some(ip)) => drop(spec.insert("clusterIP".into(), ip)),
        (Some(ip), Some(first))
            if ip != first && changed("clusterIP") && !changed("clusterIPs") =>
        {
            spec.insert("clusterIPs".into(), json!([ip]));
        }
        _ => {}
    }
}

fn port(port: &ServicePort) -> String {
    let protocol = port.protocol.as_deref().unwrap_or_default();
    match port.node_port {
        Some(node_port) if node_port > 0 => format!("{}:{node_port}/{protocol}", port.port),
        _ => format!("{}/{protocol}", port.port),
    }
}

fn external(service: &Service, spec: &ServiceSpec) -> String {
    let own = || spec.external_ips.iter().flatten().cloned();
    let join = |list: Vec<String>, otherwise: &str| match list.as_slice() {
        [] => otherwise.to_owned(),
        list => list.join(","),
    };
    match spec.type_.as_deref() {
        Some("ClusterIP" | "NodePort") => join(own().collect(), table::NONE),
        Some("ExternalName") => spec.external_name.clone().unwrap_or_default(),
        Some("LoadBalancer") => {
            let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
            let ingress = balancer.and_then(|b| b.ingress.as_ref()).into_iter().flatten();
            let address = |i: &k8s_openapi::api::core::v1::LoadBalancerIngress| {
                i.ip.clone().filter(|ip| !ip.is_empty()).or_else(|| i.hostname.clone())
            };
            join(ingress.filter_map(address).chain(own()).collect(), "<pending>")
        }
        _ => table::UNKNOWN.into(),
    }
}
