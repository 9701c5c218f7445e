//! One layer's tar stream → a directory that overlayfs takes as a lower layer.
//!
//! The directory is private to this import; what must be kept in are the *names* in the tar. Every path
//! is resolved by the kernel below the layer's root (openat2, RESOLVE_IN_ROOT), so a symbolic link in the
//! layer leads where it would lead in the container, never outside.
//!
//! Whiteouts become what overlayfs understands: `.wh.NAME` a character device 0:0 called NAME,
//! `.wh..wh..opq` the attribute `trusted.overlay.opaque` of its directory (OCI image spec, layer.md).
//! Other attributes `trusted.*` are not taken over: `trusted.overlay.redirect` would let a layer point elsewhere.
//! Device nodes are left out below /dev, where nobody can see them, and refused anywhere else.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use tar::{Entry, EntryType};

use super::{Error, Result};

/// How much one layer may unpack to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) bytes: u64,
    pub(super) entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 64 << 30, entries: 4_000_000 }
    }
}

const WHITEOUT: &[u8] = b".wh.";
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const MAX_DEPTH: usize = 1024;

/// Unpack `stream` into the empty directory `target`; the answer is the bytes of its files.
pub(super) fn layer(stream: impl Read, target: &Path, limits: Limits) -> Result<u64> {
    let root = rustix::fs::open(
        target,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(Error::io("open", target))?;
    let mut unpacker = Unpacker {
        root,
        limits,
        bytes: 0,
        entries: 0,
        directories: Vec::new(),
        privileged: rustix::process::geteuid().is_root(),
    };
    let bad = |e: io::Error| Error::Invalid(format!("read layer: {e}"));
    let mut archive = tar::Archive::new(stream);
    for entry in archive.entries().map_err(bad)? {
        unpacker.entry(&mut entry.map_err(bad)?)?;
    }
    unpacker.date_directories()?;
    Ok(unpacker.bytes)
}

struct Unpacker {
    root: OwnedFd,
    limits: Limits,
    bytes: u64,
    entries: u64,
    /// Their times are set last: making files inside changes them.
    directories: Vec<(PathBuf, u64)>,
    /// Only root can give files away.
    privileged: bool,
}

/// An entry's place: its directory, opened, and its name there.
struct Spot {
    parent: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl Spot {
    fn io<E: Into<io::Error>>(&self, verb: &'static str) -> impl FnOnce(E) -> Error + use<E> {
        Error::io(verb, self.path.clone())
    }
}

impl Unpacker {
    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<()> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            let most = self.limits.entries;
            return Err(Error::Invalid(format!("a layer has more than {most} entries")));
        }
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let mut parts = components(&entry.path_bytes())?;
        let Some(name) = parts.pop() else { return self.root_itself(entry) };
        let parent_path: PathBuf = parts.iter().collect();
        if name.as_bytes() == OPAQUE {
            let parent = self.directory(&parts)?;
            return set_opaque(&parent, &parent_path);
        }
        if name.as_bytes().starts_with(AUFS) {
            return Ok(());
        }
        let path = parent_path.join(&name);
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            if hidden.is_empty() || hidden == b"." || hidden == b".." {
                return Err(Error::Invalid(format!("{path:?} is not a whiteout")));
            }
            let name = OsStr::from_bytes(hidden).to_owned();
            return whiteout(&Spot { parent: self.directory(&parts)?, name, path });
        }
        if matches!(kind, EntryType::Char | EntryType::Block) {
            return device(&parts, &path);
        }
        let spot = Spot { parent: self.directory(&parts)?, name, path };
        self.place(entry, kind, &spot)
    }

    fn place<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        kind: EntryType,
        spot: &Spot,
    ) -> Result<()> {
        match kind {
            EntryType::Directory => {
                make_directory(spot)?;
                self.dress(entry, spot, false)?;
                self.directories.push((spot.path.clone(), mtime(entry)));
            }
            EntryType::Symlink => {
                clear(spot)?;
                let target = link_target(entry, spot)?;
                rustix::fs::symlinkat(OsStr::from_bytes(&target), &spot.parent, &spot.name)
                    .map_err(spot.io("create link"))?;
                self.dress(entry, spot, true)?;
            }
            EntryType::Link => self.hard_link(&link_target(entry, spot)?, spot)?,
            EntryType::Fifo => {
                clear(spot)?;
                rustix::fs::mkfifoat(&spot.parent, &spot.name, Mode::RUSR)
                    .map_err(spot.io("create fifo"))?;
                self.dress(entry, spot, false)?;
            }
            kind if kind.is_file() || kind.is_gnu_sparse() => {
                clear(spot)?;
                self.file(entry, spot)?;
                self.dress(entry, spot, false)?;
            }
            other => {
                let path = &spot.path;
                return Err(Error::Invalid(format!("{path:?} has unknown entry type {other:?}")));
            }
        }
        Ok(())
    }

    fn file<R: Read>(&mut self, entry: &mut Entry<'_, R>, spot: &Spot) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&spot.parent, &spot.name, flags | OFlags::NOFOLLOW, Mode::RUSR)
            .map_err(spot.io("create"))?;
        let left = self.limits.bytes - self.bytes;
        let written = io::copy(&mut entry.take(left.saturating_add(1)), &mut File::from(fd))
            .map_err(spot.io("write"))?;
        if written > left {
            let most = self.limits.bytes;
            return Err(Error::Invalid(format!("a layer unpacks to more than {most} bytes")));
        }
        self.bytes += written;
        Ok(())
    }

    fn hard_link(&self, target: &[u8], spot: &Spot) -> Result<()> {
        let bad = || {
            let target = OsStr::from_bytes(target);
            Error::Invalid(format!(
                "{:?} is a hard link to {target:?}, not in its layer",
                spot.path
            ))
        };
        let mut parts = components(target)?;
        let name = parts.pop().ok_or_else(bad)?;
        let path: PathBuf = parts.iter().collect();
        let parent = self.open_below(&path).map_err(|_| bad())?;
        if same_file(&parent, &name, spot) {
            return Ok(());
        }
        clear(spot)?;
        rustix::fs::linkat(parent, &name, &spot.parent, &spot.name, AtFlags::empty())
            .map_err(|e| if e == Errno::NOENT { bad() } else { spot.io("create hard link")(e) })
    }

    /// Owner, mode, attributes, time, in this order: a change of owner clears setuid and capabilities.
    fn dress<R: Read>(&self, entry: &mut Entry<'_, R>, spot: &Spot, link: bool) -> Result<()> {
        let header = entry.header();
        let bad = |e: io::Error| Error::Invalid(format!("read header of {:?}: {e}", spot.path));
        if self.privileged {
            let uid = u32::try_from(header.uid().map_err(bad)?).ok();
            let gid = u32::try_from(header.gid().map_err(bad)?).ok();
            let (Some(uid), Some(gid)) = (uid, gid) else {
                return Err(Error::Invalid(format!("{:?} has no valid owner", spot.path)));
            };
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(&spot.parent, &spot.name, uid, gid, flags)
                .map_err(spot.io("change owner of"))?;
        }
        if !link {
            let mode = Mode::from_raw_mode(header.mode().map_err(bad)? & 0o7777);
            rustix::fs::chmodat(&spot.parent, &spot.name, mode, AtFlags::empty())
                .map_err(spot.io("change mode of"))?;
            self.attributes(entry, spot)?;
        }
        let times = timestamps(mtime(entry));
        rustix::fs::utimensat(&spot.parent, &spot.name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(spot.io("set time of"))
    }

    fn attributes<R: Read>(&self, entry: &mut Entry<'_, R>, spot: &Spot) -> Result<()> {
        let bad = |e: io::Error| Error::Invalid(format!("read header of {:?}: {e}", spot.path));
        let Some(extensions) = entry.pax_extensions().map_err(bad)? else { return Ok(()) };
        for extension in extensions {
            let extension = extension.map_err(bad)?;
            let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") else { continue };
            let wanted = name.starts_with(b"user.") || name == b"security.capability";
            if !wanted || (!self.privileged && name.starts_with(b"security.")) {
                continue;
            }
            let path = magic_path(&spot.parent).join(&spot.name);
            let name = OsStr::from_bytes(name);
            rustix::fs::lsetxattr(path, name, extension.value_bytes(), XattrFlags::empty())
                .map_err(spot.io("set attribute of"))?;
        }
        Ok(())
    }

    fn root_itself<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<()> {
        if entry.header().entry_type() != EntryType::Directory {
            return Err(Error::Invalid("a layer's root is not a directory".into()));
        }
        let parent = self.root.try_clone().map_err(Error::io("open", "."))?;
        let spot = Spot { parent, name: ".".into(), path: ".".into() };
        self.dress(entry, &spot, false)?;
        self.directories.push((PathBuf::from("."), mtime(entry)));
        Ok(())
    }

    /// The directory at `parts`, made where it is missing (a layer need not name its directories).
    fn directory(&self, parts: &[OsString]) -> Result<OwnedFd> {
        let path: PathBuf = parts.iter().collect();
        match self.open_below(&path) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(e) => return Err(Error::io("open", path)(e)),
        }
        let mut current = self.open_below(Path::new("")).map_err(Error::io("open", "."))?;
        let mut path = PathBuf::new();
        for part in parts {
            path.push(part);
            current = match self.open_below(&path) {
                Ok(fd) => fd,
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    let spot = Spot { parent: current, name: part.clone(), path: path.clone() };
                    if exists(&spot).is_some_and(|kind| kind != FileType::CharacterDevice) {
                        return Err(Error::Invalid(format!("{path:?} is not a directory")));
                    }
                    make_directory(&spot)?;
                    self.open_below(&path).map_err(spot.io("open"))?
                }
                Err(e) => return Err(Error::io("open", path)(e)),
            };
        }
        Ok(current)
    }

    fn open_below(&self, path: &Path) -> std::result::Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            // EAGAIN: something was renamed anywhere on the machine while `..` was resolved.
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) if tries < 128 => tries += 1,
                result => return result,
            }
        }
    }

    fn date_directories(&self) -> Result<()> {
        for (path, mtime) in self.directories.iter().rev() {
            // One that a later entry replaced by something else has no date to keep.
            let Ok(fd) = self.open_below(path) else { continue };
            rustix::fs::futimens(fd, &timestamps(*mtime))
                .map_err(Error::io("set time of", path))?;
        }
        Ok(())
    }
}

/// A name's parts below the layer's root; an error where it would leave it.
fn components(name: &[u8]) -> Result<Vec<OsString>> {
    let mut parts = Vec::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                let name = OsStr::from_bytes(name);
                return Err(Error::Invalid(format!("{name:?} leaves its layer")));
            }
            part => parts.push(OsString::from_vec(part.to_vec())),
        }
    }
    if parts.len() > MAX_DEPTH {
        return Err(Error::Invalid(format!("a path in a layer has more than {MAX_DEPTH} parts")));
    }
    Ok(parts)
}

fn link_target<R: Read>(entry: &Entry<'_, R>, spot: &Spot) -> Result<Vec<u8>> {
    match entry.link_name_bytes() {
        Some(target) if !target.is_empty() && !target.contains(&0) => Ok(target.into_owned()),
        _ => Err(Error::Invalid(format!("link {:?} has no target", spot.path))),
    }
}

fn device(parents: &[OsString], path: &Path) -> Result<()> {
    if parents.first().is_some_and(|first| first == "dev") {
        return Ok(());
    }
    Err(Error::Invalid(format!("{path:?} is a device node, which only /dev may have")))
}

fn exists(spot: &Spot) -> Option<FileType> {
    let stat = rustix::fs::statat(&spot.parent, &spot.name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(FileType::from_raw_mode(stat.st_mode))
}

fn same_file(parent: &OwnedFd, name: &OsStr, spot: &Spot) -> bool {
    let stat = |dir: &OwnedFd, name: &OsStr| {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some((stat.st_dev, stat.st_ino))
    };
    let one = stat(parent, name);
    one.is_some() && one == stat(&spot.parent, &spot.name)
}

/// Within one layer the later entry wins.
fn clear(spot: &Spot) -> Result<()> {
    match exists(spot) {
        None => Ok(()),
        Some(FileType::Directory) => {
            std::fs::remove_dir_all(magic_path(&spot.parent).join(&spot.name))
                .map_err(spot.io("replace"))
        }
        Some(_) => rustix::fs::unlinkat(&spot.parent, &spot.name, AtFlags::empty())
            .map_err(spot.io("replace")),
    }
}

/// A directory over a directory is the same directory; over a whiteout it starts empty: opaque.
fn make_directory(spot: &Spot) -> Result<()> {
    let before = exists(spot);
    if before == Some(FileType::Directory) {
        return Ok(());
    }
    clear(spot)?;
    rustix::fs::mkdirat(&spot.parent, &spot.name, Mode::from_raw_mode(0o755))
        .map_err(spot.io("create directory"))?;
    rustix::fs::chmodat(&spot.parent, &spot.name, Mode::from_raw_mode(0o755), AtFlags::empty())
        .map_err(spot.io("change mode of"))?;
    if before == Some(FileType::CharacterDevice) {
        set_opaque_at(&magic_path(&spot.parent).join(&spot.name), &spot.path)?;
    }
    Ok(())
}

/// Hide what lower layers have there. What this layer itself has there stays.
fn whiteout(spot: &Spot) -> Result<()> {
    match exists(spot) {
        None => rustix::fs::mknodat(
            &spot.parent,
            &spot.name,
            FileType::CharacterDevice,
            Mode::empty(),
            rustix::fs::makedev(0, 0),
        )
        .map_err(spot.io("create whiteout")),
        Some(FileType::Directory) => {
            set_opaque_at(&magic_path(&spot.parent).join(&spot.name), &spot.path)
        }
        Some(_) => Ok(()),
    }
}

fn set_opaque(directory: &OwnedFd, path: &Path) -> Result<()> {
    rustix::fs::fsetxattr(directory, "trusted.overlay.opaque", b"y", XattrFlags::empty())
        .map_err(Error::io("make opaque", path))
}

fn set_opaque_at(place: &Path, path: &Path) -> Result<()> {
    rustix::fs::lsetxattr(place, "trusted.overlay.opaque", b"y", XattrFlags::empty())
        .map_err(Error::io("make opaque", path))
}

/// A path to an open directory, for calls that have no `…at` form. Nobody else writes here.
fn magic_path(directory: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd()))
}

fn mtime<R: Read>(entry: &Entry<'_, R>) -> u64 {
    entry.header().mtime().unwrap_or(0)
}

fn timestamps(seconds: u64) -> Timestamps {
    let time = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(0), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
pub(super) mod tests;
