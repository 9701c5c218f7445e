//! The contract as tests, for any bed.

use std::sync::Arc;
use std::time::Duration;

use kobune_controlplane::object::{Key, Object, Resource};
use kobune_controlplane::reader::Reader;
use kobune_controlplane::store::{Expired, Store, StoreError};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::bed::Bed;
use super::model::{Intent, Model, RESOURCES, What, stored};

#[derive(Debug, Clone)]
enum Step {
    /// Kind of write, which object, and whether the version is right.
    Write(u8, u8, bool),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (0..3u8, 0..8u8, prop::bool::weighted(0.8));
    let write = write.prop_map(|(what, n, right)| Step::Write(what, n, right));
    prop::collection::vec(prop_oneof![12 => write, 1 => Just(Step::Reopen)], 1..40)
}

/// Of both resources, with a namespace and without.
fn key(n: u8) -> Key {
    let resource = RESOURCES[usize::from(n % 2)];
    let namespace = ["", "a", "b"][usize::from(n % 3)];
    Key::new(resource, namespace, &format!("o{n}"))
}

fn intend(model: &Model, what: u8, n: u8, right: bool, payload: u64) -> Intent {
    let key = key(n);
    let version = model.version(&key).unwrap_or(7) + u64::from(!right);
    let what = match what {
        0 => What::Create,
        1 => What::Update(version),
        _ => What::Delete(version),
    };
    Intent { key, what, payload }
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(future)
}

/// Same answers as the model, same contents, same history, also over restarts.
pub(crate) fn behaves_like_the_model<B: Bed>() {
    let config = ProptestConfig { cases: 32, ..ProptestConfig::default() };
    let result = TestRunner::new(config).run(&steps(), |steps| {
        block_on(follow::<B>(&steps));
        Ok(())
    });
    result.unwrap();
}

async fn follow<B: Bed>(steps: &[Step]) {
    let bed = B::new();
    let mut store = bed.open().await;
    let mut model = Model::default();
    let mut newest = store.revision();
    let mut history = vec![(newest, model.clone())];
    for (payload, step) in (0..).zip(steps) {
        match *step {
            Step::Write(what, n, right) => {
                let intent = intend(&model, what, n, right, payload);
                let outcome = store.commit(intent.write()).await;
                assert_eq!(
                    outcome.as_ref().map(|_| ()).map_err(Clone::clone),
                    model.judge(&intent)
                );
                if let Ok(object) = outcome {
                    newest = answered(&intent, &object, newest);
                    model.apply(&intent, newest);
                    history.push((newest, model.clone()));
                }
            }
            Step::Reopen => {
                store.close();
                drop(store);
                store = bed.open().await;
                assert!(store.revision() >= newest, "the revision went back");
                // Its window begins here.
                history = vec![(store.revision(), model.clone())];
            }
        }
        assert!(store.revision() >= newest);
        assert_eq!(Model::read(&store), model);
    }
    for (from, past) in &history {
        replays(&store, *from, past, &model);
    }
    store.close();
}

/// What a write answers: the new state, or the last one, at a revision of its own.
fn answered(intent: &Intent, object: &Object, newest: u64) -> u64 {
    assert_eq!(object.key(), intent.key);
    let told = stored(object);
    assert!(told.version > newest, "{} after {newest}", told.version);
    if !matches!(intent.what, What::Delete(_)) {
        assert_eq!(told.payload, intent.payload);
    }
    told.version
}

/// A watcher from any point replays to the present, and the past can be listed.
fn replays(store: &Store, from: u64, past: &Model, present: &Model) {
    for resource in RESOURCES {
        let mut watcher = store.watch(resource, from).unwrap();
        let mut replayed = past.only(resource);
        let mut last = from;
        let batch = watcher.take(usize::MAX).unwrap();
        for event in &batch.events {
            assert!(event.revision > last, "events out of order");
            last = event.revision;
            replayed.see(event);
        }
        assert!(batch.through >= last);
        assert_eq!(replayed, present.only(resource));
        let then = store.snapshot_at(resource, None, from).unwrap();
        let then = then.objects.iter().map(|o| (o.key(), stored(o))).collect();
        assert_eq!(Model(then), past.only(resource));
        assert!(watcher.take(usize::MAX).unwrap().events.is_empty(), "an event came twice");
    }
}

const WRITERS: u64 = 8;
const WRITES: u64 = 60;

/// Writers that step on each other's feet. Whatever was acknowledged, put in the order of its revisions, is a history
/// in which every write found what it expected; watchers and subscribers see exactly that one.
pub(crate) fn concurrent_writes_are_one_history<B: Bed>() {
    block_on(async {
        let bed = B::new();
        one_history(&[Arc::new(bed.open().await)]).await;
    });
}

/// The same on several servers.
pub(crate) async fn one_history(stores: &[Arc<Store>]) {
    let start = stores.iter().map(|store| store.revision()).max().unwrap();
    let mut subscriptions: Vec<_> = stores.iter().map(|store| store.subscribe()).collect();
    let watcher = |store: &Arc<Store>| {
        RESOURCES.map(|resource| tokio::spawn(watch(store.clone(), resource, store.revision())))
    };
    let watchers: Vec<_> = stores.iter().map(watcher).collect();
    let writers = stores.iter().cycle().zip(0..WRITERS);
    let writers = writers.map(|(store, writer)| tokio::spawn(write(store.clone(), writer)));
    let mut history: Vec<(u64, Intent)> = Vec::new();
    for written in futures::future::join_all(writers).await {
        history.extend(written.unwrap());
    }
    history.sort_by_key(|(revision, _)| *revision);
    let mut model = Model::default();
    let mut last = start;
    for (revision, intent) in &history {
        assert!(*revision > last, "two writes at one revision");
        last = *revision;
        assert_eq!(model.judge(intent), Ok(()), "{intent:?} should not have been acknowledged");
        model.apply(intent, *revision);
    }
    let end = Intent { key: end(), what: What::Create, payload: 0 };
    let ended = stores[0].commit(end.write()).await.unwrap();
    model.apply(&end, ended.meta.resource_version);
    let revisions: Vec<u64> = history.iter().map(|(revision, _)| *revision).collect();
    for ((store, watchers), subscription) in stores.iter().zip(watchers).zip(&mut subscriptions) {
        store.fresh().await.unwrap();
        assert_eq!(Model::read(store), model);
        let mut told = Vec::new();
        while told.last() != Some(&ended.meta.resource_version) {
            told.push(subscription.recv().await.unwrap().revision);
        }
        assert_eq!(told[..told.len() - 1], revisions);
        let mut seen = Vec::new();
        for (watcher, resource) in watchers.into_iter().zip(RESOURCES) {
            let (revisions, mut replayed) = watcher.await.unwrap();
            if resource == end.key.resource {
                replayed.apply(&end, ended.meta.resource_version);
            }
            assert_eq!(replayed, model.only(resource));
            seen.extend(revisions);
        }
        seen.sort_unstable();
        assert_eq!(seen, revisions);
    }
    stores.iter().for_each(|store| store.close());
}

/// Its creation tells watchers that they have seen all.
fn end() -> Key {
    Key::new(RESOURCES[0], "", "end")
}

async fn write(store: Arc<Store>, writer: u64) -> Vec<(u64, Intent)> {
    let mut acknowledged = Vec::new();
    for n in 0..WRITES {
        let payload = writer * WRITES + n;
        let which = u8::try_from(payload * 31 % 5).unwrap();
        // As clients do: on what was read, which somebody may have changed since.
        let found = store.get(key(which).resource, &key(which).namespace, &key(which).name);
        let what = match (found, payload % 4) {
            (None, _) => What::Create,
            (Some(object), 0) => What::Delete(object.meta.resource_version),
            (Some(object), _) => What::Update(object.meta.resource_version),
        };
        let intent = Intent { key: key(which), what, payload };
        match store.commit(intent.write()).await {
            Ok(object) => {
                let revision = object.meta.resource_version;
                assert!(store.revision() >= revision, "answered before it was published");
                acknowledged.push((revision, intent));
            }
            Err(StoreError::Exists | StoreError::NotFound | StoreError::Conflict { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    acknowledged
}

/// Follows until the end, sometimes as a new watcher from where the last one was.
async fn watch(store: Arc<Store>, resource: Resource, from: u64) -> (Vec<u64>, Model) {
    let mut watcher = store.watch(resource, from).unwrap();
    let (mut revisions, mut model) = (Vec::new(), Model::default());
    loop {
        let batch = watcher.take(3).unwrap();
        for event in &batch.events {
            if event.object().key() == end() {
                return (revisions, model);
            }
            revisions.push(event.revision);
            model.see(event);
        }
        if batch.events.len() == 2 {
            watcher = store.watch(resource, batch.through).unwrap();
        }
        if batch.events.is_empty() {
            let finished = store.get(end().resource, "", "end").is_some();
            if finished && resource != end().resource && batch.through >= store.revision() {
                return (revisions, model);
            }
            let _ = tokio::time::timeout(Duration::from_millis(20), watcher.changed()).await;
        }
    }
}

pub(crate) fn refusals_name_what_is_there<B: Bed>() {
    block_on(async {
        let bed = B::new();
        let store = bed.open().await;
        let intent = |what, payload| Intent { key: key(1), what, payload };
        let commit = |what, payload| store.commit(intent(what, payload).write());
        assert!(matches!(commit(What::Update(1), 1).await, Err(StoreError::NotFound)));
        assert!(matches!(commit(What::Delete(1), 1).await, Err(StoreError::NotFound)));
        let first = commit(What::Create, 2).await.unwrap().meta.resource_version;
        assert!(matches!(commit(What::Create, 3).await, Err(StoreError::Exists)));
        let second = commit(What::Update(first), 4).await.unwrap().meta.resource_version;
        for stale in [What::Update(first), What::Delete(first), What::Update(second + 1)] {
            let refused = commit(stale, 5).await.unwrap_err();
            assert_eq!(refused, StoreError::Conflict { current: second }, "{stale:?}");
        }
        let gone = commit(What::Delete(second), 6).await.unwrap();
        assert_eq!(stored(&gone).payload, 4);
        assert!(gone.meta.resource_version > second);
        // Who waits for a revision wakes when it is published.
        let next = gone.meta.resource_version + 1;
        let mut waiting = std::pin::pin!(store.reached(next));
        assert!(tokio::time::timeout(Duration::ZERO, waiting.as_mut()).await.is_err());
        let (created, ()) = tokio::join!(commit(What::Create, 7), waiting);
        assert!(created.unwrap().meta.resource_version >= next);
        store.close();
        assert!(matches!(commit(What::Create, 8).await, Err(StoreError::Closed)));
    });
}

/// More than any window holds.
const FLOOD: u64 = 150;

pub(crate) fn a_slow_watcher_is_told<B: Bed>() {
    block_on(async {
        let bed = B::new();
        let store = bed.open().await;
        let start = store.revision();
        let mut slow = store.watch(key(0).resource, start).unwrap();
        let large = "x".repeat(200_000);
        let mut what = What::Create;
        for payload in 0..FLOOD {
            let mut write = Intent { key: key(0), what, payload }.write();
            use kobune_controlplane::store::Write;
            if let Write::Create { value, .. } | Write::Update { value, .. } = &mut write {
                value["large"] = large.as_str().into();
            }
            what = What::Update(store.commit(write).await.unwrap().meta.resource_version);
        }
        let told = slow.take(10).unwrap_err();
        assert!(matches!(told, Expired { asked, oldest } if asked == start && oldest > start));
        assert!(store.snapshot_at(key(0).resource, None, start).is_err());
        assert!(store.watch(key(0).resource, start).is_err());
        let mut fresh = store.watch(key(0).resource, told.oldest).unwrap();
        assert!(!fresh.take(10).unwrap().events.is_empty());
        // Others are not concerned.
        assert!(store.watch(key(1).resource, start).is_ok());
        store.close();
    });
}
