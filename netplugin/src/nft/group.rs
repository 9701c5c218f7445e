//! One group as it is installed: its id, slots and, with affinity, its backends' numbers (pure).
//!
//! With affinity, clients are remembered with the number of their backend. A number keeps its backend; when that is
//! gone, the number goes to another one, so that all who remember it move together. New backends take numbers that
//! were never used, and after that those whose backend is gone.

use std::collections::{BTreeMap, BTreeSet};

use super::element::{Key, Value};
use super::ruleset::{self, Manner};
use super::services::{Backend, Group};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) id: u32,
    pub(crate) affinity: Option<u32>,
    manner: Manner,
    /// Distinct.
    backends: Vec<Backend>,
    numbers: BTreeMap<u16, Number>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Number {
    backend: Backend,
    /// Its first one; false: stands in for one that is gone.
    own: bool,
}

impl Held {
    pub(crate) fn new(id: u32) -> Held {
        Held { id, ..Held::default() }
    }

    /// As a former process left it.
    pub(crate) fn from_elements(id: u32, elements: &BTreeMap<Key, Value>) -> Held {
        let mut held = Held::new(id);
        for (key, value) in elements {
            if let (Key::Sticky { mark }, Value::Backend(backend)) = (key, value) {
                let number = Number { backend: *backend, own: false };
                held.numbers.insert(ruleset::stuck_number(*mark), number);
            }
        }
        for (key, value) in elements {
            match (key, value) {
                (Key::Slot { .. }, Value::Backend(backend)) => held.backends.push(*backend),
                (Key::Pick { .. }, Value::Mark(mark)) => {
                    if let Some(number) = held.numbers.get_mut(&ruleset::stuck_number(*mark)) {
                        number.own = true;
                        held.backends.push(number.backend);
                    }
                }
                _ => {}
            }
        }
        let mut seen = BTreeSet::new();
        held.backends.retain(|backend| seen.insert(*backend));
        held
    }

    /// Becomes `wanted`, moving as few backends as possible.
    pub(crate) fn become_like(&mut self, wanted: &Group) {
        self.affinity = wanted.affinity;
        self.manner = Manner {
            keep_source: wanted.keep_source,
            affinity: wanted.affinity.is_some(),
            otherwise: wanted.otherwise,
        };
        rearrange(&mut self.backends, &wanted.backends);
        if self.affinity.is_some() {
            self.backends.truncate(ruleset::MOST_STICKY);
            self.renumber();
        }
    }

    fn renumber(&mut self) {
        let live: BTreeSet<Backend> = self.backends.iter().copied().collect();
        for number in self.numbers.values_mut() {
            number.own &= live.contains(&number.backend);
        }
        let own: BTreeSet<Backend> =
            self.numbers.values().filter(|number| number.own).map(|n| n.backend).collect();
        for backend in self.backends.iter().filter(|backend| !own.contains(backend)) {
            let unused = (0..ruleset::MOST_STICKY as u16).find(|n| !self.numbers.contains_key(n));
            let orphan = || self.numbers.iter().find(|(_, number)| !number.own).map(|(n, _)| *n);
            if let Some(n) = unused.or_else(orphan) {
                self.numbers.insert(n, Number { backend: *backend, own: true });
            }
        }
        for (n, number) in &mut self.numbers {
            if !live.contains(&number.backend) && !self.backends.is_empty() {
                number.backend = self.backends[usize::from(*n) % self.backends.len()];
            }
        }
    }

    pub(crate) fn door_mark(&self) -> u32 {
        ruleset::door_mark(self.id, self.backends.len(), self.manner)
    }

    /// The elements that carry the group, without its doors.
    pub(crate) fn entries(&self) -> Vec<(Key, Value)> {
        let id = self.id;
        let slots = ruleset::class(self.backends.len()).map_or(0, |(_, slots)| slots);
        let slotted = (0..slots).zip(self.backends.iter().cycle());
        let Some(seconds) = self.affinity else {
            return slotted
                .map(|(slot, backend)| (Key::Slot { id, slot }, Value::Backend(*backend)))
                .collect();
        };
        if self.backends.is_empty() {
            return Vec::new();
        }
        let mark = |number: u16| ruleset::stuck_mark(id, number, self.manner);
        let own = self.numbers.iter().filter(|(_, number)| number.own);
        let marks: BTreeMap<Backend, u32> = own.map(|(n, one)| (one.backend, mark(*n))).collect();
        let picks = slotted.filter_map(|(slot, backend)| {
            Some((Key::Pick { id, slot }, Value::Mark(*marks.get(backend)?)))
        });
        let sticky = self
            .numbers
            .iter()
            .map(|(n, one)| (Key::Sticky { mark: mark(*n) }, Value::Backend(one.backend)));
        let patience = (Key::Patience { id }, Value::Patience(seconds));
        picks.chain(sticky).chain([patience]).collect()
    }
}

/// Makes `slots` hold exactly `wanted`, moving as few as possible. Duplicates count once.
fn rearrange(slots: &mut Vec<Backend>, wanted: &[Backend]) {
    let mut missing: BTreeSet<Backend> = wanted.iter().copied().collect();
    let mut at = 0;
    while at < slots.len() {
        if missing.remove(&slots[at]) {
            at += 1;
        } else {
            slots.swap_remove(at);
        }
    }
    slots.extend(missing);
}
