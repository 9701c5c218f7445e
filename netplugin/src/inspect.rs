//! What the kernel says about a network namespace: links, addresses, routes. Reads, never changes; decides nothing.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType,
};
use serde::Serialize;

use crate::link::Links;
use crate::{Error, netns};

/// A network namespace as `ip link`, `ip address` and `ip route` show it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    pub interfaces: Vec<Interface>,
    /// Unicast routes of the main table.
    pub routes: Vec<Route>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    pub index: u32,
    pub name: String,
    /// `veth`, `bridge` …; absent for what the kernel brings along (loopback, hardware).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Lower case, with colons.
    pub mac: String,
    /// Bytes.
    pub mtu: u32,
    pub up: bool,
    pub addresses: Vec<IpNet>,
    /// Of a veth: the other end's index, in that end's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<u32>,
    /// The bridge that it is a port of, by index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// `0.0.0.0/0` or `::/0` for the default route.
    pub destination: IpNet,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// By index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<u32>,
    /// The gateway counts as a neighbour although no address says so.
    pub onlink: bool,
}

impl View {
    pub fn interface(&self, index: u32) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.index == index)
    }
}

/// Of the calling thread's namespace.
///
/// # Errors
/// If netlink cannot be opened or answers with something else than links, addresses and routes.
pub fn here() -> Result<View, Error> {
    let mut links = Links::open()?;
    let mut view = View::default();
    let asked = RouteNetlinkMessage::GetLink(LinkMessage::default());
    for message in links.dump("list links", asked)? {
        if let RouteNetlinkMessage::NewLink(message) = message {
            view.interfaces.push(interface(message));
        }
    }
    let asked = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    for message in links.dump("list addresses", asked)? {
        if let RouteNetlinkMessage::NewAddress(message) = message {
            let index = message.header.index;
            let owner = view.interfaces.iter_mut().find(|interface| interface.index == index);
            if let (Some(owner), Some(address)) = (owner, address(&message)) {
                owner.addresses.push(address);
            }
        }
    }
    let asked = RouteNetlinkMessage::GetRoute(RouteMessage::default());
    for message in links.dump("list routes", asked)? {
        if let RouteNetlinkMessage::NewRoute(message) = message {
            view.routes.extend(route(&message));
        }
    }
    Ok(view)
}

/// Of the namespace at `path`: a name in `/run/netns`, or `/proc/<pid>/ns/net`.
///
/// # Errors
/// As [`here`], and if the namespace cannot be entered.
pub fn at(path: &Path) -> Result<View, Error> {
    netns::inside(path, here)
}

fn interface(message: LinkMessage) -> Interface {
    let up = message.header.flags.contains(LinkFlags::Up);
    let mut made = Interface { index: message.header.index, up, ..Interface::default() };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => made.name = name,
            LinkAttribute::Address(mac) => made.mac = hardware_address(&mac),
            LinkAttribute::Mtu(mtu) => made.mtu = mtu,
            LinkAttribute::Link(index) => made.peer = Some(index),
            LinkAttribute::Controller(index) => made.controller = Some(index),
            LinkAttribute::LinkInfo(infos) => {
                made.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    // Other kinds use the field for the link below them.
    if made.kind.as_deref() != Some(InfoKind::Veth.to_string().as_str()) {
        made.peer = None;
    }
    made
}

fn hardware_address(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

fn address(message: &AddressMessage) -> Option<IpNet> {
    let of = |local: bool| {
        message.attributes.iter().find_map(move |attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    // IPv6 has no IFA_LOCAL.
    IpNet::new(of(true).or_else(|| of(false))?, message.header.prefix_len).ok()
}

fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let (mut destination, mut gateway, mut interface) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Oif(index) => interface = Some(*index),
            _ => {}
        }
    }
    let any = match header.address_family {
        netlink_packet_route::AddressFamily::Inet6 => IpAddr::from([0u8; 16]),
        _ => IpAddr::from([0u8; 4]),
    };
    let prefix = header.destination_prefix_length;
    let destination = IpNet::new(destination.unwrap_or(any), prefix).ok()?;
    let onlink = header.flags.contains(RouteFlags::Onlink);
    Some(Route { destination, gateway, interface, onlink })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}
