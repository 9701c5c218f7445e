//! Mounts of config.json as data: options sorted into attributes, propagation and what the filesystem itself
//! understands. Pure.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};

use super::IdMaps;
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
    Filesystem {
        kind: String,
        source: Option<String>,
        options: Vec<(String, Option<String>)>,
        /// The host's mount, shown where this one is not ours to make: it would belong to a namespace of the host
        /// while we are root of a user namespace only.
        instead: Option<&'static str>,
    },
}

/// Mount attributes to set and to clear (MOUNT_ATTR_*).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) set: u64,
    pub(crate) clear: u64,
}

impl Change {
    fn set(&mut self, attribute: u64) {
        // Access-time modes are values of one field: setting one clears the others.
        if attribute & kernel::ATTR_ATIME != 0 {
            self.clear_atime();
        }
        self.set |= attribute;
        if attribute & kernel::ATTR_ATIME == 0 {
            self.clear &= !attribute;
        }
    }

    fn clear(&mut self, attribute: u64) {
        self.clear |= attribute;
        self.set &= !attribute;
    }

    fn clear_atime(&mut self) {
        self.clear |= kernel::ATTR_ATIME;
        self.set &= !kernel::ATTR_ATIME;
    }

    pub(crate) fn is_empty(self) -> bool {
        self == Change::default()
    }
}

impl std::fmt::Display for MountPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let destination = &self.destination;
        match &self.kind {
            MountKind::Bind { source, .. } => write!(f, "mount {source:?} on {destination:?}"),
            MountKind::Cgroup => write!(f, "mount cgroup2 on {destination:?}"),
            MountKind::Filesystem { kind, .. } => write!(f, "mount {kind} on {destination:?}"),
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
    let is_new = |kind| namespaces.iter().any(|item| item.typ() == kind && item.path().is_none());
    for mount in &mut plans {
        if mount.idmap.as_ref().is_some_and(|ids| ids.maps.is_none()) && !has_users {
            let field = format!("mounts[{}].uidMappings", mount.index);
            let why = "required: the container has no user namespace";
            return Err(ConfigError::field(field, why));
        }
        if let MountKind::Filesystem { kind, instead, .. } = &mut mount.kind
            && has_users
        {
            *instead = match kind.as_str() {
                "sysfs" if !is_new(LinuxNamespaceType::Network) => Some("/sys"),
                "proc" if !is_new(LinuxNamespaceType::Pid) => Some("/proc"),
                "mqueue" if !is_new(LinuxNamespaceType::Ipc) => Some("/dev/mqueue"),
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

/// Every option that is not handed to the filesystem, for `features`.
#[rustfmt::skip]
pub(crate) const MOUNT_OPTIONS: &[&str] = &[
    "async", "atime", "bind", "defaults", "dev", "diratime", "exec", "idmap", "loud", "noatime", "nodev",
    "nodiratime", "noexec", "nomand", "norelatime", "nostrictatime", "nosuid", "nosymfollow",
    "private", "ratime", "rbind", "rdev", "rdiratime", "relatime", "rexec", "ridmap", "rnoatime",
    "rnodev", "rnodiratime", "rnoexec", "rnorelatime", "rnostrictatime", "rnosuid",
    "rnosymfollow", "ro", "rprivate", "rrelatime", "rro", "rrw", "rshared", "rslave",
    "rstrictatime", "rsuid", "rsymfollow", "runbindable", "rw", "shared", "slave",
    "strictatime", "suid", "symfollow", "unbindable",
];

/// An option as we sort it.
enum Meaning {
    Bind { recursive: bool },
    Set(u64),
    Clear(u64),
    SetAll(u64),
    ClearAll(u64),
    Propagation(u64, bool),
    IdMapped { recursive: bool },
    Nothing,
    Refused,
    Data,
}

#[rustfmt::skip]
fn meaning(option: &str) -> Meaning {
    use Meaning::{Bind, Clear, ClearAll, Data, IdMapped, Nothing, Propagation, Refused, Set, SetAll};
    match option {
        "bind" => Bind { recursive: false },
        "rbind" => Bind { recursive: true },
        "defaults" | "" | "async" | "nomand" | "loud" => Nothing,
        "ro" => Set(kernel::ATTR_RDONLY), "rw" => Clear(kernel::ATTR_RDONLY),
        "nosuid" => Set(kernel::ATTR_NOSUID), "suid" => Clear(kernel::ATTR_NOSUID),
        "nodev" => Set(kernel::ATTR_NODEV), "dev" => Clear(kernel::ATTR_NODEV),
        "noexec" => Set(kernel::ATTR_NOEXEC), "exec" => Clear(kernel::ATTR_NOEXEC),
        "nosymfollow" => Set(kernel::ATTR_NOSYMFOLLOW), "symfollow" => Clear(kernel::ATTR_NOSYMFOLLOW),
        "noatime" => Set(kernel::ATTR_NOATIME), "strictatime" => Set(kernel::ATTR_STRICTATIME),
        "atime" | "norelatime" | "nostrictatime" | "relatime" => Clear(kernel::ATTR_ATIME),
        "nodiratime" => Set(kernel::ATTR_NODIRATIME), "diratime" => Clear(kernel::ATTR_NODIRATIME),
        "rro" => SetAll(kernel::ATTR_RDONLY), "rrw" => ClearAll(kernel::ATTR_RDONLY),
        "rnosuid" => SetAll(kernel::ATTR_NOSUID), "rsuid" => ClearAll(kernel::ATTR_NOSUID),
        "rnodev" => SetAll(kernel::ATTR_NODEV), "rdev" => ClearAll(kernel::ATTR_NODEV),
        "rnoexec" => SetAll(kernel::ATTR_NOEXEC), "rexec" => ClearAll(kernel::ATTR_NOEXEC),
        "rnosymfollow" => SetAll(kernel::ATTR_NOSYMFOLLOW),
        "rsymfollow" => ClearAll(kernel::ATTR_NOSYMFOLLOW),
        "rnoatime" => SetAll(kernel::ATTR_NOATIME), "rstrictatime" => SetAll(kernel::ATTR_STRICTATIME),
        "ratime" | "rrelatime" | "rnorelatime" | "rnostrictatime" => ClearAll(kernel::ATTR_ATIME),
        "rnodiratime" => SetAll(kernel::ATTR_NODIRATIME), "rdiratime" => ClearAll(kernel::ATTR_NODIRATIME),
        "private" => Propagation(libc::MS_PRIVATE, false),
        "rprivate" => Propagation(libc::MS_PRIVATE, true),
        "slave" => Propagation(libc::MS_SLAVE, false),
        "rslave" => Propagation(libc::MS_SLAVE, true),
        "shared" => Propagation(libc::MS_SHARED, false),
        "rshared" => Propagation(libc::MS_SHARED, true),
        "unbindable" => Propagation(libc::MS_UNBINDABLE, false),
        "runbindable" => Propagation(libc::MS_UNBINDABLE, true),
        "idmap" => IdMapped { recursive: false },
        "ridmap" => IdMapped { recursive: true },
        "tmpcopyup" | "remount" | "mand" => Refused,
        _ => Data,
    }
}

fn plan_one(index: usize, mount: &Mount, bundle: &Path) -> Result<MountPlan, ConfigError> {
    let (mut change, mut recursive) = (Change::default(), Change::default());
    let (mut bind, mut propagation, mut data) = (None, None, Vec::new());
    let mut mapped = None;
    for (nth, option) in mount.options().iter().flatten().enumerate() {
        match meaning(option) {
            Meaning::Bind { recursive } => bind = Some(recursive),
            Meaning::Nothing => {}
            Meaning::Set(attribute) => change.set(attribute),
            Meaning::Clear(kernel::ATTR_ATIME) => change.clear_atime(),
            Meaning::Clear(attribute) => change.clear(attribute),
            Meaning::SetAll(attribute) => recursive.set(attribute),
            Meaning::ClearAll(kernel::ATTR_ATIME) => recursive.clear_atime(),
            Meaning::ClearAll(attribute) => recursive.clear(attribute),
            Meaning::Propagation(flag, all) => propagation = Some((flag, all)),
            Meaning::IdMapped { recursive } => mapped = Some(recursive),
            Meaning::Refused => {
                return Err(ConfigError::unsupported(format!("mounts[{index}].options[{nth}]")));
            }
            Meaning::Data => data.push(match option.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (option.clone(), None),
            }),
        }
    }
    let kind = kind(index, mount, bundle, bind, data)?;
    // Relative destinations are taken as being below the root (deprecated, but users have them).
    let destination = Path::new("/").join(mount.destination());
    let idmap = idmap(index, mount, mapped, &kind)?;
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
    bind: Option<bool>,
    options: Vec<(String, Option<String>)>,
) -> Result<MountKind, ConfigError> {
    let name = mount.typ().as_deref().unwrap_or_default();
    let bind = bind.or((name == "bind").then_some(false));
    if let Some(recursive) = bind {
        if let Some((key, _)) = options.first() {
            let field = format!("mounts[{index}].options");
            return Err(ConfigError::field(
                field,
                format!("{key:?} means nothing to a bind mount"),
            ));
        }
        let field = format!("mounts[{index}].source");
        let source = mount.source().as_ref().filter(|path| !path.as_os_str().is_empty());
        let source =
            source.ok_or_else(|| ConfigError::field(field, "required for a bind mount"))?;
        return Ok(MountKind::Bind { source: bundle.join(source), recursive });
    }
    match name {
        "" | "none" => Err(ConfigError::field(format!("mounts[{index}].type"), "required")),
        "cgroup" | "cgroup2" => Ok(MountKind::Cgroup),
        _ => {
            let source = mount.source().as_ref().map(|path| path.to_string_lossy().into_owned());
            let kind = name.to_owned();
            Ok(MountKind::Filesystem { kind, source, options, instead: None })
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
    fn the_listed_options_are_those_that_are_sorted() {
        for option in MOUNT_OPTIONS {
            let known = !matches!(meaning(option), Meaning::Data | Meaning::Refused);
            assert!(known, "{option}");
        }
        assert!(MOUNT_OPTIONS.is_sorted());
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
    fn what_we_cannot_do_is_named() {
        let error = of(json!({
            "destination": "/tmp", "type": "tmpfs", "options": ["ro", "tmpcopyup"],
        }));
        assert!(error.unwrap_err().to_string().starts_with("mounts[3].options[1]: "));
        let error = of(json!({"destination": "/x", "source": "/y", "options": ["bind", "Z"]}));
        assert!(error.unwrap_err().to_string().starts_with("mounts[3].options: \"Z\" means"));
        let error = of(json!({"destination": "/x", "options": ["bind"]}));
        assert!(error.unwrap_err().to_string().starts_with("mounts[3].source: "));
    }
}
