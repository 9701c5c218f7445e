//! The two clocks of a Pod's state machine: wall time for what people read, monotonic time for what waits.
//!
//! The pure code never asks for the time; it is given a [`Now`].

use std::time::Duration;

use jiff::Timestamp;

/// A moment, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// What people read in a status.
    pub wall: Timestamp,
    /// Since some fixed moment of this process; never jumps. Deadlines are kept on this clock.
    pub mono: Duration,
}

/// Where [`Now`] comes from in the running program.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: tokio::time::Instant,
}

impl Clock {
    pub fn start() -> Self {
        Self { origin: tokio::time::Instant::now() }
    }

    pub fn now(&self) -> Now {
        Now { wall: Timestamp::now(), mono: self.origin.elapsed() }
    }

    /// When the runtime's clock reads `mono`.
    pub fn instant(&self, mono: Duration) -> tokio::time::Instant {
        self.origin + mono
    }
}

/// A moment given in nanoseconds since the Unix epoch, as the supervisor does.
pub fn from_nanos(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
pub(crate) fn at(seconds: u64) -> Now {
    let wall = Timestamp::from_second(1_700_000_000 + seconds as i64).expect("a valid time");
    Now { wall, mono: Duration::from_secs(seconds) }
}
