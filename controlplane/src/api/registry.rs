//! Which kinds this server serves.

use std::collections::{BTreeMap, HashMap};

use crate::kinds::Kind;
use crate::object::Resource;

pub struct Registry {
    kinds: Vec<&'static Kind>,
    by_path: HashMap<(&'static str, &'static str, &'static str), &'static Kind>,
    by_resource: HashMap<Resource, &'static Kind>,
}

impl Registry {
    pub fn new(kinds: impl IntoIterator<Item = &'static Kind>) -> Self {
        let kinds: Vec<_> = kinds.into_iter().collect();
        let by_path = kinds.iter().map(|k| ((k.group, k.version, k.plural), *k)).collect();
        let by_resource = kinds.iter().map(|k| (k.resource, *k)).collect();
        Self { kinds, by_path, by_resource }
    }

    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
        self.by_path.get(&(group, version, plural)).copied()
    }

    pub fn resource(&self, resource: &str) -> Option<&'static Kind> {
        self.by_resource.get(resource).copied()
    }

    pub fn all(&self) -> &[&'static Kind] {
        &self.kinds
    }

    /// Kinds by group and version, the core group first.
    pub fn groups(&self) -> BTreeMap<(&'static str, &'static str), Vec<&'static Kind>> {
        let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for kind in &self.kinds {
            groups.entry((kind.group, kind.version)).or_default().push(*kind);
        }
        for kinds in groups.values_mut() {
            kinds.sort_by_key(|k| k.plural);
        }
        groups
    }
}
