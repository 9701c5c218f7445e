//! Notices that somebody else has changed our table. Changes nothing.

use std::io;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket as Raw, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::encode::{FAMILY_IPV4, SUBSYSTEM};
use super::ruleset::TABLE;
use super::{Rules, failed};
use crate::Error;
use crate::netlink::{attributes, headers};

/// `NFNLGRP_NFTABLES`
const GROUP: u32 = 7;
/// `NFT_MSG_NEWGEN` closes a transaction and is about no table.
const NEW_GENERATION: u16 = 15;

/// For what a big change of our own tells.
const ROOM: usize = 32 * 1024 * 1024;
/// How long nothing may happen before a listener is told so.
const PATIENCE: Duration = Duration::from_secs(5);
/// Others change a table in many steps; one look after the last of them is enough.
const SETTLE: Duration = Duration::from_millis(20);

/// A socket that hears of every change to nf_tables in its network namespace.
#[derive(Debug)]
pub struct Watch {
    socket: Raw,
    /// Whose changes are our own.
    own: u32,
    buffer: Vec<u8>,
}

impl Watch {
    /// Listens from now on to what others than `rules` do.
    ///
    /// # Errors
    /// If netlink cannot be opened.
    pub fn open(rules: &Rules) -> Result<Watch, Error> {
        let io = |source| failed("listen to changes of nf_tables", source);
        let mut socket = Raw::new(NETLINK_NETFILTER).map_err(io)?;
        socket.bind(&SocketAddr::new(0, 0)).map_err(io)?;
        socket.add_membership(GROUP).map_err(io)?;
        // What does not fit is lost, and costs a comparison of all.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &ROOM);
        let patience = TimeVal::milliseconds(PATIENCE.as_millis() as i64);
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience).map_err(|e| io(e.into()))?;
        Ok(Watch { socket, own: rules.socket.port(), buffer: Vec::with_capacity(64 * 1024) })
    }

    /// Waits until somebody else may have touched our table, and is done with it for now; false if nobody has for
    /// some seconds.
    ///
    /// # Errors
    /// If the socket is dead.
    pub fn wait(&mut self) -> io::Result<bool> {
        loop {
            match self.hear(0) {
                Ok(false) => {}
                Ok(true) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        std::thread::sleep(SETTLE);
        loop {
            match self.hear(libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }

    fn hear(&mut self, flags: libc::c_int) -> io::Result<bool> {
        self.buffer.clear();
        match self.socket.recv(&mut self.buffer, flags) {
            Ok(_) => Ok(concerns_us(&self.buffer, self.own)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            // Too much at once: something was lost, perhaps about us.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// Whether a message in `buffer` tells that another than `own` has changed our table.
fn concerns_us(buffer: &[u8], own: u32) -> bool {
    headers(buffer).any(|(kind, port, body)| {
        let change = kind >> 8 == SUBSYSTEM && kind & 0xff != NEW_GENERATION;
        // The first attribute of every message about tables is the table's name.
        let name = || attributes(body.get(4..)?).find(|(kind, _)| *kind == 1).map(|(_, name)| name);
        let ours = || name().is_some_and(|name| name.strip_suffix(&[0]) == Some(TABLE.as_bytes()));
        change && port != own && body.first() == Some(&FAMILY_IPV4) && ours()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, port: u32, family: u8, table: &str) -> Vec<u8> {
        let mut body = vec![family, 0, 0, 0];
        body.extend(((table.len() + 5) as u16).to_ne_bytes());
        body.extend([1, 0]);
        body.extend(table.as_bytes());
        body.push(0);
        let mut out = ((body.len() + 16) as u32).to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend([0; 6]);
        out.extend(port.to_ne_bytes());
        out.extend(body);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    #[test]
    fn only_changes_of_others_to_our_table_count() {
        assert!(concerns_us(&message(0xa02, 7, 2, "kobune"), 1));
        assert!(!concerns_us(&message(0xa02, 1, 2, "kobune"), 1), "our own change");
        assert!(!concerns_us(&message(0xa02, 7, 10, "kobune"), 1), "another family");
        assert!(!concerns_us(&message(0xa02, 7, 2, "kobune2"), 1), "another table");
        assert!(!concerns_us(&message(0xa0f, 7, 2, "kobune"), 1), "no change");
        let both = [message(0xa00, 7, 2, "other"), message(0xa0e, 7, 2, "kobune")].concat();
        assert!(concerns_us(&both, 1));
    }
}
