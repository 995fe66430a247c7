//! Rules as typed statements; each has one nft rendering, one netlink encoding and one meaning in the tracer.

use std::fmt;

use ipnet::IpNet;

use super::{Name, Type, Verdict};
use crate::{model::Family, wire};

/// Something a packet or its connection has, usable as a column of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `ip saddr` / `ip6 saddr`.
    SourceAddress,
    /// `ip daddr` / `ip6 daddr`.
    DestinationAddress,
    /// `meta l4proto`.
    Protocol,
    /// `th sport`.
    SourcePort,
    /// `th dport`.
    DestinationPort,
    /// `ct original ip saddr`: the client's address.
    OriginalSource,
    /// `ct original ip daddr`: the address the client sent to.
    OriginalDestination,
    /// `ct original proto-dst`: the port the client sent to.
    OriginalPort,
    /// `meta priority`: while the first packet of a connection is looked at, the number of the chain that picks its endpoint, or
    /// of the memory of its client.
    Priority,
    /// `numgen random mod N offset M`.
    Random {
        /// N, at least 1.
        modulus: u32,
        /// M: the least number it yields.
        offset: u32,
    },
}

impl Field {
    /// The column type it yields.
    pub fn column(self) -> Type {
        match self {
            Field::SourceAddress
            | Field::DestinationAddress
            | Field::OriginalSource
            | Field::OriginalDestination => Type::Address,
            Field::Protocol => Type::Protocol,
            Field::SourcePort | Field::DestinationPort | Field::OriginalPort => Type::Port,
            Field::Priority | Field::Random { .. } => Type::Number,
        }
    }
}

/// One step of a rule: a condition that ends the rule when it fails, or an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// `ip saddr 10.0.0.0/8`, or `!=` when negated.
    Within {
        /// The address looked at.
        field: Field,
        /// The network.
        net: IpNet,
        /// Holds for the addresses outside.
        negated: bool,
    },
    /// `iifname x`, or `x*`: the interface by which the packet came in. Nothing matches what the node itself sends.
    CameInBy {
        /// The name, at most 15 bytes, or what it begins with.
        name: Name,
        /// Whether more may follow.
        prefix: bool,
    },
    /// `iif 0`: the packet came in by no interface that this hook knows of: one of the node's own; after routing also one that
    /// a bridge passes on through its own netfilter hooks (br_netfilter), from one of its ports to another.
    CameInByNone,
    /// `fib daddr type local`, or `saddr`: the address is one of this node's.
    Local(Field),
    /// `ct state new`.
    New,
    /// `ct state invalid`: part of no connection that the kernel could make sense of.
    Invalid,
    /// `ct status dnat`, or `! dnat`.
    Translated(bool),
    /// `a . b . c @set`.
    InSet {
        /// The columns.
        key: Vec<Field>,
        /// The set.
        set: Name,
    },
    /// `a . b . c vmap @map`.
    VerdictMap {
        /// The columns.
        key: Vec<Field>,
        /// The verdict map.
        map: Name,
    },
    /// `dnat to a . b . c map @map`: the value is address . port. A missing key ends the rule.
    Dnat {
        /// The columns.
        key: Vec<Field>,
        /// The map.
        map: Name,
    },
    /// `update @map { a . b timeout T : ip daddr . th dport }`.
    Record {
        /// The dynamic map.
        map: Name,
        /// The columns of the key.
        key: Vec<Field>,
        /// The columns of the value.
        value: Vec<Field>,
        /// How long the element lives.
        timeout_secs: u32,
    },
    /// `meta priority set a . b . c map @map`. A missing key ends the rule.
    ///
    /// The priority is the one place of a packet where a number found in one map can be kept as part of a key for the next
    /// without meeting anybody: marks belong to the administrator and to other software, and nft 1.0.6 cannot print a key
    /// that contains a map's result. Queueing disciplines, who read it, see it after it was cleared; what a sender had put there
    /// is lost for that first packet.
    SetPriority {
        /// The columns.
        key: Vec<Field>,
        /// The map: the value is a number.
        map: Name,
    },
    /// `meta priority set none`.
    ClearPriority,
    /// `masquerade fully-random`.
    Masquerade,
    /// `reject`: ICMP (or ICMPv6) port unreachable.
    Reject,
    /// `reject with tcp reset`, which in nft's notation implies `meta l4proto tcp`.
    Reset,
    /// `notrack`.
    Untracked,
    /// `goto x`, `return`, `drop` ...
    Verdict(Verdict),
}

impl Statement {
    /// The set or map that it looks into or fills.
    pub fn set(&self) -> Option<&Name> {
        match self {
            Statement::InSet { set: name, .. }
            | Statement::VerdictMap { map: name, .. }
            | Statement::Dnat { map: name, .. }
            | Statement::SetPriority { map: name, .. }
            | Statement::Record { map: name, .. } => Some(name),
            _ => None,
        }
    }

    /// The same, to have it look elsewhere.
    pub fn set_mut(&mut self) -> Option<&mut Name> {
        match self {
            Statement::InSet { set: name, .. }
            | Statement::VerdictMap { map: name, .. }
            | Statement::Dnat { map: name, .. }
            | Statement::SetPriority { map: name, .. }
            | Statement::Record { map: name, .. } => Some(name),
            _ => None,
        }
    }
}

/// One rule.
///
/// Rules read back from the kernel are not decoded: they carry the fingerprint found in their userdata and no statements.
/// Two rules are equal when their fingerprints are.
#[derive(Clone)]
pub struct Rule {
    /// The steps, in order.
    pub statements: Vec<Statement>,
    /// Hash of the rule's encoding; zero for a rule that is not ours.
    pub fingerprint: u64,
}

impl Rule {
    /// A rule of a table of this family.
    pub fn new(family: Family, statements: Vec<Statement>) -> Rule {
        let fingerprint = fnv1a(&wire::expressions(family, &statements));
        Rule {
            statements,
            fingerprint,
        }
    }

    /// A rule read back from the kernel.
    pub fn opaque(fingerprint: u64) -> Rule {
        Rule {
            statements: Vec::new(),
            fingerprint,
        }
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Rule) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Rule {}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x} {:?}", self.fingerprint, self.statements)
    }
}

/// FNV-1a, 64 bits: stable across builds and good enough to notice an edited rule.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
