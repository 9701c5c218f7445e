//! What a cgroup has used, in the shape of runc's `events`: what containerd, podman and cadvisor read. Parsing is
//! pure; a file that does not exist (no such controller, older kernel) leaves its part at zero.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    pub cpu: Cpu,
    pub cpuset: Cpuset,
    pub memory: Memory,
    pub pids: Pids,
    pub blkio: Blkio,
    pub hugetlb: BTreeMap<String, Hugetlb>,
    pub intel_rdt: Empty,
    /// runc tells of interfaces that it made itself; we make none.
    pub network_interfaces: Option<()>,
}

/// Always `{}`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Empty {}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cpu {
    pub usage: CpuUsage,
    pub throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CpuUsage {
    pub total: u64,
    pub kernel: u64,
    pub user: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    pub periods: u64,
    pub throttled_periods: u64,
    /// Nanoseconds.
    pub throttled_time: u64,
}

/// Version 2 counts nothing of it; readers expect the fields.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cpuset {
    cpu_exclusive: u64,
    mem_hardwall: u64,
    mem_exclusive: u64,
    memory_migrate: u64,
    memory_spread_page: u64,
    memory_spread_slab: u64,
    memory_pressure: u64,
    sched_load_balance: u64,
    sched_relax_domain_level: i64,
}

/// Bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Memory {
    pub cache: u64,
    pub usage: Usage,
    /// Memory and swap together.
    pub swap: Usage,
    pub kernel: Usage,
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: Usage,
    /// All of memory.stat.
    pub raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// No limit is the largest number.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Usage {
    pub limit: u64,
    pub usage: u64,
    pub max: u64,
    pub failcnt: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Pids {
    pub current: u64,
    /// 0 is no limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blkio {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct BlkioEntry {
    pub major: u64,
    pub minor: u64,
    pub op: &'static str,
    pub value: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Hugetlb {
    pub usage: u64,
    pub failcnt: u64,
}

/// Pressure stall information.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Pressure {
    pub some: Stall,
    pub full: Stall,
}

/// Percent of the last seconds, and microseconds in total.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stall {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
}

// serde passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Reads everything that the cgroup counts.
pub fn stats(cgroup: &Path) -> Stats {
    let read = |file: &str| fs::read_to_string(cgroup.join(file)).ok();
    Stats {
        cpu: cpu(&read),
        memory: memory(&read),
        pids: pids(&read, cgroup),
        blkio: blkio(&read),
        hugetlb: hugetlb(&read, cgroup),
        ..Stats::default()
    }
}

type Read<'a> = &'a dyn Fn(&str) -> Option<String>;

fn cpu(read: Read<'_>) -> Cpu {
    let stat = table(&read("cpu.stat").unwrap_or_default());
    let count = |key: &str| stat.get(key).copied().unwrap_or(0);
    let nanoseconds = |key: &str| count(key).saturating_mul(1000);
    Cpu {
        usage: CpuUsage {
            total: nanoseconds("usage_usec"),
            kernel: nanoseconds("system_usec"),
            user: nanoseconds("user_usec"),
        },
        throttling: Throttling {
            periods: count("nr_periods"),
            throttled_periods: count("nr_throttled"),
            throttled_time: nanoseconds("throttled_usec"),
        },
        psi: pressure(read("cpu.pressure").as_deref()),
    }
}

fn memory(read: Read<'_>) -> Memory {
    let raw = table(&read("memory.stat").unwrap_or_default());
    let usage = usage(read, "memory");
    let swap = self::usage(read, "memory.swap");
    let both = Usage {
        limit: match swap.limit {
            u64::MAX => u64::MAX,
            limit => limit.saturating_add(usage.limit),
        },
        usage: swap.usage.saturating_add(usage.usage),
        // The two need not have been high at the same time.
        ..Usage::default()
    };
    Memory {
        cache: raw.get("file").copied().unwrap_or(0),
        usage,
        swap: both,
        raw,
        psi: pressure(read("memory.pressure").as_deref()),
        ..Memory::default()
    }
}

fn usage(read: Read<'_>, name: &str) -> Usage {
    let value = |file: &str| number(read(&format!("{name}.{file}")).as_deref());
    Usage { limit: value("max"), usage: value("current"), max: value("peak"), failcnt: 0 }
}

fn pids(read: Read<'_>, cgroup: &Path) -> Pids {
    match read("pids.current") {
        Some(current) => {
            let limit = number(read("pids.max").as_deref());
            Pids {
                current: number(Some(&current)),
                limit: if limit == u64::MAX { 0 } else { limit },
            }
        }
        None => {
            let processes = super::all_processes(cgroup).unwrap_or_default();
            Pids { current: processes.len() as u64, limit: 0 }
        }
    }
}

fn blkio(read: Read<'_>) -> Blkio {
    let mut out = Blkio { psi: pressure(read("io.pressure").as_deref()), ..Blkio::default() };
    for line in read("io.stat").unwrap_or_default().lines() {
        let mut words = line.split_whitespace();
        let device = words.next().and_then(|device| device.split_once(':'));
        let device = device.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let Some((major, minor)) = device else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            let entry = |op| BlkioEntry { major, minor, op, value };
            match key {
                "rbytes" => out.io_service_bytes_recursive.push(entry("Read")),
                "wbytes" => out.io_service_bytes_recursive.push(entry("Write")),
                "rios" => out.io_serviced_recursive.push(entry("Read")),
                "wios" => out.io_serviced_recursive.push(entry("Write")),
                _ => {}
            }
        }
    }
    out
}

/// By page size, such as 2MB.
fn hugetlb(read: Read<'_>, cgroup: &Path) -> BTreeMap<String, Hugetlb> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(".current")?;
        (!size.contains('.')).then(|| size.to_owned())
    });
    let of = |size: String| {
        let reserved = read(&format!("hugetlb.{size}.rsvd.current"));
        let usage = reserved.or_else(|| read(&format!("hugetlb.{size}.current")));
        let events = table(&read(&format!("hugetlb.{size}.events")).unwrap_or_default());
        let failcnt = events.get("max").copied().unwrap_or(0);
        (size, Hugetlb { usage: number(usage.as_deref()), failcnt })
    };
    sizes.map(of).collect()
}

/// `key value` lines.
fn table(text: &str) -> BTreeMap<String, u64> {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.filter_map(|(key, value)| Some((key.to_owned(), value.trim().parse().ok()?))).collect()
}

fn number(text: Option<&str>) -> u64 {
    match text.map(str::trim) {
        Some("max") => u64::MAX,
        Some(text) => text.parse().unwrap_or(0),
        None => 0,
    }
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
fn pressure(text: Option<&str>) -> Option<Pressure> {
    let mut out = Pressure::default();
    for line in text?.lines() {
        let mut words = line.split_whitespace();
        let stall = match words.next() {
            Some("some") => &mut out.some,
            Some("full") => &mut out.full,
            _ => continue,
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let share = || value.parse().unwrap_or(0.0);
            match key {
                "avg10" => stall.avg10 = share(),
                "avg60" => stall.avg60 = share(),
                "avg300" => stall.avg300 = share(),
                "total" => stall.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn files(pairs: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        move |file| pairs.iter().find(|(name, _)| *name == file).map(|(_, text)| (*text).to_owned())
    }

    #[test]
    fn cpu_time_is_nanoseconds() {
        let read = files(&[
            (
                "cpu.stat",
                "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 7\nnr_throttled 5\nthrottled_usec 9\n",
            ),
            (
                "cpu.pressure",
                "some avg10=1.50 avg60=0.25 avg300=0.00 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
            ),
        ]);
        let value = serde_json::to_value(cpu(&read)).unwrap();
        let some = json!({"avg10": 1.5, "avg60": 0.25, "avg300": 0.0, "total": 42});
        let full = json!({"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 1});
        assert_eq!(
            value,
            json!({
                "usage": {"total": 30_000, "kernel": 10_000, "user": 20_000},
                "throttling": {"periods": 7, "throttledPeriods": 5, "throttledTime": 9_000},
                "psi": {"some": some, "full": full},
            })
        );
    }

    #[test]
    fn swap_includes_memory() {
        let read = files(&[
            ("memory.stat", "anon 5\nfile 7\n"),
            ("memory.current", "100\n"),
            ("memory.max", "400\n"),
            ("memory.peak", "300\n"),
            ("memory.swap.current", "10\n"),
            ("memory.swap.max", "50\n"),
        ]);
        let memory = memory(&read);
        assert_eq!(memory.usage, Usage { limit: 400, usage: 100, max: 300, failcnt: 0 });
        assert_eq!(memory.swap, Usage { limit: 450, usage: 110, max: 0, failcnt: 0 });
        assert_eq!((memory.cache, memory.raw["anon"]), (7, 5));
        assert_eq!(memory.psi, None);
        let unlimited = self::memory(&files(&[("memory.max", "max"), ("memory.swap.max", "max")]));
        assert_eq!((unlimited.usage.limit, unlimited.swap.limit), (u64::MAX, u64::MAX));
    }

    #[test]
    fn devices_have_operations() {
        let read = files(&[(
            "io.stat",
            "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n254:16\nodd\n",
        )]);
        let blkio = blkio(&read);
        let entry = |op, value| BlkioEntry { major: 8, minor: 0, op, value };
        assert_eq!(blkio.io_service_bytes_recursive, [entry("Read", 1), entry("Write", 2)]);
        assert_eq!(blkio.io_serviced_recursive, [entry("Read", 3), entry("Write", 4)]);
    }

    #[test]
    fn what_readers_expect_is_there_even_when_nothing_is_counted() {
        let value = serde_json::to_value(Stats::default()).unwrap();
        for pointer in [
            "/cpu/usage/total",
            "/cpuset/cpu_exclusive",
            "/memory/kernelTCP/limit",
            "/hugetlb",
            "/intel_rdt",
        ] {
            assert!(value.pointer(pointer).is_some(), "{pointer}: {value}");
        }
    }
}
