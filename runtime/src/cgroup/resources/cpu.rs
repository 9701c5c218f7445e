//! `cpu` and `cpuset`.

use oci_spec::runtime::LinuxCpu;

use super::{ResourceError, Setting, Settings};

/// The kernel's weight for those that ask for none.
const DEFAULT_WEIGHT: u64 = 100;

/// Microseconds, as the kernel has it.
const DEFAULT_PERIOD: u64 = 100_000;

pub(super) fn settings(cpu: &LinuxCpu, out: &mut Settings) -> Result<(), ResourceError> {
    out.ignore(cpu.realtime_runtime().is_some_and(|value| value != 0), "cpu.realtimeRuntime");
    out.ignore(cpu.realtime_period().is_some_and(|value| value != 0), "cpu.realtimePeriod");
    if let Some(idle) = cpu.idle() {
        out.push(Setting::new("cpu.idle", "cpu.idle", idle).fine_without_if(idle == 0));
    }
    // An idle cgroup has no weight: the kernel refuses it.
    let shares = cpu.shares().filter(|shares| *shares != 0 && cpu.idle() != Some(1));
    if let Some(shares) = shares {
        let weight = weight_of_shares(shares);
        let setting = Setting::new("cpu.shares", "cpu.weight", weight);
        out.push(setting.fine_without_if(weight == DEFAULT_WEIGHT));
    }
    // Before the quota, and once more after it where the kernel refuses it: see `apply`.
    if let Some(burst) = cpu.burst() {
        out.push(Setting::new("cpu.burst", "cpu.max.burst", burst).fine_without_if(burst == 0));
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        let limit = quota.filter(|quota| *quota > 0);
        let text = limit.map_or_else(|| "max".to_owned(), |limit| limit.to_string());
        let value = format!("{text} {}", period.unwrap_or(DEFAULT_PERIOD));
        let field = if quota.is_some() { "cpu.quota" } else { "cpu.period" };
        out.push(Setting::new(field, "cpu.max", value).fine_without_if(limit.is_none()));
    }
    for (list, field, file) in
        [(cpu.cpus(), "cpu.cpus", "cpuset.cpus"), (cpu.mems(), "cpu.mems", "cpuset.mems")]
    {
        let Some(list) = list.as_ref().filter(|list| !list.is_empty()) else { continue };
        let fine = |byte: u8| byte.is_ascii_digit() || b",- ".contains(&byte);
        if !list.bytes().all(fine) {
            return Err(ResourceError::new(field, format!("{list:?} is not a list such as 0-2,7")));
        }
        out.push(Setting::new(field, file, list));
    }
    Ok(())
}

/// Version 1 shares (2..=262144, 1024 is normal) as a version 2 weight (1..=10000, 100 is normal): the curve
/// through those three points that crun and runc agreed upon.
fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        _ => {
            // At most 2^18, which a float holds exactly.
            let power = (shares as f64).log2();
            let exponent = (power * power + 125.0 * power) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{error, of};
    use super::*;
    use serde_json::json;

    #[test]
    fn shares_keep_their_ends_and_their_middle() {
        let shares = [1, 2, 3, 1024, 262_143, 262_144, u64::MAX];
        assert_eq!(shares.map(weight_of_shares), [1, 1, 2, 100, 10_000, 10_000, 10_000]);
        assert_eq!([102, 512, 2048].map(weight_of_shares), [17, 59, 174]);
        assert!((1..2000).map(weight_of_shares).is_sorted());
    }

    #[test]
    fn an_idle_cgroup_has_no_weight() {
        assert_eq!(of(json!({"cpu": {"idle": 1, "shares": 512}})), ["cpu.idle=1"]);
        assert_eq!(of(json!({"cpu": {"idle": 0, "shares": 512}})), ["cpu.idle=0", "cpu.weight=59"]);
    }

    #[test]
    fn quota_period_and_burst() {
        assert_eq!(of(json!({"cpu": {"quota": 5000}})), ["cpu.max=5000 100000"]);
        assert_eq!(of(json!({"cpu": {"period": 5000}})), ["cpu.max=max 5000"]);
        assert_eq!(of(json!({"cpu": {"quota": 0, "period": 0}})), [""; 0]);
        let both = of(json!({"cpu": {"quota": 20000, "period": 50000, "burst": 1000}}));
        assert_eq!(both, ["cpu.max.burst=1000", "cpu.max=20000 50000"]);
    }

    #[test]
    fn sets_are_lists_of_numbers() {
        let got = of(json!({"cpu": {"cpus": "0-1,3", "mems": "0"}}));
        assert_eq!(got, ["cpuset.cpus=0-1,3", "cpuset.mems=0"]);
        let error = error(json!({"cpu": {"mems": "0\n1"}}));
        assert!(error.starts_with("linux.resources.cpu.mems: "), "{error}");
    }
}
