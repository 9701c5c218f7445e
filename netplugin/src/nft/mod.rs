//! The table `ip kobune`: virtual addresses of Services, and masquerading. One owner, one
//! transaction per change; no other table is ever touched.

mod attribute;
pub(crate) mod containers;
mod dump;
mod element;
mod encode;
mod expression;
mod flows;
mod group;
mod installed;
mod model;
mod phrase;
mod ruleset;
pub mod services;
mod watch;
mod ways;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::netlink::{Answer, Refusal, Socket};
use crate::{Error, HostConfig};
use dump::Skeleton;
use encode::{Batch, Element, Value};
use flows::Suspects;
use installed::{Changes, Installed, TooManyGroups};
use ruleset::{Maps, TABLE};
use services::{Service, Services};
pub use watch::Watch;
pub use ways::{Way, ways_to};

/// The rules in the kernel, and what this process knows of them.
#[derive(Debug)]
pub struct Rules {
    config: HostConfig,
    socket: Socket,
    wanted: BTreeMap<String, Arc<Service>>,
    /// None: unknown; the next transaction finds out.
    installed: Option<Installed>,
}

impl Rules {
    /// Prepares to own the table of this host; changes nothing yet. The rules of a former process
    /// keep working until the first change, which keeps what is right of them.
    ///
    /// # Errors
    /// If netlink cannot be opened.
    pub fn open(config: &HostConfig) -> Result<Rules, Error> {
        let socket = open_socket()?;
        Ok(Rules { config: config.clone(), socket, wanted: BTreeMap::new(), installed: None })
    }

    /// Makes the kernel balance exactly `wanted`, in one transaction; returns how many elements
    /// changed. Connections that exist stay with their backends.
    ///
    /// # Errors
    /// If the kernel refuses; nothing has changed in it then.
    pub fn sync(&mut self, wanted: Services) -> Result<usize, Error> {
        let gone = self.wanted.keys().filter(|name| !wanted.contains_key(*name));
        let mut changed: BTreeMap<String, Option<Service>> =
            gone.map(|name| (name.clone(), None)).collect();
        for (name, service) in wanted {
            if self.wanted.get(&name).is_none_or(|old| **old != service) {
                changed.insert(name, Some(service));
            }
        }
        self.update(changed)
    }

    /// As [`Rules::sync`], when only the Services in `changed` are another now, or gone. Costs what they
    /// cost, however many there are. After an error an empty update tries again.
    ///
    /// # Errors
    /// If the kernel refuses; then nothing has changed in it, or UDP flows to backends that are gone still are.
    pub fn update(&mut self, changed: BTreeMap<String, Option<Service>>) -> Result<usize, Error> {
        let mut names = Vec::with_capacity(changed.len());
        let mut suspects = Suspects::new();
        for (name, service) in changed {
            let service = service.map(Arc::new);
            let old = match &service {
                Some(service) => self.wanted.insert(name.clone(), Arc::clone(service)),
                None => self.wanted.remove(&name),
            };
            flows::suspect(old.as_deref(), service.as_deref(), &mut suspects);
            names.push(name);
        }
        let elements = self.write(names)?;
        flows::forget(&mut self.socket, &suspects)?;
        Ok(elements)
    }

    /// Brings the kernel up to date with the Services called `names`.
    fn write(&mut self, names: Vec<String>) -> Result<usize, Error> {
        let Some(mut installed) = self.installed.take() else { return self.repair() };
        let mut changes = Changes::default();
        for name in names {
            let wanted = self.wanted.get(&name);
            installed.advance(&name, wanted, &mut changes).map_err(|e| self.too_many(e))?;
        }
        let done = changes.len() == 0 || {
            let mut batch = Batch::new(TABLE);
            append_changes(&mut batch, &changes);
            commit(&mut self.socket, batch).is_ok()
        };
        if !done {
            return self.repair();
        }
        self.installed = Some(installed);
        Ok(changes.len())
    }

    /// Compares the kernel with what it should hold, and puts right what differs; returns how many elements that
    /// took. For when somebody else may have changed our table, and for a first look at a former process's.
    ///
    /// # Errors
    /// If the kernel refuses; nothing has changed in it then, and the next update compares again.
    pub fn repair(&mut self) -> Result<usize, Error> {
        let before = self.installed.take();
        let skeleton = dump::skeleton(&mut self.socket)?;
        let sound = |found: &Skeleton| *found == self.skeleton(found, before.as_ref());
        let Some(skeleton) = skeleton.filter(sound) else { return self.rebuild() };
        let elements = dump::elements(&mut self.socket)?;
        let (installed, changes) = match before {
            Some(installed) => {
                let changes = installed.restore(&elements);
                (installed, changes)
            }
            None => Installed::adopt(elements, skeleton.patience(), self.wanted.iter())
                .map_err(|e| self.too_many(e))?,
        };
        if changes.len() > 0 {
            let mut batch = Batch::new(TABLE);
            append_changes(&mut batch, &changes);
            if commit(&mut self.socket, batch).is_err() {
                return self.rebuild();
            }
        }
        self.installed = Some(installed);
        Ok(changes.len())
    }

    /// The doors that a Service wants although another one has them: door, Service, owner.
    pub fn conflicts(&self) -> Vec<(String, String, String)> {
        let all = self.installed.iter().flat_map(Installed::conflicts);
        all.map(|(door, name, owner)| (door.to_string(), name.into(), owner.into())).collect()
    }

    /// The whole table anew.
    fn rebuild(&mut self) -> Result<usize, Error> {
        self.installed = None;
        let (installed, changes) =
            Installed::adopt(Default::default(), Default::default(), self.wanted.iter())
                .map_err(|e| self.too_many(e))?;
        let mut batch = Batch::new(TABLE);
        replace_table(&mut batch, &self.config);
        append_changes(&mut batch, &changes);
        commit(&mut self.socket, batch)?;
        self.installed = Some(installed);
        Ok(changes.len())
    }

    /// As the table should look, given that the chains for remembering clients come as they are needed.
    fn skeleton(&self, found: &Skeleton, installed: Option<&Installed>) -> Skeleton {
        let mut expected = skeleton(&self.config);
        let needed = installed.into_iter().flat_map(|one| one.patience().iter().copied());
        for seconds in found.patience().into_iter().chain(needed) {
            let chain = ruleset::remembering(seconds);
            expected.chains.insert(chain.name, chain.rules.len());
        }
        expected
    }

    fn too_many(&self, _: TooManyGroups) -> Error {
        let limit = io::Error::from_raw_os_error(libc::ENOSPC);
        failed(&format!("number the ports of {} services", self.wanted.len()), limit)
    }
}

fn skeleton(config: &HostConfig) -> Skeleton {
    let chains = ruleset::chains(config);
    let sets = ruleset::sets();
    Skeleton {
        note: note(config),
        chains: chains.into_iter().map(|chain| (chain.name, chain.rules.len())).collect(),
        sets: sets.into_iter().map(|set| set.name.to_owned()).collect(),
    }
}

/// Tells rules of this program from those of an older one or of another configuration.
fn note(config: &HostConfig) -> String {
    let mut batch = Batch::new(TABLE);
    fill_table(&mut batch, config);
    let (bytes, _) = batch.finish();
    // FNV-1a: is the same in every build, which the standard library's does not promise.
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("rules {hash:016x}")
}

/// Makes the table, without Services, if there is none yet.
pub(crate) fn setup(config: &HostConfig) -> Result<(), Error> {
    let mut socket = open_socket()?;
    if dump::skeleton(&mut socket)?.is_some() {
        return Ok(());
    }
    let mut batch = Batch::new(TABLE);
    replace_table(&mut batch, config);
    commit(&mut socket, batch)
}

/// Removes the table. Tolerates absence.
///
/// # Errors
/// If the kernel refuses.
pub fn teardown() -> Result<(), Error> {
    let mut socket = open_socket()?;
    if dump::skeleton(&mut socket)?.is_none() {
        return Ok(());
    }
    let mut batch = Batch::new(TABLE);
    batch.delete_table();
    match commit(&mut socket, batch) {
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn open_socket() -> Result<Socket, Error> {
    Socket::open(NETLINK_NETFILTER).map_err(|source| failed("open a netfilter socket", source))
}

fn failed(what: &str, source: io::Error) -> Error {
    Error::Netlink { what: what.into(), source, detail: None }
}

/// The whole table, whether or not there is one already; it replaces that atomically.
fn replace_table(batch: &mut Batch, config: &HostConfig) {
    let note = note(config);
    // Deleting needs something to delete.
    batch.create_table(&note);
    batch.delete_table();
    batch.create_table(&note);
    fill_table(batch, config);
}

fn fill_table(batch: &mut Batch, config: &HostConfig) {
    for set in ruleset::sets() {
        batch.create_set(&set);
    }
    let chains = ruleset::chains(config);
    for chain in &chains {
        batch.create_chain(chain);
    }
    let classes: Vec<Element> = ruleset::class_elements()
        .into_iter()
        .map(|(mark, verdict)| Element {
            key: mark.to_ne_bytes().to_vec(),
            end: None,
            value: Some(Value::Verdict(verdict)),
        })
        .collect();
    batch.add_elements(Maps::CLASSES, &classes);
    for chain in &chains {
        for rule in &chain.rules {
            batch.append_rule(&chain.name, rule);
        }
    }
}

fn append_changes(batch: &mut Batch, changes: &Changes) {
    for seconds in &changes.patience {
        let chain = ruleset::remembering(*seconds);
        batch.create_chain(&chain);
        for rule in &chain.rules {
            batch.append_rule(&chain.name, rule);
        }
    }
    for (set, elements) in by_set(changes.removals()) {
        batch.delete_elements(set, &elements);
    }
    for (set, elements) in by_set(changes.additions()) {
        batch.add_elements(set, &elements);
    }
}

fn by_set<'a>(
    elements: impl Iterator<Item = (&'a element::Key, &'a element::Value)>,
) -> BTreeMap<&'static str, Vec<Element>> {
    let mut sorted: BTreeMap<&'static str, Vec<Element>> = BTreeMap::new();
    for (key, value) in elements {
        sorted.entry(key.set()).or_default().push(element::element(key, value));
    }
    sorted
}

/// Performs a transaction: all of it, or an error and nothing of it.
fn commit(socket: &mut Socket, batch: Batch) -> Result<(), Error> {
    let (bytes, what) = batch.finish();
    // The message before the closing one asks for the acknowledgement.
    let last = what.len().saturating_sub(2) as u32;
    let io = |source| failed("change table kobune", source);
    socket.reserve(bytes.len(), what.len()).map_err(io)?;
    // Sequence numbers start anew with every batch. The kernel answers before it returns.
    socket.drain();
    socket.send(&bytes).map_err(io)?;
    let mut refused: Option<(u32, Refusal)> = None;
    socket
        .receive(|sequence, answer| match answer {
            Answer::Refused(refusal) => {
                refused.get_or_insert((sequence, refusal));
                sequence == last || sequence == 0
            }
            Answer::Ok => sequence == last,
            Answer::Data(..) => false,
        })
        .map_err(io)?;
    match refused {
        None => Ok(()),
        Some((sequence, refusal)) => {
            let what = what.into_iter().nth(sequence as usize).unwrap_or_default();
            Err(refusal.into_error(what))
        }
    }
}
