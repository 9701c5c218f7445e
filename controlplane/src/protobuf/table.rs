//! Field numbers of the API's messages, from `fields.txt`: one line per message,
//! `group.version.Name number=jsonName …`; `?` marks fields whose zero means something (they are pointers in the API
//! types), `>Other` marks messages whose fields stand in the outer object in JSON.

use std::collections::HashMap;
use std::sync::OnceLock;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Entry {
    Field {
        name: &'static str,
        keeps_zero: bool,
    },
    /// The message's name without group and version.
    Inline(&'static str),
}

/// By number.
pub(super) type Message = HashMap<u32, Entry>;

/// `name` is that of a component: `io.k8s.api.core.v1.PodSpec`.
pub(super) fn message(name: &str) -> Option<&'static Message> {
    table().get(short(name))
}

/// A message of the same group and version.
pub(super) fn sibling(name: &str, of: &str) -> Option<&'static Message> {
    let (place, _) = short(of).rsplit_once('.')?;
    table().get(format!("{place}.{name}").as_str())
}

/// Whether a struct field of the component `name` is no pointer in the API types: there even when nobody set it.
pub(crate) fn always_there(name: &str, field: &str) -> bool {
    let mut pending = vec![message(name)];
    while let Some(message) = pending.pop() {
        for entry in message.into_iter().flat_map(HashMap::values) {
            match entry {
                Entry::Field { name, keeps_zero } if *name == field => return !keeps_zero,
                Entry::Field { .. } => {}
                Entry::Inline(other) => pending.push(sibling(other, name)),
            }
        }
    }
    false
}

/// `core.v1.PodSpec`
fn short(name: &str) -> &str {
    name.rmatch_indices('.').nth(2).map_or(name, |(at, _)| &name[at + 1..])
}

fn table() -> &'static HashMap<&'static str, Message> {
    static TABLE: OnceLock<HashMap<&'static str, Message>> = OnceLock::new();
    TABLE.get_or_init(|| include_str!("fields.txt").lines().filter_map(line).collect())
}

fn line(text: &'static str) -> Option<(&'static str, Message)> {
    let mut words = text.split(' ');
    let name = words.next()?;
    Some((name, words.filter_map(entry).collect()))
}

fn entry(word: &'static str) -> Option<(u32, Entry)> {
    if let Some((number, name)) = word.split_once('>') {
        return Some((number.parse().ok()?, Entry::Inline(name)));
    }
    let (number, name) = word.split_once('=')?;
    let keeps_zero = number.ends_with('?');
    let number = number.trim_end_matches('?').parse().ok()?;
    Some((number, Entry::Field { name, keeps_zero }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::types;

    /// The table and the learnt types tell of the same fields.
    #[test]
    fn every_learnt_field_has_a_number() {
        for def in types().all() {
            let message =
                message(&def.name).unwrap_or_else(|| panic!("{} is not in the table", def.name));
            let mut known = Vec::new();
            let mut pending = vec![message];
            while let Some(message) = pending.pop() {
                for entry in message.values() {
                    match entry {
                        Entry::Field { name, .. } => known.push(*name),
                        Entry::Inline(name) => {
                            pending.push(sibling(name, &def.name).expect("an inlined message"));
                        }
                    }
                }
            }
            for field in &def.fields {
                let envelope = matches!(field.name, "apiVersion" | "kind");
                assert!(known.contains(&field.name) || envelope, "{}.{}", def.name, field.name);
            }
        }
    }
}
