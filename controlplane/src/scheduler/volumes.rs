//! Claims, volumes and classes as the scheduler knows them, and what a Pod's claims want of a node. Pure.
//!
//! A claim that is bound ties the Pod to the nodes of its volume. One that waits for its first Pod is given a volume
//! that is free on the chosen node, or the node's name for the provisioner; the Pod is bound when all its claims are.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeSelector, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use super::filter;
use super::nodes::NodeInfo;
use crate::controllers::look;
use crate::controllers::runner::Seen;
use crate::controllers::volumes::{
    self, CLAIMS, CLASSES, COMPLETED, SELECTED_NODE, VOLUMES, matching,
};
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;
use crate::writer::Change;

pub(super) const WATCHED: [Resource; 3] = [CLASSES, VOLUMES, CLAIMS];

#[derive(Default)]
pub(super) struct Volumes(BTreeMap<Key, Arc<Object>>);

impl Reader for Volumes {
    fn get(&self, resource: Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.0.get(&Key::new(resource, namespace, name)).cloned()
    }

    fn list(&self, resource: Resource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let all = self.0.iter().filter(|(key, _)| key.resource == resource);
        let here =
            all.filter(|(key, _)| namespace.is_none_or(|namespace| *key.namespace == *namespace));
        here.map(|(_, object)| object.clone()).collect()
    }
}

/// What one claim of a Pod wants.
pub(super) enum Wish {
    /// A node that its volume is on.
    Bound(Option<NodeSelector>),
    /// The same; the claim does not say so yet.
    Promised(Option<NodeSelector>),
    Open {
        object: Arc<Object>,
        claim: Arc<PersistentVolumeClaim>,
        class: Arc<StorageClass>,
        /// Chosen before, for this Pod or another.
        selected: Option<String>,
    },
}

impl Volumes {
    pub(super) fn observe(&mut self, seen: Seen<'_>, new: Option<&Arc<Object>>) {
        match (new, seen.old) {
            (Some(object), _) => drop(self.0.insert(object.key(), object.clone())),
            (None, Some(old)) => drop(self.0.remove(&old.key())),
            (None, None) => {}
        }
    }

    /// What the claims want, or why no node can be right.
    pub(super) fn wishes(&self, namespace: &str, claims: &[String]) -> Result<Vec<Wish>, String> {
        claims.iter().map(|name| self.wish(namespace, name)).collect()
    }

    fn wish(&self, namespace: &str, name: &str) -> Result<Wish, String> {
        let object = self.get(CLAIMS, namespace, name);
        let object = object.ok_or_else(|| format!("persistentvolumeclaim {name:?} not found"))?;
        if look::is_deleting(&object.meta) {
            return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
        }
        let unbound = || "pod has unbound immediate PersistentVolumeClaims".to_owned();
        let claim: Arc<PersistentVolumeClaim> = object.view().map_err(|_| unbound())?;
        let notes = claim.metadata.annotations.clone().unwrap_or_default();
        let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone());
        if let Some(volume) = volume.filter(|volume| !volume.is_empty()) {
            if !notes.contains_key(COMPLETED) {
                return Err(unbound());
            }
            return self.bound(&volume).map(Wish::Bound);
        }
        let class =
            matching::class_of(self, &claim).filter(|class| matching::waits_for_consumer(class));
        let class = class.ok_or_else(unbound)?;
        let mut volumes = self.list(VOLUMES, None).into_iter();
        if let Some(volume) =
            volumes.find(|v| volumes::is_for(&v.value()["spec"]["claimRef"], &object))
        {
            return self.bound(&volume.meta.name).map(Wish::Promised);
        }
        let selected = notes.get(SELECTED_NODE).cloned();
        Ok(Wish::Open { object, claim, class, selected })
    }

    fn bound(&self, volume: &str) -> Result<Option<NodeSelector>, String> {
        let missing = || {
            "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)".to_owned()
        };
        let object = self.get(VOLUMES, "", volume).ok_or_else(missing)?;
        let view: Arc<PersistentVolume> = object.view().map_err(|_| missing())?;
        let affinity = view.spec.as_ref().and_then(|spec| spec.node_affinity.clone());
        Ok(affinity.and_then(|affinity| affinity.required))
    }

    /// Why a node is not for these wishes.
    pub(super) fn objection(&self, wishes: &[Wish], node: &NodeInfo) -> Option<&'static str> {
        wishes.iter().find_map(|wish| match wish {
            Wish::Bound(selector) | Wish::Promised(selector) if !on(selector.as_ref(), node) => {
                Some("node(s) didn't match PersistentVolume's node affinity")
            }
            Wish::Bound(_) | Wish::Promised(_) => None,
            Wish::Open { claim, class, selected, .. } => {
                let fits = match selected {
                    Some(selected) => *selected == node.name,
                    None => self.free(claim, node).is_some() || may_be_made(class, node),
                };
                (!fits).then_some("node(s) didn't find available persistent volumes to bind")
            }
        })
    }

    fn free(&self, claim: &PersistentVolumeClaim, node: &NodeInfo) -> Option<Arc<Object>> {
        matching::smallest(self, claim, |volume| {
            let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
            on(affinity.and_then(|affinity| affinity.required.as_ref()), node)
        })
    }

    /// The writes that bring the volumes to the node; None when all are there.
    pub(super) fn preparation(&self, wishes: &[Wish], node: &NodeInfo) -> Option<Vec<Change>> {
        let mut changes = None::<Vec<Change>>;
        for wish in wishes {
            if let Wish::Bound(_) = wish {
                continue;
            }
            let changes = changes.get_or_insert_default();
            let Wish::Open { object, claim, selected, .. } = wish else { continue };
            match (selected, self.free(claim, node)) {
                (Some(_), _) => {}
                (None, Some(volume)) => changes.push(volumes::promise(&volume, object)),
                (None, None) => changes.push(look::edited(object, |value| {
                    volumes::annotate(value, SELECTED_NODE, &node.name);
                })),
            }
        }
        changes
    }
}

fn on(selector: Option<&NodeSelector>, node: &NodeInfo) -> bool {
    selector.is_none_or(|s| s.node_selector_terms.iter().any(|term| filter::matches(term, node)))
}

/// Whether the class makes volumes, and for such nodes.
fn may_be_made(class: &StorageClass, node: &NodeInfo) -> bool {
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    let allowed = terms.iter().any(|term| {
        term.match_label_expressions
            .iter()
            .flatten()
            .all(|need| node.labels.get(&need.key).is_some_and(|value| need.values.contains(value)))
    });
    class.provisioner != "kubernetes.io/no-provisioner" && (terms.is_empty() || allowed)
}
