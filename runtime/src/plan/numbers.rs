//! Lists of processors and memory nodes (`0-3,7`), and what config.json does with them. Pure.

use nix::sched::CpuSet;
use oci_spec::runtime::{
    ExecCPUAffinity, LinuxMemoryPolicy, MemoryPolicyFlagType as Flag, MemoryPolicyModeType as Mode,
};

use crate::oci::ConfigError;

/// One more than the largest number that the kernel can have of each (NR_CPUS is 8192 at most, nodes are 1024).
const MOST: usize = 1024;

/// What `linux.memoryPolicy` may name, as `features` reports it.
pub(crate) const MEMORY_MODES: [Mode; 7] = [
    Mode::MpolDefault,
    Mode::MpolBind,
    Mode::MpolInterleave,
    Mode::MpolWeightedInterleave,
    Mode::MpolPreferred,
    Mode::MpolPreferredMany,
    Mode::MpolLocal,
];

pub(crate) const MEMORY_FLAGS: [Flag; 3] =
    [Flag::MpolFNumaBalancing, Flag::MpolFRelativeNodes, Flag::MpolFStaticNodes];

/// For set_mempolicy(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemoryPolicy {
    /// MPOL_* with MPOL_F_*
    pub(crate) mode: u32,
    /// Bits, least node first.
    pub(crate) nodes: Vec<u64>,
}

/// On which processors one more process of a container runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Affinity {
    /// Before it is in the container's cgroup.
    pub(crate) initial: Option<CpuSet>,
    /// Afterwards.
    pub(crate) end: Option<CpuSet>,
}

/// `at` is the JSON path of `execCPUAffinity`.
pub(super) fn affinity(wanted: &ExecCPUAffinity, at: &str) -> Result<Affinity, ConfigError> {
    let set = |list: &Option<String>, name: &str| {
        let list = list.as_deref().filter(|list| !list.is_empty());
        list.map(|list| cpus(list).map_err(|why| ConfigError::field(format!("{at}.{name}"), why)))
            .transpose()
    };
    Ok(Affinity {
        initial: set(wanted.initial(), "initial")?,
        end: set(wanted.cpu_affinity_final(), "final")?,
    })
}

fn cpus(list: &str) -> Result<CpuSet, String> {
    let mut set = CpuSet::new();
    for number in numbers(list)? {
        set.set(number).map_err(|_| too_large(number))?;
    }
    Ok(set)
}

pub(super) fn memory_policy(wanted: &LinuxMemoryPolicy) -> Result<MemoryPolicy, ConfigError> {
    let field = |name: &str, why: String| {
        Err(ConfigError::field(format!("linux.memoryPolicy.{name}"), why))
    };
    let mode = match wanted.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let bit = |flag: &Flag| match flag {
        Flag::MpolFStaticNodes => 1 << 15,
        Flag::MpolFRelativeNodes => 1 << 14,
        Flag::MpolFNumaBalancing => 1 << 13,
    };
    let flags = wanted.flags().iter().flatten().map(bit).fold(0, |all, bit| all | bit);
    let all = match numbers(wanted.nodes().as_deref().unwrap_or_default()) {
        Ok(all) => all,
        Err(why) => return field("nodes", why),
    };
    match wanted.mode() {
        Mode::MpolDefault | Mode::MpolLocal if !all.is_empty() => {
            return field("nodes", format!("{} takes none", wanted.mode()));
        }
        Mode::MpolDefault | Mode::MpolLocal | Mode::MpolPreferred => {}
        _ if all.is_empty() => {
            return field("nodes", format!("{} needs at least one", wanted.mode()));
        }
        _ => {}
    }
    let mut nodes = vec![0u64; all.iter().max().map_or(0, |most| most / 64 + 1)];
    all.into_iter().for_each(|number| nodes[number / 64] |= 1 << (number % 64));
    Ok(MemoryPolicy { mode: mode | flags, nodes })
}

/// The numbers of a list: `0-3,7`.
fn numbers(list: &str) -> Result<Vec<usize>, String> {
    let mut all = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let number = |text: &str| match text.parse::<usize>() {
            Ok(number) if number < MOST => Ok(number),
            Ok(number) => Err(too_large(number)),
            Err(_) => Err(format!("{part:?} is no number and no range")),
        };
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("{part:?} ends before it begins"));
        }
        all.extend(first..=last);
    }
    Ok(all)
}

fn too_large(number: usize) -> String {
    format!("{number} is too large: at most {}", MOST - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn policy(value: Value) -> Result<MemoryPolicy, String> {
        memory_policy(&serde_json::from_value(value).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn lists_are_read() {
        assert_eq!(numbers("0-3,7").unwrap(), [0, 1, 2, 3, 7]);
        assert_eq!(numbers(" 1 , ,2-2").unwrap(), [1, 2]);
        assert!(numbers("").unwrap().is_empty());
        for bad in ["3-1", "x", "-1", "1-", "1024", "0-99999999999", "1-2-3"] {
            assert!(numbers(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn policies_are_the_kernels() {
        let interleave = policy(json!({"mode": "MPOL_INTERLEAVE", "nodes": "1,64",
            "flags": ["MPOL_F_STATIC_NODES"]}));
        assert_eq!(interleave.unwrap(), MemoryPolicy { mode: 1 << 15 | 3, nodes: vec![2, 1] });
        let default = policy(json!({"mode": "MPOL_DEFAULT"})).unwrap();
        assert_eq!(default, MemoryPolicy { mode: 0, nodes: vec![] });
        for (wrong, why) in [
            (json!({"mode": "MPOL_LOCAL", "nodes": "0"}), "MPOL_LOCAL takes none"),
            (json!({"mode": "MPOL_BIND"}), "MPOL_BIND needs at least one"),
            (json!({"mode": "MPOL_BIND", "nodes": "x"}), "\"x\" is no number and no range"),
        ] {
            assert_eq!(policy(wrong).unwrap_err(), format!("linux.memoryPolicy.nodes: {why}"));
        }
    }
}
