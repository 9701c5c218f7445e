//! Moves network devices of the host into a container. They stay there: the kernel takes physical ones back and
//! removes virtual ones when the namespace ends (specification, "Namespace Lifecycle and Container Termination").

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sched::{CloneFlags, setns};

use super::{LaunchError, failed};
use crate::plan::NetDevice;

/// Moves `devices` from our network namespace to `target`.
pub(super) fn give(devices: &[NetDevice], target: &File) -> Result<(), LaunchError> {
    let open = || failed("open a netlink socket");
    let mut host = Links::open().map_err(open())?;
    let mut inside = Links::open_in(target.as_fd()).map_err(open())?;
    for device in devices {
        move_one(&mut host, &mut inside, device, target.as_fd())
            .map_err(failed(format!("linux.netDevices[{:?}]", device.host)))?;
    }
    Ok(())
}

fn move_one(
    host: &mut Links,
    inside: &mut Links,
    device: &NetDevice,
    target: BorrowedFd<'_>,
) -> io::Result<()> {
    let index = host.find(&device.host)?.ok_or_else(|| io::Error::other("no such device"))?;
    // Asked before: the kernel would move it first, and only then find the name taken.
    let is_template = device.name.contains('%');
    if !is_template && inside.find(&device.name)?.is_some() {
        let text = format!("the container has a device {:?} already", device.name);
        return Err(io::Error::other(text));
    }
    let addresses = host.addresses(index)?;
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes.push(LinkAttribute::NetNsFd(target.as_raw_fd()));
    link.attributes.push(LinkAttribute::IfName(device.name.clone()));
    host.call(RouteNetlinkMessage::SetLink(link), NLM_F_ACK)?;
    // The index goes along unless it was taken; the name is certain but for a template's.
    let index = if is_template { Some(index) } else { inside.find(&device.name)? };
    let index = index.ok_or_else(|| io::Error::other("lost on the way"))?;
    for mut address in addresses {
        address.header.index = index;
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        inside.call(RouteNetlinkMessage::NewAddress(address), flags)?;
    }
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    inside.call(RouteNetlinkMessage::SetLink(link), NLM_F_ACK).map(drop)
}

/// What of an address goes along: all but what the kernel makes anew.
fn lasting(message: AddressMessage) -> Option<AddressMessage> {
    let flags = message.header.flags;
    if !flags.contains(AddressHeaderFlags::Permanent)
        || message.header.scope != AddressScope::Universe
    {
        return None;
    }
    let mut address = AddressMessage::default();
    address.header.family = message.header.family;
    address.header.prefix_len = message.header.prefix_len;
    address.header.scope = message.header.scope;
    address.attributes = message.attributes;
    address.attributes.retain(|attribute| {
        matches!(
            attribute,
            AddressAttribute::Address(_)
                | AddressAttribute::Local(_)
                | AddressAttribute::Broadcast(_)
        )
    });
    Some(address)
}

/// Links and addresses of the network namespace that it was opened in.
struct Links {
    socket: Socket,
}

impl Links {
    fn open() -> io::Result<Links> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Links { socket })
    }

    /// Goes there for that, and comes back.
    fn open_in(namespace: BorrowedFd<'_>) -> io::Result<Links> {
        let own = File::open("/proc/self/ns/net")?;
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let opened = Links::open();
        setns(own, CloneFlags::CLONE_NEWNET)?;
        opened
    }

    fn find(&mut self, name: &str) -> io::Result<Option<u32>> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.call(RouteNetlinkMessage::GetLink(link), 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
            Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Some(link.header.index),
                _ => None,
            })),
        }
    }

    fn addresses(&mut self, index: u32) -> io::Result<Vec<AddressMessage>> {
        let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.call(all, NLM_F_DUMP)?;
        let of_it = |answer| match answer {
            RouteNetlinkMessage::NewAddress(address) if address.header.index == index => {
                lasting(address)
            }
            _ => None,
        };
        Ok(answers.into_iter().filter_map(of_it).collect())
    }

    /// One request and what is answered to it.
    fn call(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = &datagram[..];
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::other(error.to_string()))?;
                // Messages begin at multiples of four.
                let length = (answer.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => match error.code {
                        None => return Ok(answers),
                        Some(code) => return Err(io::Error::from_raw_os_error(-code.get())),
                    },
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    _ => {}
                }
            }
            // Neither acknowledged nor a list: there is one answer.
            if flags & (NLM_F_ACK | NLM_F_DUMP) == 0 && !answers.is_empty() {
                return Ok(answers);
            }
        }
    }
}
