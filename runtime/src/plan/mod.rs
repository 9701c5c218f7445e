//! From a checked config.json and facts about the host to what the new process does, step by step. Pure: nothing here
//! touches the system; `create/` performs the steps in the order given.
//!
//! The order, and why:
//! 1. namespaces, because everything after is done inside them;
//! 2. host name and sysctls, while the host's /proc is still there: nothing that a rootfs or a volume holds
//!    can redirect those writes (CVE-2025-52881);
//! 3. propagation of the mount tree, so that no mount made here reaches the host;
//! 4. the root, then mounts in the order of config.json (the specification demands it);
//! 5. devices and links in /dev, after a mount on /dev may have hidden the image's;
//! 6. the working directory, which may lie in a mount;
//! 7. pivot: from here on no path can lead to the host;
//! 8. read-only and masked paths, which must cover what the mounts brought, and the root's read-only flag
//!    last, since every step before may have to make a directory.

mod devices;
mod mounts;
mod net;
mod numbers;
mod options;
mod process;
pub(crate) mod seccomp;
mod time;
mod users;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};

use crate::hooks::Phase;
use crate::oci::ConfigError;
use crate::wire::Rootfs;

pub(crate) use devices::{Device, DeviceKind};
pub(crate) use mounts::{IdMapped, Instead, MountKind, MountPlan};
pub(crate) use net::NetDevice;
pub(crate) use numbers::{MEMORY_FLAGS, MEMORY_MODES, MemoryPolicy};
pub(crate) use options::{Change, MOUNT_OPTIONS};
pub(crate) use process::{Capabilities, Confinement, Limit, ProcessPlan};
pub(crate) use seccomp::{Listener, Seccomp};
pub(crate) use users::{IdMaps, encode as encode_ids};

/// Everything that one new process does before it becomes the container's program.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    /// CLONE_NEW* flags of namespaces to make (without cgroup and time, which clone cannot make).
    pub(crate) unshare: i32,
    /// Namespaces to enter, in this order.
    pub(crate) join: Vec<Join>,
    /// The maps of the user namespace, if one is made.
    pub(crate) users: Option<IdMaps>,
    /// The offsets of the time namespace, if one is made, as the kernel takes them.
    pub(crate) time: Option<String>,
    /// Network devices of the host that become the container's.
    pub(crate) net_devices: Vec<NetDevice>,
    pub(crate) steps: Vec<Step>,
    pub(crate) process: ProcessPlan,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Join {
    /// Its CLONE_NEW* flag.
    pub(crate) kind: i32,
    pub(crate) path: PathBuf,
}

impl Plan {
    /// Whether the process is to be root of a user namespace, and so a stranger to the host's files.
    pub(crate) fn has_users(&self) -> bool {
        self.users.is_some() || self.joins(libc::CLONE_NEWUSER)
    }

    /// Who on the host is to own the container's cgroup: whoever its program is, if it sees that cgroup alone, and to
    /// write to it (config-linux.md#cgroup-ownership).
    pub(crate) fn cgroup_owner(&self) -> Option<u32> {
        let writable = |step: &Step| match step {
            Step::Mount(mount) => {
                let place = mount.destination == Path::new("/sys/fs/cgroup");
                place && mount.kind == MountKind::Cgroup && mount.is_writable()
            }
            _ => false,
        };
        if !self.steps.contains(&Step::UnshareCgroup) || !self.steps.iter().any(writable) {
            return None;
        }
        let uid = self.process.uid;
        self.users.as_ref().map_or(Some(uid), |maps| maps.outside_uid(uid))
    }

    /// Moves the root over the old one instead of pivoting (`--no-pivot`).
    pub(crate) fn without_pivot(&mut self) {
        for step in &mut self.steps {
            if *step == Step::Pivot {
                *step = Step::MoveRoot;
            }
        }
    }

    /// Places in the root where mounts stay when the container has ended: those of a container without a mount
    /// namespace.
    pub(crate) fn lasting_mounts(&self) -> Vec<PathBuf> {
        if !self.steps.contains(&Step::ChangeRoot) {
            return Vec::new();
        }
        let place = |step: &Step| match step {
            Step::Root(Root::Directory(_)) => Some(PathBuf::from("/")),
            Step::Mount(mount) => Some(mount.destination.clone()),
            _ => None,
        };
        self.steps.iter().filter_map(place).collect()
    }

    /// The device nodes that the parent makes, and the maps that their owners are found in: root of a user namespace may
    /// make none. What every host has is shown from there, and so is all in a user namespace that is joined, whose maps
    /// nobody tells us.
    pub(crate) fn nodes_of_parent(&self) -> Option<(&IdMaps, Vec<&Device>)> {
        // In a mount namespace that is joined the child finds its own way.
        let maps = self.users.as_ref().filter(|_| !self.joins(libc::CLONE_NEWNS))?;
        let steps = self.steps.iter();
        let nodes: Vec<&Device> = steps
            .filter_map(|step| match step {
                Step::Device(device) if device.is_special() => Some(device),
                _ => None,
            })
            .collect();
        (!nodes.is_empty()).then_some((maps, nodes))
    }

    /// Whether a namespace of this CLONE_NEW* kind is entered.
    pub(crate) fn joins(&self, kind: i32) -> bool {
        self.join.iter().any(|join| join.kind == kind)
    }
}

/// One thing to do; its `Display` names it in errors.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// The cgroup namespace takes the cgroup that the process is in as its top: after clone, not by it.
    UnshareCgroup,
    /// The one interface of a new network namespace comes up.
    Loopback,
    Hostname(String),
    Domainname(String),
    Sysctl {
        path: String,
        value: String,
    },
    /// MS_* propagation of the whole tree.
    Propagation(u64),
    Root(Root),
    Mount(MountPlan),
    Device(Device),
    Symlink {
        path: PathBuf,
        target: &'static str,
    },
    /// The pty, and its other side on /dev/console.
    Terminal,
    MakeDirectory(PathBuf),
    /// prestart and createRuntime hooks: run by the parent, waited for.
    RuntimeHooks,
    ContainerHooks(Phase),
    Pivot,
    /// Instead of the pivot, where the host's root is a ramdisk, which cannot be pivoted.
    MoveRoot,
    /// Instead of the pivot, in a mount namespace that is not the container's.
    ChangeRoot,
    /// MS_* propagation of the new root alone.
    RootPropagation(u64),
    Readonly(PathBuf),
    Mask(PathBuf),
    ReadonlyRoot,
    /// Of the command line alone: a program that is not there fails `create`.
    LookForProgram,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Root {
    /// An existing directory.
    Directory(PathBuf),
    /// The same, as it is: no mount is made of it.
    InPlace(PathBuf),
    /// Topmost layer first.
    Overlay { lower: Vec<PathBuf>, upper: PathBuf, work: PathBuf },
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::UnshareCgroup => write!(f, "make a cgroup namespace"),
            Step::Loopback => write!(f, "set up the loopback interface"),
            Step::Hostname(name) => write!(f, "set hostname {name:?}"),
            Step::Domainname(name) => write!(f, "set domainname {name:?}"),
            Step::Sysctl { path, value } => write!(f, "write {value:?} to sysctl {path:?}"),
            Step::Propagation(_) => write!(f, "set the propagation of the mount tree"),
            Step::Root(Root::InPlace(path)) => write!(f, "open the root {path:?}"),
            Step::Root(Root::Directory(path)) => write!(f, "bind the root {path:?}"),
            Step::Root(Root::Overlay { .. }) => write!(f, "mount the overlay root"),
            Step::Mount(mount) => write!(f, "{mount}"),
            Step::Device(device) => write!(f, "make device {:?}", device.path),
            Step::Symlink { path, .. } => write!(f, "make symlink {path:?}"),
            Step::Terminal => write!(f, "set up the terminal"),
            Step::MakeDirectory(path) => write!(f, "make directory {path:?}"),
            Step::RuntimeHooks => write!(f, "wait for hooks"),
            Step::ContainerHooks(_) => write!(f, "run createContainer hooks"),
            Step::Pivot => write!(f, "pivot to the new root"),
            Step::MoveRoot => write!(f, "move the new root over the old one"),
            Step::ChangeRoot => write!(f, "change to the root"),
            Step::RootPropagation(_) => write!(f, "set the propagation of the root"),
            Step::Readonly(path) => write!(f, "make {path:?} read-only"),
            Step::Mask(path) => write!(f, "mask {path:?}"),
            Step::ReadonlyRoot => write!(f, "make the root read-only"),
            Step::LookForProgram => write!(f, "look for the program"),
        }
    }
}

/// Plans the birth of a container.
pub(crate) fn plan(spec: &Spec, rootfs: &Rootfs, bundle: &Path) -> Result<Plan, ConfigError> {
    let process = spec.process().as_ref();
    let process = process.ok_or_else(|| ConfigError::field("process", "required"))?;
    let mut process = ProcessPlan::of(process, "process")?;
    let default = Linux::default();
    let linux = spec.linux().as_ref().unwrap_or(&default);
    process.confinement = Confinement::of(linux)?;
    process.labels.mounts = mounts::label(linux).is_some();
    let (unshare, join, cgroup) = namespaces(linux);
    let (users, time) = (users::plan(linux)?, time::plan(linux)?);
    let net_devices = net::plan(linux)?;
    if let Some(maps) = &users {
        users::check_process(maps, &process)?;
    }

    let mut steps = Vec::new();
    if cgroup {
        steps.push(Step::UnshareCgroup);
    }
    if unshare & libc::CLONE_NEWNET != 0 {
        steps.push(Step::Loopback);
    }
    let named = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    steps.extend(named(spec.hostname()).map(Step::Hostname));
    steps.extend(named(spec.domainname()).map(Step::Domainname));
    let sysctls: BTreeMap<_, _> = linux.sysctl().iter().flatten().collect();
    for (key, value) in sysctls {
        let path = crate::oci::sysctl_path(key)
            .map_err(|why| ConfigError::field(format!("linux.sysctl[{key:?}]"), why))?;
        steps.push(Step::Sysctl { path, value: value.clone() });
    }
    let propagation = root_propagation(linux)?;
    let has_tree =
        unshare & libc::CLONE_NEWNS != 0 || join.iter().any(|j| j.kind == libc::CLONE_NEWNS);
    if !has_tree {
        refuse_without_tree(spec, linux, rootfs)?;
    }
    let whole = match propagation {
        None => libc::MS_SLAVE,
        // What cannot be bound cannot be put into the container either: that is for its root, in the end.
        Some(libc::MS_UNBINDABLE) => libc::MS_PRIVATE,
        Some(asked) => asked,
    };
    if has_tree {
        steps.push(Step::Propagation(whole | libc::MS_REC));
    }
    let readonly = spec.root().as_ref().is_some_and(|root| root.readonly() == Some(true));
    steps.push(Step::Root(match root(spec, rootfs, bundle) {
        // Only a mount can be made read-only.
        Root::Directory(path) if !has_tree && !readonly => Root::InPlace(path),
        other => other,
    }));
    let mounts = mounts::plan(spec, bundle)?;
    let own_dev = mounts::device_directory_is_ours(&mounts);
    steps.extend(mounts.into_iter().map(Step::Mount));
    if own_dev {
        steps.extend(devices::default_steps());
    }
    steps.extend(devices::plan(linux, users.as_ref())?.into_iter().map(Step::Device));
    if process.terminal.is_some() {
        steps.push(Step::Terminal);
    }
    steps.push(Step::MakeDirectory(process.cwd.clone()));
    steps.push(if has_tree { Step::Pivot } else { Step::ChangeRoot });
    steps.extend(propagation.map(Step::RootPropagation));
    let paths = |list: &Option<Vec<String>>| -> Vec<PathBuf> {
        list.iter().flatten().map(PathBuf::from).collect()
    };
    steps.extend(paths(linux.readonly_paths()).into_iter().map(Step::Readonly));
    steps.extend(paths(linux.masked_paths()).into_iter().map(Step::Mask));
    if readonly {
        steps.push(Step::ReadonlyRoot);
    }
    Ok(Plan { unshare, join, users, time, net_devices, steps, process })
}

/// Refuses what would change the mounts of whoever calls us: the container has no mount namespace.
fn refuse_without_tree(spec: &Spec, linux: &Linux, rootfs: &Rootfs) -> Result<(), ConfigError> {
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let propagation = linux.rootfs_propagation().as_ref();
    let refused = [
        (some(linux.masked_paths()), "linux.maskedPaths"),
        (some(linux.readonly_paths()), "linux.readonlyPaths"),
        (propagation.is_some_and(|text| !text.is_empty()), "linux.rootfsPropagation"),
        (*rootfs != Rootfs::Bundle, "root"),
        (spec.process().as_ref().is_some_and(|p| p.terminal() == Some(true)), "process.terminal"),
    ];
    match refused.into_iter().find(|(present, _)| *present) {
        Some((_, field)) => {
            Err(ConfigError::field(field, "needs a mount namespace in linux.namespaces"))
        }
        None => Ok(()),
    }
}

fn root(spec: &Spec, rootfs: &Rootfs, bundle: &Path) -> Root {
    match rootfs {
        Rootfs::Bundle => {
            let path = spec.root().as_ref().map(|root| root.path().as_path());
            Root::Directory(bundle.join(path.unwrap_or(Path::new("rootfs"))))
        }
        Rootfs::Overlay { lower, upper, work } => {
            Root::Overlay { lower: lower.clone(), upper: upper.clone(), work: work.clone() }
        }
    }
}

/// Flags to make, paths to join, and whether a cgroup namespace is to be made.
fn namespaces(linux: &Linux) -> (i32, Vec<Join>, bool) {
    let (mut unshare, mut join, mut cgroup) = (0, Vec::new(), false);
    for namespace in linux.namespaces().iter().flatten() {
        // The library gives each type its CLONE_NEW* flag as discriminant.
        let kind = namespace.typ() as i32;
        match namespace.path() {
            Some(path) => join.push(Join { kind, path: path.clone() }),
            None if namespace.typ() == LinuxNamespaceType::Cgroup => cgroup = true,
            None if namespace.typ() == LinuxNamespaceType::Time => {}
            None => unshare |= kind,
        }
    }
    // Another mount namespace may hide the paths of the others. In another user namespace we may not enter those that
    // belong to the host. The sort is stable.
    join.sort_by_key(|join| match join.kind {
        libc::CLONE_NEWUSER => 2,
        libc::CLONE_NEWNS => 1,
        _ => 0,
    });
    (unshare, join, cgroup)
}

fn root_propagation(linux: &Linux) -> Result<Option<u64>, ConfigError> {
    Ok(match linux.rootfs_propagation().as_deref() {
        None | Some("") => None,
        Some("private" | "rprivate") => Some(libc::MS_PRIVATE),
        Some("slave" | "rslave") => Some(libc::MS_SLAVE),
        Some("shared" | "rshared") => Some(libc::MS_SHARED),
        Some("unbindable" | "runbindable") => Some(libc::MS_UNBINDABLE),
        Some(_) => {
            return Err(ConfigError::field("linux.rootfsPropagation", "not a propagation mode"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn steps(extra: serde_json::Value) -> Vec<String> {
        let mut config = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs", "readonly": true},
            "hostname": "pod",
            "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/srv", "args": ["x"]},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {
                "namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "cgroup"}],
                "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"],
                "sysctl": {"net.ipv4.ip_forward": "1"},
            },
        });
        for (key, value) in extra.as_object().unwrap() {
            config["linux"][key] = value.clone();
        }
        let spec: Spec = serde_json::from_value(config).unwrap();
        let plan = plan(&spec, &Rootfs::Bundle, Path::new("/b")).unwrap();
        plan.steps.iter().map(ToString::to_string).collect()
    }

    fn position(steps: &[String], name: &str) -> usize {
        steps.iter().position(|step| step.contains(name)).unwrap_or_else(|| panic!("no {name}"))
    }

    #[test]
    fn the_order_holds() {
        let steps = steps(json!({}));
        let order = [
            "cgroup namespace",
            "hostname",
            "sysctl",
            "propagation",
            "bind the root",
            "\"/proc\"",
            "\"/dev/null\"",
            "directory \"/srv\"",
            "pivot",
            "\"/proc/sys\"",
            "\"/proc/kcore\"",
            "root read-only",
        ];
        let at: Vec<usize> = order.iter().map(|name| position(&steps, name)).collect();
        assert!(at.is_sorted(), "{at:?} in {steps:?}");
    }

    #[test]
    fn the_host_never_sees_mounts_unless_asked() {
        let spec: Spec = serde_json::from_value(json!({
            "root": {"path": "r"}, "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["x"]},
            "linux": {"namespaces": [{"type": "mount"}]},
        }))
        .unwrap();
        let plan = plan(&spec, &Rootfs::Bundle, Path::new("/b")).unwrap();
        assert!(plan.steps.contains(&Step::Propagation(libc::MS_SLAVE | libc::MS_REC)));
    }

    #[test]
    fn mount_and_user_namespaces_are_joined_last() {
        let linux: Linux = serde_json::from_value(json!({"namespaces": [
            {"type": "user", "path": "/u"}, {"type": "mount", "path": "/m"}, {"type": "network", "path": "/n"}, {"type": "pid"},
            {"type": "ipc", "path": "/i"},
        ]}))
        .unwrap();
        let (unshare, join, cgroup) = namespaces(&linux);
        assert_eq!((unshare, cgroup), (libc::CLONE_NEWPID, false));
        let paths: Vec<_> = join.iter().map(|join| join.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/n", "/i", "/m", "/u"]);
    }
}
