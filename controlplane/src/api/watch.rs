//! Watch streams: events of one resource, as this watcher sees them through its selectors.
//!
//! A selector splits the world: an object that begins to match is ADDED for this watcher, one that stops
//! matching is DELETED, whatever happened to it in truth. The stream pulls from the store's window, so a
//! client that reads slowly costs nothing but its connection; one that is too slow gets 410.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::accept::Shape;
use super::body::Body;
use super::request::ListOptions;
use super::selector::Selectors;
use super::{Api, errors, table, twin};
use crate::kinds::Kind;
use crate::object::Object;
use crate::status::ApiError;
use crate::store::{Event, Expired, Watcher};

/// Between bookmarks on a watch that asked for them.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// A watch that names no timeout ends after half an hour to an hour, so that clients spread out.
const TIMEOUT: u64 = 1800;
/// Events put into one chunk at most.
const CHUNK: usize = 128;

/// An event for one watcher.
#[derive(Debug)]
struct Seen {
    kind: &'static str,
    object: Arc<Object>,
}

struct Watch {
    watcher: Watcher,
    view: View,
    deadline: Instant,
    bookmark_at: Option<Instant>,
    shutdown: CancellationToken,
    state: State,
}

enum State {
    /// Bytes to send before anything else.
    Start(Bytes),
    Following,
    Over,
}

/// How this watcher sees the world.
struct View {
    kind: &'static Kind,
    selectors: Selectors,
    shape: Shape,
    /// Nothing has been sent yet: the first Table names the columns.
    first: bool,
}

impl Api {
    /// The body of a watch's answer.
    pub(crate) async fn watch(
        &self,
        kind: &'static Kind,
        selectors: Selectors,
        shape: Shape,
        options: &ListOptions,
    ) -> Result<Body, ApiError> {
        let mut view = View { kind, selectors, shape, first: true };
        let mut start = BytesMut::new();
        let asked = options.revision.unwrap_or(0);
        let initial = options.initial_events.unwrap_or(asked == 0);
        self.reached(asked).await?;
        let from = if initial || asked == 0 {
            let present = self.present(kind, &view.selectors);
            if initial {
                for object in present.objects {
                    if view.selectors.match_object(kind, &object) {
                        view.encode(&mut start, &Seen { kind: "ADDED", object });
                    }
                }
            }
            if options.initial_events == Some(true) && options.bookmarks {
                view.bookmark(&mut start, present.revision, true);
            }
            present.revision
        } else {
            asked
        };
        let now = Instant::now();
        let watcher = match self.store.watch(twin::resource(kind), from) {
            Ok(watcher) => watcher,
            Err(expired) => return Ok(super::body::full(gone(expired))),
        };
        let spread = u64::from(Timestamp::now().subsec_nanosecond().unsigned_abs()) % TIMEOUT;
        let timeout = options.timeout_seconds.unwrap_or(TIMEOUT + spread);
        let watch = Watch {
            watcher,
            view,
            deadline: now + Duration::from_secs(timeout),
            bookmark_at: options.bookmarks.then_some(now + BOOKMARKS),
            shutdown: self.shutdown.clone(),
            state: State::Start(start.freeze()),
        };
        Ok(StreamBody::new(stream::unfold(watch, next)).map_err(|e| match e {}).boxed_unsync())
    }
}

async fn next(mut watch: Watch) -> Option<(Result<Frame<Bytes>, Infallible>, Watch)> {
    let bytes = watch.advance().await?;
    Some((Ok(Frame::data(bytes)), watch))
}

impl Watch {
    async fn advance(&mut self) -> Option<Bytes> {
        match std::mem::replace(&mut self.state, State::Following) {
            State::Start(bytes) if !bytes.is_empty() => return Some(bytes),
            State::Start(_) | State::Following => {}
            State::Over => return None,
        }
        loop {
            let mut out = BytesMut::new();
            let through = match self.watcher.take(CHUNK) {
                Ok(batch) => {
                    let seen = batch.events.iter().filter_map(|e| self.view.see(e));
                    for event in seen.collect::<Vec<_>>() {
                        self.view.encode(&mut out, &event);
                    }
                    batch.through
                }
                Err(expired) => {
                    self.state = State::Over;
                    return Some(gone(expired));
                }
            };
            if !out.is_empty() {
                return Some(out.freeze());
            }
            let bookmark = self.bookmark_at.unwrap_or(self.deadline + BOOKMARKS);
            tokio::select! {
                () = self.watcher.changed() => {}
                () = sleep_until(bookmark) => {
                    self.bookmark_at = Some(Instant::now() + BOOKMARKS);
                    self.view.bookmark(&mut out, through, false);
                    return Some(out.freeze());
                }
                () = sleep_until(self.deadline) => return None,
                () = self.shutdown.cancelled() => return None,
            }
        }
    }
}

impl View {
    fn matching(&self, object: Option<&Arc<Object>>) -> Option<Arc<Object>> {
        let shown = object.map(|object| twin::shown(self.kind, object.clone()));
        shown.filter(|o| self.selectors.match_object(self.kind, o))
    }

    /// What an event is to this watcher; None when it does not concern it.
    fn see(&self, event: &Event) -> Option<Seen> {
        let (old, new) = (self.matching(event.old.as_ref()), self.matching(event.new.as_ref()));
        let (kind, object) = match (old, new) {
            (None, None) => return None,
            (None, Some(new)) => ("ADDED", new),
            (Some(_), Some(new)) => ("MODIFIED", new),
            (Some(old), None) => (
                "DELETED",
                match &event.gone {
                    Some(gone) => twin::shown(self.kind, gone.clone()),
                    None => Arc::new(at_revision(&old, event.revision)?),
                },
            ),
        };
        Some(Seen { kind, object })
    }

    fn encode(&mut self, out: &mut BytesMut, seen: &Seen) {
        let body = match self.shape {
            Shape::Table(include) => {
                let now = Timestamp::now().as_second();
                table::one(self.kind, &seen.object, include, self.first, now).into()
            }
            shape => table::shaped(&seen.object, shape),
        };
        self.first = false;
        put(out, seen.kind, &body);
    }

    /// Says how far this watch has come, and with `end` that the initial events are complete.
    fn bookmark(&mut self, out: &mut BytesMut, revision: u64, end: bool) {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        metadata["creationTimestamp"] = Value::Null;
        if end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (kind, api_version) = match self.shape {
            Shape::Partial => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
            _ => (self.kind.kind, self.kind.api_version()),
        };
        let object = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
        match (self.shape, Object::from_value(self.kind.resource, &object)) {
            (Shape::Table(_), Ok(object)) => {
                self.encode(out, &Seen { kind: "BOOKMARK", object: Arc::new(object) });
            }
            _ => put(out, "BOOKMARK", object.to_string().as_bytes()),
        }
    }
}

fn put(out: &mut BytesMut, kind: &str, object: &[u8]) {
    out.put_slice(br#"{"type":""#);
    out.put_slice(kind.as_bytes());
    out.put_slice(br#"","object":"#);
    out.put_slice(object);
    out.put_slice(b"}\n");
}

/// The object as it was, said at a later revision.
fn at_revision(object: &Object, revision: u64) -> Option<Object> {
    let mut value = object.value();
    value["metadata"]["resourceVersion"] = revision.to_string().into();
    Object::from_value(object.resource, &value).ok()
}

/// The last event of a watch whose history is lost.
fn gone(expired: Expired) -> Bytes {
    let text = format!("too old resource version: {} ({})", expired.asked, expired.oldest);
    let mut out = BytesMut::new();
    put(&mut out, "ERROR", errors::expired(text).to_value().to_string().as_bytes());
    out.freeze()
}
