//! Device nodes and links that every container has, and those that config.json adds. Pure.

use std::path::PathBuf;

use oci_spec::runtime::{Linux, LinuxDeviceType};

use super::Step;
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

pub(super) fn plan(linux: &Linux) -> Result<Vec<Device>, ConfigError> {
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
            Ok(Device {
                path: device.path().clone(),
                kind,
                major: number(device.major(), "major")?,
                minor: number(device.minor(), "minor")?,
                mode: device.file_mode().unwrap_or(0o666) & 0o7777,
                uid: device.uid().unwrap_or(0),
                gid: device.gid().unwrap_or(0),
            })
        })
        .collect()
}
