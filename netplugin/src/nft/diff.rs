//! What the kernel holds, what it should hold, and the elements to change (pure).
//!
//! Every VIP port with backends has an id, and its backends sit in dense slots 0..n of that id.
//! A backend that goes leaves a hole that the last one fills; one that comes is put at the end.
//! So one change costs a handful of elements, however many Services there are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::ruleset;
use super::services::{Backend, ServiceTable, VipPort};

/// One element of one of our sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Entry {
    Port { vip: VipPort, mark: u32 },
    Slot { id: u32, slot: u32, backend: Backend },
    ClusterIp(Ipv4Addr),
    Hairpin(Ipv4Addr),
}

/// Entries to remove first and to add then, in one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) remove: Vec<Entry>,
    pub(crate) add: Vec<Entry>,
}

impl Changes {
    pub(crate) fn len(&self) -> usize {
        self.remove.len() + self.add.len()
    }
}

/// More VIP ports than a mark can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooManyPorts;

/// The elements in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Installed {
    ports: BTreeMap<VipPort, Port>,
    addresses: BTreeSet<Ipv4Addr>,
    hairpin: BTreeSet<Ipv4Addr>,
    free_ids: Vec<u32>,
    next_id: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Port {
    id: u32,
    backends: Vec<Backend>,
}

impl Port {
    fn mark(&self) -> Option<u32> {
        ruleset::class(self.backends.len()).map(|(class, _)| ruleset::mark(self.id, class))
    }

    fn slots(&self) -> Vec<Backend> {
        let slots = ruleset::class(self.backends.len()).map_or(0, |(_, slots)| slots as usize);
        self.backends.iter().copied().cycle().take(slots).collect()
    }
}

impl Installed {
    /// Becomes `wanted` and returns what that takes. After an error nobody knows what is
    /// installed; start again from nothing.
    pub(crate) fn advance(&mut self, wanted: &ServiceTable) -> Result<Changes, TooManyPorts> {
        let mut changes = Changes::default();
        let gone: Vec<VipPort> =
            self.ports.keys().filter(|vip| !has_backends(wanted, vip)).copied().collect();
        for vip in gone {
            if let Some(port) = self.ports.remove(&vip) {
                replace(&vip, &port, &Port { id: port.id, backends: Vec::new() }, &mut changes);
                self.free_ids.push(port.id);
            }
        }
        for (vip, backends) in wanted.ports.iter().filter(|(_, backends)| !backends.is_empty()) {
            match self.ports.get_mut(vip) {
                Some(port) if port.backends == *backends => {}
                Some(port) => {
                    let old = port.clone();
                    rearrange(&mut port.backends, backends);
                    replace(vip, &old, port, &mut changes);
                }
                None => {
                    let id = self.take_id()?;
                    let mut port = Port { id, backends: Vec::new() };
                    let old = port.clone();
                    rearrange(&mut port.backends, backends);
                    replace(vip, &old, &port, &mut changes);
                    self.ports.insert(*vip, port);
                }
            }
        }
        let addresses = wanted.ports.keys().map(|vip| vip.address).collect();
        exchange(&mut self.addresses, addresses, Entry::ClusterIp, &mut changes);
        exchange(&mut self.hairpin, wanted.local_pods.clone(), Entry::Hairpin, &mut changes);
        Ok(changes)
    }

    fn take_id(&mut self) -> Result<u32, TooManyPorts> {
        if let Some(id) = self.free_ids.pop() {
            return Ok(id);
        }
        if self.next_id > ruleset::MAX_ID {
            return Err(TooManyPorts);
        }
        self.next_id += 1;
        Ok(self.next_id - 1)
    }
}

fn has_backends(wanted: &ServiceTable, vip: &VipPort) -> bool {
    wanted.ports.get(vip).is_some_and(|backends| !backends.is_empty())
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

/// The elements that tell `old` and `new` apart.
fn replace(vip: &VipPort, old: &Port, new: &Port, changes: &mut Changes) {
    let (before, after) = (old.slots(), new.slots());
    for slot in 0..before.len().max(after.len()) {
        let (was, is) = (before.get(slot), after.get(slot));
        if was != is {
            let entry = |id, backend| Entry::Slot { id, slot: slot as u32, backend };
            changes.remove.extend(was.map(|backend| entry(old.id, *backend)));
            changes.add.extend(is.map(|backend| entry(new.id, *backend)));
        }
    }
    if old.mark() != new.mark() {
        changes.remove.extend(old.mark().map(|mark| Entry::Port { vip: *vip, mark }));
        changes.add.extend(new.mark().map(|mark| Entry::Port { vip: *vip, mark }));
    }
}

fn exchange(
    have: &mut BTreeSet<Ipv4Addr>,
    want: BTreeSet<Ipv4Addr>,
    entry: fn(Ipv4Addr) -> Entry,
    changes: &mut Changes,
) {
    changes.remove.extend(have.difference(&want).copied().map(entry));
    changes.add.extend(want.difference(have).copied().map(entry));
    *have = want;
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
