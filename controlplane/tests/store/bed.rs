//! Where a store may live, as the suite sees it.

use std::sync::{Arc, Mutex};

use kobune_controlplane::store::{Backend, BackendError, Each, Memory, Op, Store};

/// A place for one store at a time.
pub(crate) trait Bed {
    fn new() -> Self;

    /// What was there when it was closed last; at first, nothing.
    fn open(&self) -> impl Future<Output = Store>;
}

/// Outlives the stores on it.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Memory>>);

impl Backend for Kept {
    fn load(&mut self, each: &mut Each<'_>) -> Result<u64, BackendError> {
        self.0.lock().unwrap().load(each)
    }

    fn commit(&mut self, batch: &[Op], revision: u64) -> Result<(), BackendError> {
        self.0.lock().unwrap().commit(batch, revision)
    }
}

pub(crate) struct InMemory(Kept);

impl Bed for InMemory {
    fn new() -> Self {
        Self(Kept::default())
    }

    async fn open(&self) -> Store {
        Store::with_backend(Box::new(self.0.clone())).unwrap()
    }
}

pub(crate) struct InFile(tempfile::TempDir);

impl Bed for InFile {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    async fn open(&self) -> Store {
        Store::open(&self.0.path().join("store.redb")).unwrap()
    }
}
