//! The store against a model, and its promise over failures.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
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

#[derive(Debug, Clone)]
enum Step {
    Create(u8),
    /// With the right version or with one that is off.
    Update(u8, bool),
    Delete(u8, bool),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..6u8).prop_map(Step::Create),
        4 => (0..6u8, any::<bool>()).prop_map(|(n, ok)| Step::Update(n, ok)),
        3 => (0..6u8, any::<bool>()).prop_map(|(n, ok)| Step::Delete(n, ok)),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

/// What the store should hold: name to (version, payload).
type Model = BTreeMap<String, (u64, u64)>;

fn check_contents(store: &Store, model: &Model) {
    let found: Model = store
        .list(PODS, None)
        .iter()
        .map(|o| {
            let payload = o.value()["payload"].as_u64().unwrap();
            (o.meta.name.clone(), (o.meta.resource_version, payload))
        })
        .collect();
    assert_eq!(&found, model);
}

/// Runs one write on both and compares the outcomes.
fn one(store: &Store, model: &mut Model, revision: &mut u64, step: &Step, payload: u64) {
    let (n, off) = match step {
        Step::Create(n) => (n, 0),
        Step::Update(n, ok) | Step::Delete(n, ok) => (n, u64::from(!ok)),
        Step::Reopen => return,
    };
    let name = format!("p{n}");
    let stored = model.get(&name).map(|(version, _)| *version);
    let version = stored.unwrap_or(7) + off;
    let (write, expected) = match step {
        Step::Create(_) => (
            Write::Create { key: key(&name), value: pod(&name, payload) },
            stored.map_or(Ok(()), |_| Err(StoreError::Exists)),
        ),
        Step::Update(..) => (
            Write::Update { key: key(&name), version, value: pod(&name, payload) },
            compare(stored, version),
        ),
        _ => (Write::Delete { key: key(&name), version }, compare(stored, version)),
    };
    let deletes = matches!(write, Write::Delete { .. });
    let outcome = block_on(store.commit(write));
    assert_eq!(outcome.as_ref().map(|_| ()).map_err(Clone::clone), expected);
    if let Ok(object) = outcome {
        *revision += 1;
        assert_eq!(object.meta.resource_version, *revision);
        match deletes {
            true => model.remove(&name),
            false => model.insert(name, (*revision, payload)),
        };
    }
}

fn compare(stored: Option<u64>, version: u64) -> Result<(), StoreError> {
    match stored {
        None => Err(StoreError::NotFound),
        Some(current) if current != version => Err(StoreError::Conflict { current }),
        Some(_) => Ok(()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Same answers as the model, same contents, same history, also over restarts.
    #[test]
    fn behaves_like_the_model(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let mut store = Store::open(&path).unwrap();
        let (mut model, mut revision) = (Model::new(), 0);
        let mut history: Vec<(u64, Model)> = vec![(0, Model::new())];
        for (payload, step) in (0..).zip(&steps) {
            if matches!(step, Step::Reopen) {
                store.close();
                store = Store::open(&path).unwrap();
                history = vec![(revision, model.clone())];
            }
            one(&store, &mut model, &mut revision, step, payload);
            prop_assert_eq!(store.revision(), revision);
            check_contents(&store, &model);
            if history.last().unwrap().0 != revision {
                history.push((revision, model.clone()));
            }
        }
        // A watcher from any point replays to the present, and the past can be listed.
        for (from, past) in &history {
            let mut watcher = store.watch(PODS, *from).unwrap();
            let mut replayed = past.clone();
            let batch = watcher.take(usize::MAX).unwrap();
            for event in &batch.events {
                let name = event.object().meta.name.clone();
                match &event.new {
                    Some(o) => {
                        let payload = o.value()["payload"].as_u64().unwrap();
                        replayed.insert(name, (event.revision, payload))
                    }
                    None => replayed.remove(&name),
                };
            }
            prop_assert_eq!(&replayed, &model);
            let then = store.snapshot_at(PODS, None, *from).unwrap().objects;
            let then: Vec<_> = then.iter().map(|o| o.meta.resource_version).collect();
            let want: Vec<_> = past.values().map(|(version, _)| *version).collect();
            prop_assert_eq!(then, want);
        }
        if history[0].0 > 0 {
            prop_assert!(store.watch(PODS, history[0].0 - 1).is_err());
        }
        store.close();
    }
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
fn a_watcher_that_is_too_slow_expires() {
    let store = Store::memory();
    let mut watcher = store.watch(PODS, 0).unwrap();
    block_on(async {
        let write = |n: usize| {
            let name = format!("p{n}");
            store.commit(Write::Create { key: key(&name), value: pod(&name, 1) })
        };
        futures::future::join_all((0..9000).map(write)).await;
    });
    assert!(matches!(watcher.take(10), Err(Expired { asked: 0, .. })));
    let revision = store.revision();
    assert!(store.watch(PODS, revision).is_ok());
    assert!(store.snapshot_at(PODS, None, 1).is_err());
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
