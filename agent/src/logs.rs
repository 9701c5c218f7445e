//! Container logs as the runtime writes them (the CRI line format), read for people.
//!
//! `line` and `format` are pure: bytes to lines, lines to what was asked for. `file` finds the place to begin without reading
//! what comes before, and notices rotation. `follow` waits for more (inotify; never a timer).
//! Nothing here writes, rotates or deletes a log.

mod file;
mod follow;
mod format;
mod line;

use std::path::PathBuf;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use follow::stream;

/// What of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct LogOptions {
    /// Stay until the container has ended.
    pub(crate) follow: bool,
    /// Lines from the end.
    pub(crate) tail: Option<u64>,
    /// Nothing older.
    pub(crate) since: Option<Timestamp>,
    /// Each line begins with its time.
    pub(crate) timestamps: bool,
    /// Bytes at most, then the answer ends.
    pub(crate) limit: Option<u64>,
    /// Only one of the two streams.
    pub(crate) only: Option<Stream>,
}

/// Which of a container's streams a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// One request for a log: where it is, what is wanted, where it goes, and when no more can come.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) path: PathBuf,
    pub(crate) options: LogOptions,
    pub(crate) to: mpsc::Sender<Bytes>,
    /// Cancelled when the container has ended: what is in the file then is all.
    pub(crate) ended: CancellationToken,
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{verb} log {path:?}: {source}")]
pub(crate) struct LogError {
    verb: &'static str,
    path: PathBuf,
    source: std::io::Error,
}
