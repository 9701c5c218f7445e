//! What the kernel has of our table: asks, and understands the answers. Changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use super::element::{Key, SETS, Value};
use super::encode::{self, Question};
use super::failed;
use super::ruleset::{self, TABLE};
use crate::Error;
use crate::netlink::{Answer, Socket, attributes};

/// The table but for its elements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Skeleton {
    /// The table's comment.
    pub(crate) note: String,
    /// Chains, and how many rules each has.
    pub(crate) chains: BTreeMap<String, usize>,
    pub(crate) sets: BTreeSet<String>,
}

impl Skeleton {
    /// Seconds of the chains that remember clients.
    pub(crate) fn patience(&self) -> BTreeSet<u32> {
        self.chains.keys().filter_map(|name| ruleset::patience(name)).collect()
    }
}

/// None if there is no such table.
pub(crate) fn skeleton(socket: &mut Socket) -> Result<Option<Skeleton>, Error> {
    let mut found = Skeleton::default();
    let there = ask(socket, Question::Table, |body| {
        found.note = text_note(body).unwrap_or_default();
    })?;
    if !there {
        return Ok(None);
    }
    ask(socket, Question::Chains, |body| {
        if let Some(name) = ours(body, 3) {
            found.chains.insert(name, 0);
        }
    })?;
    ask(socket, Question::Rules, |body| {
        if let Some(chain) = ours(body, 2) {
            *found.chains.entry(chain).or_default() += 1;
        }
    })?;
    ask(socket, Question::Sets, |body| {
        // The kernel makes sets of its own for lists in rules; ours have names.
        found.sets.extend(ours(body, 2));
    })?;
    Ok(Some(found))
}

/// All elements of our sets; elements that we would never write are not among them.
pub(crate) fn elements(socket: &mut Socket) -> Result<HashMap<Key, Value>, Error> {
    let mut found = HashMap::new();
    for set in SETS {
        ask(socket, Question::Elements(set), |body| {
            let lists = attributes(body).filter(|(kind, _)| *kind == 3);
            for (_, one) in lists.flat_map(|(_, list)| attributes(list)) {
                found.extend(element(set, one));
            }
        })?;
    }
    Ok(found)
}

fn element(set: &str, element: &[u8]) -> Option<(Key, Value)> {
    let nested = |buffer, wanted| attribute(buffer, wanted).and_then(|inner| attribute(inner, 1));
    let chain = attribute(element, 2)
        .and_then(|data| attribute(data, 2))
        .and_then(|verdict| attribute(verdict, 2))
        .and_then(text);
    let key = Key::decode(set, nested(element, 1)?, nested(element, 10))?;
    Some((key, Value::decode(set, nested(element, 2), chain.as_deref())?))
}

fn attribute(buffer: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(buffer).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn text(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    String::from_utf8(bytes.to_vec()).ok()
}

/// The name in attribute `name`, if the message is about our table.
fn ours(body: &[u8], name: u16) -> Option<String> {
    if text(attribute(body, 1)?)? != TABLE {
        return None;
    }
    text(attribute(body, name)?)
}

fn text_note(body: &[u8]) -> Option<String> {
    let data = attribute(body, 6)?;
    // One entry of user data: kind, length, text.
    text(data.get(2..)?)
}

/// Asks, and shows each answer's attributes; false if the kernel knows nothing of it.
fn ask(
    socket: &mut Socket,
    question: Question,
    mut each: impl FnMut(&[u8]),
) -> Result<bool, Error> {
    let what = "look at table kobune";
    let io = |source: io::Error| failed(what, source);
    let sequence = socket.next_sequence();
    socket.drain();
    socket.send(&encode::question(TABLE, question, sequence)).map_err(io)?;
    let mut refused = None;
    socket
        .receive(|answered, answer| match answer {
            _ if answered != sequence => false,
            Answer::Data(_, body) => {
                each(body.get(4..).unwrap_or_default());
                false
            }
            Answer::Ok => true,
            Answer::Refused(refusal) => {
                refused = Some(refusal);
                true
            }
        })
        .map_err(io)?;
    match refused {
        None => Ok(true),
        Some(refusal) if refusal.errno == libc::ENOENT => Ok(false),
        Some(refusal) => Err(refusal.into_error(what)),
    }
}
