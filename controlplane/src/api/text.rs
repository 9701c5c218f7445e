//! JSON and YAML texts as values, with the paths of fields that stand twice in an object: the last one counts, and
//! who wrote it may want to know. Pure; depth is bounded by the parsers.

use std::cell::RefCell;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::options::DuplicateKeyPolicy;

use crate::kinds::{self, Type};

/// Upstream stops counting here, too.
const MAX_REPORTED: usize = 100;

/// A value and what stood twice in it: `spec.ports[0].port`.
pub(crate) type Read = (Value, Vec<String>);

pub(crate) fn json(bytes: &[u8]) -> Result<Read, serde_json::Error> {
    let twice = RefCell::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Seed { twice: &twice, place: Place::Root }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, twice.into_inner()))
}

/// Plain `yes`, `on`, `y` … are texts, except where the kind that the text names has a boolean.
pub(crate) fn yaml(text: &str) -> Result<Read, serde_saphyr::Error> {
    let twice = RefCell::default();
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
    };
    let mut value =
        serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
            Seed { twice: &twice, place: Place::Root }.deserialize(deserializer)
        })?;
    let name = |key: &str| value[key].as_str().unwrap_or_default();
    let root = kinds::find_kind(name("apiVersion"), name("kind")).and_then(|k| k.strategy.root());
    if let Some(root) = root {
        booleans(&mut value, &Type::Struct(root));
    }
    Ok((value, twice.into_inner()))
}

/// YAML 1.1 has more words for true and false.
fn booleans(value: &mut Value, ty: &Type) {
    match (ty, value) {
        (Type::Struct(index), Value::Object(map)) => {
            let def = kinds::types().get(*index);
            for (key, value) in map {
                if let Some(ty) = def.field(key) {
                    booleans(value, ty);
                }
            }
        }
        (Type::Map(item), Value::Object(map)) => map.values_mut().for_each(|v| booleans(v, item)),
        (Type::List(item), Value::Array(items)) => items.iter_mut().for_each(|v| booleans(v, item)),
        (Type::Bool, value) => {
            let word = value.as_str().map(str::to_ascii_lowercase);
            match word.as_deref() {
                Some("y" | "yes" | "on") => *value = true.into(),
                Some("n" | "no" | "off") => *value = false.into(),
                _ => {}
            }
        }
        _ => {}
    }
}

/// The way to a value, in the frames of its parents.
#[derive(Clone, Copy)]
enum Place<'p> {
    Root,
    Key(&'p Place<'p>, &'p str),
    Index(&'p Place<'p>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Root => Ok(()),
            Place::Key(Place::Root, key) => f.write_str(key),
            Place::Key(parent, key) => write!(f, "{parent}.{key}"),
            Place::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

struct Seed<'p> {
    twice: &'p RefCell<Vec<String>>,
    place: Place<'p>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value);
        number.map(Value::Number).ok_or_else(|| E::custom("a number that is none"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let place = Place::Index(&self.place, items.len());
            match access.next_element_seed(Seed { twice: self.twice, place })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let place = Place::Key(&self.place, &key);
            let value = access.next_value_seed(Seed { twice: self.twice, place })?;
            if map.contains_key(&key) {
                let mut twice = self.twice.borrow_mut();
                let path = place.to_string();
                if twice.len() < MAX_REPORTED && !twice.contains(&path) {
                    twice.push(path);
                }
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_last_of_two_counts_and_is_told_of() {
        let text = r#"{"a": 1, "b": [{"c": {"d": 1, "d": 2, "d": 3}}], "a": 2}"#;
        let (value, twice) = json(text.as_bytes()).unwrap();
        assert_eq!(value, json!({"a": 2, "b": [{"c": {"d": 3}}]}));
        assert_eq!(twice, ["b[0].c.d", "a"]);
        let (value, twice) = yaml("a: 1\nb:\n- {c: 1, c: 2}\na: 2\n").unwrap();
        assert_eq!(value, json!({"a": 2, "b": [{"c": 2}]}));
        assert_eq!(twice, ["b[0].c", "a"]);
    }

    #[test]
    fn texts_are_read_as_serde_reads_them() {
        let text =
            r#"{"s": "x", "n": -1, "u": 18446744073709551615, "f": 1.5, "z": null, "l": [true]}"#;
        let plain: Value = serde_json::from_str(text).unwrap();
        assert_eq!(json(text.as_bytes()).unwrap(), (plain, Vec::new()));
        for bad in ["{", "{} x", "", "{\"a\":}"] {
            assert!(json(bad.as_bytes()).is_err(), "{bad}");
        }
        let deep = "[".repeat(10_000);
        assert!(json(deep.as_bytes()).is_err());
        assert!(yaml(&deep).is_err());
    }

    #[test]
    fn words_are_booleans_where_booleans_are_wanted() {
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: y, labels: {a: no, b: \"yes\"}}\n\
            spec: {hostNetwork: yes, containers: [{name: n, args: [y, on, true], stdin: off}]}\n";
        let (value, _) = yaml(pod).unwrap();
        assert_eq!(value["metadata"], json!({"name": "y", "labels": {"a": "no", "b": "yes"}}));
        assert_eq!(value["spec"]["hostNetwork"], true);
        let container = json!({"name": "n", "args": ["y", "on", true], "stdin": false});
        assert_eq!(value["spec"]["containers"][0], container);
    }
}
