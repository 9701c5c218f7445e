//! Checks a JSON tree against the API types: wrong types are refused, unknown fields reported and dropped, nulls
//! dropped. Words everything as upstream's decoder does. Never fills anything in.

use base64::engine::general_purpose::STANDARD;
use base64::{DecodeError, Engine};
use http::StatusCode;
use serde_json::{Map, Value};

use super::FieldValidation;
use super::quantity::Quantity;
use super::schema::{self, Type, Types};
use crate::status::ApiError;

/// Upstream stops counting here, too.
const MAX_REPORTED: usize = 100;

/// Check `value` as a `T`; the strings are warnings.
pub fn check<T: k8s_openapi::Resource>(
    value: &mut Value,
    level: FieldValidation,
) -> Result<Vec<String>, ApiError> {
    let types = schema::types();
    let Some(root) = types.find::<T>() else { return Ok(Vec::new()) };
    check_struct(types, root, (T::KIND, T::VERSION), value, level)
}

/// The same for a type given by its place in [`Types`].
pub(crate) fn check_struct(
    types: &Types,
    root: usize,
    (kind, version): (&str, &str),
    value: &mut Value,
    level: FieldValidation,
) -> Result<Vec<String>, ApiError> {
    let refuse = |why: String| {
        let text = format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}");
        ApiError::new(StatusCode::BAD_REQUEST, "BadRequest", text)
    };
    let mut walk = Walk { types, path: Vec::new(), unknown: Vec::new() };
    walk.check(value, &Type::Struct(root), "").map_err(refuse)?;
    let unknown: Vec<String> =
        walk.unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
    match level {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(unknown),
        FieldValidation::Strict if unknown.is_empty() => Ok(unknown),
        FieldValidation::Strict => {
            Err(refuse(format!("strict decoding error: {}", unknown.join(", "))))
        }
    }
}

enum Step {
    Field(String),
    Index(usize),
}

struct Walk<'t> {
    types: &'t Types,
    path: Vec<Step>,
    unknown: Vec<String>,
}

impl Walk<'_> {
    /// `owner` is the struct that the value is a field of.
    fn check(&mut self, value: &mut Value, ty: &Type, owner: &str) -> Result<(), String> {
        match (ty, &mut *value) {
            (Type::Any, _)
            | (Type::Bool, Value::Bool(_))
            | (Type::String, Value::String(_))
            | (Type::Double, Value::Number(_)) => Ok(()),
            (Type::Int32, Value::Number(n)) => {
                let fits = n.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
                if fits { Ok(()) } else { Err(self.mismatch(value, ty, owner)) }
            }
            (Type::Int64, Value::Number(n)) if n.is_i64() => Ok(()),
            (Type::IntOrString, Value::String(_)) => Ok(()),
            (Type::IntOrString, Value::Number(n)) => {
                let fits = n.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
                if fits { Ok(()) } else { Err(self.mismatch(value, &Type::Int32, owner)) }
            }
            (Type::Quantity, Value::String(_) | Value::Number(_)) => canonical_quantity(value),
            (Type::Bytes, Value::String(text)) => canonical_base64(text),
            (Type::Time | Type::MicroTime, Value::String(text)) => time_ok(text),
            (Type::List(item), Value::Array(items)) => self.list(items, item, owner),
            (Type::Map(item), Value::Object(map)) => self.map(map, item, owner),
            (Type::Struct(index), Value::Object(map)) => self.fields(map, *index),
            _ => Err(self.mismatch(value, ty, owner)),
        }
    }

    fn list(&mut self, items: &mut [Value], item: &Type, owner: &str) -> Result<(), String> {
        for (index, value) in items.iter_mut().enumerate() {
            if value.is_null() {
                // A null in a list is the zero value, as for upstream's decoder.
                *value = zero(item);
                continue;
            }
            self.path.push(Step::Index(index));
            self.check(value, item, owner)?;
            self.path.pop();
        }
        Ok(())
    }

    fn map(
        &mut self,
        map: &mut Map<String, Value>,
        item: &Type,
        owner: &str,
    ) -> Result<(), String> {
        for (key, value) in map.iter_mut() {
            if value.is_null() {
                *value = zero(item);
                continue;
            }
            self.path.push(Step::Field(key.clone()));
            self.check(value, item, owner)?;
            self.path.pop();
        }
        Ok(())
    }

    fn fields(&mut self, map: &mut Map<String, Value>, index: usize) -> Result<(), String> {
        let types = self.types;
        let def = types.get(index);
        let mut dropped = Vec::new();
        for (key, value) in map.iter_mut() {
            self.path.push(Step::Field(key.clone()));
            match def.field(key) {
                None => {
                    if self.unknown.len() < MAX_REPORTED {
                        self.unknown.push(self.place(true));
                    }
                    dropped.push(key.clone());
                }
                Some(_) if value.is_null() => dropped.push(key.clone()),
                Some(ty) => self.check(value, ty, def.short())?,
            }
            self.path.pop();
        }
        for key in dropped {
            map.remove(&key);
        }
        Ok(())
    }

    fn place(&self, with_index: bool) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Field(name) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(name);
                }
                Step::Index(index) if with_index => text.push_str(&format!("[{index}]")),
                Step::Index(_) => {}
            }
        }
        text
    }

    fn mismatch(&self, value: &Value, ty: &Type, owner: &str) -> String {
        let found = match value {
            Value::Null => "null".into(),
            Value::Bool(_) => "bool".into(),
            Value::Number(n) => match ty {
                Type::Int32 | Type::Int64 => format!("number {n}"),
                _ => "number".to_owned(),
            },
            Value::String(_) => "string".into(),
            Value::Array(_) => "array".into(),
            Value::Object(_) => "object".to_owned(),
        };
        let wanted = self.go_type(ty);
        if self.path.is_empty() {
            return format!("json: cannot unmarshal {found} into Go value of type {wanted}");
        }
        let place = self.place(false);
        format!(
            "json: cannot unmarshal {found} into Go struct field {owner}.{place} of type {wanted}"
        )
    }

    /// The type's name as it stands in upstream's messages.
    fn go_type(&self, ty: &Type) -> String {
        match ty {
            Type::Any => "runtime.RawExtension".into(),
            Type::Bool => "bool".into(),
            Type::Int32 => "int32".into(),
            Type::Int64 => "int64".into(),
            Type::Double => "float64".into(),
            Type::String => "string".into(),
            Type::Bytes => "[]uint8".into(),
            Type::Time | Type::MicroTime => "time.Time".into(),
            Type::Quantity => "resource.Quantity".into(),
            Type::IntOrString => "intstr.IntOrString".into(),
            Type::List(item) => format!("[]{}", self.go_type(item)),
            Type::Map(item) => format!("map[string]{}", self.go_type(item)),
            Type::Struct(index) => {
                let mut parts = self.types.get(*index).name.rsplit('.');
                let name = parts.next().unwrap_or_default();
                format!("{}.{name}", parts.next().unwrap_or_default())
            }
        }
    }
}

fn zero(ty: &Type) -> Value {
    match ty {
        Type::Any => Value::Null,
        Type::Bool => false.into(),
        Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => 0.into(),
        Type::Quantity => "0".into(),
        Type::String | Type::Bytes => "".into(),
        Type::Time | Type::MicroTime => "1970-01-01T00:00:00Z".into(),
        Type::List(_) => Value::Array(Vec::new()),
        Type::Map(_) | Type::Struct(_) => Value::Object(Map::new()),
    }
}

fn time_ok(text: &str) -> Result<(), String> {
    match text.parse::<jiff::Timestamp>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!(
            "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
        )),
    }
}

fn canonical_quantity(value: &mut Value) -> Result<(), String> {
    let parsed = match &*value {
        Value::String(text) => Quantity::parse(text),
        other => Quantity::parse(&other.to_string()),
    };
    *value = parsed.map_err(|why| why.to_string())?.to_string().into();
    Ok(())
}

/// Standard base64 with padding; line breaks are taken out, as upstream's decoder skips them.
fn canonical_base64(text: &mut String) -> Result<(), String> {
    text.retain(|c| !matches!(c, '\r' | '\n'));
    let at = match STANDARD.decode(&*text) {
        Ok(_) => return Ok(()),
        Err(DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _)) => at,
        Err(_) => text.len(),
    };
    Err(format!("illegal base64 data at input byte {at}"))
}
