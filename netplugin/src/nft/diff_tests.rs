//! What the diff promises, against a model of the kernel's sets.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::nft::services::Protocol;

/// The sets as the kernel keeps them: adding what is there or removing what is not is an error.
#[derive(Default)]
struct Kernel {
    ports: HashMap<VipPort, u32>,
    slots: HashMap<(u32, u32), Backend>,
    addresses: BTreeSet<Ipv4Addr>,
    hairpin: BTreeSet<Ipv4Addr>,
}

impl Kernel {
    fn apply(&mut self, changes: &Changes) {
        for entry in &changes.remove {
            let removed = match entry {
                Entry::Port { vip, mark } => self.ports.remove(vip) == Some(*mark),
                Entry::Slot { id, slot, backend } => {
                    self.slots.remove(&(*id, *slot)) == Some(*backend)
                }
                Entry::ClusterIp(address) => self.addresses.remove(address),
                Entry::Hairpin(address) => self.hairpin.remove(address),
            };
            assert!(removed, "removed what was not there: {entry:?}");
        }
        for entry in &changes.add {
            let added = match entry {
                Entry::Port { vip, mark } => self.ports.insert(*vip, *mark).is_none(),
                Entry::Slot { id, slot, backend } => {
                    self.slots.insert((*id, *slot), *backend).is_none()
                }
                Entry::ClusterIp(address) => self.addresses.insert(*address),
                Entry::Hairpin(address) => self.hairpin.insert(*address),
            };
            assert!(added, "added what was there: {entry:?}");
        }
    }

    /// What a packet to `vip` could meet: every slot that the rules may pick.
    fn backends(&self, vip: &VipPort) -> Vec<Backend> {
        let Some(mark) = self.ports.get(vip) else { return Vec::new() };
        let (id, class) = (mark >> 12, mark >> 4 & 0xff);
        let slots = if class <= 128 { class } else { 2048 << (class - 129) };
        (0..slots).map(|slot| self.slots[&(id, slot)]).collect()
    }
}

fn vip(n: u8) -> VipPort {
    let protocol = if n.is_multiple_of(2) { Protocol::Tcp } else { Protocol::Udp };
    VipPort { address: Ipv4Addr::new(10, 96, 0, n / 4), protocol, port: 80 + u16::from(n) }
}

fn backend(n: u16) -> Backend {
    let [high, low] = n.to_be_bytes();
    Backend { address: Ipv4Addr::new(10, 244, high, low), port: 8080 }
}

fn table(ports: &[(u8, Vec<u16>)]) -> ServiceTable {
    let mut table = ServiceTable::default();
    for (n, backends) in ports {
        let backends: Vec<_> = backends.iter().copied().map(backend).collect();
        table.local_pods.extend(backends.iter().map(|b| b.address));
        table.ports.insert(vip(*n), backends);
    }
    table
}

fn tables() -> impl Strategy<Value = Vec<ServiceTable>> {
    let backends = proptest::collection::vec(0..40u16, 0..20);
    let ports = proptest::collection::vec((0..12u8, backends), 0..8);
    proptest::collection::vec(ports.prop_map(|ports| table(&ports)), 1..8)
}

proptest! {
    /// Whatever the history, the kernel ends up balancing exactly what is wanted, evenly.
    #[test]
    fn the_kernel_follows(history in tables()) {
        let (mut installed, mut kernel) = (Installed::default(), Kernel::default());
        for wanted in &history {
            kernel.apply(&installed.advance(wanted).unwrap());
            prop_assert_eq!(&kernel.hairpin, &wanted.local_pods);
            let mut used = 0;
            for (vip, backends) in &wanted.ports {
                let distinct: BTreeSet<_> = backends.iter().copied().collect();
                let found = kernel.backends(vip);
                prop_assert_eq!(found.len(), distinct.len());
                prop_assert_eq!(found.iter().copied().collect::<BTreeSet<_>>(), distinct);
                prop_assert!(kernel.addresses.contains(&vip.address));
                used += found.len();
            }
            prop_assert_eq!(kernel.slots.len(), used, "no slot is left over");
            let served = wanted.ports.values().filter(|backends| !backends.is_empty()).count();
            prop_assert_eq!(kernel.ports.len(), served);
            prop_assert_eq!(installed.advance(wanted).unwrap().len(), 0, "a second time is free");
        }
    }
}

#[test]
fn one_endpoint_costs_a_handful_of_elements() {
    let mut wanted = ServiceTable::default();
    for n in 0..1000u16 {
        let [high, low] = n.to_be_bytes();
        let vip = VipPort {
            address: Ipv4Addr::new(10, 96, high, low),
            protocol: Protocol::Tcp,
            port: 80,
        };
        wanted.ports.insert(vip, (0..10).map(|m| backend(n * 10 + m)).collect());
    }
    let mut installed = Installed::default();
    assert_eq!(installed.advance(&wanted).unwrap().len(), 1000 * 12);
    let some = *wanted.ports.keys().nth(500).unwrap();
    let gone = wanted.ports.get_mut(&some).unwrap().remove(3);
    // The hole and its filler, the old last slot, the class.
    assert_eq!(installed.advance(&wanted).unwrap().len(), 5);
    wanted.ports.get_mut(&some).unwrap().push(gone);
    assert_eq!(installed.advance(&wanted).unwrap().len(), 3);
}

#[test]
fn hundreds_of_backends_share_evenly() {
    let wanted = table(&[(0, (0..300).collect())]);
    let (mut installed, mut kernel) = (Installed::default(), Kernel::default());
    kernel.apply(&installed.advance(&wanted).unwrap());
    let mut share: HashMap<Backend, u32> = HashMap::new();
    for backend in kernel.backends(&vip(0)) {
        *share.entry(backend).or_default() += 1;
    }
    assert_eq!(share.len(), 300);
    let (least, most) = (share.values().min().unwrap(), share.values().max().unwrap());
    assert!(most - least <= 1 && *least >= 8, "{least}..{most}");
}

#[test]
fn a_port_without_backends_is_known_but_not_balanced() {
    let (mut installed, mut kernel) = (Installed::default(), Kernel::default());
    kernel.apply(&installed.advance(&table(&[(0, vec![])])).unwrap());
    assert!(kernel.ports.is_empty());
    assert!(kernel.addresses.contains(&vip(0).address));
}

#[test]
fn ids_are_used_again_and_run_out_with_an_error() {
    let mut installed = Installed { next_id: ruleset::MAX_ID, ..Installed::default() };
    installed.advance(&table(&[(0, vec![1])])).unwrap();
    assert_eq!(installed.advance(&table(&[(0, vec![1]), (1, vec![1])])), Err(TooManyPorts));
    let mut installed = Installed { next_id: ruleset::MAX_ID, ..Installed::default() };
    installed.advance(&table(&[(0, vec![1])])).unwrap();
    installed.advance(&table(&[(1, vec![1])])).unwrap();
}
