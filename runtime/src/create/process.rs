//! The last stretch: limits, user, capabilities, and the program itself.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, SFlag, fstat, makedev, umask};
use nix::unistd::{Gid, Uid, fchown, setgroups, setresgid, setresuid};

use super::child::{Inherited, fault, named};
use super::message::{Failure, Message};
use super::program;
use super::{home, inside};
use crate::hooks::HookError;
use crate::lsm;
use crate::plan::{Capabilities, MemoryPolicy, ProcessPlan, Seccomp};
use crate::sys::{creds, keyring, numa, process as sys, schedule, seccomp as kernel, tty};

/// Linux' default, for a process that does not say.
const DEFAULT_UMASK: u32 = 0o022;

/// A pty of the container.
pub(super) struct Terminal {
    pub(super) master: OwnedFd,
    pub(super) peer: OwnedFd,
}

impl Terminal {
    /// From the container's own devpts. That it is the real multiplexer is checked, since a rootfs could
    /// hold something else of that name (CVE-2025-52565).
    pub(super) fn open(root: BorrowedFd<'_>, plan: &ProcessPlan) -> io::Result<Terminal> {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
        let master = inside::open_without_links(root, Path::new("/dev/pts/ptmx"), flags)?;
        let status = fstat(&master)?;
        let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
        if kind != SFlag::S_IFCHR || status.st_rdev != makedev(5, 2) {
            return Err(io::Error::other("/dev/pts/ptmx is not the pty multiplexer"));
        }
        let peer = tty::open_peer(&master)?;
        if let Some((columns, rows)) = plan.terminal
            && (columns, rows) != (0, 0)
        {
            tty::resize(&master, columns, rows)?;
        }
        fchown(&peer, Some(Uid::from_raw(plan.uid)), None)?;
        Ok(Terminal { master, peer })
    }

    /// The standard streams, and the controlling terminal of this session.
    pub(super) fn become_streams(&self) -> io::Result<()> {
        tty::make_controlling(self.peer.as_fd())?;
        (0..3).try_for_each(|target| sys::duplicate_to(self.peer.as_raw_fd(), target))
    }
}

/// Written while /proc is the host's. Without CAP_SYS_RESOURCE it cannot go below what we have: then it
/// stays there, as other runtimes do.
pub(super) fn set_oom_score(plan: &ProcessPlan) -> io::Result<()> {
    let Some(score) = plan.oom_score_adj else { return Ok(()) };
    match std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => Ok(()),
        other => other,
    }
}

/// Becomes the program. Returns only on failure. A filter that is loaded before the wait for the start comes after
/// everything but hooks; any other comes last.
pub(super) fn become_program(
    plan: &ProcessPlan,
    channel: &mut OwnedFd,
    inherited: &Inherited,
    labels: lsm::Opened,
    wait: impl FnOnce(&mut OwnedFd) -> Result<(), Failure>,
) -> Result<Infallible, Failure> {
    let label = |labels: lsm::Opened| labels.write().map_err(named("set the label of the program"));
    let early = plan.confinement.seccomp.as_ref().is_some_and(|seccomp| seccomp.before_start);
    let env;
    if early {
        settle(plan, channel.as_fd(), inherited)?;
        env = home::environment(plan);
        label(labels)?;
        confine(plan, channel.as_fd())?;
        wait(channel)?;
        run_hooks(plan)?;
    } else {
        wait(channel)?;
        settle(plan, channel.as_fd(), inherited)?;
        run_hooks(plan)?;
        env = home::environment(plan);
        label(labels)?;
        confine(plan, channel.as_fd())?;
    }
    Err(program::execute(plan, &env))
}

fn run_hooks(plan: &ProcessPlan) -> Result<(), Failure> {
    plan.hooks.as_ref().map_or(Ok(()), |hooks| hooks.run_inside().map_err(hook_failed))
}

/// Takes what the program has: limits, user, directory.
fn settle(
    plan: &ProcessPlan,
    channel: BorrowedFd<'_>,
    inherited: &Inherited,
) -> Result<(), Failure> {
    enter_keyring(plan).map_err(named("enter the session keyring"))?;
    fault("set the limits")?;
    for limit in &plan.limits {
        set_limit(limit, plan.lenient_limits).map_err(|e| named(limit.verb())(e))?;
    }
    if let Some(scheduler) = &plan.scheduler {
        schedule::set_scheduler(scheduler).map_err(named("set the scheduler"))?;
    }
    if let Some(priority) = plan.io_priority {
        schedule::set_io_priority(priority).map_err(named("set the I/O priority"))?;
    }
    if let Some(personality) = plan.confinement.personality {
        sys::set_personality(personality).map_err(named("set the personality"))?;
    }
    if let Some(MemoryPolicy { mode, nodes }) = &plan.confinement.memory_policy {
        numa::set_memory_policy(*mode, nodes).map_err(named("set linux.memoryPolicy"))?;
    }
    fault("give the standard streams to the user")?;
    own_streams(plan).map_err(named("give the standard streams to the user"))?;
    let entered = nix::unistd::chdir(&plan.cwd);
    fault("change the user")?;
    change_user(plan).map_err(|(verb, error)| named(verb)(error))?;
    if entered.is_err() {
        // The user may be allowed where root without capabilities on a network filesystem is not.
        let directory = named(format!("chdir to cwd {:?}", plan.cwd));
        nix::unistd::chdir(&plan.cwd).map_err(io::Error::from).map_err(directory)?;
    }
    working_directory_is_inside().map_err(named("check the working directory"))?;
    umask(Mode::from_bits_truncate(plan.umask.unwrap_or(DEFAULT_UMASK)));
    if inherited.mortal {
        stay_mortal(channel).map_err(named("tie the process to its supervisor"))?;
    }
    fault("execute the program")?;
    sys::cloexec_from(inherited.channel_number()).map_err(named("close descriptors"))
}

pub(super) fn hook_failed(error: HookError) -> Failure {
    Failure { exit_code: 128, message: error.to_string() }
}

/// Gives up what the program must not have. The filter comes as late as it can: every system call after it must be
/// allowed by the profile. Without no_new_privs loading it is privileged, so then it precedes the last drop.
fn confine(plan: &ProcessPlan, channel: BorrowedFd<'_>) -> Result<(), Failure> {
    let drop = || set_capabilities(&plan.capabilities).map_err(named("set capabilities"));
    let Some(seccomp) = &plan.confinement.seccomp else {
        drop()?;
        return forbid_new_privileges(plan);
    };
    // What cannot be executed is told now: afterwards the filter may forbid it.
    program::find(plan)?;
    if plan.no_new_privileges {
        drop()?;
        forbid_new_privileges(plan)?;
        return filter(seccomp, channel);
    }
    raise_for_filter().map_err(named("raise a capability for the seccomp filter"))?;
    filter(seccomp, channel)?;
    drop()
}

fn forbid_new_privileges(plan: &ProcessPlan) -> Result<(), Failure> {
    if !plan.no_new_privileges {
        return Ok(());
    }
    prctl::set_no_new_privs().map_err(io::Error::from).map_err(named("set no_new_privs"))
}

/// Changing the user has cleared the effective set, but not the permitted one.
fn raise_for_filter() -> io::Result<()> {
    let permitted = creds::permitted()?;
    creds::set(permitted & creds::SYS_ADMIN, permitted, 0)
}

fn filter(seccomp: &Seccomp, channel: BorrowedFd<'_>) -> Result<(), Failure> {
    let listener = kernel::load(&seccomp.program, seccomp.flags);
    let listener = listener.map_err(named("load the seccomp filter"))?;
    let Some(listener) = listener else { return Ok(()) };
    // write(2) is the one call that profiles may not ask about (`plan::seccomp`); the parent takes the descriptor
    // out of this process. From its answer on somebody decides about all others.
    let message = Message::Listener(listener.as_raw_fd()).encode();
    let told = nix::unistd::write(channel, &message).map_err(io::Error::from);
    told.map_err(named("pass on the seccomp listener"))?;
    let mut answer = [0u8; 1];
    match nix::unistd::read(channel, &mut answer) {
        Ok(1) => Ok(()),
        Ok(_) => sys::exit_now(128),
        Err(errno) => Err(named("wait for the seccomp listener")(errno.into())),
    }
}

/// Secrets of whoever runs the runtime are not the container's; all processes of a container share theirs. Kernels
/// without keyrings have nothing to hide.
fn enter_keyring(plan: &ProcessPlan) -> io::Result<()> {
    let Some(name) = &plan.keyring else { return Ok(()) };
    let keyring = match keyring::join(name) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => return Ok(()),
        other => other?,
    };
    // Any user may have made one of this name for others to find.
    if keyring::owner(keyring)? != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::other("somebody else has made one of this name"));
    }
    keyring::make_searchable(keyring)
}

/// Without CAP_SYS_RESOURCE a hard limit cannot be raised.
fn set_limit(limit: &crate::plan::Limit, lenient: bool) -> io::Result<()> {
    match sys::set_limit(limit.resource, limit.soft, limit.hard) {
        Err(error) if lenient && error.raw_os_error() == Some(libc::EPERM) => {
            let (_, hard) = sys::get_limit(limit.resource)?;
            sys::set_limit(limit.resource, limit.soft.min(hard), limit.hard.min(hard))
        }
        other => other,
    }
}

/// Pipes belong to the user, or /dev/stdout could not be opened by name.
fn own_streams(plan: &ProcessPlan) -> io::Result<()> {
    for number in 0..3 {
        let stream = sys::borrow(number);
        let kind = SFlag::from_bits_truncate(fstat(stream)?.st_mode) & SFlag::S_IFMT;
        if kind == SFlag::S_IFIFO {
            match fchown(stream, Some(Uid::from_raw(plan.uid)), Some(Gid::from_raw(plan.gid))) {
                // In a user namespace that does not know its owner. Those of the first process have been given by its
                // parent.
                Err(Errno::EPERM | Errno::EINVAL) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn change_user(plan: &ProcessPlan) -> Result<(), (&'static str, io::Error)> {
    let at = |verb| move |error: Errno| (verb, io::Error::from(error));
    let wanted = &plan.capabilities;
    drop_bounding(wanted.bounding).map_err(|error| ("drop bounding capabilities", error))?;
    prctl::set_keepcaps(true).map_err(at("keep capabilities"))?;
    let groups: Vec<Gid> = plan.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).map_err(at("set additional groups"))?;
    let (uid, gid) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
    setresgid(gid, gid, gid).map_err(at("set gid"))?;
    setresuid(uid, uid, uid).map_err(at("set uid"))?;
    prctl::set_keepcaps(false).map_err(at("stop keeping capabilities"))
}

fn drop_bounding(wanted: u64) -> io::Result<()> {
    for capability in (0..64u8).filter(|bit| wanted & 1 << bit == 0) {
        // Dropped without looking first, which would be one more call for each of forty.
        match creds::drop_bounding(capability) {
            Ok(()) => {}
            Err(error) => match creds::in_bounding(capability) {
                Some(true) => return Err(error),
                // We may not, but there is nothing to drop.
                Some(false) => {}
                // Past the last one that this kernel knows.
                None => break,
            },
        }
    }
    Ok(())
}

/// What we do not have ourselves cannot be given; the host's limits are reported elsewhere.
fn set_capabilities(wanted: &Capabilities) -> io::Result<()> {
    let available = creds::permitted()?;
    let permitted = wanted.permitted & available;
    let inheritable = wanted.inheritable & available;
    creds::set(wanted.effective & permitted, permitted, inheritable)?;
    creds::clear_ambient()?;
    // Ambient needs both; the specification leaves the rest to us, the kernel refuses it.
    let ambient = wanted.ambient & permitted & inheritable;
    (0..64u8).filter(|bit| ambient & 1 << bit != 0).try_for_each(creds::raise_ambient)
}

/// A working directory outside of the root would be a way out (CVE-2024-21626); getcwd names it differently.
fn working_directory_is_inside() -> io::Result<()> {
    match nix::unistd::getcwd()?.is_absolute() {
        true => Ok(()),
        false => Err(io::Error::other("it is outside of the container's root")),
    }
}

/// Changing the user has cleared the parent-death signal; if the parent died before it is set again, the channel
/// tells.
fn stay_mortal(channel: BorrowedFd<'_>) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    end_without(channel)
}

/// Ends this process if the other end of the channel is gone.
pub(super) fn end_without(channel: BorrowedFd<'_>) -> io::Result<()> {
    let mut wait = [PollFd::new(channel, PollFlags::empty())];
    poll(&mut wait, PollTimeout::ZERO)?;
    if wait[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)) {
        sys::exit_now(128);
    }
    Ok(())
}
