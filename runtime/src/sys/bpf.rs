//! Loading and attaching eBPF programs that decide about device access of a cgroup.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Programs of cgroups above are asked, too.
const BPF_F_ALLOW_MULTI: u32 = 2;

/// `struct bpf_insn` (linux/bpf.h).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    /// Destination in the low four bits, source in the high four (little endian targets).
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

/// The part of `union bpf_attr` that loading uses; the kernel takes what is missing as zero.
#[repr(C)]
struct LoadAttr {
    program_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

/// To the end of what Linux 6.18 writes, whatever size it is told.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
    program_flags: u64,
    link_ids: u64,
    link_flags: u64,
    revision: u64,
}

/// The kernel attaches no more to one cgroup.
const MOST_PROGRAMS: usize = 64;

#[repr(C)]
struct AttachAttr {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// Loads a device program.
pub(crate) fn load_device_program(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attr = LoadAttr {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
    };
    // `program` has `count` repr(C) instructions and outlives the call; the licence is a static string.
    descriptor(call(BPF_PROG_LOAD, &mut attr)?)
}

/// `bpf(2)`. Every pointer inside `attr` must be valid for what the command does with it.
fn call<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY:
    // - pointers: `attr` is live, writable and repr(C) (only this file's types are passed), its size is passed
    //   beside it; what it points to is valid by the contract above, which each caller states;
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// `fd` was returned by a command that makes one.
fn descriptor(fd: libc::c_long) -> io::Result<OwnedFd> {
    // SAFETY:
    // - open: the kernel has just returned it as a new descriptor (close-on-exec, as all of bpf's);
    // - owned by nobody else: new.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// From now on the program is asked about every device access in the cgroup; it lives as long as that.
pub(crate) fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    change(BPF_PROG_ATTACH, BPF_F_ALLOW_MULTI, cgroup, program)
}

/// The program is not asked any more.
pub(crate) fn detach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    change(BPF_PROG_DETACH, 0, cgroup, program)
}

fn change(
    command: libc::c_int,
    flags: u32,
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    let mut attr = AttachAttr {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        flags,
    };
    call(command, &mut attr).map(drop)
}

/// The programs that are asked about device access in this very cgroup, as far as we may touch them.
pub(crate) fn device_programs(cgroup: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0u32; MOST_PROGRAMS];
    let mut attr = QueryAttr {
        target: cgroup.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        count: MOST_PROGRAMS as u32,
        ..QueryAttr::default()
    };
    // `ids` has `count` places and outlives the call.
    call(BPF_PROG_QUERY, &mut attr)?;
    let found = ids.iter().take(attr.count as usize);
    let opened = found.map(|id| descriptor(call(BPF_PROG_GET_FD_BY_ID, &mut [*id])?));
    // Those that we may not touch can only restrict further.
    Ok(opened.filter_map(Result::ok).collect())
}
