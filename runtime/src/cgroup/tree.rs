//! Cgroups made, controllers handed down, processes put in.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{CgroupError, failed, is_populated, read_words, write_file};

/// Controllers handed down to every cgroup that we make.
pub(super) const WANTED: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// Makes the cgroup (and those above it) and hands the controllers that exist down to it. True when it is new;
/// existing cgroups are no error.
pub fn create(cgroup: &Path) -> Result<bool, CgroupError> {
    let made = match fs::create_dir(cgroup) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(cgroup).map(|()| true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        other => other.map(|()| true),
    };
    let made = made.map_err(failed("create cgroup", cgroup))?;
    enable(cgroup, &WANTED)?;
    Ok(made)
}

/// As [`create`], for one container alone: a cgroup with processes, or a frozen one, is refused.
pub fn claim(cgroup: &Path) -> Result<bool, CgroupError> {
    let made = create(cgroup)?;
    if !made && is_populated(cgroup) {
        return Err(CgroupError::InUse { path: cgroup.to_owned() });
    }
    if !made && super::is_frozen(cgroup) {
        return Err(CgroupError::Frozen { path: cgroup.to_owned() });
    }
    Ok(made)
}

/// Hands `wanted` down from the tree's top to `cgroup`, as far as the host has them.
pub(super) fn enable(cgroup: &Path, wanted: &[&str]) -> Result<(), CgroupError> {
    let Some(own) = controllers_of(cgroup)? else {
        return Err(CgroupError::NotCgroup { path: cgroup.to_owned() });
    };
    let missing: Vec<&str> = wanted.iter().copied().filter(|name| !own.contains(*name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    // Up to the first that has all of them: what is above it is in order.
    let mut above = Vec::new();
    for parent in cgroup.ancestors().skip(1) {
        let Some(available) = controllers_of(parent)? else { break };
        let complete = missing.iter().all(|name| available.contains(*name));
        above.push((parent, available));
        if complete {
            break;
        }
    }
    let mut above = above.into_iter().rev();
    if let Some((topmost, available)) = above.next() {
        hand_down(topmost, &missing, &available);
    }
    for (parent, _) in above {
        // It may have got some just now.
        hand_down(parent, &missing, &controllers(parent)?);
    }
    make_usable(cgroup);
    Ok(())
}

/// A refusal is not ours to solve: a cgroup that others use may hold processes (EBUSY) or real-time tasks
/// (EINVAL). What is missing below shows in `cgroup.controllers` there, and [`why_missing`] asks again.
fn hand_down(parent: &Path, missing: &[&str], available: &BTreeSet<String>) {
    let names = missing.iter().filter(|name| available.contains(**name));
    let names: Vec<&str> = names.copied().collect();
    if names.is_empty() {
        return;
    }
    let control = parent.join("cgroup.subtree_control");
    let all: String = names.iter().map(|name| format!("+{name} ")).collect();
    if write_file(&control, all.trim_end()).is_err() {
        for name in names {
            let _ = write_file(&control, &format!("+{name}"));
        }
    }
}

/// Below a threaded cgroup a new one is invalid until it is threaded itself; then only some controllers (of cpu,
/// cpuset and pids) work, but processes can be born into it.
fn make_usable(cgroup: &Path) {
    let kind = cgroup.join("cgroup.type");
    if fs::read(&kind).is_ok_and(|text| text == b"domain invalid\n") {
        let _ = write_file(&kind, "threaded");
    }
}

/// Why `cgroup` does not have the files of `controller`, in words.
pub(super) fn why_missing(cgroup: &Path, controller: &str, file: &str) -> String {
    let mut above: Vec<&Path> =
        cgroup.ancestors().skip(1).take_while(|path| is_cgroup(path)).collect();
    above.reverse();
    let has = |path: &Path| controllers(path).is_ok_and(|names| names.contains(controller));
    if above.first().is_some_and(|top| !has(top)) {
        return format!("this host has no {controller} controller of cgroup version 2");
    }
    for parent in above {
        let kind = fs::read_to_string(parent.join("cgroup.type")).unwrap_or_default();
        if !has(parent) {
            return format!("cgroup {parent:?} ({}) has no {controller} controller", kind.trim());
        }
        let control = parent.join("cgroup.subtree_control");
        if let Err(error) = write_file(&control, &format!("+{controller}")) {
            return format!("cgroup {parent:?} cannot hand {controller} down: {error}");
        }
    }
    let kind = fs::read_to_string(cgroup.join("cgroup.type")).unwrap_or_default();
    match has(cgroup) {
        true => format!("this kernel has no {file}: no such file or directory"),
        false => format!("cgroup {cgroup:?} ({}) has no {controller} controller", kind.trim()),
    }
}

fn is_cgroup(path: &Path) -> bool {
    path.join("cgroup.controllers").exists()
}

/// `None` outside of a cgroup2 tree.
fn controllers_of(path: &Path) -> Result<Option<BTreeSet<String>>, CgroupError> {
    match controllers(path) {
        Ok(names) => Ok(Some(names)),
        Err(CgroupError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Controllers that `cgroup` itself has: what can be limited there.
pub fn controllers(cgroup: &Path) -> Result<BTreeSet<String>, CgroupError> {
    read_words(&cgroup.join("cgroup.controllers"))
}

/// Moves a process into the cgroup.
pub fn add_process(cgroup: &Path, pid: i32) -> Result<(), CgroupError> {
    let path = cgroup.join("cgroup.procs");
    let value = pid.to_string();
    write_file(&path, &value).map_err(|error| CgroupError::Write { path, value, error })
}

/// Processes in the cgroup itself (not those below it).
pub fn processes(cgroup: &Path) -> Result<Vec<i32>, CgroupError> {
    let path = cgroup.join("cgroup.procs");
    let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Processes in the cgroup and below it. One that goes away meanwhile has none.
pub fn all_processes(cgroup: &Path) -> Result<Vec<i32>, CgroupError> {
    let mut found = processes(cgroup)?;
    let mut left: Vec<PathBuf> = vec![cgroup.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.extend(processes(&entry.path()).unwrap_or_default());
                left.push(entry.path());
            }
        }
    }
    Ok(found)
}
