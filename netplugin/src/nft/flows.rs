//! UDP flows that the kernel remembers although their backend is gone. TCP needs none of this: its connections end.
//!
//! A flow's packets go where its first one went, as long as they come. So when a backend leaves a UDP port, the flows
//! that lead there are forgotten, and their next packet is balanced anew.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;

use super::attribute::list;
use super::encode::{FAMILY_IPV4, NLM_F_ACK, NLM_F_DUMP, message};
use super::failed;
use super::services::{Backend, Place, Protocol, Service, VipPort};
use crate::Error;
use crate::netlink::{Answer, Socket, attributes};

/// `NFNL_SUBSYS_CTNETLINK`
const SUBSYSTEM: u16 = 1;
const GET: u16 = SUBSYSTEM << 8 | 1;
const DELETE: u16 = SUBSYSTEM << 8 | 2;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;

/// UDP places whose flows may lead to where nobody answers any more, and who does.
pub(super) type Suspects = BTreeMap<Place, BTreeSet<Backend>>;

/// Adds the places of a Service that was `old` and is `new`.
pub(super) fn suspect(old: Option<&Service>, new: Option<&Service>, suspects: &mut Suspects) {
    let (before, after) = (serving(old), serving(new));
    for (place, backends) in &before {
        let now = after.get(place).cloned().unwrap_or_default();
        if !backends.is_subset(&now) || backends.is_empty() {
            suspects.insert(*place, now);
        }
    }
    for (place, backends) in after {
        if !before.contains_key(&place) {
            suspects.insert(place, backends);
        }
    }
}

fn serving(service: Option<&Service>) -> Suspects {
    let mut all = Suspects::new();
    for group in service.into_iter().flat_map(|service| service.groups.values()) {
        for place in group.doors.iter().map(|door| door.place).filter(is_udp) {
            // The same place may have other backends for those inside.
            all.entry(place).or_default().extend(group.backends.iter().copied());
        }
    }
    all
}

fn is_udp(place: &Place) -> bool {
    match place {
        Place::Address(vip) => vip.protocol == Protocol::Udp,
        Place::Node { protocol, .. } => *protocol == Protocol::Udp,
    }
}

/// One flow: where it was sent to, and who answers. `original` names it to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Flow {
    to: VipPort,
    answers: Backend,
    original: Vec<u8>,
}

/// Forgets the flows to `suspects` whose backend does not serve there. None that could be looked at: none there.
pub(super) fn forget(socket: &mut Socket, suspects: &Suspects) -> Result<usize, Error> {
    if suspects.is_empty() {
        return Ok(0);
    }
    let mut stale = Vec::new();
    dump(socket, |body| {
        stale.extend(decode(body).filter(|flow| is_stale(flow, suspects)));
    })?;
    for flow in &stale {
        delete(socket, flow)?;
    }
    Ok(stale.len())
}

fn is_stale(flow: &Flow, suspects: &Suspects) -> bool {
    let Flow { to, answers, .. } = flow;
    let untouched = (answers.address, answers.port) == (to.address, to.port);
    let node = Place::Node { protocol: to.protocol, port: to.port };
    let backends = suspects
        .get(&Place::Address(*to))
        // A packet through us to another machine's port of that number is nobody's business.
        .or_else(|| suspects.get(&node).filter(|_| !untouched));
    backends.is_some_and(|backends| !backends.contains(answers))
}

fn decode(body: &[u8]) -> Option<Flow> {
    let original = attribute(body, ORIGINAL)?;
    let to = end(original, 2, 3)?;
    let (from, port, _) = end(attribute(body, REPLY)?, 1, 2)?;
    if to.2 != libc::IPPROTO_UDP as u8 {
        return None;
    }
    Some(Flow {
        to: VipPort { address: to.0, protocol: Protocol::Udp, port: to.1 },
        answers: Backend { address: from, port },
        original: original.to_vec(),
    })
}

/// Address, port and protocol of one end of a tuple.
fn end(tuple: &[u8], address: u16, port: u16) -> Option<(Ipv4Addr, u16, u8)> {
    let (addresses, protocol) = (attribute(tuple, 1)?, attribute(tuple, 2)?);
    let octets: [u8; 4] = attribute(addresses, address)?.try_into().ok()?;
    let number: [u8; 2] = attribute(protocol, port)?.try_into().ok()?;
    Some((octets.into(), u16::from_be_bytes(number), *attribute(protocol, 1)?.first()?))
}

fn attribute(buffer: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(buffer).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn dump(socket: &mut Socket, mut each: impl FnMut(&[u8])) -> Result<(), Error> {
    let sequence = socket.next_sequence();
    let mut out = Vec::new();
    message(&mut out, GET, NLM_F_DUMP, sequence, FAMILY_IPV4, 0, |_| {});
    let result = exchange(socket, &out, sequence, |body| {
        each(body.get(4..).unwrap_or_default());
    });
    // Without connection tracking in the kernel there is nothing to forget.
    tolerate(result, &[libc::EINVAL, libc::EOPNOTSUPP])
}

fn delete(socket: &mut Socket, flow: &Flow) -> Result<(), Error> {
    let sequence = socket.next_sequence();
    let mut out = Vec::new();
    message(&mut out, DELETE, NLM_F_ACK, sequence, FAMILY_IPV4, 0, |out| {
        list(out, ORIGINAL, &flow.original);
    });
    // It may have ended by itself.
    tolerate(exchange(socket, &out, sequence, |_| {}), &[libc::ENOENT])
}

fn tolerate(result: Result<(), Error>, errnos: &[i32]) -> Result<(), Error> {
    match result {
        Err(error) if error.errno().is_some_and(|errno| errnos.contains(&errno)) => Ok(()),
        other => other,
    }
}

fn exchange(
    socket: &mut Socket,
    request: &[u8],
    sequence: u32,
    mut each: impl FnMut(&[u8]),
) -> Result<(), Error> {
    const WHAT: &str = "forget flows to backends that are gone";
    let io = |source: io::Error| failed(WHAT, source);
    socket.drain();
    socket.send(request).map_err(io)?;
    let mut refused = None;
    socket
        .receive(|answered, answer| match answer {
            _ if answered != sequence => false,
            Answer::Data(_, body) => {
                each(body);
                false
            }
            Answer::Ok => true,
            Answer::Refused(refusal) => {
                refused = Some(refusal);
                true
            }
        })
        .map_err(io)?;
    refused.map_or(Ok(()), |refusal| Err(refusal.into_error(WHAT)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::services::{Door, Group};

    const VIP: VipPort =
        VipPort { address: Ipv4Addr::new(10, 96, 0, 10), protocol: Protocol::Udp, port: 53 };
    const NODE: Place = Place::Node { protocol: Protocol::Udp, port: 30053 };

    fn backend(last: u8) -> Backend {
        Backend { address: Ipv4Addr::new(10, 244, 0, last), port: 5353 }
    }

    fn service(backends: &[u8]) -> Service {
        let doors = [Place::Address(VIP), NODE].map(Door::for_all).into();
        let backends = backends.iter().map(|last| backend(*last)).collect();
        let groups = [("dns".to_owned(), Group { doors, backends, ..Group::default() })].into();
        Service { groups, ..Service::default() }
    }

    fn suspects(old: Option<&[u8]>, new: Option<&[u8]>) -> usize {
        let mut suspects = Suspects::new();
        let (old, new) = (old.map(service), new.map(service));
        suspect(old.as_ref(), new.as_ref(), &mut suspects);
        suspects.len()
    }

    #[test]
    fn only_places_that_lost_somebody_or_had_nobody_are_suspect() {
        assert_eq!(suspects(Some(&[1, 2]), Some(&[1])), 2);
        assert_eq!(suspects(Some(&[1]), None), 2);
        assert_eq!(suspects(Some(&[]), Some(&[1])), 2);
        assert_eq!(suspects(None, Some(&[1])), 2);
        assert_eq!(suspects(Some(&[1]), Some(&[1, 2])), 0);
    }

    #[test]
    fn flows_to_others_are_left_alone() {
        let mut suspects = Suspects::new();
        suspect(Some(&service(&[1, 2])), Some(&service(&[1])), &mut suspects);
        let flow = |to, answers| Flow { to, answers, original: Vec::new() };
        let at = |last, port| VipPort { address: Ipv4Addr::new(192, 0, 2, last), port, ..VIP };
        assert!(is_stale(&flow(VIP, backend(2)), &suspects));
        assert!(!is_stale(&flow(VIP, backend(1)), &suspects));
        assert!(is_stale(&flow(at(1, 30053), backend(2)), &suspects));
        let elsewhere = Backend { address: Ipv4Addr::new(192, 0, 2, 9), port: 30053 };
        assert!(!is_stale(&flow(at(9, 30053), elsewhere), &suspects), "not through a Service");
        assert!(!is_stale(&flow(at(1, 53), backend(2)), &suspects), "not our port");
    }
}
