//! Paths inside a root that somebody else may be changing meanwhile: the kernel resolves them (openat2,
//! RESOLVE_IN_ROOT), so that neither `..` nor a symlink, absolute or swapped in a race, leads out.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

/// Symlinks to nothing that are followed while making a path: the kernel's own bound for lookups.
const MAX_LINKS: usize = 40;

const DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o755);

/// How often a lookup is repeated that a concurrent rename disturbed.
const MAX_RETRIES: usize = 128;

/// Opens `path` inside `root`. `O_PATH` needs no permission on what is found.
pub(super) fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    resolve(root, path, flags, ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

/// [`open`], but every symlink on the way is an error (ELOOP).
pub(super) fn open_without_links(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlag,
) -> io::Result<OwnedFd> {
    resolve(root, path, flags, ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS)
}

fn resolve(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlag,
    resolve: ResolveFlag,
) -> io::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
    for _ in 0..MAX_RETRIES {
        match openat2(root, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
    Err(Errno::EAGAIN.into())
}

/// Opens the directory `path` inside `root`, making what is missing of it (mode 0755).
pub(super) fn make_directory(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let wanted = OFlag::O_PATH | OFlag::O_DIRECTORY;
    match open(root, path, wanted) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    // Mostly the last name alone is missing.
    if let (Some(above), Some(name)) = (path.parent(), path.file_name())
        && let Ok(parent) = open(root, above, wanted)
        && mkdirat(&parent, name, DIRECTORY_MODE).is_ok()
    {
        return open(root, path, wanted);
    }
    let mut names = components(path);
    names.reverse();
    let mut done = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = names.pop() {
        let next = done.join(&name);
        match open(root, &next, OFlag::O_PATH) {
            Ok(_) => {
                done = next;
                continue;
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) => {}
        }
        let parent = open(root, &done, wanted)?;
        match mkdirat(&parent, name.as_os_str(), DIRECTORY_MODE) {
            Ok(()) => done = next,
            Err(Errno::EEXIST) => {
                // A symlink to nothing: what it names is made instead.
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::ELOOP.into());
                }
                let target = nix::fcntl::readlinkat(&parent, name.as_os_str())?;
                if Path::new(&target).is_absolute() {
                    done = PathBuf::from("/");
                }
                names.extend(components(Path::new(&target)).into_iter().rev());
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    open(root, &done, wanted)
}

/// Opens the file `path` inside `root` (O_PATH); makes it, empty, and the directories above it if missing.
pub(super) fn make_file(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match open(root, &path, OFlag::O_PATH) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let (parent, name) = make_parent(root, &path)?;
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o644);
        match nix::fcntl::openat(&parent, name.as_os_str(), flags, mode) {
            Ok(_) => {}
            Err(Errno::EEXIST) => {
                // A symlink to nothing (or somebody was faster): go on with what it names.
                if let Ok(target) = nix::fcntl::readlinkat(&parent, name.as_os_str()) {
                    path = path.parent().unwrap_or(Path::new("/")).join(target);
                }
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::ELOOP.into())
}

/// The directory that holds `path`, made if missing, and the last name of it.
pub(super) fn make_parent(root: BorrowedFd<'_>, path: &Path) -> io::Result<(OwnedFd, OsString)> {
    let name = path.file_name().ok_or(Errno::EINVAL)?.to_owned();
    let parent = path.parent().unwrap_or(Path::new("/"));
    Ok((make_directory(root, parent)?, name))
}

/// The directory that the last path was in, kept open: /dev gets a dozen nodes and links one after the other. It stays
/// the right one as long as nothing is mounted between.
#[derive(Debug, Default)]
pub(super) struct LastParent {
    known: Option<(PathBuf, OwnedFd)>,
}

impl LastParent {
    pub(super) fn forget(&mut self) {
        self.known = None;
    }

    /// As [`make_parent`].
    pub(super) fn of<'a>(
        &'a mut self,
        root: BorrowedFd<'_>,
        path: &'a Path,
    ) -> io::Result<(BorrowedFd<'a>, &'a OsStr)> {
        let name = path.file_name().ok_or(Errno::EINVAL)?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        let known = match self.known.take() {
            Some(known) if known.0 == parent => known,
            _ => (parent.to_owned(), make_directory(root, parent)?),
        };
        Ok((self.known.insert(known).1.as_fd(), name))
    }
}

/// `..` stays: the kernel stops it at the root.
fn components(path: &Path) -> Vec<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name),
            Component::ParentDir => Some(OsStr::new("..")),
            _ => None,
        })
        .map(OsStr::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    /// A root with a neighbour that must never be reached.
    struct Fixture {
        directory: tempfile::TempDir,
        root: OwnedFd,
    }

    fn fixture() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("root/etc")).unwrap();
        fs::create_dir(directory.path().join("host")).unwrap();
        let root = fs::File::open(directory.path().join("root")).unwrap().into();
        Fixture { directory, root }
    }

    impl Fixture {
        fn at(&self, path: &str) -> PathBuf {
            self.directory.path().join(path)
        }

        fn host_is_untouched(&self) -> bool {
            fs::read_dir(self.at("host")).unwrap().next().is_none()
        }
    }

    #[test]
    fn the_last_parent_is_kept_until_it_is_forgotten() {
        let fixture = fixture();
        let mut parents = LastParent::default();
        let number = |fd: BorrowedFd<'_>| nix::sys::stat::fstat(fd).unwrap().st_ino;
        let (first, name) = parents.of(fixture.root.as_fd(), Path::new("/etc/a")).unwrap();
        assert_eq!(name, "a");
        let first = number(first);
        fs::rename(fixture.at("root/etc"), fixture.at("root/old")).unwrap();
        let mut at = |path| number(parents.of(fixture.root.as_fd(), Path::new(path)).unwrap().0);
        assert_eq!(at("/etc/b"), first);
        assert_ne!(at("/new/b"), first);
        assert_ne!(at("/etc/b"), first);
    }

    #[test]
    fn directories_are_made_below_the_root_whatever_the_path_says() {
        let f = fixture();
        make_directory(f.root.as_fd(), Path::new("/a/../../../b/c")).unwrap();
        assert!(f.at("root/b/c").is_dir());
    }

    #[test]
    fn links_to_the_outside_lead_inside() {
        let f = fixture();
        symlink(f.at("host"), f.at("root/etc/out")).unwrap();
        symlink("../../../host", f.at("root/etc/up")).unwrap();
        make_directory(f.root.as_fd(), Path::new("/etc/out/x")).unwrap();
        make_file(f.root.as_fd(), Path::new("/etc/up/y")).unwrap();
        assert!(f.host_is_untouched());
        assert!(f.at("root/host/y").is_file());
    }

    #[test]
    fn a_link_to_nothing_is_made_real() {
        let f = fixture();
        fs::create_dir(f.at("root/var")).unwrap();
        symlink("/run", f.at("root/var/run")).unwrap();
        make_directory(f.root.as_fd(), Path::new("/var/run/app")).unwrap();
        assert!(f.at("root/run/app").is_dir());
    }

    #[test]
    fn a_file_behind_a_link_to_nothing_is_made() {
        let f = fixture();
        symlink("../run/resolve/resolv.conf", f.at("root/etc/resolv.conf")).unwrap();
        make_file(f.root.as_fd(), Path::new("/etc/resolv.conf")).unwrap();
        assert!(f.at("root/run/resolve/resolv.conf").is_file());
    }

    #[test]
    fn endless_links_end() {
        let f = fixture();
        symlink("b", f.at("root/a")).unwrap();
        symlink("a", f.at("root/b")).unwrap();
        let error = make_directory(f.root.as_fd(), Path::new("/a/x")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn a_link_in_the_way_can_be_refused() {
        let f = fixture();
        symlink("etc", f.at("root/proc")).unwrap();
        let error =
            open_without_links(f.root.as_fd(), Path::new("/proc"), OFlag::O_PATH).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }
}
