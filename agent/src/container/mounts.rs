//! What is mounted into a container, in order. Pure.
//!
//! First the kernel's file systems, then the Pod's own files (/etc/hosts …), then the volumes, outer
//! directories before inner ones.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Container;
use oci_spec::runtime::{Mount, MountBuilder};

use super::security;

/// Files and directories of the Pod on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFiles {
    pub hosts: PathBuf,
    pub hostname: PathBuf,
    pub resolv_conf: PathBuf,
    /// The Pod's shared /dev/shm.
    pub shm: PathBuf,
    /// This run's termination message.
    pub termination_log: PathBuf,
}

/// A volume ready for this container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeBind {
    pub source: PathBuf,
    pub destination: PathBuf,
    pub read_only: bool,
}

pub const DEFAULT_TERMINATION_LOG: &str = "/dev/termination-log";

pub fn all(container: &Container, files: &PodFiles, mut volumes: Vec<VolumeBind>) -> Vec<Mount> {
    let context = container.security_context.as_ref();
    let read_only_root =
        context.and_then(|context| context.read_only_root_filesystem).unwrap_or(false);
    let mut mounts = system(security::is_privileged(container));
    let taken = |path: &Path| volumes.iter().any(|volume| volume.destination == path);
    let own = [
        ("/etc/hosts", &files.hosts),
        ("/etc/hostname", &files.hostname),
        ("/etc/resolv.conf", &files.resolv_conf),
    ];
    for (destination, source) in own {
        // A volume mounted exactly there wins.
        if !taken(Path::new(destination)) {
            mounts.push(bind(source, Path::new(destination), read_only_root));
        }
    }
    if !taken(Path::new("/dev/shm")) {
        mounts.push(bind(&files.shm, Path::new("/dev/shm"), false));
    }
    let message_path =
        container.termination_message_path.as_deref().unwrap_or(DEFAULT_TERMINATION_LOG);
    if !message_path.is_empty() {
        let source = files.termination_log.clone();
        volumes.push(VolumeBind { source, destination: message_path.into(), read_only: false });
    }
    volumes.sort_by_key(|volume| volume.destination.components().count());
    mounts.extend(
        volumes.iter().map(|volume| bind(&volume.source, &volume.destination, volume.read_only)),
    );
    mounts
}

fn system(privileged: bool) -> Vec<Mount> {
    let access = if privileged { "rw" } else { "ro" };
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", access],
        ),
    ]
}

fn bind(source: &Path, destination: &Path, read_only: bool) -> Mount {
    let access = if read_only { "ro" } else { "rw" };
    let options = ["rbind", "rprivate", access].map(Into::into).to_vec();
    fill(
        MountBuilder::default()
            .destination(destination)
            .source(source)
            .typ("bind")
            .options(options),
    )
}

fn mount(destination: &str, typ: &str, source: &str, options: &[&str]) -> Mount {
    let options: Vec<String> = options.iter().map(ToString::to_string).collect();
    fill(MountBuilder::default().destination(destination).source(source).typ(typ).options(options))
}

fn fill(builder: MountBuilder) -> Mount {
    // Every field of a mount has a default: building cannot fail.
    builder.build().unwrap_or_default()
}
