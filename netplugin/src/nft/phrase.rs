//! Expressions that our rules are made of again and again (pure). Knows no set and no chain.

use ipnet::Ipv4Net;

use super::model::{Base, Expr, MetaKey, Register, Verdict};

pub(super) fn jump(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Jump(chain.into()))
}

pub(super) fn goto(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Goto(chain.into()))
}

pub(super) fn packet_mark(to: Register) -> Expr {
    Expr::Meta { to, key: MetaKey::Mark }
}

/// Some bits of the mark, in register 0.
pub(super) fn masked_mark(mask: u32) -> Vec<Expr> {
    vec![packet_mark(0), Expr::And { register: 0, mask: mask.to_ne_bytes().to_vec() }]
}

/// Ends the rule if the mark has not `flag`.
pub(super) fn marked(flag: u32) -> Vec<Expr> {
    let mut expressions = masked_mark(flag);
    let value = flag.to_ne_bytes().to_vec();
    expressions.push(Expr::Compare { register: 0, equal: true, value });
    expressions
}

pub(super) fn source(to: Register) -> Expr {
    Expr::Payload { to, base: Base::Network, offset: 12, length: 4 }
}

pub(super) fn destination(to: Register) -> Expr {
    Expr::Payload { to, base: Base::Network, offset: 16, length: 4 }
}

pub(super) fn source_in(range: Ipv4Net, inside: bool) -> Vec<Expr> {
    std::iter::once(source(0)).chain(compare_prefix(0, range, inside)).collect()
}

pub(super) fn destination_in(range: Ipv4Net, inside: bool) -> Vec<Expr> {
    std::iter::once(destination(0)).chain(compare_prefix(0, range, inside)).collect()
}

fn compare_prefix(register: Register, range: Ipv4Net, equal: bool) -> Vec<Expr> {
    let mask = range.netmask().octets().to_vec();
    let value = range.network().octets().to_vec();
    vec![Expr::And { register, mask }, Expr::Compare { register, equal, value }]
}

/// Compares with all of the sixteen bytes that an interface name may have.
pub(super) fn output_name(name: &str, equal: bool) -> Vec<Expr> {
    let mut value = name.as_bytes().to_vec();
    value.resize(libc::IFNAMSIZ, 0);
    vec![
        Expr::Meta { to: 0, key: MetaKey::OutputName },
        Expr::Compare { register: 0, equal, value },
    ]
}

/// Where the packet goes to, from register 0 on.
pub(super) fn place() -> [Expr; 3] {
    [
        destination(0),
        Expr::Meta { to: 1, key: MetaKey::Protocol },
        Expr::Payload { to: 2, base: Base::Transport, offset: 2, length: 2 },
    ]
}
