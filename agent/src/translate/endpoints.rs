//! Which endpoints the connections to a port go to.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    num::NonZeroU16,
    sync::Arc,
    time::Duration,
};

use dataplane::model::{self, Family, Fate, Masquerade};

use super::Here;
use crate::objects::{Endpoint, EndpointSlice, ServicePort, TrafficPolicy};

/// The endpoints of one service port, by address.
pub(super) struct PortEndpoints<'a> {
    by_address: BTreeMap<model::Endpoint, &'a Endpoint>,
    here: &'a Here,
}

/// What a traffic policy leaves of them.
pub(super) enum Choice {
    /// These, sorted.
    Some(Vec<model::Endpoint>),
    /// None that the policy allows, but there are some.
    Forbidden,
    /// None at all.
    None,
}

impl Choice {
    pub(super) fn into_fate(self, masquerade: Masquerade, affinity: Option<Duration>) -> Fate {
        match self {
            Self::Some(endpoints) => Fate::Balance {
                endpoints: Arc::from(endpoints),
                masquerade,
                affinity,
            },
            Self::Forbidden => Fate::Drop,
            Self::None => Fate::Reject,
        }
    }
}

impl<'a> PortEndpoints<'a> {
    /// Joins the slices: a slice's port belongs to the service port of the same name and protocol. A port without a name
    /// (not an empty one) or number belongs to none, and neither do the slices of a headless Service.
    pub(super) fn collect(
        port: &ServicePort,
        slices: &[&'a EndpointSlice],
        here: &'a Here,
    ) -> Self {
        let mut by_address = BTreeMap::new();
        for slice in slices.iter().filter(|slice| !slice.is_headless()) {
            let number = slice
                .ports
                .iter()
                .find(|candidate| {
                    candidate.name.as_deref() == Some(&*port.name)
                        && candidate.protocol.unwrap_or_default() == port.protocol
                })
                .and_then(|found| NonZeroU16::new(found.port?));
            let Some(number) = number else { continue };
            for endpoint in &slice.endpoints {
                let Some(addr) = endpoint.addr else {
                    continue;
                };
                match by_address.entry(model::Endpoint { addr, port: number }) {
                    Entry::Vacant(entry) => {
                        entry.insert(endpoint);
                    }
                    // The address was given to a new Pod while the old one's slice still names it.
                    Entry::Occupied(mut entry) => {
                        if liveliness(endpoint) > liveliness(entry.get()) {
                            entry.insert(endpoint);
                        }
                    }
                }
            }
        }
        Self { by_address, here }
    }

    /// The endpoints that a policy allows: the ready ones, or, only if no ready one is in its whole scope, those that
    /// still serve while they terminate. Local never goes to another node.
    pub(super) fn fate(&self, policy: TrafficPolicy, family: Family) -> Choice {
        let ready = self.select(family, |endpoint| endpoint.is_ready());
        let last_resort = self.select(family, |endpoint| {
            endpoint.is_serving() && endpoint.is_terminating()
        });
        let nowhere = ready.is_empty() && last_resort.is_empty();
        let chosen = match policy {
            TrafficPolicy::Cluster if ready.is_empty() => last_resort,
            TrafficPolicy::Cluster => self.near(ready),
            TrafficPolicy::Local => {
                let local = self.local(ready);
                if local.is_empty() {
                    self.local(last_resort)
                } else {
                    local
                }
            }
        };
        match (chosen.is_empty(), nowhere) {
            (false, _) => Choice::Some(chosen),
            (true, false) => Choice::Forbidden,
            (true, true) => Choice::None,
        }
    }

    fn select(&self, family: Family, wanted: impl Fn(&Endpoint) -> bool) -> Vec<model::Endpoint> {
        let all = self.by_address.iter();
        all.filter(|(address, endpoint)| family == Family::of(address.addr) && wanted(endpoint))
            .map(|(address, _)| *address)
            .collect()
    }

    fn local(&self, mut endpoints: Vec<model::Endpoint>) -> Vec<model::Endpoint> {
        endpoints.retain(|address| {
            self.by_address[address].node_name.as_deref() == Some(&*self.here.node)
        });
        endpoints
    }

    /// Hints count only when every ready endpoint has one and some name this node, or else this zone.
    fn near(&self, ready: Vec<model::Endpoint>) -> Vec<model::Endpoint> {
        let hinted = |address: &model::Endpoint, place: Place| {
            let hints = self.by_address[address].hints.as_deref();
            hints.map(|hints| match place {
                Place::Node => &hints.for_nodes,
                Place::Zone => &hints.for_zones,
            })
        };
        for (place, name) in [
            (Place::Node, Some(&self.here.node)),
            (Place::Zone, self.here.zone.as_ref()),
        ] {
            let Some(name) = name else { continue };
            let complete = ready
                .iter()
                .all(|address| hinted(address, place).is_some_and(|names| !names.is_empty()));
            let near: Vec<_> = ready
                .iter()
                .filter(|address| {
                    hinted(address, place)
                        .is_some_and(|names| names.iter().any(|hint| hint.name == *name))
                })
                .copied()
                .collect();
            if complete && !near.is_empty() {
                return near;
            }
        }
        ready
    }
}

/// Which of two endpoints with one address is the one that has it: the greater.
fn liveliness(endpoint: &Endpoint) -> impl Ord + use<> {
    (!endpoint.is_terminating(), endpoint.is_ready())
}

#[derive(Clone, Copy)]
enum Place {
    Node,
    Zone,
}
