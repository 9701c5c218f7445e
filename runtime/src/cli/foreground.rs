//! Staying beside a process until it ends: signals are passed on, a terminal is copied. Decides nothing.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::CliError;
use super::console::{Console, Proxy};
use crate::create::Birth;
use crate::sys::{pidfd, process as sys};

/// Blocks every signal, to be read from the descriptor: none is lost between the birth of a process and the wait for
/// it.
pub(super) fn signals() -> Result<SignalFd, CliError> {
    let all = SigSet::all();
    let blocked = all
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK));
    blocked.map_err(|errno| CliError::io("block signals")(errno.into()))
}

/// Waits for the end of the process; returns its exit code.
pub(super) fn wait(birth: &Birth, signals: &SignalFd, console: Console) -> Result<u8, CliError> {
    let mut proxy = match console {
        Console::Own(proxy) => proxy,
        _ => None,
    };
    let mut copying = true;
    loop {
        if let Some(code) = ended(birth) {
            if let Some(proxy) = &mut proxy {
                proxy.drain();
            }
            return Ok(code);
        }
        let mut all = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if let Some(proxy) = proxy.as_ref().filter(|_| copying) {
            all.extend(proxy.interests().map(|(fd, flags)| PollFd::new(fd, flags)));
        }
        match poll(&mut all, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(CliError::io("wait for the container")(errno.into())),
        }
        let events = |index: usize| {
            let event = all.get(index).and_then(PollFd::revents);
            event.unwrap_or(PollFlags::empty())
        };
        let (input, output) = (events(1), events(2));
        pass_on(birth, signals, proxy.as_ref());
        if let Some(proxy) = proxy.as_mut().filter(|_| copying) {
            // When nothing will come any more, what is left is to wait for the end.
            copying = proxy.copy(input, output);
        }
    }
}

fn ended(birth: &Birth) -> Option<u8> {
    while let Ok(Some((pid, status))) = sys::reap() {
        if pid == birth.child.pid {
            let code = match status {
                sys::Status::Code(code) => code,
                sys::Status::Signal(signal) => 128 + signal,
            };
            return Some(u8::try_from(code).unwrap_or(u8::MAX));
        }
    }
    None
}

fn pass_on(birth: &Birth, signals: &SignalFd, proxy: Option<&Proxy>) {
    while let Ok(Some(info)) = signals.read_signal() {
        match i32::try_from(info.ssi_signo).unwrap_or_default() {
            libc::SIGCHLD => {}
            libc::SIGWINCH if proxy.is_some() => proxy.into_iter().for_each(Proxy::resize),
            // It may just have ended; then the next turn tells.
            signal => drop(pidfd::send_signal(birth.child.pidfd.as_fd(), signal)),
        }
    }
}
