//! Named network namespaces, pinned under /run/netns as `ip netns` does. Never looks inside.
//!
//! `ip netns` wants the directory to be a shared mount of its own. If it is not, it is made one,
//! and a marker says that we did; when nothing is pinned any more we undo it. Other nodes on the
//! same machine use the same directory, so making and undoing happen under a lock.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::Error;

/// Where `ip netns` looks for namespaces.
pub const DIRECTORY: &str = "/run/netns";
/// Exists while [`DIRECTORY`] is a mount that we made.
const MARKER: &str = "/run/.kobune-netns";
/// The namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// Path of the namespace called `name`.
pub fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Whether a namespace (or something else) has this name already.
pub fn exists(name: &str) -> bool {
    path(name).symlink_metadata().is_ok()
}

/// Makes and pins a namespace. An existing one of that name is an error.
///
/// # Errors
/// If the name is taken or unusable, or the kernel refuses.
pub fn create(name: &str) -> Result<PathBuf, Error> {
    create_with(name, || Ok(())).map(|(path, ())| path)
}

/// As [`create`]; `inside` runs in the new namespace before anything else can be there.
pub(crate) fn create_with<T: Send>(
    name: &str,
    inside: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<(PathBuf, T), Error> {
    check_name(name)?;
    let path = path(name);
    let lock = ensure_directory()?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(&path)
        .map_err(Error::file("create", &path))?;
    // Once the file exists nobody takes the directory away.
    drop(lock);
    let made = in_thread("a new network namespace", || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| failed("unshare into", &path, errno))?;
        mount(Some(OWN), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|errno| failed("pin network namespace at", &path, errno))?;
        inside()
    });
    match made {
        Ok(value) => Ok((path, value)),
        Err(error) => {
            // The first error is the one to tell.
            let _ = delete(name);
            Err(error)
        }
    }
}

/// Drops the pin; the namespace lives as long as a process is in it. Tolerates absence.
///
/// # Errors
/// If the pin cannot be removed.
pub fn delete(name: &str) -> Result<(), Error> {
    check_name(name)?;
    let path = path(name);
    match umount2(&path, MntFlags::MNT_DETACH) {
        // EINVAL: a file that nothing is mounted on, left by a death half-way.
        Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => {}
        Err(errno) => return Err(failed("unmount", &path, errno)),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { verb: "remove", object: path, source: error })
        }
        _ => Ok(()),
    }
}

/// Runs `work` in the namespace at `path`, in a thread of its own.
pub(crate) fn inside<T: Send>(
    path: &Path,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let namespace = open(path)?;
    in_thread("another network namespace", || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::EnterNamespace {
            path: path.to_owned(),
            source: errno.into(),
        })?;
        work()
    })
}

/// A TCP socket that belongs to the namespace at `path`, wherever it is used: not connected, not blocking.
///
/// # Errors
/// If the namespace cannot be entered, or the kernel refuses the socket.
pub fn tcp_socket(path: &Path, v6: bool) -> Result<OwnedFd, Error> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    inside(path, || {
        socket(family, SockType::Stream, flags, None)
            .map_err(|errno| failed("make a socket in", path, errno))
    })
}

/// A descriptor of the namespace pinned at `path`.
pub(crate) fn open(path: &Path) -> Result<OwnedFd, Error> {
    File::open(path).map(OwnedFd::from).map_err(Error::file("open network namespace", path))
}

/// Undoes the shared mount at [`DIRECTORY`] if we made it and nothing is pinned there.
///
/// # Errors
/// If it is ours and empty, and cannot be undone.
pub(crate) fn undo_directory() -> Result<(), Error> {
    let _lock = lock()?;
    if !Path::new(MARKER).exists() {
        return Ok(());
    }
    match fs::read_dir(DIRECTORY).map(|mut entries| entries.next().is_none()) {
        Ok(false) => return Ok(()),
        Ok(true) => {
            match umount2(DIRECTORY, MntFlags::MNT_DETACH) {
                Ok(()) | Err(Errno::EINVAL) => {}
                Err(errno) => return Err(failed("unmount", Path::new(DIRECTORY), errno)),
            }
            fs::remove_dir(DIRECTORY).map_err(Error::file("remove", DIRECTORY))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::file("read", DIRECTORY)(error)),
    }
    fs::remove_file(MARKER).map_err(Error::file("remove", MARKER))
}

/// Makes [`DIRECTORY`] a shared mount if it is none; the returned lock keeps it from being undone.
fn ensure_directory() -> Result<Flock<File>, Error> {
    let lock = lock()?;
    let made = match fs::DirBuilder::new().mode(0o755).create(DIRECTORY) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(Error::file("create", DIRECTORY)(error)),
    };
    let shared = MsFlags::MS_SHARED | MsFlags::MS_REC;
    let nothing = None::<&str>;
    match mount(Some("none"), DIRECTORY, nothing, shared, nothing) {
        Ok(()) => return Ok(lock),
        Err(Errno::EINVAL) => {}
        Err(errno) => return Err(failed("share mount", Path::new(DIRECTORY), errno)),
    }
    if made {
        fs::write(MARKER, "made by kobune\n").map_err(Error::file("write", MARKER))?;
    }
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(DIRECTORY), DIRECTORY, nothing, bind, nothing)
        .map_err(|errno| failed("bind-mount", Path::new(DIRECTORY), errno))?;
    mount(Some("none"), DIRECTORY, nothing, shared, nothing)
        .map_err(|errno| failed("share mount", Path::new(DIRECTORY), errno))?;
    Ok(lock)
}

fn lock() -> Result<Flock<File>, Error> {
    let directory = File::open("/run").map_err(Error::file("open", "/run"))?;
    Flock::lock(directory, FlockArg::LockExclusive)
        .map_err(|(_, errno)| failed("lock", Path::new("/run"), errno))
}

/// Namespaces belong to threads: work that changes them gets a thread that ends with the work.
fn in_thread<T: Send>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let handle = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)
            .map_err(|source| Error::Thread { what, source })?;
        handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn check_name(name: &str) -> Result<(), Error> {
    let problem = if name.is_empty() || name == "." || name == ".." {
        "is not a file name"
    } else if name.contains(['/', '\0']) {
        "must not contain a slash"
    } else if name.len() > 255 {
        "is longer than 255 bytes"
    } else {
        return Ok(());
    };
    Err(Error::BadName { what: "network namespace name", value: name.into(), problem })
}

fn failed(verb: &'static str, path: &Path, errno: Errno) -> Error {
    Error::File { verb, object: path.to_owned(), source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_directory() {
        for bad in ["", ".", "..", "a/b", "/etc", "a\0b", &"x".repeat(256)] {
            assert!(matches!(create(bad), Err(Error::BadName { .. })), "{bad:?}");
            assert!(matches!(delete(bad), Err(Error::BadName { .. })), "{bad:?}");
        }
        assert_eq!(path("myapp-1"), Path::new("/run/netns/myapp-1"));
    }
}
