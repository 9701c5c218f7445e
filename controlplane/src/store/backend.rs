//! Where revisions become durable. A backend keeps bytes by name and commits a batch atomically; versions,
//! watches and caching are the store's.

use std::collections::BTreeMap;

use bytes::Bytes;

/// One change of a batch; None deletes.
pub struct Op {
    /// `resource NUL namespace NUL name`.
    pub key: String,
    pub value: Option<Bytes>,
}

#[derive(Debug, thiserror::Error)]
#[error("{doing}: {cause}")]
pub struct BackendError {
    doing: String,
    cause: AnyError,
}

impl BackendError {
    pub fn new(doing: impl Into<String>, cause: impl Into<AnyError>) -> Self {
        Self { doing: doing.into(), cause: cause.into() }
    }
}

/// Takes a key and its value.
pub type Each<'a> = dyn FnMut(&str, &[u8]) -> Result<(), BackendError> + 'a;

pub(super) type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// A durable map with a counter, and one writer.
pub trait Backend: Send {
    /// Calls `each` for every key in order and returns the revision of the last commit.
    fn load(&mut self, each: &mut Each<'_>) -> Result<u64, BackendError>;

    /// All of the batch or nothing; on stable storage when it returns `Ok`. After an error the batch may or may
    /// not be there, and the backend is not asked again.
    fn commit(&mut self, batch: &[Op], revision: u64) -> Result<(), BackendError>;

    /// A chance between two commits to give space back; keys and values are `live` bytes together. An error is
    /// as bad as that of a commit.
    fn tidy(&mut self, _live: u64) -> Result<(), BackendError> {
        Ok(())
    }
}

/// Keeps nothing over a restart.
#[derive(Default)]
pub struct Memory {
    objects: BTreeMap<String, Bytes>,
    revision: u64,
}

impl Backend for Memory {
    fn load(&mut self, each: &mut Each<'_>) -> Result<u64, BackendError> {
        self.objects.iter().try_for_each(|(key, value)| each(key, value))?;
        Ok(self.revision)
    }

    fn commit(&mut self, batch: &[Op], revision: u64) -> Result<(), BackendError> {
        for op in batch {
            match &op.value {
                Some(value) => self.objects.insert(op.key.clone(), value.clone()),
                None => self.objects.remove(&op.key),
            };
        }
        self.revision = revision;
        Ok(())
    }
}
