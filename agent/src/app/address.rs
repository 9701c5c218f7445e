//! Which of the machine's addresses is the node's.

use std::net::{Ipv4Addr, UdpSocket};

use nix::net::if_::InterfaceFlags;

/// An interface's address, as far as the choice depends on it.
#[derive(Debug, Clone, PartialEq)]
struct Candidate {
    interface: String,
    address: Ipv4Addr,
    loopback: bool,
    up: bool,
}

/// The address that packets to the outside leave from; without a route outside, the first that others can reach; on
/// a machine that has only itself, 127.0.0.1. `bridge` is our own and never the answer.
pub(crate) fn find(bridge: &str) -> Ipv4Addr {
    routed().unwrap_or_else(|| choose(&candidates(), bridge))
}

/// Connecting a datagram socket sends nothing; the kernel picks the source address of the route it would take.
fn routed() -> Option<Ipv4Addr> {
    // TEST-NET-1 (RFC 5737): is nowhere, so only a default route leads there.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    match socket.local_addr().ok()? {
        std::net::SocketAddr::V4(address) => Some(*address.ip()),
        std::net::SocketAddr::V6(_) => None,
    }
}

fn candidates() -> Vec<Candidate> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    all.filter_map(|each| {
        Some(Candidate {
            address: each.address?.as_sockaddr_in()?.ip(),
            loopback: each.flags.contains(InterfaceFlags::IFF_LOOPBACK),
            up: each.flags.contains(InterfaceFlags::IFF_UP),
            interface: each.interface_name,
        })
    })
    .collect()
}

fn choose(candidates: &[Candidate], bridge: &str) -> Ipv4Addr {
    let usable = |c: &&Candidate| c.up && !c.loopback && c.interface != bridge;
    candidates.iter().find(usable).map_or(Ipv4Addr::LOCALHOST, |c| c.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_that_others_can_reach() {
        let all = [("lo", 1, true, true), ("kobune0", 2, false, true), ("down0", 3, false, false)];
        let mut all: Vec<Candidate> = all
            .iter()
            .map(|(name, last, loopback, up)| Candidate {
                interface: (*name).into(),
                address: Ipv4Addr::new(192, 0, 2, *last),
                loopback: *loopback,
                up: *up,
            })
            .collect();
        assert_eq!(choose(&all, "kobune0"), Ipv4Addr::LOCALHOST);
        all.push(Candidate { interface: "eth0".into(), up: true, ..all[2].clone() });
        assert_eq!(choose(&all, "kobune0"), Ipv4Addr::new(192, 0, 2, 3));
    }
}
