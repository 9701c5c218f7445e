//! Whole frames on a wire: a packet socket, as `packet(7)` has it. Knows no protocol.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const BROADCAST: [u8; 6] = [0xff; 6];

/// Sends `payload` of the Ethernet type `kind` to everybody on the wire of link `index`. Needs CAP_NET_RAW.
pub(crate) fn broadcast(index: u32, kind: u16, payload: &[u8]) -> io::Result<()> {
    // SAFETY:
    // - no memory is passed: all three arguments are numbers.
    let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY:
    // - `raw` is open and ours alone: the call above has just made it, and nobody else has seen it.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY:
    // - zeros are a valid `sockaddr_ll`: it is made of integers only.
    let mut to: libc::sockaddr_ll = unsafe { mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_protocol = kind.to_be();
    to.sll_ifindex = index as i32;
    to.sll_halen = BROADCAST.len() as u8;
    to.sll_addr[..BROADCAST.len()].copy_from_slice(&BROADCAST);
    // SAFETY:
    // - the payload is readable for its length: both come from one slice that lives until the call returns.
    // - the address is readable for the length given: it is that of the type, and `to` outlives the call.
    // - the descriptor is open: `socket` lives until the end of this function.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            payload.as_ptr().cast(),
            payload.len(),
            0,
            (&raw const to).cast(),
            mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    match sent {
        sent if sent < 0 => Err(io::Error::last_os_error()),
        sent if sent as usize == payload.len() => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::WriteZero, "frame sent in part")),
    }
}
