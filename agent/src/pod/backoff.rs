//! Restart back-off: how long a container waits before its next start. Pure.
//!
//! The first restart is immediate; after that 10 s, doubling to 5 min; a container that ran for 10 min
//! starts over (upstream's numbers, tunable through [`BackoffOptions`]).

use std::time::Duration;

/// The numbers, one set per node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffOptions {
    pub initial: Duration,
    pub max: Duration,
    /// A run at least this long forgets earlier failures.
    pub reset_after: Duration,
}

impl Default for BackoffOptions {
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(10),
            max: Duration::from_secs(300),
            reset_after: Duration::from_secs(600),
        }
    }
}

/// The memory of one thing that is tried again and again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    next: Option<Duration>,
}

impl Backoff {
    /// The memory of something that is known to have been restarted so often.
    pub fn after(options: &BackoffOptions, restarts: u32) -> Self {
        let mut backoff = Self::default();
        // Doubling reaches any maximum in fewer steps than this.
        for _ in 0..restarts.min(32) {
            backoff.grow(options);
        }
        backoff
    }

    /// The delay before the next start of something that ran for `ran`. Zero for the first.
    pub fn restart(&mut self, options: &BackoffOptions, ran: Duration) -> Duration {
        if ran >= options.reset_after {
            self.next = None;
        }
        let delay = self.next.unwrap_or(Duration::ZERO);
        self.grow(options);
        delay
    }

    /// The delay before another try of something that failed outright. Never zero.
    pub fn retry(&mut self, options: &BackoffOptions) -> Duration {
        let delay = self.next.unwrap_or(options.initial);
        self.next = Some(delay);
        self.grow(options);
        delay
    }

    /// The delay that is being waited for, or was last.
    pub fn pending(&self) -> Duration {
        self.next.unwrap_or(Duration::ZERO)
    }

    pub fn reset(&mut self) {
        self.next = None;
    }

    fn grow(&mut self, options: &BackoffOptions) {
        let next = self.next.map_or(options.initial, |delay| delay * 2);
        self.next = Some(next.min(options.max));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(backoff: &mut Backoff, ran: &[u64]) -> Vec<u64> {
        let options = BackoffOptions::default();
        ran.iter()
            .map(|ran| backoff.restart(&options, Duration::from_secs(*ran)).as_secs())
            .collect()
    }

    #[test]
    fn the_first_restart_is_immediate_then_doubles_to_five_minutes() {
        let mut backoff = Backoff::default();
        assert_eq!(seconds(&mut backoff, &[1; 8]), [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_minutes_of_running_forget_earlier_failures() {
        let mut backoff = Backoff::default();
        assert_eq!(seconds(&mut backoff, &[1, 1, 1, 599, 600, 1]), [0, 10, 20, 40, 0, 10]);
    }

    #[test]
    fn restarts_that_are_known_of_count() {
        let options = BackoffOptions::default();
        for restarts in 0..50 {
            let mut lived = Backoff::default();
            for _ in 0..restarts {
                lived.restart(&options, Duration::ZERO);
            }
            assert_eq!(Backoff::after(&options, restarts), lived, "{restarts}");
        }
    }

    #[test]
    fn a_retry_always_waits() {
        let options = BackoffOptions::default();
        let mut backoff = Backoff::default();
        let delays: Vec<u64> = (0..4).map(|_| backoff.retry(&options).as_secs()).collect();
        assert_eq!(delays, [10, 20, 40, 80]);
    }
}
