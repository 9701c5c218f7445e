//! Signals through a process descriptor: they cannot hit a stranger that got the same number.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sends `signal` (0 only asks whether it could be sent).
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY:
    // - pointers: a null siginfo is allowed and means what kill(2) would send.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A descriptor for the process that has the number now.
pub(crate) fn open(pid: i32) -> io::Result<std::os::fd::OwnedFd> {
    // SAFETY:
    // - pointers: none are passed.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(super::process::adopt(fd as i32)) }
}

/// A copy of the descriptor `number` of another process, closed by exec.
pub(crate) fn take_descriptor(
    process: BorrowedFd<'_>,
    number: i32,
) -> io::Result<std::os::fd::OwnedFd> {
    // SAFETY:
    // - pointers: none are passed.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(super::process::adopt(fd as i32)) }
}
