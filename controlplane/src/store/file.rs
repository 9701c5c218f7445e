//! One redb file. Every commit is an fsync; what is deleted is given back to the file system when it has become much.

use std::fs::{File, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

use super::backend::{AnyError, Backend, BackendError, Each, Op};

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const REVISION: &str = "revision";
const FORMAT: &str = "format";
/// The layout of this file. A reader that meets another number refuses it.
const CURRENT_FORMAT: u64 = 1;
const MODE: u32 = 0o600;
/// The store's own cache serves all reads, so redb needs little.
const CACHE_BYTES: usize = 8 << 20;

/// A file of this size is never worth the effort.
const SMALL: u64 = 16 << 20;
/// B-trees are half empty at worst, and a commit needs room beside what it replaces.
const SPARSE: u64 = 4;

type Length = Box<dyn Fn() -> std::io::Result<u64> + Send>;

pub struct Redb {
    db: Database,
    /// How large the file is.
    length: Length,
    /// Not compacted before the file is larger than this.
    patience: u64,
}

impl Redb {
    pub fn open(path: &Path) -> Result<Self, BackendError> {
        let fresh = !path.exists();
        let failed = |e: AnyError| BackendError::new(format!("open the store {path:?}"), e);
        let file = private(path).map_err(|e| failed(e.into()))?;
        let same = file.try_clone().map_err(|e| failed(e.into()))?;
        let file = FileBackend::new(file).map_err(|e| failed(e.into()))?;
        let length = Box::new(move || Ok(same.metadata()?.len()));
        let redb = Self::on(file, length).map_err(failed)?;
        if fresh {
            sync_directory(path)?;
        }
        Ok(redb)
    }

    /// On any storage; `length` tells how large it is.
    pub fn on(storage: impl StorageBackend, length: Length) -> Result<Self, AnyError> {
        let db = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(storage)?;
        let mut redb = Self { db, length, patience: SMALL };
        redb.check_format()?;
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

    /// Moves everything to the front and cuts the file off behind it. Safe at any moment: it is done by commits.
    pub fn compact(&mut self) -> Result<(), AnyError> {
        while self.db.compact()? {}
        Ok(())
    }

    fn give_back(&mut self, live: u64) -> Result<(), AnyError> {
        let before = (self.length)()?;
        if before <= self.patience.max(live.saturating_mul(SPARSE)) {
            return Ok(());
        }
        self.compact()?;
        let after = (self.length)()?;
        self.patience = SMALL.max(after.saturating_mul(2));
        tracing::info!("the store's file was {before} bytes long and is {after} now");
        Ok(())
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

    fn tidy(&mut self, live: u64) -> Result<(), BackendError> {
        self.give_back(live).map_err(|e| BackendError::new("compact the store", e))
    }
}
