//! All Services and slices, and which of them have changed since the rules were last planned (pure).
//!
//! Keeps the zone of cluster DNS as well, which is told of each event before it is taken in here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::PoisonError;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kobune_netplugin::nft::services;
use kube::runtime::watcher::Event;

use super::elect::{can_announce, elect};
use super::mirror::{Key, Mirror, key};
use super::plan::{self, Announced, Health, Here, Warning, service_of};
use crate::dns::SharedZone;

/// Something happened to a Service, a slice or a Node.
pub(super) enum Change {
    Service(Box<Event<Service>>),
    Slice(Box<Event<EndpointSlice>>),
    Node(Box<Event<Node>>),
}

/// What to do to the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Work {
    /// These are all Services.
    Replace(services::Services),
    /// These have changed or are gone. Without any: try again what failed.
    Update(BTreeMap<String, Option<services::Service>>),
    /// Somebody else has touched our table.
    Repair,
}

#[derive(Default)]
pub(super) struct World {
    services: Mirror<Service>,
    slices: Mirror<EndpointSlice>,
    nodes: Mirror<Node>,
    /// Slices of each Service.
    slices_of: HashMap<Key, BTreeSet<Key>>,
    zone: SharedZone,
    dirty: BTreeSet<Key>,
    all_dirty: bool,
    warnings: BTreeMap<Key, Vec<Warning>>,
    health: BTreeMap<Key, Health>,
    announced: BTreeMap<Key, Announced>,
}

impl World {
    pub(super) fn new(zone: SharedZone) -> World {
        World { zone, ..World::default() }
    }

    pub(super) fn handle(&mut self, change: Change) {
        match change {
            Change::Service(event) => self.service(*event),
            Change::Slice(event) => self.slice(*event),
            Change::Node(event) => drop(self.nodes.handle(*event)),
        }
    }

    fn service(&mut self, event: Event<Service>) {
        // A zone is whole between any two events, even if somebody panicked over one.
        let mut zone = self.zone.write().unwrap_or_else(PoisonError::into_inner);
        match &event {
            Event::Apply(service) => {
                zone.apply_service(service);
                self.dirty.insert(key(service));
            }
            Event::Delete(service) => {
                zone.delete_service(service);
                self.dirty.insert(key(service));
            }
            _ => {}
        }
        let whole = matches!(event, Event::InitDone);
        self.all_dirty |= whole;
        self.services.handle(event);
        if let Some(all) = self.services.objects().filter(|_| whole) {
            zone.replace_services(all);
        }
    }

    fn slice(&mut self, event: Event<EndpointSlice>) {
        let zone = SharedZone::clone(&self.zone);
        let mut zone = zone.write().unwrap_or_else(PoisonError::into_inner);
        match &event {
            Event::Apply(slice) => zone.apply_slice(slice),
            Event::Delete(slice) => zone.delete_slice(slice),
            _ => {}
        }
        let whole = matches!(event, Event::InitDone);
        let touched = match &event {
            Event::Apply(slice) | Event::Delete(slice) => Some(key(slice)),
            _ => None,
        };
        if let Some(touched) = &touched {
            self.forget(touched);
        }
        self.all_dirty |= whole;
        self.slices.handle(event);
        if let Some(touched) = touched {
            self.remember(touched);
        }
        if let Some(all) = self.slices.objects().filter(|_| whole) {
            zone.replace_slices(all);
            let named = self.slices.objects().into_iter().flatten();
            self.slices_of.clear();
            for slice in named {
                if let Some(service) = service_of(slice) {
                    self.slices_of.entry(service).or_default().insert(key(slice));
                }
            }
        }
    }

    /// A slice is about to change: the Service that it was of is another.
    fn forget(&mut self, slice: &Key) {
        let Some(service) = self.slices.get(slice).and_then(service_of) else { return };
        if let Some(slices) = self.slices_of.get_mut(&service) {
            slices.remove(slice);
            if slices.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        self.dirty.insert(service);
    }

    /// A slice has changed: the Service that it is of is another.
    fn remember(&mut self, slice: Key) {
        let Some(service) = self.slices.get(&slice).and_then(service_of) else { return };
        self.dirty.insert(service.clone());
        self.slices_of.entry(service).or_default().insert(slice);
    }

    /// What has changed since the last time; None before all is known, or if nothing has.
    pub(super) fn plan(&mut self, here: &Here) -> Option<Work> {
        if !self.slices.is_known() || !self.services.is_known() {
            return None;
        }
        if self.all_dirty {
            let names: Vec<Key> = self.services.objects()?.map(key).collect();
            (self.all_dirty, self.dirty) = (false, BTreeSet::new());
            (self.warnings, self.health) = (BTreeMap::new(), BTreeMap::new());
            self.announced = BTreeMap::new();
            let planned = names.iter().filter_map(|name| Some((text(name), self.one(name, here)?)));
            return Some(Work::Replace(planned.collect()));
        }
        if self.dirty.is_empty() {
            return None;
        }
        let names = std::mem::take(&mut self.dirty);
        Some(Work::Update(names.iter().map(|name| (text(name), self.one(name, here))).collect()))
    }

    fn one(&mut self, name: &Key, here: &Here) -> Option<services::Service> {
        self.warnings.remove(name);
        self.health.remove(name);
        self.announced.remove(name);
        let service = self.services.get(name)?;
        let slices: Vec<&EndpointSlice> = self
            .slices_of
            .get(name)
            .into_iter()
            .flatten()
            .filter_map(|slice| self.slices.get(slice))
            .collect();
        let planned = plan::plan(service, &slices, here);
        if !planned.warnings.is_empty() {
            self.warnings.insert(name.clone(), planned.warnings);
        }
        if let Some(health) = planned.health {
            self.health.insert(name.clone(), health);
        }
        if let Some(announced) = planned.announced {
            self.announced.insert(name.clone(), announced);
        }
        planned.service
    }

    /// The addresses that node `me` has to answer for; None before that can be known.
    pub(super) fn elected(&self, me: &str) -> Option<BTreeSet<Ipv4Addr>> {
        if self.all_dirty || !self.slices.is_known() || !self.services.is_known() {
            return None;
        }
        let able: BTreeSet<&str> = self
            .nodes
            .objects()?
            .filter(|node| can_announce(node))
            .filter_map(|node| node.metadata.name.as_deref())
            .collect();
        let mine = |announced: &Announced, address: Ipv4Addr| {
            let takes_part =
                |name: &&str| announced.only.as_ref().is_none_or(|only| only.contains(*name));
            elect(address, able.iter().copied().filter(takes_part)) == Some(me)
        };
        let all =
            self.announced.values().flat_map(|one| one.addresses.iter().map(move |a| (one, *a)));
        Some(all.filter(|(one, address)| mine(one, *address)).map(|(_, address)| address).collect())
    }

    /// What Services ask for in vain, on their own and (door, Service, owner) because of each other.
    pub(super) fn warnings(&self, conflicts: &[(String, String, String)]) -> Vec<Warning> {
        let mut all: Vec<Warning> = self.warnings.values().flatten().cloned().collect();
        for (door, name, owner) in conflicts {
            let Some((namespace, service)) = name.split_once('/') else { continue };
            let key = (namespace.to_owned(), service.to_owned());
            let metadata = self.services.get(&key).map(|service| &service.metadata);
            all.push(Warning {
                uid: metadata.and_then(|one| one.uid.clone()).unwrap_or_default(),
                namespace: key.0,
                service: key.1,
                field: "spec".into(),
                problem: format!("{door} belongs to service {owner} already"),
            });
        }
        all
    }

    /// What balancers outside may ask, by Service.
    pub(super) fn health(&self) -> &BTreeMap<Key, Health> {
        &self.health
    }
}

fn text((namespace, name): &Key) -> String {
    format!("{namespace}/{name}")
}

#[cfg(test)]
#[path = "world_tests.rs"]
mod tests;
