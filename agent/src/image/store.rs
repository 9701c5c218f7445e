//! The store's operations. Blocking: call them from a blocking task.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::archive::Archive;
use super::digest::{self, Digest, HashingReader};
use super::manifest::{self, Blob, Configuration, Planned};
use super::unpack::{self, Limits};
use super::zstd;
use super::{Error, Image, Reference, Result};

/// `<data-dir>/images`. Cheap to open; any number of processes may use one directory.
#[derive(Debug, Clone)]
pub struct ImageStore {
    root: PathBuf,
    limits: Limits,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    /// Normalised reference → image id.
    references: BTreeMap<String, String>,
    /// Ids of images that a registry gave and can give again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pulled: BTreeSet<String>,
}

/// A directory below `tmp/` that is whoever holds this; when it is dropped it is gone. The lock tells the sweep.
#[derive(Debug)]
pub(super) struct Scratch {
    dir: tempfile::TempDir,
    _lock: File,
}

impl Scratch {
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayerRecord {
    diff_id: String,
    size: u64,
}

/// An image that is about to be recorded.
pub(super) struct Ready {
    pub(super) id: Digest,
    pub(super) config: Vec<u8>,
    pub(super) references: Vec<String>,
    /// A registry gave it.
    pub(super) pulled: bool,
}

impl ImageStore {
    /// Open the store, making its directories. What dead imports left behind is removed.
    pub fn open(root: &Path) -> Result<Self> {
        for dir in ["configs", "layers", "tmp"] {
            let path = root.join(dir);
            std::fs::create_dir_all(&path).map_err(Error::io("create directory", path))?;
        }
        // Mount tables show resolved paths; `remove` compares with them.
        let root = root.canonicalize().map_err(Error::io("resolve", root))?;
        let store = Self { root, limits: Limits::default() };
        store.sweep()?;
        Ok(store)
    }

    /// The image of this name or id (`sha256:<hex>`), if it is here.
    pub fn resolve(&self, reference: &str) -> Result<Option<Image>> {
        let index = self.index()?;
        let id = match digest::parse(reference).or_else(|| digest::from_hex(reference)) {
            Some(id) => Some(id),
            None => index
                .references
                .get(&Reference::parse(reference)?.key())
                .and_then(|id| digest::parse(id)),
        };
        match id {
            Some(id) if self.config_path(&id).exists() => self.image(&id, &index).map(Some),
            _ => Ok(None),
        }
    }

    /// Every image, by id.
    pub fn list(&self) -> Result<Vec<Image>> {
        let index = self.index()?;
        self.ids()?.iter().map(|id| self.image(id, &index)).collect()
    }

    /// Import a docker-archive or OCI layout, a tar (`-`: standard input) or a directory. `tag` names the
    /// image in place of the names that the archive gives it.
    pub fn import(&self, path: &Path, tag: Option<&str>) -> Result<Vec<Image>> {
        let tag = tag.map(Reference::parse).transpose()?;
        let _importing = self.importing()?;
        let scratch = self.scratch()?;
        let archive = Archive::open(path, scratch.path())?;
        let planned = plan(&archive)?;
        if tag.is_some() && planned.len() > 1 {
            return Err(Error::ManyImages(planned.len()));
        }
        let mut ready = Vec::new();
        for image in &planned {
            let references = references(image, tag.as_ref())?;
            let config = read_blob(&archive, &image.config)?;
            let id = digest::of(&config);
            let parsed: Configuration = manifest::json(&image.config.name, &config)?;
            for (blob, diff_id) in image.layers.iter().zip(diff_ids(&parsed, image)?) {
                self.stage(&archive, blob, &diff_id, scratch.path())?;
            }
            ready.push(Ready { id, config, references, pulled: false });
        }
        self.commit(scratch.path(), &ready)
    }

    /// Forget a name (or, by id, all names of an image). What no image needs any more is deleted.
    pub fn remove(&self, reference: &str) -> Result<()> {
        let _alone = self.lock("gc.lock", FlockOperation::LockExclusive)?;
        let _index = self.lock("lock", FlockOperation::LockExclusive)?;
        let image =
            self.resolve(reference)?.ok_or_else(|| Error::NotFound(reference.to_owned()))?;
        let mut index = self.index()?;
        match Reference::parse(reference).map(|r| r.key()) {
            Ok(key) if index.references.contains_key(&key) => drop(index.references.remove(&key)),
            _ => index.references.retain(|_, id| *id != image.id),
        }
        // Digest names come with a tag and are worth nothing without one.
        let named = index.references.iter().any(|(k, id)| *id == image.id && !k.contains('@'));
        if !named {
            if in_use(&image.layers) {
                return Err(Error::InUse(reference.to_owned()));
            }
            index.references.retain(|_, id| *id != image.id);
            index.pulled.remove(&image.id);
        }
        self.write_index(&index)?;
        if named { Ok(()) } else { self.collect_garbage(&image) }
    }

    fn collect_garbage(&self, gone: &Image) -> Result<()> {
        if let Some(id) = digest::parse(&gone.id) {
            let path = self.config_path(&id);
            std::fs::remove_file(&path).map_err(Error::io("remove", path))?;
        }
        let index = self.index()?;
        let mut needed = Vec::new();
        for id in self.ids()? {
            needed.extend(self.image(&id, &index)?.layers);
        }
        for layer in gone.layers.iter().filter(|layer| !needed.contains(layer)) {
            let Some(dir) = layer.parent() else { continue };
            // Out of sight in one step; what is left after a crash is swept by the next start.
            let grave = self.scratch_locked()?;
            std::fs::rename(dir, grave.path().join("layer")).map_err(Error::io("remove", dir))?;
        }
        Ok(())
    }

    /// Unpack one layer of an archive into the scratch directory, unless it is here already.
    fn stage(
        &self,
        archive: &Archive,
        blob: &Blob,
        diff_id: &Digest,
        scratch: &Path,
    ) -> Result<()> {
        if self.has(diff_id, scratch) {
            return Ok(());
        }
        let stream = archive.reader(&blob.name)?;
        let Some(expected) = &blob.digest else {
            return self.stage_stream(&blob.name, stream, diff_id, scratch);
        };
        let mut stream = HashingReader::new(stream);
        self.stage_stream(&blob.name, &mut stream, diff_id, scratch)?;
        check(&blob.name, expected, stream.finish().map_err(Error::io("read", &blob.name))?)
    }

    /// Is the layer in the store, or staged?
    pub(super) fn has(&self, diff_id: &Digest, scratch: &Path) -> bool {
        scratch.join(short(diff_id)).exists() || self.layer(diff_id).is_ok()
    }

    /// Unpack a layer, compressed or not, into the scratch directory. It must have this diffID.
    pub(super) fn stage_stream(
        &self,
        name: &str,
        stream: impl Read,
        diff_id: &Digest,
        scratch: &Path,
    ) -> Result<()> {
        let staged = scratch.join(short(diff_id));
        let target = staged.join("fs");
        std::fs::create_dir_all(&target).map_err(Error::io("create directory", &target))?;
        let mut plain = HashingReader::new(decompress(name, stream)?);
        let size = unpack::layer(&mut plain, &target, self.limits)?;
        check(name, diff_id, plain.finish().map_err(Error::io("read", name))?)?;
        let record = LayerRecord { diff_id: diff_id.to_string(), size };
        write_json(&staged.join("layer.json"), &record)
    }

    /// Make what was staged visible: flush, rename layers, write configurations, then the index.
    pub(super) fn commit(&self, scratch: &Path, ready: &[Ready]) -> Result<Vec<Image>> {
        sync_filesystem(scratch)?;
        let layers = self.root.join("layers");
        for entry in read_dir(scratch)? {
            let target = layers.join(entry.file_name().unwrap_or_default());
            match std::fs::rename(&entry, &target) {
                // An equal import was faster: the same bytes are there.
                Err(_) if target.join("layer.json").exists() => {}
                result => result.map_err(Error::io("rename layer to", target))?,
            }
        }
        for image in ready {
            write_atomic(&self.config_path(&image.id), &image.config)?;
        }
        sync_filesystem(&layers)?;
        let _index = self.lock("lock", FlockOperation::LockExclusive)?;
        let mut index = self.index()?;
        for image in ready {
            let id = image.id.to_string();
            if !image.pulled {
                index.pulled.remove(&id);
            } else if !index.references.values().any(|known| *known == id) {
                // One that was imported under another name stays what it is.
                index.pulled.insert(id.clone());
            }
            for reference in &image.references {
                index.references.insert(reference.clone(), id.clone());
            }
        }
        self.write_index(&index)?;
        ready.iter().map(|image| self.image(&image.id, &index)).collect()
    }

    fn image(&self, id: &Digest, index: &Index) -> Result<Image> {
        let path = self.config_path(id);
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        let damaged = |message: String| Error::Damaged { path: path.clone(), message };
        let config: Configuration =
            serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        let (mut layers, mut size) = (Vec::new(), 0);
        for diff_id in config.rootfs.diff_ids.iter().rev() {
            let diff_id = digest::parse(diff_id).ok_or_else(|| damaged("bad diffID".into()))?;
            let layer = self.root.join("layers").join(short(&diff_id)).join("fs");
            // overlayfs refuses one directory twice; the upper one hides the lower one anyway.
            if !layers.contains(&layer) {
                size += self.layer(&diff_id)?.size;
                layers.push(layer);
            }
        }
        let id = id.to_string();
        let names = index.references.iter().filter(|(_, of)| **of == id);
        let references = names.map(|(name, _)| name.clone()).collect();
        let pulled = index.pulled.contains(&id);
        let config = config.config.unwrap_or_default();
        Ok(Image { id, references, size, layers, config, pulled })
    }

    fn layer(&self, diff_id: &Digest) -> Result<LayerRecord> {
        let path = self.root.join("layers").join(short(diff_id)).join("layer.json");
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        let damaged = |message: String| Error::Damaged { path: path.clone(), message };
        let record: LayerRecord =
            serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if record.diff_id != diff_id.to_string() {
            return Err(damaged(format!("it is layer {}, not {diff_id}", record.diff_id)));
        }
        Ok(record)
    }

    fn ids(&self) -> Result<Vec<Digest>> {
        let mut ids: Vec<Digest> = read_dir(&self.root.join("configs"))?
            .iter()
            .filter_map(|path| digest::from_hex(path.file_name()?.to_str()?.strip_suffix(".json")?))
            .collect();
        ids.sort();
        Ok(ids)
    }

    fn index(&self) -> Result<Index> {
        let path = self.root.join("index.json");
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| Error::Damaged { path, message: e.to_string() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Index::default()),
            Err(e) => Err(Error::io("read", path)(e)),
        }
    }

    fn write_index(&self, index: &Index) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(index).map_err(io::Error::from);
        write_atomic(
            &self.root.join("index.json"),
            &bytes.map_err(Error::io("encode", "index.json"))?,
        )
    }

    fn config_path(&self, id: &Digest) -> PathBuf {
        self.root.join("configs").join(format!("{}.json", id.hex()))
    }

    pub(super) fn scratch(&self) -> Result<Scratch> {
        // Between its making and its locking nobody may sweep.
        let _no_sweep = self.importing()?;
        self.scratch_locked()
    }

    fn scratch_locked(&self) -> Result<Scratch> {
        let tmp = self.root.join("tmp");
        let dir = tempfile::tempdir_in(&tmp).map_err(Error::io("create directory in", tmp))?;
        let lock = File::open(dir.path()).map_err(Error::io("open", dir.path()))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(Error::io("lock", dir.path()))?;
        Ok(Scratch { dir, _lock: lock })
    }

    /// While this is held, nothing is removed and nothing in tmp/ is swept.
    pub(super) fn importing(&self) -> Result<File> {
        self.lock("gc.lock", FlockOperation::LockShared)
    }

    fn lock(&self, name: &str, how: FlockOperation) -> Result<File> {
        let path = self.root.join(name);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        rustix::fs::flock(&file, how).map_err(Error::io("lock", path))?;
        Ok(file)
    }

    /// Whatever is in tmp/ without a lock was left by somebody who died.
    fn sweep(&self) -> Result<()> {
        match self.lock("gc.lock", FlockOperation::NonBlockingLockExclusive) {
            Ok(_alone) => {
                for path in read_dir(&self.root.join("tmp"))? {
                    let Ok(dir) = File::open(&path) else { continue };
                    let how = FlockOperation::NonBlockingLockExclusive;
                    if rustix::fs::flock(&dir, how).is_ok() {
                        std::fs::remove_dir_all(&path).map_err(Error::io("remove", path))?;
                    }
                }
                Ok(())
            }
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(e),
        }
    }
}

fn plan(archive: &Archive) -> Result<Vec<Planned>> {
    let planned = if archive.contains("manifest.json") {
        manifest::docker(&archive.small("manifest.json")?)?
    } else if archive.contains("index.json") {
        manifest::oci(&archive.small("index.json")?, &|blob| read_blob(archive, blob))?
    } else {
        let message = "it has neither manifest.json (docker-archive) nor index.json (OCI layout)";
        return Err(Error::Invalid(message.into()));
    };
    if planned.is_empty() {
        let arch = manifest::architecture();
        return Err(Error::Invalid(format!("it holds no image for linux/{arch}")));
    }
    Ok(planned)
}

fn references(image: &Planned, tag: Option<&Reference>) -> Result<Vec<String>> {
    let names = match tag {
        Some(tag) => vec![tag.clone()],
        None => image
            .names
            .iter()
            .map(|n| Reference::parse(n))
            .collect::<std::result::Result<_, _>>()?,
    };
    let Some(first) = names.first() else { return Err(Error::NoName) };
    let by_digest = image.digest.as_ref().map(|d| format!("{}@{d}", first.repository()));
    Ok(names.iter().map(Reference::key).chain(by_digest).collect())
}

fn diff_ids(config: &Configuration, image: &Planned) -> Result<Vec<Digest>> {
    layers_of(config, image.layers.len())
}

/// The diffIDs of an image that has so many layers, lowest first; an error if it is not for this machine.
pub(super) fn layers_of(config: &Configuration, layers: usize) -> Result<Vec<Digest>> {
    let here = manifest::architecture();
    if !matches!(config.os.as_str(), "" | "linux")
        || !(config.architecture.is_empty() || config.architecture == here)
    {
        let (os, arch) = (&config.os, &config.architecture);
        return Err(Error::Invalid(format!("it is for {os}/{arch}, this node is linux/{here}")));
    }
    let ids = &config.rootfs.diff_ids;
    if ids.len() != layers || ids.is_empty() {
        let want = ids.len();
        return Err(Error::Invalid(format!(
            "its configuration has {want} layers, it has {layers}"
        )));
    }
    ids.iter()
        .map(|id| digest::parse(id).ok_or_else(|| Error::Invalid(format!("bad diffID {id:?}"))))
        .collect()
}

fn read_blob(archive: &Archive, blob: &Blob) -> Result<Vec<u8>> {
    let bytes = archive.small(&blob.name)?;
    if let Some(expected) = &blob.digest {
        check(&blob.name, expected, digest::of(&bytes))?;
    }
    Ok(bytes)
}

fn check(what: &str, expected: &Digest, actual: Digest) -> Result<()> {
    if *expected == actual {
        return Ok(());
    }
    let (what, expected, actual) = (what.to_owned(), expected.to_string(), actual.to_string());
    Err(Error::Digest { what, expected, actual })
}

/// Told by the first bytes: media types in the wild are wrong too often.
fn decompress<'a>(name: &str, mut stream: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::new();
    let mut start = (&mut stream).take(4);
    start.read_to_end(&mut magic).map_err(Error::io("read", name))?;
    let whole = io::Cursor::new(magic.clone()).chain(stream);
    match magic[..] {
        [0x1f, 0x8b, ..] => Ok(Box::new(MultiGzDecoder::new(whole))),
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            Ok(Box::new(zstd::Frames::new(io::BufReader::new(whole))))
        }
        _ => Ok(Box::new(whole)),
    }
}

/// Directory names are half a digest: overlayfs takes all lower directories in one page of options.
fn short(diff_id: &Digest) -> &str {
    &diff_id.hex()[..32]
}

/// Does any mount namespace have one of these as a lower directory?
fn in_use(layers: &[PathBuf]) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    let mut seen = std::collections::HashSet::new();
    processes.flatten().any(|process| {
        let path = process.path();
        // Processes that share a mount namespace show the same table; dead ones show none.
        match std::fs::read_link(path.join("ns/mnt")) {
            Ok(namespace) if seen.insert(namespace.clone()) => {}
            _ => return false,
        }
        let table = std::fs::read_to_string(path.join("mountinfo")).unwrap_or_default();
        layers.iter().any(|layer| table.contains(&*layer.to_string_lossy()))
    })
}

fn read_dir(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(path).map_err(Error::io("list", path))?;
    entries.map(|e| e.map(|e| e.path()).map_err(Error::io("list", path))).collect()
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let bytes =
        serde_json::to_vec(value).map_err(io::Error::from).map_err(Error::io("encode", path))?;
    std::fs::write(path, bytes).map_err(Error::io("write", path))
}

fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let write = || -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(Error::io("write", path))
}

fn sync_filesystem(path: &Path) -> Result<()> {
    let dir = File::open(path).map_err(Error::io("open", path))?;
    rustix::fs::syncfs(dir).map_err(Error::io("flush", path))
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
