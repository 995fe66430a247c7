//! The fates of packets, with real ones: every destination, condition, client, protocol and family of the reference proxy's
//! table, in a lab of two nodes. Packets enter the cluster at node2.
//!
//! What the rules make of them is traced exhaustively in `agent::translate`; this is the proof that kernel and network agree.

#[path = "fates/ping.rs"]
mod ping;
#[path = "fates/sctp.rs"]
mod sctp;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    thread,
};

use integration::{
    DEADLINE, Lab, eventually,
    net::{self, Asked, Namespace, Protocol},
};
use serde_json::{Value, json};

/// The addresses of node2.
const NODE4: &str = "198.18.0.12";
const NODE6: &str = "2001:2:0:1::12";

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Client {
    /// A Pod on node2.
    Pod,
    /// A process of node2.
    Node,
    /// A host that is no node, with a route to the cluster by node2.
    Outside,
}
use Client::{Node, Outside, Pod};

const CLIENTS: [Client; 3] = [Pod, Node, Outside];

/// Which Service, by what its endpoints and policies are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    /// One endpoint on each node, both policies Cluster.
    Cluster,
    /// The same endpoints, both policies Local.
    Local,
    /// One endpoint on node1, both policies Local.
    Elsewhere,
    /// No endpoint.
    Nobody,
    /// As `Cluster`, for sources that nobody here has.
    Closed,
    /// As `Cluster`, for the clients' sources.
    Open,
    /// As `Cluster`, for node2's address.
    NodeOnly,
    /// The same, and its VIPs are addresses of node2, which has them as its source then.
    NodeHasIt,
    /// As `Closed`, and its VIPs are addresses of node2.
    ClosedHere,
}
use Of::{Closed, ClosedHere, Cluster, Elsewhere, Local, Nobody, NodeHasIt, NodeOnly, Open};

const SERVICES: [Of; 9] = [
    Cluster, Local, Elsewhere, Nobody, Closed, Open, NodeOnly, NodeHasIt, ClosedHere,
];

impl Of {
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Type LoadBalancer, of a class that nobody serves: it has a ClusterIP, NodePorts, an externalIP and a VIP.
    fn manifest(self) -> Value {
        let number = self as usize + 1;
        let (app, policy) = match self {
            Local => ("a", "Local"),
            Elsewhere => ("b", "Local"),
            Nobody => ("nobody", "Cluster"),
            Cluster | Closed | Open | NodeOnly | NodeHasIt | ClosedHere => ("a", "Cluster"),
        };
        let ranges = match self {
            Closed | ClosedHere => json!(["192.0.2.0/24", "2001:db8:9::/64"]),
            NodeOnly | NodeHasIt => json!([format!("{NODE4}/32"), format!("{NODE6}/128")]),
            Open => json!([
                "10.244.0.0/16",
                "198.18.0.0/24",
                "fd00:10:244::/56",
                "2001:2:0:1::/64"
            ]),
            _ => Value::Null,
        };
        let port = |protocol: Protocol| {
            json!({"name": protocol.name().to_lowercase(), "protocol": protocol.name(), "port": 80,
                   "targetPort": protocol.target_port()})
        };
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": self.name()},
            "spec": {
                "type": "LoadBalancer", "loadBalancerClass": "example.com/nobody", "selector": {"app": app},
                "ipFamilyPolicy": "RequireDualStack", "loadBalancerSourceRanges": ranges,
                "internalTrafficPolicy": policy, "externalTrafficPolicy": policy,
                "externalIPs": [format!("203.0.113.{number}"), format!("2001:db8:203::{number}")],
                "ports": Protocol::ALL.map(port),
            },
        })
    }

    fn vips(self) -> [String; 2] {
        let number = self as usize + 101;
        [
            format!("203.0.113.{number}"),
            format!("2001:db8:203::{number}"),
        ]
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
enum To {
    ClusterIp(Of),
    UndefinedPort(Of),
    /// Addresses of the Services' networks that no Service has.
    Unallocated([&'static str; 2]),
    /// The cluster's DNS server, of IPv4, by a port that it does not listen on.
    OtherPortOfDns,
    NodePort(Of),
    NodePortOfLoopback(Of),
    ExternalIp(Of),
    Vip(Of),
}
use To::{
    ClusterIp, ExternalIp, NodePort, NodePortOfLoopback, OtherPortOfDns, Unallocated,
    UndefinedPort, Vip,
};

/// What must come of it.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// Exactly these Pods answer, in the end each of them, and see this source.
    Answered(&'static [&'static str], Source),
    Refused,
    Dropped,
}
use Fate::{Answered, Dropped, Refused};

#[derive(Clone, Copy, Debug)]
enum Source {
    /// The client's own address.
    Kept,
    /// An address of node2. Of node2's own processes nothing else can be seen.
    OfNode,
}
use Source::{Kept, OfNode};

const BOTH: &[&str] = &["a1", "a2"];
const HERE: &[&str] = &["a2"];
const THERE: &[&str] = &["b1"];

const SOME: [&str; 2] = ["10.96.250.250", "fd00:10:96::fafa"];
const FIRST: [&str; 2] = ["10.96.0.0", "fd00:10:96::"];
const LAST: [&str; 2] = ["10.96.255.255", "fd00:10:96::ffff"];

/// The table: destination and condition, then what a Pod, a node and a client outside meet.
#[rustfmt::skip]
const ROWS: [(To, [Fate; 3]); 31] = [
    (ClusterIp(Cluster),      [Answered(BOTH, Kept),    Answered(BOTH, OfNode),  Answered(BOTH, OfNode)]),
    (ClusterIp(Local),        [Answered(HERE, Kept),    Answered(HERE, OfNode),  Answered(HERE, OfNode)]),
    (ClusterIp(Elsewhere),    [Dropped,                 Dropped,                 Dropped]),
    (ClusterIp(Nobody),       [Refused,                 Refused,                 Refused]),
    // Source ranges are for VIPs.
    (ClusterIp(Closed),       [Answered(BOTH, Kept),    Answered(BOTH, OfNode),  Answered(BOTH, OfNode)]),
    (UndefinedPort(Cluster),  [Refused,                 Refused,                 Refused]),
    (Unallocated(SOME),       [Dropped,                 Dropped,                 Dropped]),
    (Unallocated(FIRST),      [Dropped,                 Dropped,                 Dropped]),
    (Unallocated(LAST),       [Dropped,                 Dropped,                 Dropped]),
    (OtherPortOfDns,          [Refused,                 Refused,                 Refused]),
    (NodePort(Cluster),       [Answered(BOTH, OfNode),  Answered(BOTH, OfNode),  Answered(BOTH, OfNode)]),
    (NodePort(Local),         [Answered(BOTH, Kept),    Answered(BOTH, OfNode),  Answered(HERE, Kept)]),
    (NodePort(Elsewhere),     [Answered(THERE, Kept),   Answered(THERE, OfNode), Dropped]),
    (NodePort(Nobody),        [Refused,                 Refused,                 Refused]),
    (NodePort(Closed),        [Answered(BOTH, OfNode),  Answered(BOTH, OfNode),  Answered(BOTH, OfNode)]),
    // Left to whoever listens there, which is nobody.
    (NodePortOfLoopback(Cluster), [Refused,             Refused,                 Refused]),
    (ExternalIp(Cluster),     [Answered(BOTH, OfNode),  Answered(BOTH, OfNode),  Answered(BOTH, OfNode)]),
    (ExternalIp(Local),       [Answered(BOTH, Kept),    Answered(BOTH, OfNode),  Answered(HERE, Kept)]),
    (ExternalIp(Elsewhere),   [Answered(THERE, Kept),   Answered(THERE, OfNode), Dropped]),
    (ExternalIp(Nobody),      [Refused,                 Refused,                 Refused]),
    (ExternalIp(Closed),      [Answered(BOTH, OfNode),  Answered(BOTH, OfNode),  Answered(BOTH, OfNode)]),
    (Vip(Cluster),            [Answered(BOTH, OfNode),  Answered(BOTH, OfNode),  Answered(BOTH, OfNode)]),
    (Vip(Local),              [Answered(BOTH, Kept),    Answered(BOTH, OfNode),  Answered(HERE, Kept)]),
    (Vip(Elsewhere),          [Answered(THERE, Kept),   Answered(THERE, OfNode), Dropped]),
    (Vip(Nobody),             [Refused,                 Refused,                 Refused]),
    (Vip(Closed),             [Dropped,                 Dropped,                 Dropped]),
    (Vip(Open),               [Answered(BOTH, OfNode),  Answered(BOTH, OfNode),  Answered(BOTH, OfNode)]),
    (Vip(NodeOnly),           [Dropped,                 Answered(BOTH, OfNode),  Dropped]),
    // Who lets the node in lets in the VIPs that are its own.
    (Vip(NodeHasIt),          [Dropped,                 Answered(BOTH, OfNode),  Dropped]),
    (Vip(ClosedHere),         [Dropped,                 Dropped,                 Dropped]),
    (NodePort(NodeOnly),      [Answered(BOTH, OfNode),  Answered(BOTH, OfNode),  Answered(BOTH, OfNode)]),
];

/// What the rows need to know of the lab.
struct World {
    services: BTreeMap<Of, Value>,
    namespaces: BTreeMap<Client, Namespace>,
    /// Of each client, the one of IPv4 first.
    addresses: BTreeMap<Client, [IpAddr; 2]>,
    of_node: BTreeSet<IpAddr>,
    sctp: sctp::Servers,
}

impl World {
    /// `None` where nobody can ask that.
    fn target(
        &self,
        to: To,
        client: Client,
        protocol: Protocol,
        family: usize,
    ) -> Option<SocketAddr> {
        let text = |of: Of, pointer: &str| -> IpAddr {
            let text = self.services[&of].pointer(pointer).and_then(Value::as_str);
            text.and_then(|text| text.parse().ok()).expect(pointer)
        };
        let cluster_ip = |of| text(of, &format!("/spec/clusterIPs/{family}"));
        let node_port = |of: Of| {
            let ports = self.services[&of]["spec"]["ports"]
                .as_array()
                .expect("ports");
            let port = ports
                .iter()
                .find(|port| port["protocol"] == protocol.name());
            let number = port.and_then(|port| port["nodePort"].as_u64());
            u16::try_from(number.expect("a node port")).expect("a port")
        };
        let target = match to {
            ClusterIp(of) => (cluster_ip(of), 80),
            UndefinedPort(of) => (cluster_ip(of), 81),
            Unallocated(addresses) => (addresses[family].parse().expect("address"), 80),
            // It is an address of the node itself, whose kernel may know no SCTP.
            OtherPortOfDns if family == 1 || protocol == Protocol::Sctp => return None,
            OtherPortOfDns => ([10, 96, 0, 10].into(), 80),
            NodePort(of) => (self.addresses[&Node][family], node_port(of)),
            // Only a process of the node can ask there, and a raw socket would hear its own question.
            NodePortOfLoopback(_) if client != Node || protocol == Protocol::Sctp => return None,
            NodePortOfLoopback(of) => (
                ["127.0.0.1", "::1"][family].parse().expect("address"),
                node_port(of),
            ),
            ExternalIp(of) => (text(of, &format!("/spec/externalIPs/{family}")), 80),
            Vip(of) => (of.vips()[family].parse().expect("address"), 80),
        };
        Some(target.into())
    }

    fn ask(&self, target: SocketAddr, protocol: Protocol, wait: std::time::Duration) -> Asked {
        match protocol {
            Protocol::Tcp => net::ask_tcp(target, wait),
            Protocol::Udp => net::ask_udp(target, wait),
            Protocol::Sctp => self.sctp.ask(target, wait),
        }
    }

    /// Why a row does not hold, if it does not. Runs in the client's namespace.
    fn check(
        &self,
        (to, fate): (To, Fate),
        client: Client,
        protocol: Protocol,
        family: usize,
    ) -> Result<(), String> {
        let Some(target) = self.target(to, client, protocol, family) else {
            return Ok(());
        };
        let own = self.addresses[&client][family];
        match fate {
            Refused => match self.ask(target, protocol, DEADLINE) {
                Asked::Refused => Ok(()),
                other => Err(format!("{other:?}")),
            },
            Dropped => match self.ask(target, protocol, net::SILENCE) {
                Asked::Silent => {
                    // The way is open, and quicker than that.
                    let open = self
                        .target(ClusterIp(Cluster), client, protocol, family)
                        .expect("possible");
                    match self.ask(open, protocol, DEADLINE) {
                        Asked::Answered(..) => Ok(()),
                        other => Err(format!("the control meets {other:?}")),
                    }
                }
                other => Err(format!("{other:?}")),
            },
            Answered(pods, source) => {
                let wanted: BTreeSet<&str> = pods.iter().copied().collect();
                let mut seen = BTreeSet::new();
                // Each time another one is as likely: all but once in a billion both answer within thirty.
                for count in 0..60 {
                    let Asked::Answered(pod, from) = self.ask(target, protocol, DEADLINE) else {
                        return Err(format!("no answer after {seen:?}"));
                    };
                    let right = match source {
                        Kept => from == own,
                        OfNode => self.of_node.contains(&from),
                    };
                    if !right || !wanted.contains(&*pod) {
                        return Err(format!("{pod} answered and saw {from}"));
                    }
                    seen.insert(pod);
                    if seen.len() == wanted.len() && count >= 8 {
                        return Ok(());
                    }
                }
                Err(format!("only {seen:?} answered"))
            }
        }
    }
}

impl World {
    /// What is no protocol of Services is refused or dropped all the same. Runs in the client's namespace.
    fn check_pings(&self, client: Client, family: usize) -> Vec<String> {
        use ping::Pinged;
        let address = |to| {
            self.target(to, client, Protocol::Udp, family)
                .expect("possible")
                .ip()
        };
        let rows = [
            (address(ClusterIp(Cluster)), Pinged::Refused),
            (address(ClusterIp(Nobody)), Pinged::Refused),
            (address(ClusterIp(Elsewhere)), Pinged::Refused),
            (address(Unallocated(SOME)), Pinged::Silent),
            (address(Unallocated(LAST)), Pinged::Silent),
            // The way is open.
            (self.addresses[&Node][family], Pinged::Answered),
        ];
        let wrong = rows.into_iter().filter_map(|(target, wanted)| {
            let wait = match wanted {
                Pinged::Silent => net::SILENCE,
                _ => DEADLINE,
            };
            let got = ping::ask(target, wait);
            (got != wanted)
                .then(|| format!("{client:?} pings {target}: wanted {wanted:?}, got {got:?}"))
        });
        wrong.collect()
    }
}

fn two(texts: [String; 2]) -> [IpAddr; 2] {
    texts.map(|text| text.parse().expect("an address"))
}

fn build(lab: &Lab) -> World {
    let pods = [
        ("a1", "a", "node1"),
        ("a2", "a", "node2"),
        ("b1", "b", "node1"),
        ("client", "client", "node2"),
    ];
    lab.echo_pods(&pods);
    for of in SERVICES {
        let _ = lab.apply(&of.manifest().to_string()).ok();
        let vips = of.vips().map(|vip| json!({"ip": vip}));
        let status = json!({"status": {"loadBalancer": {"ingress": vips}}}).to_string();
        let _ = lab
            .kubectl(&[
                "patch",
                "service",
                &of.name(),
                "--subresource=status",
                "--type=merge",
                "-p",
                &status,
            ])
            .ok();
    }
    for of in SERVICES {
        let condition = "--for=condition=minik.dev/Programmed=True";
        let name = format!("service/{}", of.name());
        let _ = lab
            .kubectl(&["wait", condition, "--timeout=60s", &name])
            .ok();
    }
    let routes = "for to in 10.96.0.0/16 203.0.113.0/24; do ip route add $to via 198.18.0.12; done; \
                  for to in fd00:10:96::/112 2001:db8:203::/64; do ip -6 route add $to via 2001:2:0:1::12; done";
    let _ = lab.on("client", &["sh", "-ec", routes]).ok();
    for of in [NodeHasIt, ClosedHere] {
        let [vip4, vip6] = of.vips();
        let own = format!("ip addr add {vip4}/32 dev lo; ip addr add {vip6}/128 dev lo nodad");
        let _ = lab.on("node2", &["sh", "-ec", &own]).ok();
    }
    // A node sends only what has a way; these leave it as they are, unless they are translated.
    let client = lab.get(&["pod", "client"]);
    let ip = |family: usize| {
        client["status"]["podIPs"][family]["ip"]
            .as_str()
            .expect("an address")
            .to_owned()
    };
    let addresses = [
        (Pod, two([ip(0), ip(1)])),
        (Node, two([NODE4.to_owned(), NODE6.to_owned()])),
        (
            Outside,
            two(["198.18.0.100".to_owned(), "2001:2:0:1::100".to_owned()]),
        ),
    ];
    let all = lab
        .on("node2", &["ip", "-o", "addr", "show", "scope", "global"])
        .ok();
    let of_node = all.lines().filter_map(|line| {
        line.split_whitespace()
            .nth(3)?
            .split('/')
            .next()?
            .parse()
            .ok()
    });
    let servers = ["a1", "a2", "b1"].map(|pod| (pod, Namespace::of_pod(&lab.get(&["pod", pod]))));
    World {
        services: SERVICES
            .map(|of| (of, lab.get(&["service", &of.name()])))
            .into(),
        namespaces: [
            (Pod, Namespace::of_pod(&client)),
            (Node, Namespace::of_host(lab, "node2")),
            (Outside, Namespace::of_host(lab, "client")),
        ]
        .into(),
        addresses: addresses.into(),
        of_node: of_node.collect(),
        sctp: sctp::Servers::start(servers),
    }
}

#[test]
fn every_row_of_the_fate_table_holds_for_real_packets() {
    let lab = Lab::up(
        2,
        &[
            "--ip-families",
            "ipv4,ipv6",
            "--allow-external-ips",
            "203.0.113.0/24",
            "--allow-external-ips",
            "2001:db8:203::/64",
        ],
    );
    let world = Arc::new(build(&lab));
    eventually("the first answer", DEADLINE, || {
        lab.minik_on("client", &["fetch", "tcp://203.0.113.101:80"])
            .result()
    });
    let mut askers = Vec::new();
    for (index, client) in CLIENTS.into_iter().enumerate() {
        for protocol in Protocol::ALL {
            for family in [0, 1] {
                let world = Arc::clone(&world);
                askers.push(thread::spawn(move || {
                    world.namespaces[&client].enter();
                    let rows = ROWS.iter().map(|(to, fates)| (*to, fates[index]));
                    let wrong = rows.filter_map(|row| {
                        let why = world.check(row, client, protocol, family).err()?;
                        let family = ["IPv4", "IPv6"][family];
                        Some(format!(
                            "{client:?} {protocol:?} {family} {:?}: wanted {:?}, got: {why}",
                            row.0, row.1
                        ))
                    });
                    wrong.collect::<Vec<_>>()
                }));
            }
        }
        ping::allow(&world.namespaces[&client]);
        for family in [0, 1] {
            let world = Arc::clone(&world);
            askers.push(thread::spawn(move || {
                world.namespaces[&client].enter();
                world.check_pings(client, family)
            }));
        }
    }
    let wrong: Vec<String> = askers
        .into_iter()
        .flat_map(|asker| asker.join().expect("an asker does not panic"))
        .collect();
    assert!(
        wrong.is_empty(),
        "{} rows do not hold:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
