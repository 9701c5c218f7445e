//! The new process' side, from its first instruction to exec. Runs in a copy of the supervisor: it may allocate, but
//! must leave nothing of the supervisor open.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};

use super::inside::LastParent;
use super::message::{Failure, Message};
use super::prepared::{self, Prepared};
use super::preserved::FIRST;
use super::protect::Masks;
use super::sources::Place;
use super::{enter, inside, lookup, mounts, nodes, process, protect, root};
use crate::fault;
use crate::plan::{Plan, ProcessPlan, Step};
use crate::sys::{fdpass, process as sys};

/// What a step failed with, to be put behind its name.
pub(super) type Done = io::Result<()>;

/// What the child takes over from its parent.
#[derive(Debug, Clone)]
pub(super) struct Inherited {
    pub(super) channel: RawFd,
    pub(super) streams: [RawFd; 3],
    /// The start socket of a container, the pidfd of the first process for an exec.
    pub(super) extra: Option<RawFd>,
    /// Dies with its parent.
    pub(super) mortal: bool,
    /// How many descriptors, from number 3 on, the program gets as they are.
    pub(super) preserved: u16,
    /// Mounts that the parent has opened.
    pub(super) sources: Vec<(Place, RawFd)>,
}

impl Inherited {
    /// Where the child keeps the channel: right behind what the program gets.
    pub(super) fn channel_number(&self) -> RawFd {
        FIRST + RawFd::from(self.preserved)
    }

    pub(super) fn extra_number(&self) -> RawFd {
        self.channel_number() + 1
    }

    /// The first of the numbers that [`isolate`] gives to the sources.
    fn first_source(&self) -> RawFd {
        self.channel_number() + 1 + RawFd::from(self.extra.is_some())
    }

    /// The first number that [`isolate`] leaves free.
    fn first_free(&self) -> RawFd {
        self.first_source() + self.sources.len() as RawFd
    }

    /// After [`isolate`]: everything that is attached comes from here.
    fn adopt_sources(&self) -> Vec<(Place, OwnedFd)> {
        let places = self.sources.iter().map(|(place, _)| *place);
        places.zip(self.first_source()..).map(|(place, fd)| (place, sys::adopt(fd))).collect()
    }
}

/// The container's first process. Returns only on failure.
pub(super) fn container(plan: &Plan, inherited: &Inherited) -> i32 {
    let prepare = |channel: BorrowedFd<'_>| {
        enter::users(plan, channel, inherited.mortal)
            .map_err(named("become root of the user namespace"))?;
        build(plan, channel, inherited.adopt_sources())
    };
    let wait = |channel: &mut OwnedFd| {
        fault("say that it is ready")?;
        // By write(2): the filter may be loaded.
        let _ = nix::unistd::write(&*channel, &Message::Ready.encode());
        let start = inherited.extra.map(|_| sys::adopt(inherited.extra_number()));
        wait_for_go(channel, start);
        fault("go on")
    };
    live(inherited, prepare, wait, &plan.process)
}

/// One more process of a container. Returns only on failure.
pub(super) fn exec(plan: &ProcessPlan, inherited: &Inherited) -> i32 {
    live(inherited, |channel| join_container(plan, channel, inherited), |_| Ok(()), plan)
}

fn join_container(
    plan: &ProcessPlan,
    channel: BorrowedFd<'_>,
    inherited: &Inherited,
) -> Result<(), Failure> {
    process::set_oom_score(plan).map_err(named("set oom_score_adj"))?;
    if let Some(processors) = &plan.affinity.end {
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), processors)
            .map_err(io::Error::from)
            .map_err(named("set process.execCPUAffinity.final"))?;
    }
    fault("enter the container's namespaces")?;
    enter::container(inherited, channel).map_err(named("enter the container's namespaces"))?;
    if plan.terminal.is_some() {
        let pty = open_root().and_then(|root| process::Terminal::open(root.as_fd(), plan));
        let pty = pty.map_err(named("open a terminal in the container"))?;
        return_terminal(channel, &pty)?.map_err(named("take the terminal"))?;
    }
    Ok(())
}

/// The common frame: isolate, prepare, wait, execute, report on the channel that is left.
fn live(
    inherited: &Inherited,
    prepare: impl FnOnce(BorrowedFd<'_>) -> Result<(), Failure>,
    wait: impl FnOnce(&mut OwnedFd) -> Result<(), Failure>,
    plan: &ProcessPlan,
) -> i32 {
    fault::in_child();
    let isolated = fault::point("isolate").and_then(|()| isolate(inherited));
    let mut channel = sys::adopt(inherited.channel_number());
    let ended = match isolated {
        Ok(()) => {
            // /proc is the host's still.
            let labels = plan.labels.open();
            labels.map_err(named("open what takes the labels of security modules")).and_then(
                |labels| {
                    prepare(channel.as_fd())?;
                    process::become_program(plan, &mut channel, inherited, labels, wait)
                },
            )
        }
        Err(error) => {
            let failure = named("isolate the new process")(error);
            // Where the channel is depends on how far it came; in the wrong place there is no peer to hear it.
            let before = sys::borrow(inherited.channel);
            let _ = tell(before, &Message::Failed(failure.clone()), &[]);
            Err(failure)
        }
    };
    let Err(failure) = ended;
    let status = failure.exit_code.into();
    let _ = tell(channel.as_fd(), &Message::Failed(failure), &[]);
    status
}

/// Cuts every tie to the parent but the channel.
fn isolate(inherited: &Inherited) -> Done {
    if inherited.mortal {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    }
    sys::reset_signals()?;
    // Out of the way first: a source may have one of the numbers that are filled below.
    let mut aside = Vec::with_capacity(5 + inherited.sources.len());
    let channel = inherited.channel_number();
    let all = inherited.streams.into_iter().chain([inherited.channel]).chain(inherited.extra);
    let all = all.chain(inherited.sources.iter().map(|(_, fd)| *fd));
    for fd in all {
        aside.push(sys::duplicate_above(fd, inherited.first_free().max(16))?);
    }
    for (target, fd) in (0..3).chain(channel..).zip(&aside) {
        sys::duplicate_to(fd.as_raw_fd(), target)?;
    }
    std::mem::forget(aside);
    sys::close_from(inherited.first_free())?;
    sys::cloexec_from(channel)?;
    for fd in FIRST..channel {
        // They survive exec, whatever their owner had set.
        sys::duplicate_to(fd, fd)?;
    }
    nix::unistd::setsid()?;
    // Did the parent die before it could take us with it?
    process::end_without(sys::borrow(channel))?;
    umask(Mode::empty());
    Ok(())
}

/// Enters what the stage before us (see `stage`) has not entered.
fn join(plan: &Plan) -> Result<(), Failure> {
    if super::is_staged(plan) {
        return Ok(());
    }
    let joined: Vec<_> = plan.join.iter().filter(|join| join.kind != libc::CLONE_NEWPID).collect();
    let mut files = Vec::with_capacity(joined.len());
    for join in &joined {
        let file = File::open(&join.path);
        files.push(file.map_err(named(format!("open namespace {:?}", join.path)))?);
    }
    for (join, file) in joined.iter().zip(&files) {
        setns(file, CloneFlags::from_bits_retain(join.kind))
            .map_err(io::Error::from)
            .map_err(named(format!("join namespace {:?}", join.path)))?;
    }
    Ok(())
}

fn build(
    plan: &Plan,
    channel: BorrowedFd<'_>,
    sources: Vec<(Place, OwnedFd)>,
) -> Result<(), Failure> {
    process::set_oom_score(&plan.process).map_err(named("set oom_score_adj"))?;
    fault("join namespaces")?;
    join(plan)?;
    let mut builder = Builder {
        plan,
        root: None,
        sources,
        nodes: Vec::new(),
        parents: LastParent::default(),
        masks: Masks::default(),
    };
    for step in &plan.steps {
        // The name only when it is needed: writing forty of them takes as long as some of the steps.
        let failed = |error| named(step.to_string())(error);
        fault::point(step).map_err(failed)?;
        let done = match step {
            Step::LookForProgram => {
                lookup::look_for(&plan.process)?;
                Ok(())
            }
            Step::Terminal => match builder.terminal() {
                Ok(pty) => return_terminal(channel, &pty)?,
                Err(error) => Err(error),
            },
            Step::RuntimeHooks => {
                tell(channel, &Message::Hooks, &[])?;
                if !is_go(channel) {
                    sys::exit_now(128);
                }
                Ok(())
            }
            Step::ContainerHooks(hooks) => {
                hooks.run_inside().map_err(process::hook_failed)?;
                Ok(())
            }
            _ => builder.perform(step),
        };
        done.map_err(failed)?;
    }
    Ok(())
}

struct Builder<'a> {
    plan: &'a Plan,
    /// The new root, from its mount on.
    root: Option<OwnedFd>,
    /// What the parent has opened and is not attached yet.
    sources: Vec<(Place, OwnedFd)>,
    /// Device nodes that the parent has made, not attached yet.
    nodes: Vec<Prepared>,
    parents: LastParent,
    masks: Masks,
}

impl Builder<'_> {
    fn root(&self) -> io::Result<BorrowedFd<'_>> {
        of(&self.root)
    }

    fn source(&mut self, place: Place) -> Option<OwnedFd> {
        let at = self.sources.iter().position(|(of, _)| *of == place)?;
        Some(self.sources.swap_remove(at).1)
    }

    fn terminal(&self) -> io::Result<process::Terminal> {
        let pty = process::Terminal::open(self.root()?, &self.plan.process)?;
        nodes::console(self.root()?, &pty)?;
        Ok(pty)
    }

    fn perform(&mut self, step: &Step) -> Done {
        if !matches!(step, Step::Device(_) | Step::Symlink { .. }) {
            self.parents.forget();
        }
        match step {
            Step::UnshareCgroup => Ok(unshare(CloneFlags::CLONE_NEWCGROUP)?),
            Step::Loopback => crate::sys::net::loopback_up(),
            Step::Hostname(name) => Ok(nix::unistd::sethostname(name)?),
            Step::Domainname(name) => sys::set_domainname(name),
            Step::Sysctl { path, value } => write_sysctl(path, value),
            Step::Propagation(flags) => root::set_propagation("/", *flags),
            Step::Root(wanted) => {
                // Before the root may hide the host's tree.
                if let Some(nodes) = self.source(Place::Nodes) {
                    self.nodes = prepared::take_apart(self.plan, nodes)?;
                }
                let opened = self.source(Place::Root);
                let moves = self.plan.steps.contains(&Step::MoveRoot);
                self.root = Some(root::mount(wanted, opened, self.shared(), moves)?);
                Ok(())
            }
            Step::Mount(mount) => {
                let opened = self.source(Place::Mount(mount.index));
                let made = mounts::mount(self.root()?, mount, opened)?;
                if mount.destination == Path::new("/") {
                    // It covers the root, and is what everything else is seen in.
                    self.root = Some(made);
                }
                Ok(())
            }
            Step::Device(device) => {
                nodes::device(of(&self.root)?, &mut self.parents, device, &mut self.nodes)
            }
            Step::Symlink { path, target } => {
                nodes::symlink(of(&self.root)?, &mut self.parents, path, target)
            }
            Step::MakeDirectory(path) => inside::make_directory(self.root()?, path).map(drop),
            Step::Pivot => root::pivot(self.root()?),
            Step::MoveRoot => root::move_over(self.root()?),
            Step::ChangeRoot => root::change(self.root()?),
            Step::RootPropagation(flags) => root::set_propagation("/", *flags),
            Step::Readonly(path) => protect::make_readonly(self.root()?, path),
            Step::Mask(path) => self.masks.mask(of(&self.root)?, path),
            Step::ReadonlyRoot => protect::make_root_readonly(self.root()?),
            // Done by the caller.
            Step::Terminal
            | Step::LookForProgram
            | Step::RuntimeHooks
            | Step::ContainerHooks(_) => Ok(()),
        }
    }

    /// Whether mounts may reach the host's tree.
    fn shared(&self) -> bool {
        self.plan
            .steps
            .iter()
            .any(|step| matches!(step, Step::Propagation(flags) if flags & libc::MS_SHARED != 0))
    }
}

fn of(root: &Option<OwnedFd>) -> io::Result<BorrowedFd<'_>> {
    let missing = || io::Error::other("no root is mounted yet");
    root.as_ref().map(AsFd::as_fd).ok_or_else(missing)
}

/// Through the host's /proc, which no rootfs can have touched; the kernel takes the writer's namespaces.
fn write_sysctl(path: &str, value: &str) -> Done {
    let full = format!("/proc/sys/{path}");
    let file = File::options().write(true).open(full)?;
    let kind = nix::sys::statfs::fstatfs(&file)?.filesystem_type();
    if kind != nix::sys::statfs::PROC_SUPER_MAGIC {
        return Err(io::Error::other("/proc/sys is not procfs"));
    }
    io::Write::write_all(&mut &file, value.as_bytes())
}

fn open_root() -> io::Result<OwnedFd> {
    Ok(File::open("/")?.into())
}

/// The pty's inner side becomes the standard streams, its master goes to the parent.
fn return_terminal(channel: BorrowedFd<'_>, pty: &process::Terminal) -> Result<Done, Failure> {
    fault("hand over the terminal")?;
    tell(channel, &Message::Terminal, &[pty.master.as_fd()])?;
    Ok(pty.become_streams())
}

/// Waits for the word to go on. The channel becomes the one that it came by: the parent's, or, for a container whose
/// creator may end, a connection to the start socket. Uses only what `plan::seccomp` demands of a filter that is
/// loaded before.
fn wait_for_go(channel: &mut OwnedFd, start: Option<OwnedFd>) {
    let Some(listener) = start else {
        if !is_go(channel.as_fd()) {
            // The supervisor is gone.
            sys::exit_now(128);
        }
        return;
    };
    *channel = listener;
    loop {
        let Ok(starter) = sys::accept(channel.as_fd()) else { sys::exit_now(128) };
        if is_go(starter.as_fd()) {
            *channel = starter;
            return;
        }
    }
}

fn is_go(channel: BorrowedFd<'_>) -> bool {
    let mut byte = [0u8; 1];
    loop {
        match nix::unistd::read(channel, &mut byte) {
            Err(nix::errno::Errno::EINTR) => {}
            read => return read == Ok(1),
        }
    }
}

fn tell(channel: BorrowedFd<'_>, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), Failure> {
    fdpass::send_all(channel, &message.encode(), fds).map_err(named("report to the supervisor"))
}

pub(super) fn fault(point: &str) -> Result<(), Failure> {
    fault::point(point).map_err(named(point))
}

/// `verb: reason`, as a failure of ours and not of the program.
pub(super) fn named(verb: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
    let verb = verb.into();
    move |error| Failure { exit_code: 128, message: format!("{verb}: {}", sys::reason(&error)) }
}
