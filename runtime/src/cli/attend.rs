//! What a new process asks of the command that made it, until it executes its program: to take its terminal, to run the
//! hooks outside, to pass on the listener of its seccomp filter.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::Hooks;
use serde_json::json;

use super::console::Console;
use super::{CliError, message};
use crate::create::{Channel, Message};
use crate::fault;
use crate::hooks::{self, State};
use crate::plan::Listener;
use crate::sys::{fdpass, pidfd};

pub(super) struct Attendant<'a> {
    pub(super) process: BorrowedFd<'a>,
    pub(super) console: &'a mut Console,
    /// Of the container, as hooks and the listener are told it.
    pub(super) state: &'a State,
    pub(super) hooks: Option<&'a Hooks>,
    pub(super) listener: Option<&'a Listener>,
    /// Of the process itself.
    pub(super) pid: i32,
}

impl Attendant<'_> {
    /// Serves a container's first process until it can be started.
    pub(super) fn hear_ready(self, channel: &Channel) -> Result<(), CliError> {
        match self.hear(channel)? {
            Message::Ready => Ok(()),
            _ => message("the container's first process died before it was ready"),
        }
    }

    /// Serves a process until it has executed its program (or died: nobody can tell the two apart here).
    pub(super) fn hear_executed(self, channel: &Channel) -> Result<(), CliError> {
        self.hear(channel).map(drop)
    }

    /// Returns the last thing that the new process says; never a failure.
    fn hear(mut self, channel: &Channel) -> Result<Message, CliError> {
        let failed = || CliError::io("hear from the new process");
        loop {
            let mut wait = [PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
            match poll(&mut wait, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(failed()(errno.into())),
            }
            match channel.receive().map_err(failed())? {
                None => {}
                Some((last @ (Message::Ready | Message::Closed), _)) => return Ok(last),
                Some((Message::Failed(failure), _)) => return Err(CliError::Failure(failure)),
                Some((message, descriptor)) => {
                    let waits = message != Message::Terminal;
                    self.serve(message, descriptor)?;
                    if waits {
                        channel.go().map_err(failed())?;
                    }
                }
            }
        }
    }

    fn serve(&mut self, message: Message, descriptor: Option<OwnedFd>) -> Result<(), CliError> {
        match (message, self.hooks) {
            (Message::Terminal, _) => self.console.take(descriptor),
            (Message::Listener(number), _) => self.pass_on(number),
            (Message::Hooks, Some(hooks)) => Ok(hooks::create_runtime(hooks, self.state)?),
            _ => Ok(()),
        }
    }

    /// To whoever decides about the system calls (config-linux.md#containerprocessstate).
    fn pass_on(&self, number: i32) -> Result<(), CliError> {
        fault::point("pass on the seccomp listener").map_err(CliError::io("pass it on"))?;
        let take = CliError::io("take the seccomp listener from the new process");
        let descriptor = pidfd::take_descriptor(self.process, number).map_err(take)?;
        let Some(Listener { path, metadata }) = self.listener else { return Ok(()) };
        let state = json!({
            "ociVersion": self.state.oci_version,
            "fds": ["seccompFd"],
            "pid": self.pid,
            "metadata": metadata.as_deref().unwrap_or_default(),
            "state": self.state,
        });
        UnixStream::connect(path)
            .and_then(|socket| {
                fdpass::send_all(&socket, state.to_string().as_bytes(), &[descriptor.as_fd()])
            })
            .map_err(CliError::io(format!("send the seccomp listener to {path:?}")))
    }
}
