//! How the kernel shares processors and disks: sched_setattr(2) and ioprio_set(2) of the calling process.

use std::io;

/// The fields of `struct sched_attr` (linux/sched/types.h) that config.json has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Scheduling {
    /// SCHED_*
    pub(crate) policy: u32,
    /// SCHED_FLAG_*
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    /// Nanoseconds, as the next two.
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

/// `struct sched_attr`, the first version.
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

pub(crate) fn set_scheduler(wanted: &Scheduling) -> io::Result<()> {
    let Scheduling { policy, flags, nice, priority, runtime, deadline, period } = *wanted;
    let size = size_of::<Attributes>() as u32;
    let all = Attributes { size, policy, flags, nice, priority, runtime, deadline, period };
    // SAFETY:
    // - pointers: `all` is live, repr(C) and tells its own size; read only.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(&all), 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `value` is the class in the upper bits and the level in the lower 13.
pub(crate) fn set_io_priority(value: u32) -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    // SAFETY:
    // - memory: none is passed.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
