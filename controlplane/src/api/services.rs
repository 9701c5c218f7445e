//! Addresses of Services: cluster IPs and node ports, unique because the caller holds a lock from allocation to
//! commit. Deterministic: the lowest free one above the band that people choose from. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::Ipv4Net;
use serde_json::{Value, json};

use super::{errors, meta};
use crate::kinds::{Kind, invalid};
use crate::object::Object;
use crate::status::{ApiError, Cause};

const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;

/// The address of the `kubernetes` Service.
pub fn api_address(cidr: &Ipv4Net) -> Ipv4Addr {
    nth(cidr, 1)
}

/// The address that cluster DNS goes by.
pub fn dns_address(cidr: &Ipv4Net) -> Ipv4Addr {
    nth(cidr, 10)
}

fn nth(cidr: &Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(cidr.network()).wrapping_add(n))
}

/// Fills `spec.clusterIP(s)` and node ports of the Service `value`, or says why they cannot be had.
pub(crate) fn allocate(
    kind: &Kind,
    cidr: &Ipv4Net,
    services: &[Arc<Object>],
    value: &mut Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let (namespace, name) = (meta::text(value, "namespace"), meta::text(value, "name"));
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    let others: Vec<Value> = services
        .iter()
        .filter(|s| (&s.meta.namespace, &s.meta.name) != (&namespace, &name))
        .map(|s| s.value())
        .collect();
    if let Some(old) = old {
        inherit(value, old);
    }
    let mut causes = Vec::new();
    if value["spec"]["type"] == "ExternalName" {
        if let Some(spec) = value["spec"].as_object_mut() {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                spec.remove(field);
            }
        }
    } else {
        let reserved = match (namespace.as_str(), name.as_str()) {
            ("default", "kubernetes") => Some(api_address(cidr)),
            ("kube-system", "kube-dns") => Some(dns_address(cidr)),
            _ => None,
        };
        causes.extend(cluster_ip(cidr, &others, &mut value["spec"], reserved).err());
    }
    causes.extend(families(&value["spec"]).err());
    causes.extend(node_ports(&others, &mut value["spec"]).err());
    causes.extend(health_port(&others, &mut value["spec"], old).err());
    match causes.is_empty() {
        true => Ok(()),
        false => Err(invalid(kind, &name, causes)),
    }
}

/// A replaced Service keeps the addresses that the new text leaves out.
fn inherit(value: &mut Value, old: &Value) {
    if old["spec"]["type"] == "ExternalName" || value["spec"]["type"] == "ExternalName" {
        return;
    }
    let absent = |v: &Value| v.as_str().unwrap_or_default().is_empty();
    if absent(&value["spec"]["clusterIP"]) && !absent(&old["spec"]["clusterIP"]) {
        value["spec"]["clusterIP"] = old["spec"]["clusterIP"].clone();
        value["spec"]["clusterIPs"] = old["spec"]["clusterIPs"].clone();
    }
    let before = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
    if !has_node_ports(&value["spec"]) {
        return;
    }
    for port in value["spec"]["ports"].as_array_mut().into_iter().flatten() {
        let same = |o: &&Value| o["port"] == port["port"] && o["protocol"] == port["protocol"];
        if port["nodePort"].as_u64().unwrap_or(0) == 0
            && let Some(found) = before.iter().find(same).and_then(|o| o["nodePort"].as_u64())
        {
            port["nodePort"] = found.into();
        }
    }
}

fn cluster_ip(
    cidr: &Ipv4Net,
    others: &[Value],
    spec: &mut Value,
    reserved: Option<Ipv4Addr>,
) -> Result<(), Cause> {
    let asked = match (spec["clusterIP"].as_str(), spec["clusterIPs"][0].as_str()) {
        (Some(ip), _) if !ip.is_empty() => ip.to_owned(),
        (_, Some(ip)) => ip.to_owned(),
        _ => String::new(),
    };
    let taken: BTreeSet<Ipv4Addr> =
        others.iter().filter_map(|s| s["spec"]["clusterIP"].as_str()?.parse().ok()).collect();
    let chosen = match asked.as_str() {
        "None" => "None".to_owned(),
        "" => match reserved.filter(|ip| !taken.contains(ip)).or_else(|| free(cidr, &taken)) {
            Some(ip) => ip.to_string(),
            None => {
                return Err(wrong_ip("", format!("failed to allocate IP: range {cidr} is full")));
            }
        },
        asked => checked(cidr, &taken, asked)?.to_string(),
    };
    spec["clusterIP"] = json!(chosen);
    spec["clusterIPs"] = json!([chosen]);
    for (field, default) in
        [("ipFamilies", json!(["IPv4"])), ("ipFamilyPolicy", json!("SingleStack"))]
    {
        if spec[field].is_null() {
            spec[field] = default;
        }
    }
    Ok(())
}

fn checked(cidr: &Ipv4Net, taken: &BTreeSet<Ipv4Addr>, asked: &str) -> Result<Ipv4Addr, Cause> {
    let ip = match asked.parse() {
        Ok(IpAddr::V4(ip)) => ip,
        Ok(IpAddr::V6(_)) => {
            return Err(wrong_ip(asked, "IPv6 is not configured on this cluster".into()));
        }
        Err(_) => {
            return Err(wrong_ip(asked, "must be empty, 'None', or a valid IP address".into()));
        }
    };
    if !cidr.contains(&ip) || ip == cidr.network() || ip == cidr.broadcast() {
        let why = format!(
            "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {cidr}"
        );
        return Err(wrong_ip(asked, why));
    }
    match taken.contains(&ip) {
        true => Err(wrong_ip(
            asked,
            format!("failed to allocate IP {ip}: provided IP is already allocated"),
        )),
        false => Ok(ip),
    }
}

/// The lower end of the range is left to people who choose for themselves, until the rest is used up.
fn free(cidr: &Ipv4Net, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let size = u32::from(cidr.broadcast()) - u32::from(cidr.network()) + 1;
    let band = (size / 16).clamp(16, 256).min(size / 2);
    let usable = |n: &u32| {
        let ip = nth(cidr, *n);
        !taken.contains(&ip) && ip != api_address(cidr) && ip != dns_address(cidr)
    };
    (band..size - 1).chain(1..band).find(usable).map(|n| nth(cidr, n))
}

fn wrong_ip(value: &str, why: String) -> Cause {
    let field = "spec.clusterIPs";
    errors::cause("FieldValueInvalid", field, format!("Invalid value: [{value:?}]: {why}"))
}

fn has_node_ports(spec: &Value) -> bool {
    match spec["type"].as_str() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

/// This cluster's Pods and Services have IPv4 addresses only.
fn families(spec: &Value) -> Result<(), Cause> {
    if spec["type"] == "ExternalName" {
        return Ok(());
    }
    if spec["ipFamilyPolicy"] == "RequireDualStack" {
        let why = "Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services";
        return Err(errors::cause("FieldValueInvalid", "spec.ipFamilyPolicy", why));
    }
    let mut families = spec["ipFamilies"].as_array().into_iter().flatten();
    if let Some(index) = families.position(|family| family == "IPv6") {
        let field = format!("spec.ipFamilies[{index}]");
        let why = "Invalid value: \"IPv6\": not configured on this cluster";
        return Err(errors::cause("FieldValueInvalid", &field, why));
    }
    Ok(())
}

/// The port at which balancers outside ask a node about a Service of policy Local.
fn health_port(others: &[Value], spec: &mut Value, old: Option<&Value>) -> Result<(), Cause> {
    const FIELD: &str = "healthCheckNodePort";
    let needs =
        |spec: &Value| spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local";
    let number =
        |spec: &Value| spec[FIELD].as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0);
    let wrong = |n: u16, why: &str| {
        let text = format!("Invalid value: {n}: {why}");
        errors::cause("FieldValueInvalid", "spec.healthCheckNodePort", text)
    };
    let before = old.filter(|old| needs(&old["spec"])).and_then(|old| number(&old["spec"]));
    if !needs(spec) {
        let asked = number(spec);
        let inherited = asked == old.and_then(|old| number(&old["spec"]));
        if let Some(spec) = spec.as_object_mut() {
            spec.remove(FIELD);
        }
        let why =
            "may only be used when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        return asked.filter(|_| !inherited).map_or(Ok(()), |n| Err(wrong(n, why)));
    }
    let taken = others.iter().filter_map(|s| number(&s["spec"])).chain(taken_node_ports(others));
    let mut taken: BTreeSet<u16> = taken.collect();
    taken.extend(spec["ports"].as_array().into_iter().flatten().filter_map(node_port));
    let n = match (number(spec), before) {
        (Some(n), Some(before)) if n != before => {
            return Err(wrong(n, "field is immutable"));
        }
        (_, Some(before)) => before,
        (Some(n), None) if !NODE_PORTS.contains(&n) => {
            let why =
                "provided port is not in the valid range. The range of valid ports is 30000-32767";
            return Err(wrong(n, why));
        }
        (Some(n), None) if taken.contains(&n) => {
            return Err(wrong(n, "provided port is already allocated"));
        }
        (Some(n), None) => n,
        (None, None) => NODE_PORTS
            .into_iter()
            .find(|n| !taken.contains(n))
            .ok_or_else(|| wrong(0, "failed to allocate a nodePort: range is full"))?,
    };
    spec[FIELD] = n.into();
    Ok(())
}

fn taken_node_ports(others: &[Value]) -> impl Iterator<Item = u16> {
    let ports = others.iter().flat_map(|s| s["spec"]["ports"].as_array().into_iter().flatten());
    ports.filter_map(node_port)
}

fn node_ports(others: &[Value], spec: &mut Value) -> Result<(), Cause> {
    let wanted = has_node_ports(spec);
    let Some(ports) = spec["ports"].as_array_mut() else { return Ok(()) };
    if !wanted {
        ports.iter_mut().filter_map(Value::as_object_mut).for_each(|p| drop(p.remove("nodePort")));
        return Ok(());
    }
    let health =
        |s: &Value| s["spec"]["healthCheckNodePort"].as_u64().and_then(|n| u16::try_from(n).ok());
    let mut taken: BTreeSet<u16> =
        taken_node_ports(others).chain(others.iter().filter_map(health)).collect();
    let wrong = |index: usize, n: u16, why: &str| {
        let field = format!("spec.ports[{index}].nodePort");
        errors::cause("FieldValueInvalid", &field, format!("Invalid value: {n}: {why}"))
    };
    for (index, port) in ports.iter().enumerate() {
        let Some(n) = node_port(port) else { continue };
        if !NODE_PORTS.contains(&n) {
            let why =
                "provided port is not in the valid range. The range of valid ports is 30000-32767";
            return Err(wrong(index, n, why));
        }
        if taken.contains(&n) {
            return Err(wrong(index, n, "provided port is already allocated"));
        }
    }
    // What is asked for goes first; the same number for TCP and UDP of one Service is fine.
    taken.extend(ports.iter().filter_map(node_port));
    for (index, port) in ports.iter_mut().enumerate() {
        if node_port(port).is_none() {
            let free = NODE_PORTS.into_iter().find(|n| !taken.contains(n));
            let n = free
                .ok_or_else(|| wrong(index, 0, "failed to allocate a nodePort: range is full"))?;
            port["nodePort"] = n.into();
            taken.insert(n);
        }
    }
    Ok(())
}

fn node_port(port: &Value) -> Option<u16> {
    port["nodePort"].as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr() -> Ipv4Net {
        "10.96.0.0/16".parse().unwrap()
    }

    fn spec_of(others: &[Value], mut spec: Value) -> Result<Value, Cause> {
        cluster_ip(&cidr(), others, &mut spec, None)?;
        node_ports(others, &mut spec)?;
        Ok(spec)
    }

    #[test]
    fn addresses_are_unique_and_deterministic() {
        let first = spec_of(&[], json!({})).unwrap();
        assert_eq!(first["clusterIP"], "10.96.1.0");
        assert_eq!(first["clusterIPs"], json!(["10.96.1.0"]));
        let second = spec_of(&[json!({"spec": first})], json!({"clusterIP": ""})).unwrap();
        assert_eq!(second["clusterIP"], "10.96.1.1");
        let asked = json!({"clusterIP": "10.96.0.77"});
        let chosen = spec_of(&[], asked.clone()).unwrap();
        assert_eq!(chosen["clusterIP"], "10.96.0.77");
        assert!(spec_of(&[json!({"spec": chosen})], asked).is_err());
        assert!(spec_of(&[], json!({"clusterIP": "10.97.0.1"})).is_err());
        assert!(spec_of(&[], json!({"clusterIP": "x"})).is_err());
        assert_eq!(spec_of(&[], json!({"clusterIP": "None"})).unwrap()["clusterIP"], "None");
    }

    #[test]
    fn a_small_range_is_used_up_without_the_reserved_addresses() {
        let cidr: Ipv4Net = "10.0.0.0/28".parse().unwrap();
        let mut taken = BTreeSet::new();
        while let Some(ip) = free(&cidr, &taken) {
            assert!(taken.insert(ip));
        }
        // 16 addresses without network, broadcast, .1 and .10
        assert_eq!(taken.len(), 12);
    }

    #[test]
    fn a_health_check_port_is_given_to_local_balancers_and_stays() {
        let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
        let of = |others: &[Value], mut spec: Value, old: Option<Value>| {
            node_ports(others, &mut spec)?;
            health_port(others, &mut spec, old.map(|spec| json!({"spec": spec})).as_ref())?;
            Ok::<_, Cause>(spec)
        };
        let first = of(&[], local.clone(), None).unwrap();
        assert_eq!(first["healthCheckNodePort"], 30001, "30000 is the node port");
        let second = of(&[json!({"spec": first})], local.clone(), None).unwrap();
        assert_eq!(second["ports"][0]["nodePort"], 30002);
        assert_eq!(second["healthCheckNodePort"], 30003);
        assert_eq!(
            of(&[], local.clone(), Some(second.clone())).unwrap()["healthCheckNodePort"],
            30003
        );
        let with = |n: u16| {
            let mut spec = local.clone();
            spec["healthCheckNodePort"] = n.into();
            spec
        };
        assert_eq!(of(&[], with(31000), None).unwrap()["healthCheckNodePort"], 31000);
        for (others, spec, old) in [
            (vec![], with(80), None),
            (vec![json!({"spec": with(31000)})], with(31000), None),
            (vec![], with(31000), Some(second.clone())),
            (vec![], json!({"type": "NodePort", "healthCheckNodePort": 31000}), None),
        ] {
            let cause = of(&others, spec, old).unwrap_err();
            assert_eq!(cause.field, "spec.healthCheckNodePort", "{cause:?}");
        }
        let mut cluster = second.clone();
        cluster["externalTrafficPolicy"] = "Cluster".into();
        assert!(of(&[], cluster, Some(second)).unwrap().get("healthCheckNodePort").is_none());
    }

    #[test]
    fn a_second_family_is_refused() {
        assert!(families(&json!({"ipFamilyPolicy": "PreferDualStack"})).is_ok());
        for spec in [
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            json!({"ipFamilies": ["IPv4", "IPv6"]}),
            json!({"ipFamilies": ["IPv6"]}),
        ] {
            assert!(families(&spec).is_err(), "{spec}");
        }
    }

    #[test]
    fn node_ports_are_given_where_the_type_has_them() {
        let ports = json!([{"port": 80}, {"port": 81, "nodePort": 30000}]);
        let spec = spec_of(&[], json!({"type": "NodePort", "ports": ports})).unwrap();
        assert_eq!(spec["ports"][0]["nodePort"], 30001);
        assert!(
            spec_of(&[json!({"spec": spec})], json!({"type": "NodePort", "ports": ports})).is_err()
        );
        let plain = spec_of(&[], json!({"type": "ClusterIP", "ports": ports})).unwrap();
        assert!(plain["ports"][1].get("nodePort").is_none());
        let low = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]});
        assert!(spec_of(&[], low).is_err());
    }
}
