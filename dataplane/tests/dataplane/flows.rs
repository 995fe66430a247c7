//! UDP flows of real sockets through the real kernel, in a namespace of their own.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use crate::common::{Netns, address, balance, open, port, run};
use dataplane::{
    Serving,
    kernel::Ownership,
    model::{Change, Desired, Endpoint, Family, Fate, Frontend, Protocol},
};

const WAIT: Duration = Duration::from_secs(5);

/// Answers every datagram with its name until the socket's namespace is gone.
fn serve(at: &'static str) {
    let socket = UdpSocket::bind(at).expect("bind");
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, client)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(at.as_bytes(), client);
        }
    });
}

/// A client that keeps its port.
struct Client(UdpSocket);

impl Client {
    fn new(target: &str) -> Client {
        let socket = UdpSocket::bind(if target.starts_with('[') {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        })
        .expect("bind");
        socket.set_read_timeout(Some(WAIT)).expect("timeout");
        socket.connect(target).expect("connect");
        Client(socket)
    }

    fn ask(&self) -> String {
        let mut buffer = [0; 64];
        self.0.send(b"who").expect("send");
        let len = self
            .0
            .recv(&mut buffer)
            .unwrap_or_else(|error| panic!("{:?}: {error}", self.0));
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    }
}

fn serving(frontends: &[(Frontend, &[&str])]) -> Serving {
    let endpoint = |text: &&str| {
        let addr: SocketAddr = text.parse().expect("an endpoint");
        Endpoint {
            addr: addr.ip(),
            port: addr.port().try_into().expect("a port"),
        }
    };
    frontends
        .iter()
        .map(|(frontend, all)| (*frontend, Some(all.iter().map(endpoint).collect())))
        .collect()
}

fn to(frontends: &[(Frontend, Fate)]) -> BTreeMap<Frontend, Fate> {
    frontends.iter().cloned().collect()
}

#[test]
fn exactly_the_udp_flows_of_an_endpoint_that_left_are_deleted() {
    Netns::new().run(|| {
        run("ip addr add 10.1.0.1/32 dev lo");
        run("ip addr add 10.1.0.2/32 dev lo");
        run("ip addr add 10.1.0.3/32 dev lo");
        run("ip addr add fd00:1::1/128 dev lo nodad");
        run("ip addr add fd00:1::2/128 dev lo nodad");
        run("ip route add 10.96.0.0/16 dev lo src 10.1.0.1");
        run("ip -6 route add fd00:96::/64 dev lo src fd00:1::1");
        for at in [
            "10.1.0.1:53",
            "10.1.0.2:53",
            "[fd00:1::1]:53",
            "[fd00:1::2]:53",
        ] {
            serve(at);
        }
        let (web, other) = (
            address("10.96.0.1", Protocol::Udp, 53),
            address("10.96.0.2", Protocol::Udp, 53),
        );
        let web6 = address("fd00:96::1", Protocol::Udp, 53);
        let port = Frontend::NodePort {
            family: Family::V4,
            protocol: Protocol::Udp,
            port: port(30053),
        };
        let first = balance(&["10.1.0.1:53"]);
        let first6 = balance(&["[fd00:1::1]:53"]);
        let mut dataplane = open(Ownership::Never);
        let desired = Desired {
            frontends: to(&[
                (web, first.clone()),
                (other, first.clone()),
                (web6, first6),
                (port, first.clone()),
            ]),
            // Clients count as Pods, so that nothing but the destination is translated.
            pod_networks: ["10.1.0.0/24", "fd00:1::/64"]
                .map(|net| net.parse().expect("a network"))
                .into(),
            ..Desired::default()
        };
        dataplane.replace(&desired).expect("replace");
        let clients = ["10.96.0.1:53", "[fd00:96::1]:53", "10.1.0.3:30053"].map(Client::new);
        let bystanders = ["10.96.0.2:53", "10.1.0.1:53"].map(Client::new);
        let ask = |clients: &[Client]| -> Vec<String> { clients.iter().map(Client::ask).collect() };
        assert_eq!(
            ask(&clients),
            ["10.1.0.1:53", "[fd00:1::1]:53", "10.1.0.1:53"]
        );
        assert_eq!(ask(&bystanders), ["10.1.0.1:53", "10.1.0.1:53"]);

        let second = balance(&["10.1.0.2:53"]);
        let change = Change {
            frontends: [
                (web, Some(second.clone())),
                (web6, Some(balance(&["[fd00:1::2]:53"]))),
                (port, Some(second)),
            ]
            .into(),
            ..Change::default()
        };
        dataplane.update(&change).expect("update");
        assert_eq!(
            ask(&clients),
            ["10.1.0.1:53", "[fd00:1::1]:53", "10.1.0.1:53"],
            "flows outlive the rules' change"
        );

        let mut forget = |serving| dataplane.forget_udp_flows(&serving).expect("forget");
        // One that still serves while it terminates keeps its flows.
        assert_eq!(
            forget(serving(&[(web, &["10.1.0.1:53", "10.1.0.2:53"])])),
            0
        );
        let now = serving(&[
            (web, &["10.1.0.2:53"]),
            (web6, &["[fd00:1::2]:53"]),
            (port, &["10.1.0.2:53"]),
        ]);
        assert_eq!(forget(now.clone()), 3);
        assert_eq!(
            ask(&clients),
            ["10.1.0.2:53", "[fd00:1::2]:53", "10.1.0.2:53"]
        );
        assert_eq!(forget(now), 0, "nothing stale is left");
        assert_eq!(
            forget(serving(&[(other, &["10.1.0.2:53"])])),
            1,
            "the other Service's flow was left alone until now"
        );
        assert_eq!(ask(&clients[2..]), ["10.1.0.2:53"]);
        assert_eq!(forget(serving(&[(port, &[])])), 1, "nobody serves any more");
        assert_eq!(ask(&clients[..1]), ["10.1.0.2:53"]);
        assert_eq!(forget([(web, None), (port, None)].into()), 1, "it is gone");
        assert_eq!(
            ask(&bystanders[1..]),
            ["10.1.0.1:53"],
            "sent to an endpoint itself"
        );
        assert_eq!(forget([(web, None)].into()), 0);
    });
}

#[test]
fn flows_from_before_the_service_end_and_those_to_other_hosts_go_on() {
    let other_host = Netns::new();
    let node = Netns::new();
    node.commands(&format!(
        "ip link add out type veth peer name eth0 netns {}
         ip link set out up
         ip addr add 192.0.2.1/24 dev out
         ip addr add 10.1.0.1/32 dev lo",
        other_host.path()
    ));
    other_host.commands("ip link set eth0 up\nip addr add 192.0.2.2/24 dev eth0");
    other_host.run(|| serve("192.0.2.2:30053"));
    node.run(|| {
        serve("10.1.0.1:53");
        let port = Frontend::NodePort {
            family: Family::V4,
            protocol: Protocol::Udp,
            port: port(30053),
        };
        let external = address("192.0.2.2", Protocol::Udp, 30053);
        // Connection tracking begins with the first table that needs it.
        let mut dataplane = open(Ownership::Never);
        dataplane.replace(&Desired::default()).expect("replace");
        let client = Client::new("192.0.2.1:30053");
        client.0.send(b"who").expect("send");
        let refused = client.0.recv(&mut [0; 8]).expect_err("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let neighbour = Client::new("192.0.2.2:30053");
        assert_eq!(neighbour.ask(), "192.0.2.2:30053");

        let frontends = to(&[(port, balance(&["10.1.0.1:53"]))]);
        dataplane
            .replace(&Desired {
                frontends,
                ..Desired::default()
            })
            .expect("replace");
        let mut forget = |serving| dataplane.forget_udp_flows(&serving).expect("forget");
        let now = serving(&[(port, &["10.1.0.1:53"])]);
        assert_eq!(forget(now.clone()), 1, "the flow that led to nobody");
        assert_eq!(client.ask(), "10.1.0.1:53");
        assert_eq!(forget(now), 0, "another host's port is not a NodePort");
        // An external IP that is no more is left to whoever has the address, and one that is claimed is not.
        assert_eq!(forget([(external, None)].into()), 0);
        assert_eq!(forget(serving(&[(external, &["10.1.0.1:53"])])), 1);
    });
}
