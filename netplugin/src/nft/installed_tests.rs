//! What the bookkeeping promises, against a model of the kernel's sets.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::nft::services::{Backend, Group, Otherwise, Place, Protocol, Services, VipPort};

/// The sets as the kernel keeps them: adding what is there or removing what is not is an error.
#[derive(Default, Clone)]
struct Kernel(HashMap<Key, Value>);

impl Kernel {
    fn apply(&mut self, changes: &Changes) {
        for (key, value) in changes.removals() {
            assert_eq!(
                self.0.remove(key).as_ref(),
                Some(value),
                "removed what was not there: {key:?}"
            );
        }
        for (key, value) in changes.additions() {
            assert!(self.0.insert(*key, *value).is_none(), "added what was there: {key:?}");
        }
    }

    /// What a packet to `door` could meet: every slot that the rules may pick.
    fn backends(&self, door: &Door) -> Vec<Backend> {
        let Some(Value::Mark(mark)) = self.0.get(&Key::Door(*door)) else { return Vec::new() };
        let (id, class) = (mark >> 12, mark >> 4 & 0xff);
        let slots = match class {
            254.. => 0,
            0..=128 => class,
            coarse => 2048 << (coarse - 129),
        };
        let follow = |slot| match self.0.get(&Key::Pick { id, slot }) {
            Some(Value::Mark(mark)) => self.0[&Key::Sticky { mark: *mark }],
            _ => self.0[&Key::Slot { id, slot }],
        };
        let backend = |slot| match follow(slot) {
            Value::Backend(backend) => backend,
            other => panic!("{other:?}"),
        };
        (0..slots).map(backend).collect()
    }
}

fn vip(n: u8) -> VipPort {
    let protocol = Protocol::ALL[usize::from(n) % 3];
    VipPort { address: Ipv4Addr::new(10, 96, 0, n / 4), protocol, port: 80 + u16::from(n) }
}

fn door(n: u8) -> Door {
    Door::for_all(Place::Address(vip(n)))
}

fn backend(n: u16) -> Backend {
    let [high, low] = n.to_be_bytes();
    Backend { address: Ipv4Addr::new(10, 244, high, low), port: 8080 }
}

fn group(n: u8, backends: &[u16], affinity: bool) -> Group {
    Group {
        doors: [door(n)].into(),
        backends: backends.iter().copied().map(backend).collect(),
        affinity: affinity.then_some(10 + u32::from(n % 2)),
        ..Group::default()
    }
}

fn services(ports: &[(u8, Vec<u16>, bool)]) -> Services {
    let mut all = Services::new();
    for (n, backends, affinity) in ports {
        // Some Services have several ports.
        let service = all.entry(format!("s{}", n / 2)).or_default();
        service.groups.insert(n.to_string(), group(*n, backends, *affinity));
        service.cluster_ips.insert(vip(*n).address);
        service.local_pods.extend(backends.iter().map(|b| backend(*b).address));
    }
    all
}

fn table(ports: &[(u8, Vec<u16>)]) -> Services {
    services(&ports.iter().map(|(n, list)| (*n, list.clone(), false)).collect::<Vec<_>>())
}

/// Advances as [`super::super::Rules`] does.
fn follow(installed: &mut Installed, old: &Services, new: &Services) -> Changes {
    let mut changes = Changes::default();
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names.into_iter().filter(|name| old.get(*name) != new.get(*name)) {
        let wanted = new.get(name).cloned().map(Arc::new);
        installed.advance(name, wanted.as_ref(), &mut changes).unwrap();
    }
    changes
}

fn check(kernel: &Kernel, wanted: &Services) {
    let mut slots = 0;
    for group in wanted.values().flat_map(|service| service.groups.values()) {
        let distinct: BTreeSet<_> = group.backends.iter().copied().collect();
        let found = kernel.backends(group.doors.first().unwrap());
        assert_eq!(found.len(), distinct.len());
        assert_eq!(found.iter().copied().collect::<BTreeSet<_>>(), distinct);
        slots += found.len();
    }
    let count = |of: fn(&Key) -> bool| kernel.0.keys().filter(|key| of(key)).count();
    assert_eq!(count(|key| matches!(key, Key::Slot { .. } | Key::Pick { .. })), slots);
    let pods: BTreeSet<_> = wanted.values().flat_map(|s| s.local_pods.iter()).collect();
    assert_eq!(count(|key| matches!(key, Key::Hairpin(_))), pods.len());
    let ips: BTreeSet<_> = wanted.values().flat_map(|s| s.cluster_ips.iter()).collect();
    assert_eq!(count(|key| matches!(key, Key::ClusterIp(_))), ips.len());
    let doors: usize = wanted.values().map(|service| service.groups.len()).sum();
    assert_eq!(count(|key| matches!(key, Key::Door(_))), doors);
}

fn histories() -> impl Strategy<Value = Vec<Services>> {
    let backends = proptest::collection::vec(0..40u16, 0..20);
    let ports = proptest::collection::vec((0..12u8, backends, any::<bool>()), 0..8);
    proptest::collection::vec(ports.prop_map(|ports| services(&ports)), 1..8)
}

proptest! {
    /// Whatever the history, the kernel ends up balancing exactly what is wanted, evenly; a process that takes over
    /// at any time changes no more than what is wanted differently, and so does a repair.
    #[test]
    fn the_kernel_follows(history in histories(), restarts in any::<u8>()) {
        let (mut installed, mut kernel, mut old) =
            (Installed::default(), Kernel::default(), Services::new());
        for (n, wanted) in history.iter().enumerate() {
            kernel.apply(&follow(&mut installed, &old, wanted));
            check(&kernel, wanted);
            prop_assert_eq!(&installed.elements, &kernel.0);
            if restarts >> n & 1 == 1 {
                let shared: BTreeMap<String, Arc<Service>> =
                    wanted.iter().map(|(name, one)| (name.clone(), Arc::new(one.clone()))).collect();
                let patience = installed.patience.clone();
                let (next, changes) =
                    Installed::adopt(kernel.0.clone(), patience, shared.iter()).unwrap();
                prop_assert_eq!(changes.len(), 0, "{:?}", changes);
                installed = next;
            }
            prop_assert_eq!(installed.restore(&kernel.0).len(), 0);
            prop_assert_eq!(installed.restore(&HashMap::new()).len(), kernel.0.len());
            old = wanted.clone();
        }
    }

    /// A client that is remembered stays with its backend as long as that is there, and has a live one always.
    #[test]
    fn numbers_keep_their_backends(sets in proptest::collection::vec(proptest::collection::vec(0..30u16, 1..12), 1..10)) {
        let (mut installed, mut kernel) = (Installed::default(), Kernel::default());
        let mut old = Services::new();
        let mut remembered: HashMap<u32, Backend> = HashMap::new();
        for backends in &sets {
            let wanted = services(&[(0, backends.clone(), true)]);
            kernel.apply(&follow(&mut installed, &old, &wanted));
            let live: BTreeSet<Backend> = backends.iter().copied().map(backend).collect();
            for (mark, was) in &mut remembered {
                let Value::Backend(is) = kernel.0[&Key::Sticky { mark: *mark }] else { panic!() };
                prop_assert!(live.contains(&is));
                prop_assert!(is == *was || !live.contains(was));
                *was = is;
            }
            for (key, value) in &kernel.0 {
                if let (Key::Pick { .. }, Value::Mark(mark)) = (key, value) {
                    let Value::Backend(is) = kernel.0[&Key::Sticky { mark: *mark }] else { panic!() };
                    remembered.insert(*mark, is);
                }
            }
            old = wanted;
        }
    }
}

#[test]
fn one_endpoint_costs_a_handful_of_elements() {
    let mut wanted = Services::new();
    for n in 0..1000u16 {
        let [high, low] = n.to_be_bytes();
        let address = Ipv4Addr::new(10, 96, high, low);
        let place = Place::Address(VipPort { address, protocol: Protocol::Tcp, port: 80 });
        let group = Group {
            doors: [Door::for_all(place)].into(),
            backends: (0..10).map(|m| backend(n * 10 + m)).collect(),
            ..Group::default()
        };
        let groups = [("80".into(), group)].into();
        let service = Service { groups, cluster_ips: [address].into(), ..Service::default() };
        wanted.insert(format!("s{n}"), service);
    }
    let mut installed = Installed::default();
    assert_eq!(follow(&mut installed, &Services::new(), &wanted).len(), 1000 * 12);
    let mut less = wanted.clone();
    less.get_mut("s500").unwrap().groups.get_mut("80").unwrap().backends.remove(3);
    // The hole and its filler, the old last slot, the class.
    assert_eq!(follow(&mut installed, &wanted, &less).len(), 5);
    assert_eq!(follow(&mut installed, &less, &wanted).len(), 3);
}

#[test]
fn hundreds_of_backends_share_evenly() {
    let wanted = table(&[(0, (0..300).collect())]);
    let (mut installed, mut kernel) = (Installed::default(), Kernel::default());
    kernel.apply(&follow(&mut installed, &Services::new(), &wanted));
    let mut share: HashMap<Backend, u32> = HashMap::new();
    for backend in kernel.backends(&door(0)) {
        *share.entry(backend).or_default() += 1;
    }
    assert_eq!(share.len(), 300);
    let (least, most) = (share.values().min().unwrap(), share.values().max().unwrap());
    assert!(most - least <= 1 && *least >= 8, "{least}..{most}");
}

#[test]
fn a_port_without_backends_is_refused_or_dropped() {
    for (otherwise, class) in [(Otherwise::Refuse, 255), (Otherwise::Drop, 254)] {
        let (mut installed, mut kernel) = (Installed::default(), Kernel::default());
        let mut wanted = table(&[(0, vec![])]);
        wanted.get_mut("s0").unwrap().groups.get_mut("0").unwrap().otherwise = otherwise;
        kernel.apply(&follow(&mut installed, &Services::new(), &wanted));
        let Value::Mark(mark) = kernel.0[&Key::Door(door(0))] else { panic!("a mark") };
        assert_eq!(mark >> 4 & 0xff, class);
    }
}

#[test]
fn a_door_is_its_first_owners_and_then_the_next_ones() {
    let (mut installed, mut kernel) = (Installed::default(), Kernel::default());
    let named = |names: &[(&str, u16)]| -> Services {
        let of = |(name, n): &(&str, u16)| {
            let groups = [("x".into(), group(0, &[*n], false))].into();
            ((*name).to_owned(), Service { groups, ..Service::default() })
        };
        names.iter().map(of).collect()
    };
    let (first, both) = (named(&[("b", 1)]), named(&[("a", 2), ("b", 1)]));
    kernel.apply(&follow(&mut installed, &Services::new(), &first));
    kernel.apply(&follow(&mut installed, &first, &both));
    assert_eq!(kernel.backends(&door(0)), [backend(1)]);
    let conflicts: Vec<_> = installed.conflicts().collect();
    assert_eq!(conflicts, [(&door(0), "a", "b")]);
    let second = named(&[("a", 2)]);
    kernel.apply(&follow(&mut installed, &both, &second));
    assert_eq!(kernel.backends(&door(0)), [backend(2)]);
    assert_eq!(installed.conflicts().count(), 0);
    kernel.apply(&follow(&mut installed, &second, &Services::new()));
    assert!(kernel.0.is_empty(), "{:?}", kernel.0);
}

#[test]
fn ids_run_out_with_an_error_and_are_used_again() {
    let mut installed = Installed { next_id: ruleset::MAX_ID, ..Installed::default() };
    let (one, other) = (table(&[(0, vec![1])]), table(&[(2, vec![1])]));
    follow(&mut installed, &Services::new(), &one);
    let second = Arc::new(other["s1"].clone());
    let refused = installed.clone().advance("s1", Some(&second), &mut Changes::default());
    assert_eq!(refused, Err(TooManyGroups));
    follow(&mut installed, &one, &Services::new());
    follow(&mut installed, &Services::new(), &other);
}
