//! Records a watch: every event with the moment at which it was seen. Tests ask afterwards what
//! was true at each moment, or wait for an event.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::Body;
use super::wait::patience;

/// One event of a watch.
#[derive(Debug, Clone)]
pub struct Seen {
    pub at: Instant,
    /// ADDED, MODIFIED, DELETED.
    pub kind: String,
    pub object: Value,
}

impl Seen {
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }
}

#[derive(Default)]
struct Shared {
    events: Mutex<Vec<Seen>>,
    news: Condvar,
}

/// A recording; it ends with this value.
pub struct Recorder {
    shared: Arc<Shared>,
    stream: TcpStream,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    pub(super) fn start(body: Body) -> Self {
        let stream = body.connection().expect("keep a handle of the watch");
        let shared = Arc::new(Shared::default());
        let into = Arc::clone(&shared);
        let thread = thread::spawn(move || read(BufReader::new(body), &into));
        Self { shared, stream, thread: Some(thread) }
    }

    /// Everything seen so far.
    pub fn events(&self) -> Vec<Seen> {
        self.shared.events.lock().expect("no panic while recording").clone()
    }

    /// Waits until `find` sees what it looks for among all events so far.
    ///
    /// # Panics
    /// When `deadline` passes, with `what` and the last events.
    #[track_caller]
    pub fn until<T>(
        &self,
        what: &str,
        deadline: Duration,
        mut find: impl FnMut(&[Seen]) -> Option<T>,
    ) -> T {
        let end = Instant::now() + patience(deadline);
        let mut events = self.shared.events.lock().expect("no panic while recording");
        loop {
            if let Some(found) = find(&events) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let last: Vec<_> = events
                    .iter()
                    .rev()
                    .take(3)
                    .map(|e| format!("{} {}", e.kind, e.object))
                    .collect();
                drop(events);
                panic!("{what}: not within {deadline:?}; last events: {last:#?}");
            }
            let waited = self.shared.news.wait_timeout(events, left);
            events = waited.expect("no panic while recording").0;
        }
    }
}

/// The objects that existed after each event, in order.
pub fn states(events: &[Seen]) -> Vec<BTreeMap<String, Value>> {
    let mut present = BTreeMap::new();
    events
        .iter()
        .map(|event| {
            if event.kind == "DELETED" {
                present.remove(event.name());
            } else {
                present.insert(event.name().to_owned(), event.object.clone());
            }
            present.clone()
        })
        .collect()
}

fn read(reader: impl BufRead, into: &Shared) {
    for line in reader.lines().map_while(Result::ok) {
        let Ok(mut event) = serde_json::from_str::<Value>(&line) else { return };
        let kind = event["type"].as_str().unwrap_or_default().to_owned();
        if kind == "BOOKMARK" {
            continue;
        }
        let seen = Seen { at: Instant::now(), kind, object: event["object"].take() };
        into.events.lock().expect("no panic while recording").push(seen);
        into.news.notify_all();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
