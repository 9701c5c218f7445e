//! Messages of D-Bus as bytes (the specification's "Message Protocol"), as far as talking to systemd takes: method calls out;
//! replies, errors and signals in. Pure.
//!
//! Of our own, since the libraries there are bring an async runtime (zbus), a C library (dbus), or have rested for years
//! and bring second versions of crates that are here (rustbus).

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Call = 1,
    Reply = 2,
    Error = 3,
    Signal = 4,
}

/// Far more than systemd ever says to us.
pub(super) const MOST: usize = 1 << 20;

/// Before the header's fields: everything with a fixed place, their length included.
pub(super) const PREFIX: usize = 16;

/// What goes into a body, with its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Flag(bool),
    Number(u64),
    Numbers(Vec<u32>),
    Bytes(Vec<u8>),
}

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Value::Text(_) => "s",
            Value::Flag(_) => "b",
            Value::Number(_) => "t",
            Value::Numbers(_) => "au",
            Value::Bytes(_) => "ay",
        }
    }
}

/// A property of a unit.
pub(super) type Property = (&'static str, Value);

/// The body of a call, written field by field. Alignment is that from the body's beginning.
#[derive(Debug, Default)]
pub(super) struct Body {
    signature: String,
    bytes: Vec<u8>,
}

impl Body {
    pub(super) fn text(mut self, text: &str) -> Body {
        self.signature.push('s');
        put_text(&mut self.bytes, text);
        self
    }

    pub(super) fn flag(mut self, flag: bool) -> Body {
        self.signature.push('b');
        put_number(&mut self.bytes, flag.into());
        self
    }

    /// `a(sv)`
    pub(super) fn properties(mut self, properties: &[Property]) -> Body {
        self.signature.push_str("a(sv)");
        put_array(&mut self.bytes, 8, |bytes| {
            for (name, value) in properties {
                align(bytes, 8);
                put_text(bytes, name);
                put_signature(bytes, value.signature());
                put_value(bytes, value);
            }
        });
        self
    }

    /// An empty `a(sa(sv))`: no further units.
    pub(super) fn no_units(mut self) -> Body {
        self.signature.push_str("a(sa(sv))");
        put_array(&mut self.bytes, 8, |_| ());
        self
    }
}

fn align(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn put_number(bytes: &mut Vec<u8>, number: u32) {
    align(bytes, 4);
    bytes.extend(number.to_le_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_number(bytes, text.len() as u32);
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

fn put_signature(bytes: &mut Vec<u8>, signature: &str) {
    bytes.push(signature.len() as u8);
    bytes.extend(signature.as_bytes());
    bytes.push(0);
}

/// The length before it counts the elements, not what aligns the first.
fn put_array(bytes: &mut Vec<u8>, alignment: usize, elements: impl FnOnce(&mut Vec<u8>)) {
    put_number(bytes, 0);
    let length_at = bytes.len() - 4;
    align(bytes, alignment);
    let from = bytes.len();
    elements(bytes);
    let length = (bytes.len() - from) as u32;
    bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
}

fn put_value(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Text(text) => put_text(bytes, text),
        Value::Flag(flag) => put_number(bytes, (*flag).into()),
        Value::Number(number) => {
            align(bytes, 8);
            bytes.extend(number.to_le_bytes());
        }
        Value::Numbers(numbers) => put_array(bytes, 4, |bytes| {
            numbers.iter().for_each(|number| put_number(bytes, *number));
        }),
        Value::Bytes(content) => put_array(bytes, 1, |bytes| bytes.extend(content)),
    }
}

/// Where a call goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) name: &'static str,
    pub(super) path: &'static str,
    pub(super) interface: &'static str,
}

/// The bytes of a call. `direct`: to the peer itself, which has no name.
pub(super) fn call(serial: u32, to: Target, direct: bool, method: &str, body: &Body) -> Vec<u8> {
    let mut bytes = vec![b'l', Kind::Call as u8, 0, 1];
    put_number(&mut bytes, body.bytes.len() as u32);
    put_number(&mut bytes, serial);
    put_array(&mut bytes, 8, |bytes| {
        let mut field = |code: u8, signature: &str, text: &str| {
            align(bytes, 8);
            bytes.push(code);
            put_signature(bytes, signature);
            match signature {
                "g" => put_signature(bytes, text),
                _ => put_text(bytes, text),
            }
        };
        field(PATH, "o", to.path);
        field(INTERFACE, "s", to.interface);
        field(MEMBER, "s", method);
        if !direct {
            field(DESTINATION, "s", to.name);
        }
        if !body.signature.is_empty() {
            field(SIGNATURE, "g", &body.signature);
        }
    });
    align(&mut bytes, 8);
    bytes.extend(&body.bytes);
    bytes
}

// Codes of header fields.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A message that came.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: u8,
    pub(super) reply_to: u32,
    pub(super) member: String,
    pub(super) error: String,
    signature: String,
    body: Vec<u8>,
}

/// How long the message is whose first [`PREFIX`] bytes these are; `None` if it is none, or too long.
pub(super) fn length(prefix: &[u8; PREFIX]) -> Option<usize> {
    let number = |at: usize| prefix[at..at + 4].try_into().map(u32::from_le_bytes).ok();
    let (body, fields) = (number(4)? as usize, number(12)? as usize);
    let known = prefix[0] == b'l' && prefix[3] == 1 && body <= MOST && fields <= MOST;
    known.then(|| (PREFIX + fields).next_multiple_of(8) + body)
}

/// Takes a whole message apart; `None` if it is none.
pub(super) fn decode(bytes: &[u8]) -> Option<Message> {
    let prefix: &[u8; PREFIX] = bytes.get(..PREFIX)?.try_into().ok()?;
    if length(prefix)? != bytes.len() {
        return None;
    }
    let mut message = Message { kind: prefix[1], ..Message::default() };
    let end = PREFIX + u32::from_le_bytes(prefix[12..].try_into().ok()?) as usize;
    let mut fields = Reader { bytes: bytes.get(..end)?, at: PREFIX };
    while fields.at < end {
        fields.align(8)?;
        let code = fields.byte()?;
        match (code, fields.signature()?) {
            (REPLY_SERIAL, "u") => message.reply_to = fields.number()?,
            (MEMBER, "s") => message.member = fields.text()?,
            (ERROR_NAME, "s") => message.error = fields.text()?,
            (SIGNATURE, "g") => message.signature = fields.signature()?.to_owned(),
            (_, "s" | "o") => drop(fields.text()?),
            (_, "g") => drop(fields.signature()?),
            (_, "u") => drop(fields.number()?),
            _ => return None,
        }
    }
    message.body = bytes.get(end.next_multiple_of(8)..)?.to_owned();
    Some(message)
}

impl Message {
    /// The texts that a body of texts and numbers (or of one variant with a text) has.
    pub(super) fn texts(&self) -> Vec<String> {
        let mut reader = Reader { bytes: &self.body, at: 0 };
        let mut texts = Vec::new();
        for kind in self.signature.bytes() {
            let text = match kind {
                b's' | b'o' => reader.text(),
                b'v' => reader.signature().filter(|kind| *kind == "s").and_then(|_| reader.text()),
                b'u' | b'i' | b'b' if reader.number().is_some() => continue,
                _ => None,
            };
            match text {
                Some(text) => texts.push(text),
                None => break,
            }
        }
        texts
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn align(&mut self, to: usize) -> Option<()> {
        self.at = self.at.checked_next_multiple_of(to)?;
        (self.at <= self.bytes.len()).then_some(())
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Option<u32> {
        self.align(4)?;
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = self.number()? as usize;
        let text = String::from_utf8(self.take(length)?.to_owned()).ok()?;
        (self.byte()? == 0).then_some(text)
    }

    fn signature(&mut self) -> Option<&'a str> {
        let length = self.byte()? as usize;
        let text = std::str::from_utf8(self.take(length)?).ok()?;
        (self.byte()? == 0).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TARGET: Target = Target { name: "a.b", path: "/a", interface: "a.C" };

    #[test]
    fn a_call_is_as_the_specification_has_it() {
        let body = Body::default().text("x");
        let bytes = call(7, TARGET, true, "Do", &body);
        let mut wanted = b"l\x01\x00\x01\x06\0\0\0\x07\0\0\0\x37\0\0\0".to_vec();
        wanted.extend(b"\x01\x01o\0\x02\0\0\0/a\0\0\0\0\0\0");
        wanted.extend(b"\x02\x01s\0\x03\0\0\0a.C\0\0\0\0\0");
        wanted.extend(b"\x03\x01s\0\x02\0\0\0Do\0\0\0\0\0\0");
        wanted.extend(b"\x08\x01g\0\x01s\0\0\0");
        wanted.truncate(16 + 0x37);
        wanted.resize(wanted.len().next_multiple_of(8), 0);
        wanted.extend(b"\x01\0\0\0x\0");
        assert_eq!(bytes, wanted);
        assert_eq!(length(bytes[..PREFIX].try_into().unwrap()), Some(bytes.len()));
    }

    #[test]
    fn properties_are_aligned_pairs() {
        let properties =
            [("A", Value::Number(5)), ("B", Value::Bytes(vec![3])), ("C", Value::Numbers(vec![9]))];
        let body = Body::default().properties(&properties);
        let mut wanted = b"\x30\0\0\0\0\0\0\0".to_vec();
        wanted.extend(b"\x01\0\0\0A\0\x01t\0\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0");
        wanted.extend(b"\x01\0\0\0B\0\x02ay\0\0\0\x01\0\0\0\x03");
        assert_eq!(body.bytes[8..8 + 24 + 17], wanted[8..]);
        assert_eq!(body.signature, "a(sv)");
    }

    #[test]
    fn what_is_said_is_understood() {
        let body = Body::default().text("one").flag(true).text("two");
        let message = decode(&call(7, TARGET, false, "Do", &body)).unwrap();
        assert_eq!((message.kind, message.member.as_str()), (Kind::Call as u8, "Do"));
        assert_eq!(message.texts(), ["one", "two"]);
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            let _ = decode(&bytes).map(|message| message.texts());
            let mut real = call(7, TARGET, false, "Do", &Body::default().text("one"));
            bytes.truncate(8);
            for (at, byte) in bytes.iter().enumerate() {
                let at = (cut + at * 13) % real.len();
                real[at] = *byte;
            }
            let _ = decode(&real).map(|message| message.texts());
        }
    }
}
