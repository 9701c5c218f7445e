//! What the words in `mounts[].options` mean. Pure.

use crate::sys::mount as kernel;

/// Mount attributes to set and to clear (MOUNT_ATTR_*).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) set: u64,
    pub(crate) clear: u64,
}

impl Change {
    pub(super) fn set(&mut self, attribute: u64) {
        // Access-time modes are values of one field: setting one clears the others.
        if attribute & kernel::ATTR_ATIME != 0 {
            self.clear_atime();
        }
        self.set |= attribute;
        if attribute & kernel::ATTR_ATIME == 0 {
            self.clear &= !attribute;
        }
    }

    pub(super) fn clear(&mut self, attribute: u64) {
        self.clear |= attribute;
        self.set &= !attribute;
    }

    pub(super) fn clear_atime(&mut self) {
        self.clear |= kernel::ATTR_ATIME;
        self.set &= !kernel::ATTR_ATIME;
    }

    /// What a remount means: flags that are not named are cleared.
    pub(super) fn absolute(self) -> Change {
        let flags = kernel::ATTR_RDONLY
            | kernel::ATTR_NOSUID
            | kernel::ATTR_NODEV
            | kernel::ATTR_NOEXEC
            | kernel::ATTR_NODIRATIME
            | kernel::ATTR_NOSYMFOLLOW;
        Change { set: self.set, clear: self.clear | (flags & !self.set) }
    }

    pub(crate) fn is_empty(self) -> bool {
        self == Change::default()
    }
}

/// Every option that is not handed to the filesystem, for `features`.
#[rustfmt::skip]
pub(crate) const MOUNT_OPTIONS: &[&str] = &[
    "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "idmap", "lazytime",
    "loud", "mand", "noatime", "nodev", "nodiratime", "noexec", "nolazytime", "nomand", "norelatime",
    "nostrictatime", "nosuid", "nosymfollow", "private", "ratime", "rbind", "rdev", "rdiratime",
    "relatime", "remount", "rexec", "ridmap", "rnoatime", "rnodev", "rnodiratime", "rnoexec",
    "rnorelatime", "rnostrictatime", "rnosuid", "rnosymfollow", "ro", "rprivate", "rrelatime", "rro",
    "rrw", "rshared", "rslave", "rstrictatime", "rsuid", "rsymfollow", "runbindable", "rw", "shared",
    "silent", "slave", "strictatime", "suid", "symfollow", "sync", "tmpcopyup", "unbindable",
];

/// An option as we sort it.
pub(super) enum Meaning {
    Bind {
        recursive: bool,
    },
    Set(u64),
    Clear(u64),
    SetAll(u64),
    ClearAll(u64),
    Propagation(u64, bool),
    IdMapped {
        recursive: bool,
    },
    /// Of the filesystem, whatever its kind; a bind mount shares it and cannot change it.
    Superblock,
    Remount,
    CopyUp,
    Nothing,
    Data,
}

#[rustfmt::skip]
pub(super) fn meaning(option: &str) -> Meaning {
    use Meaning::{
        Bind, Clear, ClearAll, CopyUp, Data, IdMapped, Nothing, Propagation, Remount, Set, SetAll,
        Superblock,
    };
    match option {
        "bind" => Bind { recursive: false },
        "rbind" => Bind { recursive: true },
        "defaults" | "" | "loud" | "silent" => Nothing,
        "sync" | "async" | "dirsync" | "lazytime" | "nolazytime" | "mand" | "nomand" => Superblock,
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
        "remount" => Remount,
        "tmpcopyup" => CopyUp,
        _ => Data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listed_options_are_those_that_are_sorted() {
        for option in MOUNT_OPTIONS {
            let known = !matches!(meaning(option), Meaning::Data);
            assert!(known, "{option}");
        }
        assert!(MOUNT_OPTIONS.is_sorted());
    }
}
