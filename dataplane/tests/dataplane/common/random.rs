//! Random desired states from a universe small enough that they collide.

use std::{net::IpAddr, time::Duration};

use dataplane::model::{
    Affinity, Change, Desired, Endpoint, Family, Fate, Frontend, Masquerade, Memory, Protocol,
    Scope,
};
use proptest::{
    collection::{btree_map, btree_set},
    prelude::*,
    sample::select,
};

use super::{from, port};

fn addr(v4: [u8; 4], v6: u16, family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from(v4),
        Family::V6 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, v6]),
    }
}

fn family() -> impl Strategy<Value = Family> + Clone {
    select(Family::ALL.to_vec())
}

fn protocol() -> impl Strategy<Value = Protocol> + Clone {
    select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
}

pub(crate) fn frontend() -> impl Strategy<Value = Frontend> + Clone {
    let ports = select(vec![80, 30_080]);
    (family(), protocol(), ports, 0..5u8).prop_map(|(family, protocol, number, host)| match host {
        0 => Frontend::NodePort {
            family,
            protocol,
            port: port(number),
        },
        _ => Frontend::Address {
            addr: addr([10, 96, 0, host], 0x960 + u16::from(host), family),
            protocol,
            port: port(number),
        },
    })
}

pub(crate) fn pod(family: Family, host: u8) -> IpAddr {
    addr([10, 244, 0, host], 0x2440 + u16::from(host), family)
}

/// Endpoints of both families: a fate is made for a frontend of either.
fn fate() -> impl Strategy<Value = Fate> {
    let endpoint =
        (family(), 0..9u8, select(vec![80, 8080])).prop_map(|(family, host, number)| Endpoint {
            addr: pod(family, host),
            port: port(number),
        });
    let masquerade = select(vec![Masquerade::NonPodSources, Masquerade::Always]);
    let timeout = select(vec![10, 10_800]).prop_map(Duration::from_secs);
    let scope = select(vec![Scope::Cluster, Scope::Node]);
    let memory = (frontend(), scope).prop_map(|(port, scope)| Memory { port, scope });
    let affinity = (timeout, memory).prop_map(|(timeout, memory)| Affinity { timeout, memory });
    let affinity = proptest::option::of(affinity);
    let local = (
        btree_set(endpoint.clone(), 0..4),
        btree_set(endpoint.clone(), 1..9),
        affinity.clone(),
    )
        .prop_map(|(outside, inside, affinity)| Fate::Local {
            outside: outside.into_iter().collect(),
            inside: inside.into_iter().collect(),
            affinity,
        });
    let balance = (btree_set(endpoint, 1..9), masquerade, affinity).prop_map(
        |(endpoints, masquerade, affinity)| Fate::Balance {
            endpoints: endpoints.into_iter().collect(),
            masquerade,
            affinity,
        },
    );
    let plain =
        prop_oneof![6 => balance, 3 => local, 1 => Just(Fate::Reject), 1 => Just(Fate::Drop)];
    let sources = btree_set(select(SOURCES.to_vec()), 0..4);
    (plain, proptest::option::weighted(0.2, sources)).prop_map(|(fate, sources)| match sources {
        Some(sources) => from(&sources.into_iter().collect::<Vec<_>>(), fate),
        None => fate,
    })
}

/// Networks that overlap, of both families, with and without the clients that packets are traced for.
const SOURCES: [&str; 9] = [
    "192.0.2.0/24",
    "192.0.2.0/28",
    "192.0.2.8/31",
    "192.0.2.1/32",
    "0.0.0.0/0",
    "10.244.0.0/16",
    "2001:db8::/32",
    "2001:db8::9/128",
    "fd00::/16",
];

pub(crate) fn desired() -> impl Strategy<Value = Desired> {
    let pods = btree_set(
        (family(), 0..9u8).prop_map(|(family, host)| pod(family, host)),
        0..5,
    );
    (
        btree_map(frontend(), fate(), 0..12),
        pods,
        btree_set(frontend(), 0..2),
        any::<bool>(),
    )
        .prop_map(
            |(frontends, local_pods, local_listeners, masquerade_egress)| Desired {
                frontends,
                service_networks: ["10.96.0.0/16", "fd00::960/120"]
                    .map(|net| net.parse().expect("a network"))
                    .into(),
                pod_networks: ["10.244.0.0/16", "fd00::2400/118"]
                    .map(|net| net.parse().expect("a network"))
                    .into(),
                local_pods,
                local_listeners,
                node_port_networks: std::collections::BTreeSet::new(),
                masquerade_egress,
                ..Desired::default()
            },
        )
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    let pods = btree_map(
        (family(), 0..9u8).prop_map(|(family, host)| pod(family, host)),
        any::<bool>(),
        0..3,
    );
    (
        btree_map(frontend(), proptest::option::weighted(0.8, fate()), 0..4),
        pods,
    )
        .prop_map(|(frontends, local_pods)| Change {
            frontends,
            local_pods,
        })
}

/// The desired state after a change.
pub(crate) fn after(mut desired: Desired, change: &Change) -> Desired {
    for (frontend, fate) in &change.frontends {
        match fate {
            Some(fate) => _ = desired.frontends.insert(*frontend, fate.clone()),
            None => _ = desired.frontends.remove(frontend),
        }
    }
    for (addr, present) in &change.local_pods {
        if *present {
            desired.local_pods.insert(*addr);
        } else {
            desired.local_pods.remove(addr);
        }
    }
    desired
}
