//! What a node could leave behind, listed before and after: mounts, network namespaces, links, routes,
//! nf_tables, sysctls, cgroups, processes, run directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{process, wait::eventually};
use crate::paths;

/// Category → what was there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot(BTreeMap<&'static str, BTreeSet<String>>);

/// Sysctls that a node may change.
const SYSCTLS: &[&str] = &[
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv4/conf/all/forwarding",
];

impl Snapshot {
    /// Looks from inside of the host's namespaces.
    pub(super) fn take(
        cgroup: &str,
        run_dir: &Path,
        mounts: BTreeSet<String>,
        processes: Vec<(i32, String)>,
    ) -> Self {
        let mut all = BTreeMap::new();
        all.insert("mounts", mounts);
        all.insert("network namespaces", names(Path::new("/run/netns")));
        all.insert("links", links(&ip(&["-o", "link"])));
        all.insert("addresses", lines(&ip(&["-o", "address"])));
        all.insert("routes", lines(&steady(&ip(&["route", "show", "table", "all"]))));
        all.insert("rules", lines(&ip(&["rule"])));
        all.insert("nf_tables", lines(&tool("nft", &["list", "ruleset"])));
        all.insert("sysctls", sysctls());
        all.insert("cgroups", cgroups(cgroup).iter().map(|p| p.display().to_string()).collect());
        let own = std::process::id().cast_signed();
        let others = processes.into_iter().filter(|(pid, _)| *pid != own);
        all.insert("processes", others.map(|(pid, name)| format!("{pid} {name}")).collect());
        let mut files = BTreeSet::new();
        if run_dir.exists() {
            files.insert(run_dir.display().to_string());
        }
        walk(run_dir, &mut files);
        all.insert("run directory", files);
        Self(all)
    }

    /// What is here and was not in `before`, and the reverse; empty when equal.
    pub fn difference(&self, before: &Self) -> Vec<String> {
        let empty = BTreeSet::new();
        let mut differences = Vec::new();
        for (category, now) in &self.0 {
            let then = before.0.get(category).unwrap_or(&empty);
            let more = now.difference(then).map(|line| format!("{category}: + {line}"));
            let less = then.difference(now).map(|line| format!("{category}: - {line}"));
            differences.extend(more.chain(less));
        }
        differences
    }
}

fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// Number and name of each link; carriers come and go in the kernel's own time.
fn links(text: &str) -> BTreeSet<String> {
    let head = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    text.lines().map(head).collect()
}

/// Routes without what follows from a carrier.
fn steady(routes: &str) -> String {
    routes.replace(" linkdown", "")
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn ip(arguments: &[&str]) -> String {
    tool("ip", arguments)
}

/// Must succeed: an empty answer of a tool that failed would hide what is left.
fn tool(name: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(paths::on_path(name).unwrap_or_else(|| panic!("no {name}")));
    command.args(arguments);
    process::run(command, "").ok()
}

fn sysctls() -> BTreeSet<String> {
    let value = |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default();
    SYSCTLS.iter().map(|name| format!("{name} = {}", value(name).trim())).collect()
}

fn walk(path: &Path, into: &mut BTreeSet<String>) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        into.insert(entry.path().display().to_string());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), into);
        }
    }
}

/// Where cgroup version 2 is mounted.
pub fn cgroup_mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("cgroup2");
    PathBuf::from(line.split(' ').nth(4).expect("mountinfo has a mount point"))
}

/// The cgroup of that name below the mount and all below it, deepest first.
fn cgroups(name: &str) -> Vec<PathBuf> {
    fn visit(dir: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                visit(&entry.path(), into);
            }
        }
        into.push(dir.to_path_buf());
    }
    let mut all = Vec::new();
    let root = cgroup_mount().join(name);
    if root.exists() {
        visit(&root, &mut all);
    }
    all
}

/// Kills everything in the host's cgroup and removes it. For the end of a test, not part of any.
pub(super) fn remove_cgroups(name: &str) {
    let all = cgroups(name);
    if all.is_empty() {
        return;
    }
    let _ = fs::write(cgroup_mount().join(name).join("cgroup.kill"), "1");
    if std::thread::panicking() {
        // A panic in a panic would abort the other tests.
        for dir in &all {
            for _ in 0..200 {
                if fs::remove_dir(dir).is_ok() {
                    break;
                }
                std::thread::yield_now();
            }
        }
        return;
    }
    for dir in &all {
        eventually("a killed cgroup is empty", Duration::from_secs(10), || fs::remove_dir(dir));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_links(names: &[&str]) -> Snapshot {
        let set = names.iter().map(|name| (*name).to_owned()).collect();
        Snapshot(BTreeMap::from([("links", set)]))
    }

    #[test]
    fn a_carrier_is_no_difference() {
        let (up, down) = ("4: br0: <UP> state UP\n", "4: br0: <NO-CARRIER,UP> state DOWN\n");
        assert_eq!(links(up), links(down));
        assert_ne!(links(up), links("5: br1: <UP>\n"));
    }

    #[test]
    fn both_directions_are_told() {
        let difference = of_links(&["lo", "kobune0"]).difference(&of_links(&["lo", "eth0"]));
        assert_eq!(difference, ["links: + kobune0", "links: - eth0"]);
        assert!(of_links(&["lo"]).difference(&of_links(&["lo"])).is_empty());
    }
}
