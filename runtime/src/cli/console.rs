//! Where the master of a new process' terminal goes: to the socket of whoever will hold it, or, in the
//! foreground, between it and our own terminal. Copies bytes and sizes; never looks at what they say.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::sys::termios::{self, SetArg, Termios};

use super::{CliError, message};
use crate::fault;
use crate::plan::ProcessPlan;
use crate::sys::{fdpass, process as sys, tty};

/// What is to be done with a terminal.
#[derive(Debug)]
pub(super) enum Console {
    /// The process has none.
    None,
    Socket(PathBuf),
    /// Kept here as soon as it is there.
    Own(Option<Proxy>),
}

impl Console {
    /// `detached`: we will not be there to copy. The messages are runc's.
    pub(super) fn choose(
        terminal: bool,
        detached: bool,
        socket: Option<PathBuf>,
    ) -> Result<Console, CliError> {
        match (terminal, detached, socket) {
            (true, true, None) => {
                message("cannot allocate tty if runtime will detach without setting console socket")
            }
            (_, false, Some(_)) | (false, true, Some(_)) => {
                message("cannot use console socket if runtime will not detach or allocate tty")
            }
            (true, true, Some(path)) => Ok(Console::Socket(path)),
            (true, false, None) => Ok(Console::Own(None)),
            (false, _, None) => Ok(Console::None),
        }
    }

    /// Gives the new terminal the size of ours from its beginning: a program may look at once.
    pub(super) fn fit(&self, process: &mut ProcessPlan) {
        if let Console::Own(_) = self
            && let Some(size) = (0..3).find_map(|fd| tty::size(sys::borrow(fd)).ok())
        {
            process.terminal = Some(size);
        }
    }

    /// Takes the master that the new process has sent.
    pub(super) fn take(&mut self, master: Option<OwnedFd>) -> Result<(), CliError> {
        let Some(master) = master else {
            return message("the new process sent no terminal");
        };
        match self {
            Console::None => message("the new process sent a terminal that nobody asked for"),
            Console::Socket(path) => hand_over(&master, path),
            Console::Own(slot) => {
                *slot = Some(Proxy::new(master).map_err(CliError::io("set up the terminal"))?);
                Ok(())
            }
        }
    }
}

fn hand_over(master: &OwnedFd, path: &Path) -> Result<(), CliError> {
    fault::point("pass on the terminal")
        .and_then(|()| UnixStream::connect(path))
        .and_then(|socket| fdpass::send_all(&socket, b"/dev/ptmx", &[master.as_fd()]))
        .map_err(CliError::io(format!("send the terminal to console socket {path:?}")))
}

/// Most of what is read at a time.
const CHUNK: usize = 8192;

/// Our own terminal (if we have one) made transparent, and the container's behind it. Dropping it puts ours back
/// as it was.
#[derive(Debug)]
pub(super) struct Proxy {
    master: OwnedFd,
    /// The terminal that people see, and how it was.
    own: Option<(i32, Termios)>,
    input_open: bool,
    /// Read from our input, not yet taken by the container's.
    pending: VecDeque<u8>,
}

impl Proxy {
    pub(super) fn new(master: OwnedFd) -> io::Result<Proxy> {
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let own = (0..3).find_map(|fd| Some((fd, termios::tcgetattr(sys::borrow(fd)).ok()?)));
        let proxy = Proxy { master, own, input_open: true, pending: VecDeque::new() };
        if let Some((fd, before)) = &proxy.own {
            let mut raw = before.clone();
            termios::cfmakeraw(&mut raw);
            termios::tcsetattr(sys::borrow(*fd), SetArg::TCSANOW, &raw)?;
        }
        Ok(proxy)
    }

    /// Gives the container's terminal the size of ours.
    pub(super) fn resize(&self) {
        let Some((fd, _)) = self.own else { return };
        // A size that cannot be read or set is not worth ending for.
        let _ = tty::size(sys::borrow(fd))
            .and_then(|(columns, rows)| tty::resize(&self.master, columns, rows));
    }

    /// What to wait for: our input, and the container's terminal. No more is read than the other side takes.
    pub(super) fn interests(&self) -> [(BorrowedFd<'_>, PollFlags); 2] {
        let read = self.input_open && self.pending.is_empty();
        let input = if read { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut output = PollFlags::POLLIN;
        output.set(PollFlags::POLLOUT, !self.pending.is_empty());
        [(sys::borrow(0), input), (self.master.as_fd(), output)]
    }

    /// Copies what can be copied without waiting for the container. False when its terminal is closed.
    pub(super) fn copy(&mut self, input: PollFlags, output: PollFlags) -> bool {
        let ready = PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR;
        if self.input_open && self.pending.is_empty() && input.intersects(ready) {
            self.read_input();
        }
        self.feed();
        !output.intersects(ready) || self.read_output()
    }

    /// Everything that the container has written before its end.
    pub(super) fn drain(&mut self) {
        while self.read_output() {
            let mut wait = [nix::poll::PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            match nix::poll::poll(&mut wait, nix::poll::PollTimeout::ZERO) {
                Ok(count) if count > 0 => {}
                _ => return,
            }
        }
    }

    fn read_input(&mut self) {
        let mut buffer = [0u8; CHUNK];
        match nix::unistd::read(sys::borrow(0), &mut buffer) {
            Ok(length @ 1..) => self.pending.extend(&buffer[..length]),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
            // Its end: the container's terminal stays open, as a keyboard would.
            _ => self.input_open = false,
        }
    }

    fn feed(&mut self) {
        while !self.pending.is_empty() {
            let (bytes, _) = self.pending.as_slices();
            match nix::unistd::write(&self.master, bytes) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => return,
                Err(_) => self.pending.clear(),
            }
        }
    }

    /// False when there will be no more.
    fn read_output(&mut self) -> bool {
        let mut buffer = [0u8; CHUNK];
        match nix::unistd::read(&self.master, &mut buffer) {
            Ok(length @ 1..) => {
                // If nobody reads it any more, the container goes on all the same.
                let mut out = io::stdout().lock();
                let _ = out.write_all(&buffer[..length]).and_then(|()| out.flush());
                true
            }
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => true,
            // EIO: no process of the container has it open any more.
            _ => false,
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some((fd, before)) = &self.own {
            let _ = termios::tcsetattr(sys::borrow(*fd), SetArg::TCSADRAIN, before);
        }
    }
}
