//! A small world in memory for tests: a [`Reader`] that takes [`Change`]s as the API server would, with
//! versions, generations, generated names, graceful deletion of bound Pods and finalizers.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::object::{Key, Object, Resource};
use crate::reader::Reader;
use crate::status::ApiError;
use crate::store::{Event, Subscription};
use crate::writer::{Change, Writer};

#[derive(Default, Clone)]
pub(crate) struct World {
    objects: BTreeMap<Key, Arc<Object>>,
    revision: u64,
    pub(crate) now: Timestamp,
    /// What happened, oldest first, for whoever maps events to keys.
    pub(crate) log: Vec<Arc<Event>>,
    /// Names to refuse on creation, with a reason.
    pub(crate) refuse: Vec<(Resource, String)>,
}

type Done = Result<Option<Arc<Object>>, ApiError>;

impl Reader for World {
    fn get(&self, resource: Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.objects.get(&Key::new(resource, namespace, name)).cloned()
    }

    fn list(&self, resource: Resource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let of = |object: &&Arc<Object>| {
            object.resource == resource && namespace.is_none_or(|ns| object.meta.namespace == ns)
        };
        self.objects.values().filter(of).cloned().collect()
    }
}

fn conflict(text: &str) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, "Conflict", text)
}

impl World {
    pub(crate) fn with(objects: impl IntoIterator<Item = (Resource, Value)>) -> Self {
        let mut world =
            Self { now: Timestamp::from_second(1_000_000).expect("in range"), ..Self::default() };
        for (resource, value) in objects {
            world.add(resource, value);
        }
        world
    }

    /// Creates an object for a test's set-up.
    pub(crate) fn add(&mut self, resource: Resource, value: Value) -> Arc<Object> {
        self.create(resource, value).expect("create").expect("an object")
    }

    pub(crate) fn object(&self, resource: Resource, namespace: &str, name: &str) -> Arc<Object> {
        self.get(resource, namespace, name)
            .unwrap_or_else(|| panic!("no {resource} {namespace}/{name}"))
    }

    pub(crate) fn value(&self, resource: Resource, namespace: &str, name: &str) -> Value {
        self.object(resource, namespace, name).value()
    }

    /// Changes an object in place, as its owner or a user would.
    pub(crate) fn edit(
        &mut self,
        resource: Resource,
        namespace: &str,
        name: &str,
        f: impl FnOnce(&mut Value),
    ) {
        let old = self.object(resource, namespace, name);
        let mut value = old.value();
        f(&mut value);
        if value["spec"] != old.value()["spec"] {
            value["metadata"]["generation"] = json!(old.meta.generation + 1);
        }
        self.put(resource, value);
    }

    /// Removes an object without ceremony.
    pub(crate) fn remove(&mut self, resource: Resource, namespace: &str, name: &str) {
        if let Some(old) = self.objects.remove(&Key::new(resource, namespace, name)) {
            self.revision += 1;
            self.note(resource, Some(old), None);
        }
    }

    pub(crate) fn apply(&mut self, change: Change) -> Done {
        match change {
            Change::Create { resource, object } => self.create(resource, object),
            Change::Update { resource, subresource, object } => {
                self.update(resource, subresource, object)
            }
            Change::Delete { resource, namespace, name, uid, resource_version, .. } => {
                let zero = false;
                self.delete(resource, &namespace, &name, uid.as_deref(), resource_version, zero)
            }
            Change::Bind { namespace, name, uid, node } => {
                self.bind(&namespace, &name, &uid, &node)
            }
        }
    }

    fn note(&mut self, resource: Resource, old: Option<Arc<Object>>, new: Option<Arc<Object>>) {
        let gone = if new.is_none() { old.clone() } else { None };
        self.log.push(Arc::new(Event { resource, revision: self.revision, old, new, gone }));
    }

    fn put(&mut self, resource: Resource, mut value: Value) -> Arc<Object> {
        self.revision += 1;
        value["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let object = Arc::new(Object::from_value(resource, &value).expect("an object"));
        let old = self.objects.insert(object.key(), object.clone());
        self.note(resource, old, Some(object.clone()));
        object
    }

    fn create(&mut self, resource: Resource, mut value: Value) -> Done {
        if value["metadata"]["name"].is_null() {
            let prefix =
                value["metadata"]["generateName"].as_str().expect("a name or a prefix").to_owned();
            value["metadata"]["name"] = json!(format!("{prefix}{:05}", self.revision));
        }
        let name = value["metadata"]["name"].as_str().expect("a name").to_owned();
        let namespace = value["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        if let Some((_, reason)) = self.refuse.iter().find(|(r, _)| *r == resource) {
            return Err(ApiError::new(StatusCode::FORBIDDEN, "Forbidden", reason.clone()));
        }
        if self.objects.contains_key(&Key::new(resource, &namespace, &name)) {
            return Err(ApiError::new(
                StatusCode::CONFLICT,
                "AlreadyExists",
                format!("{resource} \"{name}\" already exists"),
            ));
        }
        let meta = &mut value["metadata"];
        if meta["uid"].is_null() {
            meta["uid"] = json!(format!("uid-{}", self.revision));
        }
        if meta["creationTimestamp"].is_null() {
            meta["creationTimestamp"] = json!(self.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        }
        meta["generation"] = json!(1);
        Ok(Some(self.put(resource, value)))
    }

    fn update(&mut self, resource: Resource, sub: Option<&'static str>, mut value: Value) -> Done {
        let meta = &value["metadata"];
        let (namespace, name) = (
            meta["namespace"].as_str().unwrap_or_default(),
            meta["name"].as_str().expect("a name"),
        );
        let Some(old) = self.get(resource, namespace, name) else {
            return Err(ApiError::new(
                StatusCode::NOT_FOUND,
                "NotFound",
                format!("{resource} \"{name}\" not found"),
            ));
        };
        if meta["resourceVersion"] != json!(old.meta.resource_version.to_string()) {
            return Err(conflict("the object has been modified"));
        }
        let before = old.value();
        match sub {
            Some("status" | "approval") => {
                let status = value["status"].take();
                let annotations = value["metadata"]["annotations"].take();
                value = before.clone();
                value["status"] = status;
                // Labels and the rest are the main resource's; annotations are everybody's.
                if !annotations.is_null() {
                    value["metadata"]["annotations"] = annotations;
                }
            }
            _ => value["status"] = before["status"].clone(),
        }
        if value["status"].is_null() {
            value.as_object_mut().expect("an object").remove("status");
        }
        if value["spec"] != before["spec"] {
            value["metadata"]["generation"] = json!(old.meta.generation + 1);
        }
        let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
        if old.meta.deletion_timestamp.is_some()
            && empty(&value["metadata"]["finalizers"])
            && empty(&value["spec"]["finalizers"])
            && resource != "pods"
        {
            self.remove(resource, &old.meta.namespace, &old.meta.name);
            return Ok(Some(old));
        }
        Ok(Some(self.put(resource, value)))
    }

    pub(crate) fn delete(
        &mut self,
        resource: Resource,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
        version: Option<u64>,
        at_once: bool,
    ) -> Done {
        let Some(old) = self.get(resource, namespace, name) else {
            return Err(ApiError::new(
                StatusCode::NOT_FOUND,
                "NotFound",
                format!("{resource} \"{name}\" not found"),
            ));
        };
        if uid.is_some_and(|uid| uid != old.meta.uid)
            || version.is_some_and(|v| v != old.meta.resource_version)
        {
            return Err(conflict("the precondition does not hold"));
        }
        let mut value = old.value();
        let bound = resource == "pods" && value["spec"]["nodeName"].is_string();
        let held = !old.meta.finalizers.is_empty()
            || value["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
        if held || (bound && !at_once) {
            if old.meta.deletion_timestamp.is_none() {
                value["metadata"]["deletionTimestamp"] =
                    json!(self.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
                self.put(resource, value);
            }
            return Ok(Some(old));
        }
        self.remove(resource, namespace, name);
        Ok(Some(old))
    }

    fn bind(&mut self, namespace: &str, name: &str, uid: &str, node: &str) -> Done {
        let Some(old) = self.get("pods", namespace, name) else {
            return Err(ApiError::new(StatusCode::NOT_FOUND, "NotFound", "no such pod"));
        };
        if old.meta.uid != uid || old.value()["spec"]["nodeName"].is_string() {
            return Err(conflict("already bound"));
        }
        self.edit("pods", namespace, name, |pod| pod["spec"]["nodeName"] = json!(node));
        Ok(None)
    }
}

/// A shared world as the runner's reader, writer and feed.
#[derive(Clone, Default)]
pub(crate) struct SharedWorld(Arc<Mutex<(World, Subscribers)>>);

type Subscribers = Vec<mpsc::UnboundedSender<Arc<Event>>>;

impl SharedWorld {
    pub(crate) fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new((world, Vec::new()))))
    }

    /// Looks at or changes the world; events go to subscribers.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut World) -> R) -> R {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = inner.0.log.len();
        let result = f(&mut inner.0);
        let fresh: Vec<_> = inner.0.log[seen..].to_vec();
        inner.1.retain(|sender| fresh.iter().all(|event| sender.send(event.clone()).is_ok()));
        result
    }

    pub(crate) fn subscribe(&self) -> Subscription {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.push(sender);
        receiver
    }
}

impl Reader for SharedWorld {
    fn get(&self, resource: Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.with(|world| world.get(resource, namespace, name))
    }

    fn list(&self, resource: Resource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        self.with(|world| world.list(resource, namespace))
    }
}

impl Writer for SharedWorld {
    fn apply<'a>(
        &'a self,
        _who: &'a str,
        change: Change,
    ) -> Pin<Box<dyn Future<Output = Done> + Send + 'a>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            self.with(|world| world.apply(change))
        })
    }
}

/// A Pod without a node.
pub(crate) fn pod(namespace: &str, name: &str) -> (Resource, Value) {
    let value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "uid": format!("pod-{name}")},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    ("pods", value)
}

/// A ready Node with room for 110 Pods, 4 CPUs and 8 GiB.
pub(crate) fn node(name: &str) -> (Resource, Value) {
    let room = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
    let value = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "uid": format!("node-{name}"), "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {
            "capacity": room, "allocatable": room,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    });
    ("nodes", value)
}
