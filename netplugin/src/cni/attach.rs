//! Connects containers of foreign runtimes to a bridge: the reference bridge plugin's job.
//!
//! Order of ADD: lease, bridge, cable, address. Whatever fails undoes what it did; whoever is killed in between leaves
//! what DEL finds by the container's name alone: the lease names it, and the cable's name is made of it.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;

use serde_json::{Value, json};

use super::config::{Attachment, Config, Range};
use super::leases::{self, Leases};
use super::{Failure, NO_ADDRESS, UNAVAILABLE, UNKNOWN_CONTAINER};
use crate::host::tolerate_absence;
use crate::link::{self, Cable, Link, Links, Request};
use crate::nft::containers as masquerade;
use crate::{Error, ipam, netns, pod, sysctl};

const LOOPBACK: u32 = 1;
/// Begins the names of all our cables.
const CABLE: &str = "kc";

pub(super) fn add(
    config: &Config,
    who: &Attachment,
    path: &str,
    version: &str,
) -> Result<Value, Failure> {
    let namespace = Path::new(path);
    let mut inside = enter(namespace)?;
    if inside.find(&who.ifname)?.is_some() {
        let details = format!("interface {:?} exists already in {path:?}", who.ifname);
        return Err(Failure::wrong(details));
    }
    let address = lease(config, who)?;
    let made = connect(config, who, namespace, address, &mut inside);
    made.inspect_err(|_| {
        // The first error is the one to tell.
        let _ = del(config, who);
    })
    .map(|made| result(config, who, path, version, address, &made))
}

fn enter(namespace: &Path) -> Result<Links, Failure> {
    netns::inside(namespace, Links::open).map_err(|error| {
        let msg = "the container's network namespace cannot be entered";
        Failure::new(UNKNOWN_CONTAINER, msg, error.to_string())
    })
}

/// The container's address, with the range it is of.
fn lease(config: &Config, who: &Attachment) -> Result<Option<(Ipv4Addr, Range)>, Failure> {
    let Some(range) = config.range else { return Ok(None) };
    let leases = Leases::lock(&config.leases)?;
    if let Some((address, _)) = leases.all()?.into_iter().find(|(_, holder)| holder == who) {
        let details = format!("{address} is leased to {} {} already", who.container, who.ifname);
        return Err(Failure::wrong(details));
    }
    match leases.take(&range, config.asked, who)? {
        Some(address) => Ok(Some((address, range))),
        None => {
            let what = config.asked.map_or_else(|| range.subnet.to_string(), |a| a.to_string());
            Err(Failure::new(NO_ADDRESS, "no free address", what))
        }
    }
}

/// What ADD has made.
struct Made {
    bridge: Link,
    host: Link,
    container: Link,
}

fn connect(
    config: &Config,
    who: &Attachment,
    namespace: &Path,
    address: Option<(Ipv4Addr, Range)>,
    inside: &mut Links,
) -> Result<Made, Failure> {
    let mut links = Links::open()?;
    let bridge = bridge(config, &mut links)?;
    let cable_name = cable(who);
    let file = netns::open(namespace)?;
    let hash = hash(who);
    let mac = config.mac.unwrap_or_else(|| match address {
        Some((address, _)) => ipam::mac(address),
        None => [0x0a, 0x6c, (hash >> 24) as u8, (hash >> 16) as u8, (hash >> 8) as u8, hash as u8],
    });
    let new = Cable {
        host_name: &cable_name,
        bridge_index: bridge.index,
        pod_name: &who.ifname,
        pod_namespace: file.as_fd(),
        mac,
        mtu: config.mtu,
    };
    // Left by one of the same name that was killed.
    tolerate_absence(links.apply(vec![link::delete_link(&cable_name)]))?;
    let mut requests = vec![link::create_cable(&new)];
    if config.hairpin {
        requests.push(link::hairpin_port(&cable_name));
    }
    links.apply(requests)?;
    let container = find(inside, &who.ifname)?;
    inside.apply(addressing(config, container.index, address))?;
    pod::await_carrier(&mut links, &cable_name)?;
    pod::await_carrier(&mut links, &config.bridge)?;
    if config.masquerade
        && let Some((address, range)) = address
    {
        masquerade::add(address, range.subnet)?;
    }
    Ok(Made { bridge, host: find(&mut links, &cable_name)?, container })
}

/// What the container's end of the cable needs.
fn addressing(config: &Config, index: u32, address: Option<(Ipv4Addr, Range)>) -> Vec<Request> {
    let mut requests = vec![link::link_up(LOOPBACK), link::link_up(index)];
    let Some((address, range)) = address else { return requests };
    requests.push(link::add_address(index, address, range.subnet.prefix_len()));
    if config.default_route {
        requests.push(link::add_default_route(index, range.gateway));
    }
    for route in &config.routes {
        let through = route.through.unwrap_or(range.gateway);
        requests.push(link::add_route(index, route.to, through));
    }
    requests
}

fn bridge(config: &Config, links: &mut Links) -> Result<Link, Failure> {
    let gateway = config.range.filter(|_| config.is_gateway);
    if links.find(&config.bridge)?.is_none() {
        let hash = fnv(config.bridge.bytes());
        let plain =
            [0x0a, 0x6d, (hash >> 24) as u8, (hash >> 16) as u8, (hash >> 8) as u8, hash as u8];
        let mac = gateway.map_or(plain, |range| ipam::mac(range.gateway));
        match links.apply(vec![link::create_bridge(&config.bridge, mac, config.mtu)]) {
            // Somebody was faster.
            Err(error) if error.errno() == Some(libc::EEXIST) => {}
            other => other?,
        }
    }
    let found = find(links, &config.bridge)?;
    if found.kind != Some(netlink_packet_route::link::InfoKind::Bridge) {
        let why = "is the name of a link that is no bridge";
        return Err(Failure::config("bridge", &config.bridge, why));
    }
    let mut requests = vec![link::link_up(found.index)];
    if let Some(range) = gateway {
        requests.push(link::add_address(found.index, range.gateway, range.subnet.prefix_len()));
        sysctl::write("net/ipv4/ip_forward", "1")?;
    }
    links.apply(requests)?;
    Ok(found)
}

fn find(links: &mut Links, name: &str) -> Result<Link, Failure> {
    let missing = || Failure::wrong(format!("link {name:?} does not exist"));
    links.find(name)?.ok_or_else(missing)
}

fn result(
    config: &Config,
    who: &Attachment,
    path: &str,
    version: &str,
    address: Option<(Ipv4Addr, Range)>,
    made: &Made,
) -> Value {
    let mac = |link: &Link| {
        link.mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
    };
    let ips: Vec<Value> = address
        .into_iter()
        .map(|(address, range)| {
            let text = format!("{address}/{}", range.subnet.prefix_len());
            let mut ip = json!({"address": text, "gateway": range.gateway, "interface": 2});
            if version == "0.4.0" {
                ip["version"] = json!("4");
            }
            ip
        })
        .collect();
    let gateway = address.map(|(_, range)| range.gateway);
    let mut routes: Vec<Value> = config
        .routes
        .iter()
        .map(|route| json!({"dst": route.to, "gw": route.through.or(gateway)}))
        .collect();
    if let Some(gateway) = gateway.filter(|_| config.default_route) {
        routes.push(json!({"dst": "0.0.0.0/0", "gw": gateway}));
    }
    json!({
        "cniVersion": version,
        "interfaces": [
            {"name": config.bridge, "mac": mac(&made.bridge)},
            {"name": cable(who), "mac": mac(&made.host)},
            {"name": who.ifname, "mac": mac(&made.container), "sandbox": path},
        ],
        "ips": ips,
        "routes": routes,
        "dns": if config.dns.is_null() { json!({}) } else { config.dns.clone() },
    })
}

/// Tolerates absence of everything, the namespace included; the address is given back last.
pub(super) fn del(config: &Config, who: &Attachment) -> Result<(), Failure> {
    release(config, |holder| holder == who, &[cable(who)])
}

/// Takes away the cables called `cables`, and everything of the holders that `goes` names.
fn release(
    config: &Config,
    goes: impl Fn(&Attachment) -> bool,
    cables: &[String],
) -> Result<(), Failure> {
    let mut errors: Vec<Error> = Vec::new();
    let mut links = Links::open()?;
    for name in cables {
        errors.extend(tolerate_absence(links.apply(vec![link::delete_link(name)])).err());
    }
    if leases::exist(&config.leases)? {
        let leases = Leases::lock(&config.leases)?;
        for (address, holder) in leases.all()?.into_iter().filter(|(_, holder)| goes(holder)) {
            let name = cable(&holder);
            errors.extend(tolerate_absence(links.apply(vec![link::delete_link(&name)])).err());
            // Whoever has the address next must not be masqueraded by accident.
            if let Some(range) = config.range.filter(|_| config.masquerade) {
                errors.extend(masquerade::remove(address, range.subnet).err());
            }
            errors.extend(leases.release(address).err());
        }
    }
    Ok(Error::collect("take down a container's network", errors)?)
}

pub(super) fn check(config: &Config, who: &Attachment, path: &str) -> Result<(), Failure> {
    let Some(previous) = &config.previous else {
        return Err(Failure::config("prevResult", "", "is missing"));
    };
    let mut links = Links::open()?;
    for name in [config.bridge.as_str(), &cable(who)] {
        find(&mut links, name)?;
    }
    let mut inside = enter(Path::new(path))?;
    let found = find(&mut inside, &who.ifname)?;
    let present = inside.addresses(found.index)?;
    let ips = previous["ips"].as_array().into_iter().flatten();
    let mine = ips.filter(|ip| {
        let at = ip["interface"].as_u64().unwrap_or(2) as usize;
        previous["interfaces"][at]["name"] == who.ifname.as_str()
    });
    for text in mine.filter_map(|ip| ip["address"].as_str()) {
        let net: ipnet::Ipv4Net =
            text.parse().map_err(|_| Failure::config("prevResult.ips", text, "is not IPv4"))?;
        if !present.contains(&(net.addr(), net.prefix_len())) {
            return Err(Failure::wrong(format!("{} has no address {text}", who.ifname)));
        }
        let leased = config.range.is_none()
            || Leases::lock(&config.leases)?.all()?.contains(&(net.addr(), who.clone()));
        if !leased {
            return Err(Failure::wrong(format!("{} is not leased to this container", net.addr())));
        }
    }
    Ok(())
}

/// GC: everything that no attachment in the list accounts for.
pub(super) fn collect(config: &Config) -> Result<(), Failure> {
    let Some(valid) = &config.valid else {
        return Err(Failure::config("cni.dev/valid-attachments", "", "is missing"));
    };
    let mut links = Links::open()?;
    let kept: Vec<String> = valid.iter().map(cable).collect();
    let strays: Vec<String> = match links.find(&config.bridge)? {
        Some(bridge) => links
            .ports(bridge.index)?
            .into_iter()
            .filter(|name| is_cable(name) && !kept.contains(name))
            .collect(),
        None => Vec::new(),
    };
    release(config, |holder| !valid.contains(holder), &strays)
}

/// Whether ADD can be served: the next container would have an address.
pub(super) fn status(config: &Config) -> Result<(), Failure> {
    let Some(range) = config.range else { return Ok(()) };
    if !leases::exist(&config.leases)? {
        return Ok(());
    }
    let taken = Leases::lock(&config.leases)?.all()?;
    let mut all = (u32::from(range.first)..=u32::from(range.last)).map(Ipv4Addr::from);
    let free = all.any(|one| one != range.gateway && !taken.iter().any(|(a, _)| *a == one));
    let full = || Failure::new(UNAVAILABLE, "no free address", range.subnet.to_string());
    free.then_some(()).ok_or_else(full)
}

/// The host's end of a container's cable. The same for the same container: it can be found without any record.
fn cable(who: &Attachment) -> String {
    format!("{CABLE}{:012x}", hash(who) & 0xffff_ffff_ffff)
}

fn is_cable(name: &str) -> bool {
    let digits = name.strip_prefix(CABLE);
    digits.is_some_and(|rest| rest.len() == 12 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn hash(who: &Attachment) -> u64 {
    fnv(who.container.bytes().chain([0]).chain(who.ifname.bytes()))
}

/// FNV-1a: is the same in every build, which the standard library's does not promise.
fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cables_have_names_that_fit_and_differ() {
        let of = |container: &str, ifname: &str| {
            cable(&Attachment { container: container.into(), ifname: ifname.into() })
        };
        let name = of("a", "eth0");
        assert!(name.len() < libc::IFNAMSIZ && is_cable(&name), "{name}");
        assert_ne!(name, of("a", "eth1"));
        assert_ne!(of("ab", "c"), of("a", "bc"));
        assert!(!is_cable("kc-something"));
    }
}
