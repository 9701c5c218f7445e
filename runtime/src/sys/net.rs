//! The interface that every network namespace has.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Brings `lo` of our network namespace up; the kernel gives it its addresses.
pub(crate) fn loopback_up() -> io::Result<()> {
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut name = [0; libc::IFNAMSIZ];
    (name[0], name[1]) = (b'l' as libc::c_char, b'o' as libc::c_char);
    let up = libc::IFF_UP as libc::c_short;
    let request =
        libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: up } };
    // SAFETY:
    // - pointers: SIOCSIFFLAGS reads one ifreq, which is live; its name ends with a NUL.
    let result = unsafe {
        libc::ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS as _, std::ptr::from_ref(&request))
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
