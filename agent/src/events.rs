//! Events for people: best effort, repeated ones counted instead of repeated, nobody ever waits for them.
//!
//! [`Recorder::record`] drops what does not fit into its queue. One task writes; the memory of what was written
//! is bounded.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;

/// Waiting to be written; beyond that events are lost.
const QUEUE: usize = 512;
/// Different events remembered for counting.
const REMEMBERED: usize = 2048;
/// An event not seen for this long is told anew.
const FORGET: Duration = Duration::from_secs(3600);
/// An event whose count moves is written at most this often.
const REWRITE: Duration = Duration::from_secs(1);

/// Something worth telling about an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    pub about: ObjectReference,
    pub warning: bool,
    pub reason: String,
    pub message: String,
}

/// Where to send notes; cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Note>,
}

impl Recorder {
    /// Starts the writing task; it ends when the last recorder is gone.
    pub fn start(client: Client, component: &str, host: &str) -> Self {
        let (queue, notes) = mpsc::channel(QUEUE);
        let source = EventSource { component: Some(component.into()), host: Some(host.into()) };
        tokio::spawn(write_all(client, source, notes));
        Self { queue }
    }

    pub fn record(&self, note: Note) {
        if self.queue.try_send(note).is_err() {
            tracing::debug!("an event was dropped: the queue is full");
        }
    }
}

/// What makes two notes the same event.
type Key = (String, String, String, String);

/// An event that was written before.
#[derive(Debug, Clone, PartialEq)]
struct Written {
    name: String,
    namespace: String,
    count: i32,
    seen: Timestamp,
    written: Timestamp,
}

/// What to do with a note.
#[derive(Debug, PartialEq)]
enum Plan {
    Create(Box<Event>),
    /// Namespace, name, count.
    Count(String, String, i32),
    Later,
}

/// Which events exist already. Pure.
#[derive(Debug, Default)]
struct Memory {
    written: HashMap<Key, Written>,
}

impl Memory {
    fn plan(&mut self, note: &Note, source: &EventSource, now: Timestamp) -> Plan {
        let key = key(note);
        if let Some(known) = self.written.get_mut(&key)
            && is_within(known.seen, now, FORGET)
        {
            known.count += 1;
            known.seen = now;
            if is_within(known.written, now, REWRITE) {
                return Plan::Later;
            }
            known.written = now;
            return Plan::Count(known.namespace.clone(), known.name.clone(), known.count);
        }
        self.make_room(now);
        let event = event(note, source, now);
        let name = event.metadata.name.clone().unwrap_or_default();
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        self.written.insert(key, Written { name, namespace, count: 1, seen: now, written: now });
        Plan::Create(Box::new(event))
    }

    fn make_room(&mut self, now: Timestamp) {
        if self.written.len() < REMEMBERED {
            return;
        }
        self.written.retain(|_, known| is_within(known.seen, now, FORGET));
        while self.written.len() >= REMEMBERED {
            let oldest =
                self.written.iter().min_by_key(|(_, known)| known.seen).map(|(key, _)| key.clone());
            match oldest {
                Some(key) => self.written.remove(&key),
                None => return,
            };
        }
    }
}

fn is_within(then: Timestamp, now: Timestamp, limit: Duration) -> bool {
    Duration::try_from(now.duration_since(then)).is_ok_and(|age| age < limit)
}

fn key(note: &Note) -> Key {
    let about = &note.about;
    let whom =
        about.uid.clone().unwrap_or_default() + about.field_path.as_deref().unwrap_or_default();
    (whom, about.name.clone().unwrap_or_default(), note.reason.clone(), note.message.clone())
}

fn event(note: &Note, source: &EventSource, now: Timestamp) -> Event {
    let about = &note.about;
    // Events of objects without a namespace live in `default`, as upstream.
    let namespace = about.namespace.clone().filter(|namespace| !namespace.is_empty());
    let name = format!("{}.{:x}", about.name.as_deref().unwrap_or_default(), now.as_nanosecond());
    Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace.unwrap_or_else(|| "default".into())),
            ..ObjectMeta::default()
        },
        involved_object: about.clone(),
        type_: Some(if note.warning { "Warning" } else { "Normal" }.into()),
        reason: Some(note.reason.clone()),
        message: Some(cut(&note.message)),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(source.clone()),
        reporting_component: source.component.clone(),
        reporting_instance: source.host.clone(),
        ..Event::default()
    }
}

/// The API refuses longer messages.
fn cut(message: &str) -> String {
    message.chars().take(1000).collect()
}

async fn write_all(client: Client, source: EventSource, mut notes: mpsc::Receiver<Note>) {
    let mut memory = Memory::default();
    while let Some(note) = notes.recv().await {
        let now = Timestamp::now();
        let result = match memory.plan(&note, &source, now) {
            Plan::Create(event) => create(&client, *event).await,
            Plan::Count(namespace, name, count) => {
                recount(&client, &namespace, &name, count, now).await
            }
            Plan::Later => Ok(()),
        };
        if let Err(error) = result {
            tracing::debug!(%error, "write an event");
        }
    }
}

async fn create(client: &Client, event: Event) -> Result<(), kube::Error> {
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    Api::<Event>::namespaced(client.clone(), &namespace)
        .create(&PostParams::default(), &event)
        .await
        .map(drop)
}

async fn recount(
    client: &Client,
    namespace: &str,
    name: &str,
    count: i32,
    now: Timestamp,
) -> Result<(), kube::Error> {
    let patch = serde_json::json!({ "count": count, "lastTimestamp": Time(now) });
    let api = Api::<Event>::namespaced(client.clone(), namespace);
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(message: &str) -> Note {
        let about = ObjectReference {
            name: Some("web".into()),
            namespace: Some("default".into()),
            uid: Some("u".into()),
            ..ObjectReference::default()
        };
        Note { about, warning: true, reason: "BackOff".into(), message: message.into() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn repeated_notes_are_counted_and_not_written_more_than_once_a_second() {
        let mut memory = Memory::default();
        let source = EventSource::default();
        assert!(matches!(memory.plan(&note("a"), &source, at(100)), Plan::Create(_)));
        assert_eq!(memory.plan(&note("a"), &source, at(100)), Plan::Later);
        assert!(matches!(memory.plan(&note("b"), &source, at(100)), Plan::Create(_)));
        let Plan::Count(namespace, name, count) = memory.plan(&note("a"), &source, at(101)) else {
            panic!("expected a count")
        };
        assert_eq!((namespace.as_str(), count), ("default", 3));
        assert!(name.starts_with("web."));
        assert!(matches!(memory.plan(&note("a"), &source, at(101 + 3600)), Plan::Create(_)));
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut memory = Memory::default();
        for number in 0..REMEMBERED + 10 {
            memory.plan(&note(&number.to_string()), &EventSource::default(), at(100));
        }
        assert!(memory.written.len() <= REMEMBERED);
    }
}
