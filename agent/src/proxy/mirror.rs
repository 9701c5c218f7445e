//! The objects of one kind as a watch tells them (pure). Complete or not there at all.

use std::collections::HashMap;

use kube::Resource;
use kube::runtime::watcher::Event;

/// Namespace and name.
pub(crate) type Key = (String, String);

/// All objects of one kind.
#[derive(Debug)]
pub(crate) struct Mirror<K> {
    /// None until the first list is complete.
    objects: Option<HashMap<Key, K>>,
    /// A new list under way; the old objects count until it is complete.
    listing: HashMap<Key, K>,
}

impl<K> Default for Mirror<K> {
    fn default() -> Self {
        Mirror { objects: None, listing: HashMap::new() }
    }
}

impl<K: Resource> Mirror<K> {
    /// Takes in one event; says whether the objects may have changed.
    pub(crate) fn handle(&mut self, event: Event<K>) -> bool {
        match event {
            Event::Init => {
                self.listing.clear();
                false
            }
            Event::InitApply(object) => {
                self.listing.insert(key(&object), object);
                false
            }
            Event::InitDone => {
                self.objects = Some(std::mem::take(&mut self.listing));
                true
            }
            Event::Apply(object) => {
                self.objects.get_or_insert_default().insert(key(&object), object);
                true
            }
            Event::Delete(object) => {
                self.objects.as_mut().and_then(|all| all.remove(&key(&object))).is_some()
            }
        }
    }

    /// Whether a list has been complete.
    pub(crate) fn is_known(&self) -> bool {
        self.objects.is_some()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&K> {
        self.objects.as_ref()?.get(key)
    }

    /// All objects, once they are known.
    pub(crate) fn objects(&self) -> Option<impl Iterator<Item = &K>> {
        self.objects.as_ref().map(HashMap::values)
    }
}

pub(crate) fn key<K: Resource>(object: &K) -> Key {
    let metadata = object.meta();
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;

    use super::*;

    fn service(name: &str) -> Service {
        let mut service = Service::default();
        service.metadata.name = Some(name.into());
        service
    }

    fn names(mirror: &Mirror<Service>) -> Option<Vec<String>> {
        let mut names: Vec<_> =
            mirror.objects()?.filter_map(|one| one.metadata.name.clone()).collect();
        names.sort();
        Some(names)
    }

    #[test]
    fn nothing_is_shown_before_it_is_complete_and_relists_replace() {
        let mut mirror = Mirror::default();
        assert!(!mirror.handle(Event::Init));
        assert!(!mirror.handle(Event::InitApply(service("a"))));
        assert_eq!(names(&mirror), None);
        assert!(mirror.handle(Event::InitDone));
        assert!(mirror.handle(Event::Apply(service("b"))));
        assert_eq!(names(&mirror).unwrap(), ["a", "b"]);
        assert!(mirror.handle(Event::Delete(service("a"))));
        assert!(!mirror.handle(Event::Delete(service("a"))));
        // The watch broke; meanwhile b went and c came.
        mirror.handle(Event::Init);
        mirror.handle(Event::InitApply(service("c")));
        assert_eq!(names(&mirror).unwrap(), ["b"]);
        mirror.handle(Event::InitDone);
        assert_eq!(names(&mirror).unwrap(), ["c"]);
    }
}
