//! Chains that are made when the first element names them: one per endpoint count, one per affinity timeout.

use super::{
    Chain, Field, Rule, Statement, sets,
    skeleton::{SENT_TO, TO, TO_PORT, goto},
};
use crate::model::Family;

/// A chain that is named by verdict map elements: made when the first element needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PickChain {
    /// `lb-N`, `nodeport-lb-N`: one of N slots at random.
    Balance { node_port: bool, slots: u32 },
    /// `affinity-lb-N`, `nodeport-affinity-lb-N`: the endpoint this client had, else as above.
    Affinity { node_port: bool, slots: u32 },
    /// `remember-T`: keeps the client's endpoint for T seconds.
    Remember { timeout_secs: u32 },
}

impl PickChain {
    pub(super) fn name(self) -> String {
        match self {
            PickChain::Balance {
                node_port: false,
                slots,
            } => format!("lb-{slots}"),
            PickChain::Balance {
                node_port: true,
                slots,
            } => format!("nodeport-lb-{slots}"),
            PickChain::Affinity {
                node_port: false,
                slots,
            } => format!("affinity-lb-{slots}"),
            PickChain::Affinity {
                node_port: true,
                slots,
            } => format!("nodeport-affinity-lb-{slots}"),
            PickChain::Remember { timeout_secs } => format!("remember-{timeout_secs}"),
        }
    }

    /// The chain with this name, when it is exactly the name [`PickChain::name`] gives.
    pub(super) fn parse(name: &str) -> Option<PickChain> {
        let (kind, number) = name.rsplit_once('-')?;
        let number = number.parse().ok().filter(|number| *number > 0)?;
        let chain = match kind {
            "lb" => PickChain::Balance {
                node_port: false,
                slots: number,
            },
            "nodeport-lb" => PickChain::Balance {
                node_port: true,
                slots: number,
            },
            "affinity-lb" => PickChain::Affinity {
                node_port: false,
                slots: number,
            },
            "nodeport-affinity-lb" => PickChain::Affinity {
                node_port: true,
                slots: number,
            },
            "remember" => PickChain::Remember {
                timeout_secs: number,
            },
            _ => return None,
        };
        (chain.name() == name).then_some(chain)
    }

    /// The chain this one goes to.
    pub(super) fn next(self) -> Option<PickChain> {
        match self {
            PickChain::Affinity { node_port, slots } => {
                Some(PickChain::Balance { node_port, slots })
            }
            PickChain::Balance { .. } | PickChain::Remember { .. } => None,
        }
    }

    pub(super) fn chain(self, family: Family) -> Chain {
        let rule = |statements| Rule::new(family, statements);
        let client = || [&[Field::SourceAddress][..], &TO].concat();
        let rules = match self {
            PickChain::Balance { node_port, slots } => {
                let (key, map): (&[Field], _) = if node_port {
                    (&TO_PORT, sets::NODEPORT_SLOTS)
                } else {
                    (&TO, sets::SLOTS)
                };
                vec![rule(vec![Statement::Dnat {
                    key: [key, &[Field::Random(slots)]].concat(),
                    map: map.into(),
                }])]
            }
            PickChain::Affinity { node_port, slots } => vec![
                rule(vec![Statement::Dnat {
                    key: client(),
                    map: sets::AFFINITY.into(),
                }]),
                rule(vec![goto(&PickChain::Balance { node_port, slots }.name())]),
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
