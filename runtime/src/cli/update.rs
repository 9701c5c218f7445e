//! `update`: limits of a container that is there.

use std::io::Read;
use std::path::Path;

use oci_spec::runtime::LinuxResources;
use serde_json::json;

use super::flags::{Command, Flag, Given, ID};
use super::state::Status;
use super::{CliError, Context, cgroups, message};
use crate::{bounded, cgroup};

/// The largest file of resources in bytes.
const MAX_RESOURCES: u64 = 1 << 20;

pub(super) static COMMAND: Command = Command {
    name: "update",
    about: "change the limits of a container",
    operands: ID,
    count: (1, 1),
    verbatim: false,
    flags: &[
        Flag::value(
            "resources",
            "FILE",
            "resources as JSON (- is stdin), instead of the flags below",
        )
        .or('r'),
        Flag::value("blkio-weight", "NUMBER", "weight for block devices, 10 to 1000"),
        Flag::value("cpu-period", "NUMBER", "microseconds"),
        Flag::value("cpu-quota", "NUMBER", "microseconds of each period; -1 lifts the limit"),
        Flag::value("cpu-burst", "NUMBER", "microseconds that may be saved up"),
        Flag::value("cpu-share", "NUMBER", "relative to other containers; 1024 is normal"),
        Flag::value("cpu-rt-period", "NUMBER", "of version 1; ignored"),
        Flag::value("cpu-rt-runtime", "NUMBER", "of version 1; ignored"),
        Flag::value("cpu-idle", "NUMBER", "1: run only when nobody else wants to"),
        Flag::value("cpuset-cpus", "LIST", "CPUs to use, such as 0-2,7"),
        Flag::value("cpuset-mems", "LIST", "memory nodes to use"),
        Flag::value("memory", "BYTES", "such as 64M; -1 lifts the limit"),
        Flag::value("memory-reservation", "BYTES", "kept for it when memory is short"),
        Flag::value("memory-swap", "BYTES", "memory and swap together; -1 lifts the limit of swap"),
        Flag::value("kernel-memory", "BYTES", "of version 1; ignored"),
        Flag::value("kernel-memory-tcp", "BYTES", "of version 1; ignored"),
        Flag::value("pids-limit", "NUMBER", "most processes; -1 lifts the limit"),
        Flag::value("l3-cache-schema", "TEXT", "not supported"),
        Flag::value("mem-bw-schema", "TEXT", "not supported"),
    ],
    run: |context, given| update(context, given).map(|()| 0),
    failure: 1,
};

fn update(context: &Context, mut given: Given) -> Result<(), CliError> {
    let id = given.operand()?;
    let saved = context.store.load(&id)?;
    if context.store.status(&saved) == Status::Stopped {
        return message(format!("update container {id:?}: container not running"));
    }
    for name in ["l3-cache-schema", "mem-bw-schema"] {
        if given.text(name)?.is_some_and(|schema| !schema.is_empty()) {
            return message(format!("--{name}: Intel RDT is not supported"));
        }
    }
    let resources = match given.path("resources") {
        Some(path) => read(&path)?,
        None => from_flags(&mut given)?,
    };
    let resources = cgroup::completed(&saved.cgroup, &resources);
    let mut outcome = cgroup::update(&saved.cgroup, &resources)?;
    if let Some(unit) = context.store.unit(&id) {
        cgroups::tell_systemd(&unit, &saved.cgroup, &resources)?;
    }
    if resources.devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
        outcome.ignored.push("devices");
    }
    cgroups::tell_ignored(&context.log, &outcome);
    Ok(())
}

fn read(path: &Path) -> Result<LinuxResources, CliError> {
    let verb = || CliError::io(format!("read {path:?}"));
    let text = if path == Path::new("-") {
        let mut text = Vec::new();
        std::io::stdin().take(MAX_RESOURCES).read_to_end(&mut text).map_err(verb())?;
        text
    } else {
        bounded::read(path, MAX_RESOURCES).map_err(verb())?
    };
    let mut reader = serde_json::Deserializer::from_slice(&text);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        CliError::Message(format!("parse {path:?}: {}: {}", error.path(), error.inner()))
    })
}

/// The same data that a file has.
fn from_flags(given: &mut Given) -> Result<LinuxResources, CliError> {
    let mut value = json!({
        "cpu": {
            "shares": given.number::<u64>("cpu-share")?,
            "quota": given.number::<i64>("cpu-quota")?,
            "period": given.number::<u64>("cpu-period")?,
            "burst": given.number::<u64>("cpu-burst")?,
            "idle": given.number::<i64>("cpu-idle")?,
            "cpus": given.text("cpuset-cpus")?,
            "mems": given.text("cpuset-mems")?,
            "realtimePeriod": given.number::<u64>("cpu-rt-period")?,
            "realtimeRuntime": given.number::<i64>("cpu-rt-runtime")?,
        },
        "memory": {
            "limit": given_bytes(given, "memory")?,
            "reservation": given_bytes(given, "memory-reservation")?,
            "swap": given_bytes(given, "memory-swap")?,
            "kernel": given_bytes(given, "kernel-memory")?,
            "kernelTCP": given_bytes(given, "kernel-memory-tcp")?,
        },
        "blockIO": {"weight": given.number::<u16>("blkio-weight")?},
    });
    if let Some(limit) = given.number::<i64>("pids-limit")? {
        value["pids"] = json!({"limit": limit});
    }
    serde_json::from_value(value).map_err(|error| CliError::Message(error.to_string()))
}

fn given_bytes(given: &mut Given, name: &str) -> Result<Option<i64>, CliError> {
    let Some(text) = given.text(name)? else { return Ok(None) };
    match bytes(&text) {
        Ok(number) => Ok(Some(number)),
        Err(why) => message(format!("--{name} {text:?}: {why}")),
    }
}

/// A number with a binary unit, as Docker has them: `64M`, `1.5g`, `512 KiB`. -1 is no limit.
fn bytes(text: &str) -> Result<i64, String> {
    let text = text.trim();
    if text == "-1" {
        return Ok(-1);
    }
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let unit = unit.trim().to_ascii_lowercase();
    let letter = unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit);
    let power = ["", "k", "m", "g", "t", "p"].iter().position(|name| *name == letter);
    let power = power.ok_or_else(|| format!("{unit:?} is no unit"))? as u32;
    let number: f64 = number.parse().map_err(|_| "not a number of bytes".to_owned())?;
    let bytes = number * 1024f64.powi(power as i32);
    // Below 2^63 the conversion is exact enough.
    if bytes < 9.2e18 { Ok(bytes as i64) } else { Err("too large".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_have_binary_units() {
        for (text, number) in [
            ("32", 32),
            ("32b", 32),
            ("32k", 32 << 10),
            ("32K", 32 << 10),
            ("32kb", 32 << 10),
            ("32 KiB", 32 << 10),
            ("64M", 64 << 20),
            ("1.5g", 3 << 29),
            ("-1", -1),
            ("0", 0),
        ] {
            assert_eq!(bytes(text), Ok(number), "{text}");
        }
        for bad in ["", "x", "-2", "5x", "5kk", "1e3", "99999999p", "k"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
