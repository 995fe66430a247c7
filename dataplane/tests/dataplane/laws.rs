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
    kernel::{Fake, Fault, Kernel},
    model::{Change, Desired, Endpoint, Family, Fate, Frontend, Masquerade, Protocol, Scope},
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
    dataplane.kernel_mut().read().expect("read").ruleset
}

/// Without asking, so that no fault is met.
fn held_by_kernel(dataplane: &mut Dataplane<Fake>) -> Ruleset {
    dataplane.kernel_mut().ruleset.clone()
}

fn fault() -> impl Strategy<Value = Fault> {
    prop::sample::select(vec![Fault::AnswersLost, Fault::Overtaken, Fault::Unsteady])
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
    fn lost_answers_overtaking_and_restless_reads_leave_nothing_undone(
        start in desired(), changes in vec((change(), vec(fault(), 0..6)), 1..5)
    ) {
        let mut dataplane = open(&start);
        let mut wanted = start;
        for (change, faults) in changes {
            dataplane.kernel_mut().faults = faults.into();
            let updated = dataplane.update(&change);
            wanted = after(wanted, &change);
            if updated.is_ok() {
                let held = held_by_kernel(&mut dataplane);
                prop_assert!(plan(&held, &Ruleset::compile(&wanted, &held)).is_empty(), "done is done");
            }
        }
        // Each call meets some of what is left, so there are enough of them.
        let mut tries = 0;
        while dataplane.verify().is_err() {
            tries += 1;
            prop_assert!(tries < 8, "a fault is over when it was met");
        }
        let held = held_by_kernel(&mut dataplane);
        prop_assert!(plan(&held, &Ruleset::compile(&wanted, &held)).is_empty());
    }

    #[test]
    fn a_packet_lands_where_its_frontends_fate_says(desired in desired(), choice in 0..64u32, client in client()) {
        let ruleset = compiled(&desired);
        for (frontend, fate) in desired.frontends.iter().filter(|(frontend, _)| !is_listener(&desired, frontend)) {
            let mut world = World { local_addresses: node_addresses(), choice, ..World::default() };
            let packet = packet(frontend, client);
            let landing = ruleset.trace(&packet, ConnectionState::New, &mut world);
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
        node_port_networks: BTreeSet::new(),
        masquerade_egress: true,
        ..Desired::default()
    };
    let ruleset = compiled(&desired);
    let world = World {
        local_addresses: [[192, 0, 2, 1].into(), [10, 96, 0, 10].into()].into(),
        choice: 7,
        ..World::default()
    };
    let land = |origin, source: [u8; 4], protocol, destination| {
        let packet = Packet {
            origin,
            protocol,
            source: SocketAddr::new(source.into(), 40_000),
            destination,
        };
        ruleset.trace(&packet, ConnectionState::New, &mut world.clone())
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
    let kept = ruleset.trace(
        &established,
        ConnectionState::Established,
        &mut world.clone(),
    );
    assert_eq!(
        kept,
        delivered(service(99, 80), Source::Kept),
        "only new connections are dropped"
    );
    let invalid = Packet {
        destination: SocketAddr::from(([192, 0, 2, 9], 40_000)),
        ..established
    };
    let state = ConnectionState::Invalid;
    let from_pod = ruleset.trace(&invalid, state, &mut world.clone());
    assert_eq!(from_pod, Landing::Dropped, "an answer nobody would know");
    let from_elsewhere = Packet {
        source: SocketAddr::from((outside, 1)),
        destination: SocketAddr::from((pod, 80)),
        ..established
    };
    let passed = ruleset.trace(&from_elsewhere, state, &mut world.clone());
    assert_eq!(
        passed,
        delivered(endpoint, Source::Kept),
        "not our business"
    );
}

/// Two frontends of one service port, and one of another.
fn affinities(endpoints: &[&str]) -> (Desired, [Frontend; 3]) {
    let web = common::address("10.96.0.1", Protocol::Tcp, 80);
    let other = common::address("10.96.0.9", Protocol::Tcp, 80);
    let node_port = common::node_port(Family::V4, 30_080);
    let fate = |port| common::with_memory(common::balance(endpoints), port, Scope::Cluster, 60);
    let desired = Desired {
        frontends: [
            (web, fate(web)),
            (node_port, fate(web)),
            (other, fate(other)),
        ]
        .into(),
        ..Desired::default()
    };
    (desired, [web, node_port, other])
}

const THREE: [&str; 3] = ["10.244.0.1:80", "10.244.0.2:80", "10.244.0.3:80"];

#[test]
fn a_client_has_one_endpoint_on_every_path_of_a_service_port() {
    let (desired, [web, node_port, other]) = affinities(&THREE);
    let ruleset = compiled(&desired);
    let mut world = World {
        local_addresses: node_addresses(),
        ..World::default()
    };
    let mut land = |frontend: &Frontend, choice| {
        world.choice = choice;
        let packet = packet(frontend, Client::Outside);
        match ruleset.trace(&packet, ConnectionState::New, &mut world) {
            Landing::Delivered { to, .. } => to.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(land(&node_port, 1), THREE[1]);
    for choice in 0..3 {
        assert_eq!(land(&node_port, choice), THREE[1]);
        assert_eq!(
            land(&web, choice),
            THREE[1],
            "the ClusterIP shares the memory"
        );
    }
    assert_eq!(land(&other, 2), THREE[2], "another Service does not");
    assert_eq!(land(&other, 0), THREE[2]);
    assert_eq!(land(&web, 0), THREE[1]);
}

/// Outside, a local policy never leads to an endpoint that was chosen among all.
#[test]
fn clients_outside_do_not_share_with_paths_that_leave_the_node() {
    let web = common::address("10.96.0.1", Protocol::Tcp, 80);
    let node_port = common::node_port(Family::V4, 30_080);
    let affine = |fate| common::with_memory(fate, web, Scope::Cluster, 60);
    let desired = Desired {
        frontends: [
            (web, affine(common::balance(&THREE))),
            (node_port, affine(common::local(&THREE[..1], &THREE))),
        ]
        .into(),
        pod_networks: ["10.244.0.0/16".parse().expect("a network")].into(),
        ..Desired::default()
    };
    let ruleset = compiled(&desired);
    for (client, shared) in [
        (Client::Outside, false),
        (Client::Pod, true),
        (Client::Node, true),
    ] {
        let mut world = World {
            local_addresses: node_addresses(),
            choice: 2,
            ..World::default()
        };
        let mut land = |frontend: &Frontend| {
            let packet = packet(frontend, client);
            match ruleset.trace(&packet, ConnectionState::New, &mut world) {
                Landing::Delivered { to, .. } => to.to_string(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(land(&web), THREE[2]);
        let wanted = if shared { THREE[2] } else { THREE[0] };
        assert_eq!(land(&node_port), wanted, "{client:?}");
        assert_eq!(land(&node_port), wanted, "{client:?} again");
        assert_eq!(land(&web), THREE[2], "{client:?} again");
    }
}

#[test]
fn an_affinity_is_forgotten_when_its_endpoint_leaves_and_kept_over_a_restart() {
    use dataplane::ruleset::{Bytes, Data, Key, sets};
    let (desired, [web, node_port, other]) = affinities(&THREE);
    let mut dataplane = open(&desired);
    let memory = |dataplane: &mut Dataplane<Fake>, frontend: Frontend| {
        let Frontend::Address { addr, .. } = frontend else {
            panic!("{frontend:?} has no address")
        };
        let key = Key::default()
            .address(addr)
            .protocol(Protocol::Tcp)
            .port(80);
        let table = &dataplane.kernel_mut().ruleset.tables[&Family::V4];
        match &table.sets[sets::MEMORIES].elements[&key] {
            Data::Value(number) => u32::from_ne_bytes(number.as_slice().try_into().expect("4")),
            data => panic!("{data:?}"),
        }
    };
    let (web_memory, other_memory) = (memory(&mut dataplane, web), memory(&mut dataplane, other));
    assert_ne!(web_memory, other_memory);
    let remembered = |client: u8, memory: u32, endpoint: u8| {
        let key = Key::default()
            .address([192, 0, 2, client].into())
            .number(memory);
        let value = Bytes::default()
            .address([10, 244, 0, endpoint].into())
            .port(80);
        (key, Data::Value(value))
    };
    let at = (Family::V4, sets::AFFINITY.to_owned());
    let all = vec![
        remembered(7, web_memory, 1),
        remembered(8, web_memory, 2),
        remembered(7, other_memory, 1),
    ];
    dataplane
        .kernel_mut()
        .dynamic
        .insert(at.clone(), all.clone());
    // A restart learns which number stands for which memory, also with a new Service before the others.
    let mut grown = desired.clone();
    let first = common::address("10.96.0.0", Protocol::Tcp, 80);
    let fate = common::with_memory(common::balance(&THREE), first, Scope::Cluster, 60);
    grown.frontends.insert(first, fate);
    let mut dataplane = Dataplane::open(dataplane.kernel_mut().clone()).expect("open");
    dataplane.replace(&grown).expect("replace");
    assert_eq!(dataplane.kernel_mut().dynamic[&at], all);
    assert_eq!(memory(&mut dataplane, web), web_memory);
    assert_eq!(memory(&mut dataplane, other), other_memory);
    let new = memory(&mut dataplane, first);
    assert!(![web_memory, other_memory].contains(&new));
    // An endpoint leaves one Service.
    let (without, _) = affinities(&THREE[1..]);
    let change = |frontends: &[Frontend]| Change {
        frontends: frontends
            .iter()
            .map(|frontend| (*frontend, without.frontends.get(frontend).cloned()))
            .collect(),
        ..Change::default()
    };
    dataplane
        .update(&change(&[web, node_port]))
        .expect("update");
    assert_eq!(
        dataplane.kernel_mut().dynamic[&at],
        [remembered(8, web_memory, 2), remembered(7, other_memory, 1)]
    );
    // A Service goes: nothing of it is remembered, lest its number come back with another one.
    let gone = Change {
        frontends: [(web, None), (node_port, None)].into(),
        ..Change::default()
    };
    dataplane.update(&gone).expect("update");
    assert_eq!(
        dataplane.kernel_mut().dynamic[&at],
        [remembered(7, other_memory, 1)]
    );
}
