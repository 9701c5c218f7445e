//! Services as the rules see them: doors that people knock at, and who answers there. Values only.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Transport protocol that can be balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub(crate) const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    /// The number in an IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Protocol::Tcp => libc::IPPROTO_TCP as u8,
            Protocol::Udp => libc::IPPROTO_UDP as u8,
            Protocol::Sctp => libc::IPPROTO_SCTP as u8,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

/// One port of a virtual address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipPort {
    pub address: Ipv4Addr,
    pub protocol: Protocol,
    pub port: u16,
}

impl fmt::Display for VipPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.address, self.port, self.protocol)
    }
}

/// What a packet must be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A Service's own address: ClusterIP, external or LoadBalancer address.
    Address(VipPort),
    /// A port of every address that this node has, loopback addresses excepted.
    Node { protocol: Protocol, port: u16 },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Address(vip) => vip.fmt(f),
            Place::Node { protocol, port } => write!(f, "node:{port}/{protocol}"),
        }
    }
}

/// A place, and for whom it is a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Door {
    pub place: Place,
    /// Only for packets that come from outside of this node and of the cluster's Pods. Goes before a door for
    /// everybody at the same place.
    pub from_outside: bool,
}

impl Door {
    pub fn for_all(place: Place) -> Door {
        Door { place, from_outside: false }
    }

    pub fn from_outside(place: Place) -> Door {
        Door { place, from_outside: true }
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let note = if self.from_outside { " from outside" } else { "" };
        write!(f, "{}{note}", self.place)
    }
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    pub address: Ipv4Addr,
    pub port: u16,
}

/// What happens to connections while nobody answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Otherwise {
    #[default]
    Refuse,
    Drop,
}

/// Some doors and the backends behind all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    pub doors: BTreeSet<Door>,
    pub backends: Vec<Backend>,
    /// A client meets the same backend until it has not come for so many seconds.
    pub affinity: Option<u32>,
    /// Backends see who asks, even if it is a stranger; answers must come back through this node by themselves.
    pub keep_source: bool,
    pub otherwise: Otherwise,
}

/// One Service. Groups have a name of the caller's, by which a later version finds them again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    pub groups: BTreeMap<String, Group>,
    /// Addresses in the Services' range: what is sent there and is no door is refused.
    pub cluster_ips: BTreeSet<Ipv4Addr>,
    /// Who may use a place at all. A place that is not mentioned is open to everybody.
    pub allowed: BTreeMap<VipPort, Vec<Ipv4Net>>,
    /// Backends on this node: they may reach themselves through a door (hairpin).
    pub local_pods: BTreeSet<Ipv4Addr>,
}

/// All Services by name.
pub type Services = BTreeMap<String, Service>;
