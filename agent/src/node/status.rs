//! The Node object as the API shows it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::facts::{HostFacts, Pressure};
use super::options::NodeOptions;
use crate::image::Image;

/// Controllers without which limits are not enforced.
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];
/// Images told of, as upstream.
const MAX_IMAGES: usize = 50;
/// Names of one image, likewise.
const MAX_NAMES: usize = 5;

/// All that a Node's status says.
#[derive(Debug)]
pub struct Input<'a> {
    pub options: &'a NodeOptions,
    pub facts: &'a HostFacts,
    pub controllers: &'a BTreeSet<String>,
    pub pressure: Pressure,
    pub images: &'a [Image],
    /// Why no Pod can run yet; None when the node is ready.
    pub not_ready: Option<&'a str>,
}

/// The object as it is created, with what the node has: a scheduler must not see a node without sizes.
pub fn object(input: &Input<'_>, now: Timestamp) -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some(input.options.node_name.clone()),
            labels: Some(labels(input.options, input.facts)),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec::default()),
        status: Some(status(input, &NodeStatus::default(), now)),
    }
}

pub fn labels(options: &NodeOptions, facts: &HostFacts) -> BTreeMap<String, String> {
    let pairs = [
        ("kubernetes.io/hostname", options.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", facts.arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", facts.arch),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

pub fn status(input: &Input<'_>, before: &NodeStatus, now: Timestamp) -> NodeStatus {
    let options = input.options;
    let address = |type_: &str, address: String| NodeAddress { type_: type_.into(), address };
    NodeStatus {
        addresses: Some(vec![
            address("InternalIP", options.node_ip.to_string()),
            address("Hostname", options.node_name.clone()),
        ]),
        capacity: Some(resources(input)),
        allocatable: Some(resources(input)),
        conditions: Some(conditions(input, before, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: options.kubelet_port.into() }),
        }),
        node_info: Some(info(input.facts)),
        images: Some(images(input.images)),
        ..before.clone()
    }
}

fn resources(input: &Input<'_>) -> BTreeMap<String, Quantity> {
    let size = input.facts.size;
    let pairs = [
        ("cpu", (size.cpu_millis / 1000).to_string()),
        ("memory", format!("{}Ki", size.memory_bytes / 1024)),
        ("ephemeral-storage", format!("{}Ki", input.facts.disk_bytes / 1024)),
        ("pods", input.options.max_pods.to_string()),
    ];
    pairs.map(|(name, amount)| (name.to_owned(), Quantity(amount))).into()
}

fn info(facts: &HostFacts) -> NodeSystemInfo {
    let version = env!("CARGO_PKG_VERSION");
    NodeSystemInfo {
        architecture: facts.arch.into(),
        boot_id: facts.boot_id.clone(),
        container_runtime_version: format!("kobune://{version}"),
        kernel_version: facts.kernel.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: format!("v1.33.0+kobune{version}"),
        machine_id: facts.machine_id.clone(),
        operating_system: "linux".into(),
        os_image: facts.os_image.clone(),
        system_uuid: facts.system_uuid.clone(),
        swap: None,
    }
}

fn images(images: &[Image]) -> Vec<ContainerImage> {
    let mut list: Vec<ContainerImage> = images
        .iter()
        .map(|image| ContainerImage {
            names: Some(names(image)),
            size_bytes: i64::try_from(image.size).ok(),
        })
        .collect();
    list.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.names.cmp(&b.names)));
    list.truncate(MAX_IMAGES);
    list
}

/// By digest first, as upstream.
fn names(image: &Image) -> Vec<String> {
    let (digests, tags): (Vec<_>, Vec<_>) =
        image.references.iter().cloned().partition(|name| name.contains('@'));
    digests.into_iter().chain(tags).take(MAX_NAMES).collect()
}

/// Which controllers the host lacks.
pub fn missing(controllers: &BTreeSet<String>) -> Vec<&'static str> {
    NEEDED.into_iter().filter(|name| !controllers.contains(*name)).collect()
}

pub fn missing_message(missing: &[&str]) -> String {
    format!(
        "the host's cgroup2 tree has no {} controller: such limits of Pods are not enforced",
        missing.join(", no ")
    )
}

fn conditions(input: &Input<'_>, before: &NodeStatus, now: Timestamp) -> Vec<NodeCondition> {
    let pressure =
        |type_, on: bool, bad: (&'static str, &'static str), good: (&'static str, &'static str)| {
            let (reason, message) = if on { bad } else { good };
            (type_, on, reason, message.to_owned())
        };
    let missing = missing(input.controllers);
    let limits = if missing.is_empty() {
        ("CgroupLimits", true, "ControllersPresent", "limits of Pods are enforced".to_owned())
    } else {
        ("CgroupLimits", false, "ControllersMissing", missing_message(&missing))
    };
    let own = [
        pressure(
            "MemoryPressure",
            input.pressure.memory,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            input.pressure.disk,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            input.pressure.pids,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        limits,
        match input.not_ready {
            None => ("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned()),
            Some(why) => ("Ready", false, "KubeletNotReady", why.to_owned()),
        },
    ];
    let old = before.conditions.as_deref().unwrap_or_default();
    let is_own = |type_: &str| own.iter().any(|(own, ..)| *own == type_);
    let mut out: Vec<NodeCondition> =
        old.iter().filter(|each| !is_own(&each.type_)).cloned().collect();
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    out.extend(own.iter().map(|(type_, on, reason, message)| {
        let status = if *on { "True" } else { "False" };
        let same = old.iter().find(|old| old.type_ == *type_ && old.status == status);
        NodeCondition {
            type_: (*type_).into(),
            status: status.into(),
            reason: Some((*reason).into()),
            message: Some(message.clone()),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: same
                .and_then(|old| old.last_transition_time.clone())
                .or(Some(now.clone())),
        }
    }));
    out
}

/// Whether two statuses differ in more than the time of the last heartbeat.
pub fn differs(a: &NodeStatus, b: &NodeStatus) -> bool {
    let still = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    still(a) != still(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> HostFacts {
        let size =
            crate::container::resources::HostSize { cpu_millis: 2000, memory_bytes: 4 << 30 };
        HostFacts { size, disk_bytes: 1 << 30, arch: "amd64", ..HostFacts::default() }
    }

    fn of(controllers: &[&str], before: &NodeStatus, second: i64) -> NodeStatus {
        let options = NodeOptions::new("node", std::net::IpAddr::from([1, 2, 3, 4]));
        let controllers = controllers.iter().map(ToString::to_string).collect();
        let facts = facts();
        let input = Input {
            options: &options,
            facts: &facts,
            controllers: &controllers,
            pressure: Pressure::default(),
            images: &[],
            not_ready: None,
        };
        status(&input, before, Timestamp::from_second(second).unwrap())
    }

    fn condition<'a>(status: &'a NodeStatus, type_: &str) -> &'a NodeCondition {
        status.conditions.iter().flatten().find(|each| each.type_ == type_).expect("the condition")
    }

    #[test]
    fn a_node_says_what_it_has() {
        let status = of(&["cpu", "memory", "pids"], &NodeStatus::default(), 1000);
        let capacity = status.capacity.as_ref().unwrap();
        assert_eq!(capacity["cpu"].0, "2");
        assert_eq!(capacity["memory"].0, "4194304Ki");
        assert_eq!(capacity["pods"].0, "110");
        assert_eq!(condition(&status, "Ready").status, "True");
        assert_eq!(condition(&status, "CgroupLimits").status, "True");
    }

    #[test]
    fn missing_controllers_are_told() {
        let status = of(&["cpu"], &NodeStatus::default(), 1000);
        let limits = condition(&status, "CgroupLimits");
        assert_eq!(limits.status, "False");
        assert!(limits.message.as_deref().unwrap().contains("no memory, no pids controller"));
    }

    #[test]
    fn a_heartbeat_alone_is_no_difference_and_transitions_keep_their_time() {
        let first = of(&["cpu", "memory", "pids"], &NodeStatus::default(), 1000);
        let second = of(&["cpu", "memory", "pids"], &first, 2000);
        assert!(!differs(&first, &second));
        assert_eq!(
            condition(&second, "Ready").last_transition_time.as_ref().unwrap().0.as_second(),
            1000
        );
        assert_eq!(
            condition(&second, "Ready").last_heartbeat_time.as_ref().unwrap().0.as_second(),
            2000
        );
        let third = of(&["cpu"], &second, 3000);
        assert!(differs(&second, &third));
    }
}
