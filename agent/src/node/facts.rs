//! What this machine is: sizes, versions, ids. Reads /proc, /sys and /etc; parsing is pure.

use std::fs;
use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::container::resources::HostSize;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    pub size: HostSize,
    /// Bytes of the file system that holds the data directory.
    pub disk_bytes: u64,
    pub kernel: String,
    pub os_image: String,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub arch: &'static str,
}

pub fn read(data_dir: &Path) -> HostFacts {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let machine_id = text("/etc/machine-id");
    let uuid = text("/sys/class/dmi/id/product_uuid");
    HostFacts {
        size: HostSize {
            cpu_millis: cpus * 1000,
            memory_bytes: meminfo(&text("/proc/meminfo"), "MemTotal"),
        },
        disk_bytes: disk(data_dir).0,
        kernel: text("/proc/sys/kernel/osrelease"),
        os_image: pretty_name(&text("/etc/os-release")),
        system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
        machine_id,
        boot_id: text("/proc/sys/kernel/random/boot_id"),
        arch: arch(),
    }
}

/// Total and available bytes of a path's file system; zeros if it cannot be asked.
pub(super) fn disk(path: &Path) -> (u64, u64) {
    match statvfs(path) {
        Ok(stat) => {
            let unit = stat.fragment_size();
            (stat.blocks() * unit, stat.blocks_available() * unit)
        }
        Err(_) => (0, 0),
    }
}

/// What the machine is short of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pids: bool,
}

pub fn pressure(data_dir: &Path) -> Pressure {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (total, available) = disk(data_dir);
    let threads = threads(&text("/proc/loadavg"));
    let pid_max: u64 = text("/proc/sys/kernel/pid_max").trim().parse().unwrap_or(u64::MAX);
    Pressure {
        // Upstream's eviction thresholds for memory; nothing is evicted yet, so the others say "nearly nothing left".
        memory: meminfo(&text("/proc/meminfo"), "MemAvailable") < 100 << 20,
        disk: total > 0 && available < total / 50,
        pids: threads > pid_max / 10 * 9,
    }
}

/// Bytes of one line of /proc/meminfo.
fn meminfo(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kib: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0) * 1024
}

/// All threads of the machine: `0.00 0.01 0.05 2/345 6789`.
fn threads(loadavg: &str) -> u64 {
    let field = loadavg.split_whitespace().nth(3).and_then(|field| field.split_once('/'));
    field.and_then(|(_, all)| all.parse().ok()).unwrap_or(0)
}

fn pretty_name(os_release: &str) -> String {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    value.map_or("Linux", |value| value.trim_matches('"')).to_owned()
}

/// As the field (and Go) calls architectures.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_kernel() {
        let text = "MemTotal:       8000000 kB\nMemFree: 1 kB\nMemAvailable:    2000 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), 8_192_000_000);
        assert_eq!(meminfo(text, "MemAvailable"), 2_048_000);
        assert_eq!(meminfo(text, "Mem"), 0);
        assert_eq!(threads("0.00 0.01 0.05 2/345 6789"), 345);
        assert_eq!(
            pretty_name("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"),
            "Debian GNU/Linux 12"
        );
        assert_eq!(pretty_name(""), "Linux");
    }

    #[test]
    fn this_machine_has_a_size() {
        let facts = read(Path::new("/"));
        assert!(
            facts.size.cpu_millis >= 1000 && facts.size.memory_bytes > 0 && facts.disk_bytes > 0
        );
        assert!(!facts.kernel.is_empty() && !facts.boot_id.is_empty());
    }
}
