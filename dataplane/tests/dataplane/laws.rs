//! Laws that hold for every desired state, on the kernel in memory.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use crate::common::{
    self,
    random::{after, change, desired, pod},
};
use dataplane::{
    Dataplane, Verified,
    kernel::{Fake, Kernel},
    model::{Change, Desired, Endpoint, Family, Fate, Frontend, Masquerade, Protocol},
    plan::plan,
    ruleset::{ConnectionState, Landing, Origin, Packet, Ruleset, Source, World},
};
use proptest::{collection::vec, prelude::*};

fn compiled(desired: &Desired) -> Ruleset {
    Ruleset::compile(desired, &Ruleset::default())
}

fn with(ruleset: &Ruleset) -> Fake {
    Fake {
        ruleset: ruleset.clone(),
        ..Fake::default()
    }
}

fn open(desired: &Desired) -> Dataplane<Fake> {
    let mut dataplane = Dataplane::open(Fake::default()).expect("open");
    dataplane.replace(desired).expect("replace");
    dataplane
}

fn held(dataplane: &mut Dataplane<Fake>) -> Ruleset {
    dataplane.kernel_mut().ruleset.clone()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn applying_a_plan_gives_the_ruleset_it_was_made_for(a in desired(), b in desired()) {
        let (a, b) = (compiled(&a), compiled(&b));
        let mut kernel = with(&a);
        for operations in plan(&a, &b).transactions {
            kernel.commit(&operations, None).expect("the kernel accepts it");
        }
        prop_assert_eq!(kernel.ruleset, b);
    }

    #[test]
    fn a_plan_between_equals_is_empty(a in desired()) {
        prop_assert!(plan(&compiled(&a), &compiled(&a)).is_empty());
    }

    #[test]
    fn compiling_onto_the_result_changes_nothing(a in desired(), b in desired()) {
        let b_onto_a = Ruleset::compile(&b, &compiled(&a));
        prop_assert!(plan(&b_onto_a, &Ruleset::compile(&b, &b_onto_a)).is_empty());
    }

    #[test]
    fn updates_lead_where_a_replacement_leads(start in desired(), changes in vec(change(), 1..6)) {
        let mut dataplane = open(&start);
        let mut wanted = start;
        for change in &changes {
            dataplane.update(change).expect("update");
            wanted = after(wanted, change);
        }
        let held = held(&mut dataplane);
        prop_assert_eq!(dataplane.replace(&wanted).expect("replace").transactions, 0);
        prop_assert_eq!(Ruleset::compile(&wanted, &held), held);
    }

    #[test]
    fn a_change_of_one_endpoint_touches_one_slot(desired in desired(), at in any::<prop::sample::Index>(), host in 20..30u8) {
        let balanced: Vec<_> = desired.frontends.iter().filter_map(|(frontend, fate)| match fate {
            Fate::Balance { endpoints, masquerade, affinity } => Some((*frontend, endpoints.clone(), *masquerade, *affinity)),
            _ => None,
        }).filter(|(frontend, endpoints, ..)| {
            !is_listener(&desired, frontend) && endpoints.iter().any(|e| Family::of(e.addr) == frontend.family())
        }).collect();
        prop_assume!(!balanced.is_empty());
        let (frontend, endpoints, masquerade, affinity) = at.get(&balanced).clone();
        let mut endpoints = endpoints.to_vec();
        let mine = endpoints.iter_mut().find(|e| Family::of(e.addr) == frontend.family()).expect("filtered");
        mine.addr = pod(frontend.family(), host);
        endpoints.sort();
        let fate = Fate::Balance { endpoints: endpoints.into(), masquerade, affinity };
        let applied = open(&desired).update(&Change { frontends: [(frontend, Some(fate))].into(), ..Change::default() });
        prop_assert_eq!(applied.expect("update").elements, 2, "one deleted, one added");
    }

    #[test]
    fn every_state_converges_after_failures_and_foreign_changes(
        start in desired(), changes in vec((change(), 0..3u32), 1..5), damage in desired()
    ) {
        let mut dataplane = open(&start);
        let mut wanted = start;
        for (change, failures) in &changes {
            dataplane.kernel_mut().failures = *failures;
            let _ = dataplane.update(change);
            wanted = after(wanted, change);
        }
        dataplane.kernel_mut().failures = 0;
        let kernel = dataplane.kernel_mut();
        kernel.ruleset = compiled(&damage);
        kernel.generation += 1;
        dataplane.verify().expect("verify");
        prop_assert_eq!(dataplane.verify().expect("verify"), Verified::Intact);
        let held = held(&mut dataplane);
        prop_assert!(plan(&held, &Ruleset::compile(&wanted, &held)).is_empty());
    }

    #[test]
    fn a_packet_lands_where_its_frontends_fate_says(desired in desired(), choice in 0..64u32, client in client()) {
        let ruleset = compiled(&desired);
        for (frontend, fate) in desired.frontends.iter().filter(|(frontend, _)| !is_listener(&desired, frontend)) {
            let world = World { local_addresses: node_addresses(), choice };
            let packet = packet(frontend, client);
            let landing = ruleset.trace(&packet, ConnectionState::New, &world);
            check(&desired, fate, &packet, client, landing)?;
        }
    }
}

/// The three kinds of clients that a fate may tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Pod,
    Node,
    Outside,
}

fn client() -> impl Strategy<Value = Client> {
    prop::sample::select(vec![Client::Pod, Client::Node, Client::Outside])
}

fn is_listener(desired: &Desired, frontend: &Frontend) -> bool {
    matches!(frontend, Frontend::Address { .. }) && desired.local_listeners.contains(frontend)
}

fn node_addresses() -> BTreeSet<IpAddr> {
    [
        IpAddr::from([192, 0, 2, 1]),
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1u16]),
    ]
    .into()
}

fn node_address(family: Family) -> IpAddr {
    node_addresses()
        .into_iter()
        .find(|addr| Family::of(*addr) == family)
        .expect("both families")
}

fn packet(frontend: &Frontend, client: Client) -> Packet {
    let family = frontend.family();
    let destination = match *frontend {
        Frontend::Address { addr, port, .. } => SocketAddr::new(addr, port.get()),
        Frontend::NodePort { port, .. } => SocketAddr::new(node_address(family), port.get()),
    };
    let source: IpAddr = match (client, family) {
        (Client::Pod, _) => pod(family, 7),
        (Client::Node, _) => node_address(family),
        (Client::Outside, Family::V4) => [192, 0, 2, 9].into(),
        (Client::Outside, Family::V6) => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 9].into(),
    };
    Packet {
        origin: if client == Client::Node {
            Origin::Node
        } else {
            Origin::Link
        },
        protocol: frontend.protocol(),
        source: SocketAddr::new(source, 40_000),
        destination,
    }
}

/// Whether a packet of this client landed where the fate of what it was sent to says.
fn check(
    desired: &Desired,
    fate: &Fate,
    packet: &Packet,
    client: Client,
    landing: Landing,
) -> Result<(), TestCaseError> {
    let (endpoints, when_none, masqueraded) = match fate {
        Fate::From { sources, fate } => {
            let node_port = node_addresses().contains(&packet.destination.ip());
            let source = packet.source.ip();
            if node_port || sources.iter().any(|net| net.contains(&source)) {
                return check(desired, fate, packet, client, landing);
            }
            (&[][..], Landing::Dropped, false)
        }
        Fate::Reject => (&[][..], Landing::Rejected, false),
        Fate::Drop => (&[][..], Landing::Dropped, false),
        Fate::Balance {
            endpoints,
            masquerade,
            ..
        } => {
            let masqueraded = match masquerade {
                Masquerade::Always => true,
                Masquerade::NonPodSources => client != Client::Pod,
            };
            (&endpoints[..], Landing::Rejected, masqueraded)
        }
        Fate::Local {
            outside, inside, ..
        } => match client {
            _ if usable(inside, packet).is_empty() => (&[][..], Landing::Rejected, false),
            Client::Outside => (&outside[..], Landing::Dropped, false),
            Client::Pod => (&inside[..], Landing::Rejected, false),
            Client::Node => (&inside[..], Landing::Rejected, true),
        },
    };
    let usable = usable(endpoints, packet);
    if usable.is_empty() {
        prop_assert_eq!(landing, when_none);
        return Ok(());
    }
    let Landing::Delivered {
        to,
        source,
        tracked,
    } = landing
    else {
        return Err(TestCaseError::fail(format!("{landing:?}")));
    };
    let source_addr = packet.source.ip();
    let hairpin = to.ip() == source_addr && desired.local_pods.contains(&source_addr);
    prop_assert!(usable.contains(&to), "{} is not among {:?}", to, usable);
    prop_assert_eq!(source == Source::Masqueraded, masqueraded || hairpin);
    prop_assert!(tracked);
    Ok(())
}

/// The endpoints of the packet's family.
fn usable(endpoints: &[Endpoint], packet: &Packet) -> BTreeSet<SocketAddr> {
    endpoints
        .iter()
        .filter(|endpoint| endpoint.addr.is_ipv4() == packet.destination.is_ipv4())
        .map(|endpoint| SocketAddr::new(endpoint.addr, endpoint.port.get()))
        .collect()
}

#[test]
fn what_a_packet_meets_besides_services() {
    let service = |host, port| SocketAddr::new([10, 96, 0, host].into(), port);
    let listener = Frontend::Address {
        addr: [10, 96, 0, 10].into(),
        protocol: Protocol::Udp,
        port: common::port(53),
    };
    let web = common::address("10.96.0.1", Protocol::Tcp, 80);
    let node_port = common::node_port(Family::V4, 80);
    let desired = Desired {
        frontends: [
            (web, common::balance(&["10.244.0.1:80"])),
            (node_port, common::balance(&["10.244.0.2:80"])),
        ]
        .into(),
        service_networks: ["10.96.0.0/16".parse().expect("a network")].into(),
        pod_networks: ["10.244.0.0/16".parse().expect("a network")].into(),
        local_pods: [[10, 244, 0, 1].into()].into(),
        local_listeners: [listener].into(),
        masquerade_egress: true,
    };
    let ruleset = compiled(&desired);
    let world = World {
        local_addresses: [[192, 0, 2, 1].into(), [10, 96, 0, 10].into()].into(),
        choice: 7,
    };
    let land = |origin, source: [u8; 4], protocol, destination| {
        let packet = Packet {
            origin,
            protocol,
            source: SocketAddr::new(source.into(), 40_000),
            destination,
        };
        ruleset.trace(&packet, ConnectionState::New, &world)
    };
    let delivered = |to: SocketAddr, source| Landing::Delivered {
        to,
        source,
        tracked: true,
    };
    let (link, node, tcp, udp) = (Origin::Link, Origin::Node, Protocol::Tcp, Protocol::Udp);
    let (pod, other_pod, outside) = ([10, 244, 0, 1], [10, 244, 0, 7], [192, 0, 2, 9]);
    let endpoint = SocketAddr::from((pod, 80));
    assert_eq!(
        land(link, pod, tcp, service(1, 80)),
        delivered(endpoint, Source::Masqueraded),
        "hairpin"
    );
    assert_eq!(
        land(link, other_pod, tcp, service(1, 80)),
        delivered(endpoint, Source::Kept)
    );
    assert_eq!(
        land(node, [192, 0, 2, 1], tcp, service(1, 80)),
        delivered(endpoint, Source::Masqueraded)
    );
    assert_eq!(
        land(link, pod, tcp, service(1, 81)),
        Landing::Rejected,
        "unknown port"
    );
    assert_eq!(
        land(node, [192, 0, 2, 1], udp, service(1, 80)),
        Landing::Rejected,
        "unknown protocol"
    );
    assert_eq!(
        land(link, pod, tcp, service(99, 80)),
        Landing::Dropped,
        "unallocated address"
    );
    let dns = Landing::Delivered {
        to: service(10, 53),
        source: Source::Kept,
        tracked: false,
    };
    assert_eq!(land(link, pod, udp, service(10, 53)), dns, "local listener");
    assert_eq!(
        land(link, pod, tcp, service(10, 9153)),
        Landing::Rejected,
        "its other ports"
    );
    let loopback = SocketAddr::from(([127, 0, 0, 1], 80));
    assert_eq!(
        land(node, [127, 0, 0, 1], tcp, loopback),
        delivered(loopback, Source::Kept),
        "no NodePort on loopback"
    );
    let world_address = SocketAddr::from((outside, 443));
    assert_eq!(
        land(link, pod, tcp, world_address),
        delivered(world_address, Source::Masqueraded),
        "egress"
    );
    assert_eq!(
        land(link, outside, tcp, endpoint),
        delivered(endpoint, Source::Kept),
        "not ours"
    );
    let established = Packet {
        origin: link,
        protocol: tcp,
        source: SocketAddr::from((pod, 1)),
        destination: service(99, 80),
    };
    let kept = ruleset.trace(&established, ConnectionState::Established, &world);
    assert_eq!(
        kept,
        delivered(service(99, 80), Source::Kept),
        "only new connections are dropped"
    );
}

#[test]
fn an_affinity_is_forgotten_when_its_endpoint_leaves() {
    use dataplane::ruleset::{Bytes, Data, Key, sets};
    let web = common::address("10.96.0.1", Protocol::Tcp, 80);
    let fate = |endpoints: &[&str]| common::with_affinity(common::balance(endpoints), 60);
    let desired = Desired {
        frontends: [(web, fate(&["10.244.0.1:80", "10.244.0.2:80"]))].into(),
        ..Desired::default()
    };
    let mut dataplane = open(&desired);
    let remembered = |client: u8, endpoint: u8| {
        let key = Key::default()
            .address([192, 0, 2, client].into())
            .address([10, 96, 0, 1].into());
        let value = Bytes::default()
            .address([10, 244, 0, endpoint].into())
            .port(80);
        (key.protocol(Protocol::Tcp).port(80), Data::Value(value))
    };
    let at = (Family::V4, sets::AFFINITY.to_owned());
    dataplane
        .kernel_mut()
        .dynamic
        .insert(at.clone(), vec![remembered(7, 1), remembered(8, 2)]);
    let change = Change {
        frontends: [(web, Some(fate(&["10.244.0.2:80"])))].into(),
        ..Change::default()
    };
    dataplane.update(&change).expect("update");
    assert_eq!(dataplane.kernel_mut().dynamic[&at], [remembered(8, 2)]);
}
