//! How the fields of each API type are owned: which lists are sets or are keyed, which maps and structs are one value.
//! A fact of the API, in `ownership.txt`: one line per struct, `group.version.Name` and then `atomic` or words
//! `field=set`, `field=atomic`, `field=granular`, `field=[key,…]`. A key that an item leaves out has its type's zero
//! value, or the one after `:`; a key with `?` may be missing. Lists not named are one value; maps and structs are not.
//! A word that ends in `!` is of a list that upstream's objects always have, if only empty.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::Value;

use super::schema::{Type, Types};
use crate::protobuf;

/// What can have an owner of its own inside a field.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Topology {
    /// What the type says: lists and atomic structs are one value, other structs and maps are not.
    #[default]
    Plain,
    Atomic,
    /// Although the struct is one value elsewhere.
    Granular,
    Set,
    Keyed(Vec<ListKey>),
}

/// One of the fields that tell the items of a list apart.
#[derive(Debug, Clone, PartialEq)]
pub struct ListKey {
    pub name: &'static str,
    /// For items that leave it out.
    pub default: Option<Value>,
}

/// Words by `core.v1.PodSpec`.
fn table() -> &'static HashMap<&'static str, Vec<&'static str>> {
    static TABLE: OnceLock<HashMap<&'static str, Vec<&'static str>>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let lines = include_str!("ownership.txt").lines();
        lines.filter_map(|line| line.split_once(' ')).map(words).collect()
    })
}

fn words((name, rest): (&'static str, &'static str)) -> (&'static str, Vec<&'static str>) {
    (name, rest.split(' ').collect())
}

/// `io.k8s.api.core.v1.PodSpec` → `core.v1.PodSpec`
fn short(name: &str) -> &str {
    name.rmatch_indices('.').nth(2).map_or(name, |(at, _)| &name[at + 1..])
}

/// Tells the learnt types what the table says of them.
pub(super) fn annotate(types: &mut Types) {
    for index in 0..types.all().len() {
        let name = types.get(index).name.clone();
        let words = table().get(short(&name)).map_or(&[] as &[_], Vec::as_slice);
        let topologies: Vec<Topology> = types
            .get(index)
            .fields
            .iter()
            .map(|field| topology(types, &field.ty, words, field.name))
            .collect();
        let def = types.get_mut(index);
        def.atomic = words.contains(&"atomic");
        for (field, topology) in def.fields.iter_mut().zip(topologies) {
            field.topology = topology;
            field.always = match field.ty {
                Type::Struct(_) => protobuf::always_there(&name, field.name),
                _ => word(words, field.name).is_some_and(|how| how.ends_with('!')),
            };
        }
    }
}

fn word(words: &[&'static str], field: &str) -> Option<&'static str> {
    let mut words = words.iter().filter_map(|word| word.split_once('='));
    words.find(|(name, _)| *name == field).map(|(_, how)| how)
}

fn topology(types: &Types, ty: &Type, words: &[&'static str], field: &str) -> Topology {
    match word(words, field).map(|how| how.trim_end_matches('!')) {
        None => Topology::Plain,
        Some("atomic") => Topology::Atomic,
        Some("granular") => Topology::Granular,
        Some("set") => Topology::Set,
        Some(keys) => {
            let keys = keys.trim_start_matches('[').trim_end_matches(']').split(',');
            Topology::Keyed(keys.map(|key| list_key(types, ty, key)).collect())
        }
    }
}

fn list_key(types: &Types, list: &Type, key: &'static str) -> ListKey {
    if let Some(name) = key.strip_suffix('?') {
        return ListKey { name, default: None };
    }
    let (name, default) = key.split_once(':').unwrap_or((key, ""));
    let item = match list {
        Type::List(item) => &**item,
        _ => &Type::Any,
    };
    let number = match item {
        Type::Struct(index) => {
            matches!(types.get(*index).field(name), Some(Type::Int32 | Type::Int64))
        }
        _ => false,
    };
    let default = if number { 0.into() } else { default.into() };
    ListKey { name, default: Some(default) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::types;

    /// A line about a type that is served names fields that it has, with keys that its items have.
    #[test]
    fn every_entry_names_a_real_field() {
        let types = types();
        for def in types.all() {
            let words = table().get(short(&def.name)).map_or(&[] as &[_], Vec::as_slice);
            for (name, _) in words.iter().filter_map(|word| word.split_once('=')) {
                let Some(field) = def.fields.iter().find(|f| f.name == name) else {
                    // Newer than the types that are built in.
                    continue;
                };
                let Topology::Keyed(keys) = &field.topology else { continue };
                let Type::List(item) = &field.ty else { panic!("{}.{name} is no list", def.name) };
                let Type::Struct(item) = **item else { panic!("{}.{name}", def.name) };
                for key in keys {
                    assert!(types.get(item).field(key.name).is_some(), "{}.{name}", def.name);
                }
            }
        }
    }

    #[test]
    fn what_the_table_says_arrives() {
        let field = |of: &str, name: &str| {
            let def = types().all().iter().find(|def| def.short() == of).expect(of);
            def.fields.iter().find(|f| f.name == name).expect(name)
        };
        let ports = Topology::Keyed(vec![
            ListKey { name: "containerPort", default: Some(0.into()) },
            ListKey { name: "protocol", default: Some("TCP".into()) },
        ]);
        assert_eq!(field("Container", "ports").topology, ports);
        assert_eq!(field("ObjectMeta", "finalizers").topology, Topology::Set);
        assert_eq!(field("ServiceSpec", "selector").topology, Topology::Atomic);
        assert_eq!(field("Container", "args").topology, Topology::Plain);
        assert!(types().all().iter().any(|d| d.short() == "LabelSelector" && d.atomic));
        assert!(field("DeploymentSpec", "template").always);
        assert!(!field("DeploymentSpec", "selector").always);
        assert!(!field("DeploymentStrategy", "rollingUpdate").always);
        assert!(!field("Volume", "emptyDir").always);
        assert!(field("PodSpec", "containers").always && !field("PodSpec", "volumes").always);
    }
}
