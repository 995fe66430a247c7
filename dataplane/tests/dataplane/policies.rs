//! Real packets where the source or the past decides: local policies, source ranges, session affinity.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    common::{
        Netns, address, balance, from, local, node_port, with_affinity, with_masquerade,
        with_memory,
    },
    net::{ALL, ALL6, Ask, Met, Net, SOON, desired, sources, spread, tcp, udp, web},
};
use dataplane::{
    Dataplane,
    kernel::{Kernel, Netlink},
    model::{Change, Desired, Family, Fate, LocalDetector, Masquerade, Protocol, Scope},
};

/// `externalTrafficPolicy: Local`: a and b are this node's, c stands for another node's.
#[test]
fn a_local_policy_keeps_outside_clients_on_this_node_and_lets_the_cluster_go_anywhere() {
    let net = Net::new();
    let (vip, vip6) = ("198.51.100.7", "2001:db8:7::7");
    let _dataplane = net.dataplane(&desired([
        (node_port(Family::V4, 30080), local(&ALL[..2], &ALL)),
        (node_port(Family::V6, 30080), local(&ALL6[..2], &ALL6)),
        (node_port(Family::V4, 30081), local(&[], &ALL[2..])),
        (node_port(Family::V6, 30081), local(&[], &ALL6[2..])),
        (address(vip, Protocol::Tcp, 80), local(&ALL[..2], &ALL)),
        (address(vip, Protocol::Udp, 80), local(&ALL[..2], &ALL)),
        (address(vip6, Protocol::Tcp, 80), local(&ALL6[..2], &ALL6)),
        (address(vip, Protocol::Tcp, 81), local(&[], &ALL[2..])),
        (address(vip, Protocol::Udp, 81), local(&[], &ALL[2..])),
        (address(vip6, Protocol::Tcp, 81), local(&[], &ALL6[2..])),
    ]));
    net.client.commands(&format!(
        "ip route add {vip}/32 via 192.0.2.1
         ip -6 route add {vip6}/128 via 2001:db8::1"
    ));
    let everywhere = [
        ("192.0.2.1:30080", "192.0.2.1:30081", tcp as Ask),
        ("198.51.100.7:80", "198.51.100.7:81", tcp),
        ("198.51.100.7:80", "198.51.100.7:81", udp),
        ("[2001:db8::1]:30080", "[2001:db8::1]:30081", tcp),
        ("[2001:db8:7::7]:80", "[2001:db8:7::7]:81", tcp),
    ];
    for (here, elsewhere, ask) in everywhere {
        let v6 = here.starts_with('[');
        let pick = |v4: &'static str, v6_addr: &'static str| if v6 { v6_addr } else { v4 };
        let seen = spread(&["a", "b"], || ask(&net.client, here));
        let client = pick("192.0.2.100", "2001:db8::100");
        assert_eq!(
            seen,
            sources(&[client]),
            "{here}: the client's source is kept"
        );
        let seen = spread(&["b", "c"], || without_a(|| ask(&net.pods[0], here)));
        let pod = pick("10.244.0.2", "fd00:244::2");
        assert_eq!(
            seen,
            sources(&[pod]),
            "{here}: a Pod goes anywhere and keeps its source"
        );
        let seen = spread(&["a", "b", "c"], || ask(&net.node, here));
        let node = pick("10.244.0.1", "fd00:244::1");
        assert_eq!(
            seen,
            sources(&[node]),
            "{here}: the node goes anywhere, masqueraded"
        );
        assert_eq!(ask(&net.client, elsewhere), Met::Silence, "{elsewhere}");
        let seen = spread(&["c"], || ask(&net.pods[0], elsewhere));
        assert_eq!(seen, sources(&[pod]), "{elsewhere}");
        let seen = spread(&["c"], || ask(&net.node, elsewhere));
        assert_eq!(seen, sources(&[node]), "{elsewhere}");
    }
}

/// Asks until the answer is not from Pod a, which sees the node's address when it asked itself.
fn without_a(mut ask: impl FnMut() -> Met) -> Met {
    loop {
        match ask() {
            Met::Server(name, _) if name == "a" => {}
            other => return other,
        }
    }
}

#[test]
fn who_is_not_among_the_sources_is_dropped_whatever_the_fate() {
    let net = Net::new();
    let (vip, vip6) = ("198.51.100.7", "2001:db8:7::7");
    net.client.commands(&format!(
        "ip route add {vip}/32 via 192.0.2.1
         ip -6 route add {vip6}/128 via 2001:db8::1"
    ));
    let (clients, pods) = (
        ["192.0.2.0/24", "2001:db8::/64"],
        ["10.244.0.3/32", "fd00:244::3/128"],
    );
    let always = |endpoints| with_masquerade(balance(endpoints), Masquerade::Always);
    let at = |port| {
        [
            address(vip, Protocol::Tcp, port),
            address(vip6, Protocol::Tcp, port),
        ]
    };
    let [for_clients, for_clients6] = at(80);
    let [for_pods, for_pods6] = at(81);
    let [refusing, refusing6] = at(82);
    let [other_family, other_family6] = at(83);
    let mut dataplane = net.dataplane(&desired([
        (for_clients, from(&clients, local(&ALL[..1], &ALL))),
        (for_clients6, from(&clients, local(&ALL6[..1], &ALL6))),
        (for_pods, from(&pods, always(&ALL))),
        (for_pods6, from(&pods, always(&ALL6))),
        (refusing, from(&clients, Fate::Reject)),
        (refusing6, from(&clients, Fate::Reject)),
        (other_family, from(&clients[1..], always(&ALL))),
        (other_family6, from(&clients[..1], always(&ALL6))),
    ]));
    let served = |met: Met| matches!(met, Met::Server(..));
    for addr in ["198.51.100.7", "[2001:db8:7::7]"] {
        let ask = |netns: &Netns, port: u16| tcp(netns, &format!("{addr}:{port}"));
        assert!(served(ask(&net.client, 80)));
        assert_eq!(ask(&net.pods[0], 80), Met::Silence, "{addr}: Pods, too");
        assert_eq!(ask(&net.client, 81), Met::Silence);
        assert_eq!(ask(&net.node, 81), Met::Silence);
        assert_eq!(ask(&net.pods[0], 81), Met::Silence);
        assert!(served(ask(&net.pods[1], 81)));
        assert_eq!(ask(&net.client, 82), Met::Refused);
        assert_eq!(ask(&net.pods[0], 82), Met::Silence);
        assert_eq!(
            ask(&net.client, 83),
            Met::Silence,
            "{addr}: only the other family"
        );
    }
    // A wider network in place of two that it covers, one added, and then none at all.
    let wider = ["10.244.0.0/29", "10.244.0.64/26"];
    for (sources, seen) in [
        (&wider[..], true),
        (&wider[1..], false),
        (&["0.0.0.0/0"], true),
    ] {
        let fate = Some(from(sources, always(&ALL)));
        let change = Change {
            frontends: [(for_pods, fate)].into(),
            ..Change::default()
        };
        dataplane.update(&change).expect("update");
        assert_eq!(
            served(tcp(&net.pods[0], "198.51.100.7:81")),
            seen,
            "{sources:?}"
        );
    }
}

#[test]
fn a_client_keeps_its_endpoint_on_every_path_until_that_leaves() {
    let net = Net::new();
    let (vip, vip6) = ("198.51.100.7", "2001:db8:7::7");
    net.client.commands(&format!(
        "ip route add {vip}/32 via 192.0.2.1
         ip -6 route add {vip6}/128 via 2001:db8::1"
    ));
    let web6 = address("fd00:96::2", Protocol::Tcp, 80);
    // All endpoints but those of one Pod, which has left.
    let frontends = |gone: Option<usize>| {
        let rest = |all: &[&'static str]| -> Vec<&'static str> {
            let rest = all.iter().enumerate().filter(|(at, _)| Some(*at) != gone);
            rest.map(|(_, endpoint)| *endpoint).collect()
        };
        let (v4, v6) = (rest(&ALL), rest(&ALL6));
        let affine = |port, fate| with_memory(fate, port, Scope::Cluster, 60);
        let always = |endpoints: &[&str]| with_masquerade(balance(endpoints), Masquerade::Always);
        [
            (web(), affine(web(), balance(&v4))),
            (node_port(Family::V4, 30080), affine(web(), always(&v4))),
            (address(vip, Protocol::Tcp, 80), affine(web(), always(&v4))),
            (web6, affine(web6, balance(&v6))),
            (node_port(Family::V6, 30080), affine(web6, always(&v6))),
            (address(vip6, Protocol::Tcp, 80), affine(web6, always(&v6))),
        ]
    };
    let paths = [
        ["10.96.0.2:80", "192.0.2.1:30080", "198.51.100.7:80"],
        [
            "[fd00:96::2]:80",
            "[2001:db8::1]:30080",
            "[2001:db8:7::7]:80",
        ],
    ];
    let server = |to: &str| match tcp(&net.client, to) {
        Met::Server(name, _) => name,
        other => panic!("{to}: {other:?}"),
    };
    let stays = |paths: &[&str], name: &str| {
        for path in paths.iter().cycle().take(12) {
            assert_eq!(server(path), name, "{path}");
        }
    };
    let mut dataplane = net.dataplane(&desired(frontends(None)));
    for paths in paths {
        let first = server(paths[1]);
        stays(&paths, &first);
        let gone = ["a", "b", "c"].iter().position(|pod| *pod == first);
        let change = Change {
            frontends: frontends(gone)
                .map(|(frontend, fate)| (frontend, Some(fate)))
                .into(),
            ..Change::default()
        };
        dataplane.update(&change).expect("update");
        let second = server(paths[2]);
        assert_ne!(second, first, "its Pod left");
        stays(&paths, &second);
        // A restart with all endpoints back keeps what clients have.
        drop(dataplane);
        dataplane = net.dataplane(&desired(frontends(None)));
        stays(&paths, &second);
    }
}

/// Of what a bridge with netfilter hooks passes from one of its ports to another, postrouting does not learn where it came in.
#[test]
fn a_pod_known_by_its_bridge_keeps_its_endpoint_on_the_same_bridge_where_a_policy_is_local() {
    let net = Net::new();
    net.node.commands(
        "ip link add pods type bridge
         ip link set pods up
         ip addr add 10.244.0.1/32 dev pods",
    );
    for (number, pod) in (2..).zip(&net.pods) {
        net.node.commands(&format!(
            "ip addr flush dev pod{number}
             ip link set pod{number} master pods
             ip route replace 10.244.0.{number}/32 dev pods"
        ));
        pod.commands("ip neigh flush dev eth0");
    }
    let vip = address("198.51.100.7", Protocol::Udp, 80);
    let fate = with_affinity(local(&[], &ALL[1..]), 60);
    let _dataplane = net.dataplane(&Desired {
        local_detector: LocalDetector::Interface("pods".into()),
        ..desired([(vip, fate)])
    });
    let ask = || udp(&net.pods[0], "198.51.100.7:80");
    let first = ask();
    assert!(matches!(first, Met::Server(..)), "{first:?}");
    for _ in 0..12 {
        assert_eq!(ask(), first);
    }
}

/// Twenty thousand Services come while a client goes on connecting: it is always answered, and always by the same endpoint.
#[test]
fn growing_sets_lose_no_affinity_and_no_connection() {
    let net = Net::new();
    let affine = with_affinity(balance(&ALL), 10_800);
    let mut dataplane = net.dataplane(&desired([(web(), affine)]));
    let server = || match tcp(&net.client, "10.96.0.2:80") {
        Met::Server(name, _) => name,
        other => panic!("not answered: {other:?}"),
    };
    let first = server();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(server(), first);
            }
        });
        for thousand in 0..20 {
            let service = |number: u32| {
                let addr = format!("10.97.{}.{}", thousand * 4 + number / 250, number % 250);
                (address(&addr, Protocol::Tcp, 80), Some(balance(&ALL)))
            };
            let change = Change {
                frontends: (0..1000).map(service).collect(),
                ..Change::default()
            };
            if let Err(error) = dataplane.update(&change) {
                done.store(true, Ordering::Relaxed);
                panic!("{error}");
            }
        }
        done.store(true, Ordering::Relaxed);
        client.join().expect("the client meets nobody else");
    });
    assert_eq!(server(), first);
}

/// A NodePort and an address may have one number: what the address' clients get is not what the NodePort's get.
#[test]
fn a_service_whose_port_equals_a_node_port_has_nothing_to_do_with_its_affinity() {
    let net = Net::new();
    let affine = with_affinity(with_masquerade(balance(&ALL[..1]), Masquerade::Always), 60);
    let _dataplane = net.dataplane(&desired([
        (node_port(Family::V4, 30080), affine),
        (
            address("10.96.0.3", Protocol::Tcp, 30080),
            balance(&ALL[1..]),
        ),
    ]));
    spread(&["b", "c"], || tcp(&net.client, "10.96.0.3:30080"));
    let seen = spread(&["a"], || tcp(&net.client, "192.0.2.1:30080"));
    assert_eq!(seen, sources(&["10.244.0.1"]));
}

#[test]
fn a_client_is_forgotten_after_its_timeout() {
    let net = Net::new();
    let mut dataplane = net.dataplane(&desired([(web(), with_affinity(balance(&ALL), 3))]));
    tcp(&net.client, "10.96.0.2:80");
    let remembered = |dataplane: &mut Dataplane<Netlink>| {
        let set = dataplane::ruleset::sets::AFFINITY;
        let elements = net
            .node
            .run(|| dataplane.kernel_mut().elements(Family::V4, set));
        elements.expect("dump").len()
    };
    assert_eq!(remembered(&mut dataplane), 1);
    let deadline = Instant::now() + 2 * SOON;
    while remembered(&mut dataplane) > 0 {
        assert!(Instant::now() < deadline, "still remembered");
        thread::sleep(Duration::from_millis(20));
    }
}
