//! The table `ip kobune`, without the Services in it (pure).
//!
//! ```text
//! prerouting, output (nat)
//!            a guarded place and a stranger to it: dropped
//!            from outside of node and Pods --> outside --> balance     doors for them alone
//!            services --> balance                                      doors for everybody
//! outside, services   mark := map[address . protocol . port], or map[protocol . port] for the node's addresses
//! balance    client remembered: mark := affinity[id . client] --> stuck
//!            classes[mark & class] --> lb-N, or refused, or dropped
//! lb-N       dnat to eps[id . random mod N]                            address . port
//!            with affinity: mark := picks[id . random mod N] --> stuck
//! stuck      patience[id] --> for-Ts: affinity[id . client] := mark for T seconds; dnat to sticky[mark]
//! forward, output (filter, after nat) -- still in the Service range --> undelivered
//! undelivered  known address: refused; anything else: dropped
//! postrouting (nat)  a Pod reaching itself, strangers using a Service, Pods leaving the cluster: masquerade
//! ```
//! One chain per number of backends, made beforehand, since `numgen` wants a constant. Only data
//! elements change at run time: adding a verdict would make the kernel check all verdicts again.
//! Services with affinity are the exception, once for each of them.
//!
//! The packet's mark says what was found; it is written only by rules that found something:
//!
//! ```text
//! id (20 bits) | class (8) | 0 | affinity | keep source | 0      what the doors' maps give
//! id (20 bits) | number of the backend (10) | keep source | 1    a backend that is stuck to
//! magic                                   | keep source | 0      from dnat to postrouting, where it is cleared
//! ```
//! Going through the mark and a second rule, instead of from map to map in one, is for the sake
//! of `nft list ruleset` 1.0.6, which aborts on the latter.

use ipnet::Ipv4Net;

use super::model::{
    Base, Chain, Data, Expr, Holds, Hook, HookPoint, MetaKey, Rule, Set, Type, Verdict,
};
use super::phrase::{
    destination, destination_in, goto, jump, marked, masked_mark, output_name, packet_mark, place,
    source, source_in,
};
use super::services::Otherwise;
use crate::HostConfig;

pub(crate) const TABLE: &str = "kobune";

/// Names of the sets.
pub(crate) struct Maps;

impl Maps {
    pub(crate) const SERVICE_IPS: &str = "service-ips";
    pub(crate) const OUTSIDE_IPS: &str = "outside-ips";
    pub(crate) const NODE_PORTS: &str = "node-ports";
    pub(crate) const OUTSIDE_PORTS: &str = "outside-ports";
    pub(crate) const ENDPOINTS: &str = "eps";
    pub(crate) const PICKS: &str = "picks";
    pub(crate) const STICKY: &str = "sticky";
    pub(crate) const PATIENCE: &str = "patience";
    pub(crate) const CLUSTER_IPS: &str = "cluster-ips";
    pub(crate) const HAIRPIN: &str = "hairpin";
    pub(crate) const GUARDED: &str = "guarded";
    pub(crate) const ALLOWED: &str = "allowed";
    /// Constant.
    pub(crate) const CLASSES: &str = "classes";
    /// Written by the rules themselves.
    pub(crate) const AFFINITY: &str = "affinity";
}

const STUCK: u32 = 1;
const KEEP: u32 = 2;
const AFFINITY: u32 = 4;
const CLASS_SHIFT: u32 = 4;
const NUMBER_SHIFT: u32 = 2;
const ID_SHIFT: u32 = 12;
const CLASS_MASK: u32 = 0xff << CLASS_SHIFT;
const ID_MASK: u32 = !0 << ID_SHIFT;
const MAGIC: u32 = 0x6b6f_6200;
/// Largest id of a group that fits into a mark.
pub(crate) const MAX_ID: u32 = (1 << (32 - ID_SHIFT)) - 1;
/// So many backends of a group with affinity can be told apart.
pub(crate) const MOST_STICKY: usize = 1 << (ID_SHIFT - NUMBER_SHIFT);

/// Up to this many backends each has one slot.
const EXACT: u32 = 128;
/// Beyond it, slots are repeated; with at least eight per backend nobody gets more than an eighth
/// above the others.
const COARSE: [u32; 6] = [2048, 4096, 8192, 16384, 32768, 65536];
const CLASS_DROP: u32 = 254;
const CLASS_REFUSE: u32 = 255;
/// Clients remembered at the same time, of all Services.
const VISITORS: u32 = 1 << 18;

/// What applies to a group as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Manner {
    pub(crate) keep_source: bool,
    pub(crate) affinity: bool,
    pub(crate) otherwise: Otherwise,
}

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

pub(crate) fn mark(id: u32, class: u32, flags: u32) -> u32 {
    id << ID_SHIFT | class << CLASS_SHIFT | flags
}

/// The id in a mark.
pub(crate) fn id(mark: u32) -> u32 {
    mark >> ID_SHIFT
}

/// What the doors of a group with so many backends give.
pub(crate) fn door_mark(id: u32, backends: usize, manner: Manner) -> u32 {
    let class = match (class(backends), manner.otherwise) {
        (Some((class, _)), _) => class,
        (None, Otherwise::Refuse) => CLASS_REFUSE,
        (None, Otherwise::Drop) => CLASS_DROP,
    };
    let keep = if manner.keep_source { KEEP } else { 0 };
    let affinity = if manner.affinity && backends > 0 { AFFINITY } else { 0 };
    mark(id, class, keep | affinity)
}

/// What a client of backend `number` is remembered with.
pub(crate) fn stuck_mark(id: u32, number: u16, manner: Manner) -> u32 {
    let keep = if manner.keep_source { KEEP } else { 0 };
    id << ID_SHIFT | u32::from(number) << NUMBER_SHIFT | keep | STUCK
}

/// The backend's number in such a mark.
pub(crate) fn stuck_number(mark: u32) -> u16 {
    (mark as usize >> NUMBER_SHIFT & (MOST_STICKY - 1)) as u16
}

fn chain_name(slots: u32) -> String {
    format!("lb-{slots}")
}

/// The chain that remembers a client for so many seconds.
pub(crate) fn patience_chain(seconds: u32) -> String {
    format!("for-{seconds}s")
}

/// The seconds in such a chain's name.
pub(crate) fn patience(chain: &str) -> Option<u32> {
    chain.strip_prefix("for-")?.strip_suffix('s')?.parse().ok()
}

/// Elements of the constant map from class to chain: key and verdict.
pub(crate) fn class_elements() -> Vec<(u32, Verdict)> {
    let refused = (mark(0, CLASS_REFUSE, 0), Verdict::Goto("refuse".into()));
    let dropped = (mark(0, CLASS_DROP, 0), Verdict::Drop);
    classes()
        .map(|(class, slots)| (mark(0, class, 0), Verdict::Goto(chain_name(slots))))
        .chain([refused, dropped])
        .collect()
}

const PLACE: &[Type] = &[Type::Address, Type::Protocol, Type::Port];
const TO_MARK: Option<Data> = Some(Data::Value(&[Type::Mark]));
const TO_BACKEND: Option<Data> = Some(Data::Value(&[Type::Address, Type::Port]));

pub(crate) fn sets() -> Vec<Set> {
    let set = |name, key, data| Set { name, key, data, holds: Holds::Values };
    let mark = &[Type::Mark];
    vec![
        set(Maps::SERVICE_IPS, PLACE, TO_MARK),
        set(Maps::OUTSIDE_IPS, PLACE, TO_MARK),
        set(Maps::NODE_PORTS, &[Type::Protocol, Type::Port], TO_MARK),
        set(Maps::OUTSIDE_PORTS, &[Type::Protocol, Type::Port], TO_MARK),
        set(Maps::ENDPOINTS, &[Type::Mark, Type::Mark], TO_BACKEND),
        set(Maps::PICKS, &[Type::Mark, Type::Mark], TO_MARK),
        set(Maps::STICKY, mark, TO_BACKEND),
        set(Maps::PATIENCE, mark, Some(Data::Verdict)),
        set(Maps::CLASSES, mark, Some(Data::Verdict)),
        set(Maps::CLUSTER_IPS, &[Type::Address], None),
        set(Maps::HAIRPIN, &[Type::Address, Type::Address], None),
        set(Maps::GUARDED, PLACE, None),
        Set {
            holds: Holds::Ranges,
            ..set(Maps::ALLOWED, &[Type::Address, Type::Protocol, Type::Port, Type::Address], None)
        },
        Set {
            holds: Holds::Visitors { most: VISITORS },
            ..set(Maps::AFFINITY, &[Type::Mark, Type::Address], TO_MARK)
        },
    ]
}

/// All chains with their rules.
pub(crate) fn chains(config: &HostConfig) -> Vec<Chain> {
    let mut chains: Vec<Chain> = classes().map(|(_, slots)| balance_over(slots)).collect();
    let plain = |name: &str, rules| Chain { name: name.into(), hook: None, rules };
    chains.extend([
        plain("refuse", refuse(Vec::new)),
        plain("stuck", vec![by_patience()]),
        plain("sticky", vec![to_backend(Maps::STICKY, vec![packet_mark(0)])]),
        plain("balance", balance()),
        plain("services", doors(Maps::SERVICE_IPS, Maps::NODE_PORTS)),
        plain("outside", doors(Maps::OUTSIDE_IPS, Maps::OUTSIDE_PORTS)),
        plain("undelivered", undelivered()),
        plain("through", through(config)),
        plain("through-kept", through_kept()),
    ]);
    let hooked = |name: &str, kind, point, priority, rules| Chain {
        name: name.into(),
        hook: Some(Hook { kind, point, priority }),
        rules,
    };
    let to_undelivered = || {
        let mut expressions = destination_in(config.service_cidr, true);
        expressions.push(jump("undelivered"));
        vec![Rule { comment: "", expressions }]
    };
    const DSTNAT: i32 = -100;
    const SRCNAT: i32 = 100;
    let here = || Rule { comment: "", expressions: vec![jump("services")] };
    let mut stranger = source_in(config.cluster_cidr, false);
    stranger.push(jump("outside"));
    let outside = Rule { comment: "", expressions: stranger };
    chains.extend([
        hooked(
            "nat-prerouting",
            "nat",
            HookPoint::Prerouting,
            DSTNAT,
            vec![guard(), outside, here()],
        ),
        hooked("nat-output", "nat", HookPoint::Output, DSTNAT, vec![guard(), here()]),
        hooked("filter-forward", "filter", HookPoint::Forward, 0, to_undelivered()),
        hooked("filter-output", "filter", HookPoint::Output, DSTNAT + 10, to_undelivered()),
        hooked("nat-postrouting", "nat", HookPoint::Postrouting, SRCNAT, postrouting(config)),
    ]);
    chains
}

/// Made when the first group wants it.
pub(crate) fn remembering(seconds: u32) -> Chain {
    let mut expressions = masked_mark(ID_MASK);
    expressions.extend([
        source(1),
        packet_mark(2),
        Expr::Remember { map: Maps::AFFINITY, key: 0, value: 2, seconds },
        goto("sticky"),
    ]);
    let rules = vec![Rule { comment: "", expressions }];
    Chain { name: patience_chain(seconds), hook: None, rules }
}

fn guard() -> Rule {
    let mut expressions = place().to_vec();
    expressions.push(Expr::Lookup { set: Maps::GUARDED, key: 0, to: None });
    expressions.extend(place());
    expressions.extend([
        source(3),
        Expr::Absent { set: Maps::ALLOWED, key: 0 },
        Expr::Verdict(Verdict::Drop),
    ]);
    Rule { comment: "only some sources may use this", expressions }
}

fn doors(addresses: &'static str, ports: &'static str) -> Vec<Rule> {
    let found = |set| {
        [Expr::Lookup { set, key: 0, to: Some(0) }, Expr::SetMark { from: 0 }, goto("balance")]
    };
    let mut by_address = place().to_vec();
    by_address.extend(found(addresses));
    const LOCAL: u32 = libc::RTN_LOCAL as u32;
    let mut by_port =
        destination_in(Ipv4Net::new_assert(std::net::Ipv4Addr::LOCALHOST, 8).trunc(), false);
    by_port.extend([
        Expr::DestinationKind { to: 0 },
        Expr::Compare { register: 0, equal: true, value: LOCAL.to_ne_bytes().to_vec() },
        Expr::Meta { to: 0, key: MetaKey::Protocol },
        Expr::Payload { to: 1, base: Base::Transport, offset: 2, length: 2 },
    ]);
    by_port.extend(found(ports));
    vec![
        Rule { comment: "", expressions: by_address },
        Rule { comment: "this node's addresses", expressions: by_port },
    ]
}

fn balance() -> Vec<Rule> {
    let mut remembered = marked(AFFINITY);
    remembered.extend(masked_mark(ID_MASK));
    remembered.extend([
        source(1),
        Expr::Lookup { set: Maps::AFFINITY, key: 0, to: Some(0) },
        Expr::SetMark { from: 0 },
        goto("stuck"),
    ]);
    let mut by_class = masked_mark(CLASS_MASK);
    by_class.push(Expr::Dispatch { map: Maps::CLASSES, key: 0 });
    vec![
        Rule { comment: "a client that was here before", expressions: remembered },
        Rule { comment: "number of endpoints", expressions: by_class },
    ]
}

/// Picks one of `slots` slots of the group in the mark.
fn balance_over(slots: u32) -> Chain {
    let pick = || {
        let mut key = masked_mark(ID_MASK);
        key.push(Expr::Random { to: 1, modulus: slots });
        key
    };
    let mut sticky = marked(AFFINITY);
    sticky.extend(pick());
    sticky.extend([
        Expr::Lookup { set: Maps::PICKS, key: 0, to: Some(0) },
        Expr::SetMark { from: 0 },
        goto("stuck"),
    ]);
    let rules =
        vec![Rule { comment: "", expressions: sticky }, to_backend(Maps::ENDPOINTS, pick())];
    Chain { name: chain_name(slots), hook: None, rules }
}

fn by_patience() -> Rule {
    let mut expressions = masked_mark(ID_MASK);
    expressions.push(Expr::Dispatch { map: Maps::PATIENCE, key: 0 });
    Rule { comment: "", expressions }
}

/// Sends to the backend of `key` (in register 0 and those behind it). Where `nft` prints the mark as written
/// before the map is read, it is the other way round.
fn to_backend(set: &'static str, key: Vec<Expr>) -> Rule {
    let mut expressions = key;
    expressions.extend([
        Expr::Lookup { set, key: 0, to: Some(0) },
        packet_mark(2),
        Expr::AndOr { register: 2, mask: KEEP, set: MAGIC },
        Expr::SetMark { from: 2 },
        Expr::DestinationNat { address: 0, port: 1 },
    ]);
    Rule { comment: "", expressions }
}

fn refuse(when: impl Fn() -> Vec<Expr>) -> Vec<Rule> {
    let mut reset = when();
    reset.extend([
        Expr::Meta { to: 0, key: MetaKey::Protocol },
        Expr::Compare { register: 0, equal: true, value: vec![libc::IPPROTO_TCP as u8] },
        Expr::RejectWithReset,
    ]);
    let mut unreachable = when();
    unreachable.push(Expr::RejectPortUnreachable);
    vec![
        Rule { comment: "no endpoints, or not a port of this service", expressions: reset },
        Rule { comment: "", expressions: unreachable },
    ]
}

fn undelivered() -> Vec<Rule> {
    let known = || vec![destination(0), Expr::Lookup { set: Maps::CLUSTER_IPS, key: 0, to: None }];
    let mut rules = refuse(known);
    rules.push(Rule {
        comment: "no service has this address",
        expressions: vec![Expr::Verdict(Verdict::Drop)],
    });
    rules
}

fn postrouting(config: &HostConfig) -> Vec<Rule> {
    let marked = |value: u32, chain| {
        let expressions = vec![
            packet_mark(0),
            Expr::Compare { register: 0, equal: true, value: value.to_ne_bytes().to_vec() },
            jump(chain),
        ];
        Rule { comment: "", expressions }
    };
    let mut leaving = source_in(config.node_cidr, true);
    leaving.extend(destination_in(config.cluster_cidr, false));
    leaving.extend(output_name(&config.bridge, false));
    leaving.push(Expr::Masquerade);
    vec![
        marked(MAGIC, "through"),
        marked(MAGIC | KEEP, "through-kept"),
        Rule { comment: "pods leaving the cluster", expressions: leaving },
    ]
}

fn through(config: &HostConfig) -> Vec<Rule> {
    let mut inside = output_name("lo", true);
    inside.push(Expr::Verdict(Verdict::Return));
    let mut stranger = source_in(config.cluster_cidr, false);
    stranger.push(Expr::Masquerade);
    let mut rules = through_kept();
    rules.extend([
        Rule { comment: "stays on this host", expressions: inside },
        Rule { comment: "answers must come back through us", expressions: stranger },
    ]);
    rules
}

fn through_kept() -> Vec<Rule> {
    let unmark = vec![
        Expr::Immediate { to: 0, value: 0u32.to_ne_bytes().to_vec() },
        Expr::SetMark { from: 0 },
    ];
    let hairpin = vec![
        source(0),
        destination(1),
        Expr::Lookup { set: Maps::HAIRPIN, key: 0, to: None },
        Expr::Masquerade,
    ];
    vec![
        Rule { comment: "the mark was ours alone", expressions: unmark },
        Rule { comment: "a pod reaches itself through a service", expressions: hairpin },
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
        assert_eq!(mark(MAX_ID, 255, 0), 0xffff_fff0);
        assert_eq!(mark(0, 255, 0) & mark(MAX_ID, 0, 0), 0);
        let manner = Manner { keep_source: true, affinity: true, ..Manner::default() };
        let door = door_mark(MAX_ID, 3, manner);
        let stuck = stuck_mark(MAX_ID, MOST_STICKY as u16 - 1, manner);
        assert_eq!((id(door), id(stuck)), (MAX_ID, MAX_ID));
        assert_eq!(usize::from(stuck_number(stuck)), MOST_STICKY - 1);
        assert_eq!((door & STUCK, stuck & STUCK), (0, STUCK));
        assert_eq!((door & KEEP, stuck & KEEP), (KEEP, KEEP));
        let nobody = door_mark(1, 0, manner);
        assert_eq!(nobody & AFFINITY, 0, "nobody to be stuck to");
    }
}
