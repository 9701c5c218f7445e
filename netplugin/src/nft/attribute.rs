//! Netlink attributes as nf_tables wants them (pure): numbers big-endian, strings ended by a zero,
//! nests flagged as such. Knows no attribute by number.

use crate::netlink::align;

const NLA_F_NESTED: u16 = 0x8000;

pub(super) fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend(((value.len() + 4) as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(align(out.len()), 0);
}

pub(super) fn number(out: &mut Vec<u8>, kind: u16, value: u32) {
    attribute(out, kind, &value.to_be_bytes());
}

pub(super) fn string(out: &mut Vec<u8>, kind: u16, value: &str) {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    attribute(out, kind, &bytes);
}

pub(super) fn nested(out: &mut Vec<u8>, kind: u16, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 4]);
    body(out);
    let length = (out.len() - start) as u16;
    out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    out[start + 2..start + 4].copy_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
}

/// A nested attribute whose content is ready.
pub(super) fn list(out: &mut Vec<u8>, kind: u16, content: &[u8]) {
    attribute(out, kind | NLA_F_NESTED, content);
}
