//! Session keyrings: what a process and its children may find of secrets that the kernel holds (keyrings(7)).

use std::ffi::CStr;
use std::io;

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
const KEYCTL_SETPERM: libc::c_long = 5;
const KEYCTL_DESCRIBE: libc::c_long = 6;

/// What a new session keyring has (the possessor everything but to set attributes of what is found, its user to view,
/// read and link), and for its user to search: the kernel finds a keyring by name only then.
const SEARCHABLE: libc::c_long = 0x3f1b_0000;

/// Enters the session keyring of this name, made if there is none that we may search.
pub(crate) fn join(name: &CStr) -> io::Result<libc::c_long> {
    // SAFETY:
    // - pointers: `name` is NUL-terminated and outlives the call, read only.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) })
}

/// Lets others of our user enter the keyring by its name.
pub(crate) fn make_searchable(keyring: libc::c_long) -> io::Result<()> {
    // SAFETY:
    // - pointers: none are passed.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, keyring, SEARCHABLE) })?;
    Ok(())
}

/// The user (as seen from here) to whom the keyring belongs.
pub(crate) fn owner(keyring: libc::c_long) -> io::Result<u32> {
    let mut text = [0u8; 4096];
    // SAFETY:
    // - pointers: `text` is live, written only, and its length is passed beside it.
    let length = check(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_DESCRIBE, keyring, text.as_mut_ptr(), text.len())
    })?;
    let length = usize::try_from(length).unwrap_or_default().min(text.len());
    // "keyring;uid;gid;permissions;name"
    let mut fields = text[..length].split(|byte| *byte == b';');
    let uid = fields.nth(1).and_then(|field| std::str::from_utf8(field).ok());
    uid.and_then(|uid| uid.parse().ok())
        .ok_or_else(|| io::Error::other("the kernel describes a keyring in an unknown way"))
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
