//! The node's images: a store of unpacked layers, the names that point at them, and how they get in.
//!
//! Owns `<data-dir>/images`. Never mounts anything: it hands out layer directories that are ready to be overlay
//! lower directories. [`registry`] talks to registries, [`pull`] brings what it gets into the store.
//!
//! ```text
//! images/
//!   index.json                 reference → image id; the only file that changes (written anew, renamed)
//!   configs/<hex>.json         the image's configuration, byte for byte (its hash is the image id)
//!   layers/<32 hex>/fs/        one unpacked layer, named by the first half of its diffID
//!   layers/<32 hex>/layer.json its whole diffID and its size
//!   tmp/                       imports and pulls under way, each locked; what nobody has locked is rubbish
//!   lock, gc.lock              short: the index; long: importers share it, removal wants it alone
//! ```
//!
//! An import (or a pull) unpacks into `tmp/`, flushes, renames layers to their names (losing a race against an equal
//! import is a success), and writes the index last: until then nothing of it can be seen.

mod archive;
pub mod collect;
mod digest;
mod manifest;
mod program;
mod pull;
mod puller;
mod reference;
mod registry;
mod store;
mod unpack;
mod zstd;

use std::path::PathBuf;

pub use oci_spec::image::Config as ImageConfig;
pub use pull::{Progress, PullError};
pub use puller::{Pulled, Puller, Waiting};
pub use reference::{Reference, ReferenceError};
pub use registry::{Credential, Keyring, KeyringError, Registry, RegistryError};
pub use store::ImageStore;

/// One image in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// `sha256:<hex>` of the configuration.
    pub id: String,
    /// Normalised names, sorted.
    pub references: Vec<String>,
    /// Bytes of all unpacked layers.
    pub size: u64,
    /// Unpacked layers, topmost first: ready as overlay lower directories.
    pub layers: Vec<PathBuf>,
    /// What to run and how, by default.
    pub config: ImageConfig,
    /// A registry gave it, and nobody has imported it: it can be had again.
    pub pulled: bool,
}

impl Image {
    /// What a container's status calls it: `repository@digest` as a registry knows it, or the id.
    pub fn status_id(&self, name: &Reference) -> &str {
        let digests = || self.references.iter().filter(|one| one.contains('@'));
        let own = format!("{}@", name.repository());
        let best = digests().find(|one| one.starts_with(&own)).or_else(|| digests().next());
        best.unwrap_or(&self.id)
    }
}

/// Why an operation on the store failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error("{verb} {path:?}: {source}")]
    Io { verb: &'static str, path: PathBuf, source: std::io::Error },
    /// The archive or one of its layers is not what it should be.
    #[error("import image: {0}")]
    Invalid(String),
    #[error("import image: {what} has digest {actual}, but its name says {expected}")]
    Digest { what: String, expected: String, actual: String },
    #[error("import image: the archive gives it no name, use --tag")]
    NoName,
    #[error("import image: the archive holds {0} images, --tag can name only one")]
    ManyImages(usize),
    #[error("image {0:?} is not in the store")]
    NotFound(String),
    #[error("remove image {0:?}: a container runs from it")]
    InUse(String),
    #[error("read image store: {path:?} is damaged: {message}")]
    Damaged { path: PathBuf, message: String },
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For `map_err`: a failed system call on a path.
    pub(crate) fn io<E: Into<std::io::Error>>(
        verb: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Error {
        let path = path.into();
        move |e| Error::Io { verb, path, source: e.into() }
    }
}
