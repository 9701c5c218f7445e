//! A container of named blobs to import from: a tar file, or a directory of the same shape.
//!
//! Owns reading; knows nothing of what the blobs mean.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::{Error, Result};

/// Manifests and configurations are read into memory; none that people have comes near this.
const MAX_SMALL: u64 = 8 << 20;
/// Links within the archive that lead to one blob.
const MAX_LINKS: usize = 8;

pub(super) enum Archive {
    Directory(PathBuf),
    Tar { file: File, entries: BTreeMap<String, Place> },
}

pub(super) enum Place {
    At {
        offset: u64,
        size: u64,
    },
    /// `docker save` of old stores a layer once and links to it.
    Link(String),
}

impl Archive {
    /// Open `path`; `-` is standard input. What cannot be sought is copied to `scratch` first.
    pub(super) fn open(path: &Path, scratch: &Path) -> Result<Self> {
        if path == Path::new("-") {
            return Self::tar(spool(io::stdin().lock(), scratch)?);
        }
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let meta = file.metadata().map_err(Error::io("inspect", path))?;
        if meta.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        if !meta.is_file() {
            file = spool(file, scratch)?;
        }
        let mut magic = [0; 2];
        let n = file.read_at(&mut magic, 0).map_err(Error::io("read", path))?;
        if magic[..n] == [0x1f, 0x8b] {
            file = spool(MultiGzDecoder::new(file), scratch)?;
        }
        Self::tar(file)
    }

    fn tar(mut file: File) -> Result<Self> {
        let bad = |e: io::Error| Error::Invalid(format!("the tar archive is damaged: {e}"));
        file.seek(SeekFrom::Start(0)).map_err(bad)?;
        let mut entries = BTreeMap::new();
        let mut archive = tar::Archive::new(&file);
        for (i, entry) in archive.entries_with_seek().map_err(bad)?.enumerate() {
            // What tar says of a file that never was one is no help.
            let no_tar = |_| Error::Invalid("it is not a tar archive".into());
            let entry = if i == 0 { entry.map_err(no_tar)? } else { entry.map_err(bad)? };
            let Some(name) = clean(&entry.path().map_err(bad)?) else { continue };
            let place = match entry.header().entry_type() {
                kind if kind.is_file() => {
                    Place::At { offset: entry.raw_file_position(), size: entry.size() }
                }
                kind if kind.is_symlink() || kind.is_hard_link() => {
                    let Some(target) = entry.link_name().map_err(bad)? else { continue };
                    let base = match kind.is_symlink() {
                        true => Path::new(&name).parent().unwrap_or(Path::new("")).to_owned(),
                        false => PathBuf::new(),
                    };
                    let Some(target) = clean(&base.join(target)) else { continue };
                    Place::Link(target)
                }
                _ => continue,
            };
            entries.insert(name, place);
        }
        Ok(Self::Tar { file, entries })
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        match self {
            Self::Directory(root) => root.join(name).is_file(),
            Self::Tar { entries, .. } => entries.contains_key(name),
        }
    }

    /// A blob as a stream.
    pub(super) fn reader(&self, name: &str) -> Result<Box<dyn Read + '_>> {
        let missing = || Error::Invalid(format!("the archive has no {name:?}"));
        let name = clean(Path::new(name)).ok_or_else(missing)?;
        match self {
            Self::Directory(root) => {
                let path = root.join(&name);
                match File::open(&path) {
                    Ok(file) => Ok(Box::new(file)),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => Err(missing()),
                    Err(e) => Err(Error::io("open", path)(e)),
                }
            }
            Self::Tar { file, entries } => {
                let (offset, size) = locate(entries, &name).ok_or_else(missing)?;
                Ok(Box::new(Section { file, offset, end: offset.saturating_add(size) }))
            }
        }
    }

    /// A blob that must be small, whole.
    pub(super) fn small(&self, name: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut reader = self.reader(name)?.take(MAX_SMALL + 1);
        reader.read_to_end(&mut bytes).map_err(Error::io("read", name))?;
        if bytes.len() as u64 > MAX_SMALL {
            return Err(Error::Invalid(format!("{name:?} is larger than {MAX_SMALL} bytes")));
        }
        Ok(bytes)
    }
}

fn locate(entries: &BTreeMap<String, Place>, name: &str) -> Option<(u64, u64)> {
    let mut name = name;
    for _ in 0..MAX_LINKS {
        match entries.get(name)? {
            Place::At { offset, size } => return Some((*offset, *size)),
            Place::Link(target) => name = target,
        }
    }
    None
}

/// The name without `.`, `..` and a leading `/`; none if it leaves the archive or is not text.
fn clean(path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::ParentDir => drop(parts.pop()?),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn spool(mut from: impl Read, scratch: &Path) -> Result<File> {
    let mut file = tempfile::tempfile_in(scratch).map_err(Error::io("create file in", scratch))?;
    io::copy(&mut from, &mut file).map_err(Error::io("copy archive to", scratch))?;
    Ok(file)
}

struct Section<'a> {
    file: &'a File,
    offset: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        let len = buf.len().min(left);
        if len == 0 {
            return Ok(0);
        }
        match self.file.read_at(&mut buf[..len], self.offset)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.offset += n as u64;
                Ok(n)
            }
        }
    }
}
