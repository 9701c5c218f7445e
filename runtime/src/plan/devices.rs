//! Device nodes and links that every container has, and those that config.json adds. Pure.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxDeviceType};

use super::{IdMaps, Step};
use crate::oci::ConfigError;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Device {
    /// Inside the container.
    pub(crate) path: PathBuf,
    pub(crate) kind: DeviceKind,
    pub(crate) major: u64,
    pub(crate) minor: u64,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Device {
    /// Whether every container has it, and so every host.
    fn is_default(&self) -> bool {
        let number = (self.major, self.minor);
        let known = DEFAULT_DEVICES
            .iter()
            .any(|(path, major, minor)| self.path == Path::new(path) && number == (*major, *minor));
        known && (self.mode, self.uid, self.gid) == (0o666, 0, 0)
    }

    /// Whether root of a user namespace, who may not make it, can be shown no node that is there already.
    pub(super) fn is_special(&self) -> bool {
        self.kind != DeviceKind::Fifo && !self.is_default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceKind {
    Block,
    Character,
    Fifo,
}

/// Supplied by the runtime (specification, "Default Devices").
pub(crate) const DEFAULT_DEVICES: [(&str, u64, u64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Supplied by the runtime (specification, "Dev symbolic links"), and the pty multiplexer.
const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

pub(super) fn default_steps() -> impl Iterator<Item = Step> {
    let devices = DEFAULT_DEVICES.map(|(path, major, minor)| {
        let kind = DeviceKind::Character;
        Step::Device(Device { path: path.into(), kind, major, minor, mode: 0o666, uid: 0, gid: 0 })
    });
    let links = LINKS.map(|(path, target)| Step::Symlink { path: path.into(), target });
    devices.into_iter().chain(links)
}

pub(super) fn plan(linux: &Linux, users: Option<&IdMaps>) -> Result<Vec<Device>, ConfigError> {
    let devices = linux.devices().iter().flatten().enumerate();
    devices
        .map(|(index, device)| {
            let kind = match device.typ() {
                LinuxDeviceType::B => DeviceKind::Block,
                LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Character,
                LinuxDeviceType::P => DeviceKind::Fifo,
                LinuxDeviceType::A => {
                    let field = format!("linux.devices[{index}].type");
                    return Err(ConfigError::field(field, "must be b, c, u or p"));
                }
            };
            let number = |value: i64, name: &str| {
                u64::try_from(value).map_err(|_| {
                    ConfigError::field(format!("linux.devices[{index}].{name}"), "negative")
                })
            };
            let made = Device {
                path: device.path().clone(),
                kind,
                major: number(device.major(), "major")?,
                minor: number(device.minor(), "minor")?,
                mode: device.file_mode().unwrap_or(0o666) & 0o7777,
                uid: device.uid().unwrap_or(0),
                gid: device.gid().unwrap_or(0),
            };
            if let Some(maps) = users {
                check_owner(maps, &made, index)?;
            }
            Ok(made)
        })
        .collect()
}

fn check_owner(maps: &IdMaps, device: &Device, index: usize) -> Result<(), ConfigError> {
    let mapped = |outside: Option<u32>, id, list| match outside {
        Some(_) => Ok(()),
        None => {
            let field = format!("linux.devices[{index}].{id}");
            Err(ConfigError::field(field, format!("not mapped by linux.{list}")))
        }
    };
    mapped(maps.outside_uid(device.uid), "uid", "uidMappings")?;
    mapped(maps.outside_gid(device.gid), "gid", "gidMappings")
}
