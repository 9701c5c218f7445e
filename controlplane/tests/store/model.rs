//! What a store should hold, as a map; and what a write on it should answer.

use std::collections::BTreeMap;

use kobune_controlplane::object::{Key, Object, Resource};
use kobune_controlplane::reader::Reader;
use kobune_controlplane::store::{Event, Store, StoreError, Write};
use serde_json::{Value, json};

pub(crate) const RESOURCES: [Resource; 2] = ["configmaps", "deployments.apps"];

/// What of an object the model knows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    pub(crate) version: u64,
    pub(crate) payload: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Model(pub(crate) BTreeMap<Key, Stored>);

/// One write as a test means it, before it is one.
#[derive(Debug, Clone)]
pub(crate) struct Intent {
    pub(crate) key: Key,
    pub(crate) what: What,
    pub(crate) payload: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum What {
    Create,
    /// Of this version.
    Update(u64),
    /// Of this version.
    Delete(u64),
}

impl Intent {
    pub(crate) fn write(&self) -> Write {
        let key = self.key.clone();
        match self.what {
            What::Create => Write::Create { value: value(&key, self.payload), key },
            What::Update(version) => {
                Write::Update { value: value(&key, self.payload), key, version }
            }
            What::Delete(version) => Write::Delete { key, version },
        }
    }
}

/// An object that says twice what it is, the second time at a length that depends on it: half of it would be noticed.
pub(crate) fn value(key: &Key, payload: u64) -> Value {
    let mut value = json!({
        "metadata": {"name": &*key.name},
        "payload": payload, "filling": filling(payload),
    });
    if !key.namespace.is_empty() {
        value["metadata"]["namespace"] = (*key.namespace).into();
    }
    value
}

fn filling(payload: u64) -> String {
    let length = usize::try_from(payload * 7919 % 9000).unwrap();
    format!("{payload:x}.").chars().cycle().take(length).collect()
}

/// The object as the model knows it; panics where it is not whole.
pub(crate) fn stored(object: &Object) -> Stored {
    let value = object.value();
    let payload = value["payload"].as_u64().expect("an object without its payload");
    assert_eq!(value["filling"], filling(payload), "half an object");
    let version = object.meta.resource_version;
    assert_eq!(value["metadata"]["resourceVersion"], version.to_string());
    Stored { version, payload }
}

impl Model {
    /// What the store holds.
    pub(crate) fn read(store: &Store) -> Self {
        let all = RESOURCES.iter().flat_map(|resource| store.list(resource, None));
        Self(all.map(|object| (object.key(), stored(&object))).collect())
    }

    pub(crate) fn version(&self, key: &Key) -> Option<u64> {
        self.0.get(key).map(|stored| stored.version)
    }

    /// The answer that is right.
    pub(crate) fn judge(&self, intent: &Intent) -> Result<(), StoreError> {
        match (intent.what, self.version(&intent.key)) {
            (What::Create, None) => Ok(()),
            (What::Create, Some(_)) => Err(StoreError::Exists),
            (What::Update(_) | What::Delete(_), None) => Err(StoreError::NotFound),
            (What::Update(asked) | What::Delete(asked), Some(current)) => match asked == current {
                true => Ok(()),
                false => Err(StoreError::Conflict { current }),
            },
        }
    }

    /// It happened at this revision.
    pub(crate) fn apply(&mut self, intent: &Intent, revision: u64) {
        match intent.what {
            What::Delete(_) => self.0.remove(&intent.key),
            _ => {
                let stored = Stored { version: revision, payload: intent.payload };
                self.0.insert(intent.key.clone(), stored)
            }
        };
    }

    /// Somebody was told of it.
    pub(crate) fn see(&mut self, event: &Event) {
        let key = event.object().key();
        let before = self.0.get(&key).map(|stored| stored.version);
        let old = event.old.as_ref().map(|old| old.meta.resource_version);
        assert_eq!(before, old, "{key:?}: an event that does not follow");
        match &event.new {
            Some(object) => self.0.insert(key, stored(object)),
            None => {
                assert_eq!(stored(event.object()).version, event.revision);
                self.0.remove(&key)
            }
        };
    }

    /// Of one resource.
    pub(crate) fn only(&self, resource: Resource) -> Self {
        let of = self.0.iter().filter(|(key, _)| key.resource == resource);
        Self(of.map(|(key, stored)| (key.clone(), stored.clone())).collect())
    }
}
