//! ControllerRevisions: the templates that a DaemonSet or StatefulSet has had. Pure.
//!
//! A revision holds its owner's template as the patch that brings it back, so `kubectl rollout undo` works
//! as with upstream. Its label `controller-revision-hash` is also on the Pods made from it: the hash of the
//! template for a DaemonSet, the revision's whole name for a StatefulSet.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use super::deployment::hash::template_hash;
use super::look::{self, PodView};
use super::outcome::Act;
use super::workload;
use crate::object::{Object, Resource};
use crate::reader::Reader;
use crate::writer::Change;

pub(super) const REVISIONS: Resource = "controllerrevisions.apps";
pub(super) const HASH: &str = "controller-revision-hash";

/// What tells the Pods of a revision.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Label {
    Hash,
    Name,
}

/// The revisions of one owner.
pub(super) struct History {
    label: Label,
    owner: Arc<Object>,
    template: PodTemplateSpec,
    /// The template as stored.
    data: Value,
    /// What the template is now, once it is noted.
    current: Option<Arc<Object>>,
    /// All others, oldest first.
    old: Vec<Arc<Object>>,
    orphans: Vec<Arc<Object>>,
}

impl History {
    pub(super) fn observe(
        world: &dyn Reader,
        owner: &Arc<Object>,
        (selector, template): (&LabelSelector, &PodTemplateSpec),
        label: Label,
    ) -> Self {
        let mut restore = owner.value()["spec"]["template"].take();
        restore["$patch"] = "replace".into();
        let data = json!({"spec": {"template": restore}});
        let (mut old, mut orphans) = (Vec::new(), Vec::new());
        for revision in world.list(REVISIONS, Some(&owner.meta.namespace)) {
            if look::is_deleting(&revision.meta) {
                continue;
            }
            if look::is_controlled_by(&revision.meta, &owner.meta.uid) {
                old.push(revision);
            } else if look::controller_of(&revision.meta).is_none()
                && look::selects(selector, &revision.meta.labels)
            {
                orphans.push(revision);
            }
        }
        old.sort_by_key(|revision| number(revision));
        let found = old.iter().rposition(|revision| revision.value()["data"] == data);
        let current = found.map(|index| old.remove(index));
        let (owner, template) = (owner.clone(), template.clone());
        Self { label, owner, template, data, current, old, orphans }
    }

    /// The label of the current revision; None before it is noted.
    pub(super) fn hash(&self) -> Option<&str> {
        self.current.as_ref()?.meta.labels.get(HASH).map(String::as_str)
    }

    /// The template of the revision with this label.
    pub(super) fn template(&self, label: &str) -> Option<PodTemplateSpec> {
        let mut all = self.old.iter().chain(&self.current);
        let found = all.find(|revision| revision.meta.labels.get(HASH).is_some_and(|l| l == label));
        let mut template = found?.value()["data"]["spec"]["template"].take();
        template.as_object_mut()?.remove("$patch");
        serde_json::from_value(template).ok()
    }

    /// Notes the template as the newest revision. Decide the rest when that is done.
    pub(super) fn sync(&self, collisions: Option<i32>) -> Vec<Act> {
        if !self.orphans.is_empty() {
            let owner = workload::reference(&self.owner);
            return self.orphans.iter().map(|o| look::adoption(o, &owner).into()).collect();
        }
        let newest = self.old.last().map_or(0, |revision| number(revision)) + 1;
        match &self.current {
            None => vec![self.creation(newest, collisions).into()],
            Some(current) if number(current) < newest => {
                vec![look::edited(current, |value| value["revision"] = newest.into()).into()]
            }
            Some(_) => Vec::new(),
        }
    }

    fn creation(&self, revision: i64, collisions: Option<i32>) -> Change {
        let hash = template_hash(&self.template, collisions);
        let meta = &self.owner.meta;
        let name = format!("{}-{hash}", meta.name);
        let labels = self.template.metadata.as_ref().and_then(|m| m.labels.clone());
        let mut labels = json!(labels.unwrap_or_default());
        labels[HASH] = if self.label == Label::Name { &name } else { &hash }.as_str().into();
        let metadata = json!({
            "name": name, "namespace": meta.namespace,
            "labels": labels, "ownerReferences": [workload::reference(&self.owner)],
        });
        let object = json!({
            "apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": metadata,
            "data": self.data, "revision": revision,
        });
        Change::Create { resource: REVISIONS, object }
    }

    /// Deletes the oldest revisions beyond `limit` that no Pod was made from, nor will be: `kept`.
    pub(super) fn clean_up(
        &self,
        pods: &[PodView],
        limit: Option<i32>,
        kept: Option<&str>,
    ) -> Vec<Act> {
        let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
        let surplus = self.old.len().saturating_sub(limit);
        let is_live = |revision: &&Arc<Object>| {
            let hash = revision.meta.labels.get(HASH);
            hash.is_some_and(|hash| Some(hash.as_str()) == kept)
                || pods.iter().any(|pod| pod.meta().labels.get(HASH) == hash)
        };
        let dead = self.old.iter().filter(|revision| !is_live(revision));
        dead.take(surplus).map(|revision| look::deletion(revision).into()).collect()
    }
}

fn number(revision: &Object) -> i64 {
    revision.value()["revision"].as_i64().unwrap_or(0)
}

/// Whether a revision could not be made because its name is another's.
pub(super) fn is_collision(
    world: &dyn Reader,
    owner: &Object,
    change: &Change,
    error: &crate::status::ApiError,
) -> bool {
    let Change::Create { resource: REVISIONS, object } = change else { return false };
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let taken = world.get(REVISIONS, &owner.meta.namespace, name);
    error.is_already_exists() && taken.is_some_and(|taken| taken.value()["data"] != object["data"])
}
