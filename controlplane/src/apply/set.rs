//! Sets of fields, as `fieldsV1` writes them: a tree whose edges are path elements (`f:name`, `k:{…}`, `v:…`, `i:0`)
//! and whose members are the paths that are owned. Knows no values and no types.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// One node of the tree and everything below it. The root stands for the object and is never a member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    pub(super) member: bool,
    /// By path element in its written form; no entry is empty.
    pub(super) below: BTreeMap<String, Set>,
}

/// Marks a path that is a member although there is more below it.
const SELF: &str = ".";

impl Set {
    pub(super) fn leaf() -> Self {
        Self { member: true, below: BTreeMap::new() }
    }

    pub fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    /// Hangs `child` in; nothing happens when it is empty.
    pub(super) fn put(&mut self, element: String, child: Set) {
        if !child.is_empty() {
            self.below.insert(element, child);
        }
    }

    /// Everything that is in either.
    pub fn unite(&mut self, other: &Set) {
        self.member |= other.member;
        for (element, theirs) in &other.below {
            match self.below.get_mut(element) {
                Some(ours) => ours.unite(theirs),
                None => drop(self.below.insert(element.clone(), theirs.clone())),
            }
        }
    }

    /// Without the members of `other`; what is below those stays.
    pub fn subtract(&mut self, other: &Set) {
        self.member &= !other.member;
        for (element, theirs) in &other.below {
            if let Some(ours) = self.below.get_mut(element) {
                ours.subtract(theirs);
                if ours.is_empty() {
                    self.below.remove(element);
                }
            }
        }
    }

    /// The members that both have.
    pub fn common(&self, other: &Set) -> Set {
        let mut both = Set { member: self.member && other.member, below: BTreeMap::new() };
        for (element, ours) in &self.below {
            if let Some(theirs) = other.below.get(element) {
                both.put(element.clone(), ours.common(theirs));
            }
        }
        both
    }

    /// Without the path and everything below it.
    pub(super) fn cut(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else { return };
        let Some(child) = self.below.get_mut(*first) else { return };
        if rest.is_empty() {
            self.below.remove(*first);
            return;
        }
        child.cut(rest);
        if child.is_empty() {
            self.below.remove(*first);
        }
    }

    /// Without the path itself; what is below it stays.
    pub(super) fn unmark(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else {
            self.member = false;
            return;
        };
        let Some(child) = self.below.get_mut(*first) else { return };
        child.unmark(rest);
        if child.is_empty() {
            self.below.remove(*first);
        }
    }

    /// Every member as a line for people, `.spec.containers[name="a"].image`; outer ones first.
    pub fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect("", &mut found);
        found
    }

    fn collect(&self, prefix: &str, found: &mut Vec<String>) {
        let written = |element: &str| format!("{prefix}{}", shown(element));
        let members = self.below.iter().filter(|(_, child)| child.member);
        found.extend(members.map(|(element, _)| written(element)));
        for (element, child) in &self.below {
            child.collect(&written(element), found);
        }
    }

    /// As `fieldsV1`.
    pub fn encode(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.below.is_empty() {
            map.insert(SELF.into(), Map::new().into());
        }
        map.extend(self.below.iter().map(|(element, child)| (element.clone(), child.encode())));
        Value::Object(map)
    }

    /// From `fieldsV1`; None when it is not one.
    pub fn decode(fields: &Value) -> Option<Self> {
        let mut root = Self::node(fields)?;
        root.member = false;
        Some(root)
    }

    fn node(fields: &Value) -> Option<Self> {
        let map = fields.as_object()?;
        let mut node = Set { member: map.is_empty(), below: BTreeMap::new() };
        for (element, child) in map {
            match element.as_str() {
                SELF => node.member = true,
                element => drop(node.below.insert(canonical(element)?, Self::node(child)?)),
            }
        }
        Some(node)
    }
}

/// The one way in which this server writes an element; None when it is none.
fn canonical(element: &str) -> Option<String> {
    let (sort, rest) = element.split_once(':')?;
    match sort {
        "f" => Some(element.to_owned()),
        "i" => rest.parse::<u64>().ok().map(|n| format!("i:{n}")),
        "k" => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(rest).ok()?;
            let written = serde_json::to_string(&keys).ok()?;
            (!keys.is_empty()).then(|| format!("k:{written}"))
        }
        "v" => serde_json::from_str::<Value>(rest).ok().map(|value| format!("v:{value}")),
        _ => None,
    }
}

/// As it stands in messages.
pub(super) fn shown(element: &str) -> String {
    let (sort, rest) = element.split_once(':').unwrap_or(("f", element));
    match sort {
        "k" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", keys.join(","))
        }
        "v" => format!("[={rest}]"),
        "i" => format!("[{rest}]"),
        _ => format!(".{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(fields: Value) -> Set {
        Set::decode(&fields).expect("fieldsV1")
    }

    #[test]
    fn fields_are_read_and_written_alike() {
        let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}},
                "f:finalizers": {"v:\"x\"": {}}}});
        assert_eq!(set(fields.clone()).encode(), fields);
        let loose = json!({"f:ports": {"k:{\"protocol\": \"TCP\", \"port\": 80}": {}}});
        let strict = json!({"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {}}});
        assert_eq!(set(loose).encode(), strict);
        assert!(set(json!({})).is_empty());
        for bad in [json!([]), json!({"f:a": 1}), json!({"a": {}}), json!({"k:x": {}})] {
            assert_eq!(Set::decode(&bad), None, "{bad}");
        }
    }

    #[test]
    fn members_are_told_for_people() {
        let set = set(json!({"f:spec": {"f:replicas": {}, "f:containers":
            {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}}, "f:finalizers": {"v:\"x\"": {}}}}));
        let expected = [
            ".spec.replicas",
            ".spec.containers[name=\"a\"]",
            ".spec.containers[name=\"a\"].image",
            ".spec.finalizers[=\"x\"]",
        ];
        assert_eq!(set.paths(), expected);
    }

    #[test]
    fn sets_are_added_and_taken_away() {
        let one = set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
        let two = set(json!({"f:a": {}, "f:d": {}}));
        let mut both = one.clone();
        both.unite(&two);
        assert_eq!(both.encode(), json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}, "f:d": {}}));
        both.subtract(&two);
        assert_eq!(both.encode(), json!({"f:a": {"f:b": {}}, "f:c": {}}));
        assert_eq!(one.common(&two).encode(), json!({"f:a": {}}));
        both.cut(&["f:a"]);
        assert_eq!(both.encode(), json!({"f:c": {}}));
        let mut marked = one;
        marked.unmark(&["f:a"]);
        assert_eq!(marked.encode(), json!({"f:a": {"f:b": {}}, "f:c": {}}));
    }
}
