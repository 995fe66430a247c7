//! The tracer and the kernel agree: random clusters are programmed, every frontend is asked by every kind of client, and what
//! was met must be one of the fates that the tracer gives for the same ruleset.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use dataplane::{
    Dataplane,
    kernel::{Kernel, Netlink},
    model::{
        Affinity, Desired, Endpoint, Family, Fate, Frontend, LocalDetector, Masquerade, Memory,
        Protocol, Scope,
    },
    ruleset::{ConnectionState, Data, Key, Landing, Origin, Packet, Source, World, sets},
};
use proptest::{
    collection::btree_map,
    prelude::*,
    sample::{select, subsequence},
    test_runner::{Config, TestRunner},
};

use crate::{
    common::{Netns, address, from, port},
    net::{ALL, ALL6, Met, Net, desired, sources, tcp, udp},
};

/// Random clusters, each asked some sixty times; `MINIK_DIFFERENTIAL_CASES` asks for more.
const CASES: u32 = 4;

fn frontend() -> impl Strategy<Value = Frontend> {
    let addresses = [
        "10.96.0.20",
        "10.96.0.21",
        "203.0.113.7",
        "fd00:96::20",
        "fd00:96::21",
        "2001:db8:7::7",
    ];
    let protocol = || select(vec![Protocol::Tcp, Protocol::Udp]);
    let by_address = (
        select(addresses.to_vec()),
        protocol(),
        select(vec![80, 30_080]),
    )
        .prop_map(|(addr, protocol, number)| address(addr, protocol, number));
    let node_port = (
        select(Family::ALL.to_vec()),
        protocol(),
        select(vec![30_080, 30_081]),
    )
        .prop_map(|(family, protocol, number)| Frontend::NodePort {
            family,
            protocol,
            port: port(number),
        });
    prop_oneof![2 => by_address, 1 => node_port]
}

/// Some of the three Pods, in both families: a fate is made for a frontend of either.
fn endpoints(least: usize) -> impl Strategy<Value = Vec<Endpoint>> {
    subsequence(vec![0, 1, 2], least..=3).prop_map(|pods| {
        let addrs = pods.iter().flat_map(|pod| [ALL[*pod], ALL6[*pod]]);
        let endpoint = |addr: &str| {
            let addr: SocketAddr = addr.parse().expect("an endpoint");
            Endpoint {
                addr: addr.ip(),
                port: port(addr.port()),
            }
        };
        let mut all: Vec<_> = addrs.map(endpoint).collect();
        all.sort();
        all
    })
}

fn fate() -> impl Strategy<Value = Fate> {
    let memories = ["10.96.0.20", "10.96.0.21"].map(|addr| Memory {
        port: address(addr, Protocol::Tcp, 80),
        scope: Scope::Cluster,
    });
    let affinity = proptest::option::weighted(
        0.4,
        select(memories.to_vec()).prop_map(|memory| Affinity {
            timeout: std::time::Duration::from_secs(600),
            memory,
        }),
    );
    let masquerade = select(vec![Masquerade::NonPodSources, Masquerade::Always]);
    let balance = (endpoints(1), masquerade, affinity.clone()).prop_map(
        |(endpoints, masquerade, affinity)| Fate::Balance {
            endpoints: endpoints.into(),
            masquerade,
            affinity,
        },
    );
    let local = (endpoints(0), endpoints(1), affinity).prop_map(|(outside, inside, affinity)| {
        Fate::Local {
            outside: outside.into(),
            inside: inside.into(),
            affinity,
        }
    });
    let plain =
        prop_oneof![4 => balance, 4 => local, 1 => Just(Fate::Reject), 1 => Just(Fate::Drop)];
    let networks = [
        "192.0.2.0/24",
        "198.51.100.0/24",
        "10.244.0.0/30",
        "2001:db8::/64",
        "2001:db8:1::/64",
        "fd00:244::2/127",
    ];
    let ranges = proptest::option::weighted(0.3, subsequence(networks.to_vec(), 0..5));
    (plain, ranges).prop_map(|(fate, ranges)| match ranges {
        Some(ranges) => from(&ranges, fate),
        None => fate,
    })
}

/// By each of them the client's Pod is one, but by the second the others are not, and by the last nobody is.
fn detector() -> impl Strategy<Value = LocalDetector> {
    let networks = ["10.244.0.2/32", "fd00:244::2/128"].map(|net| net.parse().expect("a network"));
    prop_oneof![
        3 => Just(LocalDetector::PodNetworks),
        1 => Just(LocalDetector::Networks(networks.into())),
        1 => Just(LocalDetector::Interface("pod2".into())),
        1 => Just(LocalDetector::InterfacePrefix("pod".into())),
        1 => Just(LocalDetector::Interface("pod".into())),
    ]
}

#[derive(Clone, Copy, Debug)]
enum Client {
    Outside,
    Node,
    Pod,
}

const CLIENTS: [Client; 3] = [Client::Outside, Client::Node, Client::Pod];

impl Client {
    fn netns(self, net: &Net) -> &Netns {
        match self {
            Client::Outside => &net.client,
            Client::Node => &net.node,
            Client::Pod => &net.pods[0],
        }
    }

    fn origin(self) -> Origin {
        match self {
            Client::Node => Origin::Node,
            Client::Outside | Client::Pod => Origin::Link,
        }
    }

    /// The node's interface by which this client's packets come.
    fn link(self) -> &'static str {
        match self {
            Client::Outside => "out",
            Client::Node => "",
            Client::Pod => "pod2",
        }
    }

    /// The source that this client's packets have.
    fn source(self, to: IpAddr) -> IpAddr {
        let addr = match (self, to.is_ipv4(), local_addresses().contains(&to)) {
            (Client::Outside, true, _) => "192.0.2.100",
            (Client::Outside, false, _) => "2001:db8::100",
            (Client::Pod, true, _) => "10.244.0.2",
            (Client::Pod, false, _) => "fd00:244::2",
            // By the route to the outside, or the address itself.
            (Client::Node, true, false) => "198.51.100.1",
            (Client::Node, false, false) => "2001:db8:1::1",
            (Client::Node, _, true) => return to,
        };
        addr.parse().expect("an address")
    }
}

fn local_addresses() -> BTreeSet<IpAddr> {
    sources(&[
        "192.0.2.1",
        "198.51.100.1",
        "10.244.0.1",
        "10.96.0.10",
        "2001:db8::1",
        "2001:db8:1::1",
        "fd00:244::1",
    ])
}

/// Where a frontend is asked.
fn destination(frontend: &Frontend) -> SocketAddr {
    let addr = match *frontend {
        Frontend::Address { addr, .. } => addr,
        Frontend::NodePort { family, .. } => {
            let of_family = |addr: &IpAddr| Family::of(*addr) == family;
            let nodes = sources(&["192.0.2.1", "2001:db8::1"]);
            nodes.into_iter().find(of_family).expect("both families")
        }
    };
    SocketAddr::new(addr, frontend.port().get())
}

/// What a client meets that the tracer sends there.
fn meeting(landing: Landing, packet: &Packet) -> Met {
    let Landing::Delivered { to, source, .. } = landing else {
        return match landing {
            Landing::Dropped => Met::Silence,
            _ => Met::Refused,
        };
    };
    let is = |endpoint: &&str| endpoint.parse() == Ok(to);
    let index = ALL.iter().position(&is);
    let index = index.or_else(|| ALL6.iter().position(is));
    let Some(index) = index else {
        panic!("{packet:?} is sent to {to}, which nobody asked for");
    };
    let name = ["a", "b", "c"][index].to_owned();
    let seen = match (source, to.is_ipv4()) {
        (Source::Kept, _) => packet.source.ip(),
        (Source::Masqueraded, true) => [10, 244, 0, 1].into(),
        (Source::Masqueraded, false) => [0xfd00, 0x244, 0, 0, 0, 0, 0, 1].into(),
    };
    Met::Server(name, seen)
}

/// What session affinity remembers.
type Remembered = BTreeMap<Family, BTreeMap<Key, Data>>;

fn remembered(net: &Net, dataplane: &mut Dataplane<Netlink>) -> Remembered {
    net.node.run(|| {
        let mut all = Remembered::new();
        for family in Family::ALL {
            let elements = dataplane.kernel_mut().elements(family, sets::AFFINITY);
            let elements: BTreeMap<_, _> = elements.expect("dump").into_iter().collect();
            if !elements.is_empty() {
                all.insert(family, elements);
            }
        }
        all
    })
}

/// Asks one frontend as one client, and compares.
fn agree(
    net: &Net,
    dataplane: &mut Dataplane<Netlink>,
    frontend: &Frontend,
    client: Client,
) -> Result<(), TestCaseError> {
    let to = destination(frontend);
    let packet = Packet {
        origin: client.origin(),
        protocol: frontend.protocol(),
        source: SocketAddr::new(client.source(to.ip()), 40_000),
        destination: to,
    };
    let before = remembered(net, dataplane);
    // Any number of slots up to three divides six.
    let possible: Vec<(Met, Remembered)> = (0..6)
        .map(|choice| {
            let mut world = World {
                local_addresses: local_addresses(),
                choice,
                affinity: before.clone(),
                link: client.link().to_owned(),
            };
            let mut landing = dataplane.trace(&packet, ConnectionState::New, &mut world);
            // What drops or rejects a datagram on its way out tells its sender in the same way.
            let out = packet.origin == Origin::Node && !local_addresses().contains(&to.ip());
            let told = out && packet.protocol == Protocol::Udp;
            if told && landing == Landing::Dropped {
                landing = Landing::Rejected;
            }
            (meeting(landing, &packet), world.affinity)
        })
        .collect();
    let ask = match frontend.protocol() {
        Protocol::Udp => udp,
        _ => tcp,
    };
    let met = ask(client.netns(net), &to.to_string());
    let after = remembered(net, dataplane);
    let agrees = possible.contains(&(met.clone(), after.clone()));
    prop_assert!(
        agrees,
        "{client:?} asks {frontend:?} and meets {met:?}, remembered {after:?}; the tracer: {possible:?}"
    );
    Ok(())
}

#[test]
fn every_client_meets_what_the_tracer_says() {
    let net = Net::new();
    // Every refusal is to arrive, however many there are.
    net.node.commands(
        "sysctl -qw net.ipv4.icmp_ratelimit=0
         sysctl -qw net.ipv6.icmp.ratelimit=0",
    );
    let strangers = [
        address("10.96.0.20", Protocol::Tcp, 9999),
        address("10.96.0.99", Protocol::Tcp, 80),
        address("fd00:96::99", Protocol::Udp, 80),
    ];
    let more = std::env::var("MINIK_DIFFERENTIAL_CASES");
    let config = Config {
        cases: more.map_or(CASES, |cases| cases.parse().expect("a number of cases")),
        failure_persistence: None,
        max_shrink_iters: 20,
        ..Config::default()
    };
    let clusters = (
        btree_map(frontend(), fate(), 12..18),
        detector(),
        proptest::bool::weighted(0.2),
    );
    let run =
        TestRunner::new(config).run(&clusters, |(frontends, local_detector, masquerade_all)| {
            let desired = Desired {
                local_detector,
                masquerade_all,
                ..desired(frontends)
            };
            let mut dataplane = net.dataplane(&desired);
            for frontend in desired.frontends.keys().chain(&strangers) {
                for client in CLIENTS {
                    agree(&net, &mut dataplane, frontend, client)?;
                }
            }
            Ok(())
        });
    run.unwrap_or_else(|error| panic!("{error}"));
}
