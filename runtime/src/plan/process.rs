//! One process of config.json as numbers and strings ready for the kernel. Pure.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::path::PathBuf;
use std::rc::Rc;
use std::str::FromStr;

use oci_spec::runtime::{
    self as oci, IOPriorityClass, Linux, LinuxCapabilities, LinuxIOPriority,
    LinuxPersonalityDomain, PosixRlimitType, Process,
};

use super::numbers::{self, Affinity, MemoryPolicy};
use super::{Listener, Seccomp};
use crate::hooks::Phase;
use crate::lsm::Labels;
use crate::oci::ConfigError;
use crate::sys::schedule::Scheduling;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ProcessPlan {
    /// Not empty.
    pub(crate) args: Vec<CString>,
    pub(crate) env: Vec<CString>,
    /// The value of PATH in `env`.
    pub(crate) search: Option<String>,
    pub(crate) cwd: PathBuf,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: Option<u32>,
    pub(crate) capabilities: Capabilities,
    pub(crate) no_new_privileges: bool,
    pub(crate) limits: Vec<Limit>,
    /// A limit that may not be raised stays what it is, instead of being an error.
    pub(crate) lenient_limits: bool,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) scheduler: Option<Scheduling>,
    /// For ioprio_set(2): the class in the upper bits, the level in the lower 13.
    pub(crate) io_priority: Option<u32>,
    /// For processes that are not a container's first.
    pub(crate) affinity: Affinity,
    pub(crate) labels: Labels,
    /// Columns and rows; zeros when unknown.
    pub(crate) terminal: Option<(u16, u16)>,
    /// How many of the caller's descriptors, from number 3 on, the program gets as they are.
    pub(crate) preserved: u16,
    /// The session keyring to enter; without, it keeps its creator's.
    pub(crate) keyring: Option<CString>,
    pub(crate) confinement: Confinement,
    /// startContainer hooks.
    pub(crate) hooks: Option<Rc<Phase>>,
}

/// PER_LINUX32 (linux/personality.h).
const PER_LINUX32: u32 = 8;

/// What `linux` says about every process of the container.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Confinement {
    pub(crate) seccomp: Option<Rc<Seccomp>>,
    /// For personality(2).
    pub(crate) personality: Option<u32>,
    pub(crate) memory_policy: Option<MemoryPolicy>,
}

impl Confinement {
    /// Who decides about system calls, if somebody does.
    pub(crate) fn listener(&self) -> Option<&Listener> {
        self.seccomp.as_ref().and_then(|seccomp| seccomp.listener.as_ref())
    }

    pub(crate) fn of(linux: &Linux) -> Result<Confinement, ConfigError> {
        let seccomp = linux.seccomp().as_ref().map(super::seccomp::plan).transpose()?;
        let personality = linux.personality().as_ref().map(|wanted| match wanted.domain() {
            LinuxPersonalityDomain::PerLinux => 0,
            LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
        });
        let memory_policy = linux.memory_policy().as_ref();
        let memory_policy = memory_policy.map(numbers::memory_policy).transpose()?;
        Ok(Confinement { seccomp: seccomp.map(Rc::new), personality, memory_policy })
    }
}

/// The five sets as bit masks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Capabilities {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) inheritable: u64,
    pub(crate) permitted: u64,
    pub(crate) ambient: u64,
}

impl Capabilities {
    /// The names of those that are wanted but not in `available`.
    pub(crate) fn beyond(&self, available: u64) -> Vec<String> {
        let wanted = self.bounding | self.effective | self.inheritable | self.permitted;
        let lacking = (wanted | self.ambient) & !available;
        if lacking == 0 {
            return Vec::new();
        }
        let mut names: Vec<_> = caps::all().into_iter().collect();
        names.retain(|capability| capability.bitmask() & lacking != 0);
        names.sort_by_key(caps::Capability::bitmask);
        names.iter().map(ToString::to_string).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) name: PosixRlimitType,
    /// RLIMIT_*
    pub(crate) resource: u32,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

impl Limit {
    /// Setting it, for errors (the words of the system call are what users of other runtimes look for).
    pub(crate) fn verb(&self) -> String {
        format!("set limit {} (setrlimit)", self.name)
    }
}

impl ProcessPlan {
    /// `at` is the JSON path of `process`, for errors.
    pub(crate) fn of(process: &Process, at: &str) -> Result<ProcessPlan, ConfigError> {
        let strings = |list: &Option<Vec<String>>, name: &str| {
            let list = list.iter().flatten().enumerate();
            list.map(|(index, text)| {
                CString::new(text.as_str())
                    .map_err(|_| ConfigError::field(format!("{at}.{name}[{index}]"), "has a NUL"))
            })
            .collect::<Result<Vec<_>, _>>()
        };
        let user = process.user();
        let env = process.env().iter().flatten();
        let search = env.filter_map(|entry| entry.strip_prefix("PATH=")).next_back();
        let terminal = process.terminal() == Some(true);
        let affinity = process.exec_cpu_affinity().as_ref();
        let affinity = affinity
            .map(|wanted| numbers::affinity(wanted, &format!("{at}.execCPUAffinity")))
            .transpose()?;
        Ok(ProcessPlan {
            args: strings(process.args(), "args")?,
            env: last_of_each_name(strings(process.env(), "env")?),
            search: search.map(str::to_owned),
            cwd: process.cwd().clone(),
            uid: user.uid(),
            gid: user.gid(),
            groups: unique(user.additional_gids().iter().flatten().copied()),
            umask: user.umask(),
            capabilities: process.capabilities().as_ref().map(capabilities).unwrap_or_default(),
            no_new_privileges: process.no_new_privileges() == Some(true),
            limits: process.rlimits().iter().flatten().map(limit).collect(),
            lenient_limits: false,
            oom_score_adj: process.oom_score_adj(),
            scheduler: process.scheduler().as_ref().map(scheduling),
            io_priority: process.io_priority().as_ref().map(io_priority),
            affinity: affinity.unwrap_or_default(),
            labels: Labels::of(process),
            terminal: terminal.then(|| console_size(process)),
            preserved: 0,
            keyring: None,
            confinement: Confinement::default(),
            hooks: None,
        })
    }
}

fn io_priority(wanted: &LinuxIOPriority) -> u32 {
    let class = match wanted.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    // Checked to be 0 to 7.
    class << 13 | wanted.priority() as u32
}

/// The flags are SCHED_FLAG_* (linux/sched.h).
fn scheduling(wanted: &oci::Scheduler) -> Scheduling {
    use oci_spec::runtime::{LinuxSchedulerFlag as Flag, LinuxSchedulerPolicy as Policy};
    let policy = match wanted.policy() {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => 4,
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    };
    let flag = |flag: &Flag| match flag {
        Flag::SchedResetOnFork => 0x1,
        Flag::SchedFlagReclaim => 0x2,
        Flag::SchedFlagDLOverrun => 0x4,
        Flag::SchedFlagKeepPolicy => 0x8,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40,
    };
    let flags = wanted.flags().iter().flatten().map(flag).fold(0, |all, flag| all | flag);
    Scheduling {
        policy,
        flags,
        nice: wanted.nice().unwrap_or_default(),
        // The kernel refuses what is too large.
        priority: wanted.priority().unwrap_or_default() as u32,
        runtime: wanted.runtime().unwrap_or_default(),
        deadline: wanted.deadline().unwrap_or_default(),
        period: wanted.period().unwrap_or_default(),
    }
}

fn unique(groups: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut seen = BTreeSet::new();
    groups.filter(|group| seen.insert(*group)).collect()
}

/// A later value overrides an earlier one, as with other runtimes; getenv(3) would find the first.
fn last_of_each_name(entries: Vec<CString>) -> Vec<CString> {
    let name =
        |entry: &CString| entry.to_bytes().split(|byte| *byte == b'=').next().map(<[u8]>::to_vec);
    let mut seen = BTreeSet::new();
    let mut kept: Vec<_> =
        entries.into_iter().rev().filter(|entry| seen.insert(name(entry))).collect();
    kept.reverse();
    kept
}

fn console_size(process: &Process) -> (u16, u16) {
    let size = process.console_size();
    let number = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
    size.map_or((0, 0), |size| (number(size.width()), number(size.height())))
}

fn capabilities(sets: &LinuxCapabilities) -> Capabilities {
    let mask = |set: &Option<oci::Capabilities>| set.iter().flatten().map(bit).sum();
    Capabilities {
        bounding: mask(sets.bounding()),
        effective: mask(sets.effective()),
        inheritable: mask(sets.inheritable()),
        permitted: mask(sets.permitted()),
        ambient: mask(sets.ambient()),
    }
}

/// The capability as a mask of one bit; each set holds each capability once.
fn bit(capability: &oci::Capability) -> u64 {
    let name = format!("CAP_{capability}");
    caps::Capability::from_str(&name).map_or(0, |capability| capability.bitmask())
}

fn limit(limit: &oci::PosixRlimit) -> Limit {
    use PosixRlimitType as Type;
    let resource = match limit.typ() {
        Type::RlimitCpu => libc::RLIMIT_CPU,
        Type::RlimitFsize => libc::RLIMIT_FSIZE,
        Type::RlimitData => libc::RLIMIT_DATA,
        Type::RlimitStack => libc::RLIMIT_STACK,
        Type::RlimitCore => libc::RLIMIT_CORE,
        Type::RlimitRss => libc::RLIMIT_RSS,
        Type::RlimitNproc => libc::RLIMIT_NPROC,
        Type::RlimitNofile => libc::RLIMIT_NOFILE,
        Type::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        Type::RlimitAs => libc::RLIMIT_AS,
        Type::RlimitLocks => libc::RLIMIT_LOCKS,
        Type::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        Type::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        Type::RlimitNice => libc::RLIMIT_NICE,
        Type::RlimitRtprio => libc::RLIMIT_RTPRIO,
        Type::RlimitRttime => libc::RLIMIT_RTTIME,
    };
    Limit { name: limit.typ(), resource, soft: limit.soft(), hard: limit.hard() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(value: serde_json::Value) -> ProcessPlan {
        let mut process = json!({"user": {"uid": 1, "gid": 2}, "cwd": "/", "args": ["a"]});
        process.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        ProcessPlan::of(&serde_json::from_value(process).unwrap(), "process").unwrap()
    }

    #[test]
    fn every_capability_has_its_bit() {
        let plan = of(json!({"capabilities": {
            "bounding": ["CAP_CHOWN", "CAP_NET_BIND_SERVICE", "CAP_CHECKPOINT_RESTORE"],
            "ambient": ["CAP_SYS_ADMIN"],
        }}));
        assert_eq!(plan.capabilities.bounding, 1 | 1 << 10 | 1 << 40);
        assert_eq!(plan.capabilities.ambient, 1 << 21);
        assert_eq!(plan.capabilities.effective, 0);
        for capability in caps::all() {
            let name = serde_json::Value::String(capability.to_string());
            let parsed: oci::Capability = serde_json::from_value(name).unwrap();
            assert_eq!(bit(&parsed), capability.bitmask(), "{capability}");
        }
    }

    #[test]
    fn what_is_not_available_is_named() {
        let plan = of(json!({"capabilities": {"ambient": ["CAP_SYS_RESOURCE", "CAP_KILL"]}}));
        assert_eq!(plan.capabilities.beyond(1 << 5), ["CAP_SYS_RESOURCE"]);
        assert!(plan.capabilities.beyond(u64::MAX).is_empty());
    }

    #[test]
    fn without_capabilities_there_are_none() {
        assert_eq!(of(json!({})).capabilities, Capabilities::default());
    }

    #[test]
    fn the_last_path_is_searched() {
        assert_eq!(of(json!({"env": ["PATH=/a", "X=1", "PATH=/b"]})).search.as_deref(), Some("/b"));
        assert_eq!(of(json!({})).search, None);
    }

    #[test]
    fn limits_and_terminal() {
        let plan = of(json!({
            "terminal": true, "consoleSize": {"height": 24, "width": 80},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}],
        }));
        assert_eq!(plan.terminal, Some((80, 24)));
        let name = PosixRlimitType::RlimitNofile;
        assert_eq!(plan.limits, [Limit { name, resource: 7, soft: 5, hard: 6 }]);
    }
}
