//! What the scheduler knows of nodes: room, labels, taints, and who is there. Kept up to date by events, so
//! that a decision costs nothing per Pod that exists. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use super::need::{Amounts, Footprint, HostPort};

#[derive(Debug, Default, Clone)]
pub(super) struct NodeInfo {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) taints: Vec<Taint>,
    pub(super) unschedulable: bool,
    pub(super) allocatable: Amounts,
    pub(super) used: Amounts,
    pub(super) weight_cpu: i64,
    pub(super) weight_memory: i64,
    pub(super) ports: Vec<HostPort>,
    /// Pods per controller, to spread them.
    pub(super) owners: HashMap<String, i64>,
}

impl NodeInfo {
    pub(super) fn read(node: &Node) -> Self {
        let (spec, status) = (node.spec.as_ref(), node.status.as_ref());
        let allocatable = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec.and_then(|s| s.taints.clone()).unwrap_or_default(),
            unschedulable: spec.and_then(|s| s.unschedulable) == Some(true),
            allocatable: Amounts::read(allocatable),
            ..Self::default()
        }
    }

    fn offers_the_same(&self, other: &Self) -> bool {
        self.labels == other.labels
            && self.taints == other.taints
            && self.unschedulable == other.unschedulable
            && self.allocatable == other.allocatable
    }

    fn take(&mut self, footprint: &Footprint) {
        self.used.add(&footprint.request);
        self.weight_cpu += footprint.weight_cpu;
        self.weight_memory += footprint.weight_memory;
        self.ports.extend(footprint.ports.iter().cloned());
        if let Some(owner) = &footprint.owner {
            *self.owners.entry(owner.clone()).or_default() += 1;
        }
    }

    fn give_back(&mut self, footprint: &Footprint) {
        self.used.sub(&footprint.request);
        self.weight_cpu -= footprint.weight_cpu;
        self.weight_memory -= footprint.weight_memory;
        for port in &footprint.ports {
            if let Some(index) = self.ports.iter().position(|other| other == port) {
                self.ports.swap_remove(index);
            }
        }
        if let Some(owner) = &footprint.owner
            && let Some(count) = self.owners.get_mut(owner)
        {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(owner);
            }
        }
    }
}

struct Placed {
    node: String,
    footprint: Footprint,
    /// Decided here, not yet seen in the store.
    assumed: bool,
}

#[derive(Default)]
pub(super) struct Nodes {
    /// In no order that matters; decisions start at a rotating place.
    infos: Vec<NodeInfo>,
    index: HashMap<String, usize>,
    /// By Pod uid.
    placed: HashMap<Arc<str>, Placed>,
}

impl Nodes {
    pub(super) fn all(&self) -> &[NodeInfo] {
        &self.infos
    }

    /// A node is as it says now. True when a Pod that fitted nowhere may fit now.
    pub(super) fn observe(&mut self, node: &Node) -> bool {
        let mut info = NodeInfo::read(node);
        match self.index.get(&info.name) {
            Some(&index) => {
                let known = &mut self.infos[index];
                if known.offers_the_same(&info) {
                    return false;
                }
                known.labels = info.labels;
                known.taints = info.taints;
                known.unschedulable = info.unschedulable;
                known.allocatable = info.allocatable;
            }
            None => {
                for placed in self.placed.values() {
                    if placed.node == info.name {
                        info.take(&placed.footprint);
                    }
                }
                self.index.insert(info.name.clone(), self.infos.len());
                self.infos.push(info);
            }
        }
        true
    }

    pub(super) fn forget(&mut self, name: &str) {
        if let Some(index) = self.index.remove(name) {
            self.infos.swap_remove(index);
            if let Some(moved) = self.infos.get(index) {
                self.index.insert(moved.name.clone(), index);
            }
        }
    }

    /// A Pod is on a node.
    pub(super) fn place(&mut self, uid: &str, node: &str, footprint: Footprint, assumed: bool) {
        if let Some(known) = self.placed.get_mut(uid)
            && known.node == node
            && known.footprint == footprint
        {
            known.assumed &= assumed;
            return;
        }
        self.remove(uid);
        if let Some(info) = self.info(node) {
            info.take(&footprint);
        }
        self.placed.insert(uid.into(), Placed { node: node.to_owned(), footprint, assumed });
    }

    /// A Pod takes nothing any more. True when it took something before.
    pub(super) fn remove(&mut self, uid: &str) -> bool {
        let Some(placed) = self.placed.remove(uid) else { return false };
        if let Some(info) = self.info(&placed.node) {
            info.give_back(&placed.footprint);
        }
        true
    }

    pub(super) fn is_assumed(&self, uid: &str) -> bool {
        self.placed.get(uid).is_some_and(|placed| placed.assumed)
    }

    fn info(&mut self, name: &str) -> Option<&mut NodeInfo> {
        self.index.get(name).map(|&index| &mut self.infos[index])
    }
}
