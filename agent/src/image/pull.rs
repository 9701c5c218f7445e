//! From a registry into the store: manifest, configuration, layers; then one commit, before which nothing can be seen.
//!
//! ```text
//! name → (index → this platform's) manifest → configuration → layers that are missing: fetched to a file,
//!        verified, unpacked, verified again (diffID), several at a time → commit
//! ```
//! A pull that fails or is dropped leaves nothing: all it has is in a directory of its own that goes with it.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::sync::Semaphore;

use super::digest::{self, Digest};
use super::manifest::{self, Configuration, Descriptor, Document, Manifest, media};
use super::registry::platform::Machine;
use super::registry::{Fetched, Keyring, Registry, RegistryError, Repository};
use super::store::{self, Ready, Scratch};
use super::{Error, Image, ImageStore, Reference};

/// Layers of one image that are fetched at a time.
const DOWNLOADS: usize = 3;
/// Layers of one image that are under way at all: while some are unpacked, others are fetched.
const LAYERS: usize = 6;
const MAX_CONFIG: u64 = 8 << 20;
/// Nobody has a larger layer, and a disk should not be filled before that is found out.
const MAX_LAYER: u64 = 64 << 30;

/// Why an image was not pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("{0}")]
    Invalid(String),
    #[error("{0} has no image for {1}")]
    NoPlatform(String, String),
    #[error("layer {digest}: {message}")]
    Layer { digest: String, message: String },
    #[error(transparent)]
    Store(Error),
    /// Somebody removed a layer that was here when the pull began.
    #[error("layer {0} was removed from the store while the image was pulled")]
    Removed(String),
}

/// The store speaks of an import; here it is a pull.
impl From<Error> for PullError {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(message) => PullError::Invalid(message),
            Error::Digest { what, expected, actual } => {
                PullError::Invalid(format!("{what} has digest {actual}, expected {expected}"))
            }
            other => PullError::Store(other),
        }
    }
}

/// How far a pull is; read by whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    total: AtomicU64,
    got: AtomicU64,
}

impl Progress {
    /// Bytes that are here, and bytes there are. Both grow while the pull finds out what it needs.
    pub fn bytes(&self) -> (u64, u64) {
        (self.got.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn got(&self, bytes: u64) {
        self.got.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What came was not good.
    pub(super) fn took_back(&self, bytes: u64) {
        self.got.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl ImageStore {
    /// Pulls an image, or finds that the registry means what is here already.
    pub async fn pull(
        &self,
        registry: &Registry,
        image: &Reference,
        keyring: &Keyring,
        progress: &Progress,
    ) -> Result<Image, PullError> {
        let repository = registry.repository(image, keyring)?;
        if let Some(image) = self.up_to_date(&repository, image).await? {
            return Ok(image);
        }
        let pull = Pull { store: self, repository: &repository, image, progress };
        match Box::pin(pull.run()).await {
            // Whoever removed it has done so by now.
            Err(PullError::Removed(_)) => Box::pin(pull.run()).await,
            result => result,
        }
    }

    /// The image in the store, if the name still means it.
    async fn up_to_date(
        &self,
        repository: &Repository<'_>,
        image: &Reference,
    ) -> Result<Option<Image>, PullError> {
        let (store, key) = (self.clone(), image.key());
        let Some(known) = blocking(move || store.resolve(&key)).await? else { return Ok(None) };
        if image.digest.is_some() {
            return Ok(Some(known));
        }
        let Some(now) = repository.head(image.tag.as_deref().unwrap_or("latest")).await else {
            return Ok(None);
        };
        let name = format!("{}@{now}", image.repository());
        Ok(Some(known).filter(|known| known.references.contains(&name)))
    }
}

struct Pull<'a> {
    store: &'a ImageStore,
    repository: &'a Repository<'a>,
    image: &'a Reference,
    progress: &'a Progress,
}

/// What every layer of one pull needs.
struct Yard {
    scratch: Scratch,
    downloads: Semaphore,
    /// Set when the pull is over, however: a thread that still unpacks stops.
    over: AtomicBool,
}

impl Yard {
    fn blobs(&self) -> PathBuf {
        self.scratch.path().join("blobs")
    }

    fn layers(&self) -> PathBuf {
        self.scratch.path().join("layers")
    }
}

/// Tells the unpacking threads that nobody waits for them any more.
struct Over<'a>(&'a Yard);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

impl Pull<'_> {
    async fn run(&self) -> Result<Image, PullError> {
        let (top, manifest) = self.manifest().await?;
        let yard = Arc::new(self.yard().await?);
        let _over = Over(&yard);
        let config = self.config(&manifest.config, &yard).await?;
        let what = self.image.to_string();
        let parsed: Configuration = manifest::json(&what, &config)?;
        let diff_ids = store::layers_of(&parsed, manifest.layers.len())?;
        self.layers(&manifest.layers, &diff_ids, &yard).await?;
        let by_digest = format!("{}@{top}", self.image.repository());
        let references = vec![self.image.key(), by_digest];
        let ready = Ready { id: digest::of(&config), config, references, pulled: true };
        let (store, yard) = (self.store.clone(), Arc::clone(&yard));
        blocking(move || commit(&store, &yard, &ready, &diff_ids)).await
    }

    async fn yard(&self) -> Result<Yard, PullError> {
        let store = self.store.clone();
        let scratch = blocking(move || store.scratch()).await?;
        let yard =
            Yard { scratch, downloads: Semaphore::new(DOWNLOADS), over: AtomicBool::new(false) };
        for dir in [yard.blobs(), yard.layers()] {
            std::fs::create_dir(&dir).map_err(Error::io("create directory", dir))?;
        }
        Ok(yard)
    }

    /// The digest that the name stands for, and the manifest for this machine.
    async fn manifest(&self) -> Result<(Digest, Manifest), PullError> {
        let name = self.image.digest.as_deref().or(self.image.tag.as_deref());
        let mut fetched = self.repository.manifest(name.unwrap_or("latest")).await?;
        let top = fetched.digest.clone();
        let machine = Machine::here();
        for _ in 0..manifest::MAX_DEPTH {
            let Fetched { bytes, media_type, digest } = &fetched;
            match manifest::document(&digest.to_string(), media_type, bytes)? {
                Document::Image(manifest) => return Ok((top, manifest)),
                Document::Index(list) => {
                    let none = || PullError::NoPlatform(self.image.to_string(), machine.name());
                    let best = manifest::best(list, &machine).ok_or_else(none)?;
                    let digest = digest_of(&best)?;
                    fetched = self.repository.manifest(&digest.to_string()).await?;
                }
            }
        }
        Err(PullError::Invalid("its indexes are nested too deeply".into()))
    }

    async fn config(&self, descriptor: &Descriptor, yard: &Yard) -> Result<Vec<u8>, PullError> {
        if !matches!(descriptor.media_type.as_str(), media::OCI_CONFIG | media::DOCKER_CONFIG) {
            let kind = &descriptor.media_type;
            return Err(PullError::Invalid(format!("it is no container image but {kind:?}")));
        }
        if descriptor.size > MAX_CONFIG {
            let message = format!("its configuration is larger than {MAX_CONFIG} bytes");
            return Err(PullError::Invalid(message));
        }
        let path = yard.scratch.path().join("config");
        let digest = digest_of(descriptor)?;
        self.repository.blob(&digest, descriptor.size, &path, &Progress::default()).await?;
        Ok(std::fs::read(&path).map_err(Error::io("read", path))?)
    }

    async fn layers(
        &self,
        layers: &[Descriptor],
        diff_ids: &[Digest],
        yard: &Arc<Yard>,
    ) -> Result<(), PullError> {
        let mut missing = Vec::new();
        for (descriptor, diff_id) in layers.iter().zip(diff_ids) {
            let twice = missing.iter().any(|(_, _, known)| *known == diff_id);
            if twice || self.store.has(diff_id, &yard.layers()) {
                continue;
            }
            let digest = digest_of(descriptor)?;
            check_layer(descriptor)?;
            self.progress.expect(descriptor.size);
            missing.push((digest, descriptor.size, diff_id));
        }
        // Boxed one by one: the compiler cannot see that a closure's future may go to another thread.
        let mut tasks: Vec<BoxFuture<'_, Result<(), PullError>>> = Vec::new();
        for (digest, size, diff_id) in missing {
            tasks.push(self.layer(digest, size, diff_id, yard).boxed());
        }
        let mut tasks = futures::stream::iter(tasks).buffer_unordered(LAYERS);
        while let Some(done) = tasks.next().await {
            done?;
        }
        Ok(())
    }

    async fn layer(
        &self,
        digest: Digest,
        size: u64,
        diff_id: &Digest,
        yard: &Arc<Yard>,
    ) -> Result<(), PullError> {
        // By diffID: one blob may stand for two layers (nobody does it, but one could).
        let path = yard.blobs().join(diff_id.hex());
        {
            let _permit = yard.downloads.acquire().await;
            self.repository.blob(&digest, size, &path, self.progress).await?;
        }
        let (store, yard, diff_id) = (self.store.clone(), Arc::clone(yard), diff_id.clone());
        let work = move || {
            let file = File::open(&path).map_err(Error::io("open", &path))?;
            let stream = Watched { inner: file, yard: &yard };
            store.stage_stream("its content", stream, &diff_id, &yard.layers())?;
            std::fs::remove_file(&path).map_err(Error::io("remove", path))
        };
        let digest = digest.to_string();
        blocking(work)
            .await
            .map_err(|error| PullError::Layer { digest, message: error.to_string() })
    }
}

/// Everything is there or staged: make it an image. Removals wait meanwhile.
fn commit(
    store: &ImageStore,
    yard: &Yard,
    ready: &Ready,
    diff_ids: &[Digest],
) -> Result<Image, PullError> {
    let _importing = store.importing()?;
    if let Some(gone) = diff_ids.iter().find(|diff_id| !store.has(diff_id, &yard.layers())) {
        return Err(PullError::Removed(gone.to_string()));
    }
    let mut images = store.commit(&yard.layers(), std::slice::from_ref(ready))?;
    images.pop().ok_or_else(|| Error::NotFound(ready.id.to_string()).into())
}

fn digest_of(descriptor: &Descriptor) -> Result<Digest, PullError> {
    digest::parse(&descriptor.digest).ok_or_else(|| {
        let digest = &descriptor.digest;
        PullError::Invalid(format!("digest {digest:?} is not sha256:<64 hex digits>"))
    })
}

/// What is no layer is refused before it is fetched. How it is compressed is seen when it is read.
fn check_layer(descriptor: &Descriptor) -> Result<(), PullError> {
    let kind = descriptor.media_type.as_str();
    let known = kind.starts_with("application/vnd.oci.image.layer.")
        || kind.starts_with("application/vnd.docker.image.rootfs.");
    if !known || kind.contains("encrypted") {
        return Err(PullError::Invalid(format!("a layer has unknown media type {kind:?}")));
    }
    if descriptor.size > MAX_LAYER {
        let size = descriptor.size;
        let message = format!("a layer has {size} bytes, more than {MAX_LAYER}");
        return Err(PullError::Invalid(message));
    }
    Ok(())
}

async fn blocking<T: Send + 'static, E: Into<PullError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, PullError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => Err(PullError::Invalid(format!("the task that did it ended: {error}"))),
    }
}

/// A reader that fails once the pull is over.
struct Watched<'a> {
    inner: File,
    yard: &'a Yard,
}

impl Read for Watched<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.yard.over.load(Ordering::Relaxed) {
            return Err(io::Error::other("the pull was given up"));
        }
        self.inner.read(buf)
    }
}

#[cfg(test)]
#[path = "pull_tests.rs"]
mod tests;
