//! Walks the first packet of a connection through a ruleset value, as netfilter would, and says where it lands.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{
    Bytes, ChainType, Data, Field, Hook, Key, KeyReader, Rule, Ruleset, Statement, Table, Verdict,
    sets,
};
use crate::model::{Family, Protocol};

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A process on this node's own network.
    Node,
    /// A link: a Pod of this node, another node, the world.
    Link,
}

/// What conntrack knew about the packet before it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// The first packet of a connection.
    New,
    /// Part of a connection that was translated earlier, or never.
    Established,
    /// Not part of any connection, and none can begin with it: a TCP segment outside of the window, say.
    Invalid,
}

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub origin: Origin,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Source.
    pub source: SocketAddr,
    /// Destination.
    pub destination: SocketAddr,
}

/// What the walk depends on besides packet and ruleset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// The node's addresses (`fib daddr type local`); loopback ones are known without.
    pub local_addresses: BTreeSet<IpAddr>,
    /// The name of the interface by which packets of [`Origin::Link`] come in.
    pub link: String,
    /// What `numgen random` yields, before the modulus.
    pub choice: u32,
    /// What session affinity remembers, by family: the elements of [`sets::AFFINITY`]. Packets add to it.
    pub affinity: BTreeMap<Family, BTreeMap<Key, Data>>,
}

/// Whose address the receiver sees as source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The client's.
    Kept,
    /// The node's.
    Masqueraded,
}

/// Where a packet lands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landing {
    /// Sent on, or given to a local process.
    Delivered {
        /// The destination after translation.
        to: SocketAddr,
        /// Its source.
        source: Source,
        /// False for a packet that bypasses conntrack.
        tracked: bool,
    },
    /// Refused with port unreachable.
    Rejected,
    /// Gone without a word.
    Dropped,
}

impl Ruleset {
    /// Says where a packet lands. Established connections are neither looked up nor checked: they land where they went
    /// before, for which this returns the packet's own destination.
    pub fn trace(&self, packet: &Packet, state: ConnectionState, world: &mut World) -> Landing {
        let family = Family::of(packet.destination.ip());
        let mut walk = Walk {
            family,
            packet: *packet,
            state,
            world,
            original: packet.destination,
            translated: false,
            masqueraded: false,
            tracked: true,
            priority: 0,
        };
        let Some(table) = self.table(family) else {
            return walk.delivered();
        };
        match walk.run(table) {
            Step::Dropped => Landing::Dropped,
            Step::Rejected => Landing::Rejected,
            Step::Continue | Step::Break | Step::Return | Step::Accepted => walk.delivered(),
        }
    }
}

/// What a statement, rule or chain ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Next statement.
    Continue,
    /// Next rule.
    Break,
    /// Back to the caller.
    Return,
    /// Next base chain.
    Accepted,
    Dropped,
    Rejected,
}

struct Walk<'a> {
    family: Family,
    packet: Packet,
    state: ConnectionState,
    world: &'a mut World,
    original: SocketAddr,
    translated: bool,
    masqueraded: bool,
    tracked: bool,
    priority: u32,
}

impl Walk<'_> {
    fn delivered(&self) -> Landing {
        let source = if self.masqueraded {
            Source::Masqueraded
        } else {
            Source::Kept
        };
        Landing::Delivered {
            to: self.packet.destination,
            source,
            tracked: self.tracked,
        }
    }

    fn is_local(&self, addr: IpAddr) -> bool {
        addr.is_loopback() || self.world.local_addresses.contains(&addr)
    }

    fn run(&mut self, table: &Table) -> Step {
        let first = match self.packet.origin {
            Origin::Node => Hook::Output,
            Origin::Link => Hook::Prerouting,
        };
        let mut step = self.hook(table, first);
        if step != Step::Continue {
            return step;
        }
        let local = self.is_local(self.packet.destination.ip());
        if local {
            return self.hook(table, Hook::Input);
        }
        if self.packet.origin == Origin::Link {
            step = self.hook(table, Hook::Forward);
        }
        if step == Step::Continue {
            self.hook(table, Hook::Postrouting)
        } else {
            step
        }
    }

    /// Runs the base chains of a hook by priority.
    fn hook(&mut self, table: &Table, hook: Hook) -> Step {
        let mut chains: Vec<_> = table
            .chains
            .values()
            .filter_map(|chain| Some((chain.base?, chain)))
            .filter(|(base, _)| base.hook == hook)
            .collect();
        chains.sort_by_key(|(base, _)| base.priority);
        for (base, chain) in chains {
            let translating = self.tracked && self.state == ConnectionState::New;
            if base.kind == ChainType::Nat && !translating {
                continue;
            }
            if let done @ (Step::Dropped | Step::Rejected) = self.rules(table, &chain.rules) {
                return done;
            }
        }
        Step::Continue
    }

    fn chain(&mut self, table: &Table, name: &str) -> Step {
        let Some(chain) = table.chains.get(name) else {
            return Step::Continue;
        };
        self.rules(table, &chain.rules)
    }

    fn rules(&mut self, table: &Table, rules: &[Rule]) -> Step {
        for rule in rules {
            match self.rule(table, rule) {
                Step::Continue | Step::Break => {}
                end => return end,
            }
        }
        Step::Continue
    }

    fn rule(&mut self, table: &Table, rule: &Rule) -> Step {
        for statement in &rule.statements {
            let step = self.statement(table, statement);
            if step != Step::Continue {
                return step;
            }
        }
        Step::Continue
    }

    fn statement(&mut self, table: &Table, statement: &Statement) -> Step {
        let holds = |condition: bool| {
            if condition {
                Step::Continue
            } else {
                Step::Break
            }
        };
        match statement {
            Statement::Within {
                field,
                net,
                negated,
            } => {
                let addr = match field {
                    Field::SourceAddress => self.packet.source.ip(),
                    _ => self.packet.destination.ip(),
                };
                holds(net.contains(&addr) != *negated)
            }
            Statement::CameInBy { name, prefix } => {
                let link = match self.packet.origin {
                    Origin::Node => "",
                    Origin::Link => &self.world.link,
                };
                holds(if *prefix {
                    link.starts_with(&**name)
                } else {
                    *link == **name
                })
            }
            Statement::CameInByNone => holds(self.packet.origin == Origin::Node),
            Statement::Local(Field::SourceAddress) => holds(self.is_local(self.packet.source.ip())),
            Statement::Local(_) => holds(self.is_local(self.packet.destination.ip())),
            Statement::New => holds(self.tracked && self.state == ConnectionState::New),
            Statement::Invalid => holds(self.tracked && self.state == ConnectionState::Invalid),
            Statement::Translated(wanted) => holds(self.translated == *wanted),
            Statement::InSet { key, set } => holds(self.look_up(table, key, set).is_some()),
            Statement::VerdictMap { key, map } => match self.look_up(table, key, map).cloned() {
                Some(Data::Verdict(verdict)) => self.verdict(table, &verdict),
                _ => Step::Break,
            },
            Statement::Dnat { key, map } => {
                let data = self.look_up(table, key, map).cloned();
                self.translate(data.as_ref())
            }
            Statement::Record { key, value, .. } => {
                let value = self.key(value);
                let value = Bytes::from_slice(value.as_slice()).map(Data::Value);
                let key = self.key(key);
                let elements = self.world.affinity.entry(self.family).or_default();
                // The kernel prolongs an element that is there, and leaves its value.
                value.map(|value| elements.entry(key).or_insert(value));
                Step::Continue
            }
            Statement::SetPriority { key, map } => {
                let number = match self.look_up(table, key, map) {
                    Some(Data::Value(value)) => KeyReader(value.as_slice()).number(),
                    _ => None,
                };
                let Some(number) = number else {
                    return Step::Break;
                };
                self.priority = number;
                Step::Continue
            }
            Statement::ClearPriority => {
                self.priority = 0;
                Step::Continue
            }
            Statement::Masquerade => {
                self.masqueraded = true;
                Step::Accepted
            }
            Statement::Reset if self.packet.protocol != Protocol::Tcp => Step::Break,
            Statement::Reject | Statement::Reset => Step::Rejected,
            Statement::Untracked => {
                self.tracked = false;
                Step::Continue
            }
            Statement::Verdict(verdict) => self.verdict(table, verdict),
        }
    }

    fn verdict(&mut self, table: &Table, verdict: &Verdict) -> Step {
        match verdict {
            Verdict::Accept => Step::Accepted,
            Verdict::Drop => Step::Dropped,
            Verdict::Return => Step::Return,
            Verdict::Jump(chain) => match self.chain(table, chain) {
                Step::Return | Step::Break => Step::Continue,
                step => step,
            },
            // A chain that was gone to ends like a return to whoever called this one.
            Verdict::Goto(chain) => match self.chain(table, chain) {
                Step::Continue | Step::Break => Step::Return,
                step => step,
            },
        }
    }

    fn translate(&mut self, data: Option<&Data>) -> Step {
        let Some(Data::Value(value)) = data else {
            return Step::Break;
        };
        let mut reader = KeyReader(value.as_slice());
        let (Some(addr), Some(port)) = (reader.address(self.family), reader.port()) else {
            return Step::Break;
        };
        self.packet.destination = SocketAddr::new(addr, port.get());
        self.translated = true;
        Step::Accepted
    }

    fn key(&self, fields: &[Field]) -> Key {
        fields
            .iter()
            .fold(Key::default(), |key, field| self.append(key, *field))
    }

    fn look_up<'t>(&'t self, table: &'t Table, key: &[Field], set: &str) -> Option<&'t Data> {
        let key = self.key(key);
        if set == sets::AFFINITY {
            return self.world.affinity.get(&self.family)?.get(&key);
        }
        let set = table.sets.get(set)?;
        if !set.kind.ranges {
            return set.elements.get(&key);
        }
        let (_, until) = set.elements.range(..=key).next_back()?;
        matches!(until, Data::Until(last) if key <= *last).then_some(until)
    }

    fn append(&self, key: Key, field: Field) -> Key {
        match field {
            Field::SourceAddress | Field::OriginalSource => key.address(self.packet.source.ip()),
            Field::DestinationAddress => key.address(self.packet.destination.ip()),
            Field::Protocol => key.protocol(self.packet.protocol),
            Field::SourcePort => key.port(self.packet.source.port()),
            Field::DestinationPort => key.port(self.packet.destination.port()),
            Field::OriginalDestination => key.address(self.original.ip()),
            Field::OriginalPort => key.port(self.original.port()),
            Field::Priority => key.number(self.priority),
            Field::Random { modulus, offset } => {
                key.number(offset + self.world.choice % modulus.max(1))
            }
        }
    }
}
