//! seccomp(2): filters for the calling thread, and what this kernel can do with them.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// `struct sock_filter` (linux/filter.h).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    /// How many instructions to skip when the test holds.
    pub(crate) yes: u8,
    /// And when it does not.
    pub(crate) no: u8,
    pub(crate) value: u32,
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    length: libc::c_ushort,
    instructions: *const Instruction,
}

const SET_MODE_FILTER: libc::c_uint = 1;
const GET_ACTION_AVAIL: libc::c_uint = 2;

pub(crate) const FLAG_TSYNC: u32 = 1;
pub(crate) const FLAG_LOG: u32 = 1 << 1;
pub(crate) const FLAG_SPEC_ALLOW: u32 = 1 << 2;
pub(crate) const FLAG_NEW_LISTENER: u32 = 1 << 3;
pub(crate) const FLAG_TSYNC_ESRCH: u32 = 1 << 4;
pub(crate) const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

fn seccomp(operation: libc::c_uint, flags: u32, argument: *const libc::c_void) -> libc::c_long {
    // SAFETY:
    // - pointers: `argument` is null (refused with EFAULT) or points to what `operation` reads, which
    //   the two callers below keep alive over the call; nothing is written;
    // - effects: a filter restricts later system calls of this thread, never its memory.
    unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, argument) }
}

/// Filters every later system call of this thread and its children. Needs no_new_privs or CAP_SYS_ADMIN. The
/// listener, when [`FLAG_NEW_LISTENER`] asks for one, is closed by exec.
pub(crate) fn load(program: &[Instruction], flags: u32) -> io::Result<Option<OwnedFd>> {
    let length =
        libc::c_ushort::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = Program { length, instructions: program.as_ptr() };
    let result = seccomp(SET_MODE_FILTER, flags, std::ptr::from_ref(&program).cast());
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & FLAG_NEW_LISTENER == 0 {
        return Ok(None);
    }
    // SAFETY:
    // - open: with this flag the result is a new descriptor;
    // - owned by nobody else: new.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(result as i32) }))
}

/// Whether the kernel knows an action (SECCOMP_RET_*).
pub(crate) fn knows_action(action: u32) -> bool {
    seccomp(GET_ACTION_AVAIL, 0, std::ptr::from_ref(&action).cast()) == 0
}

/// Whether the kernel knows flags: it looks at them before it looks at the (missing) program.
pub(crate) fn knows_flags(flags: u32) -> bool {
    let result = seccomp(SET_MODE_FILTER, flags, std::ptr::null());
    result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_without_effect() {
        assert!(knows_action(0x7fff_0000) && !knows_action(0x1234_0000));
        assert!(knows_flags(FLAG_SPEC_ALLOW) && !knows_flags(1 << 30));
    }
}
