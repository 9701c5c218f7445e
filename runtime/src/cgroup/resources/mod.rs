//! Resources of config.json as values of cgroup files. Pure: touches no file.
//!
//! Version 1 notions are translated as runc does (shares to weight, memory plus swap to swap alone). What has no
//! meaning in version 2 is left out, as runc does, and told ([`Settings::ignored`]); what cannot be right is
//! refused by its JSON path.

mod cpu;
mod io;
mod memory;
mod other;

use oci_spec::runtime::LinuxResources;

/// One cgroup file and what to write into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The field that asks for it, below `linux.resources`.
    pub field: String,
    pub file: String,
    pub value: String,
    /// What a missing file means.
    pub missing: Missing,
}

/// What it means that a cgroup does not have the file of a [`Setting`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// The limit cannot be had.
    Matters,
    /// Nothing: without the file the kernel does what is asked for.
    IsFine,
    /// Another file says the same: its name and the value for it.
    Instead(String, String),
}

impl Setting {
    fn new(field: impl Into<String>, file: impl Into<String>, value: impl ToString) -> Setting {
        let (field, file, value) = (field.into(), file.into(), value.to_string());
        Setting { field, file, value, missing: Missing::Matters }
    }

    /// Asks for nothing when `value` is what the kernel does anyway.
    fn fine_without_if(mut self, default: bool) -> Setting {
        if default {
            self.missing = Missing::IsFine;
        }
        self
    }

    /// The controller that the file belongs to: its name up to the first dot.
    pub fn controller(&self) -> &str {
        self.file.split('.').next().unwrap_or_default()
    }
}

/// What resources come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// In an order that the kernel accepts.
    pub list: Vec<Setting>,
    /// Fields of version 1 without any meaning in version 2.
    pub ignored: Vec<&'static str>,
    /// `memory.checkBeforeUpdate`: limits below what is in use are refused.
    pub check_memory: Option<memory::Check>,
}

impl Settings {
    fn push(&mut self, setting: Setting) {
        self.list.push(setting);
    }

    fn ignore(&mut self, present: bool, field: &'static str) {
        if present {
            self.ignored.push(field);
        }
    }
}

/// Resources that cannot be expressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("linux.resources.{field}: {why}")]
pub struct ResourceError {
    pub field: String,
    pub why: String,
}

impl ResourceError {
    pub(super) fn new(field: impl Into<String>, why: impl Into<String>) -> ResourceError {
        ResourceError { field: field.into(), why: why.into() }
    }
}

/// Every file to write.
pub fn settings(resources: &LinuxResources) -> Result<Settings, ResourceError> {
    let mut out = Settings::default();
    if let Some(pids) = resources.pids() {
        other::pids(pids.limit(), &mut out)?;
    }
    if let Some(memory) = resources.memory() {
        memory::settings(memory, &mut out)?;
    }
    if let Some(io) = resources.block_io() {
        io::settings(io, &mut out)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu::settings(cpu, &mut out)?;
    }
    other::hugetlb(resources.hugepage_limits().as_deref().unwrap_or_default(), &mut out)?;
    other::rdma(resources, &mut out)?;
    let network = resources.network().as_ref();
    out.ignore(network.is_some_and(|network| network.class_id().is_some()), "network.classID");
    let priorities = network.and_then(|network| network.priorities().as_ref());
    out.ignore(priorities.is_some_and(|list| !list.is_empty()), "network.priorities");
    other::unified(resources, &mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(super) fn all(value: Value) -> Result<Settings, ResourceError> {
        settings(&serde_json::from_value(value).unwrap())
    }

    /// `file=value` of each.
    pub(super) fn of(value: Value) -> Vec<String> {
        let settings = all(value).unwrap();
        settings.list.iter().map(|set| format!("{}={}", set.file, set.value)).collect()
    }

    pub(super) fn error(value: Value) -> String {
        all(value).unwrap_err().to_string()
    }

    #[test]
    fn the_demo_pod_s_limits() {
        let got = of(json!({
            "cpu": {"shares": 102, "quota": 50000, "period": 100000},
            "memory": {"limit": 536870912, "swap": 536870912},
            "pids": {"limit": 1024},
            "unified": {"memory.oom.group": "1"},
        }));
        let wanted = [
            "pids.max=1024",
            "memory.swap.max=0",
            "memory.max=536870912",
            "cpu.weight=17",
            "cpu.max=50000 100000",
            "memory.oom.group=1",
        ];
        assert_eq!(got, wanted);
    }

    #[test]
    fn no_limit_is_max_and_needs_no_controller() {
        let settings = all(json!({
            "cpu": {"quota": -1, "shares": 1024}, "memory": {"limit": -1, "swap": -1},
            "pids": {"limit": -1},
        }));
        let settings = settings.unwrap().list;
        let got: Vec<_> =
            settings.iter().map(|set| format!("{}={}", set.file, set.value)).collect();
        let wanted = [
            "pids.max=max",
            "memory.swap.max=max",
            "memory.max=max",
            "cpu.weight=100",
            "cpu.max=max 100000",
        ];
        assert_eq!(got, wanted);
        assert!(settings.iter().all(|set| set.missing == Missing::IsFine), "{settings:?}");
    }

    #[test]
    fn what_version_2_does_not_know_is_told() {
        let settings = all(json!({
            "memory": {"swappiness": 10, "kernel": 5, "kernelTCP": 5, "disableOOMKiller": true},
            "cpu": {"realtimeRuntime": 5, "realtimePeriod": 5},
            "blockIO": {"leafWeight": 10},
            "network": {"classID": 5, "priorities": [{"name": "eth0", "priority": 1}]},
        }));
        let settings = settings.unwrap();
        assert_eq!(settings.list, []);
        let wanted = [
            "memory.kernel",
            "memory.kernelTCP",
            "memory.swappiness",
            "memory.disableOOMKiller",
            "blockIO.leafWeight",
            "cpu.realtimeRuntime",
            "cpu.realtimePeriod",
            "network.classID",
            "network.priorities",
        ];
        assert_eq!(settings.ignored, wanted);
    }
}
