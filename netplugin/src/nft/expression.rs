//! Bytes of expressions and verdicts (pure): one entry per expression, attributes numbered as in
//! the kernel's `nf_tables.h`.

use super::attribute::{attribute, nested, number, string};
use super::encode::FAMILY_IPV4;
use super::model::{Expr, MetaKey, Verdict};

/// `NFT_REG32_00`
const FIRST_REGISTER: u32 = 8;
const VERDICT_REGISTER: u32 = 0;

pub(super) fn expr(out: &mut Vec<u8>, expression: &Expr) {
    let mut named = |name: &str, body: &dyn Fn(&mut Vec<u8>)| {
        string(out, 1, name);
        nested(out, 2, |out| body(out));
    };
    let register = |index: &u32| FIRST_REGISTER + index;
    match expression {
        Expr::Payload { to, base, offset, length } => named("payload", &|out| {
            number(out, 1, register(to));
            number(out, 2, *base as u32);
            number(out, 3, *offset);
            number(out, 4, *length);
        }),
        Expr::Meta { to, key } => named("meta", &|out| {
            number(out, 1, register(to));
            number(out, 2, *key as u32);
        }),
        Expr::SetMark { from } => named("meta", &|out| {
            number(out, 2, MetaKey::Mark as u32);
            number(out, 3, register(from));
        }),
        Expr::Immediate { to, value } => named("immediate", &|out| {
            number(out, 1, register(to));
            nested(out, 2, |out| attribute(out, 1, value));
        }),
        Expr::And { register: target, mask } => named("bitwise", &|out| {
            number(out, 1, register(target));
            number(out, 2, register(target));
            number(out, 3, mask.len() as u32);
            nested(out, 4, |out| attribute(out, 1, mask));
            nested(out, 5, |out| attribute(out, 1, &vec![0; mask.len()]));
        }),
        Expr::AndOr { register: target, mask, set } => named("bitwise", &|out| {
            number(out, 1, register(target));
            number(out, 2, register(target));
            number(out, 3, 4);
            nested(out, 4, |out| attribute(out, 1, &(mask & !set).to_ne_bytes()));
            nested(out, 5, |out| attribute(out, 1, &set.to_ne_bytes()));
        }),
        Expr::Compare { register: source, equal, value } => named("cmp", &|out| {
            number(out, 1, register(source));
            number(out, 2, u32::from(!equal));
            nested(out, 3, |out| attribute(out, 1, value));
        }),
        Expr::Lookup { set, key, to } => named("lookup", &|out| {
            string(out, 1, set);
            number(out, 2, register(key));
            if let Some(to) = to {
                number(out, 3, register(to));
            }
        }),
        Expr::Absent { set, key } => named("lookup", &|out| {
            const INVERTED: u32 = 1;
            string(out, 1, set);
            number(out, 2, register(key));
            number(out, 5, INVERTED);
        }),
        Expr::Remember { map, key, value, seconds } => named("dynset", &|out| {
            const UPDATE: u32 = 1;
            let milliseconds = u64::from(*seconds) * 1000;
            string(out, 1, map);
            number(out, 3, UPDATE);
            number(out, 4, register(key));
            number(out, 5, register(value));
            attribute(out, 6, &milliseconds.to_be_bytes());
        }),
        Expr::DestinationKind { to } => named("fib", &|out| {
            const ADDRESS_TYPE: u32 = 3;
            const DESTINATION: u32 = 2;
            number(out, 1, register(to));
            number(out, 2, ADDRESS_TYPE);
            number(out, 3, DESTINATION);
        }),
        Expr::Dispatch { map, key } => named("lookup", &|out| {
            string(out, 1, map);
            number(out, 2, register(key));
            number(out, 3, VERDICT_REGISTER);
        }),
        Expr::Random { to, modulus } => named("numgen", &|out| {
            const RANDOM: u32 = 1;
            number(out, 1, register(to));
            number(out, 2, *modulus);
            number(out, 3, RANDOM);
        }),
        Expr::DestinationNat { address, port } => named("nat", &|out| {
            const DESTINATION: u32 = 1;
            number(out, 1, DESTINATION);
            number(out, 2, u32::from(FAMILY_IPV4));
            number(out, 3, register(address));
            number(out, 5, register(port));
        }),
        Expr::Masquerade => named("masq", &|out| {
            const FULLY_RANDOM: u32 = 1 << 4;
            number(out, 1, FULLY_RANDOM);
        }),
        Expr::RejectWithReset => named("reject", &|out| {
            const TCP_RESET: u32 = 1;
            number(out, 1, TCP_RESET);
            attribute(out, 2, &[0]);
        }),
        Expr::RejectPortUnreachable => named("reject", &|out| {
            const ICMP_UNREACHABLE: u32 = 0;
            const PORT: u8 = 3;
            number(out, 1, ICMP_UNREACHABLE);
            attribute(out, 2, &[PORT]);
        }),
        Expr::Verdict(value) => named("immediate", &|out| {
            number(out, 1, VERDICT_REGISTER);
            nested(out, 2, |out| verdict(out, value));
        }),
    }
}

pub(super) fn verdict(out: &mut Vec<u8>, verdict: &Verdict) {
    const DROP: i32 = 0;
    const JUMP: i32 = -3;
    const GOTO: i32 = -4;
    const RETURN: i32 = -5;
    let (code, chain) = match verdict {
        Verdict::Drop => (DROP, None),
        Verdict::Return => (RETURN, None),
        Verdict::Jump(chain) => (JUMP, Some(chain)),
        Verdict::Goto(chain) => (GOTO, Some(chain)),
    };
    nested(out, 2, |out| {
        number(out, 1, code as u32);
        if let Some(chain) = chain {
            string(out, 2, chain);
        }
    });
}
