//! One stored object: the metadata that the server itself acts on, the raw JSON, and a typed view on demand.
//!
//! The JSON is kept as the bytes that clients get, so that lists and watches copy nothing and unknown
//! fields survive. It never changes: a new version is a new [`Object`].

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A resource as it stands in URLs and RBAC rules: plural and group, `pods`, `deployments.apps`.
pub type Resource = &'static str;

/// The one static copy of a resource's name. Served kinds are static already; a name read from disk or made by
/// a custom resource is kept for the life of the process, so callers intern only names that exist.
pub fn intern(name: &str) -> Resource {
    static NAMES: Mutex<BTreeSet<Resource>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    match names.get(name) {
        Some(known) => known,
        None => {
            let leaked: Resource = Box::leak(name.to_owned().into_boxed_str());
            names.insert(leaked);
            leaked
        }
    }
}

/// Names one object of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub resource: Resource,
    /// Empty for cluster-scoped resources.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Key {
    pub fn new(resource: Resource, namespace: &str, name: &str) -> Self {
        Self { resource, namespace: namespace.into(), name: name.into() }
    }
}

/// The part of `metadata` that the server itself acts on.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    #[serde(deserialize_with = "revision")]
    pub resource_version: u64,
    pub generation: i64,
    pub labels: BTreeMap<String, String>,
    pub finalizers: Vec<String>,
    pub owner_references: Vec<OwnerReference>,
    pub creation_timestamp: Option<String>,
    pub deletion_timestamp: Option<String>,
    pub deletion_grace_period_seconds: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
    pub controller: bool,
    pub block_owner_deletion: bool,
}

fn revision<'de, D: serde::Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    let text = String::deserialize(d)?;
    if text.is_empty() { Ok(0) } else { text.parse().map_err(serde::de::Error::custom) }
}

/// One version of one object.
pub struct Object {
    pub resource: Resource,
    pub meta: Meta,
    raw: Bytes,
    typed: RwLock<Option<Arc<dyn Any + Send + Sync>>>,
}

impl Object {
    /// `raw` must be a JSON object with `metadata`.
    pub fn new(resource: Resource, raw: Bytes) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Head {
            #[serde(default)]
            metadata: Meta,
        }
        let head: Head = serde_json::from_slice(&raw)?;
        Ok(Self { resource, meta: head.metadata, raw, typed: RwLock::default() })
    }

    pub fn from_value(resource: Resource, value: &Value) -> Result<Self, serde_json::Error> {
        Self::new(resource, serde_json::to_vec(value)?.into())
    }

    pub fn key(&self) -> Key {
        Key::new(self.resource, &self.meta.namespace, &self.meta.name)
    }

    /// The JSON as clients get it.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The JSON as a tree of its own, to change it.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.raw).unwrap_or(Value::Null)
    }

    /// The typed view, parsed once and kept. One object is only ever looked at as one type.
    pub fn view<T: DeserializeOwned + Send + Sync + 'static>(
        &self,
    ) -> Result<Arc<T>, serde_json::Error> {
        let known = self.typed.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(Ok(typed)) = known.map(Arc::downcast::<T>) {
            return Ok(typed);
        }
        let typed: Arc<T> = Arc::new(serde_json::from_slice(&self.raw)?);
        *self.typed.write().unwrap_or_else(PoisonError::into_inner) = Some(typed.clone());
        Ok(typed)
    }

    /// Frees the typed view; who asks again has it parsed again.
    pub fn forget_view(&self) {
        *self.typed.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}@{}", self.key(), self.meta.resource_version)
    }
}
