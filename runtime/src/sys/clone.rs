//! clone3: a child in new namespaces, born in its cgroup, with a descriptor that names it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `struct clone_args` (linux/sched.h), version 2.
#[repr(C, align(8))]
#[derive(Debug, Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A child of this process.
#[derive(Debug)]
pub(crate) struct Child {
    /// As seen from here.
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
}

/// Runs `body` in a new process. `namespaces` are CLONE_NEW* flags; `cgroup` is its directory. The exit
/// status is what `body` returns.
///
/// Only for single-threaded callers: the child continues with a copy of this thread alone. That is asserted.
pub(crate) fn spawn(
    namespaces: libc::c_int,
    cgroup: Option<BorrowedFd<'_>>,
    body: impl FnOnce() -> i32,
) -> io::Result<Child> {
    let signal = libc::SIGCHLD as u64;
    let mut args = CloneArgs { exit_signal: signal, ..CloneArgs::default() };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    clone(namespaces, args, body)
}

/// [`spawn`], but the new process is a child of our parent.
pub(crate) fn spawn_sibling(
    namespaces: libc::c_int,
    body: impl FnOnce() -> i32,
) -> io::Result<Child> {
    // The signal at its end is ours.
    let args = CloneArgs { flags: libc::CLONE_PARENT as u64, ..CloneArgs::default() };
    clone(namespaces, args, body)
}

fn clone(
    namespaces: libc::c_int,
    mut args: CloneArgs,
    body: impl FnOnce() -> i32,
) -> io::Result<Child> {
    assert_single_threaded()?;
    let mut pidfd: RawFd = -1;
    // The flags are a bit field that happens to be typed signed.
    args.flags |= u64::from(namespaces as u32) | libc::CLONE_PIDFD as u64;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    // SAFETY:
    // - arguments: `args` is a live repr(C) struct of the size passed beside it; `pidfd` outlives the
    //   call and is only written in the parent;
    // - memory: without CLONE_VM and with a null stack the child gets a copy of everything and goes
    //   on with the same stack pointer, as after fork;
    // - locks: nobody else can hold one (malloc's included), because there is no other thread.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut args), size_of::<CloneArgs>())
    };
    match pid {
        0 => {
            // A panic must not unwind into the copy of what the parent was doing.
            let body = std::panic::AssertUnwindSafe(body);
            let status = std::panic::catch_unwind(body).unwrap_or(128);
            super::process::exit_now(status)
        }
        1.. => {
            // SAFETY:
            // - open: the kernel wrote the new descriptor there before it returned to us;
            // - owned by nobody else: new.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Child { pid: pid as i32, pidfd })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Refuses to clone a process with other threads: one of them could hold a lock that the child waits for.
fn assert_single_threaded() -> io::Result<()> {
    // Changes nothing for a process with one thread, and is refused to others: the cheapest way to ask.
    match nix::sched::unshare(nix::sched::CloneFlags::CLONE_THREAD) {
        Err(nix::errno::Errno::EINVAL) => {
            Err(io::Error::other("this process has several threads and must not clone"))
        }
        other => Ok(other?),
    }
}
