//! What this host offers, and which cgroup a container gets.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::{CgroupError, read_words};

/// Where a host has its version 2 tree, or gets one.
const DEFAULT_MOUNT: &str = "/sys/fs/cgroup";

/// Where it is beside version 1.
const HYBRID_MOUNT: &str = "/sys/fs/cgroup/unified";

/// What this host offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupHost {
    /// Where the version 2 tree is mounted.
    pub mount: PathBuf,
    /// Controllers of the tree's top: `cpu`, `memory`, `pids` … Empty on hybrid hosts.
    pub controllers: BTreeSet<String>,
}

impl CgroupHost {
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.contains(controller)
    }

    /// The directory of the cgroup `relative` (a leading `/` means the tree's top).
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        let relative = relative.as_ref();
        self.mount.join(relative.strip_prefix("/").unwrap_or(relative))
    }

    /// The directory for `linux.cgroupsPath`: absolute ones begin at the tree's top, relative ones beside the
    /// cgroup of this process (as runc has it: ours has processes, so it cannot be a parent). No path leads out.
    pub fn place(&self, wanted: &Path) -> Result<PathBuf, CgroupError> {
        let text = wanted.to_string_lossy();
        if text.contains('\0') {
            return Err(CgroupError::Place { path: wanted.to_owned(), why: "has a NUL" });
        }
        if !wanted.is_absolute() && text.split(':').count() == 3 {
            return Err(CgroupError::Place {
                path: wanted.to_owned(),
                why: "is slice:prefix:name, which needs --cgroup-manager systemd",
            });
        }
        let clean = clean(wanted);
        if clean.as_os_str().is_empty() {
            return Err(CgroupError::Place { path: wanted.to_owned(), why: "is the tree's top" });
        }
        if wanted.is_absolute() {
            return Ok(self.mount.join(clean));
        }
        let own = fs::read_to_string("/proc/self/cgroup").map_err(CgroupError::Own)?;
        let own = version_2(&own).unwrap_or("/");
        let beside = Path::new(own).parent().unwrap_or(Path::new("/"));
        Ok(self.path(beside).join(clean))
    }
}

/// The directory of the cgroup that a process is in.
pub(crate) fn of_process(pid: i32) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    Some(detect().ok()?.path(version_2(&text)?))
}

/// The line of version 2 in a `/proc/<pid>/cgroup`.
fn version_2(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// What is left of a path when `..` cannot leave the top.
fn clean(path: &Path) -> PathBuf {
    let mut parts: Vec<&OsStr> = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name),
            Component::ParentDir => drop(parts.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    parts.into_iter().collect()
}

/// Finds the version 2 tree: at the usual places, else in this process' mounts. Where none is mounted (a bare
/// init, a shell in `ip netns exec`), mounts it where everybody expects it.
pub fn detect() -> Result<CgroupHost, CgroupError> {
    let usual = [DEFAULT_MOUNT, HYBRID_MOUNT].into_iter().find(|path| is_top(Path::new(path)));
    let mount = match usual {
        Some(path) => PathBuf::from(path),
        None => find_or_mount()?,
    };
    let controllers = read_words(&mount.join("cgroup.controllers"))?;
    Ok(CgroupHost { mount, controllers })
}

/// Whether this is a mount of a whole tree: only its top has no events.
fn is_top(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC)
        && !path.join("cgroup.events").exists()
}

fn find_or_mount() -> Result<PathBuf, CgroupError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(CgroupError::Mounts)?;
    if let Some(mount) = find_mount(&mounts) {
        return Ok(mount);
    }
    mount_default().map_err(|error| CgroupError::Mount { path: DEFAULT_MOUNT, error })?;
    Ok(PathBuf::from(DEFAULT_MOUNT))
}

fn mount_default() -> io::Result<()> {
    use nix::mount::{MsFlags, mount};
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("cgroup2"), DEFAULT_MOUNT, Some("cgroup2"), flags, None::<&str>)?;
    Ok(())
}

/// The last (topmost) cgroup2 mount of the tree's top in a `/proc/<pid>/mountinfo`.
fn find_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().rev().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (right.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(unescape(point)))
    })
}

/// Undoes mountinfo's octal escapes (space, tab, newline, backslash).
fn unescape(field: &str) -> String {
    let mut out = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|code| u8::from_str_radix(code, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    fn host() -> CgroupHost {
        CgroupHost { mount: "/cg".into(), controllers: BTreeSet::new() }
    }

    #[test]
    fn the_version_2_tree_is_found_beside_version_1() {
        assert_eq!(find_mount(HYBRID), Some(PathBuf::from("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn a_bind_mount_of_a_single_cgroup_is_not_the_tree() {
        let line = "50 31 0:38 /pod /mnt/x rw shared:3 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_mount(line), None);
        let escaped = "50 31 0:38 / /mnt/a\\040b rw shared:3 master:1 - cgroup2 none rw\n";
        assert_eq!(find_mount(escaped), Some(PathBuf::from("/mnt/a b")));
    }

    #[test]
    fn paths_stay_below_the_mount() {
        assert_eq!(host().path("/kobune/podx"), PathBuf::from("/cg/kobune/podx"));
        assert_eq!(host().path("kobune"), PathBuf::from("/cg/kobune"));
    }

    #[test]
    fn a_place_never_leads_out() {
        let place = |path: &str| host().place(Path::new(path)).map_err(|error| error.to_string());
        assert_eq!(place("/a/./b//c").unwrap(), Path::new("/cg/a/b/c"));
        assert_eq!(place("/../../a/../../b").unwrap(), Path::new("/cg/b"));
        assert!(place("../../b").unwrap().starts_with("/cg"));
        assert!(place("../../b").unwrap().ends_with("b"));
        assert_eq!(place("/a:b:c").unwrap(), Path::new("/cg/a:b:c"));
        let error = place("system.slice:docker:x").unwrap_err();
        assert!(error.starts_with("linux.cgroupsPath: ") && error.contains("systemd"), "{error}");
        assert!(place("/a\0b").unwrap_err().starts_with("linux.cgroupsPath: "));
        assert!(place("/a/..").unwrap_err().starts_with("linux.cgroupsPath: "));
    }
}
