//! UDP flows of Services that change while no agent runs, with sockets that keep sending: what is stale ends when the agent
//! starts, and nothing else.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use integration::{
    DEADLINE, Lab, eventually,
    net::{self, Asked, Namespace},
};

/// Type LoadBalancer of a class that nobody serves: it has a ClusterIP, a NodePort, an externalIP and a VIP.
fn service(name: &str, number: u16) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{type: LoadBalancer, \
         loadBalancerClass: example.com/nobody, selector: {{app: a}}, externalIPs: [203.0.113.{number}], \
         ports: [{{protocol: UDP, port: 53, targetPort: 9378, nodePort: {}}}]}}}}",
        node_port(number)
    )
}

fn node_port(number: u16) -> u16 {
    30_500 + number
}

/// A client that keeps its port.
struct Client<'a> {
    from: &'a Namespace,
    socket: UdpSocket,
    to: SocketAddr,
}

impl<'a> Client<'a> {
    fn new(from: &'a Namespace, to: SocketAddr) -> Self {
        let socket = from.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            socket.connect(to).expect("connect");
            socket
        });
        Self { from, socket, to }
    }

    fn ask(&self, wait: Duration) -> Asked {
        net::ask_over(&self.socket, wait)
    }

    fn answered_by(&self) -> String {
        match self.ask(DEADLINE) {
            Asked::Answered(pod, _) => pod,
            other => panic!("{}: {other:?}", self.to),
        }
    }

    /// What a client of another port meets.
    fn asked_anew(&self, wait: Duration) -> Asked {
        self.from.run(|| net::ask_udp(self.to, wait))
    }
}

struct World {
    lab: Lab,
    pod: Namespace,
    node: Namespace,
    outside: Namespace,
}

impl World {
    fn build() -> Self {
        let lab = Lab::up(2, &["--allow-external-ips", "203.0.113.0/24"]);
        lab.echo_pods(&[
            ("a1", "a", "node1"),
            ("a2", "a", "node2"),
            ("client", "client", "node2"),
        ]);
        let world = Self {
            pod: Namespace::of_pod(&lab.get(&["pod", "client"])),
            node: Namespace::of_host(&lab, "node2"),
            outside: Namespace::of_host(&lab, "client"),
            lab,
        };
        for (number, name) in (1..).zip(["goes", "shrinks", "stays"]) {
            let _ = world.lab.apply(&service(name, number)).ok();
            let ingress = format!(
                r#"{{"status":{{"loadBalancer":{{"ingress":[{{"ip":"203.0.113.{}"}}]}}}}}}"#,
                100 + number
            );
            let status = [
                "patch",
                "service",
                name,
                "--subresource=status",
                "--type=merge",
                "-p",
                &ingress,
            ];
            let _ = world.lab.kubectl(&status).ok();
            world.lab.programmed(name);
        }
        // What nobody translates ends there, without a word.
        let _ = world
            .lab
            .on(
                "switch",
                &["ip", "route", "add", "blackhole", "203.0.113.0/24"],
            )
            .ok();
        world.outside.sh("ip route add 10.96.0.0/16 via 198.18.0.12; ip route add 203.0.113.0/24 via 198.18.0.12");
        world
    }

    /// From everywhere to every address of a Service.
    fn clients(&self, name: &str, number: u16) -> Vec<Client<'_>> {
        let object = self.lab.get(&["service", name]);
        let cluster_ip: IpAddr = object["spec"]["clusterIP"]
            .as_str()
            .and_then(|ip| ip.parse().ok())
            .expect("a ClusterIP");
        let tail = u8::try_from(number).expect("small");
        let addresses = [
            SocketAddr::new(cluster_ip, 53),
            SocketAddr::new([203, 0, 113, tail].into(), 53),
            SocketAddr::new([203, 0, 113, 100 + tail].into(), 53),
            SocketAddr::new([198, 18, 0, 12].into(), node_port(number)),
        ];
        let clients = [&self.pod, &self.node, &self.outside].into_iter();
        clients
            .flat_map(|from| addresses.map(|to| Client::new(from, to)))
            .collect()
    }

    /// Such clients as were sent to a1, which is on the other node.
    fn clients_of_a1(&self, name: &str, number: u16) -> Vec<Client<'_>> {
        let mut clients = self.clients(name, number);
        for client in &mut clients {
            eventually("a1 was chosen", DEADLINE, || {
                let pod = client.answered_by();
                if pod == "a1" {
                    return Ok(());
                }
                *client = Client::new(client.from, client.to);
                Err(pod)
            });
        }
        clients
    }
}

#[test]
fn flows_of_what_went_while_no_agent_ran_end_when_it_starts_and_no_others() {
    let world = World::build();
    let of_gone = world.clients("goes", 1);
    let of_shrunk = world.clients("shrinks", 2);
    let bystanders = world.clients_of_a1("stays", 3);
    for client in of_gone.iter().chain(&of_shrunk) {
        let _ = client.answered_by();
    }
    world.lab.kill_agent("node2");
    let _ = world.lab.kubectl(&["delete", "service", "goes"]).ok();
    // Addresses and a port of a Service that itself stays.
    let shrunk = "{apiVersion: v1, kind: Service, metadata: {name: shrinks}, spec: {type: ClusterIP, selector: {app: a}, \
                  ports: [{protocol: UDP, port: 54, targetPort: 9378}]}}";
    let _ = world.lab.apply(shrunk).ok();
    // a1 serves on, but gets nothing new from node2: whoever came anew would meet a2.
    let local = r#"{"spec":{"internalTrafficPolicy":"Local","externalTrafficPolicy":"Local"}}"#;
    let _ = world
        .lab
        .kubectl(&["patch", "service", "stays", "-p", local])
        .ok();
    for client in of_gone.iter().chain(&of_shrunk) {
        let _ = client.answered_by();
    }
    world.lab.start_agent("node2");
    // As whoever comes now: refused by a host or for a port that a ClusterIP has not, dropped elsewhere.
    for (clients, cluster_ip_is_known) in [(&of_gone, false), (&of_shrunk, true)] {
        for client in clients {
            let [first, ..] = match client.to.ip() {
                IpAddr::V4(ip) => ip.octets(),
                IpAddr::V6(_) => unreachable!("this lab is of IPv4"),
            };
            let (wait, wanted) = match first {
                198 => (DEADLINE, Asked::Refused),
                10 if cluster_ip_is_known => (DEADLINE, Asked::Refused),
                _ => (net::SILENCE, Asked::Silent),
            };
            assert_eq!(client.ask(wait), wanted, "{}", client.to);
        }
    }
    for client in &bystanders {
        assert_eq!(client.answered_by(), "a1", "{}", client.to);
    }
    let internal = bystanders.iter().filter(|client| client.to.port() == 53);
    let anew = internal.filter(|client| client.to.ip().to_string().starts_with("10."));
    for client in anew {
        assert!(
            matches!(client.asked_anew(DEADLINE), Asked::Answered(pod, _) if pod == "a2"),
            "{}",
            client.to
        );
    }
}
