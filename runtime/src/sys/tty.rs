//! Pseudo terminals: a pair from an opened `ptmx`, its size, and making it the controlling terminal.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Unlocks the pair behind `master` and opens its other side, without going through any path.
pub(crate) fn open_peer(master: &OwnedFd) -> io::Result<OwnedFd> {
    let unlock: libc::c_int = 0;
    // SAFETY:
    // - pointers: TIOCSPTLCK reads one int, which is live.
    check(unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, std::ptr::from_ref(&unlock))
    })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY:
    // - arguments: TIOCGPTPEER takes open flags by value.
    let peer = check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    // SAFETY:
    // - open: the kernel has just returned it as a new descriptor;
    // - owned by nobody else: new.
    Ok(unsafe { OwnedFd::from_raw_fd(peer) })
}

/// Makes the terminal on `fd` the controlling one of this session (whose leader we are).
pub(crate) fn make_controlling(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY:
    // - arguments: TIOCSCTTY takes a number by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) })?;
    Ok(())
}

/// Sets the size that programs on the terminal see, in characters.
pub fn resize(terminal: impl AsFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY:
    // - pointers: TIOCSWINSZ reads one winsize, which is live.
    check(unsafe {
        libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, std::ptr::from_ref(&size))
    })?;
    Ok(())
}

/// Columns and rows.
pub(crate) fn size(terminal: BorrowedFd<'_>) -> io::Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY:
    // - pointers: TIOCGWINSZ writes one winsize, which is live.
    check(unsafe {
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, std::ptr::from_mut(&mut size))
    })?;
    Ok((size.ws_col, size.ws_row))
}
