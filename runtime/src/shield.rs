//! Our own program, kept out of the reach of containers (CVE-2019-5736). A process that we put into a container is, until it
//! executes the container's program, a copy of us: `/proc/<pid>/exe` leads to our file, and whoever is root in there and holds
//! it open when nobody executes it any more may write to it.
//!
//! - Where others are in the pid namespace already (an exec, a container without a pid namespace of its own) we start
//!   ourselves again through a mount of the file that is read-only and that no path leads to. That costs one exec.
//! - In a new pid namespace nobody is there to open anything, and we need no library of the image. Only the image's
//!   program may not be ourselves, by whatever name: [`is_own_program`].

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use nix::sys::statvfs::{FsFlags, statvfs};

use crate::sys::mount::{self, MountAttr};

const OWN: &str = "/proc/self/exe";

/// Set for the program that is started again, so that a mount which does not tell that it is read-only is an error and not
/// a loop.
const AGAIN: &str = "KOBUNE_RUNTIME_SHIELDED";

/// A detached, read-only mount of the file `exe`.
pub(crate) fn read_only(exe: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(exe.as_os_str().as_bytes())?;
    let mount = mount::open_tree_clone(nix::fcntl::AT_FDCWD, &path, false)?;
    let attr = MountAttr { set: mount::ATTR_RDONLY, ..MountAttr::default() };
    mount::mount_setattr(mount.as_fd(), &attr, false)?;
    Ok(mount)
}

/// Makes sure that our program cannot be written to by who is in the container already, nor our memory be read. `None`:
/// it is so. `Some`: the program has to be started again ([`start_again`]), and nothing may have been made until then.
pub(crate) fn raise() -> io::Result<Option<OwnedFd>> {
    if is_read_only()? {
        // Its own name: it was executed by a number.
        nix::sys::prctl::set_name(c"kobune-runtime")?;
        nix::sys::prctl::set_dumpable(false)?;
        return Ok(None);
    }
    if std::env::var_os(AGAIN).is_some() {
        return Err(io::Error::other("the program is not on a read-only mount"));
    }
    match read_only(Path::new(OWN)) {
        // Without privileges over mounts we have none over the file either.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(None),
        mount => mount.map(Some),
    }
}

/// Executes our program through `mount`, with the same arguments; the answer is why not.
pub(crate) fn start_again(mount: &OwnedFd) -> io::Error {
    let mut args = std::env::args_os();
    let mut again = Command::new(format!("/proc/self/fd/{}", mount.as_raw_fd()));
    if let Some(name) = args.next() {
        again.arg0(name);
    }
    again.args(args).env(AGAIN, "1").exec()
}

fn is_read_only() -> io::Result<bool> {
    Ok(statvfs(OWN)?.flags().contains(FsFlags::ST_RDONLY))
}

/// Device and inode of our program, if it could be written to.
static WRITABLE: OnceLock<Option<(u64, u64)>> = OnceLock::new();

/// Looks at our program, for [`is_own_program`] in a process that cannot any more.
pub(crate) fn remember_own_program() {
    WRITABLE.get_or_init(|| {
        let status = nix::sys::stat::stat(OWN).ok()?;
        (!is_read_only().ok()?).then_some((status.st_dev, status.st_ino))
    });
}

/// Whether executing `path` would execute us: by that name, or as the interpreter of a script.
pub(crate) fn is_own_program(path: &CStr) -> bool {
    let Some(own) = WRITABLE.get().copied().flatten() else { return false };
    let mut path = path.to_owned();
    // The kernel's own bound for interpreters of interpreters.
    for _ in 0..5 {
        let Ok(status) = nix::sys::stat::stat(path.as_c_str()) else { return false };
        if (status.st_dev, status.st_ino) == own {
            return true;
        }
        let is_file = status.st_mode & libc::S_IFMT == libc::S_IFREG;
        match is_file.then(|| interpreter(&path)).flatten() {
            Some(next) => path = next,
            None => return false,
        }
    }
    false
}

/// The interpreter that the first line of a script names.
fn interpreter(path: &CStr) -> Option<CString> {
    use nix::fcntl::{OFlag, open};
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = open(path, flags, nix::sys::stat::Mode::empty()).ok()?;
    let mut head = [0u8; 256];
    let length = nix::unistd::read(&file, &mut head).ok()?;
    let line = head[..length].strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t' | 0));
    CString::new(words.find(|word| !word.is_empty())?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_found_as_the_kernel_does() {
        let directory = tempfile::tempdir().unwrap();
        let of = |text: &str| {
            let path = directory.path().join("script");
            std::fs::write(&path, text).unwrap();
            interpreter(&CString::new(path.as_os_str().as_bytes()).unwrap())
        };
        assert_eq!(of("#!/bin/sh -e\nx").unwrap().as_c_str(), c"/bin/sh");
        assert_eq!(of("#! \t/proc/self/exe").unwrap().as_c_str(), c"/proc/self/exe");
        assert_eq!(of("/bin/sh"), None);
        assert_eq!(of("#!\n/bin/sh"), None);
    }

    #[test]
    fn we_are_found_behind_links_and_scripts() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| {
            let path = directory.path().join(name);
            (CString::new(path.as_os_str().as_bytes()).unwrap(), path)
        };
        remember_own_program();
        std::os::unix::fs::symlink(OWN, path("link").1).unwrap();
        std::fs::write(path("script").1, "#!/proc/self/exe\n").unwrap();
        let text = format!("#!{}\n", path("script").1.display());
        std::fs::write(path("scripts").1, text).unwrap();
        for name in ["link", "script", "scripts"] {
            assert!(is_own_program(&path(name).0), "{name}");
        }
        assert!(is_own_program(c"/proc/self/exe"));
        assert!(!is_own_program(c"/bin/sh"));
        assert!(!is_own_program(c"/no/such"));
    }
}
