//! Capabilities of the calling thread as bit masks (bit n = capability n of linux/capability.h).

use std::io;

/// `_LINUX_CAPABILITY_VERSION_3`: two 32-bit words per set.
const VERSION_3: u32 = 0x2008_0522;

/// CAP_SYS_ADMIN as a mask.
pub(crate) const SYS_ADMIN: u64 = 1 << 21;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The permitted set.
pub(crate) fn permitted() -> io::Result<u64> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY:
    // - pointers: both are live and repr(C); version 3 makes the kernel write two `Data`.
    check(unsafe {
        libc::syscall(libc::SYS_capget, std::ptr::from_mut(&mut header), data.as_mut_ptr())
    })?;
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

/// Sets three of the five sets at once.
pub(crate) fn set(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let word = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [word(0), word(32)];
    // SAFETY:
    // - pointers: both are live and repr(C); version 3 makes the kernel read two `Data`.
    check(unsafe {
        libc::syscall(libc::SYS_capset, std::ptr::from_mut(&mut header), data.as_ptr())
    })?;
    Ok(())
}

fn prctl(option: libc::c_int, two: u64, three: u64) -> io::Result<libc::c_int> {
    // SAFETY:
    // - arguments: the options used here (capability bounding and ambient sets) take numbers only.
    let result = unsafe { libc::prctl(option, two, three, 0u64, 0u64) };
    check(result.into()).map(|_| result)
}

/// Whether the bounding set holds a capability; `None` when the kernel does not know it.
pub(crate) fn in_bounding(capability: u8) -> Option<bool> {
    prctl(libc::PR_CAPBSET_READ, capability.into(), 0).ok().map(|held| held == 1)
}

pub(crate) fn drop_bounding(capability: u8) -> io::Result<()> {
    prctl(libc::PR_CAPBSET_DROP, capability.into(), 0).map(drop)
}

pub(crate) fn clear_ambient() -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0).map(drop)
}

pub(crate) fn raise_ambient(capability: u8) -> io::Result<()> {
    let raise = libc::PR_CAP_AMBIENT_RAISE as u64;
    prctl(libc::PR_CAP_AMBIENT, raise, capability.into()).map(drop)
}
