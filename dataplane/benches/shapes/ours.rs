//! The ruleset of this crate.

use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU16};

use dataplane::{
    Dataplane,
    kernel::{Netlink, Ownership},
    model::{Change, Desired, Endpoint, Fate, Frontend, Masquerade, Protocol},
};

use crate::{CHANGES, ENDPOINTS, figures::*, net};

/// Loads it and changes an endpoint of the middle Service; it stays when this has ended.
pub(crate) fn load(services: u32) -> (Cost, Option<Cost>) {
    let desired = Desired {
        frontends: (0..services)
            .map(|service| (frontend(service), fate(service, 0)))
            .collect::<BTreeMap<_, _>>(),
        service_networks: [net::SERVICES.parse().expect("a network")].into(),
        pod_networks: [net::PODS.parse().expect("a network")].into(),
        ..Desired::default()
    };
    let kernel = Netlink::open(Ownership::WhenPossible).expect("nf_tables");
    let mut dataplane = Dataplane::open(kernel).expect("open");
    let ((), load) = timed(|| _ = dataplane.replace(&desired).expect("replace"));
    let changes: Vec<Cost> = (1..=CHANGES)
        .map(|round| {
            let change = Change {
                frontends: [(frontend(services / 2), Some(fate(services / 2, round)))].into(),
                ..Change::default()
            };
            timed(|| _ = dataplane.update(&change).expect("update")).1
        })
        .collect();
    (load, Some(median(&changes)))
}

fn frontend(service: u32) -> Frontend {
    Frontend::Address {
        addr: net::service(service).into(),
        protocol: Protocol::Tcp,
        port: NonZeroU16::new(net::SERVICE_PORT).expect("not zero"),
    }
}

/// With one endpoint more in every other round.
fn fate(service: u32, round: u32) -> Fate {
    let endpoint = |slot| Endpoint {
        addr: IpAddr::from(net::endpoint(service, slot)),
        port: NonZeroU16::new(net::ENDPOINT_PORT).expect("not zero"),
    };
    Fate::Balance {
        endpoints: (0..ENDPOINTS + round % 2).map(endpoint).collect(),
        masquerade: Masquerade::NonPodSources,
        affinity: None,
    }
}
