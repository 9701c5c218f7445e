//! Notes become stored Events: one object per distinct note, whose count grows when it is told again.
//!
//! Telling is best effort: it never delays a decision and a refused Event is dropped (the namespace may be
//! going away).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::outcome::Note;
use super::runner::Clock;
use crate::reader::Reader;
use crate::writer::{Change, Writer};

/// Events that may wait to be written; more are dropped, since state lives in status and not in events.
const WAITING: usize = 4096;
const AT_ONCE: usize = 64;
/// A name has at most 253 characters; the tail needs 17.
const LONGEST_ABOUT: usize = 253 - 17;

/// Where deciders leave their notes; cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    component: &'static str,
    sender: mpsc::Sender<(&'static str, Note)>,
}

impl Recorder {
    pub fn note(&self, note: Note) {
        if self.sender.try_send((self.component, note)).is_err() {
            tracing::debug!(component = self.component, "event dropped");
        }
    }

    #[must_use]
    pub fn for_component(&self, component: &'static str) -> Self {
        Self { component, sender: self.sender.clone() }
    }
}

/// Starts the task that writes Events until `shutdown`.
pub fn spawn(
    reader: Arc<dyn Reader>,
    writer: Arc<dyn Writer>,
    clock: Clock,
    shutdown: CancellationToken,
) -> Recorder {
    let (sender, mut receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                taken = receiver.recv_many(&mut batch, AT_ONCE) => if taken == 0 { return },
            }
            let changes = changes(&*reader, &std::mem::take(&mut batch), clock.now());
            let writes = changes.into_iter().map(|(component, change)| {
                let writer = &writer;
                async move {
                    if let Err(error) = writer.apply(component, change).await {
                        tracing::debug!(%error, "event not written");
                    }
                }
            });
            futures::future::join_all(writes).await;
        }
    });
    Recorder { component: "kobune", sender }
}

/// The writes for a batch of notes: equal notes are one write.
fn changes(
    world: &dyn Reader,
    batch: &[(&'static str, Note)],
    now: Timestamp,
) -> Vec<(&'static str, Change)> {
    let mut told: BTreeMap<(String, String), (&'static str, &Note, u32)> = BTreeMap::new();
    for (component, note) in batch {
        let name = (namespace(note).to_owned(), name(component, note));
        told.entry(name).or_insert((component, note, 0)).2 += 1;
    }
    told.into_iter()
        .map(|((_, name), (component, note, times))| {
            (component, change(world, component, note, &name, times, now))
        })
        .collect()
}

fn change(
    world: &dyn Reader,
    component: &str,
    note: &Note,
    name: &str,
    times: u32,
    now: Timestamp,
) -> Change {
    let at = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    if let Some(known) = world.get("events", namespace(note), name) {
        let mut object = known.value();
        let count = object.get("count").and_then(Value::as_i64).unwrap_or(1);
        object["count"] = json!(count + i64::from(times));
        object["lastTimestamp"] = json!(at);
        return Change::Update { resource: "events", subresource: None, object };
    }
    let about = &note.about;
    let object = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": namespace(note)},
        "involvedObject": {
            "apiVersion": about.api_version, "kind": about.kind, "namespace": about.namespace,
            "name": about.name, "uid": about.uid,
            "resourceVersion": about.resource_version.to_string(),
        },
        "type": note.level, "reason": note.reason, "message": note.message,
        "source": {"component": component}, "reportingComponent": component,
        "firstTimestamp": at, "lastTimestamp": at, "count": times,
    });
    Change::Create { resource: "events", object }
}

/// Events about cluster-scoped objects live in `default`.
fn namespace(note: &Note) -> &str {
    if note.about.namespace.is_empty() { "default" } else { &note.about.namespace }
}

/// The same note about the same object has the same name, so that it is counted and not repeated.
fn name(component: &str, note: &Note) -> String {
    let mut hash = Sha256::new();
    for part in
        [component, &note.about.kind, &note.about.uid, note.level, note.reason, &note.message]
    {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let tail: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let about: String = note.about.name.chars().take(LONGEST_ABOUT).collect();
    format!("{about}.{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::world::{World, pod};

    fn note(message: &str) -> Note {
        let world = World::with([pod("default", "a")]);
        Note::normal(&world.object("pods", "default", "a"), "Scheduled", message)
    }

    #[test]
    fn equal_notes_are_one_event_with_a_count() {
        let batch = [("sched", note("x")), ("sched", note("x")), ("sched", note("y"))];
        let changes = changes(&World::default(), &batch, Timestamp::UNIX_EPOCH);
        let counts: Vec<_> = changes
            .iter()
            .map(|(_, change)| match change {
                Change::Create { object, .. } => {
                    (object["message"].clone(), object["count"].clone())
                }
                other => panic!("unexpected {other:?}"),
            })
            .collect();
        assert_eq!(counts.len(), 2);
        assert!(counts.contains(&(json!("x"), json!(2))));
        assert!(counts.contains(&(json!("y"), json!(1))));
    }

    #[test]
    fn told_again_it_counts_up() {
        let mut world = World::default();
        let batch = [("sched", note("x"))];
        for (_, change) in changes(&world, &batch, Timestamp::UNIX_EPOCH) {
            world.apply(change).expect("create");
        }
        let later = Timestamp::from_second(60).expect("in range");
        let again = changes(&world, &batch, later);
        let [(_, Change::Update { object, .. })] = again.as_slice() else {
            panic!("unexpected {again:?}")
        };
        assert_eq!(object["count"], 2);
        assert_eq!(object["lastTimestamp"], "1970-01-01T00:01:00Z");
        assert_eq!(object["firstTimestamp"], "1970-01-01T00:00:00Z");
    }
}
