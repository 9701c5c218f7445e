//! Words of nf_tables that we use, as data (pure). Names follow the kernel's expressions.
//! Says nothing about Services and nothing about bytes on the wire.

/// A 32-bit register, counted from 0.
pub(crate) type Register = u32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: String,
    /// None: only reached from other chains.
    pub(crate) hook: Option<Hook>,
    pub(crate) rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hook {
    pub(crate) kind: &'static str,
    pub(crate) point: HookPoint,
    pub(crate) priority: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum HookPoint {
    Prerouting = 0,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Shown by `nft list`, for people.
    pub(crate) comment: &'static str,
    pub(crate) expressions: Vec<Expr>,
}

/// A set, or a map if it has `data`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) name: &'static str,
    pub(crate) key: &'static [Type],
    pub(crate) data: Option<Data>,
    pub(crate) holds: Holds,
}

/// What kind of elements a set has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    Values,
    /// The last part of the key is a range.
    Ranges,
    /// The rules themselves add elements, which die of age; at most so many at a time.
    Visitors {
        most: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Data {
    Value(&'static [Type]),
    Verdict,
}

/// Types as `nft` numbers them; the kernel only stores the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Type {
    Address = 7,
    Protocol = 12,
    Port = 13,
    Mark = 19,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Return,
    Drop,
    Jump(String),
    Goto(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expr {
    /// Bytes of the packet.
    Payload {
        to: Register,
        base: Base,
        offset: u32,
        length: u32,
    },
    Meta {
        to: Register,
        key: MetaKey,
    },
    SetMark {
        from: Register,
    },
    Immediate {
        to: Register,
        value: Vec<u8>,
    },
    And {
        register: Register,
        mask: Vec<u8>,
    },
    /// Keeps the bits of `mask` and sets those of `set`.
    AndOr {
        register: Register,
        mask: u32,
        set: u32,
    },
    Compare {
        register: Register,
        equal: bool,
        value: Vec<u8>,
    },
    /// Ends the rule if the key is not in the set; `to` receives a map's value.
    Lookup {
        set: &'static str,
        key: Register,
        to: Option<Register>,
    },
    /// Ends the rule if the key is in the set.
    Absent {
        set: &'static str,
        key: Register,
    },
    /// Puts key and value into a map that holds visitors, or makes them young again.
    Remember {
        map: &'static str,
        key: Register,
        value: Register,
        seconds: u32,
    },
    /// What kind of address the packet's destination is to this host (`RTN_…`).
    DestinationKind {
        to: Register,
    },
    /// As `Lookup`, for a map of verdicts, which is obeyed.
    Dispatch {
        map: &'static str,
        key: Register,
    },
    Random {
        to: Register,
        modulus: u32,
    },
    DestinationNat {
        address: Register,
        port: Register,
    },
    Masquerade,
    RejectWithReset,
    RejectPortUnreachable,
    Verdict(Verdict),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Base {
    Network = 1,
    Transport = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum MetaKey {
    Mark = 3,
    OutputName = 7,
    Protocol = 16,
}
