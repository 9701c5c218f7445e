//! What controllers that make Pods share: whose Pods there are, a Pod from a template, slow starts. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use super::look::{self, PodView};
use super::outcome::{Act, Note, Outcome};
use super::runner::Seen;
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;
use crate::writer::Change;

/// Most Pods that one reconcile creates or deletes.
pub(super) const BURST: usize = 500;

/// A Pod that failed is replaced no sooner after it was made: a node that refuses it is not asked all the time.
pub(super) const FAILED_PAUSE: Duration = Duration::from_secs(10);

/// How long a failed Pod is left before it is replaced.
pub(super) fn pause(pod: &PodView, now: Timestamp) -> Option<Duration> {
    let made = look::parse_time(pod.meta().creation_timestamp.as_deref())?;
    (pod.phase() == "Failed").then(|| look::remaining(made, FAILED_PAUSE, now)).flatten()
}

/// The Pods around their owner.
#[derive(Default)]
pub(super) struct Pods {
    /// Controlled by it and matching its selector, finished and terminating ones too.
    pub(super) own: Vec<PodView>,
    /// Matching, without a controller, free to take in.
    orphans: Vec<PodView>,
    /// Controlled by it, but not matching any more.
    strays: Vec<PodView>,
}

impl Pods {
    pub(super) fn observe(world: &dyn Reader, owner: &Object, selector: &LabelSelector) -> Self {
        let mut pods = Self::default();
        let all = world.list("pods", Some(&owner.meta.namespace));
        for pod in all.into_iter().filter_map(PodView::of) {
            let matches = look::selects(selector, &pod.meta().labels);
            if look::is_controlled_by(pod.meta(), &owner.meta.uid) {
                if matches { &mut pods.own } else { &mut pods.strays }.push(pod);
            } else if matches && look::controller_of(pod.meta()).is_none() && pod.is_active() {
                pods.orphans.push(pod);
            }
        }
        pods
    }

    /// Only Pods of the right names are ever the owner's.
    pub(super) fn keep_named(&mut self, is_right: impl Fn(&str) -> bool) {
        for pods in [&mut self.own, &mut self.orphans] {
            pods.retain(|pod| is_right(&pod.meta().name));
        }
    }

    /// Takes orphans in and lets strays go.
    pub(super) fn claims(&self, owner: &Object) -> Vec<Act> {
        let reference = reference(owner);
        let adopt = self.orphans.iter().map(|pod| look::adoption(&pod.object, &reference).into());
        let mine = |uid: &str| uid == owner.meta.uid;
        let release = self.strays.iter().map(|pod| look::release(&pod.object, mine).into());
        adopt.chain(release).collect()
    }
}

/// Owners that an event of a Pod or revision concerns: whose it was, whose it is, who may take it in.
pub(super) fn keys(
    world: &dyn Reader,
    (resource, kind): (Resource, &str),
    seen: Seen<'_>,
    selector: impl Fn(&Object) -> Option<LabelSelector>,
) -> Vec<Key> {
    let owner = |owned| owner_key(resource, kind, owned);
    let mut keys: Vec<Key> = seen.states().filter_map(owner).collect();
    if let Some(new) = seen.new {
        keys.extend(matching(world, resource, new, selector));
    }
    keys.dedup();
    keys
}

/// The key of a Pod's controller, if that is a `kind`.
pub(super) fn owner_key(resource: Resource, kind: &str, owned: &Object) -> Option<Key> {
    let owner = look::controller_of(&owned.meta).filter(|owner| owner.kind == kind)?;
    Some(Key::new(resource, &owned.meta.namespace, &owner.name))
}

/// Owners of a resource whose selector matches an object that has no controller.
fn matching(
    world: &dyn Reader,
    resource: Resource,
    orphan: &Object,
    selector: impl Fn(&Object) -> Option<LabelSelector>,
) -> Vec<Key> {
    if look::controller_of(&orphan.meta).is_some() {
        return Vec::new();
    }
    let owners = world.list(resource, Some(&orphan.meta.namespace));
    let wants = |owner: &&std::sync::Arc<Object>| {
        selector(owner).is_some_and(|selector| {
            !look::is_empty_selector(&selector) && look::selects(&selector, &orphan.meta.labels)
        })
    };
    owners.iter().filter(wants).map(|owner| owner.key()).collect()
}

/// An ownerReference that makes `owner` the controller.
pub(super) fn reference(owner: &Object) -> Value {
    let value = owner.value();
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    look::controller_reference(&text("apiVersion"), &text("kind"), &owner.meta)
}

/// A Pod of `owner` by its template.
pub(super) fn new_pod(owner: &Object, template: &PodTemplateSpec) -> Option<Value> {
    let mut metadata = json!({
        "generateName": format!("{}-", owner.meta.name),
        "namespace": owner.meta.namespace,
        "ownerReferences": [reference(owner)],
        "labels": {},
    });
    if let Some(given) = &template.metadata {
        metadata["labels"] = json!(given.labels.clone().unwrap_or_default());
        if let Some(annotations) = &given.annotations {
            metadata["annotations"] = json!(annotations);
        }
        if let Some(finalizers) = &given.finalizers {
            metadata["finalizers"] = json!(finalizers);
        }
    }
    let spec = serde_json::to_value(template.spec.as_ref()?).ok()?;
    Some(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
}

pub(super) fn creation(owner: &Object, pod: Value) -> Act {
    Act::from(Change::Create { resource: "pods", object: pod })
        .noting(Note::normal(owner, "SuccessfulCreate", "Created pod: {}"))
        .or_noting(Note::warning(owner, "FailedCreate", "Error creating: {}"))
}

pub(super) fn deletion(owner: &Object, pod: &PodView) -> Act {
    let text = format!("Deleted pod: {}", pod.meta().name);
    Act::from(look::deletion(&pod.object))
        .noting(Note::normal(owner, "SuccessfulDelete", text))
        .or_noting(Note::warning(owner, "FailedDelete", "Error deleting: {}"))
}

/// Batches of 1, 2, 4, …: when creation is refused, one request finds out and not hundreds.
pub(super) fn slowly(acts: Vec<Act>, outcome: &mut Outcome) {
    let mut acts = acts.into_iter().take(BURST);
    let mut size = 1;
    loop {
        let batch: Vec<Act> = acts.by_ref().take(size).collect();
        if batch.is_empty() {
            return;
        }
        outcome.together(batch);
        size *= 2;
    }
}
