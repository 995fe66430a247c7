//! A net of real packets, and asking in it: an outside client, a node and its Pods, each a network namespace, joined by veth. Needs root.
//!
//! ```text
//!  client 192.0.2.100 ──── 192.0.2.1 node 10.244.0.1 ──┬── pod a 10.244.0.2
//!         2001:db8::100    2001:db8::1    fd00:244::1  ├── pod b 10.244.0.3
//!                                                      └── pod c 10.244.0.4
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::common::{Netns, address, need, open};
use dataplane::{
    Dataplane,
    kernel::{Netlink, Ownership},
    model::{Desired, Fate, Frontend, Protocol},
};

pub(crate) const SOON: Duration = Duration::from_secs(5);
/// How long a packet may stay without answer before it counts as dropped.
const SILENCE: Duration = Duration::from_millis(300);
/// How long the answer over an open connection may take.
const ANSWER: Duration = Duration::from_secs(2);

pub(crate) struct Net {
    pub(crate) client: Netns,
    pub(crate) node: Netns,
    pub(crate) pods: [Netns; 3],
}

impl Net {
    pub(crate) fn new() -> Net {
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
        net.lose_what_keeps_a_priority();
        net
    }

    /// Numbers that a packet's priority carried from rule to rule are nobody's business after them. No program here gives its
    /// packets a priority, so whoever meets this rule finds a client that goes without answer.
    fn lose_what_keeps_a_priority(&self) {
        need("nft");
        self.node.commands("nft add table inet behind");
        for hook in ["input", "postrouting"] {
            self.node.commands(&format!(
                "nft add chain inet behind {hook} {{ type filter hook {hook} priority 300 ; }}
                 nft add rule inet behind {hook} meta l4proto {{ tcp, udp, sctp }} ct state new meta priority != none drop"
            ));
        }
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

    pub(crate) fn dataplane(&self, desired: &Desired) -> Dataplane<Netlink> {
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
pub(crate) fn serve(netns: &Netns, name: &'static str, addr: &str) {
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
pub(crate) enum Met {
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

pub(crate) fn ask(stream: &mut TcpStream) -> Met {
    stream.set_read_timeout(Some(ANSWER)).expect("set timeout");
    stream.write_all(b"who").expect("write");
    let mut buffer = [0; 64];
    // Where somebody may flush our tables, a connection of that moment may lose its way.
    match stream.read(&mut buffer) {
        Ok(len) => met(&buffer[..len]),
        Err(error) => failure(&error),
    }
}

pub(crate) fn tcp(netns: &Netns, to: &str) -> Met {
    let to: SocketAddr = to.parse().expect("an address");
    netns.run(|| match TcpStream::connect_timeout(&to, SILENCE) {
        Ok(mut stream) => ask(&mut stream),
        Err(error) => failure(&error),
    })
}

/// A source port that no flow had before: a flow that conntrack still knows goes where it went.
fn fresh_port() -> u16 {
    static LAST: AtomicU16 = AtomicU16::new(1024);
    let port = LAST.fetch_add(1, Ordering::Relaxed);
    assert!(port < 30_000, "too many datagrams for one run");
    port
}

pub(crate) fn udp(netns: &Netns, to: &str) -> Met {
    let to: SocketAddr = to.parse().expect("an address");
    netns.run(|| {
        let any: IpAddr = if to.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind((any, fresh_port())).expect("bind");
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
pub(crate) fn spread(names: &[&str], mut connect: impl FnMut() -> Met) -> BTreeSet<IpAddr> {
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

pub(crate) fn sources(addrs: &[&str]) -> BTreeSet<IpAddr> {
    addrs
        .iter()
        .map(|addr| addr.parse().expect("an address"))
        .collect()
}

pub(crate) const ALL: [&str; 3] = ["10.244.0.2:8080", "10.244.0.3:8080", "10.244.0.4:8080"];
pub(crate) const ALL6: [&str; 3] = [
    "[fd00:244::2]:8080",
    "[fd00:244::3]:8080",
    "[fd00:244::4]:8080",
];

pub(crate) fn desired(frontends: impl Into<BTreeMap<Frontend, Fate>>) -> Desired {
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
        node_port_networks: BTreeSet::new(),
        masquerade_egress: true,
        ..Desired::default()
    }
}

pub(crate) fn web() -> Frontend {
    address("10.96.0.2", Protocol::Tcp, 80)
}

/// [`tcp`] or [`udp`].
pub(crate) type Ask = fn(&Netns, &str) -> Met;
