//! Desired state -> elements, whole or one frontend at a time.
//!
//! Every element of a frontend starts with the frontend's own key, so what a frontend has now is found by looking, and an
//! edit costs what it changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{
    Bytes, Data, Key, KeyReader, Name, Ruleset, Table, Verdict, capacity_for, sets,
    skeleton::{self, Networks, PickChain},
};
use crate::{
    model::{Change, Desired, Endpoint, Family, Fate, Frontend, Masquerade},
    plan::{Difference, TableDifference},
};

/// An element and the set it belongs to.
type Element = (&'static str, Key, Data);

/// The sets whose elements have exactly a frontend's key.
const BY_ADDRESS: [&str; 7] = [
    sets::SERVICES,
    sets::REJECT,
    sets::DROP,
    sets::MASQUERADE_ALWAYS,
    sets::MASQUERADE_NON_PODS,
    sets::MASQUERADE_NEVER,
    sets::AFFINITY_SERVICES,
];
const BY_NODE_PORT: [&str; 6] = [
    sets::NODEPORTS,
    sets::REJECT_NODEPORTS,
    sets::DROP_NODEPORTS,
    sets::MASQUERADE_ALWAYS_NODEPORTS,
    sets::MASQUERADE_NON_PODS_NODEPORTS,
    sets::AFFINITY_NODEPORTS,
];
/// The sets that make an address a Service's.
const ACTIVATING: [&str; 4] = [sets::SERVICES, sets::REJECT, sets::DROP, sets::LISTENERS];

/// A frontend's key, to which slots append their number.
fn frontend_key(frontend: &Frontend) -> Key {
    match *frontend {
        Frontend::Address {
            addr,
            protocol,
            port,
        } => Key::default()
            .address(addr)
            .protocol(protocol)
            .port(port.get()),
        Frontend::NodePort { protocol, port, .. } => {
            Key::default().protocol(protocol).port(port.get())
        }
    }
}

/// The frontend a key of `service-ips` or `nodeports` stands for.
pub(crate) fn frontend_of(family: Family, node_port: bool, key: &[u8]) -> Option<Frontend> {
    let mut reader = KeyReader(key);
    if node_port {
        return Some(Frontend::NodePort {
            family,
            protocol: reader.protocol()?,
            port: reader.port()?,
        });
    }
    let addr = reader.address(family)?;
    Some(Frontend::Address {
        addr,
        protocol: reader.protocol()?,
        port: reader.port()?,
    })
}

fn is_node_port(frontend: &Frontend) -> bool {
    matches!(frontend, Frontend::NodePort { .. })
}

fn slot_set(frontend: &Frontend) -> &'static str {
    if is_node_port(frontend) {
        sets::NODEPORT_SLOTS
    } else {
        sets::SLOTS
    }
}

fn slot_value(endpoint: &Endpoint) -> Data {
    Data::Value(
        Bytes::default()
            .address(endpoint.addr)
            .port(endpoint.port.get()),
    )
}

fn goto(chain: PickChain) -> Data {
    Data::Verdict(Verdict::Goto(chain.name().into()))
}

/// Puts `wanted` into slots so that as few as possible change: who stays keeps its slot, the others fill the holes.
fn assign_slots(current: &[Option<Endpoint>], wanted: &[Endpoint]) -> Vec<Endpoint> {
    let mut left: BTreeSet<Endpoint> = wanted.iter().copied().collect();
    let count = left.len();
    let kept: Vec<Option<Endpoint>> = (0..count)
        .map(|slot| (*current.get(slot)?).filter(|endpoint| left.remove(endpoint)))
        .collect();
    let mut left = left.into_iter();
    kept.into_iter()
        .map(|slot| {
            slot.unwrap_or_else(|| left.next().expect("as many slots as distinct endpoints"))
        })
        .collect()
}

/// The elements that give a frontend its fate. `current` are the endpoints in its slots now.
fn elements(
    frontend: &Frontend,
    fate: &Fate,
    current: &[Option<Endpoint>],
    into: &mut Vec<Element>,
) {
    let key = frontend_key(frontend);
    let node_port = is_node_port(frontend);
    let pick = |address, node_port_set| if node_port { node_port_set } else { address };
    let (endpoints, masquerade, affinity) = match fate {
        Fate::Reject => {
            return into.push((pick(sets::REJECT, sets::REJECT_NODEPORTS), key, Data::None));
        }
        Fate::Drop => return into.push((pick(sets::DROP, sets::DROP_NODEPORTS), key, Data::None)),
        Fate::Balance {
            endpoints,
            masquerade,
            affinity,
        } => (endpoints, *masquerade, *affinity),
    };
    let family = frontend.family();
    let usable: Vec<Endpoint> = endpoints
        .iter()
        .copied()
        .filter(|e| Family::of(e.addr) == family)
        .collect();
    if usable.is_empty() {
        return elements(frontend, &Fate::Reject, current, into);
    }
    let assigned = assign_slots(current, &usable);
    let slots = u32::try_from(assigned.len()).expect("a Service has fewer than 2^32 endpoints");
    for (slot, endpoint) in (0..).zip(&assigned) {
        into.push((slot_set(frontend), key.number(slot), slot_value(endpoint)));
    }
    match masquerade {
        Masquerade::Always => {
            into.push((
                pick(sets::MASQUERADE_ALWAYS, sets::MASQUERADE_ALWAYS_NODEPORTS),
                key,
                Data::None,
            ));
        }
        Masquerade::NonPodSources => {
            into.push((
                pick(
                    sets::MASQUERADE_NON_PODS,
                    sets::MASQUERADE_NON_PODS_NODEPORTS,
                ),
                key,
                Data::None,
            ));
        }
        // Nothing comes after the NodePort rules, so that a NodePort needs no element for "never".
        Masquerade::HairpinOnly if node_port => {}
        Masquerade::HairpinOnly => into.push((sets::MASQUERADE_NEVER, key, Data::None)),
    }
    let timeout_secs =
        affinity.map(|timeout| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX).max(1));
    let chain = match timeout_secs {
        None => PickChain::Balance { node_port, slots },
        Some(_) => PickChain::Affinity { node_port, slots },
    };
    into.push((pick(sets::SERVICES, sets::NODEPORTS), key, goto(chain)));
    if let Some(timeout_secs) = timeout_secs {
        let remember = goto(PickChain::Remember { timeout_secs });
        into.push((
            pick(sets::AFFINITY_SERVICES, sets::AFFINITY_NODEPORTS),
            key,
            remember,
        ));
    }
}

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

impl Ruleset {
    /// The tables for this desired state.
    ///
    /// Where several rulesets are right, it chooses the one closest to `onto` (what the kernel has, or an empty ruleset):
    /// endpoints stay in their slots, sets keep their capacity, picking chains stay for their next use. So a restart plans
    /// nothing, and a change of one endpoint plans one element.
    pub fn compile(desired: &Desired, onto: &Ruleset) -> Ruleset {
        let tables =
            Family::ALL.map(|family| (family, compile_table(family, desired, onto.table(family))));
        Ruleset {
            tables: tables.into(),
        }
    }

    /// Applies a change in place and says what changed.
    ///
    /// A table in which a set outgrew its capacity is marked for rebuilding.
    pub fn edit(&mut self, change: &Change) -> Difference {
        let mut difference = Difference::default();
        for (family, table) in &mut self.tables {
            let edit = table.edit(*family, change);
            if !edit.is_empty() {
                difference.tables.insert(*family, edit);
            }
        }
        difference
    }
}

fn compile_table(family: Family, desired: &Desired, onto: Option<&Table>) -> Table {
    let networks = Networks {
        service: networks_of(family, &desired.service_networks),
        pod: networks_of(family, &desired.pod_networks),
        masquerade_egress: desired.masquerade_egress,
    };
    let mut table = skeleton::table(family, &networks);
    let mut elements_by_set: BTreeMap<&'static str, Vec<(Key, Data)>> = BTreeMap::new();
    let mut add =
        |(set, key, data): Element| elements_by_set.entry(set).or_default().push((key, data));

    let mut scratch = Vec::new();
    for (frontend, fate) in desired
        .frontends
        .iter()
        .filter(|(frontend, _)| frontend.family() == family)
    {
        if desired.local_listeners.contains(frontend) && !is_node_port(frontend) {
            continue;
        }
        let current = onto
            .map(|table| table.endpoints(frontend))
            .unwrap_or_default();
        elements(frontend, fate, &current, &mut scratch);
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
    table.add_pick_chains(family, onto);
    table.choose_capacities(onto);
    table
}

fn hairpin_key(addr: IpAddr) -> Key {
    Key::default().address(addr).address(addr)
}

impl Table {
    fn get(&self, set: &str, key: &Key) -> Option<&Data> {
        self.sets.get(set)?.elements.get(key)
    }

    /// The endpoints in a frontend's slots; `None` marks a hole or a value that is not an endpoint.
    pub(crate) fn endpoints(&self, frontend: &Frontend) -> Vec<Option<Endpoint>> {
        let (family, set, key) = (
            frontend.family(),
            slot_set(frontend),
            frontend_key(frontend),
        );
        (0..)
            .map_while(|slot| self.get(set, &key.number(slot)))
            .map(|data| endpoint(family, data))
            .collect()
    }

    /// What a frontend has now.
    fn present(&self, frontend: &Frontend) -> Vec<Element> {
        let key = frontend_key(frontend);
        let names: &[&'static str] = if is_node_port(frontend) {
            &BY_NODE_PORT
        } else {
            &BY_ADDRESS
        };
        let single = names
            .iter()
            .filter_map(|set| Some((*set, key, self.get(set, &key)?.clone())));
        let set = slot_set(frontend);
        let slots = (0..).map_while(|slot| {
            Some((
                set,
                key.number(slot),
                self.get(set, &key.number(slot))?.clone(),
            ))
        });
        single.chain(slots).collect()
    }

    /// Makes the picking chains that elements name, and keeps those that `onto` has.
    fn add_pick_chains(&mut self, family: Family, onto: Option<&Table>) {
        let named = [
            sets::SERVICES,
            sets::NODEPORTS,
            sets::AFFINITY_SERVICES,
            sets::AFFINITY_NODEPORTS,
        ]
        .into_iter()
        .flat_map(|set| self.sets[set].elements.values())
        .filter_map(|data| match data {
            Data::Verdict(Verdict::Goto(name)) => PickChain::parse(name),
            _ => None,
        });
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
        self.chains.extend(
            wanted
                .into_iter()
                .map(|(name, chain)| (name.into(), chain.chain(family))),
        );
    }

    /// A capacity stays while it holds the old elements and the new ones together, as a transaction needs; else all grow.
    fn choose_capacities(&mut self, onto: Option<&Table>) {
        for (name, set) in self.sets.iter_mut().filter(|(_, set)| !set.kind.dynamic) {
            set.capacity = capacity_for(set.elements.len());
            let Some(old) = onto.and_then(|table| table.sets.get(name)) else {
                continue;
            };
            let union = old.elements.len()
                + set
                    .elements
                    .keys()
                    .filter(|key| !old.elements.contains_key(key))
                    .count();
            if u32::try_from(union).is_ok_and(|union| union <= old.capacity) {
                set.capacity = old.capacity;
            }
        }
    }

    fn edit(&mut self, family: Family, change: &Change) -> TableDifference {
        let mut difference = TableDifference::default();
        let mut touched = BTreeSet::new();
        for (frontend, fate) in change
            .frontends
            .iter()
            .filter(|(frontend, _)| frontend.family() == family)
        {
            if self.get(sets::LISTENERS, &frontend_key(frontend)).is_some() {
                continue;
            }
            self.set_fate(frontend, fate.as_ref(), &mut difference);
            if let Frontend::Address { addr, .. } = frontend {
                touched.insert(*addr);
            }
        }
        for addr in touched {
            let key = Key::default().address(addr);
            let active = self.is_active(&key).then_some(Data::None);
            self.set_element(sets::ACTIVE, key, active, &mut difference);
        }
        for (addr, present) in change
            .local_pods
            .iter()
            .filter(|(addr, _)| Family::of(**addr) == family)
        {
            self.set_element(
                sets::HAIRPIN,
                hairpin_key(*addr),
                present.then_some(Data::None),
                &mut difference,
            );
        }
        self.make_missing_chains(family, &mut difference);
        difference.rebuild = self.grow_full_sets();
        difference
    }

    fn set_fate(
        &mut self,
        frontend: &Frontend,
        fate: Option<&Fate>,
        difference: &mut TableDifference,
    ) {
        let mut wanted = Vec::new();
        if let Some(fate) = fate {
            elements(frontend, fate, &self.endpoints(frontend), &mut wanted);
        }
        let kept: BTreeSet<(&str, Key)> = wanted.iter().map(|(set, key, _)| (*set, *key)).collect();
        for (set, key, _) in self.present(frontend) {
            if !kept.contains(&(set, key)) {
                self.set_element(set, key, None, difference);
            }
        }
        for (set, key, data) in wanted {
            self.set_element(set, key, Some(data), difference);
        }
    }

    fn set_element(
        &mut self,
        set: &str,
        key: Key,
        data: Option<Data>,
        difference: &mut TableDifference,
    ) {
        let (name, elements) = match self.sets.get_key_value(set) {
            Some((name, _)) => (
                Name::clone(name),
                &mut self.sets.get_mut(set).expect("just found").elements,
            ),
            None => return,
        };
        let old = match &data {
            Some(data) => elements.insert(key, data.clone()),
            None => elements.remove(&key),
        };
        if old != data {
            difference.record(name, key, old, data);
        }
    }

    /// Whether any frontend or listener uses this address.
    fn is_active(&self, address: &Key) -> bool {
        ACTIVATING.iter().any(|set| {
            let after = self
                .sets
                .get(*set)
                .and_then(|set| set.elements.range(*address..).next());
            after.is_some_and(|(key, _)| key.as_slice().starts_with(address.as_slice()))
        })
    }

    fn make_missing_chains(&mut self, family: Family, difference: &mut TableDifference) {
        let named: BTreeSet<Name> = difference.added_verdicts().cloned().collect();
        let wanted: Vec<PickChain> = named
            .iter()
            .filter_map(|name| PickChain::parse(name))
            .collect();
        for chain in wanted
            .iter()
            .copied()
            .chain(wanted.iter().filter_map(|chain| chain.next()))
        {
            let name: Name = chain.name().into();
            if !self.chains.contains_key(&name) {
                let chain = chain.chain(family);
                self.chains.insert(name.clone(), chain.clone());
                difference.new_chains.insert(name, chain);
            }
        }
    }

    fn grow_full_sets(&mut self) -> bool {
        let mut grown = false;
        for set in self
            .sets
            .values_mut()
            .filter(|set| set.elements.len() as u64 > u64::from(set.capacity))
        {
            set.capacity = capacity_for(set.elements.len());
            grown = true;
        }
        grown
    }
}

/// The endpoint in a slot's value.
pub(crate) fn endpoint(family: Family, data: &Data) -> Option<Endpoint> {
    let Data::Value(value) = data else {
        return None;
    };
    let mut reader = KeyReader(value.as_slice());
    Some(Endpoint {
        addr: reader.address(family)?,
        port: reader.port()?,
    })
}
