//! Elements of our sets, and their bytes in both directions (pure).
//!
//! Keys and values are as the rules have them in registers: addresses and ports as in the packet, marks as the
//! processor has them, each part in registers of its own.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::encode;
use super::model::Verdict;
use super::ruleset::{self, Maps};
use super::services::{Backend, Door, Place, Protocol, VipPort};

/// Where one element is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    Door(Door),
    Slot { id: u32, slot: u32 },
    Pick { id: u32, slot: u32 },
    Sticky { mark: u32 },
    Patience { id: u32 },
    ClusterIp(Ipv4Addr),
    Hairpin(Ipv4Addr),
    Guarded(VipPort),
    Allowed(VipPort, Ipv4Net),
}

/// What it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    Nothing,
    Mark(u32),
    Backend(Backend),
    /// Remembered for so many seconds.
    Patience(u32),
}

/// All sets that hold elements of ours.
pub(crate) const SETS: [&str; 12] = [
    Maps::SERVICE_IPS,
    Maps::OUTSIDE_IPS,
    Maps::NODE_PORTS,
    Maps::OUTSIDE_PORTS,
    Maps::ENDPOINTS,
    Maps::PICKS,
    Maps::STICKY,
    Maps::PATIENCE,
    Maps::CLUSTER_IPS,
    Maps::HAIRPIN,
    Maps::GUARDED,
    Maps::ALLOWED,
];

impl Key {
    pub(crate) fn set(&self) -> &'static str {
        match self {
            Key::Door(Door { place: Place::Address(_), from_outside: false }) => Maps::SERVICE_IPS,
            Key::Door(Door { place: Place::Address(_), from_outside: true }) => Maps::OUTSIDE_IPS,
            Key::Door(Door { place: Place::Node { .. }, from_outside: false }) => Maps::NODE_PORTS,
            Key::Door(Door { place: Place::Node { .. }, from_outside: true }) => {
                Maps::OUTSIDE_PORTS
            }
            Key::Slot { .. } => Maps::ENDPOINTS,
            Key::Pick { .. } => Maps::PICKS,
            Key::Sticky { .. } => Maps::STICKY,
            Key::Patience { .. } => Maps::PATIENCE,
            Key::ClusterIp(_) => Maps::CLUSTER_IPS,
            Key::Hairpin(_) => Maps::HAIRPIN,
            Key::Guarded(_) => Maps::GUARDED,
            Key::Allowed(..) => Maps::ALLOWED,
        }
    }

    /// First and, for ranges, last key.
    fn bytes(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let id = |id: u32| ruleset::mark(id, 0, 0).to_ne_bytes();
        let key = match self {
            Key::Door(Door { place: Place::Address(vip), .. }) | Key::Guarded(vip) => place(vip),
            Key::Door(Door { place: Place::Node { protocol, port: number }, .. }) => {
                [[protocol.number(), 0, 0, 0], port(*number)].concat()
            }
            Key::Slot { id: group, slot } | Key::Pick { id: group, slot } => {
                [id(*group), slot.to_ne_bytes()].concat()
            }
            Key::Sticky { mark } => mark.to_ne_bytes().to_vec(),
            Key::Patience { id: group } => id(*group).to_vec(),
            Key::ClusterIp(address) => address.octets().to_vec(),
            Key::Hairpin(address) => [address.octets(), address.octets()].concat(),
            Key::Allowed(vip, range) => {
                let with = |address: Ipv4Addr| [place(vip), address.octets().to_vec()].concat();
                return (with(range.network()), Some(with(range.broadcast())));
            }
        };
        (key, None)
    }

    /// The key of an element of `set`; None if it is none that we would write.
    pub(crate) fn decode(set: &str, key: &[u8], end: Option<&[u8]>) -> Option<Key> {
        let word = |at: usize| four(key, at).map(u32::from_ne_bytes);
        let address = |bytes: &[u8], at: usize| four(bytes, at).map(Ipv4Addr::from);
        let id = || word(0).map(ruleset::id);
        let door = |from_outside| {
            let place = Place::Address(decode_place(key)?);
            Some(Key::Door(Door { place, from_outside }))
        };
        let node = |from_outside| {
            let (protocol, port) = (protocol(key, 0)?, decode_port(key, 4)?);
            Some(Key::Door(Door { place: Place::Node { protocol, port }, from_outside }))
        };
        Some(match set {
            Maps::SERVICE_IPS => door(false)?,
            Maps::OUTSIDE_IPS => door(true)?,
            Maps::NODE_PORTS => node(false)?,
            Maps::OUTSIDE_PORTS => node(true)?,
            Maps::ENDPOINTS => Key::Slot { id: id()?, slot: word(4)? },
            Maps::PICKS => Key::Pick { id: id()?, slot: word(4)? },
            Maps::STICKY => Key::Sticky { mark: word(0)? },
            Maps::PATIENCE => Key::Patience { id: id()? },
            Maps::CLUSTER_IPS => Key::ClusterIp(address(key, 0)?),
            Maps::HAIRPIN => Key::Hairpin(address(key, 0)?),
            Maps::GUARDED => Key::Guarded(decode_place(key)?),
            Maps::ALLOWED => {
                let (first, last) = (address(key, 12)?, address(end?, 12)?);
                let size = u32::from(first) ^ u32::from(last);
                let range = Ipv4Net::new(first, size.leading_zeros() as u8).ok()?;
                Key::Allowed(decode_place(key)?, range)
            }
            _ => return None,
        })
    }
}

impl Value {
    /// The value of an element; `chain` is where its verdict goes.
    pub(crate) fn decode(set: &str, data: Option<&[u8]>, chain: Option<&str>) -> Option<Value> {
        let data = || data.unwrap_or_default();
        Some(match set {
            Maps::SERVICE_IPS
            | Maps::OUTSIDE_IPS
            | Maps::NODE_PORTS
            | Maps::OUTSIDE_PORTS
            | Maps::PICKS => Value::Mark(u32::from_ne_bytes(four(data(), 0)?)),
            Maps::ENDPOINTS | Maps::STICKY => Value::Backend(Backend {
                address: four(data(), 0)?.into(),
                port: decode_port(data(), 4)?,
            }),
            Maps::PATIENCE => Value::Patience(ruleset::patience(chain?)?),
            _ => Value::Nothing,
        })
    }

    fn encode(&self) -> Option<encode::Value> {
        Some(match self {
            Value::Nothing => return None,
            Value::Mark(mark) => encode::Value::Bytes(mark.to_ne_bytes().to_vec()),
            Value::Backend(backend) => {
                encode::Value::Bytes([backend.address.octets(), port(backend.port)].concat())
            }
            Value::Patience(seconds) => {
                encode::Value::Verdict(Verdict::Goto(ruleset::patience_chain(*seconds)))
            }
        })
    }
}

/// The element for the wire.
pub(crate) fn element(key: &Key, value: &Value) -> encode::Element {
    let (bytes, end) = key.bytes();
    encode::Element { key: bytes, end, value: value.encode() }
}

fn place(vip: &VipPort) -> Vec<u8> {
    [vip.address.octets(), [vip.protocol.number(), 0, 0, 0], port(vip.port)].concat()
}

fn port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn four(bytes: &[u8], at: usize) -> Option<[u8; 4]> {
    bytes.get(at..at + 4)?.try_into().ok()
}

fn decode_port(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn protocol(bytes: &[u8], at: usize) -> Option<Protocol> {
    let number = bytes.get(at)?;
    Protocol::ALL.into_iter().find(|one| one.number() == *number)
}

fn decode_place(key: &[u8]) -> Option<VipPort> {
    Some(VipPort {
        address: four(key, 0)?.into(),
        protocol: protocol(key, 4)?,
        port: decode_port(key, 8)?,
    })
}
