//! Where revisions become durable. A backend keeps bytes by name and commits a batch atomically; versions,
//! watches and caching are the store's.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use bytes::Bytes;
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

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

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// A durable map with a counter.
pub trait Backend: Send {
    /// Calls `each` for every key in order and returns the revision of the last commit.
    fn load(&mut self, each: &mut Each<'_>) -> Result<u64, BackendError>;

    /// All of the batch or nothing; on stable storage when it returns `Ok`. After an error the batch may or may
    /// not be there, and the backend is not asked again.
    fn commit(&mut self, batch: &[Op], revision: u64) -> Result<(), BackendError>;
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

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const REVISION: &str = "revision";
const FORMAT: &str = "format";
/// The layout of this file. A reader that meets another number refuses it.
const CURRENT_FORMAT: u64 = 1;
const MODE: u32 = 0o600;
/// The store's own cache serves all reads, so redb needs little.
const CACHE_BYTES: usize = 8 << 20;

/// One redb file; every commit is an fsync.
pub struct Redb {
    db: Database,
}

impl Redb {
    pub fn open(path: &Path) -> Result<Self, BackendError> {
        let fresh = !path.exists();
        let failed = |e: AnyError| BackendError::new(format!("open the store {path:?}"), e);
        let file = private(path).map_err(|e| failed(e.into()))?;
        let file = FileBackend::new(file).map_err(|e| failed(e.into()))?;
        let db = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(file);
        let db = db.map_err(|e| failed(e.into()))?;
        let mut redb = Self { db };
        redb.check_format()
            .map_err(|e| BackendError::new(format!("open the store {path:?}"), e))?;
        if fresh {
            sync_directory(path)?;
        }
        Ok(redb)
    }

    fn check_format(&mut self) -> Result<(), AnyError> {
        let tx = self.db.begin_write()?;
        tx.open_table(OBJECTS)?;
        let mut numbers = tx.open_table(NUMBERS)?;
        let format = numbers.get(FORMAT)?.map(|v| v.value());
        match format {
            Some(CURRENT_FORMAT) => return Ok(()),
            Some(other) => return Err(format!("format {other} is not known").into()),
            None => numbers.insert(FORMAT, CURRENT_FORMAT)?,
        };
        drop(numbers);
        tx.commit()?;
        Ok(())
    }

    fn read(&self, each: &mut Each<'_>) -> Result<u64, AnyError> {
        let tx = self.db.begin_read()?;
        for entry in tx.open_table(OBJECTS)?.iter()? {
            let (key, value) = entry?;
            each(key.value(), value.value())?;
        }
        Ok(tx.open_table(NUMBERS)?.get(REVISION)?.map_or(0, |v| v.value()))
    }

    fn write(&self, batch: &[Op], revision: u64) -> Result<(), AnyError> {
        // The default durability of a transaction is `Immediate`: commit returns after fsync.
        let tx = self.db.begin_write()?;
        {
            let mut objects = tx.open_table(OBJECTS)?;
            for op in batch {
                match &op.value {
                    Some(value) => objects.insert(op.key.as_str(), value.as_ref())?,
                    None => objects.remove(op.key.as_str())?,
                };
            }
            tx.open_table(NUMBERS)?.insert(REVISION, revision)?;
        }
        Ok(tx.commit()?)
    }
}

/// Secrets are in it: nobody but its owner may read it.
fn private(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    let file = options.read(true).write(true).create(true).truncate(false).mode(MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    Ok(file)
}

/// A new file is only there after a power cut if its directory entry is.
fn sync_directory(path: &Path) -> Result<(), BackendError> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| BackendError::new(format!("sync directory {parent:?}"), e))
}

impl Backend for Redb {
    fn load(&mut self, each: &mut Each<'_>) -> Result<u64, BackendError> {
        self.read(each).map_err(|e| BackendError::new("read the store", e))
    }

    fn commit(&mut self, batch: &[Op], revision: u64) -> Result<(), BackendError> {
        self.write(batch, revision)
            .map_err(|e| BackendError::new(format!("write revision {revision}"), e))
    }
}
