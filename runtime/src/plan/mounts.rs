//! Mounts of config.json as data: options sorted into attributes, propagation and what the filesystem itself
//! understands. Pure.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespaceType, Mount, Spec};

use super::IdMaps;
use super::options::{Change, Meaning, meaning};
use crate::oci::ConfigError;
use crate::sys::mount as kernel;

/// One mount to make.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MountPlan {
    /// Its place in config.json, for errors.
    pub(crate) index: usize,
    /// Inside the container.
    pub(crate) destination: PathBuf,
    pub(crate) kind: MountKind,
    /// Attributes of the mount itself.
    pub(crate) change: Change,
    /// Attributes of the mount and all below it.
    pub(crate) recursive: Change,
    /// MS_* and whether it reaches the mounts below.
    pub(crate) propagation: Option<(u64, bool)>,
    pub(crate) idmap: Option<IdMapped>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instead {
    /// The host's mount is shown: the namespace is the host's.
    Host(&'static str),
    /// Made on the way, in the namespace that is joined, before the user namespace.
    Stage,
}

/// Other owners than the filesystem has.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct IdMapped {
    /// `None`: those of the container's user namespace.
    pub(crate) maps: Option<IdMaps>,
    /// Also for the mounts below.
    pub(crate) recursive: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum MountKind {
    Bind {
        source: PathBuf,
        recursive: bool,
    },
    /// The container's own cgroup.
    Cgroup,
    /// Other attributes for what is mounted there, and other options for its filesystem.
    Remount {
        options: Vec<(String, Option<String>)>,
    },
    Filesystem {
        kind: String,
        source: Option<String>,
        options: Vec<(String, Option<String>)>,
        /// Where it comes from if it is not ours to make: it shows a namespace that is not the container's own while
        /// we are root of a user namespace only.
        instead: Option<Instead>,
        /// Begins with what it covers.
        copy_up: bool,
    },
}

impl MountPlan {
    pub(crate) fn is_writable(&self) -> bool {
        (self.change.set | self.recursive.set) & kernel::ATTR_RDONLY == 0
    }
}

impl std::fmt::Display for MountPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let destination = &self.destination;
        match &self.kind {
            MountKind::Bind { source, .. } => write!(f, "mount {source:?} on {destination:?}"),
            MountKind::Remount { .. } => write!(f, "remount {destination:?}"),
            MountKind::Cgroup => write!(f, "mount cgroup2 on {destination:?}"),
            MountKind::Filesystem { kind, .. } => write!(f, "mount {kind} on {destination:?}"),
        }
    }
}

/// The SELinux label of the mounts.
pub(super) fn label(linux: &Linux) -> Option<&str> {
    linux.mount_label().as_deref().filter(|label| !label.is_empty())
}

/// Filesystems whose files SELinux labels by other rules.
const UNLABELED: [&str; 3] = ["proc", "sysfs", "mqueue"];

impl MountPlan {
    fn label(&mut self, label: &str) {
        let MountKind::Filesystem { kind, options, .. } = &mut self.kind else { return };
        let own = options.iter().any(|(key, _)| key == "context");
        if !own && !UNLABELED.contains(&kind.as_str()) {
            options.push(("context".into(), Some(label.into())));
        }
    }
}

/// Plans every mount, in the order of config.json.
pub(super) fn plan(spec: &Spec, bundle: &Path) -> Result<Vec<MountPlan>, ConfigError> {
    let mounts = spec.mounts().iter().flatten().enumerate();
    let plans = mounts.map(|(index, mount)| plan_one(index, mount, bundle));
    let mut plans = plans.collect::<Result<Vec<_>, _>>()?;
    let linux = spec.linux().iter().filter_map(|linux| linux.namespaces().as_ref());
    let namespaces: Vec<_> = linux.flatten().collect();
    let has_users = namespaces.iter().any(|item| item.typ() == LinuxNamespaceType::User);
    let instead_of = |kind, host| match namespaces.iter().find(|item| item.typ() == kind) {
        None => Some(Instead::Host(host)),
        Some(item) => item.path().as_ref().map(|_| Instead::Stage),
    };
    let label = spec.linux().as_ref().and_then(label);
    for mount in &mut plans {
        if let Some(label) = label {
            mount.label(label);
        }
        if mount.idmap.as_ref().is_some_and(|ids| ids.maps.is_none()) && !has_users {
            let field = format!("mounts[{}].uidMappings", mount.index);
            let why = "required: the container has no user namespace";
            return Err(ConfigError::field(field, why));
        }
        if let MountKind::Filesystem { kind, instead, .. } = &mut mount.kind
            && has_users
        {
            *instead = match kind.as_str() {
                "sysfs" => instead_of(LinuxNamespaceType::Network, "/sys"),
                "mqueue" => instead_of(LinuxNamespaceType::Ipc, "/dev/mqueue"),
                // Only a process of the pid namespace could make it on the way.
                "proc" => instead_of(LinuxNamespaceType::Pid, "/proc")
                    .filter(|instead| *instead != Instead::Stage),
                _ => None,
            };
        }
    }
    Ok(plans)
}

/// Whether the container's /dev is not a directory of the host, so that we may make devices in it.
pub(super) fn device_directory_is_ours(mounts: &[MountPlan]) -> bool {
    let is_dev = |mount: &&MountPlan| mount.destination == Path::new("/dev");
    !mounts
        .iter()
        .rev()
        .find(is_dev)
        .is_some_and(|mount| matches!(mount.kind, MountKind::Bind { .. }))
}

/// The options of one mount, sorted.
#[derive(Default)]
struct Sorted {
    change: Change,
    recursive: Change,
    propagation: Option<(u64, bool)>,
    /// Whether it is recursive.
    bind: Option<bool>,
    /// The same.
    idmap: Option<bool>,
    remount: bool,
    copy_up: bool,
    superblock: Vec<String>,
    data: Vec<(String, Option<String>)>,
}

impl Sorted {
    fn of(options: &[String]) -> Sorted {
        let mut sorted = Sorted::default();
        for option in options {
            match meaning(option) {
                Meaning::Bind { recursive } => sorted.bind = Some(recursive),
                Meaning::Nothing => {}
                Meaning::Set(attribute) => sorted.change.set(attribute),
                Meaning::Clear(kernel::ATTR_ATIME) => sorted.change.clear_atime(),
                Meaning::Clear(attribute) => sorted.change.clear(attribute),
                Meaning::SetAll(attribute) => sorted.recursive.set(attribute),
                Meaning::ClearAll(kernel::ATTR_ATIME) => sorted.recursive.clear_atime(),
                Meaning::ClearAll(attribute) => sorted.recursive.clear(attribute),
                Meaning::Propagation(flag, all) => sorted.propagation = Some((flag, all)),
                Meaning::IdMapped { recursive } => sorted.idmap = Some(recursive),
                Meaning::Remount => sorted.remount = true,
                Meaning::CopyUp => sorted.copy_up = true,
                Meaning::Superblock => sorted.superblock.push(option.clone()),
                Meaning::Data => sorted.data.push(match option.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (option.clone(), None),
                }),
            }
        }
        sorted
    }

    /// What the filesystem is told.
    fn filesystem_options(&mut self, kind: &str) -> Vec<(String, Option<String>)> {
        let mut options: Vec<_> = self.superblock.drain(..).map(|flag| (flag, None)).collect();
        if self.change.set & kernel::ATTR_RDONLY != 0 && !LIGHT.contains(&kind) {
            options.push(("ro".into(), None));
        }
        options.append(&mut self.data);
        options
    }
}

/// Filesystems without anything that a writable superblock would write to behind a read-only mount.
const LIGHT: [&str; 8] =
    ["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup2", "overlay", "ramfs"];

fn plan_one(index: usize, mount: &Mount, bundle: &Path) -> Result<MountPlan, ConfigError> {
    let mut sorted = Sorted::of(mount.options().as_deref().unwrap_or_default());
    let kind = kind(index, mount, bundle, &mut sorted)?;
    let change = match kind {
        MountKind::Remount { .. } => sorted.change.absolute(),
        _ => sorted.change,
    };
    // Relative destinations are taken as being below the root (deprecated, but users have them).
    let destination = Path::new("/").join(mount.destination());
    let idmap = idmap(index, mount, sorted.idmap, &kind)?;
    let (recursive, propagation) = (sorted.recursive, sorted.propagation);
    Ok(MountPlan { index, destination, kind, change, recursive, propagation, idmap })
}

fn idmap(
    index: usize,
    mount: &Mount,
    option: Option<bool>,
    kind: &MountKind,
) -> Result<Option<IdMapped>, ConfigError> {
    let at = format!("mounts[{index}]");
    let maps = IdMaps::of(mount.uid_mappings(), mount.gid_mappings(), &at)?;
    if option.is_none() && maps.is_none() {
        return Ok(None);
    }
    if !matches!(kind, MountKind::Bind { .. }) {
        let field = if maps.is_some() { "uidMappings" } else { "options" };
        return Err(ConfigError::field(
            format!("{at}.{field}"),
            "ids are mapped for bind mounts only",
        ));
    }
    Ok(Some(IdMapped { maps, recursive: option == Some(true) }))
}

fn kind(
    index: usize,
    mount: &Mount,
    bundle: &Path,
    sorted: &mut Sorted,
) -> Result<MountKind, ConfigError> {
    let name = mount.typ().as_deref().unwrap_or_default();
    let bind = sorted.bind.or((name == "bind").then_some(false));
    let field = |name: &str| format!("mounts[{index}].{name}");
    if sorted.copy_up && (name != "tmpfs" || bind.is_some() || sorted.remount) {
        return Err(ConfigError::field(field("options"), "tmpcopyup is for a tmpfs only"));
    }
    if let Some(recursive) = bind {
        // Options of a filesystem mean nothing here; the kernel ignores them, and so do all runtimes.
        if sorted.remount {
            return Ok(MountKind::Remount { options: Vec::new() });
        }
        let source = mount.source().as_ref().filter(|path| !path.as_os_str().is_empty());
        let why = "required for a bind mount";
        let source = source.ok_or_else(|| ConfigError::field(field("source"), why))?;
        return Ok(MountKind::Bind { source: bundle.join(source), recursive });
    }
    if sorted.remount {
        let mut options = sorted.filesystem_options(name);
        options.retain(|(key, _)| key != "ro");
        let read_only = sorted.change.set & kernel::ATTR_RDONLY != 0;
        options.push((if read_only { "ro" } else { "rw" }.into(), None));
        return Ok(MountKind::Remount { options });
    }
    match name {
        "" | "none" => Err(ConfigError::field(field("type"), "required")),
        "cgroup" | "cgroup2" => Ok(MountKind::Cgroup),
        _ => {
            let source = mount.source().as_ref().map(|path| path.to_string_lossy().into_owned());
            let (kind, copy_up) = (name.to_owned(), sorted.copy_up);
            let options = sorted.filesystem_options(name);
            Ok(MountKind::Filesystem { kind, source, options, instead: None, copy_up })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(value: Value) -> Result<MountPlan, ConfigError> {
        plan_one(3, &serde_json::from_value(value).unwrap(), Path::new("/bundle"))
    }

    #[test]
    fn options_are_sorted() {
        let plan = of(json!({
            "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k", "rprivate", "inode64"],
        }))
        .unwrap();
        let set = kernel::ATTR_NOSUID | kernel::ATTR_STRICTATIME;
        assert_eq!(plan.change, Change { set, clear: kernel::ATTR_ATIME });
        assert_eq!(plan.propagation, Some((libc::MS_PRIVATE, true)));
        let MountKind::Filesystem { options, .. } = plan.kind else { panic!("{plan:?}") };
        let text = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
        let expected = vec![text("mode", "755"), text("size", "65536k"), ("inode64".into(), None)];
        assert_eq!(options, expected);
    }

    #[test]
    fn the_last_of_two_opposites_wins() {
        let plan = of(json!({
            "destination": "data", "type": "bind", "source": "vol",
            "options": ["rbind", "ro", "rw", "suid", "nosuid"],
        }))
        .unwrap();
        let (set, clear) = (kernel::ATTR_NOSUID, kernel::ATTR_RDONLY);
        assert_eq!(plan.change, Change { set, clear });
        assert_eq!(plan.destination, Path::new("/data"));
        let source = PathBuf::from("/bundle/vol");
        assert_eq!(plan.kind, MountKind::Bind { source, recursive: true });
    }

    #[test]
    fn a_remount_says_everything_anew() {
        let plan =
            of(json!({"destination": "/x", "options": ["bind", "remount", "nosuid"]})).unwrap();
        assert_eq!(plan.kind, MountKind::Remount { options: Vec::new() });
        assert_eq!(plan.change.set, kernel::ATTR_NOSUID);
        assert_ne!(plan.change.clear & kernel::ATTR_RDONLY, 0);
        let plan =
            of(json!({"destination": "/x", "options": ["remount", "ro", "size=1k"]})).unwrap();
        let options = vec![("size".into(), Some("1k".into())), ("ro".into(), None)];
        assert_eq!(plan.kind, MountKind::Remount { options });
    }

    #[test]
    fn a_disk_that_is_mounted_read_only_is_not_written_to() {
        let options = |kind: &str| {
            let mount = json!({"destination": "/x", "type": kind, "options": ["ro", "sync"]});
            let MountKind::Filesystem { options, .. } = of(mount).unwrap().kind else { panic!() };
            options.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(options("ext4"), ["sync", "ro"]);
        assert_eq!(options("tmpfs"), ["sync"]);
    }

    #[test]
    fn what_we_cannot_do_is_named() {
        let error = of(json!({
            "destination": "/tmp", "type": "sysfs", "options": ["ro", "tmpcopyup"],
        }));
        assert!(error.unwrap_err().to_string().starts_with("mounts[3].options: tmpcopyup"));
        let error = of(json!({"destination": "/x", "options": ["bind"]}));
        assert!(error.unwrap_err().to_string().starts_with("mounts[3].source: "));
    }
}
