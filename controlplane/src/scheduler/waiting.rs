//! Pods that wait for a node. Pure.
//!
//! ```text
//!          add                 take                 refuse
//! (new) ───────→ active ───────────────→ (deciding) ───────→ parked
//!                  ↑  ↑ time                  │ retry            │ stir, with back-off over
//!                  │  └────── backing off ←───┴──────────────────┤ stir, before
//!                  └─────────────────────────────────────────────┘
//! ```
//! *stir*: something changed that may make room. *retry*: the decision could not be written. The first
//! retry comes as soon as something changes (a node that is just coming up); after that the time between two
//! tries doubles from one second up to ten, so that a busy cluster does not try everybody all the time.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::need::Need;
use crate::object::Object;

const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
const LAST_BACK_OFF: Duration = Duration::from_secs(10);

type Uid = Arc<str>;
/// Higher priority first, then who waited longer.
type Rank = (Reverse<i32>, u64, Uid);

#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) object: Arc<Object>,
    pub(super) need: Arc<Need>,
    priority: i32,
    /// Order of arrival.
    turn: u64,
    tries: u32,
    not_before: Option<Instant>,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Active,
    Deciding,
    BackingOff,
    Parked,
}

#[derive(Default)]
pub(super) struct Waiting {
    pods: HashMap<Uid, Pending>,
    active: BTreeSet<Rank>,
    timed: BTreeSet<(Instant, Uid)>,
    parked: HashSet<Uid>,
    turns: u64,
}

impl Waiting {
    /// A Pod to place, new or with other wishes than before.
    pub(super) fn add(&mut self, object: Arc<Object>, need: Need, priority: i32) {
        let uid: Uid = object.meta.uid.as_str().into();
        let known = self.take_out(&uid);
        self.turns += 1;
        let (turn, tries) = known.map_or((self.turns, 0), |known| (known.turn, known.tries));
        let need = Arc::new(need);
        let place = Place::Active;
        let pending = Pending { object, need, priority, turn, tries, not_before: None, place };
        self.active.insert((Reverse(priority), turn, uid.clone()));
        self.pods.insert(uid, pending);
    }

    /// The same wishes in a newer version.
    pub(super) fn refresh(&mut self, object: &Arc<Object>) {
        if let Some(pending) = self.pods.get_mut(object.meta.uid.as_str()) {
            pending.object = object.clone();
        }
    }

    pub(super) fn need(&self, uid: &str) -> Option<&Need> {
        self.pods.get(uid).map(|pending| &*pending.need)
    }

    pub(super) fn remove(&mut self, uid: &str) {
        self.take_out(uid);
    }

    /// The next Pod to decide on.
    pub(super) fn take(&mut self, now: Instant) -> Option<Pending> {
        while self.timed.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, uid)) = self.timed.pop_first() {
                self.activate(&uid);
            }
        }
        let (_, _, uid) = self.active.pop_first()?;
        let pending = self.pods.get_mut(&uid)?;
        pending.place = Place::Deciding;
        pending.tries += 1;
        Some(pending.clone())
    }

    /// No node fits: wait until something changes.
    pub(super) fn refuse(&mut self, uid: &str, now: Instant) {
        if let Some(pending) = self.deciding(uid) {
            pending.not_before = Some(now + back_off(pending.tries));
            pending.place = Place::Parked;
            self.parked.insert(uid.into());
        }
    }

    /// The decision could not be written: try again.
    pub(super) fn retry(&mut self, uid: &str, now: Instant) {
        if self.deciding(uid).is_some() {
            self.refuse(uid, now);
            self.parked.remove(uid);
            self.wake(uid, now);
        }
    }

    /// Something changed: whoever was refused may fit now.
    pub(super) fn stir(&mut self, now: Instant) {
        let parked = std::mem::take(&mut self.parked);
        parked.iter().for_each(|uid| self.wake(uid, now));
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timed.first().map(|(at, _)| *at)
    }

    fn deciding(&mut self, uid: &str) -> Option<&mut Pending> {
        self.pods.get_mut(uid).filter(|pending| pending.place == Place::Deciding)
    }

    fn wake(&mut self, uid: &str, now: Instant) {
        let Some((uid, pending)) = self.pods.get_key_value(uid) else { return };
        let uid = uid.clone();
        match pending.not_before.filter(|at| *at > now) {
            None => self.activate(&uid),
            Some(at) => {
                self.timed.insert((at, uid.clone()));
                if let Some(pending) = self.pods.get_mut(&uid) {
                    pending.place = Place::BackingOff;
                }
            }
        }
    }

    fn activate(&mut self, uid: &Uid) {
        if let Some(pending) = self.pods.get_mut(uid) {
            pending.place = Place::Active;
            self.active.insert((Reverse(pending.priority), pending.turn, uid.clone()));
        }
    }

    fn take_out(&mut self, uid: &str) -> Option<Pending> {
        let (uid, pending) = self.pods.remove_entry(uid)?;
        if let Some(at) = pending.not_before {
            self.timed.remove(&(at, uid.clone()));
        }
        self.parked.remove(&uid);
        self.active.remove(&(Reverse(pending.priority), pending.turn, uid));
        Some(pending)
    }
}

fn back_off(tries: u32) -> Duration {
    match tries {
        0 | 1 => Duration::ZERO,
        more => FIRST_BACK_OFF.saturating_mul(1 << (more - 2).min(8)).min(LAST_BACK_OFF),
    }
}
