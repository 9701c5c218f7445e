//! The mount system calls that work on descriptors (Linux 5.2 to 5.12): filesystems and mounts are made detached,
//! given their attributes, and attached last, so that nothing half-made is ever visible and no path is
//! looked up twice. Flags and keys are the kernel's own; nothing is interpreted here.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const OPEN_TREE_CLONE: libc::c_uint = 1;
const AT_RECURSIVE: libc::c_uint = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSCONFIG_CMD_RECONFIGURE: libc::c_uint = 7;
const FSPICK_CLOEXEC: libc::c_uint = 0x1;
const FSPICK_EMPTY_PATH: libc::c_uint = 0x8;

pub(crate) const ATTR_RDONLY: u64 = 0x1;
pub(crate) const ATTR_NOSUID: u64 = 0x2;
pub(crate) const ATTR_NODEV: u64 = 0x4;
pub(crate) const ATTR_NOEXEC: u64 = 0x8;
/// The field that holds the three access-time modes; relatime is its zero.
pub(crate) const ATTR_ATIME: u64 = 0x70;
pub(crate) const ATTR_NOATIME: u64 = 0x10;
pub(crate) const ATTR_STRICTATIME: u64 = 0x20;
pub(crate) const ATTR_NODIRATIME: u64 = 0x80;
pub(crate) const ATTR_IDMAP: u64 = 0x0010_0000;
pub(crate) const ATTR_NOSYMFOLLOW: u64 = 0x0020_0000;

/// `struct mount_attr` (linux/mount.h).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MountAttr {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    /// One of MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE; 0 leaves it.
    pub(crate) propagation: u64,
    /// With ATTR_IDMAP: the user namespace whose maps the mount takes.
    pub(crate) userns_fd: u64,
}

/// Shows the files of a detached mount with the owners that the maps of `users` give them (Linux 5.12).
pub(crate) fn map_ids(
    mount: BorrowedFd<'_>,
    users: BorrowedFd<'_>,
    recursive: bool,
) -> io::Result<()> {
    let userns_fd = users.as_raw_fd() as u64;
    let attr = MountAttr { set: ATTR_IDMAP, userns_fd, ..MountAttr::default() };
    mount_setattr(mount, &attr, recursive)
}

/// Attributes as mount(2) takes them.
pub(crate) fn mount_flags(attributes: u64) -> nix::mount::MsFlags {
    use nix::mount::MsFlags;
    // Not in nix: MS_NOSYMFOLLOW (linux/mount.h).
    let no_links = MsFlags::from_bits_retain(0x100);
    let flags = [
        (ATTR_RDONLY, MsFlags::MS_RDONLY),
        (ATTR_NOSUID, MsFlags::MS_NOSUID),
        (ATTR_NODEV, MsFlags::MS_NODEV),
        (ATTR_NOEXEC, MsFlags::MS_NOEXEC),
        (ATTR_NOATIME, MsFlags::MS_NOATIME),
        (ATTR_STRICTATIME, MsFlags::MS_STRICTATIME),
        (ATTR_NODIRATIME, MsFlags::MS_NODIRATIME),
        (ATTR_NOSYMFOLLOW, no_links),
    ];
    let set = flags.into_iter().filter(|(attribute, _)| attributes & attribute != 0);
    set.fold(MsFlags::empty(), |all, (_, flag)| all | flag)
}

fn check(result: libc::c_long) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // Descriptors and zero: always within c_int.
    Ok(result as libc::c_int)
}

fn check_fd(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY:
    // - open: the system call has just returned it as a new descriptor;
    // - owned by nobody else: new, and this is the only place that sees its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A detached copy of the mount (with `recursive`: and those below it) at `path`, relative to `at`.
pub(crate) fn open_tree_clone(
    at: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
) -> io::Result<OwnedFd> {
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint;
    flags |= libc::AT_EMPTY_PATH as libc::c_uint;
    if recursive {
        flags |= AT_RECURSIVE;
    }
    // SAFETY:
    // - pointers: `path` is a NUL-terminated string that outlives the call, read only;
    // - no memory of ours is written.
    check_fd(unsafe { libc::syscall(libc::SYS_open_tree, at.as_raw_fd(), path.as_ptr(), flags) })
}

/// Changes attributes of the mount whose root `mount` is.
pub(crate) fn mount_setattr(
    mount: BorrowedFd<'_>,
    attr: &MountAttr,
    recursive: bool,
) -> io::Result<()> {
    let mut flags = libc::AT_EMPTY_PATH as libc::c_uint;
    if recursive {
        flags |= AT_RECURSIVE;
    }
    // SAFETY:
    // - pointers: the empty path is a static string; `attr` is a live, repr(C) struct of the size
    //   that is passed beside it; both are only read.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    })?;
    Ok(())
}

/// Attaches a detached mount on the file or directory `target` (an O_PATH descriptor will do).
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY:
    // - pointers: both paths are static empty strings, read only.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })?;
    Ok(())
}

/// A filesystem in the making.
#[derive(Debug)]
pub(crate) struct Filesystem {
    context: OwnedFd,
}

impl Filesystem {
    pub(crate) fn open(kind: &str) -> io::Result<Filesystem> {
        let kind = CString::new(kind)?;
        // SAFETY:
        // - pointers: `kind` is a NUL-terminated string that outlives the call, read only.
        let fd = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) };
        Ok(Filesystem { context: check_fd(fd)? })
    }

    /// The filesystem of the mount whose root `mount` is, to be given other options.
    pub(crate) fn of(mount: BorrowedFd<'_>) -> io::Result<Filesystem> {
        let flags = FSPICK_CLOEXEC | FSPICK_EMPTY_PATH;
        // SAFETY:
        // - pointers: the path is a static empty string, read only.
        let fd = unsafe { libc::syscall(libc::SYS_fspick, mount.as_raw_fd(), c"".as_ptr(), flags) };
        Ok(Filesystem { context: check_fd(fd)? })
    }

    /// Makes the options that have been set hold.
    pub(crate) fn reconfigure(&self) -> io::Result<()> {
        self.configure(FSCONFIG_CMD_RECONFIGURE, None, None)
    }

    /// Sets `key`, to `value` if there is one (at most 255 bytes: a rule of the kernel).
    pub(crate) fn set(&self, key: &str, value: Option<&str>) -> io::Result<()> {
        let key = CString::new(key)?;
        match value {
            Some(value) => {
                let value = CString::new(value)?;
                self.configure(FSCONFIG_SET_STRING, Some(&key), Some(&value))
            }
            None => self.configure(FSCONFIG_SET_FLAG, Some(&key), None),
        }
    }

    /// Makes the superblock and a detached mount of it.
    pub(crate) fn mount(&self, attributes: u64) -> io::Result<OwnedFd> {
        self.configure(FSCONFIG_CMD_CREATE, None, None)?;
        // SAFETY:
        // - no pointers are passed.
        check_fd(unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                self.context.as_raw_fd(),
                FSMOUNT_CLOEXEC,
                attributes as libc::c_uint,
            )
        })
    }

    /// What the kernel has to say about the last failure, if anything.
    pub(crate) fn complaint(&self) -> Option<String> {
        let mut text = [0u8; 512];
        let length = nix::unistd::read(&self.context, &mut text).ok()?;
        // Each message begins with its class: "e ", "w " or "i ".
        let message = String::from_utf8_lossy(text.get(2..length)?).trim().to_owned();
        (!message.is_empty()).then_some(message)
    }

    fn configure(
        &self,
        command: libc::c_uint,
        key: Option<&CStr>,
        value: Option<&CStr>,
    ) -> io::Result<()> {
        // SAFETY:
        // - pointers: null or NUL-terminated strings that outlive the call, read only; which of
        //   them may be null for which command is kept by `set` and `mount`.
        check(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.context.as_raw_fd(),
                command,
                key.map_or(std::ptr::null(), CStr::as_ptr),
                value.map_or(std::ptr::null(), CStr::as_ptr),
                0,
            )
        })?;
        Ok(())
    }
}
