//! The table `ip kobune`: virtual addresses of Services, and masquerading. One owner, one
//! transaction per change; no other table is ever touched.

mod attribute;
mod diff;
mod encode;
mod expression;
mod model;
mod ruleset;
pub mod services;

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::netlink::{Answer, Refusal, Socket};
use crate::{Error, HostConfig};
use diff::{Changes, Entry, Installed};
use encode::{Batch, Element, Value};
use services::{Protocol, ServiceTable};

/// The rules in the kernel, and what this process knows of them.
#[derive(Debug)]
pub struct Rules {
    config: HostConfig,
    socket: Socket,
    /// None: unknown; the next transaction replaces the whole table.
    installed: Option<Installed>,
}

impl Rules {
    /// Prepares to own the table of this host; changes nothing yet. The rules of a former process
    /// keep working until the first [`Rules::sync`] replaces them.
    ///
    /// # Errors
    /// If netlink cannot be opened.
    pub fn open(config: &HostConfig) -> Result<Rules, Error> {
        Ok(Rules { config: config.clone(), socket: open_socket()?, installed: None })
    }

    /// Makes the kernel balance exactly `wanted`, in one transaction; returns how many elements
    /// changed. Connections that exist stay with their backends. Should somebody have removed the
    /// table or parts of it, it is made anew.
    ///
    /// # Errors
    /// If the kernel refuses; nothing has changed in it then.
    pub fn sync(&mut self, wanted: &ServiceTable) -> Result<usize, Error> {
        if let Some(mut installed) = self.installed.take() {
            let changes = advance(&mut installed, wanted)?;
            let mut batch = Batch::new(ruleset::TABLE);
            append_changes(&mut batch, &changes);
            if changes.len() == 0 || commit(&mut self.socket, batch).is_ok() {
                self.installed = Some(installed);
                return Ok(changes.len());
            }
        }
        let mut installed = Installed::default();
        let changes = advance(&mut installed, wanted)?;
        let mut batch = Batch::new(ruleset::TABLE);
        replace_table(&mut batch, &self.config);
        append_changes(&mut batch, &changes);
        commit(&mut self.socket, batch)?;
        self.installed = Some(installed);
        Ok(changes.len())
    }
}

/// Makes the table, without Services, if there is none yet.
pub(crate) fn setup(config: &HostConfig) -> Result<(), Error> {
    let mut socket = open_socket()?;
    if exists(&mut socket)? {
        return Ok(());
    }
    let mut batch = Batch::new(ruleset::TABLE);
    replace_table(&mut batch, config);
    commit(&mut socket, batch)
}

/// Removes the table. Tolerates absence.
///
/// # Errors
/// If the kernel refuses.
pub fn teardown() -> Result<(), Error> {
    let mut socket = open_socket()?;
    if !exists(&mut socket)? {
        return Ok(());
    }
    let mut batch = Batch::new(ruleset::TABLE);
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

fn exists(socket: &mut Socket) -> Result<bool, Error> {
    const WHAT: &str = "look up table kobune";
    let sequence = socket.next_sequence();
    let io = |source| failed(WHAT, source);
    socket.send(&encode::get_table(ruleset::TABLE, sequence)).map_err(io)?;
    let mut refused = None;
    socket
        .receive(|answered, answer| match answer {
            Answer::Data(..) => false,
            Answer::Ok => answered == sequence,
            Answer::Refused(refusal) => {
                refused = Some(refusal);
                true
            }
        })
        .map_err(io)?;
    match refused {
        None => Ok(true),
        Some(refusal) if refusal.errno == libc::ENOENT => Ok(false),
        Some(refusal) => Err(refusal.into_error(WHAT)),
    }
}

fn advance(installed: &mut Installed, wanted: &ServiceTable) -> Result<Changes, Error> {
    installed.advance(wanted).map_err(|diff::TooManyPorts| {
        let limit = io::Error::from_raw_os_error(libc::ENOSPC);
        failed(&format!("number {} service ports", wanted.ports.len()), limit)
    })
}

/// The whole table, whether or not there is one already; it replaces that atomically.
fn replace_table(batch: &mut Batch, config: &HostConfig) {
    // Deleting needs something to delete.
    batch.create_table();
    batch.delete_table();
    batch.create_table();
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
            value: Some(Value::Verdict(verdict)),
        })
        .collect();
    batch.add_elements(ruleset::CLASSES, &classes);
    for chain in &chains {
        for rule in &chain.rules {
            batch.append_rule(&chain.name, rule);
        }
    }
}

fn append_changes(batch: &mut Batch, changes: &Changes) {
    for (set, elements) in by_set(&changes.remove) {
        batch.delete_elements(set, &elements);
    }
    for (set, elements) in by_set(&changes.add) {
        batch.add_elements(set, &elements);
    }
}

fn by_set(entries: &[Entry]) -> [(&'static str, Vec<Element>); 4] {
    let names = [ruleset::ENDPOINTS, ruleset::SERVICE_IPS, ruleset::CLUSTER_IPS, ruleset::HAIRPIN];
    let mut sorted = names.map(|name| (name, Vec::new()));
    for entry in entries {
        let (at, element) = match entry {
            Entry::Slot { .. } => (0, element(entry)),
            Entry::Port { .. } => (1, element(entry)),
            Entry::ClusterIp(_) => (2, element(entry)),
            Entry::Hairpin(_) => (3, element(entry)),
        };
        sorted[at].1.push(element);
    }
    sorted
}

/// Keys and values as the rules have them in registers: addresses and ports as in the packet,
/// marks as the processor has them, each part in registers of its own.
fn element(entry: &Entry) -> Element {
    let bytes = |parts: &[[u8; 4]]| parts.concat();
    match entry {
        Entry::Slot { id, slot, backend } => Element {
            key: bytes(&[ruleset::mark(*id, 0).to_ne_bytes(), slot.to_ne_bytes()]),
            value: Some(Value::Bytes(bytes(&[backend.address.octets(), port(backend.port)]))),
        },
        Entry::Port { vip, mark } => Element {
            key: bytes(&[vip.address.octets(), [protocol(vip.protocol), 0, 0, 0], port(vip.port)]),
            value: Some(Value::Bytes(mark.to_ne_bytes().to_vec())),
        },
        Entry::ClusterIp(address) => Element { key: address.octets().to_vec(), value: None },
        Entry::Hairpin(address) => {
            Element { key: bytes(&[address.octets(), address.octets()]), value: None }
        }
    }
}

fn port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn protocol(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP as u8,
        Protocol::Udp => libc::IPPROTO_UDP as u8,
    }
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
