//! One frontend -> its elements.
//!
//! Every element of a frontend starts with the frontend's own key, so what a frontend has now is found by looking.

use std::{collections::BTreeSet, time::Duration};

use super::{Bytes, Data, Key, KeyReader, Table, Verdict, pick::PickChain, sets};
use crate::model::{Endpoint, Family, Fate, Frontend, Masquerade};

/// An element and the set it belongs to.
pub(super) type Element = (&'static str, Key, Data);

/// The sets in which a kind of frontend has its elements.
struct Places {
    /// Its key, and the chain that picks an endpoint.
    picking: &'static str,
    /// Its key with a slot, and an endpoint.
    slots: &'static str,
    reject: &'static str,
    drop: &'static str,
    always: &'static str,
    non_pods: &'static str,
    /// A NodePort needs no element for "never": nothing comes after the NodePort rules.
    never: Option<&'static str>,
    /// Its key, and the chain that remembers the client's endpoint.
    remembering: &'static str,
}

const ADDRESS: Places = Places {
    picking: sets::SERVICES,
    slots: sets::SLOTS,
    reject: sets::REJECT,
    drop: sets::DROP,
    always: sets::MASQUERADE_ALWAYS,
    non_pods: sets::MASQUERADE_NON_PODS,
    never: Some(sets::MASQUERADE_NEVER),
    remembering: sets::AFFINITY_SERVICES,
};

const NODE_PORT: Places = Places {
    picking: sets::NODEPORTS,
    slots: sets::NODEPORT_SLOTS,
    reject: sets::REJECT_NODEPORTS,
    drop: sets::DROP_NODEPORTS,
    always: sets::MASQUERADE_ALWAYS_NODEPORTS,
    non_pods: sets::MASQUERADE_NON_PODS_NODEPORTS,
    never: None,
    remembering: sets::AFFINITY_NODEPORTS,
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
            self.reject,
            self.drop,
            self.always,
            self.non_pods,
            self.remembering,
        ]
        .into_iter()
        .chain(self.never)
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

fn goto(chain: PickChain) -> Data {
    Data::Verdict(Verdict::Goto(chain.name().into()))
}

/// Puts `wanted` into slots so that as few as possible change: who stays keeps its slot, the others fill the holes.
fn assign_slots(current: &[Option<Endpoint>], wanted: BTreeSet<Endpoint>) -> Vec<Endpoint> {
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

/// The elements that give a frontend its fate. `current` are the endpoints in its slots now.
pub(super) fn elements(
    frontend: &Frontend,
    fate: &Fate,
    current: &[Option<Endpoint>],
    into: &mut Vec<Element>,
) {
    let (places, key) = (Places::of(frontend), frontend_key(frontend));
    match fate {
        Fate::Reject => into.push((places.reject, key, Data::None)),
        Fate::Drop => into.push((places.drop, key, Data::None)),
        Fate::Balance {
            endpoints,
            masquerade,
            affinity,
        } => {
            let usable = endpoints
                .iter()
                .copied()
                .filter(|endpoint| Family::of(endpoint.addr) == frontend.family());
            let slots = assign_slots(current, usable.collect());
            if slots.is_empty() {
                return into.push((places.reject, key, Data::None));
            }
            balance(frontend, &slots, *affinity, into);
            let masquerade = match masquerade {
                Masquerade::Always => Some(places.always),
                Masquerade::NonPodSources => Some(places.non_pods),
                Masquerade::HairpinOnly => places.never,
            };
            into.extend(masquerade.map(|set| (set, key, Data::None)));
        }
    }
}

fn balance(
    frontend: &Frontend,
    slots: &[Endpoint],
    affinity: Option<Duration>,
    into: &mut Vec<Element>,
) {
    let (places, key) = (Places::of(frontend), frontend_key(frontend));
    for (slot, endpoint) in (0..).zip(slots) {
        into.push((places.slots, key.number(slot), slot_value(endpoint)));
    }
    let node_port = is_node_port(frontend);
    let slots = u32::try_from(slots.len()).expect("a Service has fewer than 2^32 endpoints");
    let Some(timeout) = affinity else {
        return into.push((
            places.picking,
            key,
            goto(PickChain::Balance { node_port, slots }),
        ));
    };
    let timeout_secs = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX).max(1);
    into.push((
        places.picking,
        key,
        goto(PickChain::Affinity { node_port, slots }),
    ));
    into.push((
        places.remembering,
        key,
        goto(PickChain::Remember { timeout_secs }),
    ));
}

impl Table {
    pub(super) fn get(&self, set: &str, key: &Key) -> Option<&Data> {
        self.sets.get(set)?.elements.get(key)
    }

    /// The endpoints in a frontend's slots; `None` marks a value that is not an endpoint.
    pub(crate) fn endpoints(&self, frontend: &Frontend) -> Vec<Option<Endpoint>> {
        let (set, key) = (Places::of(frontend).slots, frontend_key(frontend));
        (0..)
            .map_while(|slot| self.get(set, &key.number(slot)))
            .map(|data| endpoint(frontend.family(), data))
            .collect()
    }

    /// What a frontend has now.
    pub(super) fn present(&self, frontend: &Frontend) -> Vec<Element> {
        let (places, key) = (Places::of(frontend), frontend_key(frontend));
        let single = places
            .by_key()
            .filter_map(|set| Some((set, key, self.get(set, &key)?.clone())));
        let slots = (0..).map_while(|slot| {
            let key = key.number(slot);
            Some((places.slots, key, self.get(places.slots, &key)?.clone()))
        });
        single.chain(slots).collect()
    }
}
