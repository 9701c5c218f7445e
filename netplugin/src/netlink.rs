//! The netlink socket: sends a batch, matches every answer to its request. Knows headers, sequence
//! numbers and acknowledgements; never what the messages mean.
//!
//! A socket belongs to the network namespace that its opener was in, for ever: a socket opened in
//! a Pod's namespace can be used from anywhere.

use std::io;

use netlink_sys::{Socket as Raw, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};

/// `struct nlmsghdr` in bytes.
pub(crate) const HEADER: usize = 16;

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Answers to big dumps come in pieces of up to 32 KiB; to a batch, in one piece per request.
const DATAGRAM: usize = 64 * 1024;

/// What the kernel said about one request.
#[derive(Debug)]
pub(crate) enum Answer<'a> {
    /// Done, or acknowledged.
    Ok,
    Refused(Refusal),
    /// A message of the given type.
    Data(u16, &'a [u8]),
}

/// A refusal, with the kernel's own words if it had any.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) errno: i32,
    pub(crate) text: Option<String>,
}

impl Refusal {
    pub(crate) fn into_error(self, what: impl Into<String>) -> crate::Error {
        let source = io::Error::from_raw_os_error(self.errno);
        crate::Error::Netlink { what: what.into(), source, detail: self.text }
    }
}

#[derive(Debug)]
pub(crate) struct Socket {
    raw: Raw,
    sequence: u32,
    receive_buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open(protocol: isize) -> io::Result<Socket> {
        let mut raw = Raw::new(protocol)?;
        raw.bind_auto()?;
        raw.connect(&SocketAddr::new(0, 0))?;
        raw.set_cap_ack(true)?;
        raw.set_ext_ack(true)?;
        Ok(Socket { raw, sequence: 0, receive_buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// What the kernel calls this socket.
    pub(crate) fn port(&self) -> u32 {
        let mut address = SocketAddr::new(0, 0);
        self.raw.get_address(&mut address).map_or(0, |()| address.port_number())
    }

    /// The sequence number for the next request.
    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Makes room for one datagram of `send` bytes and for `answers` acknowledgements.
    pub(crate) fn reserve(&self, send: usize, answers: usize) -> io::Result<()> {
        // The kernel counts its own bookkeeping too, hence the generous factors.
        let send = send.saturating_mul(2).max(256 * 1024);
        let receive = answers.saturating_mul(1024).max(256 * 1024);
        setsockopt(&self.raw, sockopt::SndBufForce, &send)
            .or_else(|_| setsockopt(&self.raw, sockopt::SndBuf, &send))?;
        setsockopt(&self.raw, sockopt::RcvBufForce, &receive)
            .or_else(|_| setsockopt(&self.raw, sockopt::RcvBuf, &receive))?;
        Ok(())
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.raw.send(bytes, 0)?;
        if sent != bytes.len() {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "message sent in part"));
        }
        Ok(())
    }

    /// Forgets answers that nobody waits for any more.
    pub(crate) fn drain(&mut self) {
        loop {
            self.receive_buffer.clear();
            match self.raw.recv(&mut self.receive_buffer, libc::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An overrun is reported once, in the place of what was lost.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    /// Reads answers until `each` (sequence number, answer) says that it has all it wants.
    pub(crate) fn receive(
        &mut self,
        mut each: impl FnMut(u32, Answer<'_>) -> bool,
    ) -> io::Result<()> {
        loop {
            self.receive_buffer.clear();
            let length = match self.raw.recv(&mut self.receive_buffer, libc::MSG_TRUNC) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if length > self.receive_buffer.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "answer cut short"));
            }
            let mut satisfied = false;
            for_each_message(&self.receive_buffer, |header, body| {
                if let Some(answer) = classify(header, body) {
                    satisfied |= each(header.sequence, answer);
                }
            });
            if satisfied {
                return Ok(());
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
}

fn for_each_message(mut buffer: &[u8], mut each: impl FnMut(Header, &[u8])) {
    while let Some((header, length)) = parse_header(buffer) {
        each(header, &buffer[HEADER..length]);
        buffer = buffer.get(align(length)..).unwrap_or_default();
    }
}

/// Type, sender and body of each message in a datagram.
pub(crate) fn headers(mut buffer: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let (header, length) = parse_header(buffer)?;
        let port = buffer.get(12..HEADER).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))?;
        let body = &buffer[HEADER..length];
        buffer = buffer.get(align(length)..).unwrap_or_default();
        Some((header.kind, port, body))
    })
}

fn parse_header(buffer: &[u8]) -> Option<(Header, usize)> {
    let word =
        |at: usize| buffer.get(at..at + 4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    let half = |at: usize| buffer.get(at..at + 2).map(|b| u16::from_ne_bytes([b[0], b[1]]));
    let length = word(0)? as usize;
    if length < HEADER || length > buffer.len() {
        return None;
    }
    Some((Header { kind: half(4)?, flags: half(6)?, sequence: word(8)? }, length))
}

fn classify(header: Header, body: &[u8]) -> Option<Answer<'_>> {
    match header.kind {
        NLMSG_NOOP => None,
        NLMSG_ERROR | NLMSG_DONE => Some(match errno(body) {
            0 => Answer::Ok,
            errno => Answer::Refused(Refusal { errno, text: refusal_text(header, body) }),
        }),
        kind => Some(Answer::Data(kind, body)),
    }
}

/// The error number; a `done` message without one means success.
fn errno(body: &[u8]) -> i32 {
    body.get(..4).map_or(0, |b| -i32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

/// Extended acknowledgement: attributes behind the error and the (capped) echoed request.
fn refusal_text(header: Header, body: &[u8]) -> Option<String> {
    if header.flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let echoed = if header.flags & NLM_F_CAPPED != 0 {
        HEADER
    } else {
        let length = body.get(4..8)?;
        u32::from_ne_bytes([length[0], length[1], length[2], length[3]]) as usize
    };
    let text = attributes(body.get(4 + align(echoed)..)?)
        .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
        .map(|(_, value)| value)?;
    Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
}

/// Iterates over netlink attributes; stops at the first malformed one.
pub(crate) fn attributes(mut buffer: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*buffer.first()?, *buffer.get(1)?]));
        let kind = u16::from_ne_bytes([*buffer.get(2)?, *buffer.get(3)?]) & 0x3fff;
        let value = buffer.get(4..length)?;
        buffer = buffer.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Netlink aligns messages and attributes to four bytes.
pub(crate) const fn align(length: usize) -> usize {
    (length + 3) & !3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(flags.to_ne_bytes());
        out.extend(sequence.to_ne_bytes());
        out.extend(0u32.to_ne_bytes());
        out.extend(body);
        out.resize(align(out.len()), 0);
        out
    }

    #[test]
    fn refusals_carry_the_kernels_words() {
        let mut body = (-libc::EEXIST).to_ne_bytes().to_vec();
        body.extend([0; HEADER]);
        body.extend([7, 0, NLMSGERR_ATTR_MSG as u8, 0, b'n', b'o', 0, 0]);
        let buffer = message(NLMSG_ERROR, NLM_F_CAPPED | NLM_F_ACK_TLVS, 7, &body);
        let mut seen = Vec::new();
        for_each_message(&buffer, |header, body| {
            if let Some(Answer::Refused(refusal)) = classify(header, body) {
                seen.push((header.sequence, refusal.errno, refusal.text));
            }
        });
        assert_eq!(seen, [(7, libc::EEXIST, Some("no".to_owned()))]);
    }

    #[test]
    fn several_messages_in_one_datagram_are_all_seen_and_garbage_ends_it() {
        let mut buffer = message(16, 0, 1, &[1, 2, 3]);
        buffer.extend(message(NLMSG_DONE, 0, 2, &[]));
        buffer.extend([9; 5]);
        let mut seen = Vec::new();
        for_each_message(&buffer, |header, body| seen.push((header.kind, body.len())));
        assert_eq!(seen, [(16, 3), (NLMSG_DONE, 0)]);
    }

    #[test]
    fn malformed_attributes_end_the_walk() {
        assert_eq!(attributes(&[5, 0, 1, 0, 42, 0, 0, 0]).collect::<Vec<_>>(), [(1, &[42u8][..])]);
        assert_eq!(attributes(&[2, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[1]).count(), 0);
    }
}
