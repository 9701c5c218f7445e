//! Limits of a running container changed. What is not given stays: the kernel remembers, so nothing else has to.

use std::fs;
use std::path::Path;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::apply::{Outcome, apply};
use super::resources::{Setting, settings};
use super::{CgroupError, write_file};

/// Changes the limits; all of them, or none as far as the kernel lets us go back.
pub fn update(cgroup: &Path, resources: &LinuxResources) -> Result<Outcome, CgroupError> {
    let resources = completed(cgroup, resources);
    let before: Vec<(Setting, String)> = settings(&resources)?
        .list
        .into_iter()
        .filter_map(|setting| {
            let text = fs::read_to_string(cgroup.join(&setting.file)).ok()?;
            Some((setting, text))
        })
        .collect();
    let done =
        apply(cgroup, &resources).and_then(|outcome| outcome.demand_all(cgroup).map(|()| outcome));
    if done.is_err() {
        for (setting, text) in before.iter().rev() {
            for line in text.lines() {
                // The first error is the one to tell.
                let _ = write_file(&cgroup.join(&setting.file), line);
            }
        }
    }
    done
}

/// With the limits of today that the kernel, or somebody else, must be told again.
pub fn completed(cgroup: &Path, resources: &LinuxResources) -> LinuxResources {
    let mut resources = resources.clone();
    complete(&mut resources, &Current::read(cgroup));
    resources
}

/// Limits that others depend on. `None` is "not limited" or "not known".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Current {
    quota: Option<i64>,
    period: Option<u64>,
    memory: Option<i64>,
    /// Alone.
    swap: Option<i64>,
}

impl Current {
    fn read(cgroup: &Path) -> Current {
        let text = |file: &str| fs::read_to_string(cgroup.join(file)).unwrap_or_default();
        let cpu = text("cpu.max");
        let mut cpu = cpu.split_whitespace();
        Current {
            quota: cpu.next().and_then(|quota| quota.parse().ok()),
            period: cpu.next().and_then(|period| period.parse().ok()),
            memory: text("memory.max").trim().parse().ok(),
            swap: text("memory.swap.max").trim().parse().ok(),
        }
    }
}

/// The kernel takes quota and period as one value, and swap alone where config.json has memory and swap together.
fn complete(resources: &mut LinuxResources, current: &Current) {
    if let Some(cpu) = resources.cpu_mut() {
        complete_cpu(cpu, current);
    }
    if let Some(memory) = resources.memory_mut() {
        complete_memory(memory, current);
    }
}

fn complete_cpu(cpu: &mut LinuxCpu, current: &Current) {
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    match (quota, period) {
        (Some(_), None) => drop(cpu.set_period(current.period)),
        (None, Some(_)) => drop(cpu.set_quota(current.quota)),
        _ => {}
    }
}

fn complete_memory(memory: &mut LinuxMemory, current: &Current) {
    let limit = memory.limit().filter(|limit| *limit != 0);
    let swap = memory.swap().filter(|swap| *swap != 0);
    match (limit, swap) {
        (None, Some(_)) => drop(memory.set_limit(Some(current.memory.unwrap_or(-1)))),
        // What both may be together stays; no swap stays no swap.
        (Some(1..), None) => {
            let alone = current.swap.filter(|swap| *swap > 0);
            let both = alone.and_then(|swap| current.memory?.checked_add(swap));
            memory.set_swap(both);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn completed(resources: Value, current: &Current) -> Value {
        let mut resources: LinuxResources = serde_json::from_value(resources).unwrap();
        complete(&mut resources, current);
        serde_json::to_value(resources).unwrap()
    }

    #[test]
    fn quota_and_period_stay_together() {
        let current = Current { quota: Some(20), period: Some(50), ..Current::default() };
        let cpu = |cpu: Value| completed(json!({"cpu": cpu}), &current)["cpu"].clone();
        assert_eq!(cpu(json!({"quota": 30})), json!({"quota": 30, "period": 50}));
        assert_eq!(cpu(json!({"period": 60})), json!({"quota": 20, "period": 60}));
        assert_eq!(cpu(json!({"quota": 0, "shares": 5})), json!({"quota": 0, "shares": 5}));
        assert_eq!(cpu(json!({"quota": 1, "period": 2})), json!({"quota": 1, "period": 2}));
    }

    #[test]
    fn memory_and_swap_stay_together() {
        let of = |memory: Value, limit: i64, swap: i64| {
            let current = Current { memory: Some(limit), swap: Some(swap), ..Current::default() };
            completed(json!({"memory": memory}), &current)["memory"].clone()
        };
        assert_eq!(of(json!({"limit": 5}), 10, 20), json!({"limit": 5, "swap": 30}));
        assert_eq!(of(json!({"limit": 5}), 10, 0), json!({"limit": 5}));
        assert_eq!(of(json!({"swap": 50}), 10, 20), json!({"limit": 10, "swap": 50}));
        assert_eq!(of(json!({"limit": -1}), 10, 20), json!({"limit": -1}));
        let unlimited = completed(json!({"memory": {"swap": 9}}), &Current::default());
        assert_eq!(unlimited["memory"], json!({"limit": -1, "swap": 9}));
    }
}
