//! Addresses for Services of type LoadBalancer, out of the cluster's pool. An address is free again when its
//! Service is gone; there is no other record of it than the Services' `status.loadBalancer`.
//!
//! Nodes announce what they find there; this knows nothing of nodes.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use super::outcome::{Note, Outcome};
use super::runner::{Controller, Seen};
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;
use crate::writer::Change;

/// Addresses that Services may have: ranges, each with its first and last one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pool(Vec<(Ipv4Addr, Ipv4Addr)>);

/// A text that is no pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a list of IPv4 ranges like 192.0.2.240/28 or 192.0.2.240-192.0.2.250")]
pub struct NoPool;

impl FromStr for Pool {
    type Err = NoPool;

    fn from_str(text: &str) -> Result<Self, NoPool> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let ranges: Vec<_> = parts.map(range).collect::<Result<_, _>>()?;
        if ranges.is_empty() { Err(NoPool) } else { Ok(Pool(ranges)) }
    }
}

fn range(text: &str) -> Result<(Ipv4Addr, Ipv4Addr), NoPool> {
    if let Some((first, last)) = text.split_once('-') {
        let parse = |text: &str| text.trim().parse::<Ipv4Addr>().map_err(|_| NoPool);
        let (first, last) = (parse(first)?, parse(last)?);
        return if first <= last { Ok((first, last)) } else { Err(NoPool) };
    }
    let net: Ipv4Net = match text.parse::<Ipv4Addr>() {
        Ok(address) => address.into(),
        Err(_) => text.parse().map_err(|_| NoPool)?,
    };
    Ok((net.network(), net.broadcast()))
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.0.iter().map(|(first, last)| format!("{first}-{last}")).collect();
        f.write_str(&texts.join(","))
    }
}

impl Pool {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&address))
    }

    fn free(&self, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        let all = self.0.iter().flat_map(|(first, last)| u32::from(*first)..=u32::from(*last));
        all.map(Ipv4Addr::from).find(|address| !taken.contains(address))
    }
}

pub struct Balancer {
    pool: Pool,
}

impl Balancer {
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }
}

impl Controller for Balancer {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:service-controller"
    }

    fn watches(&self) -> Vec<Resource> {
        vec!["services"]
    }

    /// One key for all Services: two may not be given the same address at the same time.
    fn keys(&self, _world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        let concerns = |object: &Object| {
            let view: Option<Arc<Service>> = object.view().ok();
            view.is_some_and(|service| wants(&service) || !ingress(&service).is_empty())
        };
        if seen.states().any(concerns) { vec![Key::new("services", "", "")] } else { Vec::new() }
    }

    fn reconcile(&self, world: &dyn Reader, _key: &Key, _now: Timestamp) -> Outcome {
        let mut all: Vec<(Arc<Object>, Arc<Service>)> = world
            .list("services", None)
            .into_iter()
            .filter_map(|object| Some((object.view().ok()?, object)))
            .map(|(service, object)| (object, service))
            .collect();
        // Who came first keeps what it has, or is served first.
        all.sort_by(|(a, _), (b, _)| {
            let age = |o: &Object| {
                (o.meta.creation_timestamp.clone(), o.meta.namespace.clone(), o.meta.name.clone())
            };
            age(a).cmp(&age(b))
        });
        let mut outcome = Outcome::idle();
        let mut taken = BTreeSet::new();
        let mut acts = Vec::new();
        let mut without = Vec::new();
        for (object, service) in &all {
            if !wants(service) {
                let was = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
                if was != Some("LoadBalancer") && !ingress(service).is_empty() {
                    acts.push(status(object, json!({})).into());
                }
            } else if self.keeps(service).is_none_or(|address| !taken.insert(address)) {
                without.push((object, service));
            }
        }
        for (object, service) in without {
            match self.choose(service, &taken) {
                Ok(address) => {
                    taken.insert(address);
                    let ingress = json!({"ingress": [{"ip": address, "ipMode": "VIP"}]});
                    let note = format!("Assigned IP {address}");
                    let act: super::outcome::Act = status(object, ingress).into();
                    acts.push(act.noting(Note::normal(object, "IPAllocated", note)));
                }
                Err(why) => {
                    if !ingress(service).is_empty() {
                        acts.push(status(object, json!({})).into());
                    }
                    outcome.notes.push(Note::warning(object, "AllocationFailed", why));
                }
            }
        }
        outcome.together(acts);
        outcome
    }
}

impl Balancer {
    /// The address that the Service has and may keep.
    fn keeps(&self, service: &Service) -> Option<Ipv4Addr> {
        let address = ingress(service).first().copied()?;
        let fits = match asked(service) {
            Some(text) => text.parse() == Ok(address),
            None => true,
        };
        (fits && self.pool.contains(address)).then_some(address)
    }

    fn choose(&self, service: &Service, taken: &BTreeSet<Ipv4Addr>) -> Result<Ipv4Addr, String> {
        if self.pool.is_empty() {
            return Err("no pool of addresses is configured (load-balancer-pool)".into());
        }
        let Some(text) = asked(service) else {
            let free = self.pool.free(taken);
            return free
                .ok_or_else(|| format!("all addresses of the pool {} are taken", self.pool));
        };
        let address: Ipv4Addr = text
            .parse()
            .map_err(|_| format!("spec.loadBalancerIP: {text:?} is not an IPv4 address"))?;
        if !self.pool.contains(address) {
            return Err(format!("spec.loadBalancerIP: {address} is not in the pool {}", self.pool));
        }
        if taken.contains(&address) {
            return Err(format!("spec.loadBalancerIP: {address} is taken by another service"));
        }
        Ok(address)
    }
}

/// A Service with a class belongs to somebody else.
fn wants(service: &Service) -> bool {
    let deleting = service.metadata.deletion_timestamp.is_some();
    !deleting
        && service.spec.as_ref().is_some_and(|spec| {
            spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none()
        })
}

fn asked(service: &Service) -> Option<&str> {
    service.spec.as_ref()?.load_balancer_ip.as_deref().filter(|text| !text.is_empty())
}

fn ingress(service: &Service) -> Vec<Ipv4Addr> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let all = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    all.filter_map(|one| one.ip.as_ref()?.parse().ok()).collect()
}

fn status(object: &Object, balancer: Value) -> Change {
    let mut value = object.value();
    value["status"]["loadBalancer"] = balancer;
    Change::Update { resource: "services", subresource: Some("status"), object: value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::world::World;

    fn service(name: &str, more: Value) -> (Resource, Value) {
        let mut spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let metadata = json!({"name": name, "namespace": "team"});
        ("services", json!({"metadata": metadata, "spec": spec}))
    }

    /// Settles, and returns the reasons told.
    fn settle(world: &mut World, pool: &str) -> Vec<String> {
        let balancer = Balancer::new(pool.parse().unwrap_or_default());
        let key = Key::new("services", "", "");
        let outcome = balancer.reconcile(world, &key, world.now);
        for act in outcome.batches.into_iter().flatten() {
            world.apply(act.change).expect("apply");
        }
        let again = balancer.reconcile(world, &key, world.now);
        assert_eq!(again.batches, Vec::<Vec<_>>::new(), "idle afterwards");
        outcome.notes.into_iter().map(|note| note.message).collect()
    }

    fn address(world: &World, name: &str) -> String {
        let value = world.value("services", "team", name);
        value["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap_or("-").to_owned()
    }

    #[test]
    fn pools_are_ranges_of_both_kinds() {
        let pool: Pool = "192.0.2.240/30, 192.0.2.8-192.0.2.9,192.0.2.1".parse().unwrap();
        let text = "192.0.2.240-192.0.2.243,192.0.2.8-192.0.2.9,192.0.2.1-192.0.2.1";
        assert_eq!(pool.to_string(), text);
        assert_eq!(text.parse(), Ok(pool));
        for bad in ["", "x", "192.0.2.9-192.0.2.8", "192.0.2.0/33", "fd00::/64", "1.2.3.4-"] {
            assert_eq!(bad.parse::<Pool>(), Err(NoPool), "{bad:?}");
        }
    }

    #[test]
    fn addresses_are_given_kept_and_given_back() {
        let pool = "192.0.2.1-192.0.2.2";
        let mut world = World::with([
            service("a", json!({})),
            service("b", json!({})),
            service("c", json!({})),
            service("theirs", json!({"loadBalancerClass": "example.org/x"})),
            service("plain", json!({"type": "ClusterIP"})),
        ]);
        let told = settle(&mut world, pool);
        assert_eq!(told, ["all addresses of the pool 192.0.2.1-192.0.2.2 are taken"]);
        let all =
            |world: &World| ["a", "b", "c", "theirs", "plain"].map(|name| address(world, name));
        assert_eq!(all(&world), ["192.0.2.1", "192.0.2.2", "-", "-", "-"]);
        world.remove("services", "team", "a");
        assert!(settle(&mut world, pool).is_empty());
        assert_eq!(address(&world, "c"), "192.0.2.1");
        // No balancer any more: the address is free.
        world.edit("services", "team", "b", |one| one["spec"]["type"] = json!("NodePort"));
        settle(&mut world, pool);
        assert_eq!(address(&world, "b"), "-");
        // Another pool.
        settle(&mut world, "192.0.2.9");
        assert_eq!(address(&world, "c"), "192.0.2.9");
    }

    #[test]
    fn an_address_can_be_asked_for() {
        let ask = |name, ip: &str| service(name, json!({"loadBalancerIP": ip}));
        let mut world = World::with([
            ask("a", "192.0.2.7"),
            ask("b", "192.0.2.7"),
            ask("c", "192.0.2.99"),
            ask("d", "x"),
        ]);
        let told = settle(&mut world, "192.0.2.0/28");
        assert_eq!(address(&world, "a"), "192.0.2.7");
        assert_eq!(
            told,
            [
                "spec.loadBalancerIP: 192.0.2.7 is taken by another service",
                "spec.loadBalancerIP: 192.0.2.99 is not in the pool 192.0.2.0-192.0.2.15",
                "spec.loadBalancerIP: \"x\" is not an IPv4 address",
            ]
        );
        world.edit("services", "team", "a", |one| {
            one["spec"]["loadBalancerIP"] = json!("192.0.2.8")
        });
        settle(&mut world, "192.0.2.0/28");
        assert_eq!(address(&world, "a"), "192.0.2.8");
        assert_eq!(address(&world, "b"), "192.0.2.7", "free now");
    }

    #[test]
    fn without_a_pool_services_wait_and_it_is_said() {
        let mut world = World::with([service("a", json!({}))]);
        let told = settle(&mut world, "");
        assert_eq!(told, ["no pool of addresses is configured (load-balancer-pool)"]);
        assert_eq!(address(&world, "a"), "-");
    }
}
