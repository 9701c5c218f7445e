//! The order of merged lists: what the patch names stands in the patch's order, the rest where the server had it.

use std::collections::HashMap;

use serde_json::Value;

/// What tells two items apart: the merge key's value, or the item itself when `key` is empty.
pub(super) fn identity(item: &Value, key: &str) -> String {
    let value = if key.is_empty() { item } else { &item[key] };
    value.to_string()
}

/// Places by identity; the first of equals counts.
pub(super) fn places(items: &[Value], key: &str) -> HashMap<String, usize> {
    let mut places = HashMap::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        places.entry(identity(item, key)).or_insert(index);
    }
    places
}

/// `merged` in the order that `wanted` (of the patch) and `server` (before the patch) give together.
pub(super) fn arrange(
    merged: Vec<Value>,
    wanted: &[Value],
    server: &[Value],
    key: &str,
) -> Vec<Value> {
    let (wanted, server) = (places(wanted, key), places(server, key));
    let with_id = merged.into_iter().map(|item| (identity(&item, key), item));
    let (mut named, mut rest): (Vec<_>, Vec<_>) =
        with_id.partition(|(id, _)| wanted.contains_key(id));
    named.sort_by_key(|(id, _)| wanted.get(id).copied());
    rest.sort_by_key(|(id, _)| server.get(id).copied().unwrap_or(usize::MAX));
    let mut arranged = Vec::with_capacity(named.len() + rest.len());
    let mut rest = rest.into_iter().peekable();
    for (id, item) in named {
        // Items that only the server knows come first where the server had them first.
        if let Some(place) = server.get(&id) {
            while let Some((_, item)) =
                rest.next_if(|(other, _)| server.get(other).is_some_and(|p| p < place))
            {
                arranged.push(item);
            }
        }
        arranged.push(item);
    }
    arranged.extend(rest.map(|(_, item)| item));
    arranged
}
