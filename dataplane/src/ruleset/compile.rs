//! A whole desired state -> a ruleset.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{
    Data, Key, Name, Ruleset, Table, Verdict,
    frontend::{Element, Known, elements, frontend_key, is_node_port},
    memory::Memories,
    pick::PickChain,
    sets,
    skeleton::{self, Networks},
};
use crate::model::{Desired, Family, Frontend, LocalDetector};

/// Networks of one family, without those inside another.
fn networks_of(family: Family, networks: &BTreeSet<IpNet>) -> Vec<IpNet> {
    let of_family: Vec<IpNet> = networks
        .iter()
        .filter(|net| Family::of(net.addr()) == family)
        .copied()
        .collect();
    let mut networks = IpNet::aggregate(&of_family);
    networks.sort();
    networks
}

fn listeners_of(family: Family, listeners: &BTreeSet<Frontend>) -> Vec<IpAddr> {
    let addresses = listeners.iter().filter_map(|listener| match listener {
        Frontend::Address { addr, .. } if Family::of(*addr) == family => Some(*addr),
        _ => None,
    });
    addresses.collect::<BTreeSet<_>>().into_iter().collect()
}

impl Ruleset {
    /// The tables for this desired state.
    ///
    /// Where several rulesets are right, it chooses the one closest to `onto` (what the kernel has, or an empty ruleset):
    /// endpoints stay in their slots, picking chains stay for their next use. So a restart plans
    /// nothing, and a change of one endpoint plans one element.
    pub fn compile(desired: &Desired, onto: &Ruleset) -> Ruleset {
        let memories = Memories::learn(desired, onto);
        let tables = Family::ALL.map(|family| {
            let table = compile_table(family, desired, onto.table(family), &memories);
            (family, table)
        });
        Ruleset {
            tables: tables.into(),
            memories,
        }
    }
}

fn compile_table(
    family: Family,
    desired: &Desired,
    onto: Option<&Table>,
    memories: &Memories,
) -> Table {
    let detected = match &desired.local_detector {
        LocalDetector::Networks(networks) => networks,
        _ => &desired.pod_networks,
    };
    let networks = Networks {
        service: networks_of(family, &desired.service_networks),
        pod: networks_of(family, &desired.pod_networks),
        from_pods: skeleton::from_pods(&desired.local_detector, &networks_of(family, detected)),
        masquerade_all: desired.masquerade_all,
        node_port: networks_of(family, &desired.node_port_networks),
        masquerade_egress: desired.masquerade_egress,
        listeners: listeners_of(family, &desired.local_listeners),
    };
    let mut table = skeleton::table(family, &networks);
    let mut elements_by_set: BTreeMap<&'static str, Vec<(Key, Data)>> = BTreeMap::new();
    let mut names: BTreeSet<Name> = BTreeSet::new();
    let mut add = |(set, key, mut data): Element| {
        // One text for all elements that go to the same chain.
        if let Data::Verdict(Verdict::Goto(name)) = &mut data {
            match names.get(name) {
                Some(shared) => Name::clone_from(name, shared),
                None => _ = names.insert(name.clone()),
            }
        }
        elements_by_set.entry(set).or_default().push((key, data));
    };

    let mut scratch = Vec::new();
    for (frontend, fate) in desired
        .frontends
        .iter()
        .filter(|(frontend, _)| frontend.family() == family)
    {
        if desired.local_listeners.contains(frontend) && !is_node_port(frontend) {
            continue;
        }
        elements(frontend, fate, Known { onto, memories }, &mut scratch);
        scratch.drain(..).for_each(&mut add);
        if let Frontend::Address { addr, .. } = frontend {
            add((sets::ACTIVE, Key::default().address(*addr), Data::None));
        }
    }
    for listener in desired
        .local_listeners
        .iter()
        .filter(|listener| listener.family() == family)
    {
        if let Frontend::Address { addr, .. } = listener {
            add((sets::LISTENERS, frontend_key(listener), Data::None));
            add((sets::ACTIVE, Key::default().address(*addr), Data::None));
        }
    }
    for addr in desired
        .local_pods
        .iter()
        .filter(|addr| Family::of(**addr) == family)
    {
        add((sets::HAIRPIN, hairpin_key(*addr), Data::None));
    }
    for (name, elements) in elements_by_set {
        let set = table
            .sets
            .get_mut(name)
            .expect("the skeleton declares every set");
        set.elements = BTreeMap::from_iter(elements);
    }
    let affinity = skeleton::affinity_chains(family, &table);
    table
        .chains
        .extend(affinity.map(|(name, chain)| (name.into(), chain)));
    table.add_pick_chains(family, onto);
    table
}

pub(super) fn hairpin_key(addr: IpAddr) -> Key {
    Key::default().address(addr).address(addr)
}

impl Table {
    /// Makes the chains that elements need, and keeps those that `onto` has.
    fn add_pick_chains(&mut self, family: Family, onto: Option<&Table>) {
        let of = |set: &str| self.sets[set].elements.values();
        let picked = sets::OF_PICKS
            .into_iter()
            .flat_map(of)
            .filter_map(PickChain::of_data);
        let remembering =
            sets::REMEMBERING
                .into_iter()
                .flat_map(of)
                .filter_map(|data| match data {
                    Data::Verdict(Verdict::Goto(name)) => PickChain::parse(name),
                    _ => None,
                });
        let named = picked.chain(remembering);
        let kept = onto
            .into_iter()
            .flat_map(|table| table.chains.keys())
            .filter_map(|name| PickChain::parse(name));
        let mut wanted: BTreeMap<String, PickChain> = named
            .chain(kept)
            .map(|chain| (chain.name(), chain))
            .collect();
        let next: Vec<PickChain> = wanted.values().filter_map(|chain| chain.next()).collect();
        wanted.extend(next.into_iter().map(|chain| (chain.name(), chain)));
        for set in sets::OF_CHAINS {
            let set = self
                .sets
                .get_mut(set)
                .expect("the skeleton declares every set");
            set.elements
                .extend(wanted.values().filter_map(|chain| chain.element()));
        }
        self.chains.extend(
            wanted
                .into_iter()
                .map(|(name, chain)| (name.into(), chain.chain(family))),
        );
    }
}
