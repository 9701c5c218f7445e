//! Network devices of the host that become the container's (`linux.netDevices`). Pure.

use std::collections::BTreeSet;

use oci_spec::runtime::{Linux, LinuxNamespaceType};

use crate::oci::ConfigError;

/// `IFNAMSIZ` without the final NUL.
const MAX_NAME: usize = 15;

/// A device to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetDevice {
    /// On the host.
    pub(crate) host: String,
    /// In the container; with `%d`, the kernel puts a number there.
    pub(crate) name: String,
}

/// In the order of their names on the host.
pub(super) fn plan(linux: &Linux) -> Result<Vec<NetDevice>, ConfigError> {
    let mut devices: Vec<_> = Vec::new();
    let mut names = BTreeSet::new();
    for (host, device) in linux.net_devices().iter().flatten() {
        let field = format!("linux.netDevices[{host:?}]");
        let name = device.name().clone().filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| host.clone());
        if !is_name(host) {
            return Err(ConfigError::field(field, "not a name of a network device"));
        }
        if !is_name(&name) {
            return Err(ConfigError::field(
                format!("{field}.name"),
                "not a name of a network device",
            ));
        }
        if !name.contains('%') && !names.insert(name.clone()) {
            return Err(ConfigError::field(format!("{field}.name"), "another device has it"));
        }
        devices.push(NetDevice { host: host.clone(), name });
    }
    devices.sort_by(|a, b| a.host.cmp(&b.host));
    let mut namespaces = linux.namespaces().iter().flatten();
    if !devices.is_empty() && !namespaces.any(|item| item.typ() == LinuxNamespaceType::Network) {
        let why = "needs a network namespace in linux.namespaces";
        return Err(ConfigError::field("linux.netDevices", why));
    }
    Ok(devices)
}

/// As the kernel has it (dev_valid_name).
fn is_name(name: &str) -> bool {
    let fine = |byte: u8| byte != b'/' && byte != b':' && !byte.is_ascii_whitespace() && byte != 0;
    (1..=MAX_NAME).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(fine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(devices: Value) -> Result<Vec<NetDevice>, ConfigError> {
        let linux = json!({"namespaces": [{"type": "network"}], "netDevices": devices});
        plan(&serde_json::from_value(linux).unwrap())
    }

    #[test]
    fn a_device_keeps_its_name_unless_it_gets_another() {
        let plan = of(json!({"eth1": {"name": "inner"}, "eth0": {}})).unwrap();
        let device = |host: &str, name: &str| NetDevice { host: host.into(), name: name.into() };
        assert_eq!(plan, [device("eth0", "eth0"), device("eth1", "inner")]);
    }

    #[test]
    fn each_mistake_names_its_field() {
        let cases = [
            (json!({"a/b": {}}), "linux.netDevices[\"a/b\"]: not a name"),
            (json!({"eth0": {"name": "0123456789abcdef"}}), "linux.netDevices[\"eth0\"].name: not"),
            (json!({"eth0": {"name": "x"}, "eth1": {"name": "x"}}), "linux.netDevices[\"eth"),
        ];
        for (value, expected) in cases {
            let error = of(value).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error:?} does not start with {expected:?}");
        }
        let linux = json!({"netDevices": {"eth0": {}}});
        let error = plan(&serde_json::from_value(linux).unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("linux.netDevices: needs a network"), "{error}");
    }
}
