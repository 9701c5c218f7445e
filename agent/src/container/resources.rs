//! Requests and limits as cgroup values. Pure.

use k8s_openapi::api::core::v1::{Container, Pod};
use oci_spec::runtime::{LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxPids, LinuxResources};

use crate::pod::qos;

/// Microseconds, as upstream.
const PERIOD: i64 = 100_000;
/// The kernel accepts no smaller quota.
const MIN_QUOTA: i64 = 1_000;

/// What the node can give.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostSize {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
}

/// Amounts of one container or of all of them; None is "without limit" (or "nothing asked for").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Amounts {
    cpu_request: Option<i128>,
    cpu_limit: Option<i128>,
    memory_limit: Option<i128>,
}

pub fn container(container: &Container, privileged: bool) -> LinuxResources {
    let mut resources = linux(of(container));
    if privileged {
        let mut all = LinuxDeviceCgroup::default();
        all.set_allow(true).set_access(Some("rwm".into()));
        resources.set_devices(Some(vec![all]));
    }
    resources
}

/// The limits of the whole Pod: the sum over what runs at the same time, and only if everything in it is limited.
pub fn pod(pod: &Pod, pids: Option<i64>) -> LinuxResources {
    let none = Vec::new();
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_ref()).unwrap_or(&none);
    let main = spec.map_or(&none, |spec| &spec.containers);
    let is_sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let together = main
        .iter()
        .chain(init.iter().filter(is_sidecar))
        .map(of)
        .reduce(|a, b| combine(a, b, |a, b| a + b));
    let all = init.iter().filter(|container| !is_sidecar(container)).map(of);
    let amounts = all.fold(together.unwrap_or_default(), |a, b| combine(a, b, i128::max));
    let mut resources = linux(amounts);
    if let Some(limit) = pids {
        let mut value = LinuxPids::default();
        value.set_limit(limit);
        resources.set_pids(Some(value));
    }
    resources
}

fn of(container: &Container) -> Amounts {
    let limit = |resource| qos::limit(container, resource).filter(|amount| *amount > 0);
    Amounts {
        cpu_request: qos::request(container, "cpu").or(limit("cpu")),
        cpu_limit: limit("cpu"),
        memory_limit: limit("memory"),
    }
}

fn combine(a: Amounts, b: Amounts, with: impl Fn(i128, i128) -> i128) -> Amounts {
    Amounts {
        cpu_request: Some(with(a.cpu_request.unwrap_or(0), b.cpu_request.unwrap_or(0))),
        cpu_limit: a.cpu_limit.zip(b.cpu_limit).map(|(a, b)| with(a, b)),
        memory_limit: a.memory_limit.zip(b.memory_limit).map(|(a, b)| with(a, b)),
    }
}

fn linux(amounts: Amounts) -> LinuxResources {
    let mut cpu = LinuxCpu::default();
    let shares = amounts.cpu_request.unwrap_or(0) * 1024 / 1000;
    cpu.set_shares(Some(u64::try_from(shares.clamp(2, 262_144)).unwrap_or(2)));
    if let Some(limit) = amounts.cpu_limit {
        let quota = i64::try_from(limit * i128::from(PERIOD) / 1000).unwrap_or(i64::MAX);
        cpu.set_quota(Some(quota.max(MIN_QUOTA))).set_period(Some(PERIOD as u64));
    }
    let mut resources = LinuxResources::default();
    resources.set_devices(None);
    resources.set_cpu(Some(cpu));
    if let Some(limit) = amounts.memory_limit {
        let bytes = i64::try_from(limit / 1000).unwrap_or(i64::MAX);
        let mut memory = LinuxMemory::default();
        // Memory and swap together: a limited container gets no swap on top.
        memory.set_limit(Some(bytes)).set_swap(Some(bytes));
        resources.set_memory(Some(memory));
    }
    resources
}

/// Who dies first when the node has no memory left: upstream's numbers by class.
pub fn oom_score_adj(pod: &Pod, container: &Container, host: HostSize) -> i32 {
    match qos::class(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let request =
                qos::request(container, "memory").or(qos::limit(container, "memory")).unwrap_or(0)
                    / 1000;
            let capacity = i128::from(host.memory_bytes.max(1));
            i32::try_from(1000 - 1000 * request / capacity).unwrap_or(3).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod_of(text: &str) -> Pod {
        serde_json::from_str(&format!(r#"{{"spec":{text}}}"#)).expect("a Pod")
    }

    fn numbers(resources: &LinuxResources) -> (Option<u64>, Option<i64>, Option<i64>) {
        let cpu = resources.cpu().as_ref();
        (
            cpu.and_then(|cpu| cpu.shares()),
            cpu.and_then(|cpu| cpu.quota()),
            resources.memory().as_ref().and_then(|memory| memory.limit()),
        )
    }

    const APP: &str = r#"{"name":"a","resources":{"requests":{"cpu":"100m","memory":"128Mi"},
        "limits":{"cpu":"500m","memory":"512Mi"}}}"#;

    #[test]
    fn requests_become_shares_and_limits_become_quota_and_memory() {
        let one: Container = serde_json::from_str(APP).unwrap();
        assert_eq!(numbers(&container(&one, false)), (Some(102), Some(50_000), Some(536_870_912)));
        let bare: Container = serde_json::from_str(r#"{"name":"a"}"#).unwrap();
        assert_eq!(numbers(&container(&bare, false)), (Some(2), None, None));
        let tiny: Container =
            serde_json::from_str(r#"{"name":"a","resources":{"limits":{"cpu":"1m"}}}"#).unwrap();
        assert_eq!(numbers(&container(&tiny, false)).1, Some(1_000));
    }

    #[test]
    fn a_pod_is_limited_only_if_all_its_containers_are() {
        let both = pod_of(&format!(r#"{{"containers":[{APP},{APP}]}}"#));
        assert_eq!(numbers(&pod(&both, None)), (Some(204), Some(100_000), Some(1_073_741_824)));
        let one = pod_of(&format!(r#"{{"containers":[{APP},{{"name":"b"}}]}}"#));
        assert_eq!(numbers(&pod(&one, None)), (Some(102), None, None));
        let init = pod_of(&format!(r#"{{"initContainers":[{APP}],"containers":[{APP}]}}"#));
        assert_eq!(numbers(&pod(&init, Some(7))), (Some(102), Some(50_000), Some(536_870_912)));
    }

    #[test]
    fn oom_scores_follow_the_class() {
        let host = HostSize { cpu_millis: 2000, memory_bytes: 1024 << 20 };
        let burstable = pod_of(&format!(r#"{{"containers":[{APP}]}}"#));
        let spec = burstable.spec.as_ref().unwrap();
        assert_eq!(oom_score_adj(&burstable, &spec.containers[0], host), 875);
        let best_effort = pod_of(r#"{"containers":[{"name":"a"}]}"#);
        let spec = best_effort.spec.as_ref().unwrap();
        assert_eq!(oom_score_adj(&best_effort, &spec.containers[0], host), 1000);
    }
}
