//! Bytes of nf_tables messages (pure). Numbers that the kernel reads are big-endian except where
//! it says otherwise; packet data and keys are as they are in the packet or register. Attribute
//! numbers are those of the kernel's `nf_tables.h`, in the order of its enumerations.

use super::attribute::{attribute, list, nested, number, string};
use super::expression::{expr, verdict};
use super::model::{Chain, Data, Holds, Rule, Set, Type, Verdict};
use crate::netlink::HEADER;

/// `NFNL_SUBSYS_NFTABLES`, in the upper byte of every message type.
pub(super) const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
pub(super) const FAMILY_IPV4: u8 = 2;

const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_ACK: u16 = 4;
pub(super) const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

const NFT_DATA_VERDICT: u32 = 0xffff_ff00;
const NFT_SET_INTERVAL: u32 = 4;
const NFT_SET_MAP: u32 = 8;
const NFT_SET_TIMEOUT: u32 = 0x10;
const NFT_SET_EVAL: u32 = 0x20;
const NFT_SET_CONCAT: u32 = 0x80;

/// A nested attribute's length has sixteen bits; stay well below.
const ELEMENTS_PER_MESSAGE: usize = 48 * 1024;

#[derive(Debug, Clone, Copy)]
#[repr(u16)]
enum Kind {
    NewTable = 0,
    GetTable = 1,
    DeleteTable = 2,
    NewChain = 3,
    GetChain = 4,
    NewRule = 6,
    GetRule = 7,
    NewSet = 9,
    GetSet = 10,
    NewElement = 12,
    GetElement = 13,
    DeleteElement = 14,
}

/// Key and value of one element, ready for the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    /// The last key of a range.
    pub(crate) end: Option<Vec<u8>>,
    pub(crate) value: Option<Value>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Bytes(Vec<u8>),
    Verdict(Verdict),
}

/// A transaction under construction. Remembers what each message was about.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    table: &'static str,
    what: Vec<String>,
    last_header: usize,
}

impl Batch {
    /// Starts a transaction about `table`. Sequence numbers count from zero.
    pub(crate) fn new(table: &'static str) -> Batch {
        let mut batch = Batch { bytes: Vec::new(), table, what: Vec::new(), last_header: 0 };
        batch.message(BATCH_BEGIN, 0, 0, SUBSYSTEM, "begin a transaction".into(), |_| {});
        batch
    }

    /// The finished bytes, and what each message (by sequence number) was about.
    pub(crate) fn finish(mut self) -> (Vec<u8>, Vec<String>) {
        // One acknowledgement, for the last request, says that all is committed.
        let at = self.last_header + 6;
        let flags = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]) | NLM_F_ACK;
        self.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
        self.message(BATCH_END, 0, 0, SUBSYSTEM, "commit".into(), |_| {});
        (self.bytes, self.what)
    }

    /// `note` is shown by `nft list` as the table's comment.
    pub(crate) fn create_table(&mut self, note: &str) {
        self.make_table(note, NLM_F_CREATE);
    }

    /// As [`Batch::create_table`]; the transaction is refused if the table exists.
    pub(crate) fn create_new_table(&mut self, note: &str) {
        self.make_table(note, NLM_F_CREATE | NLM_F_EXCL);
    }

    fn make_table(&mut self, note: &str, flags: u16) {
        let what = format!("create table {}", self.table);
        self.request(Kind::NewTable, flags, what, |out, table| {
            string(out, 1, table);
            attribute(out, 6, &comment(note));
        });
    }

    pub(crate) fn delete_table(&mut self) {
        let what = format!("delete table {}", self.table);
        self.request(Kind::DeleteTable, 0, what, |out, table| string(out, 1, table));
    }

    pub(crate) fn create_chain(&mut self, chain: &Chain) {
        let what = format!("create chain {}", chain.name);
        self.request(Kind::NewChain, NLM_F_CREATE, what, |out, table| {
            string(out, 1, table);
            string(out, 3, &chain.name);
            let Some(hook) = chain.hook else { return };
            nested(out, 4, |out| {
                number(out, 1, hook.point as u32);
                number(out, 2, hook.priority as u32);
            });
            const ACCEPT: u32 = 1;
            number(out, 5, ACCEPT);
            string(out, 7, hook.kind);
        });
    }

    pub(crate) fn append_rule(&mut self, chain: &str, rule: &Rule) {
        let what = format!("add a rule to chain {chain}");
        self.request(Kind::NewRule, NLM_F_CREATE | NLM_F_APPEND, what, |out, table| {
            string(out, 1, table);
            string(out, 2, chain);
            nested(out, 4, |out| {
                for expression in &rule.expressions {
                    nested(out, 1, |out| expr(out, expression));
                }
            });
            if !rule.comment.is_empty() {
                attribute(out, 7, &comment(rule.comment));
            }
        });
    }

    pub(crate) fn create_set(&mut self, set: &Set) {
        let what = format!("create set {}", set.name);
        let id = self.what.len() as u32;
        self.request(Kind::NewSet, NLM_F_CREATE, what, |out, table| {
            string(out, 1, table);
            string(out, 2, set.name);
            number(out, 3, flags(set));
            number(out, 4, concatenation(set.key));
            number(out, 5, width(set.key));
            match set.data {
                Some(Data::Value(types)) => {
                    number(out, 6, concatenation(types));
                    number(out, 7, width(types));
                }
                Some(Data::Verdict) => number(out, 6, NFT_DATA_VERDICT),
                None => {}
            }
            match set.holds {
                Holds::Values => {}
                Holds::Ranges => nested(out, 9, |out| nested(out, 2, |out| fields(out, set.key))),
                Holds::Visitors { most } => nested(out, 9, |out| number(out, 1, most)),
            }
            number(out, 10, id);
            attribute(out, 13, &byte_orders(set));
        });
    }

    pub(crate) fn add_elements(&mut self, set: &'static str, elements: &[Element]) {
        self.elements(Kind::NewElement, NLM_F_CREATE, "add elements to", set, elements);
    }

    pub(crate) fn delete_elements(&mut self, set: &'static str, elements: &[Element]) {
        self.elements(Kind::DeleteElement, 0, "delete elements of", set, elements);
    }

    fn elements(
        &mut self,
        kind: Kind,
        flags: u16,
        verb: &str,
        set: &'static str,
        elements: &[Element],
    ) {
        let mut rest = elements;
        while !rest.is_empty() {
            let mut elements = Vec::new();
            let mut count = 0;
            while count < rest.len() && elements.len() < ELEMENTS_PER_MESSAGE {
                nested(&mut elements, 1, |out| element(out, &rest[count]));
                count += 1;
            }
            rest = &rest[count..];
            self.request(kind, flags, format!("{verb} set {set}"), |out, table| {
                string(out, 1, table);
                string(out, 2, set);
                list(out, 3, &elements);
            });
        }
    }

    fn request(
        &mut self,
        kind: Kind,
        flags: u16,
        what: String,
        body: impl FnOnce(&mut Vec<u8>, &str),
    ) {
        let table = self.table;
        let kind = SUBSYSTEM << 8 | kind as u16;
        self.message(kind, flags, FAMILY_IPV4, 0, what, |out| body(out, table));
    }

    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        what: String,
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        self.last_header = self.bytes.len();
        let sequence = self.what.len() as u32;
        message(&mut self.bytes, kind, flags, sequence, family, resource, body);
        self.what.push(what);
    }
}

/// What can be asked about a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    Table,
    /// Of all tables; the answers name theirs.
    Chains,
    Rules,
    Sets,
    Elements(&'static str),
}

/// A question about table `name`.
pub(crate) fn question(name: &str, question: Question, sequence: u32) -> Vec<u8> {
    let (kind, flags) = match question {
        Question::Table => (Kind::GetTable, NLM_F_ACK),
        Question::Chains => (Kind::GetChain, NLM_F_DUMP),
        Question::Rules => (Kind::GetRule, NLM_F_DUMP),
        Question::Sets => (Kind::GetSet, NLM_F_DUMP),
        Question::Elements(_) => (Kind::GetElement, NLM_F_DUMP),
    };
    let mut out = Vec::new();
    message(&mut out, SUBSYSTEM << 8 | kind as u16, flags, sequence, FAMILY_IPV4, 0, |out| {
        string(out, 1, name);
        if let Question::Elements(set) = question {
            string(out, 2, set);
        }
    });
    out
}

pub(super) fn message(
    out: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
    body: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend([0; 4]);
    out.extend(kind.to_ne_bytes());
    out.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend(0u32.to_ne_bytes());
    debug_assert_eq!(out.len() - start, HEADER);
    out.extend([family, 0]);
    out.extend(resource.to_be_bytes());
    body(out);
    let length = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

fn element(out: &mut Vec<u8>, element: &Element) {
    nested(out, 1, |out| attribute(out, 1, &element.key));
    if let Some(end) = &element.end {
        nested(out, 10, |out| attribute(out, 1, end));
    }
    match &element.value {
        Some(Value::Bytes(bytes)) => nested(out, 2, |out| attribute(out, 1, bytes)),
        Some(Value::Verdict(value)) => nested(out, 2, |out| verdict(out, value)),
        None => {}
    }
}

fn flags(set: &Set) -> u32 {
    let map = if set.data.is_some() { NFT_SET_MAP } else { 0 };
    map | match set.holds {
        Holds::Values => 0,
        Holds::Ranges => NFT_SET_INTERVAL | NFT_SET_CONCAT,
        Holds::Visitors { .. } => NFT_SET_TIMEOUT | NFT_SET_EVAL,
    }
}

/// The widths of a concatenation's parts.
fn fields(out: &mut Vec<u8>, types: &[Type]) {
    for one in types {
        nested(out, 1, |out| number(out, 1, width(&[*one])));
    }
}

/// What `nft` stores to know how to print keys and values that are not concatenations.
fn byte_orders(set: &Set) -> Vec<u8> {
    let mut out = entry(0, &byte_order(set.key).to_ne_bytes());
    if let Some(Data::Value(types)) = set.data {
        out.extend(entry(1, &byte_order(types).to_ne_bytes()));
    }
    out
}

fn byte_order(types: &[Type]) -> u32 {
    const MIXED: u32 = 0;
    const HOST: u32 = 1;
    const BIG_ENDIAN: u32 = 2;
    match types {
        [Type::Mark] => HOST,
        [_] => BIG_ENDIAN,
        _ => MIXED,
    }
}

/// What `nft` stores for `comment "…"`.
fn comment(text: &str) -> Vec<u8> {
    let mut value = text.as_bytes().to_vec();
    value.push(0);
    entry(0, &value)
}

/// One entry of user data, which is `nft`'s own: the kernel only keeps it.
fn entry(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, value.len() as u8];
    out.extend(value);
    out
}

/// `nft` packs the types of a concatenation into one number, six bits each.
fn concatenation(types: &[Type]) -> u32 {
    types.iter().fold(0, |packed, one| packed << 6 | *one as u32)
}

/// Bytes of a key: every part takes whole registers, a single part its own width.
fn width(types: &[Type]) -> u32 {
    match types {
        [Type::Protocol] => 1,
        [Type::Port] => 2,
        _ => 4 * types.len() as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{align, attributes};

    /// Splits a batch into (message type, flags, body).
    fn messages(mut bytes: &[u8]) -> Vec<(u16, u16, &[u8])> {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let length = u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize;
            let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
            out.push((half(4), half(6), &bytes[HEADER + 4..length]));
            assert_eq!(length, align(length));
            bytes = &bytes[length..];
        }
        out
    }

    #[test]
    fn a_batch_is_framed_and_asks_for_one_acknowledgement() {
        let mut batch = Batch::new("t");
        batch.create_table("");
        batch.delete_table();
        let (bytes, what) = batch.finish();
        let messages = messages(&bytes);
        let kinds: Vec<_> = messages.iter().map(|m| m.0).collect();
        assert_eq!(kinds, [BATCH_BEGIN, 0xa00, 0xa02, BATCH_END]);
        assert_eq!(what, ["begin a transaction", "create table t", "delete table t", "commit"]);
        let acknowledged: Vec<_> = messages.iter().map(|m| m.1 & NLM_F_ACK != 0).collect();
        assert_eq!(acknowledged, [false, false, true, false]);
    }

    #[test]
    fn many_elements_are_split_and_none_is_lost() {
        let elements: Vec<_> = (0..5000u32)
            .map(|n| Element { key: n.to_be_bytes().to_vec(), end: None, value: None })
            .collect();
        let mut batch = Batch::new("t");
        batch.add_elements("s", &elements);
        let (bytes, _) = batch.finish();
        let mut keys = Vec::new();
        let messages = messages(&bytes);
        for (_, _, body) in &messages[1..messages.len() - 1] {
            let (_, list) = attributes(body).find(|(kind, _)| *kind == 3).unwrap();
            for (_, one) in attributes(list) {
                let (_, key) = attributes(one).next().unwrap();
                keys.push(attributes(key).next().unwrap().1.to_vec());
            }
        }
        assert!(messages.len() > 3);
        assert_eq!(keys, elements.into_iter().map(|e| e.key).collect::<Vec<_>>());
    }

    #[test]
    fn types_are_packed_as_nft_does() {
        assert_eq!(concatenation(&[Type::Address, Type::Protocol, Type::Port]), 29453);
        assert_eq!(width(&[Type::Address, Type::Protocol, Type::Port]), 12);
        assert_eq!(width(&[Type::Port]), 2);
    }
}
