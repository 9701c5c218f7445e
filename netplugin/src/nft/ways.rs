//! Through which doors of our table an address is reached, as the kernel has it (pure, but for the asking).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::path::Path;

use serde::Serialize;

use super::element::{Key, Value};
use super::services::{Backend, Door};
use super::{dump, open_socket, ruleset};
use crate::{Error, netns};

/// One door, and the backend behind it that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Way {
    /// What a packet is sent to: `10.96.0.7:80/tcp`, `node:30080/tcp`.
    pub door: String,
    /// The set of table `kobune` that has the door as an element.
    pub set: &'static str,
    /// What that element gives the packet: where the backends are, and how many.
    pub mark: u32,
    /// Where the packet then goes.
    pub port: u16,
    /// How many backends share the door.
    pub backends: usize,
}

/// All doors behind which `address` answers, in the network namespace at `host`.
///
/// # Errors
/// If that cannot be entered, or netlink refuses.
pub fn ways_to(host: &Path, address: Ipv4Addr) -> Result<Vec<Way>, Error> {
    netns::inside(host, || Ok(among(&dump::elements(&mut open_socket()?)?, address)))
}

fn among(elements: &HashMap<Key, Value>, address: Ipv4Addr) -> Vec<Way> {
    let mut doors: Vec<(&Key, &Door, u32)> = Vec::new();
    let mut groups: BTreeMap<u32, BTreeSet<Backend>> = BTreeMap::new();
    for (key, value) in elements {
        match (key, value) {
            (Key::Door(door), Value::Mark(mark)) => doors.push((key, door, *mark)),
            (Key::Slot { id, .. }, Value::Backend(backend)) => {
                groups.entry(*id).or_default().insert(*backend);
            }
            // With affinity, backends are behind the numbers that clients are remembered with.
            (Key::Sticky { mark }, Value::Backend(backend)) => {
                groups.entry(ruleset::id(*mark)).or_default().insert(*backend);
            }
            _ => {}
        }
    }
    let mut ways = Vec::new();
    for (key, door, mark) in doors {
        let Some(backends) = groups.get(&ruleset::id(mark)) else { continue };
        ways.extend(backends.iter().filter(|one| one.address == address).map(|one| Way {
            door: door.to_string(),
            set: key.set(),
            mark,
            port: one.port,
            backends: backends.len(),
        }));
    }
    ways.sort();
    ways
}

#[cfg(test)]
mod tests {
    use super::super::services::{Place, Protocol, VipPort};
    use super::*;

    #[test]
    fn every_door_of_the_address_and_no_other() {
        let (mine, other) = (Ipv4Addr::new(10, 244, 0, 2), Ipv4Addr::new(10, 244, 0, 3));
        let vip = VipPort { address: [10, 96, 0, 7].into(), protocol: Protocol::Tcp, port: 80 };
        let mark = |id| ruleset::mark(id, 2, 0);
        let backend = |address, port| Value::Backend(Backend { address, port });
        let node = Place::Node { protocol: Protocol::Udp, port: 30053 };
        let elements = HashMap::from([
            (Key::Door(Door::for_all(Place::Address(vip))), Value::Mark(mark(1))),
            (Key::Slot { id: 1, slot: 0 }, backend(mine, 8080)),
            (Key::Slot { id: 1, slot: 1 }, backend(other, 8080)),
            (Key::Door(Door::for_all(node)), Value::Mark(mark(2))),
            (Key::Sticky { mark: mark(2) }, backend(mine, 53)),
            (Key::Door(Door::from_outside(Place::Address(vip))), Value::Mark(mark(3))),
            (Key::Slot { id: 3, slot: 0 }, backend(other, 8080)),
        ]);
        let found = among(&elements, mine);
        let told: Vec<_> =
            found.iter().map(|way| (way.door.as_str(), way.port, way.backends)).collect();
        assert_eq!(told, [("10.96.0.7:80/tcp", 8080, 2), ("node:30053/udp", 53, 1)]);
        assert_eq!(found[0].mark, mark(1));
    }
}
