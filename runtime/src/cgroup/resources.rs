//! Resources of config.json as values of cgroup files. Pure: touches no file.
//!
//! Version 1 notions are translated as the runtime specification's users expect (shares to weight, memory
//! plus swap to swap alone); what has no meaning in version 2 is refused by its JSON path.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources, LinuxThrottleDevice,
};

/// One cgroup file and what to write into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub file: String,
    pub value: String,
}

impl Setting {
    fn new(file: impl Into<String>, value: impl ToString) -> Setting {
        Setting { file: file.into(), value: value.to_string() }
    }

    /// The controller that the file belongs to: its name up to the first dot.
    pub fn controller(&self) -> &str {
        self.file.split('.').next().unwrap_or_default()
    }
}

/// Resources that cannot be expressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    #[error("linux.resources.{field}: not supported with cgroup version 2")]
    Unsupported { field: &'static str },
    #[error("linux.resources.{field}: {why}")]
    Invalid { field: String, why: &'static str },
}

/// Every file to write, in an order that the kernel accepts.
pub fn settings(resources: &LinuxResources) -> Result<Vec<Setting>, ResourceError> {
    let mut out = Vec::new();
    if let Some(cpu) = resources.cpu() {
        cpu_settings(cpu, &mut out)?;
    }
    if let Some(memory) = resources.memory() {
        memory_settings(memory, &mut out)?;
    }
    if let Some(pids) = resources.pids() {
        out.push(Setting::new("pids.max", positive_or_max(pids.limit())));
    }
    if let Some(io) = resources.block_io() {
        io_settings(io, &mut out)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        hugetlb_settings(limit, &mut out)?;
    }
    let network = resources.network().as_ref();
    if network.is_some_and(|net| net.class_id().is_some() || net.priorities().is_some()) {
        return Err(ResourceError::Unsupported { field: "network" });
    }
    if resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty()) {
        return Err(ResourceError::Unsupported { field: "rdma" });
    }
    unified_settings(resources, &mut out)?;
    Ok(out)
}

fn cpu_settings(cpu: &LinuxCpu, out: &mut Vec<Setting>) -> Result<(), ResourceError> {
    if cpu.realtime_runtime().is_some_and(|value| value != 0) {
        return Err(ResourceError::Unsupported { field: "cpu.realtimeRuntime" });
    }
    if cpu.realtime_period().is_some_and(|value| value != 0) {
        return Err(ResourceError::Unsupported { field: "cpu.realtimePeriod" });
    }
    if let Some(idle) = cpu.idle() {
        out.push(Setting::new("cpu.idle", idle));
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        out.push(Setting::new("cpu.weight", weight_of_shares(shares)));
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        let quota = quota.map_or_else(|| "max".to_owned(), positive_or_max);
        let period = period.unwrap_or(100_000);
        out.push(Setting::new("cpu.max", format!("{quota} {period}")));
    }
    if let Some(burst) = cpu.burst() {
        out.push(Setting::new("cpu.max.burst", burst));
    }
    if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
        out.push(Setting::new("cpuset.cpus", cpus));
    }
    if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
        out.push(Setting::new("cpuset.mems", mems));
    }
    Ok(())
}

/// Version 1 shares (2..=262144, 1024 is normal) as a version 2 weight (1..=10000), linearly as the Kubernetes
/// project defined it (KEP-2254).
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

fn positive_or_max(value: i64) -> String {
    if value > 0 { value.to_string() } else { "max".to_owned() }
}

fn bytes_or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn memory_settings(memory: &LinuxMemory, out: &mut Vec<Setting>) -> Result<(), ResourceError> {
    let unsupported = |field| Err(ResourceError::Unsupported { field });
    if memory.swappiness().is_some() {
        return unsupported("memory.swappiness");
    }
    if memory.disable_oom_killer() == Some(true) {
        return unsupported("memory.disableOOMKiller");
    }
    // Kernel memory has been part of the one limit since version 2; like the specification's other
    // runtimes we accept and ignore those two fields.
    let limit = memory.limit().filter(|limit| *limit != 0);
    if let Some(swap) = memory.swap().filter(|swap| *swap != 0) {
        out.push(Setting::new("memory.swap.max", swap_alone(limit, swap)?));
    }
    if let Some(limit) = limit {
        out.push(Setting::new("memory.max", bytes_or_max(limit)));
    }
    if let Some(low) = memory.reservation().filter(|low| *low != 0) {
        out.push(Setting::new("memory.low", bytes_or_max(low)));
    }
    Ok(())
}

/// config.json counts memory and swap together; the kernel counts swap alone.
fn swap_alone(limit: Option<i64>, swap: i64) -> Result<String, ResourceError> {
    let invalid = |why| Err(ResourceError::Invalid { field: "memory.swap".into(), why });
    match limit {
        _ if swap < 0 => Ok("max".to_owned()),
        Some(limit) if limit > swap => invalid("less than memory.limit"),
        Some(limit) if limit >= 0 => Ok((swap - limit).to_string()),
        _ => invalid("needs memory.limit"),
    }
}

fn io_settings(io: &LinuxBlockIo, out: &mut Vec<Setting>) -> Result<(), ResourceError> {
    if io.leaf_weight().is_some_and(|weight| weight != 0) {
        return Err(ResourceError::Unsupported { field: "blockIO.leafWeight" });
    }
    if io.weight_device().as_ref().is_some_and(|devices| !devices.is_empty()) {
        return Err(ResourceError::Unsupported { field: "blockIO.weightDevice" });
    }
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        // 10..=1000 becomes 1..=10000.
        let weight = 1 + (u64::from(weight).clamp(10, 1000) - 10) * 9_999 / 990;
        out.push(Setting::new("io.weight", format!("default {weight}")));
    }
    let limits = [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ];
    for (key, devices) in limits {
        out.extend(devices.iter().flatten().map(|device| throttle(key, device)));
    }
    Ok(())
}

fn throttle(key: &str, device: &LinuxThrottleDevice) -> Setting {
    let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
    Setting::new("io.max", format!("{}:{} {key}={rate}", device.major(), device.minor()))
}

fn hugetlb_settings(
    limit: &LinuxHugepageLimit,
    out: &mut Vec<Setting>,
) -> Result<(), ResourceError> {
    let size = limit.page_size();
    if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        let field = "hugepageLimits.pageSize".into();
        return Err(ResourceError::Invalid { field, why: "not a page size such as 2MB" });
    }
    out.push(Setting::new(format!("hugetlb.{size}.max"), bytes_or_max(limit.limit())));
    Ok(())
}

fn unified_settings(
    resources: &LinuxResources,
    out: &mut Vec<Setting>,
) -> Result<(), ResourceError> {
    let mut entries: Vec<_> = resources.unified().iter().flatten().collect();
    entries.sort();
    for (file, value) in entries {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        // A path would leave the cgroup, and `cgroup.*` files are not limits but controls.
        let allowed =
            file.bytes().all(plain) && file.contains('.') && !file.starts_with(['.', '-']);
        if !allowed || file.starts_with("cgroup.") {
            let field = format!("unified[{file:?}]");
            return Err(ResourceError::Invalid { field, why: "not the name of a limit" });
        }
        out.push(Setting::new(file.clone(), value));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(value: serde_json::Value) -> Result<Vec<(String, String)>, ResourceError> {
        let resources: LinuxResources = serde_json::from_value(value).unwrap();
        Ok(settings(&resources)?.into_iter().map(|set| (set.file, set.value)).collect())
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(file, value)| (file.to_string(), value.to_string())).collect()
    }

    #[test]
    fn the_demo_pod_s_limits() {
        let got = of(json!({
            "cpu": {"shares": 102, "quota": 50000, "period": 100000},
            "memory": {"limit": 536870912, "swap": 536870912},
            "pids": {"limit": 1024},
            "unified": {"memory.oom.group": "1"},
        }));
        assert_eq!(
            got.unwrap(),
            pairs(&[
                ("cpu.weight", "4"),
                ("cpu.max", "50000 100000"),
                ("memory.swap.max", "0"),
                ("memory.max", "536870912"),
                ("pids.max", "1024"),
                ("memory.oom.group", "1"),
            ])
        );
    }

    #[test]
    fn no_limit_is_max() {
        let got = of(json!({
            "cpu": {"quota": -1}, "memory": {"limit": -1, "swap": -1}, "pids": {"limit": -1},
        }));
        let max = [
            ("cpu.max", "max 100000"),
            ("memory.swap.max", "max"),
            ("memory.max", "max"),
            ("pids.max", "max"),
        ];
        assert_eq!(got.unwrap(), pairs(&max));
    }

    #[test]
    fn shares_span_the_weights() {
        assert_eq!([2, 1024, 262_144].map(weight_of_shares), [1, 39, 10_000]);
        assert_eq!(weight_of_shares(u64::MAX), 10_000);
    }

    #[test]
    fn what_version_2_cannot_express_is_named() {
        let error = of(json!({"memory": {"swappiness": 10}})).unwrap_err();
        assert!(error.to_string().starts_with("linux.resources.memory.swappiness: "));
        let error = of(json!({"memory": {"limit": 10, "swap": 5}})).unwrap_err();
        assert!(error.to_string().starts_with("linux.resources.memory.swap: "));
    }

    #[test]
    fn unified_keys_cannot_leave_the_cgroup_or_control_it() {
        for key in ["../memory.max", "cgroup.procs", "/etc/x.y", "memory", ".x"] {
            assert!(of(json!({"unified": {key: "1"}})).is_err(), "{key}");
        }
    }
}
