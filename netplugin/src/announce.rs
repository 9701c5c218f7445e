//! Addresses that this node answers for on its wire, besides its own: those of LoadBalancer Services that are
//! elected to it. Who holds which is decided elsewhere.
//!
//! An address is put on the link whose network it belongs to, so that the kernel answers ARP; and everybody on the
//! wire is told at once (gratuitous ARP), since they may remember its former holder. A file in the state directory
//! says which addresses are ours to take away again:
//!
//! ```text
//! <state>/announced/<address>   the link's name
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use crate::leases::{remove_file, write_atomically};
use crate::link::{self, Links};
use crate::sys::packet;
use crate::{Error, HostConfig};

const ARP: u16 = 0x0806;

/// Holds exactly `wanted`; returns those that are held from now on, which have been announced once. An address that
/// fits no link's network goes to the link that has `uplink`. One that the host has anyhow is left alone.
///
/// # Errors
/// Everything that could not be taken or given up; the rest is done.
pub fn hold(
    config: &HostConfig,
    uplink: Ipv4Addr,
    wanted: &BTreeSet<Ipv4Addr>,
) -> Result<BTreeSet<Ipv4Addr>, Error> {
    let mut links = Links::open()?;
    let held = held(config)?;
    let mut errors = Vec::new();
    for address in held.difference(wanted) {
        errors.extend(give_up(config, &mut links, *address).err());
    }
    let mut fresh = BTreeSet::new();
    let present = links.all_addresses()?;
    for address in wanted {
        let there = present.iter().any(|one| one.address == *address);
        if there && !held.contains(address) {
            continue;
        }
        match take(config, &mut links, *address, &present, uplink) {
            Ok(()) if !there => drop(fresh.insert(*address)),
            Ok(()) => {}
            Err(error) => errors.push(error),
        }
    }
    errors.extend(announce(config, &fresh).err());
    Error::collect("hold the addresses of services", errors)?;
    Ok(fresh)
}

/// Tells everybody on the wire where `addresses` are, if they are held here.
///
/// # Errors
/// Everything that could not be told.
pub fn announce(config: &HostConfig, addresses: &BTreeSet<Ipv4Addr>) -> Result<(), Error> {
    let mut links = Links::open()?;
    let mut errors = Vec::new();
    for address in addresses {
        let Ok(name) = fs::read_to_string(file(config, *address)) else { continue };
        match links.find(&name) {
            Ok(Some(link)) => errors.extend(shout(link.index, &link.mac, *address).err()),
            // Gone with its addresses.
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
    }
    Error::collect("announce the addresses of services", errors)
}

/// Gives all addresses back. Tolerates absence.
pub(crate) fn teardown(config: &HostConfig) -> Result<(), Error> {
    hold(config, Ipv4Addr::UNSPECIFIED, &BTreeSet::new()).map(drop)
}

fn directory(config: &HostConfig) -> PathBuf {
    config.state_dir.join("announced")
}

fn file(config: &HostConfig, address: Ipv4Addr) -> PathBuf {
    directory(config).join(address.to_string())
}

fn held(config: &HostConfig) -> Result<BTreeSet<Ipv4Addr>, Error> {
    let directory = directory(config);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(Error::file("read", directory)(error)),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

/// An address of some link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Present {
    pub(crate) index: u32,
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
}

/// The link on whose wire `address` belongs; `not` is never the answer.
fn wire(present: &[Present], address: Ipv4Addr, uplink: Ipv4Addr, not: Option<u32>) -> Option<u32> {
    let outer =
        || present.iter().filter(|one| Some(one.index) != not && !one.address.is_loopback());
    let network = |one: &Present| Ipv4Net::new(one.address, one.prefix).ok();
    let around = |one: &&Present| network(one).is_some_and(|net| net.contains(&address));
    outer()
        .filter(around)
        .max_by_key(|one| one.prefix)
        .or_else(|| outer().find(|one| one.address == uplink))
        .map(|one| one.index)
}

fn take(
    config: &HostConfig,
    links: &mut Links,
    address: Ipv4Addr,
    present: &[Present],
    uplink: Ipv4Addr,
) -> Result<(), Error> {
    let bridge = links.find(&config.bridge)?.map(|link| link.index);
    let index = wire(present, address, uplink, bridge).ok_or_else(|| Error::BadName {
        what: "service address",
        value: address.to_string(),
        problem: "fits the network of no link",
    })?;
    let name = links.name(index)?;
    fs::create_dir_all(directory(config)).map_err(Error::file("create", directory(config)))?;
    // Written first: what nobody remembers nobody takes away.
    write_atomically(&file(config, address), &name)?;
    links.apply(vec![link::add_address(index, address, 32)])
}

fn give_up(config: &HostConfig, links: &mut Links, address: Ipv4Addr) -> Result<(), Error> {
    let file = file(config, address);
    let name = fs::read_to_string(&file).map_err(Error::file("read", &file))?;
    if let Some(found) = links.find(name.trim())? {
        match links.apply(vec![link::delete_address(found.index, address, 32)]) {
            Err(error) if error.errno() == Some(libc::EADDRNOTAVAIL) => {}
            other => other?,
        }
    }
    remove_file(&file)?;
    // The last one takes the directory away.
    let _ = fs::remove_dir(directory(config));
    Ok(())
}

/// Both kinds of gratuitous ARP (RFC 5227, section 3): some listen to requests only, others to answers.
fn shout(index: u32, mac: &[u8], address: Ipv4Addr) -> Result<(), Error> {
    const REQUEST: u16 = 1;
    const REPLY: u16 = 2;
    let Ok(mac) = <[u8; 6]>::try_from(mac) else { return Ok(()) };
    for operation in [REQUEST, REPLY] {
        packet::broadcast(index, ARP, &gratuitous(operation, mac, address)).map_err(|source| {
            Error::Netlink { what: format!("announce address {address}"), source, detail: None }
        })?;
    }
    Ok(())
}

fn gratuitous(operation: u16, mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    const ETHERNET: u16 = 1;
    const IPV4: u16 = 0x0800;
    let mut out = Vec::with_capacity(28);
    out.extend(ETHERNET.to_be_bytes());
    out.extend(IPV4.to_be_bytes());
    out.extend([6, 4]);
    out.extend(operation.to_be_bytes());
    out.extend(mac);
    out.extend(address.octets());
    out.extend(if operation == 1 { [0; 6] } else { mac });
    out.extend(address.octets());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_belongs_on_the_wire_of_its_network() {
        let on = |index, text: &str| {
            let net: Ipv4Net = text.parse().unwrap();
            Present { index, address: net.addr(), prefix: net.prefix_len() }
        };
        let present = [
            on(1, "127.0.0.1/8"),
            on(2, "192.0.2.1/24"),
            on(3, "10.0.0.1/8"),
            on(9, "192.0.2.9/28"),
        ];
        let node = Ipv4Addr::new(10, 0, 0, 1);
        let of = |text: &str, not| wire(&present, text.parse().unwrap(), node, not);
        assert_eq!(of("192.0.2.240", None), Some(2));
        assert_eq!(of("192.0.2.5", None), Some(9));
        assert_eq!(of("192.0.2.5", Some(9)), Some(2));
        assert_eq!(of("203.0.113.1", None), Some(3), "the node's own wire");
        assert_eq!(wire(&present, Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::LOCALHOST, None), None);
    }

    #[test]
    fn arp_is_as_rfc_826_has_it() {
        let frame = gratuitous(1, [2, 0, 0, 0, 0, 7], Ipv4Addr::new(192, 0, 2, 240));
        let expected = "00010800060400010200000000 07c00002f0000000000000c00002f0".replace(' ', "");
        assert_eq!(frame.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), expected);
    }
}
