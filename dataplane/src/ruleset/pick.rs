//! Chains that are made when the first element needs them: one per endpoint count and map of slots, one per affinity
//! timeout. Those that pick an endpoint have a number, by which the elements of frontends know them.

use super::{
    Bytes, Chain, Data, Field, Key, KeyReader, Rule, Statement, Verdict, chains,
    frontend::Side,
    sets,
    skeleton::{SENT_TO, SENT_TO_PORT, TO, TO_PORT, goto, in_set},
};
use crate::model::Family;

/// A map of endpoints by slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotMap {
    NodePorts,
    /// One of [`sets::SLOTS`].
    Services {
        shard: u8,
    },
}

impl SlotMap {
    /// The map for a Service's key.
    pub(super) fn of_service(key: &Key) -> SlotMap {
        // Multiplied by 2^32 / golden ratio: neighbouring addresses go to different maps, evenly.
        let hash = key.as_slice().chunks(4).fold(0u32, |hash, column| {
            let word = column
                .iter()
                .fold(0, |word, byte| word << 8 | u32::from(*byte));
            (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9)
        });
        SlotMap::Services {
            shard: (hash >> 16) as u8 % sets::SLOTS.len() as u8,
        }
    }

    fn is_of_node_ports(self) -> bool {
        self == SlotMap::NodePorts
    }

    fn shard(self) -> Option<u8> {
        match self {
            SlotMap::NodePorts => None,
            SlotMap::Services { shard } => Some(shard),
        }
    }

    fn number(self) -> u32 {
        self.shard().map_or(NODEPORTS_NUMBER, u32::from)
    }

    fn of_number(number: u32) -> Option<SlotMap> {
        if number == NODEPORTS_NUMBER {
            return Some(SlotMap::NodePorts);
        }
        let shard = u8::try_from(number).ok()?;
        sets::SLOTS
            .get(usize::from(shard))
            .map(|_| SlotMap::Services { shard })
    }

    pub(super) fn set(self) -> &'static str {
        match self {
            SlotMap::NodePorts => sets::NODEPORT_SLOTS,
            SlotMap::Services { shard } => sets::SLOTS[usize::from(shard)],
        }
    }
}

/// The slots that a chain draws from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slots {
    pub(super) map: SlotMap,
    pub(super) side: Side,
    /// How many, at least 1 and at most [`MAX_SLOTS`].
    pub(super) count: u32,
}

/// The most slots of one side of a frontend: what is left of a number is 24 bits.
pub(super) const MAX_SLOTS: usize = (1 << MAP_BIT) - 1;

/// The numbers of chains that every table has.
pub(super) const SOURCE_RANGES: u32 = 1;
pub(super) const LOCAL_POLICY: u32 = 2;
pub(super) const LOCAL_POLICY_NODEPORTS: u32 = 3;

/// Those chains by number, and the map that leads there.
pub(super) const FIXED: [(&str, u32, &str); 4] = [
    (sets::CHAINS, SOURCE_RANGES, chains::SOURCE_RANGES),
    (sets::CHAINS, LOCAL_POLICY, chains::LOCAL_POLICY),
    (
        sets::CHAINS,
        LOCAL_POLICY_NODEPORTS,
        chains::LOCAL_POLICY_NODEPORTS,
    ),
    (sets::PERMITTED_CHAINS, LOCAL_POLICY, chains::LOCAL_POLICY),
];

/// A [`PickChain`]'s number from its highest bit: two bits say which kind, one the side, five the map, the rest how many slots.
const KIND_BIT: u32 = 30;
const SIDE_BIT: u32 = 29;
const MAP_BIT: u32 = 24;
const BALANCE: u32 = 1;
const AFFINITY: u32 = 2;
/// The map's number in it, where it is not that of a shard.
const NODEPORTS_NUMBER: u32 = 16;

/// An element of one of [`sets::OF_PICKS`].
pub(super) fn pick_data(number: u32) -> Data {
    Data::Value(Bytes::default().number(number))
}

/// A chain that elements need: made when the first does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PickChain {
    /// `lb-N-MAP`: one of N slots at random; `nodeport-lb-N` of the NodePorts'.
    Balance(Slots),
    /// `affinity-lb-N-MAP`: the endpoint this client had, else as above.
    Affinity(Slots),
    /// `remember-T`: keeps the client's endpoint for T seconds.
    Remember {
        node_port: bool,
        side: Side,
        timeout_secs: u32,
    },
}

/// Prefixes of the names, outermost first: `nodeport-inside-affinity-lb-3`, `inside-affinity-lb-3-15`.
const NODEPORT: &str = "nodeport-";
const INSIDE: &str = "inside-";

impl PickChain {
    pub(super) fn name(self) -> String {
        let (node_port, side, kind, number) = match self {
            PickChain::Balance(slots) => {
                (slots.map.is_of_node_ports(), slots.side, "lb", slots.count)
            }
            PickChain::Affinity(slots) => (
                slots.map.is_of_node_ports(),
                slots.side,
                "affinity-lb",
                slots.count,
            ),
            PickChain::Remember {
                node_port,
                side,
                timeout_secs,
            } => (node_port, side, "remember", timeout_secs),
        };
        let nodeport = if node_port { NODEPORT } else { "" };
        let inside = match side {
            Side::Main => "",
            Side::Inside => INSIDE,
        };
        let shard = match self {
            PickChain::Balance(slots) | PickChain::Affinity(slots) => slots.map.shard(),
            PickChain::Remember { .. } => None,
        };
        let shard = shard.map(|shard| format!("-{shard}")).unwrap_or_default();
        format!("{nodeport}{inside}{kind}-{number}{shard}")
    }

    /// The chain with this name, when it is exactly the name [`PickChain::name`] gives.
    pub(super) fn parse(name: &str) -> Option<PickChain> {
        let (node_port, rest) = strip(name, NODEPORT);
        let (inside, rest) = strip(rest, INSIDE);
        let side = if inside { Side::Inside } else { Side::Main };
        let (affinity, rest) = strip(rest, "affinity-");
        let mut words = rest.split('-');
        let (kind, number) = (words.next()?, words.next()?);
        let number = number.parse().ok().filter(|number| *number > 0)?;
        let chain = if kind == "remember" {
            PickChain::Remember {
                node_port,
                side,
                timeout_secs: number,
            }
        } else {
            let map = if node_port {
                SlotMap::NodePorts
            } else {
                let shard = words.next()?.parse().ok()?;
                sets::SLOTS.get(usize::from(shard))?;
                SlotMap::Services { shard }
            };
            if number as usize > MAX_SLOTS {
                return None;
            }
            let slots = Slots {
                map,
                side,
                count: number,
            };
            if affinity {
                PickChain::Affinity(slots)
            } else {
                PickChain::Balance(slots)
            }
        };
        (chain.name() == name).then_some(chain)
    }

    /// The number by which elements of [`sets::OF_PICKS`] know it; `None` for a chain that picks nothing.
    pub(super) fn number(self) -> Option<u32> {
        let (kind, slots) = match self {
            PickChain::Balance(slots) => (BALANCE, slots),
            PickChain::Affinity(slots) => (AFFINITY, slots),
            PickChain::Remember { .. } => return None,
        };
        Some(
            kind << KIND_BIT
                | (slots.side as u32) << SIDE_BIT
                | slots.map.number() << MAP_BIT
                | slots.count,
        )
    }

    /// The chain that an element of [`sets::OF_PICKS`] stands for, if it is none of [`FIXED`].
    pub(super) fn of_data(data: &Data) -> Option<PickChain> {
        let Data::Value(value) = data else {
            return None;
        };
        let number = KeyReader(value.as_slice()).number()?;
        let bits = |from: u32, to: u32| (number >> from) & ((1 << (to - from)) - 1);
        let slots = Slots {
            map: SlotMap::of_number(bits(MAP_BIT, SIDE_BIT))?,
            side: Side::ALL[bits(SIDE_BIT, KIND_BIT) as usize],
            count: Some(bits(0, MAP_BIT)).filter(|count| *count > 0)?,
        };
        match number >> KIND_BIT {
            BALANCE => Some(PickChain::Balance(slots)),
            AFFINITY => Some(PickChain::Affinity(slots)),
            _ => None,
        }
    }

    /// The element of each of [`sets::OF_CHAINS`] that leads to it.
    pub(super) fn element(self) -> Option<(Key, Data)> {
        let verdict = Data::Verdict(Verdict::Goto(self.name().into()));
        Some((Key::default().number(self.number()?), verdict))
    }

    /// The chain this one goes to.
    pub(super) fn next(self) -> Option<PickChain> {
        match self {
            PickChain::Affinity(slots) => Some(PickChain::Balance(slots)),
            PickChain::Balance(_) | PickChain::Remember { .. } => None,
        }
    }

    pub(super) fn chain(self, family: Family) -> Chain {
        let rule = |statements| Rule::new(family, statements);
        let rules = match self {
            PickChain::Balance(Slots { map, side, count }) => {
                let key: &[Field] = match map {
                    SlotMap::NodePorts => &TO_PORT,
                    SlotMap::Services { .. } => &TO,
                };
                let slot = Field::Random {
                    modulus: count,
                    offset: side.first_slot(),
                };
                vec![rule(vec![
                    Statement::ClearPriority,
                    Statement::Dnat {
                        key: [key, &[slot]].concat(),
                        map: map.set().into(),
                    },
                ])]
            }
            PickChain::Affinity(slots) => {
                let to: &[Field] = if slots.map.is_of_node_ports() {
                    &TO_PORT
                } else {
                    &TO
                };
                vec![
                    rule(vec![
                        Statement::SetPriority {
                            key: to.to_vec(),
                            map: memories(slots.map.is_of_node_ports(), slots.side).into(),
                        },
                        Statement::Dnat {
                            key: vec![Field::SourceAddress, Field::Priority],
                            map: sets::AFFINITY.into(),
                        },
                    ]),
                    rule(vec![goto(&PickChain::Balance(slots).name())]),
                ]
            }
            PickChain::Remember {
                node_port,
                side,
                timeout_secs,
            } => {
                let sent_to: &[Field] = if node_port { &SENT_TO_PORT } else { &SENT_TO };
                // An address whose port equals the NodePort is not the NodePort.
                let addresses = [
                    sets::MASQUERADE_NON_PODS,
                    sets::MASQUERADE_ALWAYS,
                    sets::MASQUERADE_NODE,
                ];
                let others = addresses.into_iter().filter(|_| node_port).map(|set| {
                    rule(vec![
                        in_set(&SENT_TO, set),
                        Statement::Verdict(Verdict::Return),
                    ])
                });
                let own = [
                    rule(vec![
                        Statement::SetPriority {
                            key: sent_to.to_vec(),
                            map: memories(node_port, side).into(),
                        },
                        Statement::Record {
                            map: sets::AFFINITY.into(),
                            key: vec![Field::OriginalSource, Field::Priority],
                            value: vec![Field::DestinationAddress, Field::DestinationPort],
                            timeout_secs,
                        },
                    ]),
                    rule(vec![Statement::ClearPriority]),
                ];
                others.chain(own).collect()
            }
        };
        Chain { base: None, rules }
    }
}

/// The map of the memories' numbers.
fn memories(node_port: bool, side: Side) -> &'static str {
    match (node_port, side) {
        (false, Side::Main) => sets::MEMORIES,
        (false, Side::Inside) => sets::INSIDE_MEMORIES,
        (true, Side::Main) => sets::NODEPORT_MEMORIES,
        (true, Side::Inside) => sets::INSIDE_NODEPORT_MEMORIES,
    }
}

fn strip<'a>(name: &'a str, prefix: &str) -> (bool, &'a str) {
    match name.strip_prefix(prefix) {
        Some(rest) => (true, rest),
        None => (false, name),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::model::Protocol;

    #[test]
    fn a_name_and_its_chain_belong_together() {
        let slots = |map, side| Slots {
            map,
            side,
            count: 3,
        };
        let services = slots(SlotMap::Services { shard: 15 }, Side::Main);
        let inside = slots(SlotMap::Services { shard: 0 }, Side::Inside);
        let node_ports = slots(SlotMap::NodePorts, Side::Inside);
        for (chain, name) in [
            (PickChain::Balance(services), "lb-3-15"),
            (PickChain::Affinity(services), "affinity-lb-3-15"),
            (PickChain::Balance(inside), "inside-lb-3-0"),
            (
                PickChain::Affinity(node_ports),
                "nodeport-inside-affinity-lb-3",
            ),
            (
                PickChain::Remember {
                    node_port: false,
                    side: Side::Main,
                    timeout_secs: 3,
                },
                "remember-3",
            ),
            (
                PickChain::Remember {
                    node_port: true,
                    side: Side::Inside,
                    timeout_secs: 3,
                },
                "nodeport-inside-remember-3",
            ),
        ] {
            assert_eq!(chain.name(), name);
            assert_eq!(PickChain::parse(name), Some(chain));
            let by_number = chain
                .number()
                .and_then(|number| PickChain::of_data(&pick_data(number)));
            let is_picked = !matches!(chain, PickChain::Remember { .. });
            assert_eq!(by_number, Some(chain).filter(|_| is_picked), "{name}");
        }
        for name in [
            "lb-3",
            "lb-3-16",
            "lb-0-1",
            "lb-03-1",
            "lb-3-01",
            // It would have the number of lb-1-1.
            "lb-16777217-0",
            "remember-0",
            "affinity-remember-3",
            "remember-3-1",
            "nodeport-lb-3-1",
            "stranger-3",
        ] {
            assert_eq!(PickChain::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_number_that_nobody_gives_stands_for_no_chain() {
        let fixed = FIXED.map(|(_, number, _)| number);
        let no_slots = BALANCE << KIND_BIT;
        let no_such_map = BALANCE << KIND_BIT | 17 << MAP_BIT | 1;
        let no_such_kind = 3 << KIND_BIT | 1;
        for number in fixed
            .into_iter()
            .chain([0, no_slots, no_such_map, no_such_kind])
        {
            assert_eq!(PickChain::of_data(&pick_data(number)), None, "{number:#x}");
        }
        assert_eq!(PickChain::of_data(&Data::None), None);
    }

    #[test]
    fn neighbouring_services_spread_over_all_maps() {
        let mut sizes = [0; sets::SLOTS.len()];
        for host in 0..16_000u32 {
            let addr = Ipv4Addr::from_bits(0x0a60_0000 + host);
            let key = Key::default()
                .address(addr.into())
                .protocol(Protocol::Tcp)
                .port(80);
            let SlotMap::Services { shard } = SlotMap::of_service(&key) else {
                panic!("a Service")
            };
            sizes[usize::from(shard)] += 1;
        }
        assert!(
            sizes.iter().all(|size| (800..1200).contains(size)),
            "{sizes:?}"
        );
    }
}
