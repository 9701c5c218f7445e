//! The work queue of one controller, as a value: which keys are due, busy, or waiting for a time.
//!
//! A key is worked on by one worker at a time. A key that is added while it is busy runs once more
//! afterwards; added many times while it waits, it runs once. Failures wait longer each time.
//!
//! Never sleeps and never looks at a clock; `now` is passed in.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

const FIRST_BACK_OFF: Duration = Duration::from_millis(5);
const LAST_BACK_OFF: Duration = Duration::from_secs(60);

/// How a run of a key ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// Well; look again after this time.
    Well(Option<Duration>),
    /// A write was refused; look again soon, and ever later while it fails.
    Failed,
}

#[derive(Debug)]
pub struct Queue<K> {
    ready: VecDeque<K>,
    /// Members of `ready`, and busy keys that were added again.
    wanted: HashSet<K>,
    busy: HashSet<K>,
    timed: BTreeSet<(Instant, K)>,
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

impl<K: Clone + Eq + Hash + Ord> Default for Queue<K> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            wanted: HashSet::new(),
            busy: HashSet::new(),
            timed: BTreeSet::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> Queue<K> {
    /// Something happened that concerns `key`.
    pub fn add(&mut self, key: K) {
        if self.wanted.insert(key.clone()) && !self.busy.contains(&key) {
            self.ready.push_back(key);
        }
    }

    /// The next key to work on; it is busy until [`Queue::finish`].
    pub fn pop(&mut self, now: Instant) -> Option<K> {
        while self.timed.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.timed.pop_first() {
                self.due.remove(&key);
                self.add(key);
            }
        }
        let key = self.ready.pop_front()?;
        self.wanted.remove(&key);
        self.busy.insert(key.clone());
        Some(key)
    }

    pub fn finish(&mut self, key: K, how: Finished, now: Instant) {
        self.busy.remove(&key);
        if self.wanted.contains(&key) {
            self.ready.push_back(key.clone());
        }
        if let Some(at) = self.due.remove(&key) {
            self.timed.remove(&(at, key.clone()));
        }
        let delay = match how {
            Finished::Well(after) => {
                self.failures.remove(&key);
                after
            }
            Finished::Failed => Some(self.back_off(&key)),
        };
        if let Some(delay) = delay {
            let at = now + delay;
            self.timed.insert((at, key.clone()));
            self.due.insert(key, at);
        }
    }

    /// When [`Queue::pop`] may have more to give, if nothing is added before.
    pub fn next_due(&self) -> Option<Instant> {
        self.timed.first().map(|(at, _)| *at)
    }

    /// Nothing to do now; keys may still wait for a time.
    pub fn is_quiet(&self) -> bool {
        self.ready.is_empty() && self.busy.is_empty()
    }

    fn back_off(&mut self, key: &K) -> Duration {
        let failures = self.failures.entry(key.clone()).or_default();
        let delay = FIRST_BACK_OFF.saturating_mul(1 << (*failures).min(20));
        *failures += 1;
        delay.min(LAST_BACK_OFF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_waits_once_however_often_it_is_added() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.pop(now), Some("a"));
        assert_eq!(queue.pop(now), Some("b"));
        assert_eq!(queue.pop(now), None);
    }

    #[test]
    fn a_busy_key_is_not_handed_out_twice_and_runs_again_after() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add("a");
        assert_eq!(queue.pop(now), Some("a"));
        queue.add("a");
        assert_eq!(queue.pop(now), None);
        queue.finish("a", Finished::Well(None), now);
        assert_eq!(queue.pop(now), Some("a"));
        queue.finish("a", Finished::Well(None), now);
        assert_eq!(queue.pop(now), None);
        assert!(queue.is_quiet());
    }

    #[test]
    fn failures_wait_ever_longer_and_success_forgets() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        let mut waits = Vec::new();
        queue.add("a");
        for _ in 0..16 {
            assert_eq!(queue.pop(now), Some("a"));
            queue.finish("a", Finished::Failed, now);
            let due = queue.next_due().expect("a failed key comes back");
            assert_eq!(queue.pop(due - Duration::from_millis(1)), None);
            waits.push(due - now);
            now = due;
        }
        assert_eq!(waits[0], FIRST_BACK_OFF);
        assert_eq!(waits[1], FIRST_BACK_OFF * 2);
        assert_eq!(waits[15], LAST_BACK_OFF);
        assert_eq!(queue.pop(now), Some("a"));
        queue.finish("a", Finished::Well(None), now);
        queue.add("a");
        queue.pop(now);
        queue.finish("a", Finished::Failed, now);
        assert_eq!(queue.next_due(), Some(now + FIRST_BACK_OFF));
    }

    #[test]
    fn the_latest_run_decides_when_to_come_back() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add("a");
        queue.pop(now);
        queue.finish("a", Finished::Well(Some(Duration::from_secs(5))), now);
        queue.add("a");
        assert_eq!(queue.pop(now), Some("a"), "an event is not held up by a timer");
        queue.finish("a", Finished::Well(None), now);
        assert_eq!(queue.next_due(), None);
    }
}
