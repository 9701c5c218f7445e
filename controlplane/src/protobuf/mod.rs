//! Request bodies in protobuf, which newer kubectl sends for what it makes up itself: decoded into the JSON that the
//! rest of the server reads. The field numbers are data, the types are the learnt ones, so there is no code per kind.
//! Bounded: nothing is copied more than once, depth is limited. Never encodes.

mod table;
mod wire;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::kinds::{Type, Types, types};
pub(crate) use table::always_there;
use table::{Entry, Message};
use wire::{Reader, Wire};

/// The media type of such bodies.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";
const MAX_DEPTH: usize = 64;

/// A body that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("decode protobuf: it does not begin with \"k8s\\0\"")]
    NoEnvelope,
    #[error("decode protobuf: no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind { api_version: String, kind: String },
    #[error("decode protobuf: {0}")]
    Malformed(&'static str),
}

type Decoded<T> = Result<T, DecodeError>;

/// The object in the envelope, with `apiVersion` and `kind`.
pub fn decode(bytes: &[u8]) -> Decoded<Value> {
    let bytes = bytes.strip_prefix(MAGIC).ok_or(DecodeError::NoEnvelope)?;
    let envelope = Envelope::read(bytes)?;
    if envelope.content_type == "application/json" {
        let wrong = |_| DecodeError::Malformed("the envelope's JSON is none");
        return serde_json::from_slice(envelope.raw).map_err(wrong);
    }
    let (api_version, kind) = (envelope.api_version, envelope.kind);
    let types = types();
    let root = root(types, api_version, kind).ok_or_else(|| DecodeError::UnknownKind {
        api_version: api_version.into(),
        kind: kind.into(),
    })?;
    let mut object = Decoder { types }.object(root, envelope.raw, MAX_DEPTH)?;
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

/// `runtime.Unknown`
#[derive(Default)]
struct Envelope<'b> {
    api_version: &'b str,
    kind: &'b str,
    raw: &'b [u8],
    content_type: &'b str,
}

impl<'b> Envelope<'b> {
    fn read(bytes: &'b [u8]) -> Decoded<Self> {
        let mut envelope = Self::default();
        let mut reader = Reader::new(bytes);
        while let Some((number, value)) = reader.field()? {
            match (number, value) {
                (1, Wire::Bytes(type_meta)) => {
                    let mut reader = Reader::new(type_meta);
                    while let Some((number, value)) = reader.field()? {
                        match (number, value) {
                            (1, Wire::Bytes(text)) => envelope.api_version = utf8(text)?,
                            (2, Wire::Bytes(text)) => envelope.kind = utf8(text)?,
                            _ => {}
                        }
                    }
                }
                (2, Wire::Bytes(raw)) => envelope.raw = raw,
                (4, Wire::Bytes(text)) => envelope.content_type = utf8(text)?,
                _ => {}
            }
        }
        Ok(envelope)
    }
}

fn utf8(bytes: &[u8]) -> Decoded<&str> {
    std::str::from_utf8(bytes).map_err(|_| DecodeError::Malformed("a string is not UTF-8"))
}

/// The struct of an apiVersion and kind; options may come with any version.
fn root(types: &Types, api_version: &str, kind: &str) -> Option<usize> {
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let group = group.split('.').next().unwrap_or(group);
    let ends = [format!(".{group}.{version}.{kind}"), format!(".meta.v1.{kind}")];
    ends.iter().find_map(|end| types.all().iter().position(|s| s.name.ends_with(end)))
}

struct Decoder<'t> {
    types: &'t Types,
}

impl Decoder<'_> {
    fn object(&self, index: usize, bytes: &[u8], depth: usize) -> Decoded<Map<String, Value>> {
        let name = &self.types.get(index).name;
        let message = table::message(name)
            .ok_or(DecodeError::Malformed("a message of this type is not known"))?;
        let mut object = Map::new();
        self.fields(index, message, bytes, &mut object, depth)?;
        Ok(object)
    }

    fn fields(
        &self,
        index: usize,
        message: &Message,
        bytes: &[u8],
        object: &mut Map<String, Value>,
        depth: usize,
    ) -> Decoded<()> {
        let depth = depth.checked_sub(1).ok_or(DecodeError::Malformed("it is nested too deep"))?;
        let def = self.types.get(index);
        let mut reader = Reader::new(bytes);
        while let Some((number, value)) = reader.field()? {
            match message.get(&number) {
                // Newer clients know more fields.
                None => {}
                Some(Entry::Inline(name)) => {
                    if let (Some(inner), Wire::Bytes(bytes)) =
                        (table::sibling(name, &def.name), value)
                    {
                        self.fields(index, inner, bytes, object, depth)?;
                    }
                }
                Some(Entry::Field { name, keeps_zero }) => {
                    let Some(ty) = def.field(name) else { continue };
                    self.put(object, name, *keeps_zero, (ty, value), depth)?;
                }
            }
        }
        Ok(())
    }

    fn put(
        &self,
        object: &mut Map<String, Value>,
        name: &str,
        keeps_zero: bool,
        (ty, wire): (&Type, Wire<'_>),
        depth: usize,
    ) -> Decoded<()> {
        match (ty, wire) {
            (Type::List(item), Wire::Bytes(bytes)) if is_number(item) => {
                let list = list_at(object, name);
                let mut reader = Reader::new(bytes);
                while !reader.is_empty() {
                    list.push(self.value(item, Wire::Varint(reader.varint()?), depth)?);
                }
            }
            (Type::List(item), wire) => {
                let value = self.value(item, wire, depth)?;
                list_at(object, name).push(value);
            }
            (Type::Map(item), Wire::Bytes(bytes)) => {
                let (key, value) = self.map_entry(item, bytes, depth)?;
                let slot = object.entry(name).or_insert_with(|| json!({}));
                if let Some(map) = slot.as_object_mut() {
                    map.insert(key, value);
                }
            }
            (ty, wire) => {
                let value = self.value(ty, wire, depth)?;
                if !value.is_null() && (keeps_zero || !is_zero(&value)) {
                    object.insert(name.into(), value);
                }
            }
        }
        Ok(())
    }

    fn map_entry(&self, item: &Type, bytes: &[u8], depth: usize) -> Decoded<(String, Value)> {
        let (mut key, mut value) = (String::new(), None);
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.field()? {
            match (number, wire, item) {
                (1, Wire::Bytes(text), _) => key = utf8(text)?.into(),
                // A map of lists holds messages with the list as their only field.
                (2, Wire::Bytes(bytes), Type::List(item)) => {
                    let mut list = Vec::new();
                    let mut reader = Reader::new(bytes);
                    while let Some((_, wire)) = reader.field()? {
                        list.push(self.value(item, wire, depth)?);
                    }
                    value = Some(Value::Array(list));
                }
                (2, wire, item) => value = Some(self.value(item, wire, depth)?),
                _ => {}
            }
        }
        let value = value.unwrap_or_else(|| match item {
            Type::List(_) => json!([]),
            Type::Struct(_) | Type::Map(_) => json!({}),
            Type::Int32 | Type::Int64 => json!(0),
            Type::Bool => json!(false),
            _ => json!(""),
        });
        Ok((key, value))
    }

    fn value(&self, ty: &Type, wire: Wire<'_>, depth: usize) -> Decoded<Value> {
        Ok(match (ty, wire) {
            (Type::Bool, Wire::Varint(n)) => (n != 0).into(),
            (Type::Int32, Wire::Varint(n)) => (n as i32).into(),
            (Type::Int64, Wire::Varint(n)) => (n as i64).into(),
            (Type::Double, Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
            (Type::String, Wire::Bytes(text)) => utf8(text)?.into(),
            (Type::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
            (Type::Struct(index), Wire::Bytes(bytes)) => {
                Value::Object(self.object(*index, bytes, depth)?)
            }
            (Type::Time, Wire::Bytes(bytes)) => time(bytes, false)?,
            (Type::MicroTime, Wire::Bytes(bytes)) => time(bytes, true)?,
            (Type::Quantity, Wire::Bytes(bytes)) => match first(bytes)? {
                Some(text) => utf8(text)?.into(),
                None => "0".into(),
            },
            (Type::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
            (Type::Any, Wire::Bytes(bytes)) => match first(bytes)? {
                Some(text) => serde_json::from_slice(text)
                    .map_err(|_| DecodeError::Malformed("embedded JSON is none"))?,
                None => Value::Null,
            },
            _ => return Err(DecodeError::Malformed("a field has another type")),
        })
    }
}

fn list_at<'o>(object: &'o mut Map<String, Value>, name: &str) -> &'o mut Vec<Value> {
    let slot = object.entry(name).or_insert_with(|| json!([]));
    if !slot.is_array() {
        *slot = json!([]);
    }
    // Just made sure of.
    slot.as_array_mut().unwrap_or_else(|| unreachable!("a list was put there"))
}

fn is_number(ty: &Type) -> bool {
    matches!(ty, Type::Int32 | Type::Int64 | Type::Bool)
}

/// What `omitempty` leaves out.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(n) => n.as_i64() == Some(0) || n.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// Field 1, when it is bytes.
fn first(bytes: &[u8]) -> Decoded<Option<&[u8]>> {
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.field()? {
        if let (1, Wire::Bytes(found)) = (number, wire) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Seconds and nanoseconds; null when it is the zero time.
fn time(bytes: &[u8], micro: bool) -> Decoded<Value> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.field()? {
        match (number, wire) {
            (1, Wire::Varint(n)) => seconds = n as i64,
            (2, Wire::Varint(n)) => nanos = n as i32,
            _ => {}
        }
    }
    let at = jiff::Timestamp::new(seconds, if micro { nanos } else { 0 })
        .map_err(|_| DecodeError::Malformed("a time is out of range"))?;
    Ok(if micro { format!("{at:.6}") } else { format!("{at:.0}") }.into())
}

fn int_or_string(bytes: &[u8]) -> Decoded<Value> {
    let (mut is_string, mut number, mut text) = (false, 0, "");
    let mut reader = Reader::new(bytes);
    while let Some((field, wire)) = reader.field()? {
        match (field, wire) {
            (1, Wire::Varint(n)) => is_string = n == 1,
            (2, Wire::Varint(n)) => number = n as i32,
            (3, Wire::Bytes(bytes)) => text = utf8(bytes)?,
            _ => {}
        }
    }
    Ok(if is_string { text.into() } else { number.into() })
}

#[cfg(test)]
mod tests;
