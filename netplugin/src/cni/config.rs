//! A network's configuration: the keys of the reference bridge plugin and of its host-local addresses. Pure.
//!
//! What we do not do is refused by name; keys that we do not know are ignored, as the specification wants.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::Value;

use super::Failure;

const LEASES: &str = "/var/lib/cni/networks";

/// As it is read.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Raw {
    name: String,
    bridge: Option<String>,
    is_gateway: bool,
    is_default_gateway: bool,
    ip_masq: bool,
    mtu: Option<u32>,
    hairpin_mode: bool,
    promisc_mode: bool,
    vlan: u32,
    vlan_trunk: Vec<Value>,
    ipam: RawIpam,
    dns: Value,
    mac: Option<String>,
    args: Args,
    runtime_config: RuntimeConfig,
    prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<Attachment>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawIpam {
    #[serde(rename = "type")]
    kind: Option<String>,
    subnet: Option<String>,
    range_start: Option<String>,
    range_end: Option<String>,
    gateway: Option<String>,
    ranges: Vec<Vec<RawRange>>,
    routes: Vec<RawRoute>,
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawRange {
    subnet: String,
    range_start: Option<String>,
    range_end: Option<String>,
    gateway: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RawRoute {
    dst: String,
    gw: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Args {
    cni: ArgsCni,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ArgsCni {
    mac: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RuntimeConfig {
    mac: Option<String>,
    port_mappings: Vec<Value>,
    bandwidth: Option<Value>,
    ips: Vec<String>,
}

/// One container's interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) struct Attachment {
    #[serde(rename = "containerID")]
    pub(crate) container: String,
    pub(crate) ifname: String,
}

/// As it is used.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) bridge: String,
    pub(crate) is_gateway: bool,
    pub(crate) default_route: bool,
    pub(crate) masquerade: bool,
    pub(crate) mtu: Option<u32>,
    pub(crate) hairpin: bool,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) asked: Option<Ipv4Addr>,
    /// Without one, containers have a wire and no address.
    pub(crate) range: Option<Range>,
    pub(crate) routes: Vec<Route>,
    pub(crate) leases: PathBuf,
    pub(crate) dns: Value,
    pub(crate) previous: Option<Value>,
    pub(crate) valid: Option<Vec<Attachment>>,
}

/// The addresses that containers may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) subnet: Ipv4Net,
    pub(crate) first: Ipv4Addr,
    pub(crate) last: Ipv4Addr,
    pub(crate) gateway: Ipv4Addr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) to: Ipv4Net,
    pub(crate) through: Option<Ipv4Addr>,
}

/// Reads `input`; `mac` is the one of CNI_ARGS.
pub(crate) fn parse(input: &[u8], mac: Option<String>) -> Result<Config, Failure> {
    let raw: Raw =
        serde_json::from_slice(input).map_err(|error| Failure::decode(error.to_string()))?;
    supported(&raw)?;
    if !is_name(&raw.name) {
        return Err(Failure::config("name", &raw.name, "is not a network's name"));
    }
    let bridge = raw.bridge.clone().unwrap_or_else(|| "cni0".into());
    if !is_interface(&bridge) {
        return Err(Failure::config("bridge", &bridge, "is not an interface's name"));
    }
    let range = match raw.ipam.kind.as_deref() {
        None | Some("") => None,
        Some("host-local") => Some(range(&raw.ipam)?),
        Some(other) => {
            let why = "is not supported; only host-local is";
            return Err(Failure::config("ipam.type", other, why));
        }
    };
    let mac = raw.runtime_config.mac.clone().or(raw.args.cni.mac.clone()).or(raw.mac).or(mac);
    let asked = raw.runtime_config.ips.first().map(|text| asked(text)).transpose()?;
    Ok(Config {
        is_gateway: raw.is_gateway || raw.is_default_gateway,
        default_route: raw.is_default_gateway,
        masquerade: raw.ip_masq,
        mtu: raw.mtu.filter(|mtu| *mtu != 0),
        hairpin: raw.hairpin_mode,
        mac: mac.filter(|text| !text.is_empty()).map(|text| parse_mac(&text)).transpose()?,
        asked,
        range,
        routes: raw.ipam.routes.iter().map(route).collect::<Result<_, _>>()?,
        leases: raw.ipam.data_dir.unwrap_or_else(|| LEASES.into()).join(&raw.name),
        dns: raw.dns,
        previous: raw.prev_result,
        valid: raw.valid_attachments,
        bridge,
    })
}

fn supported(raw: &Raw) -> Result<(), Failure> {
    let fields = [
        ("promiscMode", raw.promisc_mode),
        ("vlan", raw.vlan != 0),
        ("vlanTrunk", !raw.vlan_trunk.is_empty()),
        ("runtimeConfig.portMappings", !raw.runtime_config.port_mappings.is_empty()),
        ("runtimeConfig.bandwidth", raw.runtime_config.bandwidth.is_some()),
        ("runtimeConfig.ips", raw.runtime_config.ips.len() > 1),
        ("ipam.ranges", raw.ipam.ranges.len() > 1 || raw.ipam.ranges.iter().any(|r| r.len() > 1)),
    ];
    match fields.iter().find(|(_, used)| *used) {
        Some((field, _)) => Err(Failure::unsupported(field)),
        None => Ok(()),
    }
}

fn range(ipam: &RawIpam) -> Result<Range, Failure> {
    let single = RawRange {
        subnet: ipam.subnet.clone().unwrap_or_default(),
        range_start: ipam.range_start.clone(),
        range_end: ipam.range_end.clone(),
        gateway: ipam.gateway.clone(),
    };
    let raw = ipam.ranges.first().and_then(|set| set.first()).unwrap_or(&single);
    let bad = |why| Failure::config("ipam subnet", &raw.subnet, why);
    let subnet: Ipv4Net = raw.subnet.parse().map_err(|_| bad("is not an IPv4 range"))?;
    if subnet.prefix_len() > 30 {
        return Err(bad("is too small"));
    }
    let subnet = subnet.trunc();
    let inside = |field: &'static str, text: &Option<String>, default: u32| match text {
        None => Ok(Ipv4Addr::from(default)),
        Some(text) => match text.parse() {
            Ok(address) if subnet.contains(&address) => Ok(address),
            _ => Err(Failure::config(field, text, "is not an address of the subnet")),
        },
    };
    let (network, broadcast) = (u32::from(subnet.network()), u32::from(subnet.broadcast()));
    let first = inside("ipam.rangeStart", &raw.range_start, network + 1)?;
    let last = inside("ipam.rangeEnd", &raw.range_end, broadcast - 1)?;
    let gateway = inside("ipam.gateway", &raw.gateway, network + 1)?;
    if first > last {
        let text = format!("{first}-{last}");
        return Err(Failure::config("ipam.rangeEnd", &text, "ends before it begins"));
    }
    Ok(Range { subnet, first, last, gateway })
}

fn route(raw: &RawRoute) -> Result<Route, Failure> {
    let bad = |field, text: &str| Failure::config(field, text, "is not IPv4");
    let to: Ipv4Net = raw.dst.parse().map_err(|_| bad("ipam.routes.dst", &raw.dst))?;
    let gateway = raw.gw.as_ref();
    let through = gateway.map(|text| text.parse().map_err(|_| bad("ipam.routes.gw", text)));
    Ok(Route { to: to.trunc(), through: through.transpose()? })
}

fn asked(text: &str) -> Result<Ipv4Addr, Failure> {
    let address = text.split('/').next().unwrap_or_default();
    let bad = || Failure::config("runtimeConfig.ips", text, "is not an IPv4 address");
    address.parse().map_err(|_| bad())
}

pub(crate) fn parse_mac(text: &str) -> Result<[u8; 6], Failure> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2))
        .collect();
    let bytes = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
    // The lowest bit of the first byte says that it is many's address.
    let usable = bytes.filter(|mac| mac[0] & 1 == 0);
    usable.ok_or_else(|| Failure::config("mac", text, "is not a hardware address"))
}

/// As the specification has it for networks and containers.
pub(crate) fn is_name(text: &str) -> bool {
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(letters)
}

/// What the kernel takes as an interface's name.
pub(crate) fn is_interface(text: &str) -> bool {
    let letters = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':');
    !text.is_empty()
        && text.len() < libc::IFNAMSIZ
        && !matches!(text, "." | "..")
        && text.chars().all(letters)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Config, Failure> {
        parse(value.to_string().as_bytes(), None)
    }

    #[test]
    fn the_usual_keys_are_understood() {
        let config = read(json!({
            "name": "net", "type": "bridge", "bridge": "br0", "isDefaultGateway": true,
            "ipMasq": true, "mtu": 1400, "hairpinMode": true, "unknown": 1,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24",
                     "rangeStart": "10.1.2.16"}]], "routes": [{"dst": "0.0.0.0/0"}]},
            "runtimeConfig": {"mac": "02:00:00:00:00:07"},
        }))
        .unwrap();
        let range = config.range.unwrap();
        assert_eq!(range.first, Ipv4Addr::new(10, 1, 2, 16));
        assert_eq!(range.last, Ipv4Addr::new(10, 1, 2, 254));
        assert_eq!(range.gateway, Ipv4Addr::new(10, 1, 2, 1));
        assert!(config.is_gateway && config.masquerade && config.hairpin && config.default_route);
        assert_eq!((config.mtu, config.mac), (Some(1400), Some([2, 0, 0, 0, 0, 7])));
        assert_eq!(config.leases, PathBuf::from("/var/lib/cni/networks/net"));
        assert_eq!(config.routes.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let ipam = |more: Value| json!({"name": "n", "ipam": more});
        for (value, code, word) in [
            (json!("x"), 6, ""),
            (json!({"name": "../x"}), 7, "name"),
            (json!({"name": "n", "bridge": "a/b"}), 7, "bridge"),
            (json!({"name": "n", "vlan": 7}), 2, "vlan"),
            (json!({"name": "n", "runtimeConfig": {"mac": "01:00:00:00:00:00"}}), 7, "mac"),
            (json!({"name": "n", "runtimeConfig": {"portMappings": [{}]}}), 2, "portMappings"),
            (ipam(json!({"type": "dhcp"})), 7, "ipam.type"),
            (ipam(json!({"type": "host-local", "subnet": "fd00::/64"})), 7, "subnet"),
            (ipam(json!({"type": "host-local", "subnet": "10.0.0.0/31"})), 7, "subnet"),
            (
                ipam(json!({"type": "host-local", "subnet": "10.0.0.0/24", "gateway": "1.1.1.1"})),
                7,
                "gateway",
            ),
            (
                ipam(
                    json!({"type": "host-local", "subnet": "10.0.0.0/24", "routes": [{"dst": "x"}]}),
                ),
                7,
                "routes",
            ),
        ] {
            let failure = read(value.clone()).unwrap_err();
            assert_eq!(failure.code, code, "{value}: {failure:?}");
            assert!(failure.details.contains(word), "{value}: {failure:?}");
        }
    }
}
