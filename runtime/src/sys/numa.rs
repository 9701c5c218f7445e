//! On which nodes memory is allocated: set_mempolicy(2) of the calling process and what it executes.

use std::io;

/// `mode` is MPOL_* with MPOL_F_* flags, `nodes` a bit mask, least node first.
pub(crate) fn set_memory_policy(mode: u32, nodes: &[u64]) -> io::Result<()> {
    // The kernel takes one bit less than it is told.
    let bits = if nodes.is_empty() { 0 } else { 64 * nodes.len() + 1 };
    let mask = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // SAFETY:
    // - pointers: null with no bits, or live words for all of the bits that are read (one less than `bits`).
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
