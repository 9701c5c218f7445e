//! Small facts about the calling process that have no safe wrapper elsewhere: forking away from the starter,
//! ending without cleanup, closing descriptor ranges, limits.

use std::io;
use std::os::fd::RawFd;

/// Ends the process at once: no destructors, no exit handlers, no flushing of copied buffers.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY:
    // - no preconditions: it does not return and runs none of our code.
    unsafe { libc::_exit(status) }
}

/// Puts /dev/null on those of the three standard streams that are closed.
pub(crate) fn fill_standard_streams() -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
    for number in 0..3 {
        if fcntl(borrow(number), FcntlArg::F_GETFD) == Err(nix::errno::Errno::EBADF) {
            // It gets the lowest free number, which is this one; it stays open to the end.
            let null = open("/dev/null", OFlag::O_RDWR, nix::sys::stat::Mode::empty())?;
            std::mem::forget(null);
        }
    }
    Ok(())
}

/// Goes on in a new process and session; the old process ends with success. Its parent is then no longer ours.
pub(crate) fn leave_parent() -> io::Result<()> {
    // SAFETY:
    // - threads: the supervisor calls this first thing in main, before any thread exists;
    // - the parent side does nothing but exit.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { .. } => exit_now(0),
        nix::unistd::ForkResult::Child => {}
    }
    nix::unistd::setsid()?;
    Ok(())
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: RawFd) -> io::Result<()> {
    close_range(first, 0)
}

/// Marks every descriptor from `first` on to be closed by exec.
pub(crate) fn cloexec_from(first: RawFd) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    close_range(first, CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: RawFd, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY:
    // - memory: none is passed;
    // - ownership: callers that close do so in a process that from then on uses none of the
    //   descriptors it had at or above `first` (a new child, a fresh supervisor).
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, first as libc::c_uint, libc::c_uint::MAX, flags)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes `fd` be number `target` as well (not closed by exec).
pub(crate) fn duplicate_to(fd: RawFd, target: RawFd) -> io::Result<()> {
    if fd == target {
        // dup2 would leave the flag as it is.
        // SAFETY:
        // - memory: none is passed; a wrong number is an error, not undefined.
        let result = unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
        return if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    }
    // SAFETY:
    // - memory: none is passed;
    // - ownership: `target` is a standard stream or a number that the caller has set aside; what was
    //   open there belongs to no Rust value that is still used.
    let result = unsafe { libc::dup2(fd, target) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A descriptor that the caller knows by number only (a standard stream, a number set aside in a child).
pub(crate) fn adopt(fd: RawFd) -> std::os::fd::OwnedFd {
    // SAFETY:
    // - open: callers pass a number that they have just filled with `duplicate_to` or inherited as a
    //   standard stream; were it closed, every use of it is an error, not undefined;
    // - owned by nobody else: callers adopt a number once.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) }
}

/// Both limits of a resource (RLIMIT_*).
pub(crate) fn get_limit(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY:
    // - pointers: a null new limit is allowed; `limit` is live and of the right type, written only.
    let result =
        unsafe { libc::prlimit64(0, resource, std::ptr::null(), std::ptr::from_mut(&mut limit)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok((limit.rlim_cur, limit.rlim_max)) }
}

/// Sets both limits of a resource.
pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY:
    // - pointers: `limit` is live and of the right type, read only; a null old limit is allowed.
    let result =
        unsafe { libc::prlimit64(0, resource, std::ptr::from_ref(&limit), std::ptr::null_mut()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets the process `pid` have up to `hard` of a resource: the limit is raised if it is lower, and never lowered.
pub(crate) fn raise_limit(pid: i32, resource: u32, hard: u64) -> io::Result<()> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY:
    // - pointers: a null new limit is allowed; `limit` is live and of the right type, written only.
    let got =
        unsafe { libc::prlimit64(pid, resource, std::ptr::null(), std::ptr::from_mut(&mut limit)) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_max >= hard {
        return Ok(());
    }
    limit.rlim_max = hard;
    // SAFETY:
    // - pointers: `limit` is live and of the right type, read only; a null old limit is allowed.
    let set =
        unsafe { libc::prlimit64(pid, resource, std::ptr::from_ref(&limit), std::ptr::null_mut()) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives back what the heap does not need: a supervisor lives for long and does little.
pub(crate) fn trim_heap() {
    // SAFETY:
    // - no preconditions; glibc returns free pages to the kernel.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Every signal back to its default action and none blocked: both survive exec, and what Rust and the
/// supervisor chose for themselves is not the container's business.
pub(crate) fn reset_signals() -> io::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY:
        // - handlers: SIG_DFL runs no code of ours. SIGKILL, SIGSTOP and the two that libc keeps for
        //   itself refuse, which is fine.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// What an error means, in the form that our messages use: lower case, no number.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    };
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => text,
    }
}

/// Whether a descriptor of this number is open.
pub(crate) fn is_open(fd: RawFd) -> bool {
    // SAFETY:
    // - memory: none is passed; a wrong number is an error, not undefined.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// A copy of `fd` with a number of at least `least`, closed by exec.
pub(crate) fn duplicate_above(fd: RawFd, least: RawFd) -> io::Result<std::os::fd::OwnedFd> {
    // SAFETY:
    // - memory: none is passed; a wrong number is an error, not undefined.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, least) };
    if copy < 0 { Err(io::Error::last_os_error()) } else { Ok(adopt(copy)) }
}

/// Looks at a descriptor that is known by number only.
pub(crate) fn borrow(fd: RawFd) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY:
    // - open: callers pass a standard stream or a number that they have just filled and keep until
    //   exec; were it closed, every use of it is an error, not undefined.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }
}

pub(crate) fn set_domainname(name: &str) -> io::Result<()> {
    // SAFETY:
    // - pointers: `name` outlives the call, is only read, and its length is passed beside it.
    let result = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets what a signal does.
pub(crate) fn set_action(
    signal: nix::sys::signal::Signal,
    action: &nix::sys::signal::SigAction,
) -> io::Result<()> {
    // SAFETY:
    // - handlers: callers pass the default or ignoring action only, so no code of ours runs in
    //   signal context.
    unsafe { nix::sys::signal::sigaction(signal, action) }?;
    Ok(())
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Code(i32),
    Signal(i32),
}

/// Takes one child that has ended, if there is one. Not nix' wait: that one loses children which a real-time
/// signal killed.
pub(crate) fn reap() -> io::Result<Option<(i32, Status)>> {
    let mut status = 0;
    // SAFETY:
    // - pointers: `status` is live and of the right type, written only.
    let pid = unsafe { libc::waitpid(-1, std::ptr::from_mut(&mut status), libc::WNOHANG) };
    match pid {
        0 => Ok(None),
        1.. if libc::WIFSIGNALED(status) => Ok(Some((pid, Status::Signal(libc::WTERMSIG(status))))),
        1.. => Ok(Some((pid, Status::Code(libc::WEXITSTATUS(status))))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes the next connection of a listening socket.
pub(crate) fn accept(listener: std::os::fd::BorrowedFd<'_>) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::AsRawFd;
    loop {
        let flags = nix::sys::socket::SockFlag::SOCK_CLOEXEC;
        match nix::sys::socket::accept4(listener.as_raw_fd(), flags) {
            // The number is new and nobody else knows it.
            Ok(connection) => return Ok(adopt(connection)),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The execution domain of this process and of what it executes.
pub(crate) fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY:
    // - memory: none is passed; the domains used here change no address space rules of running code.
    let result = unsafe { libc::personality(domain.into()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A child that begins with every signal at its default and none blocked, and with its standard streams alone.
pub(crate) fn as_stranger(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY:
    // - between fork and exec: `reset_signals` and `cloexec_from` make system calls on values of their own stack only;
    //   they neither allocate nor take a lock;
    // - ownership: nothing is closed before exec, so what the library has open until then stays.
    unsafe { command.pre_exec(|| reset_signals().and_then(|()| cloexec_from(3))) };
}
