//! Linux security modules: which ones this host has, and the label that a program gets at its execution.
//!
//! The label is written to a file of /proc. A /proc that somebody else has furnished could lead it elsewhere and the
//! program would run without (CVE-2025-52881). So the file is opened while /proc is still the host's, and only
//! through a directory that is the top of a procfs, without leaving that filesystem.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, fstatfs, statfs};
use oci_spec::runtime::Process;

use crate::oci::ConfigError;

/// The number of the directory at the top of any procfs (PROC_ROOT_INO).
const PROC_TOP: u64 = 1;

/// SELINUX_MAGIC (linux/magic.h).
const SELINUX: FsType = FsType(0xf97c_ff8c);

/// Whether programs can be given an AppArmor profile.
pub(crate) fn has_apparmor() -> bool {
    fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

/// Whether programs can be given an SELinux label: it is there, and has a policy.
pub(crate) fn has_selinux() -> bool {
    statfs("/sys/fs/selinux").is_ok_and(|found| found.filesystem_type() == SELINUX)
        && fs::read("/proc/self/attr/current").is_ok_and(|label| !label.starts_with(b"kernel"))
}

/// What a process, and with its first process a container, asks of the security modules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    pub(crate) apparmor: Option<String>,
    pub(crate) selinux: Option<String>,
    /// Whether the container's mounts have a label.
    pub(crate) mounts: bool,
}

impl Labels {
    pub(crate) fn of(process: &Process) -> Labels {
        let named = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
        let (apparmor, selinux) = (process.apparmor_profile(), process.selinux_label());
        Labels { apparmor: named(apparmor), selinux: named(selinux), mounts: false }
    }

    /// For one more process: where it does not say, it is confined as the container's first one.
    pub(crate) fn or(self, first: &Labels) -> Labels {
        Labels {
            apparmor: self.apparmor.or_else(|| first.apparmor.clone()),
            selinux: self.selinux.or_else(|| first.selinux.clone()),
            mounts: self.mounts,
        }
    }

    /// Refuses what this host cannot give.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.apparmor.is_some() && !has_apparmor() {
            let why = "apparmor is disabled or not supported on this host";
            return Err(ConfigError::field("process.apparmorProfile", why));
        }
        let labels =
            [(self.selinux.is_some(), "process.selinuxLabel"), (self.mounts, "linux.mountLabel")];
        match labels.into_iter().find(|(wanted, _)| *wanted) {
            Some((_, field)) if !has_selinux() => {
                let why = "selinux is disabled or not supported on this host";
                Err(ConfigError::field(field, why))
            }
            _ => Ok(()),
        }
    }

    /// Opens what [`Opened::write`] needs. Called by the process that will execute the program, while it sees the
    /// host's /proc.
    pub(crate) fn open(&self) -> io::Result<Opened> {
        let mut files = Vec::new();
        if let Some(profile) = &self.apparmor {
            let file = match open_attribute("thread-self/attr/apparmor/exec") {
                // Before Linux 5.8 there is one file for all modules.
                Err(Errno::ENOENT) => open_attribute("thread-self/attr/exec")?,
                other => other?,
            };
            files.push((file, Label::Apparmor(profile.clone())));
        }
        if let Some(label) = &self.selinux {
            files.push((open_attribute("thread-self/attr/exec")?, Label::Selinux(label.clone())));
        }
        Ok(Opened { files })
    }
}

/// Files that take the labels of the next program.
#[derive(Debug)]
pub(crate) struct Opened {
    files: Vec<(OwnedFd, Label)>,
}

#[derive(Debug)]
enum Label {
    Apparmor(String),
    Selinux(String),
}

impl Opened {
    pub(crate) fn write(self) -> io::Result<()> {
        self.files.into_iter().try_for_each(|(file, label)| {
            label.write(file.into()).map_err(|error| io::Error::other(label.refused(&error)))
        })
    }
}

impl Label {
    /// In one write: the kernel takes each as a whole label.
    fn write(&self, mut file: fs::File) -> io::Result<()> {
        let text = match self {
            Label::Apparmor(profile) => format!("exec {profile}"),
            Label::Selinux(label) => label.clone(),
        };
        match file.write(text.as_bytes())? {
            length if length == text.len() => Ok(()),
            _ => Err(io::Error::other("the kernel took a part of it only")),
        }
    }

    /// What the kernel's error numbers mean here.
    fn refused(&self, error: &io::Error) -> String {
        let reason = crate::sys::process::reason(error);
        match (self, error.raw_os_error()) {
            (Label::Apparmor(profile), Some(libc::ENOENT)) => {
                format!("process.apparmorProfile: {profile:?} is not loaded on this host")
            }
            (Label::Apparmor(profile), _) => {
                format!("process.apparmorProfile: {profile:?}: {reason}")
            }
            (Label::Selinux(label), Some(libc::EINVAL)) => {
                format!("process.selinuxLabel: {label:?} is none of this host's policy")
            }
            (Label::Selinux(label), _) => format!("process.selinuxLabel: {label:?}: {reason}"),
        }
    }
}

fn open_attribute(path: &str) -> nix::Result<OwnedFd> {
    open_in_proc(Path::new("/proc"), path)
}

fn open_in_proc(proc: &Path, path: &str) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let top = open(proc, flags, Mode::empty())?;
    if fstatfs(&top)?.filesystem_type() != PROC_SUPER_MAGIC || fstat(&top)?.st_ino != PROC_TOP {
        return Err(Errno::EXDEV);
    }
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_XDEV
        | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC).resolve(resolve);
    openat2(top.as_fd(), path, how)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_opened_in_a_procfs_only() {
        // A file of /proc/thread-self that every kernel has and every process may write.
        open_in_proc(Path::new("/proc"), "thread-self/comm").unwrap();
        let fake = tempfile::tempdir().unwrap();
        fs::create_dir(fake.path().join("thread-self")).unwrap();
        fs::write(fake.path().join("thread-self/comm"), "").unwrap();
        assert_eq!(open_in_proc(fake.path(), "thread-self/comm").unwrap_err(), Errno::EXDEV);
        // Another directory of the real one.
        let inner = open_in_proc(Path::new("/proc/self"), "comm");
        assert_eq!(inner.unwrap_err(), Errno::EXDEV);
        let magic = open_in_proc(Path::new("/proc"), "thread-self/root/tmp");
        assert_eq!(magic.unwrap_err(), Errno::ELOOP);
    }

    #[test]
    fn who_asks_for_nothing_lacks_nothing() {
        Labels::default().check().unwrap();
        Labels::default().open().unwrap().write().unwrap();
    }
}
