//! The constant part of a table: base chains, sets, and the rules that look Services up.
//!
//! Services are map elements. The number of chains grows only with the number of *different* endpoint counts and affinity
//! timeouts, because `numgen random mod N` and `timeout T` are constants of a rule.

use std::{collections::BTreeMap, iter, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    Base, Chain, ChainType, Data, Field, Holds, Hook, Key, Name, Rule, Set, SetKind, Statement,
    Table, Type, Verdict, chains, pick, sets,
};
use crate::model::{Family, LocalDetector};

const FRONTEND: [Type; 3] = [Type::Address, Type::Protocol, Type::Port];
const NODEPORT: [Type; 2] = [Type::Protocol, Type::Port];

/// `ip daddr . meta l4proto . th dport`
pub(super) const TO: [Field; 3] = [
    Field::DestinationAddress,
    Field::Protocol,
    Field::DestinationPort,
];
/// `meta l4proto . th dport`
pub(super) const TO_PORT: [Field; 2] = [Field::Protocol, Field::DestinationPort];
/// `ct original ip daddr . meta l4proto . ct original proto-dst`
pub(super) const SENT_TO: [Field; 3] = [
    Field::OriginalDestination,
    Field::Protocol,
    Field::OriginalPort,
];
/// `meta l4proto . ct original proto-dst`
pub(super) const SENT_TO_PORT: [Field; 2] = [Field::Protocol, Field::OriginalPort];

/// The networks that the rules name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Networks {
    pub(super) service: Vec<IpNet>,
    pub(super) pod: Vec<IpNet>,
    /// Conditions of which one holds for a Pod's packets.
    pub(super) from_pods: Vec<Statement>,
    pub(super) masquerade_all: bool,
    pub(super) node_port: Vec<IpNet>,
    pub(super) masquerade_egress: bool,
    /// The addresses of local listeners.
    pub(super) listeners: Vec<IpAddr>,
}

/// A table of this family without any Service.
pub(super) fn table(family: Family, networks: &Networks) -> Table {
    let mut table = Table {
        chains: BTreeMap::new(),
        sets: empty_sets(),
    };
    let build = Builder { family };
    for (name, chain) in build.base_chains(networks) {
        table.chains.insert(name.into(), chain);
    }
    for (name, rules) in [
        (chains::SERVICES, build.services(networks)),
        (chains::SOURCE_RANGES, build.source_ranges()),
        (
            chains::PERMITTED,
            vec![build.rule(pick(&TO, sets::PERMITTED))],
        ),
        (
            chains::LOCAL_POLICY,
            build.by_source(
                networks,
                [sets::INSIDE, sets::OUTSIDE].map(|map| pick(&TO, map)),
            ),
        ),
        (
            chains::LOCAL_POLICY_NODEPORTS,
            build.by_source(
                networks,
                [sets::INSIDE_NODEPORTS, sets::OUTSIDE_NODEPORTS].map(|map| pick(&TO_PORT, map)),
            ),
        ),
        (
            chains::LOCAL_AFFINITY,
            build.by_source(
                networks,
                [sets::AFFINITY_INSIDE, sets::AFFINITY_OUTSIDE].map(|map| [vmap(&SENT_TO, map)]),
            ),
        ),
        (
            chains::LOCAL_AFFINITY_NODEPORTS,
            build.by_source(
                networks,
                [
                    sets::AFFINITY_INSIDE_NODEPORTS,
                    sets::AFFINITY_OUTSIDE_NODEPORTS,
                ]
                .map(|map| [vmap(&SENT_TO_PORT, map)]),
            ),
        ),
        (chains::MASQUERADE_NODE, build.masquerade_node()),
        (chains::MASQUERADE_SERVICES, build.masquerade_services()),
        (
            chains::MASQUERADE_NON_PODS,
            build.masquerade_non_pods(networks),
        ),
        (chains::MASQUERADE_EGRESS, build.masquerade_egress(networks)),
        (chains::CHECK_SERVICES, build.check_services(networks)),
        (chains::CHECK_NODEPORTS, build.check_nodeports(networks)),
        (chains::CHECK_NETWORKS, build.check_networks()),
        (chains::REJECT, build.reject()),
    ] {
        table
            .chains
            .insert(name.into(), Chain { base: None, rules });
    }
    table
}

/// The chains that remember clients of whom the table says so: nobody is looked for in an empty map.
pub(super) fn affinity_chains(family: Family, table: &Table) -> [(&'static str, Chain); 3] {
    let build = Builder { family };
    let who = [
        (sets::AFFINITY_SERVICES, &SENT_TO[..]),
        (sets::AFFINITY_NODEPORTS, &SENT_TO_PORT),
    ];
    let record: Vec<Rule> = who
        .into_iter()
        .filter(|(map, _)| {
            table
                .sets
                .get(*map)
                .is_some_and(|map| !map.elements.is_empty())
        })
        .map(|(map, key)| build.rule([vmap(key, map)]))
        .collect();
    // Of type nat, and so once for a connection; before everybody who masquerades (100), for after one who did nobody is asked.
    let base = |hook| {
        let enter = || build.rule([Statement::Translated(true), jump(chains::AFFINITY)]);
        let rules = record.first().map(|_| enter()).into_iter().collect();
        base_chain(ChainType::Nat, hook, 90, rules)
    };
    [
        ("record-input", base(Hook::Input)),
        ("record-postrouting", base(Hook::Postrouting)),
        (
            chains::AFFINITY,
            Chain {
                base: None,
                rules: record,
            },
        ),
    ]
}

fn base_chain(kind: ChainType, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    let base = Base {
        kind,
        hook,
        priority,
    };
    Chain {
        base: Some(base),
        rules,
    }
}

fn empty_sets() -> BTreeMap<Name, Set> {
    let slot = |columns: &[Type]| [columns, &[Type::Number]].concat();
    let endpoint = || Holds::Values(vec![Type::Address, Type::Port]);
    let client = [Type::Address, Type::Number];
    let number = || Holds::Values(vec![Type::Number]);
    let mut all = BTreeMap::new();
    let mut declare = |name: &str, key: &[Type], holds: Holds, dynamic: bool| {
        let set = Set::new(SetKind {
            key: key.to_vec(),
            holds,
            dynamic,
            ranges: name == sets::SOURCE_RANGES,
        });
        all.insert(name.into(), set);
    };
    for name in sets::OF_CHAINS {
        declare(name, &[Type::Number], Holds::Verdicts, false);
    }
    for name in sets::OF_PICKS {
        let key: &[Type] = match name {
            sets::NODEPORTS | sets::INSIDE_NODEPORTS | sets::OUTSIDE_NODEPORTS => &NODEPORT,
            _ => &FRONTEND,
        };
        declare(name, key, number(), false);
    }
    for name in sets::SLOTS {
        declare(name, &slot(&FRONTEND), endpoint(), false);
    }
    declare(
        sets::SOURCE_RANGES,
        &[&FRONTEND[..], &[Type::Address]].concat(),
        Holds::Keys,
        false,
    );
    declare(sets::NODEPORT_SLOTS, &slot(&NODEPORT), endpoint(), false);
    declare(sets::AFFINITY, &client, endpoint(), true);
    declare(sets::AFFINITY_SERVICES, &FRONTEND, Holds::Verdicts, false);
    declare(sets::AFFINITY_NODEPORTS, &NODEPORT, Holds::Verdicts, false);
    for name in [sets::MEMORIES, sets::INSIDE_MEMORIES] {
        declare(name, &FRONTEND, number(), false);
    }
    for name in [sets::NODEPORT_MEMORIES, sets::INSIDE_NODEPORT_MEMORIES] {
        declare(name, &NODEPORT, number(), false);
    }
    for name in [sets::AFFINITY_INSIDE, sets::AFFINITY_OUTSIDE] {
        declare(name, &FRONTEND, Holds::Verdicts, false);
    }
    for name in [
        sets::AFFINITY_INSIDE_NODEPORTS,
        sets::AFFINITY_OUTSIDE_NODEPORTS,
    ] {
        declare(name, &NODEPORT, Holds::Verdicts, false);
    }
    declare(sets::ACTIVE, &[Type::Address], Holds::Keys, false);
    declare(
        sets::HAIRPIN,
        &[Type::Address, Type::Address],
        Holds::Keys,
        false,
    );
    for name in [
        sets::REJECT,
        sets::DROP,
        sets::MASQUERADE_ALWAYS,
        sets::MASQUERADE_NON_PODS,
        sets::MASQUERADE_NODE,
        sets::LISTENERS,
    ] {
        declare(name, &FRONTEND, Holds::Keys, false);
    }
    for name in [
        sets::REJECT_NODEPORTS,
        sets::DROP_NODEPORTS,
        sets::MASQUERADE_ALWAYS_NODEPORTS,
        sets::MASQUERADE_NON_PODS_NODEPORTS,
        sets::MASQUERADE_NODE_NODEPORTS,
    ] {
        declare(name, &NODEPORT, Holds::Keys, false);
    }
    for (map, number, chain) in pick::FIXED {
        let verdict = Data::Verdict(Verdict::Goto(chain.into()));
        let map = all.get_mut(map).expect("declared above");
        map.elements.insert(Key::default().number(number), verdict);
    }
    all
}

pub(super) fn goto(chain: &str) -> Statement {
    Statement::Verdict(Verdict::Goto(Arc::from(chain)))
}

fn jump(chain: &str) -> Statement {
    Statement::Verdict(Verdict::Jump(Arc::from(chain)))
}

pub(super) fn in_set(key: &[Field], set: &str) -> Statement {
    Statement::InSet {
        key: key.to_vec(),
        set: set.into(),
    }
}

fn vmap(key: &[Field], map: &str) -> Statement {
    Statement::VerdictMap {
        key: key.to_vec(),
        map: map.into(),
    }
}

/// `meta priority set … map @map meta priority vmap @chains`: goes to the chain that the map has for a key.
fn pick(key: &[Field], map: &str) -> [Statement; 2] {
    let chains = match map {
        sets::SERVICES | sets::NODEPORTS => sets::CHAINS,
        sets::PERMITTED => sets::PERMITTED_CHAINS,
        _ => sets::SIDE_CHAINS,
    };
    [
        Statement::SetPriority {
            key: key.to_vec(),
            map: map.into(),
        },
        vmap(&[Field::Priority], chains),
    ]
}

/// Conditions of which one holds for what Pods of this family send.
pub(super) fn from_pods(detector: &LocalDetector, networks: &[IpNet]) -> Vec<Statement> {
    let interface = |name: &str, prefix| {
        vec![Statement::CameInBy {
            name: name.into(),
            prefix,
        }]
    };
    match detector {
        LocalDetector::PodNetworks | LocalDetector::Networks(_) => networks
            .iter()
            .map(|net| within(Field::SourceAddress, *net))
            .collect(),
        LocalDetector::Interface(name) => interface(name, false),
        LocalDetector::InterfacePrefix(name) => interface(name, true),
    }
}

/// Whether Pods are known by where their packets came in.
fn by_interface(from_pods: &[Statement]) -> bool {
    from_pods
        .iter()
        .any(|from_pod| matches!(from_pod, Statement::CameInBy { .. }))
}

fn within(field: Field, net: IpNet) -> Statement {
    Statement::Within {
        field,
        net,
        negated: false,
    }
}

struct Builder {
    family: Family,
}

impl Builder {
    fn rule<const N: usize>(&self, statements: [Statement; N]) -> Rule {
        Rule::new(self.family, statements.into())
    }

    /// `fib daddr type local ip daddr != 127.0.0.0/8 …`: a NodePort is not served on loopback addresses.
    fn node_port_rules(&self, networks: &Networks, then: &[Statement]) -> Vec<Rule> {
        let net = match self.family {
            Family::V4 => IpNet::new(IpAddr::from([127, 0, 0, 0]), 8),
            Family::V6 => IpNet::new(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1u16]), 128),
        }
        .expect("the prefix lengths fit their families");
        let loopback = Statement::Within {
            field: Field::DestinationAddress,
            net,
            negated: true,
        };
        let rule = |net: Option<&IpNet>| {
            let mut statements = vec![Statement::Local(Field::DestinationAddress)];
            statements.extend(net.map(|net| within(Field::DestinationAddress, *net)));
            statements.push(loopback.clone());
            statements.extend(then.iter().cloned());
            Rule::new(self.family, statements)
        };
        match &networks.node_port[..] {
            [] => vec![rule(None)],
            networks => networks.iter().map(|net| rule(Some(net))).collect(),
        }
    }

    fn base_chains(&self, networks: &Networks) -> Vec<(&'static str, Chain)> {
        let base = base_chain;
        // Answers are made here: what arrives on a link was sent to a listener, and what arrives on loopback is untracked already.
        let from = [Field::SourceAddress, Field::Protocol, Field::SourcePort];
        let to_listeners = || self.untracked(networks, Field::DestinationAddress, &TO);
        let from_listeners = self.untracked(networks, Field::SourceAddress, &from);
        let services = || vec![self.rule([jump(chains::SERVICES)])];
        // Established connections keep going whatever becomes of their Service, hence `ct state new` on every check.
        let check = |chain| self.rule([Statement::New, Statement::Translated(false), jump(chain)]);
        let nat_postrouting = vec![
            self.rule([
                Statement::Translated(true),
                jump(chains::MASQUERADE_SERVICES),
            ]),
            self.rule([jump(chains::MASQUERADE_EGRESS)]),
        ];
        let filter_input = vec![
            check(chains::CHECK_NODEPORTS),
            check(chains::CHECK_SERVICES),
        ];
        let mut filter_forward = self.drop_invalid(networks);
        filter_forward.push(check(chains::CHECK_SERVICES));
        vec![
            (
                "raw-prerouting",
                base(ChainType::Filter, Hook::Prerouting, -300, to_listeners()),
            ),
            (
                "raw-output",
                base(
                    ChainType::Filter,
                    Hook::Output,
                    -300,
                    [to_listeners(), from_listeners].concat(),
                ),
            ),
            (
                "nat-prerouting",
                base(ChainType::Nat, Hook::Prerouting, -100, services()),
            ),
            (
                "nat-output",
                base(ChainType::Nat, Hook::Output, -100, services()),
            ),
            (
                "filter-input",
                base(ChainType::Filter, Hook::Input, -1, filter_input),
            ),
            (
                "filter-forward",
                base(ChainType::Filter, Hook::Forward, -1, filter_forward),
            ),
            (
                "filter-output",
                base(
                    ChainType::Filter,
                    Hook::Output,
                    -1,
                    vec![check(chains::CHECK_SERVICES)],
                ),
            ),
            (
                "nat-postrouting",
                base(ChainType::Nat, Hook::Postrouting, 100, nat_postrouting),
            ),
        ]
    }

    /// This is asked of every packet: a comparison with an address (cluster DNS has one) spares the others the look into a set.
    fn untracked(&self, networks: &Networks, field: Field, key: &[Field]) -> Vec<Rule> {
        let rule = |addr: &IpAddr| {
            let addr = within(field, IpNet::from(*addr));
            self.rule([addr, in_set(key, sets::LISTENERS), Statement::Untracked])
        };
        networks.listeners.iter().map(rule).collect()
    }

    /// An endpoint's answer that connection tracking takes for invalid would reach its client with the endpoint's own address,
    /// and the client, who knows nobody of that address, would reset the connection. Dropped, it is sent again.
    fn drop_invalid(&self, networks: &Networks) -> Vec<Rule> {
        let rule = |from_pod: &Statement| {
            let drop = Statement::Verdict(Verdict::Drop);
            self.rule([Statement::Invalid, from_pod.clone(), drop])
        };
        networks.from_pods.iter().map(rule).collect()
    }

    fn services(&self, networks: &Networks) -> Vec<Rule> {
        let mut rules = vec![self.rule(pick(&TO, sets::SERVICES))];
        rules.extend(self.node_port_rules(networks, &pick(&TO_PORT, sets::NODEPORTS)));
        rules
    }

    /// A dropped packet never becomes a connection, so each one that the client sends again comes here, too.
    fn source_ranges(&self) -> Vec<Rule> {
        let from = [&TO[..], &[Field::SourceAddress]].concat();
        vec![
            self.rule([in_set(&from, sets::SOURCE_RANGES), goto(chains::PERMITTED)]),
            self.rule([Statement::Verdict(Verdict::Drop)]),
        ]
    }

    /// Pods and this node are inside the cluster, everybody else is outside. What came in by no interface is this node's, or what
    /// a Pod sends to another of its bridge.
    fn by_source<const N: usize>(
        &self,
        networks: &Networks,
        [inside, outside]: [[Statement; N]; 2],
    ) -> Vec<Rule> {
        let node = Statement::Local(Field::SourceAddress);
        let bridged = by_interface(&networks.from_pods).then_some(&Statement::CameInByNone);
        let from_inside = networks.from_pods.iter().chain([&node]).chain(bridged);
        let from_inside = from_inside.map(|from| {
            let then = inside.iter().cloned();
            Rule::new(self.family, iter::once(from.clone()).chain(then).collect())
        });
        from_inside.chain([self.rule(outside.clone())]).collect()
    }

    /// What a client sent to decides; what it was translated to does not matter, but for hairpin.
    fn masquerade_services(&self) -> Vec<Rule> {
        let hairpin = [Field::SourceAddress, Field::DestinationAddress];
        vec![
            self.rule([in_set(&hairpin, sets::HAIRPIN), Statement::Masquerade]),
            self.rule([
                in_set(&SENT_TO, sets::MASQUERADE_NON_PODS),
                goto(chains::MASQUERADE_NON_PODS),
            ]),
            self.rule([
                in_set(&SENT_TO, sets::MASQUERADE_ALWAYS),
                Statement::Masquerade,
            ]),
            // Without the goto, a Service port that happens to equal a NodePort would get the NodePort's rule below.
            self.rule([
                in_set(&SENT_TO, sets::MASQUERADE_NODE),
                goto(chains::MASQUERADE_NODE),
            ]),
            self.rule([
                in_set(&SENT_TO_PORT, sets::MASQUERADE_ALWAYS_NODEPORTS),
                Statement::Masquerade,
            ]),
            self.rule([
                in_set(&SENT_TO_PORT, sets::MASQUERADE_NON_PODS_NODEPORTS),
                goto(chains::MASQUERADE_NON_PODS),
            ]),
            self.rule([
                in_set(&SENT_TO_PORT, sets::MASQUERADE_NODE_NODEPORTS),
                goto(chains::MASQUERADE_NODE),
            ]),
        ]
    }

    fn masquerade_node(&self) -> Vec<Rule> {
        vec![self.rule([
            Statement::Local(Field::SourceAddress),
            Statement::Masquerade,
        ])]
    }

    fn masquerade_non_pods(&self, networks: &Networks) -> Vec<Rule> {
        let kept = if networks.masquerade_all {
            &[]
        } else {
            &networks.from_pods[..]
        };
        let pods = kept
            .iter()
            .map(|from_pod| self.rule([from_pod.clone(), Statement::Verdict(Verdict::Return)]));
        // What a Pod sends to another of its bridge: of that the node's own are told apart by their source.
        let bridged = by_interface(kept).then(|| {
            [
                self.rule([
                    Statement::Local(Field::SourceAddress),
                    Statement::Masquerade,
                ]),
                self.rule([Statement::CameInByNone, Statement::Verdict(Verdict::Return)]),
            ]
        });
        pods.chain(bridged.into_iter().flatten())
            .chain([self.rule([Statement::Masquerade])])
            .collect()
    }

    fn masquerade_egress(&self, networks: &Networks) -> Vec<Rule> {
        if !networks.masquerade_egress {
            return Vec::new();
        }
        let inside = networks.pod.iter().chain(&networks.service).map(|net| {
            self.rule([
                within(Field::DestinationAddress, *net),
                Statement::Verdict(Verdict::Return),
            ])
        });
        let pods = networks
            .pod
            .iter()
            .map(|net| self.rule([within(Field::SourceAddress, *net), Statement::Masquerade]));
        inside.chain(pods).collect()
    }

    fn check_services(&self, networks: &Networks) -> Vec<Rule> {
        let mut rules = vec![
            self.rule([in_set(&TO, sets::REJECT), goto(chains::REJECT)]),
            self.rule([in_set(&TO, sets::DROP), Statement::Verdict(Verdict::Drop)]),
        ];
        rules.extend(networks.service.iter().map(|net| {
            self.rule([
                within(Field::DestinationAddress, *net),
                goto(chains::CHECK_NETWORKS),
            ])
        }));
        rules
    }

    fn check_nodeports(&self, networks: &Networks) -> Vec<Rule> {
        let reject = [
            in_set(&TO_PORT, sets::REJECT_NODEPORTS),
            goto(chains::REJECT),
        ];
        let drop = [
            in_set(&TO_PORT, sets::DROP_NODEPORTS),
            Statement::Verdict(Verdict::Drop),
        ];
        let mut rules = self.node_port_rules(networks, &reject);
        rules.extend(self.node_port_rules(networks, &drop));
        rules
    }

    /// An untranslated packet to a balanced Service met one of its elements in the instant of its replacement: the client's
    /// retry will find it, so it is dropped, not rejected.
    fn check_networks(&self) -> Vec<Rule> {
        let drop = || Statement::Verdict(Verdict::Drop);
        vec![
            self.rule([
                in_set(&TO, sets::LISTENERS),
                Statement::Verdict(Verdict::Return),
            ]),
            self.rule([in_set(&TO, sets::MASQUERADE_NON_PODS), drop()]),
            self.rule([in_set(&TO, sets::MASQUERADE_ALWAYS), drop()]),
            self.rule([in_set(&TO, sets::MASQUERADE_NODE), drop()]),
            self.rule([
                in_set(&[Field::DestinationAddress], sets::ACTIVE),
                goto(chains::REJECT),
            ]),
            self.rule([drop()]),
        ]
    }

    /// A reset for TCP, because ICMP errors are rate limited per client, and a connecting TCP socket of Linux 6.18 was seen to
    /// ignore those of IPv6.
    fn reject(&self) -> Vec<Rule> {
        vec![
            self.rule([Statement::Reset]),
            self.rule([Statement::Reject]),
        ]
    }
}
