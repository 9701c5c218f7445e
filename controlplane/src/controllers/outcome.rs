//! What a reconciler wants: writes in batches, events to tell people, and when to look again.
//!
//! Owns no behaviour; the [`runner`](super::runner) performs it.

use std::time::Duration;

use serde_json::Value;

use crate::object::Object;
use crate::writer::Change;

/// The answer of one pure reconcile.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    /// Batches run one after another, the acts of one batch at the same time. The first batch with a
    /// failure is the last: what follows was decided on the belief that it works.
    pub batches: Vec<Vec<Act>>,
    /// Events that do not depend on a write.
    pub notes: Vec<Note>,
    /// Look again after this time even if nothing happens.
    pub requeue_after: Option<Duration>,
}

impl Outcome {
    pub fn idle() -> Self {
        Self::default()
    }

    /// Adds a batch of one.
    #[must_use]
    pub fn then(mut self, act: impl Into<Act>) -> Self {
        self.push(act);
        self
    }

    pub fn push(&mut self, act: impl Into<Act>) {
        self.batches.push(vec![act.into()]);
    }

    /// Adds acts that may run at the same time.
    pub fn together(&mut self, acts: Vec<Act>) {
        if !acts.is_empty() {
            self.batches.push(acts);
        }
    }

    /// Asks to be called again after `delay`, or sooner if that was asked already.
    pub fn again_after(&mut self, delay: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(delay, |d| d.min(delay)));
    }

    pub fn is_idle(&self) -> bool {
        self.batches.is_empty() && self.notes.is_empty()
    }
}

/// One write, and what to tell about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Act {
    pub change: Change,
    /// Told when the write was done; `{}` in the message becomes the written object's name.
    pub done: Option<Note>,
    /// Told when it was refused; `{}` in the message becomes the error.
    pub refused: Option<Note>,
}

impl From<Change> for Act {
    fn from(change: Change) -> Self {
        Self { change, done: None, refused: None }
    }
}

impl Act {
    #[must_use]
    pub fn noting(mut self, note: Note) -> Self {
        self.done = Some(note);
        self
    }

    #[must_use]
    pub fn or_noting(mut self, note: Note) -> Self {
        self.refused = Some(note);
        self
    }
}

/// An event about an object, before it becomes a stored Event.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    pub about: About,
    /// `Normal` or `Warning`.
    pub level: &'static str,
    pub reason: &'static str,
    pub message: String,
}

impl Note {
    pub fn normal(about: &Object, reason: &'static str, message: impl Into<String>) -> Self {
        Self { about: About::from(about), level: "Normal", reason, message: message.into() }
    }

    pub fn warning(about: &Object, reason: &'static str, message: impl Into<String>) -> Self {
        Self { about: About::from(about), level: "Warning", reason, message: message.into() }
    }

    /// Fills the `{}` of the message.
    #[must_use]
    pub fn filled(&self, text: &str) -> Self {
        Self { message: self.message.replacen("{}", text, 1), ..self.clone() }
    }
}

/// Which object an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct About {
    pub api_version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: u64,
}

impl From<&Object> for About {
    fn from(object: &Object) -> Self {
        let value = object.value();
        let text =
            |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            api_version: text("apiVersion"),
            kind: text("kind"),
            namespace: object.meta.namespace.clone(),
            name: object.meta.name.clone(),
            uid: object.meta.uid.clone(),
            resource_version: object.meta.resource_version,
        }
    }
}
