//! How deciders see the cluster: a consistent, cheap, read-only view. The store's memory cache is one,
//! a `Vec` of objects in a test is another.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::object::{Object, Resource};

/// One consistent view of the world.
pub trait Reader: Send + Sync {
    fn get(&self, resource: Resource, namespace: &str, name: &str) -> Option<Arc<Object>>;
    /// All objects of a resource, ordered by namespace and name; of one namespace when given.
    fn list(&self, resource: Resource, namespace: Option<&str>) -> Vec<Arc<Object>>;
}

impl dyn Reader + '_ {
    /// The typed view; an object that does not parse (it was admitted, so it should) counts as absent.
    pub fn typed<T: DeserializeOwned + Send + Sync + 'static>(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<T>> {
        self.get(resource, namespace, name)?.view().ok()
    }

    pub fn typed_list<T: DeserializeOwned + Send + Sync + 'static>(
        &self,
        resource: Resource,
        namespace: Option<&str>,
    ) -> Vec<Arc<T>> {
        self.list(resource, namespace).iter().filter_map(|o| o.view().ok()).collect()
    }
}
