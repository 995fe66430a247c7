//! Chains that are made when the first element names them: one per endpoint count and map of slots, one per
//! affinity timeout.

use super::{
    Chain, Field, Key, Rule, Statement,
    frontend::Side,
    sets,
    skeleton::{SENT_TO, TO, TO_PORT, goto},
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
    /// How many, at least 1.
    pub(super) count: u32,
}

/// A chain that is named by verdict map elements: made when the first element needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PickChain {
    /// `lb-N-MAP`: one of N slots at random; `nodeport-lb-N` of the NodePorts'.
    Balance(Slots),
    /// `affinity-lb-N-MAP`: the endpoint this client had, else as above.
    Affinity(Slots),
    /// `remember-T`: keeps the client's endpoint for T seconds.
    Remember { timeout_secs: u32 },
}

/// Prefixes of the names, outermost first: `nodeport-inside-affinity-lb-3`, `inside-affinity-lb-3-15`.
const NODEPORT: &str = "nodeport-";
const INSIDE: &str = "inside-";
const AFFINITY: &str = "affinity-";
const REMEMBER: &str = "remember-";

impl PickChain {
    pub(super) fn name(self) -> String {
        let (slots, affinity) = match self {
            PickChain::Balance(slots) => (slots, ""),
            PickChain::Affinity(slots) => (slots, AFFINITY),
            PickChain::Remember { timeout_secs } => return format!("{REMEMBER}{timeout_secs}"),
        };
        let inside = match slots.side {
            Side::Main => "",
            Side::Inside => INSIDE,
        };
        let count = slots.count;
        match slots.map {
            SlotMap::NodePorts => format!("{NODEPORT}{inside}{affinity}lb-{count}"),
            SlotMap::Services { shard } => format!("{inside}{affinity}lb-{count}-{shard}"),
        }
    }

    /// The chain with this name, when it is exactly the name [`PickChain::name`] gives.
    pub(super) fn parse(name: &str) -> Option<PickChain> {
        let (node_port, kind) = strip(name, NODEPORT);
        let (kind, map) = match kind.strip_prefix(REMEMBER) {
            Some(secs) => return Self::parse_remember(secs).filter(|chain| chain.name() == name),
            None if node_port => (kind, SlotMap::NodePorts),
            None => {
                let (kind, shard) = kind.rsplit_once('-')?;
                let shard = shard.parse().ok()?;
                sets::SLOTS.get(usize::from(shard))?;
                (kind, SlotMap::Services { shard })
            }
        };
        let (kind, count) = kind.rsplit_once('-')?;
        let (inside, kind) = strip(kind, INSIDE);
        let (affinity, kind) = strip(kind, AFFINITY);
        let slots = Slots {
            map,
            side: if inside { Side::Inside } else { Side::Main },
            count: count.parse().ok().filter(|count| *count > 0)?,
        };
        let chain = match (kind, affinity) {
            ("lb", false) => PickChain::Balance(slots),
            ("lb", true) => PickChain::Affinity(slots),
            _ => return None,
        };
        (chain.name() == name).then_some(chain)
    }

    fn parse_remember(secs: &str) -> Option<PickChain> {
        let timeout_secs = secs.parse().ok().filter(|secs| *secs > 0)?;
        Some(PickChain::Remember { timeout_secs })
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
        let client = || [&[Field::SourceAddress][..], &TO].concat();
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
                vec![rule(vec![Statement::Dnat {
                    key: [key, &[slot]].concat(),
                    map: map.set().into(),
                }])]
            }
            PickChain::Affinity(slots) => vec![
                rule(vec![Statement::Dnat {
                    key: client(),
                    map: sets::AFFINITY.into(),
                }]),
                rule(vec![goto(&PickChain::Balance(slots).name())]),
            ],
            PickChain::Remember { timeout_secs } => vec![rule(vec![Statement::Record {
                map: sets::AFFINITY.into(),
                key: [&[Field::OriginalSource][..], &SENT_TO].concat(),
                value: vec![Field::DestinationAddress, Field::DestinationPort],
                timeout_secs,
            }])],
        };
        Chain { base: None, rules }
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
            (PickChain::Remember { timeout_secs: 3 }, "remember-3"),
        ] {
            assert_eq!(chain.name(), name);
            assert_eq!(PickChain::parse(name), Some(chain));
        }
        for name in [
            "lb-3",
            "lb-3-16",
            "lb-0-1",
            "lb-03-1",
            "lb-3-01",
            "remember-0",
            "nodeport-remember-3",
            "nodeport-lb-3-1",
            "stranger-3",
        ] {
            assert_eq!(PickChain::parse(name), None, "{name}");
        }
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
