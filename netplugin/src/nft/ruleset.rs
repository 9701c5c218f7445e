//! The table `ip kobune`, without the Services in it (pure).
//!
//! ```text
//! prerouting, output (nat) -- destination in the Service range --> services
//! services   mark := service-ips[address . protocol . port]      id << 12 | class << 4
//!            classes[mark & class] --> goto lb-N
//! lb-N       dnat to eps[id . random mod N]                       address . port
//! forward, output (filter, after nat) -- still in the Service range --> undelivered
//! undelivered  known address: refused; anything else: dropped
//! postrouting (nat)  a Pod reaching itself, strangers using a VIP, Pods leaving the cluster:
//!            masquerade
//! ```
//! One chain per number of backends, made beforehand, since `numgen` wants a constant. Only data
//! elements change at run time: adding a verdict would make the kernel check all verdicts again.
//! A port without backends has no element, so that its packets end in `undelivered`.
//!
//! Going through the mark and a second rule, instead of from map to map in one, is for the sake
//! of `nft list ruleset` 1.0.6, which aborts on the latter.

use ipnet::Ipv4Net;

use super::model::{
    Base, Chain, Data, Expr, Hook, HookPoint, MetaKey, Register, Rule, Set, Type, Verdict,
};
use crate::HostConfig;

pub(crate) const TABLE: &str = "kobune";
pub(crate) const SERVICE_IPS: &str = "service-ips";
pub(crate) const ENDPOINTS: &str = "eps";
pub(crate) const CLASSES: &str = "classes";
pub(crate) const CLUSTER_IPS: &str = "cluster-ips";
pub(crate) const HAIRPIN: &str = "hairpin";

const CLASS_SHIFT: u32 = 4;
const ID_SHIFT: u32 = 12;
const CLASS_MASK: u32 = 0xff << CLASS_SHIFT;
/// Largest service id that fits into a mark.
pub(crate) const MAX_ID: u32 = (1 << (32 - ID_SHIFT)) - 1;

/// Up to this many backends each has one slot.
const EXACT: u32 = 128;
/// Beyond it, slots are repeated; with at least eight per backend nobody gets more than an eighth
/// above the others.
const COARSE: [u32; 6] = [2048, 4096, 8192, 16384, 32768, 65536];

/// How many slots `backends` backends take, and in which class that is. None without backends.
pub(crate) fn class(backends: usize) -> Option<(u32, u32)> {
    let backends = u32::try_from(backends).unwrap_or(u32::MAX);
    if backends <= EXACT {
        return (backends > 0).then_some((backends, backends));
    }
    let fits = |slots: &u32| *slots >= backends.saturating_mul(8);
    let index = COARSE.iter().position(fits).unwrap_or(COARSE.len() - 1);
    Some((EXACT + 1 + index as u32, COARSE[index]))
}

fn classes() -> impl Iterator<Item = (u32, u32)> {
    let coarse = (EXACT + 1..).zip(COARSE);
    (1..=EXACT).map(|n| (n, n)).chain(coarse)
}

/// What the packet mark says: where the slots are and how many.
pub(crate) fn mark(id: u32, class: u32) -> u32 {
    id << ID_SHIFT | class << CLASS_SHIFT
}

fn chain_name(slots: u32) -> String {
    format!("lb-{slots}")
}

/// Elements of the constant map from class to chain: key and verdict.
pub(crate) fn class_elements() -> Vec<(u32, Verdict)> {
    classes().map(|(class, slots)| (mark(0, class), Verdict::Goto(chain_name(slots)))).collect()
}

pub(crate) fn sets() -> Vec<Set> {
    let set = |name, key, data| Set { name, key, data };
    vec![
        set(
            SERVICE_IPS,
            &[Type::Address, Type::Protocol, Type::Port],
            Some(Data::Value(&[Type::Mark])),
        ),
        set(ENDPOINTS, &[Type::Mark, Type::Mark], Some(Data::Value(&[Type::Address, Type::Port]))),
        set(CLASSES, &[Type::Mark], Some(Data::Verdict)),
        set(CLUSTER_IPS, &[Type::Address], None),
        set(HAIRPIN, &[Type::Address, Type::Address], None),
    ]
}

/// All chains with their rules.
pub(crate) fn chains(config: &HostConfig) -> Vec<Chain> {
    let mut chains: Vec<Chain> = classes().map(|(_, slots)| balance(slots)).collect();
    chains.push(Chain { name: "services".into(), hook: None, rules: services() });
    chains.push(Chain { name: "undelivered".into(), hook: None, rules: undelivered() });
    let hooked = |name: &str, kind, point, priority, rules| Chain {
        name: name.into(),
        hook: Some(Hook { kind, point, priority }),
        rules,
    };
    let to_services = || vec![in_service_range(config, "services")];
    let to_undelivered = || vec![in_service_range(config, "undelivered")];
    const DSTNAT: i32 = -100;
    const SRCNAT: i32 = 100;
    chains.extend([
        hooked("nat-prerouting", "nat", HookPoint::Prerouting, DSTNAT, to_services()),
        hooked("nat-output", "nat", HookPoint::Output, DSTNAT, to_services()),
        hooked("filter-forward", "filter", HookPoint::Forward, 0, to_undelivered()),
        hooked("filter-output", "filter", HookPoint::Output, DSTNAT + 10, to_undelivered()),
        hooked("nat-postrouting", "nat", HookPoint::Postrouting, SRCNAT, postrouting(config)),
    ]);
    chains
}

fn in_service_range(config: &HostConfig, chain: &str) -> Rule {
    let mut expressions = destination_in(config.service_cidr, true);
    expressions.push(Expr::Verdict(Verdict::Jump(chain.into())));
    Rule { comment: "", expressions }
}

fn services() -> Vec<Rule> {
    let class = CLASS_MASK.to_ne_bytes().to_vec();
    vec![
        Rule {
            comment: "no stranger's mark may pass for ours",
            expressions: vec![
                Expr::Immediate { to: 0, value: 0u32.to_ne_bytes().to_vec() },
                Expr::SetMark { from: 0 },
            ],
        },
        Rule {
            comment: "service id and number of endpoints",
            expressions: vec![
                destination(0),
                Expr::Meta { to: 1, key: MetaKey::Protocol },
                Expr::Payload { to: 2, base: Base::Transport, offset: 2, length: 2 },
                Expr::Lookup { set: SERVICE_IPS, key: 0, to: Some(0) },
                Expr::SetMark { from: 0 },
            ],
        },
        Rule {
            comment: "",
            expressions: vec![
                Expr::Meta { to: 0, key: MetaKey::Mark },
                Expr::And { register: 0, mask: class },
                Expr::Dispatch { map: CLASSES, key: 0 },
            ],
        },
    ]
}

/// Picks one of `slots` slots of the service in the mark.
fn balance(slots: u32) -> Chain {
    let id = (!0u32 << ID_SHIFT).to_ne_bytes().to_vec();
    let rule = Rule {
        comment: "",
        expressions: vec![
            Expr::Meta { to: 0, key: MetaKey::Mark },
            Expr::And { register: 0, mask: id },
            Expr::Random { to: 1, modulus: slots },
            Expr::Lookup { set: ENDPOINTS, key: 0, to: Some(0) },
            Expr::DestinationNat { address: 0, port: 1 },
        ],
    };
    Chain { name: chain_name(slots), hook: None, rules: vec![rule] }
}

fn undelivered() -> Vec<Rule> {
    let known = || vec![destination(0), Expr::Lookup { set: CLUSTER_IPS, key: 0, to: None }];
    let mut reset = known();
    reset.extend([
        Expr::Meta { to: 0, key: MetaKey::Protocol },
        Expr::Compare { register: 0, equal: true, value: vec![libc::IPPROTO_TCP as u8] },
        Expr::RejectWithReset,
    ]);
    let mut unreachable = known();
    unreachable.push(Expr::RejectPortUnreachable);
    vec![
        Rule { comment: "no endpoints, or not a port of this service", expressions: reset },
        Rule { comment: "", expressions: unreachable },
        Rule {
            comment: "no service has this address",
            expressions: vec![Expr::Verdict(Verdict::Drop)],
        },
    ]
}

fn postrouting(config: &HostConfig) -> Vec<Rule> {
    let through_vip = || {
        let mut expressions = vec![Expr::OriginalDestination { to: 0 }];
        expressions.extend(compare_prefix(0, config.service_cidr, true));
        expressions
    };
    let mut unmark = through_vip();
    unmark.push(Expr::Immediate { to: 0, value: 0u32.to_ne_bytes().to_vec() });
    unmark.push(Expr::SetMark { from: 0 });
    let mut stranger = through_vip();
    stranger.extend(source_in(config.cluster_cidr, false));
    stranger.push(Expr::Masquerade);
    let mut leaving = source_in(config.node_cidr, true);
    leaving.extend(destination_in(config.cluster_cidr, false));
    leaving.extend(output_name(&config.bridge, false));
    leaving.push(Expr::Masquerade);
    let mut inside = output_name("lo", true);
    inside.push(Expr::Verdict(Verdict::Return));
    let hairpin = vec![
        source(0),
        destination(1),
        Expr::Lookup { set: HAIRPIN, key: 0, to: None },
        Expr::Masquerade,
    ];
    vec![
        Rule { comment: "the mark was ours alone", expressions: unmark },
        Rule { comment: "a pod reaches itself through a service", expressions: hairpin },
        Rule { comment: "stays on this host", expressions: inside },
        Rule { comment: "answers must come back through us", expressions: stranger },
        Rule { comment: "pods leaving the cluster", expressions: leaving },
    ]
}

fn source(to: Register) -> Expr {
    Expr::Payload { to, base: Base::Network, offset: 12, length: 4 }
}

fn destination(to: Register) -> Expr {
    Expr::Payload { to, base: Base::Network, offset: 16, length: 4 }
}

fn source_in(range: Ipv4Net, inside: bool) -> Vec<Expr> {
    std::iter::once(source(0)).chain(compare_prefix(0, range, inside)).collect()
}

fn destination_in(range: Ipv4Net, inside: bool) -> Vec<Expr> {
    std::iter::once(destination(0)).chain(compare_prefix(0, range, inside)).collect()
}

fn compare_prefix(register: Register, range: Ipv4Net, equal: bool) -> Vec<Expr> {
    let mask = range.netmask().octets().to_vec();
    let value = range.network().octets().to_vec();
    vec![Expr::And { register, mask }, Expr::Compare { register, equal, value }]
}

/// Compares with all of the sixteen bytes that an interface name may have.
fn output_name(name: &str, equal: bool) -> Vec<Expr> {
    let mut value = name.as_bytes().to_vec();
    value.resize(libc::IFNAMSIZ, 0);
    vec![
        Expr::Meta { to: 0, key: MetaKey::OutputName },
        Expr::Compare { register: 0, equal, value },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_backends_has_a_class() {
        assert_eq!(class(0), None);
        assert_eq!(class(1), Some((1, 1)));
        assert_eq!(class(128), Some((128, 128)));
        assert_eq!(class(129), Some((129, 2048)));
        assert_eq!(class(257), Some((130, 4096)));
        assert_eq!(class(usize::MAX), Some((134, 65536)));
        let known: Vec<_> = classes().collect();
        for backends in 1..3000 {
            assert!(known.contains(&class(backends).unwrap()), "{backends}");
        }
        assert!(known.iter().all(|(class, _)| class << CLASS_SHIFT & !CLASS_MASK == 0));
    }

    #[test]
    fn marks_keep_id_and_class_apart() {
        assert_eq!(mark(MAX_ID, 255), 0xffff_fff0);
        assert_eq!(mark(0, 255) & mark(MAX_ID, 0), 0);
    }
}
