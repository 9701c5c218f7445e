//! Requests about links, addresses and routes: what to ask for (pure builders) and a socket that
//! sends several of them at once. Never decides.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::Ipv4Net;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::Error;
use crate::announce::Present;
use crate::netlink::{Answer, HEADER, Refusal, Socket};

/// Group number of the host's ends of all cables, so that they can be deleted together.
pub(crate) const CABLE_GROUP: u32 = 0x6b62_6e65;

/// One request, and how to speak of it.
#[derive(Debug)]
pub(crate) struct Request {
    what: String,
    flags: u16,
    message: RouteNetlinkMessage,
}

/// A link, as far as anyone here wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) kind: Option<InfoKind>,
    pub(crate) mac: Vec<u8>,
    /// Frames pass: it is up, has a carrier, and the kernel has acted on that.
    pub(crate) operational: bool,
}

/// A socket for links, addresses and routes of one network namespace.
#[derive(Debug)]
pub(crate) struct Links {
    socket: Socket,
}

impl Links {
    /// Opens it for the calling thread's network namespace.
    pub(crate) fn open() -> Result<Links, Error> {
        let socket = Socket::open(NETLINK_ROUTE).map_err(|source| Error::Netlink {
            what: "open a route netlink socket".into(),
            source,
            detail: None,
        })?;
        Ok(Links { socket })
    }

    /// Sends all `requests` in one system call. The kernel performs them in order.
    ///
    /// # Errors
    /// The first refusal; later requests may have been performed nevertheless.
    pub(crate) fn apply(&mut self, requests: Vec<Request>) -> Result<(), Error> {
        let mut bytes = Vec::new();
        let mut waiting = Vec::with_capacity(requests.len());
        for request in requests {
            let sequence = self.socket.next_sequence();
            bytes.extend(encode(sequence, request.flags | NLM_F_ACK, request.message));
            waiting.push((sequence, request.what));
        }
        let Some((last, _)) = waiting.last().cloned() else { return Ok(()) };
        let io = |source| Error::Netlink { what: waiting[0].1.clone(), source, detail: None };
        self.socket.send(&bytes).map_err(io)?;
        let mut refused: Option<(u32, Refusal)> = None;
        self.socket
            .receive(|sequence, answer| {
                if let Answer::Refused(refusal) = answer {
                    refused.get_or_insert((sequence, refusal));
                }
                sequence == last
            })
            .map_err(io)?;
        match refused {
            None => Ok(()),
            Some((sequence, refusal)) => {
                let what = waiting.into_iter().find(|(s, _)| *s == sequence).map(|(_, what)| what);
                Err(refusal.into_error(what.unwrap_or_default()))
            }
        }
    }

    /// Asks and returns all messages of the answer.
    fn ask(&mut self, request: Request) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let sequence = self.socket.next_sequence();
        let bytes = encode(sequence, request.flags, request.message);
        let what = request.what;
        let single = request.flags & NLM_F_DUMP != NLM_F_DUMP;
        let io = |source| Error::Netlink { what: what.clone(), source, detail: None };
        self.socket.send(&bytes).map_err(io)?;
        let mut out = Vec::new();
        let mut refused = None;
        let mut garbled = None;
        self.socket
            .receive(|answered, answer| match answer {
                _ if answered != sequence => false,
                Answer::Ok => true,
                Answer::Refused(refusal) => {
                    refused = Some(refusal);
                    true
                }
                Answer::Data(kind, body) => {
                    match decode(kind, body) {
                        Ok(message) => out.push(message),
                        Err(detail) => garbled = Some(detail),
                    }
                    single
                }
            })
            .map_err(io)?;
        if let Some(refusal) = refused {
            return Err(refusal.into_error(what));
        }
        match garbled {
            Some(detail) => Err(Error::Decode { what, detail }),
            None => Ok(out),
        }
    }

    /// Everything of one kind.
    pub(crate) fn dump(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        self.ask(Request { what: what.into(), flags, message })
    }

    /// The link called `name`, if there is one.
    pub(crate) fn find(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let request = Request {
            what: format!("look up link {name:?}"),
            flags: NLM_F_REQUEST,
            message: RouteNetlinkMessage::GetLink(message),
        };
        match self.ask(request) {
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
            Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(message) => Some(describe(message)),
                _ => None,
            })),
        }
    }

    /// The name of a link.
    pub(crate) fn name(&mut self, index: u32) -> Result<String, Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let what = format!("look up link {index}");
        let request = Request {
            what: what.clone(),
            flags: NLM_F_REQUEST,
            message: RouteNetlinkMessage::GetLink(message),
        };
        let name = self.ask(request)?.into_iter().find_map(|answer| {
            let RouteNetlinkMessage::NewLink(message) = answer else { return None };
            message.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })
        });
        name.ok_or_else(|| Error::Decode { what, detail: "it has no name".into() })
    }

    /// Names of a bridge's ports.
    pub(crate) fn ports(&mut self, bridge: u32) -> Result<Vec<String>, Error> {
        let request = Request {
            what: "list links".into(),
            flags: NLM_F_REQUEST | NLM_F_DUMP,
            message: RouteNetlinkMessage::GetLink(LinkMessage::default()),
        };
        let mut names = Vec::new();
        for answer in self.ask(request)? {
            let RouteNetlinkMessage::NewLink(message) = answer else { continue };
            let of_it = message.attributes.contains(&LinkAttribute::Controller(bridge));
            names.extend(message.attributes.into_iter().filter(|_| of_it).find_map(
                |one| match one {
                    LinkAttribute::IfName(name) => Some(name),
                    _ => None,
                },
            ));
        }
        Ok(names)
    }

    /// IPv4 addresses (with prefix length) of a link.
    pub(crate) fn addresses(&mut self, index: u32) -> Result<Vec<(Ipv4Addr, u8)>, Error> {
        let all = self.all_addresses()?.into_iter().filter(|one| one.index == index);
        Ok(all.map(|one| (one.address, one.prefix)).collect())
    }

    /// All IPv4 addresses of this network namespace.
    pub(crate) fn all_addresses(&mut self) -> Result<Vec<Present>, Error> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        let request = Request {
            what: "list addresses".into(),
            flags: NLM_F_REQUEST | NLM_F_DUMP,
            message: RouteNetlinkMessage::GetAddress(message),
        };
        let answers = self.ask(request)?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(m) => local_address(&m),
                _ => None,
            })
            .collect())
    }
}

fn local_address(message: &AddressMessage) -> Option<Present> {
    let (index, prefix) = (message.header.index, message.header.prefix_len);
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => {
            Some(Present { index, address: *address, prefix })
        }
        _ => None,
    })
}

fn describe(message: LinkMessage) -> Link {
    let index = message.header.index;
    let mut link = Link { index, kind: None, mac: Vec::new(), operational: false };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::OperState(state) => link.operational = state == State::Up,
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link
}

fn encode(sequence: u32, flags: u16, message: RouteNetlinkMessage) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.sequence_number = sequence;
    header.flags = flags | NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, message.into());
    message.finalize();
    let mut bytes = vec![0; crate::netlink::align(message.buffer_len())];
    message.serialize(&mut bytes);
    bytes
}

fn decode(kind: u16, body: &[u8]) -> Result<RouteNetlinkMessage, String> {
    use netlink_packet_core::NetlinkDeserializable;
    let mut header = NetlinkHeader::default();
    header.message_type = kind;
    header.length = (HEADER + body.len()) as u32;
    RouteNetlinkMessage::deserialize(&header, body).map_err(|error| error.to_string())
}

const CREATE: u16 = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL;
const REPLACE: u16 = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE;

/// A bridge that is up, with a fixed MAC address (else it would change with its ports).
pub(crate) fn create_bridge(name: &str, mac: [u8; 6], mtu: Option<u32>) -> Request {
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Address(mac.to_vec()),
        // Pods are one routed hop away: group membership on the bridge is nobody's business.
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)])),
        ]),
    ];
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    Request {
        what: format!("create bridge {name:?}"),
        flags: CREATE,
        message: RouteNetlinkMessage::NewLink(message),
    }
}

/// Both ends of a cable.
#[derive(Debug)]
pub(crate) struct Cable<'a> {
    pub(crate) host_name: &'a str,
    pub(crate) bridge_index: u32,
    pub(crate) pod_name: &'a str,
    pub(crate) pod_namespace: BorrowedFd<'a>,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: Option<u32>,
}

/// A veth pair: one end a port of the bridge and up, the other born in the Pod's namespace.
/// The Pod's end is down: the kernel refuses to open a cable whose other end does not exist yet.
pub(crate) fn create_cable(cable: &Cable<'_>) -> Request {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(cable.pod_name.to_owned()),
        LinkAttribute::Address(cable.mac.to_vec()),
        LinkAttribute::NetNsFd(cable.pod_namespace.as_raw_fd()),
    ];
    peer.attributes.extend(cable.mtu.map(LinkAttribute::Mtu));
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = vec![
        LinkAttribute::IfName(cable.host_name.to_owned()),
        LinkAttribute::Controller(cable.bridge_index),
        LinkAttribute::Group(CABLE_GROUP),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    message.attributes.extend(cable.mtu.map(LinkAttribute::Mtu));
    Request {
        what: format!("create veth pair {:?}", cable.host_name),
        flags: CREATE,
        message: RouteNetlinkMessage::NewLink(message),
    }
}

/// Lets a bridge port send back to where it received from: with bridge netfilter on, a Pod that
/// reaches itself through a VIP is switched, not routed.
pub(crate) fn hairpin_port(name: &str) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
        ]),
    ];
    Request {
        what: format!("allow hairpin on bridge port {name:?}"),
        flags: NLM_F_REQUEST,
        message: RouteNetlinkMessage::NewLink(message),
    }
}

pub(crate) fn link_up(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    Request {
        what: format!("bring up link {index}"),
        flags: NLM_F_REQUEST,
        message: RouteNetlinkMessage::NewLink(message),
    }
}

pub(crate) fn delete_link(name: &str) -> Request {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    Request {
        what: format!("delete link {name:?}"),
        flags: NLM_F_REQUEST,
        message: RouteNetlinkMessage::DelLink(message),
    }
}

/// All cables at once; much cheaper than one by one.
pub(crate) fn delete_cables() -> Request {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Group(CABLE_GROUP));
    Request {
        what: "delete the pods' links".into(),
        flags: NLM_F_REQUEST,
        message: RouteNetlinkMessage::DelLink(message),
    }
}

pub(crate) fn add_address(index: u32, address: Ipv4Addr, prefix: u8) -> Request {
    Request {
        what: format!("add address {address}/{prefix}"),
        flags: REPLACE,
        message: RouteNetlinkMessage::NewAddress(address_message(index, address, prefix)),
    }
}

pub(crate) fn delete_address(index: u32, address: Ipv4Addr, prefix: u8) -> Request {
    Request {
        what: format!("delete address {address}/{prefix}"),
        flags: NLM_F_REQUEST,
        message: RouteNetlinkMessage::DelAddress(address_message(index, address, prefix)),
    }
}

fn address_message(index: u32, address: Ipv4Addr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = prefix;
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(IpAddr::V4(address)),
        AddressAttribute::Address(IpAddr::V4(address)),
    ];
    message
}

/// The default route of a Pod: the gateway is on the wire although no prefix covers it.
pub(crate) fn add_default_route(index: u32, gateway: Ipv4Addr) -> Request {
    let mut message = route_message(index, RouteScope::Universe);
    message.header.flags = RouteFlags::Onlink;
    message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
    Request {
        what: format!("add default route via {gateway}"),
        flags: REPLACE,
        message: RouteNetlinkMessage::NewRoute(message),
    }
}

/// A route through a neighbour.
pub(crate) fn add_route(index: u32, range: Ipv4Net, gateway: Ipv4Addr) -> Request {
    let mut message = route_message(index, RouteScope::Universe);
    message.header.destination_prefix_length = range.prefix_len();
    message.header.flags = RouteFlags::Onlink;
    if range.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(range.network())));
    }
    message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
    Request {
        what: format!("add route to {range} via {gateway}"),
        flags: REPLACE,
        message: RouteNetlinkMessage::NewRoute(message),
    }
}

/// A route to a range that is directly behind a link, with a preferred source address.
pub(crate) fn add_link_route(index: u32, range: Ipv4Net, source: Ipv4Addr) -> Request {
    let mut message = route_message(index, RouteScope::Link);
    message.header.destination_prefix_length = range.prefix_len();
    message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(range.network())));
    message.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(source)));
    Request {
        what: format!("add route to {range}"),
        flags: REPLACE,
        message: RouteNetlinkMessage::NewRoute(message),
    }
}

fn route_message(index: u32, scope: RouteScope) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = scope;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Oif(index));
    message
}
