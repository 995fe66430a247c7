//! The two tables as plain values: what the kernel should hold, or what was read back from it.
//!
//! A [`Ruleset`] knows nothing of netlink. It is made by [`Ruleset::compile`] from a [`crate::model::Desired`], changed in
//! place by [`Ruleset::edit`], printed by [`Ruleset::text`] and asked for a packet's fate by [`Ruleset::trace`].

mod compile;
mod edit;
mod frontend;
mod key;
mod memory;
mod names;
mod pick;
mod rule;
mod skeleton;
mod text;
mod trace;

use std::{collections::BTreeMap, sync::Arc};

pub(crate) use self::frontend::endpoint;
use self::memory::Memories;
pub use self::{
    key::{Bytes, Data, Key, KeyReader, Verdict},
    names::{chains, sets},
    rule::{Field, Rule, Statement},
    trace::{ConnectionState, Landing, Origin, Packet, Source, World},
};
use crate::model::Family;

/// Name of both tables.
pub const TABLE: &str = "minik";

/// The name of a chain or set; shared, because a verdict map names the same few chains many times.
pub type Name = Arc<str>;

/// The tables `ip minik` and `ip6 minik`; a family without an entry has no table.
#[derive(Clone, Debug, Default)]
pub struct Ruleset {
    /// One table per family.
    pub tables: BTreeMap<Family, Table>,
    /// What the numbers of memories in the tables stand for; unknown for a ruleset that was read back.
    memories: Memories,
}

impl PartialEq for Ruleset {
    /// By the tables: they are what the kernel holds.
    fn eq(&self, other: &Ruleset) -> bool {
        self.tables == other.tables
    }
}

impl Eq for Ruleset {}

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Every chain by name.
    pub chains: BTreeMap<Name, Chain>,
    /// Every set and map by name.
    pub sets: BTreeMap<Name, Set>,
}

impl Table {
    /// The same with other names for some of its sets.
    pub fn with_sets_renamed(mut self, family: Family, names: &BTreeMap<Name, Name>) -> Table {
        for (old, new) in names {
            if let Some(set) = self.sets.remove(old) {
                self.sets.insert(new.clone(), set);
            }
        }
        let rules = self.chains.values_mut().flat_map(|chain| &mut chain.rules);
        for rule in rules {
            let mut statements = rule.statements.clone();
            for set in statements.iter_mut().filter_map(Statement::set_mut) {
                if let Some(new) = names.get(set) {
                    *set = new.clone();
                }
            }
            *rule = Rule::new(family, statements);
        }
        self
    }
}

/// One chain: a base chain when it hangs on a hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where the kernel calls it; `None` for a chain that is only jumped to.
    pub base: Option<Base>,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

/// Kind of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainType {
    /// May accept, drop, reject, notrack.
    Filter,
    /// Sees the first packet of each connection and may translate it.
    Nat,
}

impl ChainType {
    /// The kernel's word.
    pub fn as_str(self) -> &'static str {
        match self {
            ChainType::Filter => "filter",
            ChainType::Nat => "nat",
        }
    }
}

/// Netfilter hooks; discriminants of `enum nf_inet_hooks` (linux/netfilter.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Hook {
    /// Arrived on an interface, not yet routed.
    Prerouting = 0,
    /// For this host.
    Input = 1,
    /// Passing through.
    Forward = 2,
    /// Made by this host.
    Output = 3,
    /// About to leave.
    Postrouting = 4,
}

impl Hook {
    /// nft's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
        }
    }

    /// The hook with this number.
    pub fn from_number(number: u32) -> Option<Hook> {
        [
            Hook::Prerouting,
            Hook::Input,
            Hook::Forward,
            Hook::Output,
            Hook::Postrouting,
        ]
        .into_iter()
        .find(|hook| *hook as u32 == number)
    }
}

/// Where a base chain hangs. The policy is always accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// filter or nat.
    pub kind: ChainType,
    /// The hook.
    pub hook: Hook,
    /// Lower runs earlier.
    pub priority: i32,
}

/// One column of a key or of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Type {
    /// An address of the table's family.
    Address,
    /// An IP protocol number.
    Protocol,
    /// A port.
    Port,
    /// A host-endian 32-bit number; nft's type `mark`, the only one of that shape which every nft version prints.
    Number,
}

/// What a set's elements carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Keys only: a set.
    Keys,
    /// A verdict per key: a verdict map.
    Verdicts,
    /// Values of these columns: a map.
    Values(Vec<Type>),
}

/// The declaration of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetKind {
    /// The key's columns.
    pub key: Vec<Type>,
    /// What belongs to a key.
    pub holds: Holds,
    /// Filled by the packet path, with a timeout per element; its elements are not part of a [`Ruleset`].
    pub dynamic: bool,
    /// The last column is a range of addresses: an element stands for every key from its own to [`Data::Until`].
    pub ranges: bool,
}

impl SetKind {
    /// Hard cap on the number of elements (`size`): only of a set that clients fill. The others grow as they must, in the
    /// kernel's resizable hash table. One of fixed size fills faster, but outgrowing it would mean making the table anew,
    /// and with it all affinities would be lost.
    pub fn capacity(&self) -> Option<u32> {
        self.dynamic.then_some(DYNAMIC_CAPACITY)
    }
}

/// Capacity of a set which the packet path fills.
const DYNAMIC_CAPACITY: u32 = 1 << 16;

/// One set or map with its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its declaration.
    pub kind: SetKind,
    /// Every element. Empty for a dynamic set.
    pub elements: BTreeMap<Key, Data>,
}

impl Set {
    /// An empty set.
    pub fn new(kind: SetKind) -> Set {
        Set {
            kind,
            elements: BTreeMap::new(),
        }
    }
}

impl Ruleset {
    /// The tables alone, as the kernel gives them back.
    pub(crate) fn as_read_back(&self) -> Ruleset {
        Ruleset {
            tables: self.tables.clone(),
            ..Ruleset::default()
        }
    }

    /// The table of a family, if there is one.
    pub fn table(&self, family: Family) -> Option<&Table> {
        self.tables.get(&family)
    }
}
