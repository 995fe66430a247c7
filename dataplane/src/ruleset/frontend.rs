//! One frontend -> its elements.
//!
//! Every element of a frontend starts with the frontend's own key, so what a frontend has now is found by looking.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{
    Bytes, Data, Key, KeyReader, Table, Verdict, chains,
    memory::{Memories, apart},
    pick::{self, MAX_SLOTS, PickChain, SlotMap, Slots, pick_data},
    sets,
};
use crate::model::{Affinity, Endpoint, Family, Fate, Frontend, Masquerade};

/// An element and the set it belongs to.
pub(super) type Element = (&'static str, Key, Data);

/// The sets in which a kind of frontend has its elements.
struct Places {
    /// Its key, and the number of the chain that picks an endpoint.
    picking: &'static str,
    /// The number of the chain that decides by source, and where it looks then.
    local_policy: u32,
    inside: &'static str,
    outside: &'static str,
    /// The set in which sources are checked, and the map in which is looked then.
    restricted: Option<(&'static str, &'static str)>,
    reject: &'static str,
    drop: &'static str,
    always: &'static str,
    non_pods: &'static str,
    node: &'static str,
    /// Its key, and the chain that remembers the client's endpoint.
    remembering: &'static str,
    /// The chain that decides by source who remembers, and where it looks then, by side.
    local_affinity: &'static str,
    remembering_apart: [&'static str; 2],
    /// Its key, and the number of the memory, by side.
    memories: [&'static str; 2],
}

const ADDRESS: Places = Places {
    picking: sets::SERVICES,
    local_policy: pick::LOCAL_POLICY,
    inside: sets::INSIDE,
    outside: sets::OUTSIDE,
    restricted: Some((sets::SOURCE_RANGES, sets::PERMITTED)),
    reject: sets::REJECT,
    drop: sets::DROP,
    always: sets::MASQUERADE_ALWAYS,
    non_pods: sets::MASQUERADE_NON_PODS,
    node: sets::MASQUERADE_NODE,
    remembering: sets::AFFINITY_SERVICES,
    local_affinity: chains::LOCAL_AFFINITY,
    remembering_apart: [sets::AFFINITY_OUTSIDE, sets::AFFINITY_INSIDE],
    memories: [sets::MEMORIES, sets::INSIDE_MEMORIES],
};

const NODE_PORT: Places = Places {
    picking: sets::NODEPORTS,
    local_policy: pick::LOCAL_POLICY_NODEPORTS,
    inside: sets::INSIDE_NODEPORTS,
    outside: sets::OUTSIDE_NODEPORTS,
    restricted: None,
    reject: sets::REJECT_NODEPORTS,
    drop: sets::DROP_NODEPORTS,
    always: sets::MASQUERADE_ALWAYS_NODEPORTS,
    non_pods: sets::MASQUERADE_NON_PODS_NODEPORTS,
    node: sets::MASQUERADE_NODE_NODEPORTS,
    remembering: sets::AFFINITY_NODEPORTS,
    local_affinity: chains::LOCAL_AFFINITY_NODEPORTS,
    remembering_apart: [
        sets::AFFINITY_OUTSIDE_NODEPORTS,
        sets::AFFINITY_INSIDE_NODEPORTS,
    ],
    memories: [sets::NODEPORT_MEMORIES, sets::INSIDE_NODEPORT_MEMORIES],
};

impl Places {
    fn of(frontend: &Frontend) -> &'static Places {
        if is_node_port(frontend) {
            &NODE_PORT
        } else {
            &ADDRESS
        }
    }

    /// The sets whose elements have exactly the frontend's key.
    fn by_key(&self) -> impl Iterator<Item = &'static str> {
        [
            self.picking,
            self.inside,
            self.outside,
            self.reject,
            self.drop,
            self.always,
            self.non_pods,
            self.node,
            self.remembering,
        ]
        .into_iter()
        .chain(self.remembering_apart)
        .chain(self.memories)
        .chain(self.restricted.map(|(_, permitted)| permitted))
    }
}

/// The map that holds a frontend's endpoints, by its key and a slot.
fn slot_map(frontend: &Frontend) -> SlotMap {
    if is_node_port(frontend) {
        SlotMap::NodePorts
    } else {
        SlotMap::of_service(&frontend_key(frontend))
    }
}

/// A frontend's key, to which slots append their number.
pub(super) fn frontend_key(frontend: &Frontend) -> Key {
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

/// The frontend that a key stands for.
fn frontend_of(family: Family, places: &Places, key: &Key) -> Option<Frontend> {
    let mut reader = KeyReader(key.as_slice());
    if places.picking == NODE_PORT.picking {
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

pub(super) fn is_node_port(frontend: &Frontend) -> bool {
    matches!(frontend, Frontend::NodePort { .. })
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

fn slot_value(endpoint: &Endpoint) -> Data {
    Data::Value(
        Bytes::default()
            .address(endpoint.addr)
            .port(endpoint.port.get()),
    )
}

fn goto(chain: &str) -> Data {
    Data::Verdict(Verdict::Goto(chain.into()))
}

/// Puts `wanted` into slots so that as few as possible change: who stays keeps its slot, the others fill the holes.
fn assign_slots(current: &[Option<Endpoint>], wanted: BTreeSet<Endpoint>) -> Vec<Endpoint> {
    if current.is_empty() {
        return wanted.into_iter().collect();
    }
    let (count, mut left) = (wanted.len(), wanted);
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

/// Which of a frontend's slots: its own, or those which the cluster's own clients have apart ([`Fate::Local`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// For everybody, or for clients outside the cluster when there are others for inside.
    Main = 0,
    /// For clients inside the cluster.
    Inside = 1,
}

impl Side {
    pub(crate) const ALL: [Side; 2] = [Side::Main, Side::Inside];

    /// The number of the first slot.
    pub(super) fn first_slot(self) -> u32 {
        match self {
            Side::Main => 0,
            Side::Inside => 1 << 31,
        }
    }
}

/// What is there already.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    /// Where endpoints keep their slots.
    pub(super) onto: Option<&'a Table>,
    /// Every memory that the fate needs.
    pub(super) memories: &'a Memories,
}

/// The elements that give a frontend its fate.
pub(super) fn elements(
    frontend: &Frontend,
    fate: &Fate,
    known: Known<'_>,
    into: &mut Vec<Element>,
) {
    let mut writer = Writer {
        places: Places::of(frontend),
        frontend,
        key: frontend_key(frontend),
        known,
        first: Places::of(frontend).picking,
        into,
    };
    writer.fate(fate);
}

/// Collects the elements of one frontend.
struct Writer<'a> {
    places: &'static Places,
    frontend: &'a Frontend,
    key: Key,
    known: Known<'a>,
    /// The map in which the packet path looks first, once the source is known to be allowed.
    first: &'static str,
    into: &'a mut Vec<Element>,
}

impl Writer<'_> {
    fn fate(&mut self, fate: &Fate) {
        match fate {
            Fate::From { sources, fate } => {
                self.restrict(sources);
                self.fate(fate);
            }
            Fate::Reject => self.mark(self.places.reject),
            Fate::Drop => self.mark(self.places.drop),
            Fate::Balance {
                endpoints,
                masquerade,
                affinity,
            } => {
                let Some(slots) = self.slots(Side::Main, endpoints) else {
                    return self.mark(self.places.reject);
                };
                self.pick(self.first, slots, *affinity);
                self.remember(self.places.remembering, slots, *affinity);
                self.mark(match masquerade {
                    Masquerade::Always => self.places.always,
                    Masquerade::NonPodSources => self.places.non_pods,
                });
            }
            Fate::Local {
                outside,
                inside,
                affinity,
            } => {
                let Some(slots) = self.slots(Side::Inside, inside) else {
                    return self.mark(self.places.reject);
                };
                self.map(self.first, pick_data(self.places.local_policy));
                if affinity.is_some() {
                    self.map(self.places.remembering, goto(self.places.local_affinity));
                }
                let [remember_outside, remember_inside] = self.places.remembering_apart;
                self.pick(self.places.inside, slots, *affinity);
                self.remember(remember_inside, slots, *affinity);
                match self.slots(Side::Main, outside) {
                    Some(slots) => {
                        self.pick(self.places.outside, slots, affinity.map(apart));
                        self.remember(remember_outside, slots, affinity.map(apart));
                    }
                    None => self.mark(self.places.drop),
                }
                self.mark(self.places.node);
            }
        }
    }

    /// Lets in only what comes from these networks.
    fn restrict(&mut self, sources: &[IpNet]) {
        let Some((ranges, permitted)) = self.places.restricted else {
            return;
        };
        self.map(self.places.picking, pick_data(pick::SOURCE_RANGES));
        self.first = permitted;
        let of_family = sources
            .iter()
            .filter(|net| Family::of(net.addr()) == self.frontend.family());
        // The kernel refuses ranges of one key that overlap.
        for net in IpNet::aggregate(&of_family.copied().collect::<Vec<_>>()) {
            let (first, last) = (
                self.key.address(net.network()),
                self.key.address(net.broadcast()),
            );
            self.into.push((ranges, first, Data::Until(last)));
        }
    }

    fn mark(&mut self, set: &'static str) {
        self.into.push((set, self.key, Data::None));
    }

    fn map(&mut self, map: &'static str, data: Data) {
        self.into.push((map, self.key, data));
    }

    /// Puts endpoints into slots; `None` when none is of the frontend's family.
    fn slots(&mut self, side: Side, endpoints: &[Endpoint]) -> Option<Slots> {
        let family = self.frontend.family();
        let usable = endpoints
            .iter()
            .copied()
            .filter(|endpoint| Family::of(endpoint.addr) == family);
        let current = self
            .known
            .onto
            .map(|table| table.endpoints(self.frontend, side))
            .unwrap_or_default();
        let slots = assign_slots(&current, usable.take(MAX_SLOTS).collect());
        let map = slot_map(self.frontend);
        for (slot, endpoint) in (side.first_slot()..).zip(&slots) {
            let key = self.key.number(slot);
            self.into.push((map.set(), key, slot_value(endpoint)));
        }
        let count = u32::try_from(slots.len()).expect("no more than MAX_SLOTS");
        (count > 0).then_some(Slots { map, side, count })
    }

    /// Sends new connections to these slots, with affinity first to where the client was sent before.
    fn pick(&mut self, map: &'static str, slots: Slots, affinity: Option<Affinity>) {
        let chain = match affinity {
            Some(_) => PickChain::Affinity(slots),
            None => PickChain::Balance(slots),
        };
        self.into.extend(
            chain
                .number()
                .map(|number| (map, self.key, pick_data(number))),
        );
    }

    /// Has it remembered where a client was sent.
    fn remember(&mut self, map: &'static str, slots: Slots, affinity: Option<Affinity>) {
        let Some(Affinity { timeout, memory }) = affinity else {
            return;
        };
        let remember = PickChain::Remember {
            node_port: is_node_port(self.frontend),
            side: slots.side,
            timeout_secs: u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX).max(1),
        };
        self.map(map, goto(&remember.name()));
        let number = self.known.memories.number(&memory).unwrap_or(0);
        let number = Data::Value(Bytes::default().number(number));
        self.map(self.places.memories[slots.side as usize], number);
    }
}

impl Table {
    pub(super) fn get(&self, set: &str, key: &Key) -> Option<&Data> {
        self.sets.get(set)?.elements.get(key)
    }

    /// Every frontend, whatever its fate.
    pub(crate) fn frontends(&self, family: Family) -> BTreeSet<Frontend> {
        let of = |places: &'static Places| {
            let sets = [places.picking, places.reject, places.drop].into_iter();
            let keys = sets
                .filter_map(|set| self.sets.get(set))
                .flat_map(|set| set.elements.keys());
            keys.filter_map(move |key| frontend_of(family, places, key))
        };
        of(&ADDRESS).chain(of(&NODE_PORT)).collect()
    }

    /// Every endpoint that a client may have in a memory, with the memory's number.
    pub(crate) fn remembered_endpoints(&self, family: Family) -> BTreeSet<(u32, Endpoint)> {
        let mut all = BTreeSet::new();
        for places in [&ADDRESS, &NODE_PORT] {
            for (side, set) in Side::ALL.into_iter().zip(places.memories) {
                for key in self
                    .sets
                    .get(set)
                    .into_iter()
                    .flat_map(|set| set.elements.keys())
                {
                    let Some(frontend) = frontend_of(family, places, key) else {
                        continue;
                    };
                    let number = self.memory_number(&frontend, side);
                    let endpoints = self.endpoints(&frontend, side).into_iter().flatten();
                    all.extend(number.into_iter().flat_map(|number| {
                        endpoints.clone().map(move |endpoint| (number, endpoint))
                    }));
                }
            }
        }
        all
    }

    /// The number of the memory that a side of a frontend has.
    pub(super) fn memory_number(&self, frontend: &Frontend, side: Side) -> Option<u32> {
        let set = Places::of(frontend).memories[side as usize];
        match self.get(set, &frontend_key(frontend))? {
            Data::Value(value) => KeyReader(value.as_slice()).number(),
            _ => None,
        }
    }

    /// The endpoints in a frontend's slots; `None` marks a value that is not an endpoint.
    pub(crate) fn endpoints(&self, frontend: &Frontend, side: Side) -> Vec<Option<Endpoint>> {
        self.slots(frontend, side)
            .map(|(_, data)| endpoint(frontend.family(), data))
            .collect()
    }

    fn slots(&self, frontend: &Frontend, side: Side) -> impl Iterator<Item = (Key, &Data)> {
        let (set, key) = (slot_map(frontend).set(), frontend_key(frontend));
        (side.first_slot()..).map_while(move |slot| {
            let key = key.number(slot);
            Some((key, self.get(set, &key)?))
        })
    }

    /// What a frontend has now.
    pub(super) fn present(&self, frontend: &Frontend) -> Vec<Element> {
        let (places, key) = (Places::of(frontend), frontend_key(frontend));
        let single = places
            .by_key()
            .filter_map(|set| Some((set, key, self.get(set, &key)?.clone())));
        let set = slot_map(frontend).set();
        let slots = Side::ALL
            .into_iter()
            .flat_map(|side| self.slots(frontend, side))
            .map(move |(key, data)| (set, key, data.clone()));
        let ranges = places.restricted.and_then(|(set, _)| {
            let from_key = self.sets.get(set)?.elements.range(key..);
            let own =
                from_key.take_while(move |(range, _)| range.as_slice().starts_with(key.as_slice()));
            Some(own.map(move |(range, data)| (set, *range, data.clone())))
        });
        single
            .chain(slots)
            .chain(ranges.into_iter().flatten())
            .collect()
    }
}
