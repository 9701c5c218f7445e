//! The birth of a process in a container: the parent's side. Never decides what the process does (`plan/`) and never
//! waits for it.
//!
//! | parent | child |
//! |---|---|
//! | clone3 into the cgroup and the new namespaces | |
//! | | dies with its parent from now on; closes what it should not have |
//! | writes the maps of a new user namespace; `MAPPED` | becomes its root |
//! | | joins namespaces, performs the steps |
//! | | `Terminal` (with the pty's master), if it made one |
//! | | `Ready`, then waits; or `Failed` and ends |
//! | `GO` when somebody starts the container | |
//! | | limits, user, capabilities, exec: the channel closes; or `Failed` |
//!
//! One more process in a running container ([`enter`]) skips `Ready` and `GO`. The parent going away at any point
//! closes the channel, which the child takes as "kill yourself".
//!
//! Where the time of `run /bin/true` goes: processor time of both processes in µs, sampled on a busy machine (so: shares, not
//! a stopwatch), beside the floor of `cargo xtask bench runtime`, which makes the same container with bare system calls.
//!
//! | | floor | here | the rest is for |
//! |---|---|---|---|
//! | clone3 with the namespaces (the network's is three quarters) | 1030 | 1240 | the page tables of a larger process |
//! | libc's start: CPUID, which traps in a virtual machine | 280 | 270 | |
//! | our instructions, in code that runs once | 60 | 680 | reading, checking and planning config.json, allocation |
//! | page faults | 150 | 530 | a program of 5 MB; copies after clone |
//! | cgroup made and removed | 140 | 410 | finding it, controllers handed down |
//! | mounts, pivot | 460 | 640 | mounts made detached, with attributes, attached last |
//! | paths, nodes | 80 | 310 | each path resolved by the kernel inside of the root |
//! | execve, twice | 190 | 280 | |
//! | messages, waiting | 70 | 290 | the state is public before the program runs |
//! | everything else | 230 | 1070 | state directory and lock, lo up (180), identity, descriptors |

mod child;
mod copy_up;
mod enter;
mod home;
mod inside;
mod layers;
mod lookup;
mod message;
mod mounts;
mod net;
mod nodes;
mod prepared;
mod preserved;
mod process;
mod program;
mod protect;
mod root;
mod sources;
mod stage;
mod teardown;
mod users;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, setns, unshare};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, socket, socketpair};
use nix::unistd::Pid;

pub(crate) use message::{Failure, Message};
pub(crate) use preserved::Preserved;
pub(crate) use teardown::unmount;

use crate::oci::ConfigError;
use crate::plan::{Plan, ProcessPlan};
use crate::sys::clone::{self, Child};
use crate::sys::fdpass;

/// Why a process was not even begun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("{verb}: {}", crate::sys::process::reason(error))]
    Io { verb: String, error: io::Error },
    /// This host cannot give what is asked for.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

fn failed(verb: impl Into<String>) -> impl FnOnce(io::Error) -> LaunchError {
    let verb = verb.into();
    move |error| LaunchError::Io { verb, error }
}

/// A process that has been begun, and the channel to it.
#[derive(Debug)]
pub(crate) struct Birth {
    pub(crate) child: Child,
    pub(crate) channel: Channel,
}

/// The parent's end.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
}

impl Channel {
    /// The next message, `None` when there is none yet. Does not block.
    pub(crate) fn receive(&self) -> io::Result<Option<(Message, Option<OwnedFd>)>> {
        let mut buffer = [0u8; message::MAX];
        let mut fds = Vec::new();
        match fdpass::receive(self.socket.as_fd(), &mut buffer, &mut fds) {
            Ok(length) => Ok(Some((Message::decode(&buffer[..length]), fds.pop()))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // The child died with unread data in its direction.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                Ok(Some((Message::Closed, None)))
            }
            Err(error) => Err(error),
        }
    }

    /// Lets a child that is ready execute its program.
    pub(crate) fn go(&self) -> io::Result<()> {
        fdpass::send_all(&self.socket, message::GO, &[])
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// How a new process hangs together with who made it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bond<'a> {
    /// It dies with its parent, and a container is started by [`Channel::go`].
    Mortal,
    /// It survives its parent, but a container is started by [`Channel::go`].
    Independent,
    /// It survives its parent and is started by whoever connects to this listening socket
    /// (SOCK_SEQPACKET, see [`connect`]).
    Socket(BorrowedFd<'a>),
}

/// Begins a container: a process that performs `plan` and then waits to be started.
pub(crate) fn launch(
    plan: &Plan,
    bond: Bond<'_>,
    cgroup: Option<BorrowedFd<'_>>,
    streams: [BorrowedFd<'_>; 3],
) -> Result<Birth, LaunchError> {
    plan.process.labels.check()?;
    let mut sources = sources::Sources::open(plan)?;
    if sources.wait_for_users()
        && let Some(users) = sources::joined_users(plan)?
    {
        sources.map_ids(users.as_fd())?;
    }
    if let (Some(owner), Some(cgroup)) = (plan.cgroup_owner().filter(|uid| *uid != 0), cgroup) {
        users::own_cgroup(cgroup, owner).map_err(failed("give the cgroup to the user"))?;
    }
    let (ours, theirs) = channel()?;
    let inherited = child::Inherited {
        channel: theirs.as_raw_fd(),
        streams: streams.map(|fd| fd.as_raw_fd()),
        extra: match bond {
            Bond::Socket(listener) => Some(listener.as_raw_fd()),
            Bond::Mortal | Bond::Independent => None,
        },
        mortal: matches!(bond, Bond::Mortal),
        preserved: plan.process.preserved,
        sources: sources.numbers(),
    };
    let child = beget(plan, cgroup, &inherited)?;
    let settled = settle(plan, &child, &mut sources, streams, &ours);
    if let Err(error) = settled {
        // The first error is the one to tell.
        let _ = users::end(&child);
        return Err(error);
    }
    Ok(Birth { child, channel: ours })
}

/// What the new process cannot do for itself.
fn settle(
    plan: &Plan,
    child: &Child,
    sources: &mut sources::Sources,
    streams: [BorrowedFd<'_>; 3],
    channel: &Channel,
) -> Result<(), LaunchError> {
    if !plan.net_devices.is_empty() {
        let joined = plan.join.iter().find(|join| join.kind == libc::CLONE_NEWNET);
        let of_child = || format!("/proc/{}/ns/net", child.pid).into();
        let path = joined.map_or_else(of_child, |join| join.path.clone());
        fault("give the network devices")?;
        let target = File::open(&path).map_err(failed(format!("open {path:?}")))?;
        net::give(&plan.net_devices, &target)?;
    }
    let Some(maps) = &plan.users else { return Ok(()) };
    fault("map the ids of the first process")?;
    users::settle(plan, maps, child, streams)?;
    if sources.wait_for_users() {
        let users = users::of(child).map_err(failed("open the user namespace"))?;
        sources.map_ids(users.as_fd())?;
    }
    fault("tell the first process its ids")?;
    fdpass::send_all(&channel.socket, message::MAPPED, &[])
        .map_err(failed("tell the new process its ids"))
}

fn beget(
    plan: &Plan,
    cgroup: Option<BorrowedFd<'_>>,
    inherited: &child::Inherited,
) -> Result<Child, LaunchError> {
    let _time = match &plan.time {
        Some(offsets) => {
            Some(TimeNamespace::make(offsets).map_err(failed("make the time namespace"))?)
        }
        None => None,
    };
    if is_staged(plan) {
        return stage::spawn(plan, cgroup, inherited);
    }
    let pid_join = plan.join.iter().find(|join| join.kind == libc::CLONE_NEWPID);
    let _back = match pid_join {
        Some(join) => {
            let file = File::open(&join.path).map_err(failed(format!("open {:?}", join.path)))?;
            Some(PidNamespace::enter(file.as_fd()).map_err(failed("join the pid namespace"))?)
        }
        None => None,
    };
    let child = clone::spawn(plan.unshare, cgroup, || child::container(plan, inherited));
    child.map_err(failed("clone the container's first process"))
}

fn fault(point: &str) -> Result<(), LaunchError> {
    crate::fault::point(point).map_err(failed(point))
}

/// Whether a process in between enters the namespaces.
fn is_staged(plan: &Plan) -> bool {
    plan.has_users() && !plan.join.is_empty()
}

/// Begins one more process in the container whose first process `init` is.
pub(crate) fn enter(
    process: &ProcessPlan,
    bond: Bond<'_>,
    init: BorrowedFd<'_>,
    cgroup: Option<BorrowedFd<'_>>,
    streams: [BorrowedFd<'_>; 3],
) -> Result<Birth, LaunchError> {
    process.labels.check()?;
    let (ours, theirs) = channel()?;
    let inherited = child::Inherited {
        channel: theirs.as_raw_fd(),
        streams: streams.map(|fd| fd.as_raw_fd()),
        extra: Some(init.as_raw_fd()),
        mortal: matches!(bond, Bond::Mortal),
        preserved: process.preserved,
        sources: Vec::new(),
    };
    let _back = PidNamespace::enter(init).map_err(failed("enter the container's pid namespace"))?;
    let initial = process.affinity.initial.as_ref().map(Processors::take).transpose();
    let _initial = initial.map_err(failed("set process.execCPUAffinity.initial"))?;
    let child = clone::spawn(0, cgroup, || child::exec(process, &inherited));
    let child = child.map_err(failed("clone a process for the container"))?;
    Ok(Birth { child, channel: ours })
}

/// The session keyring of a container's processes, under the name that runc gives it.
pub(crate) fn session_keyring(id: &str) -> Option<CString> {
    CString::new(format!("_ses.{id}")).ok()
}

/// As [`enter`], into `cgroup`; where that cannot hold processes any more, because the container has divided it
/// further, into the one below it that the first process (`pid`, `init`) is in.
pub(crate) fn enter_at(
    process: &ProcessPlan,
    bond: Bond<'_>,
    (pid, init): (i32, BorrowedFd<'_>),
    cgroup: &Path,
    streams: [BorrowedFd<'_>; 3],
) -> Result<Birth, LaunchError> {
    let at = |path: &Path| {
        let directory = File::open(path).map_err(failed(format!("open cgroup {path:?}")))?;
        enter(process, bond, init, Some(directory.as_fd()), streams)
    };
    let busy = match at(cgroup) {
        Err(LaunchError::Io { error, verb }) if error.raw_os_error() == Some(libc::EBUSY) => {
            LaunchError::Io { error, verb }
        }
        other => return other,
    };
    match crate::cgroup::of_process(pid).filter(|path| path.starts_with(cgroup)) {
        Some(path) => at(&path),
        None => Err(busy),
    }
}

/// Connects to the start socket of a container that outlived its creator.
pub(crate) fn connect(path: &Path) -> io::Result<Channel> {
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    nix::sys::socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(Channel { socket })
}

/// Whether a container still waits at its start socket. The file alone does not tell: a `start` that was killed leaves
/// it.
pub(crate) fn is_listening(path: &Path) -> bool {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None);
    let Ok((socket, address)) = socket.and_then(|socket| Ok((socket, UnixAddr::new(path)?))) else {
        return false;
    };
    // EAGAIN: it listens, and others wait already.
    let connected = nix::sys::socket::connect(socket.as_raw_fd(), &address);
    matches!(connected, Ok(()) | Err(nix::errno::Errno::EAGAIN))
}

/// Makes the start socket of a container.
pub(crate) fn listen(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    nix::sys::socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    nix::sys::socket::listen(&socket, Backlog::new(1)?)?;
    Ok(socket)
}

fn channel() -> Result<(Channel, OwnedFd), LaunchError> {
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
    let (ours, theirs) = pair.map_err(io::Error::from).map_err(failed("make a socket pair"))?;
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map_err(io::Error::from)
        .map_err(failed("set up a socket pair"))?;
    Ok((Channel { socket: ours }, theirs))
}

/// While it lives, this process, and each child from its birth on, runs on other processors.
struct Processors {
    own: CpuSet,
}

impl Processors {
    fn take(wanted: &CpuSet) -> io::Result<Processors> {
        let this = Pid::from_raw(0);
        let own = sched_getaffinity(this)?;
        sched_setaffinity(this, wanted)?;
        Ok(Processors { own })
    }
}

impl Drop for Processors {
    fn drop(&mut self) {
        // Fails only if our own processors have been taken from us meanwhile.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.own);
    }
}

/// While it lives, children of this process are born into another pid namespace.
struct PidNamespace {
    own: File,
}

impl PidNamespace {
    /// `of` is a namespace file, or the pidfd of a process in it.
    fn enter(of: BorrowedFd<'_>) -> io::Result<PidNamespace> {
        let own = File::open("/proc/self/ns/pid")?;
        setns(of, CloneFlags::CLONE_NEWPID)?;
        Ok(PidNamespace { own })
    }
}

impl Drop for PidNamespace {
    fn drop(&mut self) {
        // Going back to our own namespace needs nothing that entering the other did not need.
        let _ = setns(self.own.as_fd(), CloneFlags::CLONE_NEWPID);
    }
}

/// While it lives, children of this process are born into a new time namespace. (Clone could make one, too, but the
/// first process in it ends the time in which its offsets can be set.)
struct TimeNamespace {
    own: File,
}

impl TimeNamespace {
    fn make(offsets: &str) -> io::Result<TimeNamespace> {
        let own = File::open("/proc/self/ns/time")?;
        unshare(CloneFlags::from_bits_retain(libc::CLONE_NEWTIME))?;
        let new = TimeNamespace { own };
        if !offsets.is_empty() {
            std::fs::write("/proc/self/timens_offsets", offsets)?;
        }
        Ok(new)
    }
}

impl Drop for TimeNamespace {
    fn drop(&mut self) {
        let kind = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);
        // Going back to our own namespace needs nothing that making the other did not need.
        let _ = setns(self.own.as_fd(), kind);
    }
}
