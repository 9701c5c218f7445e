//! The runner's promises, on a paused clock: nothing here waits for real time.

use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::controllers::outcome::Note;
use crate::controllers::world::{SharedWorld, World};

type Body = dyn Fn(&dyn Reader, &Key, Timestamp) -> Outcome + Send + Sync;

/// A controller of config maps that does what a test says and writes down when it was called.
struct Scripted {
    body: Box<Body>,
    calls: Arc<Mutex<Vec<(String, Duration)>>>,
    started: Timestamp,
}

impl Controller for Scripted {
    fn name(&self) -> &'static str {
        "system:test:scripted"
    }

    fn watches(&self) -> Vec<Resource> {
        vec!["configmaps"]
    }

    fn keys(&self, _world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        seen.latest().map(Object::key).into_iter().collect()
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, now: Timestamp) -> Outcome {
        let since = Duration::try_from(now.duration_since(self.started)).expect("forward");
        self.calls.lock().expect("no panic").push((key.name.to_string(), since));
        (self.body)(world, key, now)
    }
}

struct Stage {
    world: SharedWorld,
    calls: Arc<Mutex<Vec<(String, Duration)>>>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn stage(
    world: World,
    body: impl Fn(&dyn Reader, &Key, Timestamp) -> Outcome + Send + Sync + 'static,
) -> Stage {
    let world = SharedWorld::new(world);
    let shutdown = CancellationToken::new();
    let started = Timestamp::from_second(1_000_000).expect("in range");
    let clock = Clock::following_tokio(started);
    let reader: Arc<dyn Reader> = Arc::new(world.clone());
    let writer: Arc<dyn Writer> = Arc::new(world.clone());
    let recorder = super::super::events::spawn(
        reader.clone(),
        writer.clone(),
        clock.clone(),
        shutdown.clone(),
    );
    let calls = Arc::new(Mutex::new(Vec::new()));
    let scripted = Scripted { body: Box::new(body), calls: calls.clone(), started };
    let tools = Tools { reader, writer, recorder, clock };
    let events = world.subscribe();
    let task = tokio::spawn(run(vec![Arc::new(scripted)], tools, events, shutdown.clone()));
    Stage { world, calls, shutdown, task }
}

impl Stage {
    fn calls(&self) -> Vec<(String, Duration)> {
        self.calls.lock().expect("no panic").clone()
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.task.await.expect("the runner ends");
    }
}

async fn after(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn map(name: &str) -> (Resource, serde_json::Value) {
    (
        "configmaps",
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": {"n": "0"}}),
    )
}

fn counted(world: &dyn Reader, key: &Key) -> i64 {
    let object = world.get("configmaps", &key.namespace, &key.name);
    let text = object.map(|o| o.value()["data"]["n"].as_str().unwrap_or_default().to_owned());
    text.and_then(|text| text.parse().ok()).unwrap_or(-1)
}

fn count_up(world: &dyn Reader, key: &Key) -> Change {
    let next = counted(world, key) + 1;
    let object = world.get("configmaps", &key.namespace, &key.name).expect("it exists");
    crate::controllers::look::edited(&object, |value| value["data"]["n"] = json!(next.to_string()))
}

#[tokio::test(start_paused = true)]
async fn what_exists_at_the_start_is_looked_at_once_and_then_it_is_quiet() {
    let stage = stage(World::with([map("a"), map("b")]), |_, _, _| Outcome::idle());
    after(3600).await;
    let mut names: Vec<String> = stage.calls().into_iter().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(names, ["a", "b"]);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_brings_its_key() {
    let stage = stage(World::default(), |_, _, _| Outcome::idle());
    after(5).await;
    stage.world.with(|world| world.add("configmaps", map("late").1));
    after(1).await;
    assert_eq!(stage.calls(), [("late".to_owned(), Duration::from_secs(5))]);
    stage.end().await;
}

/// The invariant that makes books of expected events unnecessary.
#[tokio::test(start_paused = true)]
async fn a_reconcile_sees_the_writes_of_the_one_before() {
    let last = Mutex::new(-1);
    let stage = stage(World::with([map("a")]), move |world, key, _| {
        let mut last = last.lock().expect("no panic");
        let now = counted(world, key);
        assert!(now > *last, "saw {now} after having written {}", *last + 1);
        *last = now;
        if now < 100 { Outcome::idle().then(count_up(world, key)) } else { Outcome::idle() }
    });
    after(1).await;
    let end = stage.world.with(|world| counted(world, &Key::new("configmaps", "default", "a")));
    assert_eq!(end, 100);
    assert!(stage.calls().iter().all(|(_, at)| at.is_zero()), "without waiting for any timer");
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_looked_at_again_with_the_newer_version() {
    let first = Mutex::new(true);
    let stage = stage(World::with([map("a")]), move |world, key, _| {
        if counted(world, key) > 0 {
            return Outcome::idle();
        }
        let mut change = count_up(world, key);
        if std::mem::take(&mut *first.lock().expect("no panic"))
            && let Change::Update { object, .. } = &mut change
        {
            object["metadata"]["resourceVersion"] = json!("99999");
        }
        Outcome::idle().then(change)
    });
    after(1).await;
    let waits: Vec<Duration> = stage.calls().into_iter().map(|(_, at)| at).collect();
    assert_eq!(waits[..2], [Duration::ZERO, Duration::from_millis(5)]);
    assert_eq!(
        stage.world.with(|world| counted(world, &Key::new("configmaps", "default", "a"))),
        1
    );
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn refusals_are_retried_ever_later() {
    let mut world = World::with([map("a")]);
    world.refuse.push(("pods", "exceeded quota".into()));
    let stage = stage(world, |_, _, _| {
        let object = json!({"metadata": {"name": "p", "namespace": "default"}});
        Outcome::idle().then(Change::Create { resource: "pods", object })
    });
    after(600).await;
    let calls = stage.calls();
    assert!((15..40).contains(&calls.len()), "{} tries in ten minutes", calls.len());
    let last = calls.windows(2).last().map(|pair| pair[1].1 - pair[0].1);
    assert_eq!(last, Some(Duration::from_secs(60)));
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_timer_brings_the_key_back() {
    let stage = stage(World::with([map("a")]), |_, _, _| {
        let mut outcome = Outcome::idle();
        outcome.again_after(Duration::from_secs(10));
        outcome
    });
    after(35).await;
    let times: Vec<u64> = stage.calls().into_iter().map(|(_, at)| at.as_secs()).collect();
    assert_eq!(times, [0, 10, 20, 30]);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn notes_are_told_with_the_name_that_the_server_chose() {
    let stage = stage(World::with([map("a")]), |world, key, _| {
        if !world.list("pods", None).is_empty() {
            return Outcome::idle();
        }
        let about = world.get("configmaps", &key.namespace, &key.name).expect("it exists");
        let object = json!({"metadata": {"generateName": "p-", "namespace": "default"}});
        let act = Act::from(Change::Create { resource: "pods", object }).noting(Note::normal(
            &about,
            "SuccessfulCreate",
            "Created pod: {}",
        ));
        Outcome::idle().then(act)
    });
    after(1).await;
    let (pod, event) = stage.world.with(|world| {
        (world.list("pods", None)[0].meta.name.clone(), world.list("events", None)[0].value())
    });
    assert_eq!(event["message"], format!("Created pod: {pod}"));
    assert_eq!(event["source"]["component"], "scripted");
    stage.end().await;
}
