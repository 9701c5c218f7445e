//! Limits as properties of a unit, so that systemd, which writes the files of its tree anew when it likes (at each
//! `daemon-reload`), writes the same. What it has no property for it does not touch. Pure.

use super::message::{Property, Value};
use crate::cgroup::Setting;

/// systemd rounds quotas to this, and would refuse less.
const QUOTA_STEP: u64 = 10_000;

const SECOND: u64 = 1_000_000;

/// Those of `settings` that systemd knows; the others are written to the cgroup alone.
pub(super) fn of_settings(settings: &[Setting]) -> Vec<Property> {
    settings.iter().flat_map(|setting| of_file(&setting.file, setting.value.trim())).collect()
}

fn of_file(file: &str, value: &str) -> Vec<Property> {
    let number = |name: &'static str| {
        let number = if value == "max" { Some(u64::MAX) } else { value.parse().ok() };
        number.map(|number| (name, Value::Number(number))).into_iter().collect()
    };
    let set = |name: &'static str| {
        bits(value).map(|bits| (name, Value::Bytes(bits))).into_iter().collect()
    };
    match file {
        "memory.max" => number("MemoryMax"),
        "memory.high" => number("MemoryHigh"),
        "memory.low" => number("MemoryLow"),
        "memory.min" => number("MemoryMin"),
        "memory.swap.max" => number("MemorySwapMax"),
        "pids.max" => number("TasksMax"),
        "cpu.weight" => number("CPUWeight"),
        "cpu.max" => quota(value),
        "cpuset.cpus" => set("AllowedCPUs"),
        "cpuset.mems" => set("AllowedMemoryNodes"),
        _ => Vec::new(),
    }
}

/// `cpu.max` is "quota period", both in microseconds.
fn quota(value: &str) -> Vec<Property> {
    let mut words = value.split_whitespace();
    let Some(quota) = words.next() else { return Vec::new() };
    let period: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(100_000);
    let per_second = match quota.parse::<u64>() {
        Ok(quota) => (quota.saturating_mul(SECOND) / period.max(1)).next_multiple_of(QUOTA_STEP),
        Err(_) => u64::MAX,
    };
    vec![
        ("CPUQuotaPerSecUSec", Value::Number(per_second)),
        ("CPUQuotaPeriodUSec", Value::Number(period)),
    ]
}

/// The largest processor or node that a list may name: the kernel's own bound is lower.
const LAST: usize = 1 << 16;

/// `0-2,7` as a mask, the lowest first. `None` if it is no list: then the kernel says so.
fn bits(list: &str) -> Option<Vec<u8>> {
    let mut mask = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last > LAST {
            return None;
        }
        mask.resize(mask.len().max(last / 8 + 1), 0u8);
        (first..=last).for_each(|bit| mask[bit / 8] |= 1 << (bit % 8));
    }
    Some(mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(resources: serde_json::Value) -> Vec<String> {
        let resources = serde_json::from_value(resources).unwrap();
        let settings = crate::cgroup::settings(&resources).unwrap();
        let text = |(name, value): Property| match value {
            Value::Number(u64::MAX) => format!("{name}=infinity"),
            Value::Number(number) => format!("{name}={number}"),
            other => format!("{name}={other:?}"),
        };
        of_settings(&settings.list).into_iter().map(text).collect()
    }

    #[test]
    fn limits_become_properties() {
        let got = of(json!({
            "cpu": {"shares": 512, "quota": 50_000, "period": 200_000, "cpus": "0-2,9", "mems": "0"},
            "memory": {"limit": 1 << 20, "reservation": 4096, "swap": 3 << 20},
            "pids": {"limit": 7},
            "unified": {"memory.high": "8192", "memory.oom.group": "1"},
        }));
        let wanted = [
            "TasksMax=7",
            "MemorySwapMax=2097152",
            "MemoryMax=1048576",
            "MemoryLow=4096",
            "CPUWeight=59",
            "CPUQuotaPerSecUSec=250000",
            "CPUQuotaPeriodUSec=200000",
            "AllowedCPUs=Bytes([7, 2])",
            "AllowedMemoryNodes=Bytes([1])",
            "MemoryHigh=8192",
        ];
        assert_eq!(got, wanted);
    }

    #[test]
    fn no_limit_is_infinity() {
        let got = of(json!({
            "cpu": {"quota": -1}, "memory": {"limit": -1}, "pids": {"limit": -1},
        }));
        let wanted = [
            "TasksMax=infinity",
            "MemorySwapMax=infinity",
            "MemoryMax=infinity",
            "CPUQuotaPerSecUSec=infinity",
            "CPUQuotaPeriodUSec=100000",
        ];
        assert_eq!(got, wanted);
    }

    #[test]
    fn small_quotas_are_rounded_up() {
        assert_eq!(of(json!({"cpu": {"quota": 1000}}))[0], "CPUQuotaPerSecUSec=10000");
        assert_eq!(of(json!({"cpu": {"quota": 1001}}))[0], "CPUQuotaPerSecUSec=20000");
    }

    #[test]
    fn what_is_no_list_is_left_to_the_kernel() {
        for bad in ["2-1", "x", "99999999", "-1"] {
            assert_eq!(bits(bad), None, "{bad}");
        }
        assert_eq!(bits(""), Some(vec![]));
    }
}
