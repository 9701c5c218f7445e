//! What the kernel holds, what it should hold, and the elements to change (pure).
//!
//! Every group of a Service has an id, and its backends sit in dense slots 0..n of that id.
//! A backend that goes leaves a hole that the last one fills; one that comes is put at the end.
//! So one change costs a handful of elements, and nobody looks at the other Services.
//!
//! Ids are used again as late as possible: clients may be remembered under an old one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::element::{Key, Value};
use super::group::Held;
use super::ruleset;
use super::services::{Door, Service};

/// The elements to change, as they were and as they should be; and chains to make before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    elements: BTreeMap<Key, (Option<Value>, Option<Value>)>,
    /// Seconds of chains that remember clients.
    pub(crate) patience: BTreeSet<u32>,
}

impl Changes {
    fn note(&mut self, key: Key, before: Option<Value>, after: Option<Value>) {
        self.elements.entry(key).or_insert((before, None)).1 = after;
    }

    fn differing(&self) -> impl Iterator<Item = (&Key, &(Option<Value>, Option<Value>))> {
        self.elements.iter().filter(|(_, (before, after))| before != after)
    }

    /// To be removed first.
    pub(crate) fn removals(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.differing().filter_map(|(key, (before, _))| Some((key, before.as_ref()?)))
    }

    pub(crate) fn additions(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.differing().filter_map(|(key, (_, after))| Some((key, after.as_ref()?)))
    }

    pub(crate) fn len(&self) -> usize {
        self.removals().count() + self.additions().count() + self.patience.len()
    }
}

/// More groups than a mark can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooManyGroups;

/// One Service as it is installed.
#[derive(Debug, Clone, Default)]
struct Entry {
    service: Arc<Service>,
    groups: BTreeMap<String, Held>,
}

impl Entry {
    fn door_mark(&self, door: &Door) -> Option<u32> {
        let (name, _) = self.service.groups.iter().find(|(_, group)| group.doors.contains(door))?;
        self.groups.get(name).map(Held::door_mark)
    }

    fn doors(&self) -> impl Iterator<Item = Door> {
        self.service.groups.values().flat_map(|group| group.doors.iter().copied())
    }

    /// Elements that several Services may want; the last one takes them away.
    fn shared(&self) -> BTreeSet<Key> {
        let service = &self.service;
        let mut keys: BTreeSet<Key> =
            service.cluster_ips.iter().copied().map(Key::ClusterIp).collect();
        keys.extend(service.local_pods.iter().copied().map(Key::Hairpin));
        for (vip, ranges) in &service.allowed {
            keys.insert(Key::Guarded(*vip));
            // Ranges that overlap are an error to the kernel.
            let ranges = ipnet::Ipv4Net::aggregate(ranges);
            keys.extend(ranges.into_iter().map(|range| Key::Allowed(*vip, range)));
        }
        keys
    }
}

/// The elements in the kernel, and why they are there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Installed {
    elements: HashMap<Key, Value>,
    services: HashMap<String, Entry>,
    owners: HashMap<Door, String>,
    /// Services that want a door which another one has.
    waiting: BTreeMap<Door, BTreeSet<String>>,
    counts: HashMap<Key, usize>,
    free_ids: VecDeque<u32>,
    next_id: u32,
    patience: BTreeSet<u32>,
    /// Only while the elements of a former process are taken over.
    adoption: Option<Adoption>,
}

#[derive(Debug, Clone, Default)]
struct Adoption {
    groups: HashMap<u32, BTreeMap<Key, Value>>,
    taken: HashSet<u32>,
    wanted: HashSet<Key>,
}

impl Installed {
    /// Takes over `elements` of a former process, which made the chains for `patience`: groups keep their ids,
    /// and backends their slots. Returns what it takes to hold exactly `services`.
    pub(crate) fn adopt<'a>(
        elements: HashMap<Key, Value>,
        patience: BTreeSet<u32>,
        services: impl Iterator<Item = (&'a String, &'a Arc<Service>)>,
    ) -> Result<(Installed, Changes), TooManyGroups> {
        let mut adoption = Adoption::default();
        for (key, value) in &elements {
            if let Some(id) = id_of(key) {
                adoption.groups.entry(id).or_default().insert(*key, *value);
            }
        }
        let marks = elements.iter().filter_map(|element| match element {
            (Key::Door(_), Value::Mark(mark)) => Some(ruleset::id(*mark)),
            (key, _) => id_of(key),
        });
        let next_id = marks.max().map_or(0, |last| last + 1);
        let mut installed = Installed {
            elements,
            patience,
            next_id,
            adoption: Some(adoption),
            ..Installed::default()
        };
        let mut changes = Changes::default();
        for (name, service) in services {
            installed.advance(name, Some(service), &mut changes)?;
        }
        let adoption = installed.adoption.take().unwrap_or_default();
        let left: Vec<Key> = installed
            .elements
            .keys()
            .filter(|key| !adoption.wanted.contains(key))
            .copied()
            .collect();
        for key in left {
            installed.set(key, None, &mut changes);
        }
        Ok((installed, changes))
    }

    /// Becomes `wanted` as far as Service `name` goes. After an error nobody knows what is installed; start again
    /// from nothing.
    pub(crate) fn advance(
        &mut self,
        name: &str,
        wanted: Option<&Arc<Service>>,
        changes: &mut Changes,
    ) -> Result<(), TooManyGroups> {
        let old = self.services.remove(name).unwrap_or_default();
        let mut new =
            Entry { service: wanted.cloned().unwrap_or_default(), groups: BTreeMap::new() };
        let (old_doors, old_shared) = (old.doors().collect::<BTreeSet<_>>(), old.shared());
        let mut old_groups = old.groups;
        for (group_name, group) in &new.service.groups {
            let fits = |held: &Held| held.affinity.is_some() == group.affinity.is_some();
            let before = old_groups.remove(group_name);
            let mut held = match before {
                Some(held) if fits(&held) => held,
                other => {
                    self.remove_group(other, changes);
                    self.new_group(group.doors.iter())?
                }
            };
            let entries = held.entries();
            held.become_like(group);
            self.replace(entries, held.entries(), changes);
            self.patient(held.affinity, changes);
            new.groups.insert(group_name.clone(), held);
        }
        for held in old_groups.into_values() {
            self.remove_group(Some(held), changes);
        }
        let new_shared = new.shared();
        for key in old_shared.difference(&new_shared) {
            self.release_shared(*key, changes);
        }
        for key in new_shared.difference(&old_shared) {
            *self.counts.entry(*key).or_default() += 1;
        }
        for key in new_shared {
            self.set(key, Some(Value::Nothing), changes);
        }
        let new_doors: BTreeSet<Door> = new.doors().collect();
        for door in &new_doors {
            self.claim(door, name, &new, changes);
        }
        if wanted.is_some() {
            self.services.insert(name.to_owned(), new);
        }
        for door in old_doors.difference(&new_doors) {
            self.leave(door, name, changes);
        }
        Ok(())
    }

    /// What it takes to bring a kernel that holds `elements` back to what is installed.
    pub(crate) fn restore(&self, elements: &HashMap<Key, Value>) -> Changes {
        let mut changes = Changes::default();
        for (key, before) in elements {
            if !self.elements.contains_key(key) {
                changes.note(*key, Some(*before), None);
            }
        }
        for (key, value) in &self.elements {
            changes.note(*key, elements.get(key).copied(), Some(*value));
        }
        changes
    }

    /// Seconds of all chains that remember clients.
    pub(crate) fn patience(&self) -> &BTreeSet<u32> {
        &self.patience
    }

    /// Doors that a Service wants in vain, since another one has them.
    pub(crate) fn conflicts(&self) -> impl Iterator<Item = (&Door, &str, &str)> {
        self.waiting.iter().flat_map(|(door, names)| {
            let owner = self.owners.get(door).map_or("", String::as_str);
            names.iter().map(move |name| (door, name.as_str(), owner))
        })
    }

    fn set(&mut self, key: Key, value: Option<Value>, changes: &mut Changes) {
        let before = match value {
            Some(value) => self.elements.insert(key, value),
            None => self.elements.remove(&key),
        };
        if let (Some(adoption), Some(_)) = (&mut self.adoption, value) {
            adoption.wanted.insert(key);
        }
        if before != value || changes.elements.contains_key(&key) {
            changes.note(key, before, value);
        }
    }

    fn replace(&mut self, old: Vec<(Key, Value)>, new: Vec<(Key, Value)>, changes: &mut Changes) {
        let keys: HashSet<Key> = new.iter().map(|(key, _)| *key).collect();
        for (key, _) in old.into_iter().filter(|(key, _)| !keys.contains(key)) {
            self.set(key, None, changes);
        }
        for (key, value) in new {
            self.set(key, Some(value), changes);
        }
    }

    fn patient(&mut self, seconds: Option<u32>, changes: &mut Changes) {
        if let Some(seconds) = seconds
            && self.patience.insert(seconds)
        {
            changes.patience.insert(seconds);
        }
    }

    fn release_shared(&mut self, key: Key, changes: &mut Changes) {
        let count = self.counts.entry(key).or_default();
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.counts.remove(&key);
            self.set(key, None, changes);
        }
    }

    fn claim(&mut self, door: &Door, name: &str, entry: &Entry, changes: &mut Changes) {
        let owner = self.owners.entry(*door).or_insert_with(|| name.to_owned());
        if owner != name {
            self.waiting.entry(*door).or_default().insert(name.to_owned());
            return;
        }
        if let Some(mark) = entry.door_mark(door) {
            self.set(Key::Door(*door), Some(Value::Mark(mark)), changes);
        }
    }

    /// Service `name` wants the door no more: the next one has it.
    fn leave(&mut self, door: &Door, name: &str, changes: &mut Changes) {
        let mut waiting = self.waiting.remove(door).unwrap_or_default();
        waiting.remove(name);
        if self.owners.get(door).is_some_and(|owner| owner == name) {
            self.owners.remove(door);
            self.set(Key::Door(*door), None, changes);
            if let Some(next) = waiting.pop_first()
                && let Some(mark) = self.services.get(&next).and_then(|e| e.door_mark(door))
            {
                self.owners.insert(*door, next);
                self.set(Key::Door(*door), Some(Value::Mark(mark)), changes);
            }
        }
        if !waiting.is_empty() {
            self.waiting.insert(*door, waiting);
        }
    }

    fn remove_group(&mut self, held: Option<Held>, changes: &mut Changes) {
        if let Some(held) = held {
            self.replace(held.entries(), Vec::new(), changes);
            self.free_ids.push_back(held.id);
        }
    }

    /// A group with a new id, or that of the former process for one of `doors`.
    fn new_group<'a>(
        &mut self,
        doors: impl Iterator<Item = &'a Door>,
    ) -> Result<Held, TooManyGroups> {
        if let Some(adoption) = &mut self.adoption {
            for door in doors {
                if let Some(Value::Mark(mark)) = self.elements.get(&Key::Door(*door))
                    && let id = ruleset::id(*mark)
                    && adoption.taken.insert(id)
                {
                    let elements = adoption.groups.remove(&id).unwrap_or_default();
                    return Ok(Held::from_elements(id, &elements));
                }
            }
        }
        if self.next_id <= ruleset::MAX_ID {
            self.next_id += 1;
            return Ok(Held::new(self.next_id - 1));
        }
        self.free_ids.pop_front().map(Held::new).ok_or(TooManyGroups)
    }
}

fn id_of(key: &Key) -> Option<u32> {
    match key {
        Key::Slot { id, .. } | Key::Pick { id, .. } | Key::Patience { id } => Some(*id),
        Key::Sticky { mark } => Some(ruleset::id(*mark)),
        _ => None,
    }
}

#[cfg(test)]
#[path = "installed_tests.rs"]
mod tests;
