//! The store's promise over failures, and details; the contract as a whole is held by `tests/store.rs`.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::*;

const PODS: Resource = "pods";

fn key(name: &str) -> Key {
    Key::new(PODS, "default", name)
}

fn pod(name: &str, payload: u64) -> Value {
    json!({"metadata": {"name": name, "namespace": "default"}, "payload": payload})
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Memory shared with the test, that can be told to fail before or after the bytes are safe.
#[derive(Clone, Default)]
struct Faulty {
    disk: Arc<Mutex<Memory>>,
    fail: Arc<Mutex<Option<Fault>>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    BeforeWrite,
    AfterWrite,
}

impl Backend for Faulty {
    fn load(&mut self, each: &mut Each<'_>) -> Result<u64, BackendError> {
        self.disk.lock().unwrap().load(each)
    }

    fn commit(&mut self, batch: &[Op], revision: u64) -> Result<(), BackendError> {
        let fault = *self.fail.lock().unwrap();
        if fault != Some(Fault::BeforeWrite) {
            self.disk.lock().unwrap().commit(batch, revision)?;
        }
        match fault {
            Some(_) => Err(BackendError::new("sync", "input/output error")),
            None => Ok(()),
        }
    }
}

fn create(store: &Store, name: &str) -> Result<Arc<Object>, StoreError> {
    block_on(store.commit(Write::Create { key: key(name), value: pod(name, 1) }))
}

#[test]
fn what_failed_to_commit_is_never_seen_and_acknowledged_writes_stay() {
    for fault in [Fault::BeforeWrite, Fault::AfterWrite] {
        let backend = Faulty::default();
        let store = Store::with_backend(Box::new(backend.clone())).unwrap();
        let mut events = store.subscribe();
        create(&store, "kept").unwrap();
        *backend.fail.lock().unwrap() = Some(fault);
        assert!(matches!(create(&store, "lost"), Err(StoreError::Failed(_))));
        // Not published, and nothing more is accepted, since the disk's state is unknown.
        assert!(store.get(PODS, "default", "lost").is_none());
        assert_eq!(store.revision(), 1);
        assert!(!store.healthy());
        *backend.fail.lock().unwrap() = None;
        assert!(matches!(create(&store, "later"), Err(StoreError::Failed(_))));
        assert_eq!(events.try_recv().unwrap().object().meta.name, "kept");
        assert!(events.try_recv().is_err());
        // The next life sees what the disk has: everything acknowledged, perhaps the write in doubt.
        let again = Store::with_backend(Box::new(backend.clone())).unwrap();
        assert!(again.get(PODS, "default", "kept").is_some());
        let in_doubt = again.get(PODS, "default", "lost").is_some();
        assert_eq!(in_doubt, fault == Fault::AfterWrite);
        assert_eq!(again.revision(), 1 + u64::from(in_doubt));
    }
}

#[test]
fn writes_that_queue_up_share_commits_and_conflicts_inside_a_batch_are_found() {
    block_on(async {
        let store = Store::memory();
        let first =
            store.commit(Write::Create { key: key("a"), value: pod("a", 0) }).await.unwrap();
        let version = first.meta.resource_version;
        let update = |n| store.commit(Write::Update { key: key("a"), version, value: pod("a", n) });
        let outcomes = futures::future::join_all((0..20).map(update)).await;
        assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1);
        assert_eq!(store.revision(), 2);
    });
}

#[test]
fn a_deletion_carries_the_last_state_at_its_own_revision() {
    let store = Store::memory();
    create(&store, "a").unwrap();
    let gone = block_on(store.commit(Write::Delete { key: key("a"), version: 1 })).unwrap();
    assert_eq!(gone.meta.resource_version, 2);
    let batch = store.watch(PODS, 1).unwrap().take(10).unwrap();
    assert_eq!(batch.through, 2);
    let event = &batch.events[0];
    assert!(event.new.is_none());
    assert_eq!(event.object().value()["metadata"]["resourceVersion"], "2");
    assert_eq!(event.old.as_ref().unwrap().meta.resource_version, 1);
}

#[test]
fn the_file_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    // Also one that was not.
    std::fs::write(&path, "").unwrap();
    Store::open(&path).unwrap().close();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn bytes_and_values_agree() {
    let store = Store::memory();
    let object = create(&store, "a").unwrap();
    let parsed: Value = serde_json::from_slice(object.raw()).unwrap();
    assert_eq!(parsed, object.value());
    assert_eq!(parsed["metadata"]["resourceVersion"], "1");
}

#[test]
fn who_waits_for_a_revision_wakes_when_it_is_published() {
    let store = Store::with_backend(Box::new(Memory::default())).unwrap();
    block_on(async {
        let next = store.revision() + 1;
        let mut waiting = std::pin::pin!(store.reached(next));
        let early = tokio::time::timeout(std::time::Duration::ZERO, waiting.as_mut()).await;
        assert!(early.is_err(), "nothing was written yet");
        let write = Write::Create { key: key("a"), value: pod("a", 1) };
        let (reached, created) = tokio::join!(waiting, store.commit(write));
        assert_eq!(((), created.unwrap().meta.resource_version), (reached, next));
    });
}

#[test]
fn what_is_deleted_is_given_back_to_the_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = Store::open(&path).unwrap();
    let large = "x".repeat(400_000);
    let size = || std::fs::metadata(&path).unwrap().len();
    block_on(async {
        let write = |n: usize| {
            let mut value = pod(&format!("p{n}"), 1);
            value["large"] = large.as_str().into();
            store.commit(Write::Create { key: key(&format!("p{n}")), value })
        };
        let created = futures::future::join_all((0..100).map(write)).await;
        assert!(size() > 40_000_000);
        let delete = |object: Result<Arc<Object>, StoreError>| {
            let object = object.unwrap();
            store.commit(Write::Delete { key: object.key(), version: object.meta.resource_version })
        };
        futures::future::join_all(created.into_iter().map(delete)).await;
    });
    store.close();
    assert!(size() < 8_000_000, "{}", size());
    let again = Store::open(&path).unwrap();
    assert_eq!((again.revision(), again.list(PODS, None).len()), (200, 0));
    again.close();
}
