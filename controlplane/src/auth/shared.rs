//! The cluster's keys where several servers share a store: they are in it, and every server has a copy in its data
//! directory. Whoever can read that etcd is the cluster's administrator, as with upstream's.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::pki::{self, PkiError};
use super::{Accounts, Pki};
use crate::store::etcd::Etcd;
use crate::store::{Store, StoreError};

/// Below the data directory.
const KEYS: [&str; 3] = ["pki/ca.key", "pki/ca.crt", "pki/sa.key"];

#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("share the cluster's keys: {0}")]
    Store(#[from] StoreError),
    #[error(
        "{file:?} in {dir:?} is not that of the cluster in etcd: this data directory belongs to another one"
    )]
    Foreign { file: String, dir: std::path::PathBuf },
}

/// Afterwards the data directory has the keys that all servers have. The first server makes them.
pub(crate) async fn share(etcd: &Etcd, dir: &Path) -> Result<(), SharedError> {
    loop {
        let found = etcd.keys().await?;
        if !found.is_empty() {
            return adopt(&found, dir);
        }
        let had = KEYS.map(|file| dir.join(file).exists());
        let own = make(dir)?;
        if etcd.offer_keys(&own).await? {
            return Ok(());
        }
        // Another server was faster. What was made just now is nobody's.
        for (file, had) in KEYS.iter().zip(had) {
            if !had {
                let _ = std::fs::remove_file(dir.join(file));
            }
        }
    }
}

fn make(dir: &Path) -> Result<Vec<(String, Bytes)>, PkiError> {
    Pki::open(dir)?;
    Accounts::open(dir, Arc::new(Store::memory()))?;
    let read = |file: &str| Ok((file.to_owned(), pki::read(&dir.join(file))?.into()));
    KEYS.into_iter().map(read).collect()
}

fn adopt(found: &[(String, Bytes)], dir: &Path) -> Result<(), SharedError> {
    for (file, bytes) in found.iter().filter(|(file, _)| KEYS.contains(&file.as_str())) {
        let path = dir.join(file);
        let text = String::from_utf8_lossy(bytes);
        if !path.exists() {
            pki::make_directory(path.parent().unwrap_or(dir))?;
            pki::write(&path, &text)?;
        } else if pki::read(&path)? != text {
            return Err(SharedError::Foreign { file: file.clone(), dir: dir.into() });
        }
    }
    Ok(())
}
