//! Real packets meet what their frontend's fate says.

use std::net::{IpAddr, TcpStream};

use crate::{
    common::{address, balance, node_port, with_masquerade},
    net::{ALL, ALL6, Met, Net, ask, desired, serve, sources, spread, tcp, udp, web},
};
use dataplane::model::{Change, Desired, Family, Fate, Masquerade, Protocol};

#[test]
fn a_cluster_ip_is_spread_over_all_endpoints_and_pods_keep_their_source() {
    let net = Net::new();
    let _dataplane = net.dataplane(&desired([
        (web(), balance(&ALL)),
        (address("10.96.0.2", Protocol::Udp, 80), balance(&ALL)),
        (address("fd00:96::2", Protocol::Tcp, 80), balance(&ALL6)),
        (address("fd00:96::2", Protocol::Udp, 80), balance(&ALL6)),
    ]));
    let others = ["10.244.0.3:8080", "10.244.0.4:8080"];
    let only_others = [(web(), balance(&others))];
    for (v4, v6, netns, seen, seen6) in [
        (
            "10.96.0.2:80",
            "[fd00:96::2]:80",
            &net.client,
            "10.244.0.1",
            "fd00:244::1",
        ),
        (
            "10.96.0.2:80",
            "[fd00:96::2]:80",
            &net.node,
            "192.0.2.1",
            "2001:db8::1",
        ),
    ] {
        for connect in [tcp, udp] {
            let v4_sources = spread(&["a", "b", "c"], || connect(netns, v4));
            assert!(
                v4_sources.is_subset(&sources(&[seen, "10.244.0.1"])),
                "{v4_sources:?}"
            );
            let v6_sources = spread(&["a", "b", "c"], || connect(netns, v6));
            assert!(
                v6_sources.is_subset(&sources(&[seen6, "fd00:244::1"])),
                "{v6_sources:?}"
            );
        }
    }
    drop(_dataplane);
    let _dataplane = net.dataplane(&desired(only_others));
    let pod_sources = spread(&["b", "c"], || tcp(&net.pods[0], "10.96.0.2:80"));
    assert_eq!(
        pod_sources,
        sources(&["10.244.0.2"]),
        "a Pod's source is kept"
    );
}

#[test]
fn a_node_port_is_answered_to_the_outside_but_not_on_loopback() {
    let net = Net::new();
    let _dataplane = net.dataplane(&desired([
        (
            node_port(Family::V4, 30080),
            with_masquerade(balance(&ALL), Masquerade::Always),
        ),
        (
            node_port(Family::V6, 30080),
            with_masquerade(balance(&ALL6), Masquerade::Always),
        ),
        (node_port(Family::V4, 30082), Fate::Reject),
        (node_port(Family::V4, 30083), Fate::Drop),
    ]));
    let seen = spread(&["a", "b", "c"], || tcp(&net.client, "192.0.2.1:30080"));
    assert_eq!(seen, sources(&["10.244.0.1"]));
    let seen = spread(&["a", "b", "c"], || tcp(&net.client, "[2001:db8::1]:30080"));
    assert_eq!(seen, sources(&["fd00:244::1"]));
    spread(&["a", "b", "c"], || tcp(&net.node, "192.0.2.1:30080"));
    spread(&["a", "b", "c"], || tcp(&net.pods[0], "192.0.2.1:30080"));
    assert_eq!(tcp(&net.client, "192.0.2.1:30082"), Met::Refused);
    assert_eq!(tcp(&net.client, "192.0.2.1:30083"), Met::Silence);
    serve(&net.node, "host", "[::]:30080");
    assert!(matches!(tcp(&net.node, "127.0.0.1:30080"), Met::Server(name, _) if name == "host"));
    assert!(matches!(tcp(&net.node, "[::1]:30080"), Met::Server(name, _) if name == "host"));
}

#[test]
fn a_node_port_can_be_limited_to_some_of_the_nodes_addresses() {
    let net = Net::new();
    let always = |endpoints| with_masquerade(balance(endpoints), Masquerade::Always);
    let networks = ["192.0.2.0/25", "192.0.2.128/25"].map(|net| net.parse().expect("a network"));
    let _dataplane = net.dataplane(&Desired {
        node_port_networks: networks.into(),
        ..desired([
            (node_port(Family::V4, 30080), always(&ALL)),
            (node_port(Family::V6, 30080), always(&ALL6)),
            (node_port(Family::V4, 30081), Fate::Drop),
        ])
    });
    serve(&net.node, "host", "0.0.0.0:30080");
    serve(&net.node, "host", "0.0.0.0:30081");
    let is_host = |met: &Met| matches!(met, Met::Server(name, _) if name == "host");
    assert!(!is_host(&tcp(&net.client, "192.0.2.1:30080")));
    assert_eq!(tcp(&net.client, "192.0.2.1:30081"), Met::Silence);
    // Elsewhere the port is the host's own, as if there were no Service.
    for port in [30080, 30081] {
        let met = tcp(&net.client, &format!("198.51.100.1:{port}"));
        assert!(is_host(&met), "{met:?}");
    }
    // A family without a network of its own is not limited.
    spread(&["a", "b", "c"], || {
        tcp(&net.client, "[2001:db8:1::1]:30080")
    });
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let net = Net::new();
    let _dataplane = net.dataplane(&desired([
        (web(), balance(&ALL[..1])),
        (
            address("fd00:96::2", Protocol::Tcp, 80),
            balance(&ALL6[..1]),
        ),
    ]));
    let node: IpAddr = "10.244.0.1".parse().expect("an address");
    let node6: IpAddr = "fd00:244::1".parse().expect("an address");
    assert_eq!(
        tcp(&net.pods[0], "10.96.0.2:80"),
        Met::Server("a".into(), node)
    );
    assert_eq!(
        udp(&net.pods[0], "10.96.0.2:80"),
        Met::Refused,
        "no such port"
    );
    assert_eq!(
        tcp(&net.pods[0], "[fd00:96::2]:80"),
        Met::Server("a".into(), node6)
    );
}

#[test]
fn what_is_not_served_is_refused_or_silent() {
    let net = Net::new();
    let _dataplane = net.dataplane(&desired([
        (web(), balance(&ALL)),
        (address("10.96.0.3", Protocol::Tcp, 80), Fate::Reject),
        (address("10.96.0.3", Protocol::Udp, 80), Fate::Reject),
        (address("10.96.0.4", Protocol::Tcp, 80), Fate::Drop),
        (address("fd00:96::3", Protocol::Tcp, 80), Fate::Reject),
        (address("fd00:96::4", Protocol::Tcp, 80), Fate::Drop),
    ]));
    for netns in [&net.client, &net.node, &net.pods[0]] {
        assert_eq!(tcp(netns, "10.96.0.3:80"), Met::Refused);
        assert_eq!(udp(netns, "10.96.0.3:80"), Met::Refused);
        assert_eq!(tcp(netns, "10.96.0.4:80"), Met::Silence);
        assert_eq!(
            tcp(netns, "10.96.0.2:81"),
            Met::Refused,
            "unknown port of a known address"
        );
        assert_eq!(
            tcp(netns, "10.96.9.9:80"),
            Met::Silence,
            "unallocated address"
        );
        assert_eq!(tcp(netns, "[fd00:96::3]:80"), Met::Refused);
        assert_eq!(udp(netns, "[fd00:96::3]:80"), Met::Refused);
        assert_eq!(tcp(netns, "[fd00:96::4]:80"), Met::Silence);
        assert_eq!(tcp(netns, "[fd00:96::9]:80"), Met::Silence);
    }
}

#[test]
fn an_established_connection_survives_changes_restarts_and_the_end_of_its_service() {
    let net = Net::new();
    let mut dataplane = net.dataplane(&desired([(web(), balance(&ALL[..1]))]));
    let mut stream = net
        .client
        .run(|| TcpStream::connect("10.96.0.2:80"))
        .expect("connect");
    let same = Met::Server("a".into(), "10.244.0.1".parse().expect("an address"));
    assert_eq!(ask(&mut stream), same);
    for fate in [
        Some(balance(&ALL[1..])),
        Some(Fate::Reject),
        Some(Fate::Drop),
        None,
    ] {
        dataplane
            .update(&Change {
                frontends: [(web(), fate)].into(),
                ..Change::default()
            })
            .expect("update");
        assert_eq!(ask(&mut stream), same);
    }
    drop(dataplane);
    assert_eq!(ask(&mut stream), same);
    let _dataplane = net.dataplane(&desired([(web(), balance(&ALL[1..]))]));
    assert_eq!(ask(&mut stream), same);
}

#[test]
fn a_local_listener_answers_on_its_service_address_untracked() {
    let net = Net::new();
    serve(&net.node, "dns", "10.96.0.10:53");
    let _dataplane = net.dataplane(&desired([(
        address("10.96.0.10", Protocol::Udp, 53),
        balance(&ALL),
    )]));
    for netns in [&net.client, &net.node, &net.pods[1]] {
        for connect in [tcp, udp] {
            let met = connect(netns, "10.96.0.10:53");
            assert!(
                matches!(&met, Met::Server(name, _) if name == "dns"),
                "{met:?}"
            );
        }
    }
    assert!(
        matches!(udp(&net.pods[1], "10.96.0.10:53"), Met::Server(_, source) if source == sources(&["10.244.0.3"]).pop_first().expect("one"))
    );
    assert_eq!(tcp(&net.pods[1], "10.96.0.10:9153"), Met::Refused);
    let tracked = net
        .node
        .run(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack"))
        .unwrap_or_default();
    assert!(!tracked.contains("10.96.0.10"), "{tracked}");
}

#[test]
fn a_pods_connection_to_the_outside_leaves_with_the_nodes_address() {
    let net = Net::new();
    serve(&net.client, "world", "[::]:9376");
    let _dataplane = net.dataplane(&desired([(web(), balance(&["192.0.2.100:9376"]))]));
    let node: IpAddr = "192.0.2.1".parse().expect("an address");
    assert_eq!(
        tcp(&net.pods[0], "192.0.2.100:9376"),
        Met::Server("world".into(), node)
    );
    assert_eq!(
        tcp(&net.pods[0], "10.96.0.2:80"),
        Met::Server("world".into(), node),
        "through a Service"
    );
    let pod: IpAddr = "10.244.0.2".parse().expect("an address");
    assert_eq!(
        tcp(&net.pods[0], "10.244.0.3:8080"),
        Met::Server("b".into(), pod),
        "Pod to Pod keeps the source"
    );
}
