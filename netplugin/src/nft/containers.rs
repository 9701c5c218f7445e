//! Containers of foreign runtimes that leave their network under the host's address: table `ip kobune-cni`. One set
//! says who, another which way is not out; no rule changes at run time. Shared by all networks and processes, and
//! left there when it is empty.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::encode::{Batch, Element};
use super::model::{Base, Chain, Expr, Holds, Hook, HookPoint, Rule, Set, Type};
use super::{commit, open_socket};
use crate::Error;

const TABLE: &str = "kobune-cni";
const CONTAINERS: &str = "containers";
const NEAR: &str = "near";
const SRCNAT: i32 = 100;

/// From now on, packets of `address` that leave `subnet` are masqueraded.
pub(crate) fn add(address: Ipv4Addr, subnet: Ipv4Net) -> Result<(), Error> {
    let mut socket = open_socket()?;
    let mut all = Batch::new(TABLE);
    all.create_new_table("containers of foreign runtimes");
    for set in sets() {
        all.create_set(&set);
    }
    let chain = chain();
    all.create_chain(&chain);
    for rule in &chain.rules {
        all.append_rule(&chain.name, rule);
    }
    add_elements(&mut all, address, subnet);
    match commit(&mut socket, all) {
        // Some process has made the table before, with everything in it.
        Err(error) if error.errno() == Some(libc::EEXIST) => {}
        other => return other,
    }
    let mut elements = Batch::new(TABLE);
    add_elements(&mut elements, address, subnet);
    commit(&mut socket, elements)
}

/// Tolerates absence.
pub(crate) fn remove(address: Ipv4Addr, subnet: Ipv4Net) -> Result<(), Error> {
    let mut batch = Batch::new(TABLE);
    let [container, near] = elements(address, subnet);
    batch.delete_elements(CONTAINERS, &[container]);
    batch.delete_elements(NEAR, &[near]);
    match commit(&mut open_socket()?, batch) {
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn add_elements(batch: &mut Batch, address: Ipv4Addr, subnet: Ipv4Net) {
    let [container, near] = elements(address, subnet);
    batch.add_elements(CONTAINERS, &[container]);
    batch.add_elements(NEAR, &[near]);
}

fn elements(address: Ipv4Addr, subnet: Ipv4Net) -> [Element; 2] {
    let with = |other: Ipv4Addr| [address.octets(), other.octets()].concat();
    [
        Element { key: address.octets().to_vec(), end: None, value: None },
        Element { key: with(subnet.network()), end: Some(with(subnet.broadcast())), value: None },
    ]
}

fn sets() -> [Set; 2] {
    let near = &[Type::Address, Type::Address];
    [
        Set { name: CONTAINERS, key: &[Type::Address], data: None, holds: Holds::Values },
        Set { name: NEAR, key: near, data: None, holds: Holds::Ranges },
    ]
}

fn chain() -> Chain {
    let address = |to, offset| Expr::Payload { to, base: Base::Network, offset, length: 4 };
    let (source, destination) = (12, 16);
    let expressions = vec![
        address(0, source),
        Expr::Lookup { set: CONTAINERS, key: 0, to: None },
        address(0, source),
        address(1, destination),
        Expr::Absent { set: NEAR, key: 0 },
        // To many at once: nobody answers the host.
        address(0, destination),
        Expr::And { register: 0, mask: vec![0xf0, 0, 0, 0] },
        Expr::Compare { register: 0, equal: false, value: vec![0xe0, 0, 0, 0] },
        Expr::Masquerade,
    ];
    Chain {
        name: "postrouting".into(),
        hook: Some(Hook { kind: "nat", point: HookPoint::Postrouting, priority: SRCNAT }),
        rules: vec![Rule { comment: "containers leaving their network", expressions }],
    }
}
