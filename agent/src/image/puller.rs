//! Pulls for Pods: one per image and credentials however many wait for it, and only so many at a time.
//!
//! Waiters share a future; when the last of them goes away the pull is dropped with all it has fetched.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::Semaphore;

use super::pull::{Progress, PullError};
use super::registry::{Keyring, Registry};
use super::{Image, ImageStore, Reference};

/// An image that was pulled, and how long that took without waiting for others.
#[derive(Debug, Clone)]
pub struct Pulled {
    pub image: Image,
    pub took: Duration,
}

type Outcome = Result<Pulled, Arc<PullError>>;
type Pulling = BoxFuture<'static, Outcome>;
/// Who may not pull must not get the image from somebody who may.
type Key = (String, Keyring);

pub struct Puller {
    store: Arc<ImageStore>,
    registry: Arc<Registry>,
    permits: Arc<Semaphore>,
    running: Mutex<HashMap<Key, Running>>,
}

struct Running {
    pulling: WeakShared<Pulling>,
    progress: Arc<Progress>,
}

/// A place among those who wait for a pull. Dropping it gives up.
pub struct Waiting {
    pulling: Shared<Pulling>,
    pub progress: Arc<Progress>,
}

impl Waiting {
    /// Until the image is here, or will not be.
    pub fn done(&self) -> impl Future<Output = Outcome> + use<> {
        self.pulling.clone()
    }
}

impl Puller {
    pub fn new(store: Arc<ImageStore>, registry: Registry, parallel: u32) -> Self {
        Self {
            store,
            registry: Arc::new(registry),
            permits: Arc::new(Semaphore::new(parallel.max(1) as usize)),
            running: Mutex::default(),
        }
    }

    /// Joins the pull of this image, or begins one. It goes on only while somebody waits for it.
    pub fn pull(&self, image: &Reference, keyring: &Keyring) -> Waiting {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, one| one.pulling.upgrade().is_some());
        let key = (image.key(), keyring.clone());
        if let Some(one) = running.get(&key)
            && let Some(pulling) = one.pulling.upgrade()
            // What has ended tells of the past.
            && pulling.peek().is_none()
        {
            return Waiting { pulling, progress: Arc::clone(&one.progress) };
        }
        let progress = Arc::new(Progress::default());
        let pulling = self.begin(image.clone(), keyring.clone(), Arc::clone(&progress)).shared();
        if let Some(weak) = pulling.downgrade() {
            running.insert(key, Running { pulling: weak, progress: Arc::clone(&progress) });
        }
        Waiting { pulling, progress }
    }

    fn begin(&self, image: Reference, keyring: Keyring, progress: Arc<Progress>) -> Pulling {
        let (store, registry) = (Arc::clone(&self.store), Arc::clone(&self.registry));
        let permits = Arc::clone(&self.permits);
        async move {
            // The semaphore is never closed.
            let _permit = permits.acquire_owned().await.ok();
            let begin = Instant::now();
            let image = store.pull(&registry, &image, &keyring, &progress).await?;
            Ok(Pulled { image, took: begin.elapsed() })
        }
        .boxed()
    }
}

#[cfg(test)]
#[path = "puller_tests.rs"]
mod tests;
