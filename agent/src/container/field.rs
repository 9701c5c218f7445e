//! Values of `fieldRef` and `resourceFieldRef`, for environments and downward API files. Pure.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use super::resources::HostSize;
use crate::pod::qos;

/// What the downward API can tell.
#[derive(Debug, Clone)]
pub struct PodFacts<'a> {
    pub pod: &'a Pod,
    pub pod_ip: Option<String>,
    pub host_ip: String,
    pub hostname: String,
    pub host: HostSize,
}

impl PodFacts<'_> {
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }
}

/// Fields that [`value`] knows; subscripted ones without their key.
pub fn is_known(path: &str) -> bool {
    const PLAIN: [&str; 9] = [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    PLAIN.contains(&path)
        || matches!(path, "metadata.labels" | "metadata.annotations")
        || subscript(path).is_some()
}

pub fn value(path: &str, facts: &PodFacts<'_>) -> Result<String, String> {
    let meta = &facts.pod.metadata;
    let spec = facts.pod.spec.as_ref();
    if let Some((map, key)) = subscript(path) {
        let map = if map == "metadata.labels" { &meta.labels } else { &meta.annotations };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let value = match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => Some(lines(meta.labels.as_ref())),
        "metadata.annotations" => Some(lines(meta.annotations.as_ref())),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "status.hostIP" | "status.hostIPs" => Some(facts.host_ip.clone()),
        "status.podIP" | "status.podIPs" => facts.pod_ip.clone(),
        _ => return Err(format!("fieldPath \"{path}\" is not supported")),
    };
    Ok(value.unwrap_or_default())
}

/// `metadata.labels['key']` as its two parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    let key = rest.strip_suffix("']")?;
    matches!(map, "metadata.labels" | "metadata.annotations").then_some((map, key))
}

fn lines(map: Option<&std::collections::BTreeMap<String, String>>) -> String {
    let line = |(key, value): (&String, &String)| format!("{key}={value:?}");
    map.into_iter().flatten().map(line).collect::<Vec<_>>().join("\n")
}

pub fn resource(
    selector: &ResourceFieldSelector,
    container: &Container,
    facts: &PodFacts<'_>,
) -> Result<String, String> {
    let name = selector.resource.as_str();
    let Some((which, resource)) = name.split_once('.') else {
        return Err(format!("resource \"{name}\" is not supported"));
    };
    let given = if which == "limits" {
        qos::limit(container, resource)
    } else {
        qos::request(container, resource)
    };
    // A limit that is not given is what the node can give.
    let amount = match (given, which, resource) {
        (Some(amount), _, _) => amount,
        (None, "limits", "cpu") => i128::from(facts.host.cpu_millis),
        (None, "limits", "memory") => i128::from(facts.host.memory_bytes) * 1000,
        (None, "requests" | "limits", _) => 0,
        _ => return Err(format!("resource \"{name}\" is not supported")),
    };
    let divisor = match selector.divisor.as_ref().map(|divisor| divisor.0.as_str()) {
        None | Some("" | "0") => 1000,
        Some(text) => qos::millis(text)
            .filter(|divisor| *divisor > 0)
            .ok_or(format!("divisor \"{text}\" is wrong"))?,
    };
    Ok((amount / divisor + i128::from(amount % divisor != 0)).to_string())
}
