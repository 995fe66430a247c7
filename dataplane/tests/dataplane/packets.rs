//! Real packets: an outside client, a node and its Pods, each a network namespace, joined by veth. Needs root.
//!
//! ```text
//!  client 192.0.2.100 ──── 192.0.2.1 node 10.244.0.1 ──┬── pod a 10.244.0.2
//!         2001:db8::100    2001:db8::1    fd00:244::1  ├── pod b 10.244.0.3
//!                                                      └── pod c 10.244.0.4
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use crate::common::{
    Netns, address, balance, from, local, need, node_port, open, with_affinity, with_masquerade,
    with_memory,
};
use dataplane::{
    Dataplane,
    kernel::{Kernel, Netlink, Ownership},
    model::{Change, Desired, Family, Fate, Frontend, Masquerade, Protocol, Scope},
};

const SOON: Duration = Duration::from_secs(5);
/// How long a packet may stay without answer before it counts as dropped.
const SILENCE: Duration = Duration::from_millis(300);

struct Net {
    client: Netns,
    node: Netns,
    pods: [Netns; 3],
}

impl Net {
    fn new() -> Net {
        need("ip");
        let net = Net {
            client: Netns::new(),
            node: Netns::new(),
            pods: [Netns::new(), Netns::new(), Netns::new()],
        };
        // For the same reason hairpin, which goes out where it came in, must not cause redirects.
        net.node.commands(&format!(
            "sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0
             ip link add out type veth peer name eth0 netns {}
             ip link set out up
             ip addr add 192.0.2.1/24 dev out
             ip addr add 2001:db8::1/64 dev out nodad
             sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
             ip addr add 10.96.0.10/32 dev lo",
            net.client.path()
        ));
        net.client.commands(
            "ip link set eth0 up
             ip addr add 192.0.2.100/24 dev eth0
             ip addr add 2001:db8::100/64 dev eth0 nodad
             ip route add default via 192.0.2.1
             ip -6 route add default via 2001:db8::1",
        );
        // The node needs a way out for addresses nobody has, or its own packets fail before any hook sees them; not back to
        // the client, since redirects would use up the allowance of ICMP errors that rejections need.
        net.node.commands(&format!(
            "ip link add wan type veth peer name eth1 netns {}
             ip link set wan up
             ip addr add 198.51.100.1/24 dev wan
             ip addr add 2001:db8:1::1/64 dev wan nodad
             ip route add default via 198.51.100.100
             ip -6 route add default via 2001:db8:1::100",
            net.client.path()
        ));
        net.client.commands(
            "ip link set eth1 up
             ip addr add 198.51.100.100/24 dev eth1
             ip addr add 2001:db8:1::100/64 dev eth1 nodad",
        );
        for (number, pod) in (2..).zip(&net.pods) {
            net.node.commands(&format!(
                "ip link add pod{number} type veth peer name eth0 netns {}
                 ip link set pod{number} up
                 ip addr add 10.244.0.1/32 dev pod{number}
                 ip addr add fd00:244::1/128 dev pod{number} nodad
                 ip route add 10.244.0.{number}/32 dev pod{number}
                 ip -6 route add fd00:244::{number}/128 dev pod{number}",
                pod.path()
            ));
            pod.commands(&format!(
                "ip link set eth0 up
                 ip addr add 10.244.0.{number}/32 dev eth0
                 ip addr add fd00:244::{number}/128 dev eth0 nodad
                 ip route add 10.244.0.1/32 dev eth0
                 ip route add default via 10.244.0.1
                 ip -6 route add fd00:244::1/128 dev eth0
                 ip -6 route add default via fd00:244::1"
            ));
        }
        for (name, pod) in ["a", "b", "c"].into_iter().zip(&net.pods) {
            serve(pod, name, "[::]:8080");
        }
        net.await_links();
        net
    }

    /// A link that was just set up carries IPv6 a little later.
    fn await_links(&self) {
        for netns in self.pods.iter().chain([&self.client]) {
            for node in [
                "192.0.2.1:1",
                "[2001:db8::1]:1",
                "10.244.0.1:1",
                "[fd00:244::1]:1",
            ] {
                await_answer(netns, node);
            }
        }
        for to in ALL
            .iter()
            .chain(&ALL6)
            .chain(&["198.51.100.100:1", "[2001:db8:1::100]:1"])
        {
            await_answer(&self.node, to);
        }
    }

    fn dataplane(&self, desired: &Desired) -> Dataplane<Netlink> {
        self.node.run(|| {
            let mut dataplane = open(Ownership::WhenPossible);
            dataplane.replace(desired).expect("replace");
            dataplane
        })
    }
}

/// Connects, refused or not, until there is an answer.
fn await_answer(netns: &Netns, to: &str) {
    let to: SocketAddr = to.parse().expect("an address");
    let deadline = Instant::now() + SOON;
    loop {
        match netns.run(|| TcpStream::connect_timeout(&to, SILENCE)) {
            Ok(_) => return,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return,
            Err(error) => assert!(Instant::now() < deadline, "no answer from {to}: {error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Answers every TCP line and UDP datagram with "NAME SOURCE", until the process ends.
fn serve(netns: &Netns, name: &'static str, addr: &str) {
    let (tcp, udp) = netns.run(|| {
        (
            TcpListener::bind(addr).expect("bind"),
            UdpSocket::bind(addr).expect("bind"),
        )
    });
    thread::spawn(move || {
        for stream in tcp.incoming() {
            thread::spawn(move || answer(name, stream.expect("accept")));
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = udp.recv_from(&mut buffer) {
            let answer = format!("{name} {}", from.ip().to_canonical());
            udp.send_to(answer.as_bytes(), from).expect("answer");
        }
    });
}

fn answer(name: &str, mut stream: TcpStream) {
    let from = stream.peer_addr().expect("peer").ip().to_canonical();
    let mut buffer = [0; 64];
    while stream.read(&mut buffer).is_ok_and(|len| len > 0) {
        if stream
            .write_all(format!("{name} {from}").as_bytes())
            .is_err()
        {
            return;
        }
    }
}

/// What a client meets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Met {
    /// This server, which saw this source.
    Server(String, IpAddr),
    Refused,
    Silence,
}

fn met(said: &[u8]) -> Met {
    let said = String::from_utf8_lossy(said);
    let (name, source) = said.split_once(' ').expect("name and source");
    Met::Server(name.to_owned(), source.parse().expect("an address"))
}

fn ask(stream: &mut TcpStream) -> Met {
    stream.set_read_timeout(Some(SOON)).expect("set timeout");
    stream.write_all(b"who").expect("write");
    let mut buffer = [0; 64];
    let len = stream.read(&mut buffer).expect("read");
    met(&buffer[..len])
}

fn tcp(netns: &Netns, to: &str) -> Met {
    let to: SocketAddr = to.parse().expect("an address");
    netns.run(|| match TcpStream::connect_timeout(&to, SILENCE) {
        Ok(mut stream) => ask(&mut stream),
        Err(error) => failure(&error),
    })
}

fn udp(netns: &Netns, to: &str) -> Met {
    let to: SocketAddr = to.parse().expect("an address");
    netns.run(|| {
        let socket =
            UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).expect("bind");
        socket.set_read_timeout(Some(SILENCE)).expect("set timeout");
        socket.connect(to).expect("connect");
        // A local sender learns at once that its packet was rejected.
        match socket.send(b"who") {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Met::Refused,
            sent => sent.expect("send"),
        };
        let mut buffer = [0; 64];
        match socket.recv(&mut buffer) {
            Ok(len) => met(&buffer[..len]),
            Err(error) => failure(&error),
        }
    })
}

fn failure(error: &std::io::Error) -> Met {
    match error.kind() {
        ErrorKind::ConnectionRefused => Met::Refused,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Met::Silence,
        kind => panic!("unexpected {kind:?}: {error}"),
    }
}

/// Connects until every server in `names` answered; returns all sources that were seen.
fn spread(names: &[&str], mut connect: impl FnMut() -> Met) -> BTreeSet<IpAddr> {
    let (mut missing, mut sources) = (BTreeSet::from_iter(names.iter().copied()), BTreeSet::new());
    let deadline = Instant::now() + SOON;
    while !missing.is_empty() {
        assert!(Instant::now() < deadline, "{missing:?} never answered");
        match connect() {
            Met::Server(name, source) => {
                assert!(names.contains(&name.as_str()), "{name} is no endpoint");
                missing.remove(name.as_str());
                sources.insert(source);
            }
            other => panic!("{other:?}"),
        }
    }
    sources
}

fn sources(addrs: &[&str]) -> BTreeSet<IpAddr> {
    addrs
        .iter()
        .map(|addr| addr.parse().expect("an address"))
        .collect()
}

const ALL: [&str; 3] = ["10.244.0.2:8080", "10.244.0.3:8080", "10.244.0.4:8080"];
const ALL6: [&str; 3] = [
    "[fd00:244::2]:8080",
    "[fd00:244::3]:8080",
    "[fd00:244::4]:8080",
];

fn desired(frontends: impl Into<BTreeMap<Frontend, Fate>>) -> Desired {
    let pods = [
        "10.244.0.2",
        "10.244.0.3",
        "10.244.0.4",
        "fd00:244::2",
        "fd00:244::3",
        "fd00:244::4",
    ];
    Desired {
        frontends: frontends.into(),
        service_networks: ["10.96.0.0/16", "fd00:96::/108"]
            .map(|net| net.parse().expect("a network"))
            .into(),
        pod_networks: ["10.244.0.0/16", "fd00:244::/64"]
            .map(|net| net.parse().expect("a network"))
            .into(),
        local_pods: sources(&pods),
        local_listeners: [
            address("10.96.0.10", Protocol::Udp, 53),
            address("10.96.0.10", Protocol::Tcp, 53),
        ]
        .into(),
        masquerade_egress: true,
    }
}

fn web() -> Frontend {
    address("10.96.0.2", Protocol::Tcp, 80)
}

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

type Ask = fn(&Netns, &str) -> Met;

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
