//! The API types as data: which struct has which fields of which type.
//!
//! Learned once from the typed structs by driving their `Deserialize` with a deserializer that records what it is
//! asked for, so that decoding, strategic merge and OpenAPI need neither code per kind nor a table to keep in step.
//! Knows nothing of values or of single kinds.

use std::any::type_name;
use std::collections::HashMap;
use std::sync::OnceLock;

use serde::de::value::{Error, StrDeserializer, UnitDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};

use super::ownership::Topology;

/// The type of one field.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// Anything at all: raw extensions, managed fields.
    Any,
    Bool,
    Int32,
    Int64,
    Double,
    String,
    /// Base64 in JSON.
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    List(Box<Type>),
    /// String keys.
    Map(Box<Type>),
    /// Index into [`Types`].
    Struct(usize),
}

#[derive(Debug)]
pub struct Field {
    pub name: &'static str,
    pub ty: Type,
    pub topology: Topology,
    /// A struct or list that upstream's objects always have, if only empty.
    pub always: bool,
}

impl Field {
    fn new(name: &'static str, ty: Type) -> Self {
        Self { name, ty, topology: Topology::Plain, always: false }
    }
}

#[derive(Debug, Default)]
pub struct Struct {
    /// `io.k8s.api.core.v1.PodSpec`
    pub name: String,
    /// In the order of the API definition.
    pub fields: Vec<Field>,
    /// Owned as one value.
    pub atomic: bool,
}

impl Struct {
    pub fn field(&self, name: &str) -> Option<&Type> {
        self.fields.iter().find(|f| f.name == name).map(|f| &f.ty)
    }

    /// `PodSpec`
    pub fn short(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }
}

/// All structs that were reached.
#[derive(Debug, Default)]
pub struct Types {
    structs: Vec<Struct>,
    by_rust_name: HashMap<&'static str, usize>,
}

impl Types {
    /// Learn `T` and everything it contains.
    pub fn learn<T: DeserializeOwned>(&mut self) -> Type {
        let mut out = Type::Any;
        let learnt = T::deserialize(Tracer { types: self, out: &mut out });
        // What is half learnt would be refused as unknown by the decoder.
        debug_assert!(learnt.is_ok(), "learn {}: {:?}", type_name::<T>(), learnt.err());
        out
    }

    pub fn get(&self, index: usize) -> &Struct {
        &self.structs[index]
    }

    pub(super) fn get_mut(&mut self, index: usize) -> &mut Struct {
        &mut self.structs[index]
    }

    pub fn find<T>(&self) -> Option<usize> {
        self.by_rust_name.get(type_name::<T>()).copied()
    }

    pub fn all(&self) -> &[Struct] {
        &self.structs
    }
}

/// The types of all served kinds.
pub fn types() -> &'static Types {
    static TYPES: OnceLock<Types> = OnceLock::new();
    TYPES.get_or_init(|| {
        let mut types = Types::default();
        for kind in super::all() {
            kind.strategy.learn(&mut types);
        }
        super::subresource::learn(&mut types);
        super::ownership::annotate(&mut types);
        types
    })
}

/// `k8s_openapi::v1_33::api::core::v1::pod_spec::PodSpec` → `io.k8s.api.core.v1.PodSpec`
fn component_name(rust: &str) -> String {
    let mut parts: Vec<&str> = rust.split("::").skip(1).collect();
    if parts.first().is_some_and(|p| p.starts_with("v1_")) {
        parts.remove(0);
    }
    if parts.len() > 2 {
        parts.remove(parts.len() - 2);
    }
    format!("io.k8s.{}", parts.join("."))
}

struct Tracer<'t> {
    types: &'t mut Types,
    out: &'t mut Type,
}

/// What a leaf was asked for, and the value it is satisfied with.
macro_rules! leaf {
    ($($method:ident => $ty:expr, $visit:ident($($value:expr)?);)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            *self.out = $ty;
            visitor.$visit($($value)?)
        }
    )*};
}

impl<'de> serde::Deserializer<'de> for Tracer<'_> {
    type Error = Error;

    leaf! {
        deserialize_bool => Type::Bool, visit_bool(false);
        deserialize_i8 => Type::Int32, visit_i8(0);
        deserialize_i16 => Type::Int32, visit_i16(0);
        deserialize_i32 => Type::Int32, visit_i32(0);
        deserialize_i64 => Type::Int64, visit_i64(0);
        deserialize_u8 => Type::Int32, visit_u8(0);
        deserialize_u16 => Type::Int32, visit_u16(0);
        deserialize_u32 => Type::Int64, visit_u32(0);
        deserialize_u64 => Type::Int64, visit_u64(0);
        deserialize_f32 => Type::Double, visit_f32(0.0);
        deserialize_f64 => Type::Double, visit_f64(0.0);
        deserialize_str => Type::String, visit_str("");
        deserialize_string => Type::String, visit_str("");
        deserialize_bytes => Type::Bytes, visit_bytes(&[]);
        deserialize_byte_buf => Type::Bytes, visit_bytes(&[]);
        deserialize_unit => Type::Any, visit_unit();
        deserialize_identifier => Type::String, visit_str("");
        deserialize_ignored_any => Type::Any, visit_unit();
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if type_name::<V::Value>().ends_with("::IntOrString") {
            *self.out = Type::IntOrString;
            return visitor.visit_i64(0);
        }
        *self.out = Type::Any;
        visitor.visit_unit()
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if type_name::<V::Value>().ends_with("::ByteString") {
            *self.out = Type::Bytes;
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let (ty, sample) = match name {
            "Time" => (Type::Time, "1970-01-01T00:00:00Z"),
            "MicroTime" => (Type::MicroTime, "1970-01-01T00:00:00.000000Z"),
            "Quantity" => (Type::Quantity, "0"),
            "RawExtension" | "FieldsV1" | "JSON" => {
                *self.out = Type::Any;
                return visitor.visit_newtype_struct(UnitDeserializer::new());
            }
            _ => return visitor.visit_newtype_struct(self),
        };
        *self.out = ty;
        visitor.visit_newtype_struct(StrDeserializer::new(sample))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut item = Type::Any;
        let value = visitor.visit_seq(One { types: self.types, out: &mut item, left: true })?;
        *self.out = Type::List(Box::new(item));
        Ok(value)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut item = Type::Any;
        let value = visitor.visit_map(One { types: self.types, out: &mut item, left: true })?;
        *self.out = Type::Map(Box::new(item));
        Ok(value)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let rust = type_name::<V::Value>();
        if let Some(index) = self.types.by_rust_name.get(rust) {
            *self.out = Type::Struct(*index);
            // Times have no default value: a struct cannot be made without those that it requires.
            let fields = self.types.structs[*index].fields.iter();
            let times: Vec<&'static str> = fields
                .filter(|field| matches!(field.ty, Type::Time | Type::MicroTime))
                .map(|field| field.name)
                .collect();
            let (left, name, types) = (times.iter(), "", self.types);
            return visitor.visit_map(Fields { types, left, name, learnt: &mut Vec::new() });
        }
        let index = self.types.structs.len();
        self.types.by_rust_name.insert(rust, index);
        self.types.structs.push(Struct { name: component_name(rust), ..Struct::default() });
        *self.out = Type::Struct(index);
        let mut learnt = Vec::with_capacity(fields.len());
        let value = visitor.visit_map(Fields {
            types: self.types,
            left: fields.iter(),
            name: "",
            learnt: &mut learnt,
        });
        self.types.structs[index].fields = learnt;
        value
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }
}

/// Asks for each field of a struct once.
struct Fields<'t> {
    types: &'t mut Types,
    left: std::slice::Iter<'t, &'static str>,
    name: &'static str,
    learnt: &'t mut Vec<Field>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        for name in self.left.by_ref() {
            // The typed structs compare these two with constants; they are strings everywhere.
            if matches!(*name, "apiVersion" | "kind") {
                self.learnt.push(Field::new(name, Type::String));
                continue;
            }
            self.name = name;
            let key: StrDeserializer<'_, Error> = (*name).into_deserializer();
            return seed.deserialize(key).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let mut ty = Type::Any;
        let value = seed.deserialize(Tracer { types: self.types, out: &mut ty })?;
        self.learnt.push(Field::new(self.name, ty));
        Ok(value)
    }
}

/// A list or a map with a single entry.
struct One<'t> {
    types: &'t mut Types,
    out: &'t mut Type,
    left: bool,
}

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        if !std::mem::take(&mut self.left) {
            return Ok(None);
        }
        seed.deserialize(Tracer { types: self.types, out: self.out }).map(Some)
    }
}

impl<'de> MapAccess<'de> for One<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        if !std::mem::take(&mut self.left) {
            return Ok(None);
        }
        let key: StrDeserializer<'_, Error> = "".into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(Tracer { types: self.types, out: self.out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::Deployment;

    fn walk<'t>(types: &'t Types, root: usize, path: &str) -> &'t Type {
        let (first, rest) = path.split_once('.').unwrap_or((path, ""));
        let mut ty = types.get(root).field(first).unwrap_or_else(|| panic!("no {first}"));
        while let Type::List(item) | Type::Map(item) = ty
            && !rest.is_empty()
        {
            ty = item;
        }
        match ty {
            Type::Struct(index) if !rest.is_empty() => walk(types, *index, rest),
            ty => ty,
        }
    }

    #[test]
    fn learns_a_deployment_down_to_the_leaves() {
        let mut types = Types::default();
        let Type::Struct(root) = types.learn::<Deployment>() else { panic!() };
        assert_eq!(types.get(root).name, "io.k8s.api.apps.v1.Deployment");
        let at = |path| walk(&types, root, path);
        assert_eq!(*at("spec.replicas"), Type::Int32);
        assert_eq!(*at("metadata.creationTimestamp"), Type::Time);
        assert_eq!(*at("metadata.labels"), Type::Map(Box::new(Type::String)));
        assert_eq!(*at("spec.strategy.rollingUpdate.maxSurge"), Type::IntOrString);
        assert_eq!(
            *at("spec.template.spec.containers.resources.limits"),
            Type::Map(Box::new(Type::Quantity))
        );
        assert_eq!(
            *at("spec.template.spec.containers.command"),
            Type::List(Box::new(Type::String))
        );
        assert_eq!(*at("spec.template.spec.hostNetwork"), Type::Bool);
        let Type::List(container) = at("spec.template.spec.containers") else { panic!() };
        let Type::Struct(container) = **container else { panic!() };
        assert_eq!(types.get(container).name, "io.k8s.api.core.v1.Container");
        let Type::Struct(meta) = *at("metadata") else { panic!() };
        assert_eq!(types.get(meta).name, "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
        assert_eq!(*at("metadata.managedFields.fieldsV1"), Type::Any);
    }
}
