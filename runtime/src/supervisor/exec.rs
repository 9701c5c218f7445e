//! More processes in running containers: begun on behalf of a connection, reported to it, and left alone when it
//! is gone.

use std::os::fd::{AsFd, OwnedFd};

use super::core::{End, Peer};
use super::serve::Supervisor;
use crate::create::{self, Birth, Bond, Channel, Message};
use crate::fault;
use crate::oci;
use crate::plan::ProcessPlan;
use crate::wire::{ErrorKind, ExecRequest, Response};

#[derive(Debug)]
pub(super) struct Exec {
    pub(super) pid: i32,
    /// Until the program is executed.
    pub(super) channel: Option<Channel>,
    /// Who asked.
    peer: Peer,
    terminal: Option<OwnedFd>,
}

impl Supervisor {
    pub(super) fn exec(&mut self, peer: Peer, request: ExecRequest) {
        let streams = self.descriptors(peer);
        match self.begin(&request, &streams) {
            Ok(Birth { child, channel }) => {
                let channel = Some(channel);
                self.execs.push(Exec { pid: child.pid, channel, peer, terminal: None });
            }
            Err((kind, message)) => self.reply(peer, Response::Error { kind, message }),
        }
    }

    fn begin(
        &self,
        request: &ExecRequest,
        streams: &[OwnedFd],
    ) -> Result<Birth, (ErrorKind, String)> {
        let invalid = |error: oci::ConfigError| (ErrorKind::Invalid, error.to_string());
        oci::check_process(&request.process, "process").map_err(invalid)?;
        let mut plan = ProcessPlan::of(&request.process, "process").map_err(invalid)?;
        let streams = match streams {
            _ if plan.terminal.is_some() => [self.null(); 3],
            [input, output, error] => [input.as_fd(), output.as_fd(), error.as_fd()],
            _ => {
                let message = "an exec without terminal needs three descriptors".to_owned();
                return Err((ErrorKind::Invalid, message));
            }
        };
        let internal = |message: String| (ErrorKind::Internal, message);
        fault::point("begin a process").map_err(|error| internal(error.to_string()))?;
        let unit = self.units.get(&request.container);
        let init = unit.and_then(|unit| Some((unit, unit.init.as_ref()?)));
        let (unit, init) = init.ok_or_else(|| {
            (ErrorKind::WrongPhase, format!("container {:?} has ended", request.container))
        })?;
        plan.keyring = create::session_keyring(&unit.id);
        plan.confinement = unit.confinement.clone();
        plan.labels = plan.labels.or(&unit.labels);
        plan.lenient_limits = true;
        let init = (init.pid, init.pidfd.as_fd());
        create::enter_at(&plan, Bond::Mortal, init, &unit.cgroup, streams)
            .map_err(|error| internal(error.to_string()))
    }

    pub(super) fn hear_exec(&mut self, pid: i32) {
        loop {
            let Some(at) = self.execs.iter().position(|exec| exec.pid == pid) else { return };
            let exec = &mut self.execs[at];
            let Some(channel) = exec.channel.as_ref() else { return };
            match channel.receive() {
                Ok(None) => return,
                Ok(Some((Message::Terminal, master))) => exec.terminal = master,
                // Refused before (`oci::check_supervised`).
                Ok(Some((Message::Hooks | Message::Listener(_), _))) => {}
                Ok(Some((Message::Failed(failure), _))) => {
                    let kind = if failure.is_program() {
                        ErrorKind::CannotRun
                    } else {
                        ErrorKind::Internal
                    };
                    let exec = self.execs.swap_remove(at);
                    let message = failure.message;
                    self.reply(exec.peer, Response::Error { kind, message });
                }
                Ok(Some((Message::Closed | Message::Ready, _))) | Err(_) => {
                    exec.channel = None;
                    let (peer, terminal) = (exec.peer, exec.terminal.take());
                    self.send(peer, &Response::ExecStarted { pid }, terminal);
                }
            }
        }
    }

    pub(super) fn exec_ended(&mut self, pid: i32, end: End) {
        self.hear_exec(pid);
        if let Some(at) = self.execs.iter().position(|exec| exec.pid == pid) {
            let exec = self.execs.swap_remove(at);
            self.reply(exec.peer, Response::ExecExited { exit_code: end.exit_code() });
        }
    }
}
