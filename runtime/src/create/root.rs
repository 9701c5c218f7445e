//! The container's root: mounted in its own mount namespace, entered, and the host's tree let go.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};

use crate::plan::Root;
use crate::sys::mount::{self as kernel, Filesystem, MountAttr};

/// fsconfig takes values of up to this many bytes, the final NUL included.
pub(super) const MAX_VALUE: usize = 256;

/// mount(2) takes options of up to one page.
const MAX_OPTIONS: usize = 4096;

/// MS_* propagation of the mount at `path`.
pub(super) fn set_propagation(path: &str, flags: u64) -> io::Result<()> {
    let flags = MsFlags::from_bits_truncate(flags);
    nix::mount::mount(None::<&str>, path, None::<&str>, flags, None::<&str>)?;
    Ok(())
}

/// Mounts the root (`opened`, if the parent has opened it already) and returns it. With `shared`, mounts may reach the
/// host, and pivot_root demands that the mount below the new root is not shared: then it lands where nobody sees it;
/// `moves`: there will be no pivot.
pub(super) fn mount(
    root: &Root,
    opened: Option<OwnedFd>,
    shared: bool,
    moves: bool,
) -> io::Result<OwnedFd> {
    if let Root::InPlace(path) = root {
        return open_directory(path);
    }
    let (mount, target) = match opened {
        // What is below it may be closed to us. It is hidden, and let go with the pivot.
        Some(mount) => {
            // The tree cannot be bound without what is mounted on it: a user namespace must not look below.
            let top = || open_directory(Path::new("/"));
            (mount, if shared { secluded_place()? } else { top()? })
        }
        // Moving lets go of procfs before.
        None if shared && moves => (detached(root)?, between(open_directory(place(root))?)?),
        None if shared => (detached(root)?, secluded_place()?),
        None => (detached(root)?, open_directory(place(root))?),
    };
    kernel::attach(mount.as_fd(), target.as_fd())?;
    kernel::mount_setattr(mount.as_fd(), &PRIVATE, false)?;
    Ok(mount)
}

const PRIVATE: MountAttr =
    MountAttr { set: 0, clear: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };

/// A directory on a mount of its own, which is not shared.
fn between(target: OwnedFd) -> io::Result<OwnedFd> {
    let between = kernel::open_tree_clone(target.as_fd(), c"", false)?;
    kernel::attach(between.as_fd(), target.as_fd())?;
    kernel::mount_setattr(between.as_fd(), &PRIVATE, false)?;
    Ok(between)
}

pub(super) const SECLUDED: &str = "/proc/fs";

/// Where a mount does not appear on the host even if the whole tree is shared with it: our procfs leaves its peers, so
/// what is mounted on a directory there, of which nobody needs to see what it hides, stays with us.
pub(super) fn secluded_place() -> io::Result<OwnedFd> {
    let procfs = open_directory(Path::new("/proc"))?;
    kernel::mount_setattr(procfs.as_fd(), &PRIVATE, false)?;
    open_directory(Path::new(SECLUDED))
}

/// The root, not attached yet.
pub(super) fn detached(root: &Root) -> io::Result<OwnedFd> {
    match root {
        Root::Directory(path) | Root::InPlace(path) => {
            kernel::open_tree_clone(open_directory(path)?.as_fd(), c"", true)
        }
        Root::Overlay { lower, upper, work } => {
            fs::create_dir_all(upper)?;
            fs::create_dir_all(work)?;
            overlay(lower, upper, work)
        }
    }
}

/// Where to mount it: the upper directory of an overlay is the one place that we know to exist and that nobody else
/// looks at in this namespace.
fn place(root: &Root) -> &Path {
    match root {
        Root::Directory(path) | Root::InPlace(path) => path,
        Root::Overlay { upper, .. } => upper,
    }
}

pub(super) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let directory =
        nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path, directory, nix::sys::stat::Mode::empty())?)
}

/// A detached overlay.
fn overlay(lower: &[PathBuf], upper: &Path, work: &Path) -> io::Result<OwnedFd> {
    let layers = Layers::of(lower, upper, work)?;
    let release = nix::sys::utsname::uname()?;
    // Asked for, not tried: an older kernel would complain in its log each time.
    if knows_lowerdir_plus(&release.release().to_string_lossy()) {
        layers.mount_one_by_one()
    } else {
        layers.mount_at_once(upper)
    }
}

/// Since Linux 6.8.
fn knows_lowerdir_plus(release: &str) -> bool {
    let mut numbers = release.split(['.', '-']).map(|word| word.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 8)
}

/// Layers under names that the kernel takes: a path that is too long goes through a descriptor.
struct Layers {
    lower: Vec<String>,
    upper: String,
    work: String,
    /// Keeps the descriptors in those names open.
    open: Vec<OwnedFd>,
}

impl Layers {
    fn of(lower: &[PathBuf], upper: &Path, work: &Path) -> io::Result<Layers> {
        let mut open = Vec::new();
        let mut name = |path: &Path| -> io::Result<String> {
            // `,` `:` and `\` mean something in option strings.
            let plain = |text: &&str| text.len() < MAX_VALUE && !text.contains([',', ':', '\\']);
            match path.to_str().filter(plain) {
                Some(text) => Ok(text.to_owned()),
                None => {
                    open.push(open_directory(path)?);
                    Ok(through(open.last()))
                }
            }
        };
        let lower = lower.iter().map(|path| name(path)).collect::<io::Result<Vec<_>>>()?;
        let (upper, work) = (name(upper)?, name(work)?);
        Ok(Layers { lower, upper, work, open })
    }

    fn mount_one_by_one(&self) -> io::Result<OwnedFd> {
        let overlay = Filesystem::open("overlay")?;
        overlay.set("source", Some("overlay"))?;
        for layer in &self.lower {
            overlay.set("lowerdir+", Some(layer))?;
        }
        overlay.set("upperdir", Some(&self.upper))?;
        overlay.set("workdir", Some(&self.work))?;
        overlay.mount(0).map_err(|error| explain(&overlay, error))
    }

    /// The old way, which needs a place to mount on and puts all options into one page.
    fn mount_at_once(mut self, target: &Path) -> io::Result<OwnedFd> {
        let length: usize = self.lower.iter().map(|layer| layer.len() + 1).sum();
        if length + self.upper.len() + self.work.len() + 64 > MAX_OPTIONS {
            for layer in &mut self.lower {
                self.open.push(open_directory(Path::new(layer))?);
                *layer = through(self.open.last());
            }
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            self.lower.join(":"),
            self.upper,
            self.work
        );
        let flags = MsFlags::empty();
        nix::mount::mount(Some("overlay"), target, Some("overlay"), flags, Some(&*options))?;
        let mounted = open_directory(target)?;
        let detached = kernel::open_tree_clone(mounted.as_fd(), c"", false)?;
        nix::mount::umount2(target, MntFlags::MNT_DETACH)?;
        Ok(detached)
    }
}

fn through(fd: Option<&OwnedFd>) -> String {
    format!("/proc/self/fd/{}", fd.map_or(-1, AsRawFd::as_raw_fd))
}

/// Puts what the kernel's log of this filesystem says behind the bare error number.
pub(super) fn explain(filesystem: &Filesystem, error: io::Error) -> io::Error {
    match filesystem.complaint() {
        Some(text) => {
            let reason = crate::sys::process::reason(&error);
            io::Error::new(error.kind(), format!("{reason}: {text}"))
        }
        None => error,
    }
}

/// Makes `root` the root of this process and lets go of the old one.
pub(super) fn pivot(root: BorrowedFd<'_>) -> io::Result<()> {
    let old = File::open("/")?;
    nix::unistd::fchdir(root)?;
    // The old root lands on top of the new one, which saves a directory to put it into.
    nix::unistd::pivot_root(".", ".")?;
    nix::unistd::fchdir(&old)?;
    // Slaves first: unmounting must not propagate to the host.
    set_propagation(".", libc::MS_SLAVE | libc::MS_REC)?;
    nix::mount::umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")?;
    match nix::unistd::getcwd() {
        Ok(path) if path == Path::new("/") => Ok(()),
        _ => Err(Errno::EXDEV.into()),
    }
}

/// Makes `root` the root of this process where pivoting is not possible, by moving it over the old one.
pub(super) fn move_over(root: BorrowedFd<'_>) -> io::Result<()> {
    for path in ["/proc", "/sys"] {
        // The host's would make the kernel believe that nothing of procfs and sysfs is hidden from the container.
        let _ = nix::mount::umount2(path, MntFlags::MNT_DETACH);
    }
    let old = open_directory(Path::new("/"))?;
    match kernel::attach(root, old.as_fd()) {
        // It is there already: in a user namespace that is where it was attached.
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {}
        other => other?,
    }
    change(root)
}

/// Makes `root` the root of this process, and nothing else.
pub(super) fn change(root: BorrowedFd<'_>) -> io::Result<()> {
    nix::unistd::fchdir(root)?;
    nix::unistd::chroot(".")?;
    Ok(nix::unistd::chdir("/")?)
}

#[cfg(test)]
mod tests {
    use super::knows_lowerdir_plus;

    #[test]
    fn kernel_versions_are_compared_as_numbers() {
        for new in ["6.8.0", "6.18.44-x", "7.0-rc1", "6.10"] {
            assert!(knows_lowerdir_plus(new), "{new}");
        }
        for old in ["6.1.0-56-cloud-amd64", "5.15.0", "6.7.12", ""] {
            assert!(!knows_lowerdir_plus(old), "{old}");
        }
    }
}
