//! Chains that are made when the first element names them: one per endpoint count, one per affinity timeout.

use super::{
    Chain, Field, Rule, Statement,
    frontend::Side,
    sets,
    skeleton::{SENT_TO, TO, TO_PORT, goto},
};
use crate::model::Family;

/// The slots that a chain draws from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slots {
    /// Those of NodePorts.
    pub(super) node_port: bool,
    pub(super) side: Side,
    /// How many, at least 1.
    pub(super) count: u32,
}

/// A chain that is named by verdict map elements: made when the first element needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PickChain {
    /// `lb-N`: one of N slots at random.
    Balance(Slots),
    /// `affinity-lb-N`: the endpoint this client had, else as above.
    Affinity(Slots),
    /// `remember-T`: keeps the client's endpoint for T seconds.
    Remember { timeout_secs: u32 },
}

/// Prefixes of the names, outermost first: `nodeport-inside-affinity-lb-3`.
const NODEPORT: &str = "nodeport-";
const INSIDE: &str = "inside-";
const AFFINITY: &str = "affinity-";

impl PickChain {
    pub(super) fn name(self) -> String {
        let (slots, affinity) = match self {
            PickChain::Balance(slots) => (slots, ""),
            PickChain::Affinity(slots) => (slots, AFFINITY),
            PickChain::Remember { timeout_secs } => return format!("remember-{timeout_secs}"),
        };
        let nodeport = if slots.node_port { NODEPORT } else { "" };
        let inside = match slots.side {
            Side::Main => "",
            Side::Inside => INSIDE,
        };
        format!("{nodeport}{inside}{affinity}lb-{}", slots.count)
    }

    /// The chain with this name, when it is exactly the name [`PickChain::name`] gives.
    pub(super) fn parse(name: &str) -> Option<PickChain> {
        let (kind, number) = name.rsplit_once('-')?;
        let number = number.parse().ok().filter(|number| *number > 0)?;
        let (node_port, kind) = strip(kind, NODEPORT);
        let (inside, kind) = strip(kind, INSIDE);
        let (affinity, kind) = strip(kind, AFFINITY);
        let slots = Slots {
            node_port,
            side: if inside { Side::Inside } else { Side::Main },
            count: number,
        };
        let chain = match (kind, affinity) {
            ("lb", false) => PickChain::Balance(slots),
            ("lb", true) => PickChain::Affinity(slots),
            ("remember", _) => PickChain::Remember {
                timeout_secs: number,
            },
            _ => return None,
        };
        (chain.name() == name).then_some(chain)
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
            PickChain::Balance(Slots {
                node_port,
                side,
                count,
            }) => {
                let (key, map): (&[Field], _) = if node_port {
                    (&TO_PORT, sets::NODEPORT_SLOTS)
                } else {
                    (&TO, sets::SLOTS)
                };
                let slot = Field::Random {
                    modulus: count,
                    offset: side.first_slot(),
                };
                vec![rule(vec![Statement::Dnat {
                    key: [key, &[slot]].concat(),
                    map: map.into(),
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
