//! Which endpoints the connections to a port go to.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
    num::NonZeroU16,
    sync::Arc,
};

use dataplane::model::{self, Affinity, Family, Fate, Masquerade, Memory, Scope};

use super::Here;
use crate::objects::{Endpoint, EndpointSlice, ServicePort, TrafficPolicy};

/// The endpoints of one service port, by address.
pub(super) struct PortEndpoints<'a> {
    by_address: BTreeMap<model::Endpoint, &'a Endpoint>,
    here: &'a Here,
}

/// What the policies leave of them in one family.
pub(super) struct Chosen {
    /// For policy Cluster; empty when there is no usable endpoint anywhere.
    cluster: Arc<[model::Endpoint]>,
    /// For policy Local.
    local: Arc<[model::Endpoint]>,
}

impl Chosen {
    /// The fate of a ClusterIP.
    pub(super) fn internal(&self, policy: TrafficPolicy, affinity: Option<Affinity>) -> Fate {
        let (endpoints, scope) = match policy {
            TrafficPolicy::Cluster => (&self.cluster, Scope::Cluster),
            TrafficPolicy::Local => (&self.local, Scope::Node),
        };
        let remembered_in = |affinity: Affinity| Affinity {
            memory: Memory {
                scope,
                ..affinity.memory
            },
            ..affinity
        };
        if self.cluster.is_empty() {
            Fate::Reject
        } else if endpoints.is_empty() {
            Fate::Drop
        } else {
            Fate::Balance {
                endpoints: Arc::clone(endpoints),
                masquerade: Masquerade::NonPodSources,
                affinity: affinity.map(remembered_in),
            }
        }
    }

    /// The fate of a NodePort, an externalIP or a load balancer's VIP.
    pub(super) fn external(&self, policy: TrafficPolicy, affinity: Option<Affinity>) -> Fate {
        if self.cluster.is_empty() {
            return Fate::Reject;
        }
        let inside = Arc::clone(&self.cluster);
        match policy {
            // The endpoint may be on another node, and its answer must come back through this one.
            TrafficPolicy::Cluster => Fate::Balance {
                endpoints: inside,
                masquerade: Masquerade::Always,
                affinity,
            },
            TrafficPolicy::Local => Fate::Local {
                outside: Arc::clone(&self.local),
                inside,
                affinity,
            },
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
                        if liveliness(endpoint, here) > liveliness(entry.get(), here) {
                            entry.insert(endpoint);
                        }
                    }
                }
            }
        }
        Self { by_address, here }
    }

    /// The endpoints of each policy: the ready ones, or, only if no ready one is in its whole scope, those that still serve
    /// while they terminate. Local never goes to another node.
    pub(super) fn choose(&self, family: Family) -> Chosen {
        let ready = self.select(family, |endpoint| endpoint.is_ready());
        let last_resort = self.select(family, |endpoint| {
            endpoint.is_serving() && endpoint.is_terminating()
        });
        let mut local = self.local(&ready);
        if local.is_empty() {
            local = self.local(&last_resort);
        }
        let cluster = if ready.is_empty() {
            last_resort
        } else {
            self.near(ready)
        };
        Chosen {
            cluster: cluster.into(),
            local: local.into(),
        }
    }

    /// The addresses of the ready endpoints on this node.
    pub(super) fn local_ready(&self, family: Family) -> impl Iterator<Item = IpAddr> + use<> {
        let ready = self.select(family, |endpoint| endpoint.is_ready());
        let local = self.local(&ready).into_iter();
        local.map(|endpoint| endpoint.addr)
    }

    /// Everybody who answers: ready, or not ready any more but serving while it terminates.
    pub(super) fn serving(&self, family: Family) -> Vec<model::Endpoint> {
        self.select(family, Endpoint::is_serving)
    }

    fn select(&self, family: Family, wanted: impl Fn(&Endpoint) -> bool) -> Vec<model::Endpoint> {
        let all = self.by_address.iter();
        all.filter(|(address, endpoint)| family == Family::of(address.addr) && wanted(endpoint))
            .map(|(address, _)| *address)
            .collect()
    }

    fn local(&self, endpoints: &[model::Endpoint]) -> Vec<model::Endpoint> {
        let is_local = |address: &&model::Endpoint| is_local(self.by_address[*address], self.here);
        endpoints.iter().filter(is_local).copied().collect()
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
fn liveliness(endpoint: &Endpoint, here: &Here) -> impl Ord + use<> {
    (
        !endpoint.is_terminating(),
        endpoint.is_ready(),
        endpoint.is_serving(),
        is_local(endpoint, here),
    )
}

fn is_local(endpoint: &Endpoint, here: &Here) -> bool {
    endpoint.node_name.as_deref() == Some(&*here.node)
}

#[derive(Clone, Copy)]
enum Place {
    Node,
    Zone,
}
