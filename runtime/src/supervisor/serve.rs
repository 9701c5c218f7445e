//! The loop: waits for descriptors, turns what happened into the core's inputs, performs its actions. Never decides.
//!
//! One turn looks at channels before pipes, at pipes before requests, and reaps last, so that a process' last words are
//! heard before its end.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use super::connection::Connection;
use super::core::{Action, Core, End, Input, Peer};
use super::dying::Dying;
use super::exec::Exec;
use super::setup::{Ends, OWN_CGROUP};
use super::spawn::Settings;
use super::unit::Unit;
use super::{record, time};
use crate::cgroup;
use crate::create::Message;
use crate::fault;
use crate::sys::{pidfd, process as sys};
use crate::wire::{self, ErrorKind, Event, Response};

/// After so many quiet milliseconds memory is given back; then the loop sleeps without a timeout.
const REST_AFTER: u16 = 1000;

pub(super) struct Supervisor {
    pub(super) settings: Settings,
    core: Core,
    listener: UnixListener,
    signals: SignalFd,
    pub(super) null: OwnedFd,
    peers: BTreeMap<Peer, Connection>,
    next_peer: Peer,
    pub(super) units: BTreeMap<String, Unit>,
    pub(super) execs: Vec<Exec>,
    dying: Dying,
    inputs: VecDeque<Input>,
    buffer: Vec<u8>,
    /// Nothing has happened since memory was given back.
    rested: bool,
    over: bool,
}

/// Whose descriptor is ready.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Channel(String),
    ExecChannel(i32),
    Stream(String, usize),
    Dying,
    Peer(Peer),
    Listener,
    Signals,
}

impl Supervisor {
    pub(super) fn new(settings: Settings, ends: Ends) -> Supervisor {
        Supervisor {
            settings,
            core: Core::new(nix::unistd::getpid().as_raw()),
            listener: ends.listener,
            signals: ends.signals,
            null: ends.null,
            peers: BTreeMap::new(),
            next_peer: 0,
            units: BTreeMap::new(),
            execs: Vec::new(),
            dying: Dying::default(),
            inputs: VecDeque::new(),
            buffer: Vec::new(),
            rested: false,
            over: false,
        }
    }

    /// Serves until the Pod is over.
    pub(super) fn run(mut self) -> io::Result<()> {
        while !self.over {
            for (source, events) in self.wait()? {
                self.handle(source, events);
                self.settle();
            }
        }
        for (_, peer) in self.peers {
            peer.finish();
        }
        Ok(())
    }

    fn wait(&mut self) -> io::Result<Vec<(Source, PollFlags)>> {
        let mut sources = Vec::new();
        let mut polled = Vec::new();
        let mut add = |source, fd, flags| {
            sources.push(source);
            polled.push(PollFd::new(fd, flags));
        };
        let readable = PollFlags::POLLIN;
        for (name, unit) in &self.units {
            let channel = unit.init.as_ref().and_then(|init| init.channel.as_ref());
            if let Some(channel) = channel {
                add(Source::Channel(name.clone()), channel.as_fd(), readable);
            }
            for (index, stream) in unit.sources.iter().enumerate() {
                add(Source::Stream(name.clone(), index), stream.as_fd(), readable);
            }
        }
        for exec in &self.execs {
            if let Some(channel) = &exec.channel {
                add(Source::ExecChannel(exec.pid), channel.as_fd(), readable);
            }
        }
        for (peer, connection) in &self.peers {
            add(Source::Peer(*peer), connection.as_fd(), connection.interest());
        }
        for events in self.dying.watched() {
            add(Source::Dying, events, PollFlags::POLLPRI);
        }
        add(Source::Listener, self.listener.as_fd(), readable);
        add(Source::Signals, self.signals.as_fd(), readable);
        let timeout = if self.rested { PollTimeout::NONE } else { REST_AFTER.into() };
        let ready = match poll(&mut polled, timeout) {
            Err(nix::errno::Errno::EINTR) => return Ok(Vec::new()),
            other => other?,
        };
        self.rested = ready == 0;
        if self.rested {
            // Quiet from here on, perhaps for days.
            self.buffer = Vec::new();
            sys::trim_heap();
            return Ok(Vec::new());
        }
        let events = polled.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let mut ready: Vec<_> =
            sources.into_iter().zip(events).filter(|(_, events)| !events.is_empty()).collect();
        // The order of the variants is the order in which to look. Streams from the last on, since
        // one that ends is removed.
        ready.sort_by(|(a, _), (b, _)| match (a, b) {
            (Source::Stream(a, i), Source::Stream(b, j)) => a.cmp(b).then(j.cmp(i)),
            _ => a.cmp(b),
        });
        Ok(ready)
    }

    fn handle(&mut self, source: Source, events: PollFlags) {
        match source {
            Source::Channel(name) => self.hear_container(&name),
            Source::ExecChannel(pid) => self.hear_exec(pid),
            Source::Stream(name, index) => {
                if let Some(unit) = self.units.get_mut(&name)
                    && !unit.pump(index, &mut self.buffer)
                    && index < unit.sources.len()
                {
                    unit.sources.remove(index);
                }
            }
            Source::Dying => self.dying.bury(),
            Source::Peer(peer) => self.hear_peer(peer, events),
            Source::Listener => self.accept(),
            Source::Signals => self.take_signals(),
        }
    }

    /// Steps the core until nothing is left to tell it.
    fn settle(&mut self) {
        while let Some(input) = self.inputs.pop_front() {
            for action in self.core.step(input, time::now()) {
                self.perform(action);
            }
        }
    }

    fn hear_container(&mut self, name: &str) {
        loop {
            let Some(unit) = self.units.get_mut(name) else { return };
            let Some(init) = unit.init.as_mut() else { return };
            let Some(channel) = init.channel.as_ref() else { return };
            let container = name.to_owned();
            match channel.receive() {
                Ok(None) => return,
                Ok(Some((Message::Ready, _))) => {
                    init.ready = true;
                    self.inputs.push_back(Input::Ready { container });
                }
                Ok(Some((Message::Terminal, master))) => {
                    master.into_iter().for_each(|master| unit.take_terminal(master));
                }
                // Refused before (`oci::check_supervised`).
                Ok(Some((Message::Hooks | Message::Listener(_), _))) => {}
                Ok(Some((Message::Failed(failure), _))) => {
                    // It ends by itself; its exit code says less than what it has just said.
                    let ready = std::mem::take(&mut unit.init).is_some_and(|init| init.ready);
                    unit.drain(&mut self.buffer);
                    let input = if ready {
                        Input::StartFailed { container, failure }
                    } else {
                        let cgroup = self.units.remove(name).map(|unit| unit.cgroup);
                        let removed = cgroup.map_or(Ok(()), |cgroup| self.dying.end(cgroup));
                        report("remove the cgroup of", name, removed);
                        let (kind, message) = (ErrorKind::Internal, failure.message);
                        Input::Failed { container, kind, message }
                    };
                    self.inputs.push_back(input);
                }
                Ok(Some((Message::Closed, _))) => {
                    init.channel = None;
                    // Before it was ready it can only have died, which the signal tells.
                    if init.ready {
                        self.inputs.push_back(Input::Executed { container });
                    }
                }
                Err(error) => {
                    report("hear from the first process of", name, Err::<(), _>(error));
                    init.channel = None;
                }
            }
        }
    }

    fn hear_peer(&mut self, peer: Peer, events: PollFlags) {
        let Some(connection) = self.peers.get_mut(&peer) else { return };
        if events.contains(PollFlags::POLLOUT) && !connection.flush() {
            self.peers.remove(&peer);
            return;
        }
        if !events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            return;
        }
        let received = connection.receive();
        for line in received.lines {
            match wire::decode(&line) {
                Ok(request) => self.inputs.push_back(Input::Request { peer, request }),
                Err(error) => {
                    let message = format!("decode the request: {error}");
                    self.reply(peer, Response::Error { kind: ErrorKind::Invalid, message });
                }
            }
            // One after the other: an Exec takes the descriptors that came with it.
            self.settle();
        }
        if received.closed {
            self.peers.remove(&peer);
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            match Connection::accept(stream) {
                Ok(Some(connection)) => {
                    self.peers.insert(self.next_peer, connection);
                    self.next_peer += 1;
                }
                Ok(None) => {
                    let error = io::Error::from(io::ErrorKind::PermissionDenied);
                    report("accept a connection of", "another user", Err::<(), _>(error));
                }
                Err(error) => report("accept", "a connection", Err::<(), _>(error)),
            }
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
            if [Signal::SIGTERM as i32, Signal::SIGINT as i32].contains(&number) {
                self.inputs.push_back(Input::Terminate);
            }
        }
        self.reap();
    }

    /// Every child that has ended: one signal may stand for several.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = sys::reap() {
            let end = match status {
                sys::Status::Code(code) => End::Code(code),
                sys::Status::Signal(signal) => End::Signal(signal),
            };
            self.ended(pid, end);
        }
    }

    fn ended(&mut self, pid: i32, end: End) {
        let is_init = |unit: &Unit| unit.init.as_ref().is_some_and(|init| init.pid == pid);
        let name = self.units.values().find(|unit| is_init(unit)).map(|unit| unit.name.clone());
        if let Some(name) = name {
            self.hear_container(&name);
            let Some(unit) = self.units.get_mut(&name) else { return };
            if unit.init.take().is_none() {
                return;
            }
            let oom_killed = cgroup::oom_kills(&unit.cgroup) > 0;
            // Without a pid namespace of its own, others may be left.
            report("kill what is left of", &name, cgroup::kill(&unit.cgroup));
            unit.drain(&mut self.buffer);
            self.inputs.push_back(Input::Exited { container: name, end, oom_killed });
        } else {
            self.exec_ended(pid, end);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Reply { peer, response } => self.reply(peer, response),
            Action::Tell { peer, event } => self.send(peer, &event, None),
            Action::Publish(event) => self.publish(&event),
            Action::Subscribe { peer } => {
                if let Some(connection) = self.peers.get_mut(&peer) {
                    connection.subscribed = true;
                }
            }
            Action::Make(request) => self.make(&request),
            Action::Release { container } => self.release(&container),
            Action::Signal { peer, container, signal } => self.signal(peer, &container, signal),
            Action::Exec { peer, request } => self.exec(peer, *request),
            Action::Persist(record) => {
                let written = record::write(&self.settings.pod_dir, &record);
                report("write the record of", &record.container, written);
            }
            Action::Forget { container } => self.forget(&container),
            Action::KillAll => self.kill_all(),
            Action::RemovePod => self.remove_pod(),
            Action::End => self.over = true,
        }
    }

    fn make(&mut self, request: &wire::CreateRequest) {
        let container = request.container.clone();
        match Unit::make(request, &self.settings.cgroup, self.null.as_fd()) {
            Ok(unit) => {
                let pid = unit.init.as_ref().map_or(0, |init| init.pid);
                self.units.insert(container.clone(), unit);
                self.inputs.push_back(Input::Launched { container, pid });
            }
            Err(error) => {
                let (kind, message) = (error.kind, error.message);
                self.inputs.push_back(Input::Failed { container, kind, message });
            }
        }
    }

    fn release(&mut self, container: &str) {
        let init = self.units.get(container).and_then(|unit| unit.init.as_ref());
        let Some(init) = init else { return };
        if let Some(channel) = &init.channel {
            let go = fault::point("let the program be executed").and_then(|()| channel.go());
            if go.is_err() {
                // It would wait for ever. Gone, it is reaped, and that answers the request.
                let _ = pidfd::send_signal(init.pidfd.as_fd(), libc::SIGKILL);
            }
            report("start", container, go);
        }
    }

    fn signal(&mut self, peer: Peer, container: &str, signal: i32) {
        let init = self.units.get(container).and_then(|unit| unit.init.as_ref());
        let sent = match init {
            Some(init) => pidfd::send_signal(init.pidfd.as_fd(), signal),
            // It has just ended; the event is on its way.
            None => Ok(()),
        };
        let response = match sent {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                let reason = sys::reason(&error);
                let message = format!("send signal {signal} to {container:?}: {reason}");
                let invalid = error.raw_os_error() == Some(libc::EINVAL);
                let kind = if invalid { ErrorKind::Invalid } else { ErrorKind::Internal };
                Response::Error { kind, message }
            }
            _ => Response::Ok,
        };
        self.reply(peer, response);
    }

    fn forget(&mut self, container: &str) {
        // Whatever is there to do is done.
        report("forget", container, fault::point("forget a container"));
        self.units.remove(container);
        let cgroup = self.settings.cgroup.join(container);
        report("remove the cgroup of", container, self.dying.end(cgroup));
        let removed = record::remove(&self.settings.pod_dir, container);
        report("remove the record of", container, removed);
    }

    fn kill_all(&self) {
        for (name, unit) in &self.units {
            report("kill", name, cgroup::kill(&unit.cgroup));
        }
    }

    /// The supervisor lives in the Pod's cgroup, so it moves to the tree's top first.
    fn remove_pod(&self) {
        report("remove", OWN_CGROUP, fault::point("remove the pod's cgroup"));
        let pod = &self.settings.cgroup;
        let top = pod.ancestors().take_while(|path| path.join("cgroup.procs").exists()).last();
        let moved = cgroup::add_process(top.unwrap_or(pod), nix::unistd::getpid().as_raw());
        if moved.is_err() {
            // In a delegated tree the top is not ours; whoever made the Pod removes its cgroup.
            return;
        }
        report("remove", OWN_CGROUP, cgroup::remove(pod));
    }

    pub(super) fn reply(&mut self, peer: Peer, response: Response) {
        self.send(peer, &response, None);
    }

    pub(super) fn send(
        &mut self,
        peer: Peer,
        message: &impl serde::Serialize,
        descriptor: Option<OwnedFd>,
    ) {
        let Some(connection) = self.peers.get_mut(&peer) else { return };
        if !connection.send(wire::encode(message), descriptor) {
            self.peers.remove(&peer);
        }
    }

    fn publish(&mut self, event: &Event) {
        let subscribed = self.peers.iter().filter(|(_, connection)| connection.subscribed);
        let peers: Vec<Peer> = subscribed.map(|(peer, _)| *peer).collect();
        peers.into_iter().for_each(|peer| self.send(peer, event, None));
    }

    pub(super) fn descriptors(&mut self, peer: Peer) -> Vec<OwnedFd> {
        self.peers.get_mut(&peer).map(Connection::take_descriptors).unwrap_or_default()
    }

    pub(super) fn null(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }
}

/// Limits that are no mistake and cannot be had here. (Which controllers a host lacks its agent tells.)
pub(super) fn report_ignored(container: &str, furnished: &cgroup::Outcome) {
    for field in &furnished.ignored {
        let why = "has no meaning in cgroup version 2";
        report(&format!("obey linux.resources.{field} of"), container, Err::<(), _>(why));
    }
}

/// Into the supervisor's log: nobody waits for these, and a full disk must not end the Pod (as `eprintln` would).
fn report<T, E: std::fmt::Display>(verb: &str, what: &str, result: Result<T, E>) {
    if let Err(error) = result {
        let _ = writeln!(io::stderr(), "{verb} {what:?}: {error}");
    }
}
