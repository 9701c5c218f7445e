//! Control groups, version 2: where they are mounted, directories made, limits written, processes killed, and all
//! of it gone again. Never decides how much anybody may use.
//!
//! A host may have the version 2 tree without controllers (hybrid hosts keep them in version 1). Then
//! directories, `cgroup.kill` and `cgroup.events` still work and limits do not exist: that is data
//! ([`CgroupHost::controllers`]), not an error, and [`set_resources`] writes what can be written.

mod devices;
mod resources;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::LinuxResources;

pub(crate) use devices::restrict as restrict_devices;
pub use resources::{ResourceError, Setting, settings};

/// How long [`remove`] waits for killed processes to be gone.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);

/// Controllers handed down to every cgroup that we make.
const WANTED: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// Where a host without any cgroup2 mount gets one.
const DEFAULT_MOUNT: &str = "/sys/fs/cgroup";

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("read the mounts of this process: {0}")]
    Mounts(io::Error),
    #[error("mount cgroup2 on {DEFAULT_MOUNT:?} (no cgroup2 is mounted): {0}")]
    Mount(io::Error),
    #[error("{verb} {path:?}: {error}")]
    Io { verb: &'static str, path: PathBuf, error: io::Error },
    #[error("write {value:?} to {path:?}: {error}")]
    Write { path: PathBuf, value: String, error: io::Error },
    #[error("restrict the devices of cgroup {path:?}: {}", crate::sys::process::reason(error))]
    Devices { path: PathBuf, error: io::Error },
    #[error("{path:?} is not in a cgroup2 tree")]
    NotCgroup { path: PathBuf },
    #[error("remove cgroup {path:?}: processes are still running in it")]
    Busy { path: PathBuf },
    #[error(transparent)]
    Resources(#[from] ResourceError),
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    move |error| CgroupError::Io { verb, path: path.to_owned(), error }
}

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
}

/// Finds the version 2 tree in this process' mounts. Where none is mounted (a bare init, a shell in
/// `ip netns exec`), mounts it where everybody expects it.
pub fn detect() -> Result<CgroupHost, CgroupError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(CgroupError::Mounts)?;
    let mount = match find_mount(&mounts) {
        Some(mount) => mount,
        None => {
            mount_default().map_err(CgroupError::Mount)?;
            PathBuf::from(DEFAULT_MOUNT)
        }
    };
    let controllers = read_words(&mount.join("cgroup.controllers"))?;
    Ok(CgroupHost { mount, controllers })
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

/// Makes the cgroup (and those above it) and hands the controllers that exist down to it. Existing
/// cgroups are no error.
pub fn create(cgroup: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(cgroup).map_err(failed("create cgroup", cgroup))?;
    enable(cgroup, &WANTED)
}

/// Hands `controllers` down from the tree's top to `cgroup`, as far as the host has them.
fn enable(cgroup: &Path, controllers: &[&str]) -> Result<(), CgroupError> {
    let is_cgroup = |path: &&Path| path.join("cgroup.controllers").exists();
    if !is_cgroup(&cgroup) {
        return Err(CgroupError::NotCgroup { path: cgroup.to_owned() });
    }
    let mut above: Vec<&Path> = cgroup.ancestors().skip(1).take_while(is_cgroup).collect();
    above.reverse();
    for parent in above {
        let available = read_words(&parent.join("cgroup.controllers"))?;
        let control = parent.join("cgroup.subtree_control");
        let enabled = read_words(&control)?;
        for name in controllers {
            if available.contains(*name) && !enabled.contains(*name) {
                // One by one, and a refusal is not ours to solve: a cgroup that others use may hold
                // processes (EBUSY) or real-time tasks (EINVAL). What is missing below shows in
                // `cgroup.controllers` there.
                let _ = write_file(&control, &format!("+{name}"));
            }
        }
    }
    Ok(())
}

/// Controllers that `cgroup` itself has: what [`set_resources`] can write there.
pub fn controllers(cgroup: &Path) -> Result<BTreeSet<String>, CgroupError> {
    read_words(&cgroup.join("cgroup.controllers"))
}

/// Writes the limits, skipping those of controllers that the cgroup does not have.
pub fn set_resources(cgroup: &Path, resources: &LinuxResources) -> Result<(), CgroupError> {
    let settings = settings(resources)?;
    if settings.iter().any(|setting| setting.controller() == "hugetlb") {
        enable(cgroup, &["hugetlb"])?;
    }
    for setting in settings {
        let path = cgroup.join(&setting.file);
        match write_file(&path, &setting.value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(CgroupError::Write { path, value: setting.value, error }),
            Ok(()) => {}
        }
    }
    Ok(())
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

/// Kills every process in the cgroup and below it. An absent cgroup has none.
pub fn kill(cgroup: &Path) -> Result<(), CgroupError> {
    let path = cgroup.join("cgroup.kill");
    match write_file(&path, "1") {
        Err(error) if !is_absent(&error) => {
            Err(CgroupError::Write { path, value: "1".into(), error })
        }
        _ => Ok(()),
    }
}

/// Removes the cgroup and those below it, waiting (bounded) for processes that have been killed but are not
/// gone yet. An absent cgroup is no error.
pub fn remove(cgroup: &Path) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(cgroup) {
        Err(error) if is_absent(&error) => return Ok(()),
        other => other.map_err(failed("read cgroup", cgroup))?,
    };
    // The tree's top has no such file, nor has any directory elsewhere: those are not ours to empty.
    if !cgroup.join("cgroup.events").exists() && cgroup.exists() {
        return Err(CgroupError::NotCgroup { path: cgroup.to_owned() });
    }
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path())?;
        }
    }
    remove_one(cgroup)
}

fn remove_one(cgroup: &Path) -> Result<(), CgroupError> {
    let deadline = Instant::now() + EMPTY_WITHIN;
    loop {
        match fs::remove_dir(cgroup) {
            Ok(()) => return Ok(()),
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                if !wait_empty(cgroup, deadline) {
                    return Err(CgroupError::Busy { path: cgroup.to_owned() });
                }
            }
            Err(error) => return Err(failed("remove cgroup", cgroup)(error)),
        }
    }
}

/// Waits until nothing lives in the cgroup or below it; false when the time is over.
fn wait_empty(cgroup: &Path, deadline: Instant) -> bool {
    let Ok(events) = File::open(cgroup.join("cgroup.events")) else { return true };
    let mut text = [0u8; 256];
    // The kernel raises POLLPRI when the file has changed since it was last read through this
    // descriptor: so it is read first, and no change is missed.
    while let Ok(length) = events.read_at(&mut text, 0) {
        if !says_populated(&text[..length]) {
            return true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let _ = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], timeout);
    }
    // The cgroup is gone.
    true
}

/// Whether any process lives in the cgroup or below it.
pub fn is_populated(cgroup: &Path) -> bool {
    fs::read(cgroup.join("cgroup.events")).is_ok_and(|text| says_populated(&text))
}

fn says_populated(events: &[u8]) -> bool {
    events.split(|byte| *byte == b'\n').any(|line| line == b"populated 1")
}

/// Kills everything in a Pod's cgroup (its supervisor included) and removes it.
pub fn kill_pod(cgroup: &Path) -> Result<(), CgroupError> {
    kill(cgroup)?;
    remove(cgroup)
}

/// How many processes of the cgroup the kernel killed for want of memory; 0 where it does not count.
pub fn oom_kills(cgroup: &Path) -> u64 {
    let Ok(text) = fs::read_to_string(cgroup.join("memory.events")) else { return 0 };
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

fn is_absent(error: &io::Error) -> bool {
    // ENODEV: the directory went away between opening and using a file in it.
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

fn read_words(path: &Path) -> Result<BTreeSet<String>, CgroupError> {
    let text = fs::read_to_string(path).map_err(failed("read", path))?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// One write call: cgroup files take a value whole.
fn write_file(path: &Path, value: &str) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

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
    fn only_cgroups_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("empty")).unwrap();
        assert!(matches!(remove(directory.path()), Err(CgroupError::NotCgroup { .. })));
        assert!(directory.path().join("empty").exists());
        remove(&directory.path().join("absent")).unwrap();
    }

    #[test]
    fn paths_stay_below_the_mount() {
        let host = CgroupHost { mount: "/cg".into(), controllers: BTreeSet::new() };
        assert_eq!(host.path("/kobune/podx"), PathBuf::from("/cg/kobune/podx"));
        assert_eq!(host.path("kobune"), PathBuf::from("/cg/kobune"));
    }
}
