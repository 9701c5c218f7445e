//! One client of the supervisor: lines in, lines out, nothing blocks. Never interprets a line.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::poll::PollFlags;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::sys::fdpass;
use crate::wire::MAX_LINE;

/// A client that lets more than this pile up is cut off; it finds everything again when it reconnects.
const MAX_QUEUED: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    incoming: Vec<u8>,
    /// Descriptors that came with lines not yet asked for.
    descriptors: Vec<OwnedFd>,
    /// Lines to go; a descriptor travels with the first byte of its line.
    outgoing: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
    pub(super) subscribed: bool,
}

/// What one reading brought.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) lines: Vec<Vec<u8>>,
    /// Nothing more will come.
    pub(super) closed: bool,
}

impl Connection {
    /// Takes a new connection; `None` for a stranger: only root and our own user may ask.
    pub(super) fn accept(stream: UnixStream) -> io::Result<Option<Connection>> {
        let peer = getsockopt(&stream, PeerCredentials)?;
        if peer.uid() != 0 && peer.uid() != nix::unistd::geteuid().as_raw() {
            return Ok(None);
        }
        stream.set_nonblocking(true)?;
        Ok(Some(Connection {
            stream,
            incoming: Vec::new(),
            descriptors: Vec::new(),
            outgoing: VecDeque::new(),
            subscribed: false,
        }))
    }

    /// What to wait for.
    pub(super) fn interest(&self) -> PollFlags {
        match self.outgoing.is_empty() {
            true => PollFlags::POLLIN,
            false => PollFlags::POLLIN | PollFlags::POLLOUT,
        }
    }

    pub(super) fn receive(&mut self) -> Received {
        let mut chunk = [0u8; 8192];
        let mut closed = false;
        loop {
            match fdpass::receive(self.stream.as_fd(), &mut chunk, &mut self.descriptors) {
                Ok(0) => closed = true,
                Ok(length) => {
                    self.incoming.extend_from_slice(&chunk[..length]);
                    if self.incoming.len() <= MAX_LINE && self.descriptors.len() <= 16 {
                        continue;
                    }
                    closed = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => closed = true,
            }
            break;
        }
        Received { lines: self.take_lines(), closed }
    }

    fn take_lines(&mut self) -> Vec<Vec<u8>> {
        let Some(end) = self.incoming.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let rest = self.incoming.split_off(end + 1);
        let whole = std::mem::replace(&mut self.incoming, rest);
        whole
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(<[u8]>::to_vec)
            .collect()
    }

    /// Descriptors received so far.
    pub(super) fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    /// Queues a line and sends what can be sent now; false when the client is lost.
    pub(super) fn send(&mut self, line: Vec<u8>, descriptor: Option<OwnedFd>) -> bool {
        self.outgoing.push_back((line, descriptor));
        let queued: usize = self.outgoing.iter().map(|(line, _)| line.len()).sum();
        queued <= MAX_QUEUED && self.flush()
    }

    /// Sends what can be sent now; false when the client is lost.
    pub(super) fn flush(&mut self) -> bool {
        while let Some((line, descriptor)) = self.outgoing.front_mut() {
            let with: Vec<BorrowedFd<'_>> = descriptor.iter().map(AsFd::as_fd).collect();
            match fdpass::send(self.stream.as_fd(), line, &with) {
                Ok(sent) if sent == line.len() => {
                    self.outgoing.pop_front();
                }
                Ok(sent) => {
                    line.drain(..sent);
                    *descriptor = None;
                }
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }

    /// Sends the rest even if that means waiting a moment: the supervisor is about to end.
    pub(super) fn finish(mut self) {
        let patience = Some(std::time::Duration::from_secs(1));
        let blocking = self.stream.set_nonblocking(false);
        if blocking.and_then(|()| self.stream.set_write_timeout(patience)).is_ok() {
            self.flush();
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
