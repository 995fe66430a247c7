//! What an agent's flags make of packets: which addresses answer on NodePorts, whose source is kept. Real packets in a lab of
//! two nodes with both IP families; the agent of node2, where the packets enter, is started with one set of flags after the
//! other.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use integration::{
    DEADLINE, Lab, eventually,
    net::{self, Asked, Namespace, Protocol},
};

const NODE_PORT: u16 = 30081;
/// Of the node's other addresses, and of those below, the one of IPv4 comes first.
const PRIMARY: [&str; 2] = ["198.18.0.12", "2001:2:0:1::12"];
const OTHER: [&str; 2] = ["203.0.113.12", "2001:db8:203::12"];
const OUTSIDE: [&str; 2] = ["198.18.0.100", "2001:2:0:1::100"];
const SPOKEN: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn service(name: &str, app: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: NodePort, selector: {{app: {app}}}, \
         ipFamilyPolicy: RequireDualStack, {more}}}\n---\n"
    )
}

fn ports(node_port: u16) -> String {
    format!(
        "ports: [{{name: tcp, port: 80, targetPort: 9377, nodePort: {node_port}}}, \
         {{name: udp, protocol: UDP, port: 80, targetPort: 9378, nodePort: {node_port}}}]"
    )
}

struct World {
    lab: Lab,
    pod: Namespace,
    node: Namespace,
    outside: Namespace,
    pod_ips: Vec<IpAddr>,
}

impl World {
    /// `both` has an endpoint on each node, `here` one on node2, `local` as `both` with both policies Local.
    fn build() -> Self {
        let lab = Lab::up(2, &["--ip-families", "ipv4,ipv6"]);
        lab.echo_pods(&[
            ("a1", "a", "node1"),
            ("a2", "a", "node2"),
            ("c2", "c", "node2"),
            ("client", "client", "node2"),
        ]);
        let policies = "internalTrafficPolicy: Local, externalTrafficPolicy: Local, ";
        let manifest = service("both", "a", &ports(NODE_PORT))
            + &service("here", "c", &ports(NODE_PORT + 1))
            + &service("local", "a", &format!("{policies}{}", ports(NODE_PORT + 2)));
        let _ = lab.apply(&manifest).ok();
        for name in ["both", "here", "local"] {
            lab.programmed(name);
        }
        let world = Self {
            pod: Namespace::of_pod(&lab.get(&["pod", "client"])),
            node: Namespace::of_host(&lab, "node2"),
            outside: Namespace::of_host(&lab, "client"),
            pod_ips: lab.pod_ips("client"),
            lab,
        };
        world.node.sh(&format!(
            "ip addr add {}/32 dev lo; ip addr add {}/128 dev lo nodad",
            OTHER[0], OTHER[1]
        ));
        world.outside.sh(&format!(
            "for to in 10.96.0.0/16 {}/32; do ip route add $to via {}; done
             for to in fd00:10:96::/112 {}/128; do ip -6 route add $to via {}; done",
            OTHER[0], PRIMARY[0], OTHER[1], PRIMARY[1]
        ));
        world
    }

    fn cluster_ip(&self, service: &str, family: usize) -> SocketAddr {
        let object = self.lab.get(&["service", service]);
        let address = object["spec"]["clusterIPs"][family].as_str();
        SocketAddr::new(ip(address.expect("a ClusterIP")), 80)
    }

    /// Every client, with its own address of a family when it asks this target.
    fn clients(&self, target: IpAddr) -> [(&'static str, &Namespace, IpAddr); 3] {
        let family = usize::from(target.is_ipv6());
        [
            ("Pod", &self.pod, self.pod_ips[family]),
            // What is its own address is the source of what it sends there.
            ("node", &self.node, target),
            ("outside", &self.outside, ip(OUTSIDE[family])),
        ]
    }

    /// Asks until both Pods have answered, over TCP and UDP, from everywhere; the source is always the node's.
    fn is_served(&self, address: &str, port: u16) {
        let target = SocketAddr::new(ip(address), port);
        for (who, namespace, _) in self.clients(target.ip()) {
            for protocol in SPOKEN {
                let (names, sources) = spread(namespace, protocol, target, 2);
                assert_eq!(
                    names,
                    ["a1", "a2"].map(str::to_owned).into(),
                    "{who} {protocol:?} {target}"
                );
                for source in sources {
                    assert!(
                        self.is_of_node(source),
                        "{who} {protocol:?} {target}: {source}"
                    );
                }
            }
        }
    }

    /// What the host itself has there answers, and sees who asks.
    fn is_untouched(&self, address: &str, port: u16) {
        let target = SocketAddr::new(ip(address), port);
        for (who, namespace, own) in self.clients(target.ip()) {
            for protocol in SPOKEN {
                let wanted = Asked::Answered("host".to_owned(), own);
                assert_eq!(
                    ask(namespace, protocol, target),
                    wanted,
                    "{who} {protocol:?} {target}"
                );
            }
        }
    }

    fn is_of_node(&self, address: IpAddr) -> bool {
        self.node.run(|| UdpSocket::bind((address, 0)).is_ok())
    }
}

fn ask(from: &Namespace, protocol: Protocol, target: SocketAddr) -> Asked {
    from.run(|| match protocol {
        Protocol::Tcp => net::ask_tcp(target, DEADLINE),
        _ => net::ask_udp(target, DEADLINE),
    })
}

/// Who answered and what they saw, until so many different ones have.
fn spread(
    from: &Namespace,
    protocol: Protocol,
    target: SocketAddr,
    enough: usize,
) -> (BTreeSet<String>, BTreeSet<IpAddr>) {
    let (mut names, mut sources) = (BTreeSet::new(), BTreeSet::new());
    // Both are as likely: all but once in a billion they answer within thirty.
    for _ in 0..40 {
        match ask(from, protocol, target) {
            Asked::Answered(name, source) => {
                names.insert(name);
                sources.insert(source);
            }
            other => panic!("{protocol:?} {target}: {other:?}"),
        }
        if names.len() == enough {
            break;
        }
    }
    (names, sources)
}

#[test]
fn the_flags_of_an_agent_decide_what_answers_and_whose_source_is_kept() {
    let world = World::build();
    for other in OTHER {
        net::serve(&world.node, "host", SocketAddr::new(ip(other), NODE_PORT));
    }
    node_ports_are_those_of_the_addresses_chosen(&world);
    masquerade_all_spares_no_pod(&world);
    pods_are_known_by_the_mode(&world);
}

/// A node's address that is not among those chosen is the host's own affair, whoever asks.
fn node_ports_are_those_of_the_addresses_chosen(world: &World) {
    // With no flag every address is served, though the host has something there itself.
    for address in PRIMARY.into_iter().chain(OTHER) {
        world.is_served(address, NODE_PORT);
    }
    let networks = [
        "--nodeport-address=198.18.0.0/24",
        "--nodeport-address=2001:2:0:1::/64",
    ];
    for flags in [&["--nodeport-address=primary"][..], &networks] {
        world.lab.restart_agent_with("node2", flags);
        for address in PRIMARY {
            world.is_served(address, NODE_PORT);
        }
        for address in OTHER {
            world.is_untouched(address, NODE_PORT);
        }
    }
    // The other way round; no network of IPv6 means all addresses of it.
    world
        .lab
        .restart_agent_with("node2", &["--nodeport-address=203.0.113.0/24"]);
    let [primary4, primary6] = PRIMARY;
    let primary4 = SocketAddr::new(ip(primary4), NODE_PORT);
    for (who, namespace, _) in world.clients(primary4.ip()) {
        for protocol in SPOKEN {
            assert_eq!(
                ask(namespace, protocol, primary4),
                Asked::Refused,
                "{who} {protocol:?}"
            );
        }
    }
    for address in [OTHER[0], primary6, OTHER[1]] {
        world.is_served(address, NODE_PORT);
    }
}

/// `--masquerade-all` is about ClusterIPs, of both policies.
fn masquerade_all_spares_no_pod(world: &World) {
    for (flags, kept) in [(&[][..], true), (&["--masquerade-all"], false)] {
        world.lab.restart_agent_with("node2", flags);
        for family in [0, 1] {
            let own = world.pod_ips[family];
            for protocol in SPOKEN {
                for (service, enough) in [("both", 2), ("local", 1)] {
                    let target = world.cluster_ip(service, family);
                    let (_, sources) = spread(&world.pod, protocol, target, enough);
                    let right = |source: &IpAddr| match kept {
                        true => *source == own,
                        false => world.is_of_node(*source),
                    };
                    assert!(
                        sources.iter().all(right),
                        "{flags:?} {protocol:?} {target}: {sources:?}"
                    );
                }
                // What goes to an endpoint by a local policy from outside keeps its source anyway.
                let target = SocketAddr::new(ip(PRIMARY[family]), NODE_PORT + 2);
                let (_, sources) = spread(&world.pod, protocol, target, 2);
                assert_eq!(sources, [own].into(), "{flags:?} {protocol:?} {target}");
            }
        }
    }
}

/// Who counts as a Pod keeps its source to a ClusterIP: by its address, or by where its packets come in.
fn pods_are_known_by_the_mode(world: &World) {
    // A Pod with an address that is nobody's, and a host outside with one that looks like a Pod's of another node.
    let (stranger, pretender) = (
        ["192.0.2.201", "2001:db8:7::201"],
        ["10.244.200.7", "fd00:10:244:c8::7"],
    );
    world.pod.sh(&format!(
        "ip addr add {}/32 dev eth0; ip addr add {}/128 dev eth0 nodad",
        stranger[0], stranger[1]
    ));
    world.outside.sh(&format!(
        "ip addr add {}/32 dev lo; ip addr add {}/128 dev lo nodad",
        pretender[0], pretender[1]
    ));
    world.node.sh(&format!(
        "ip route add {}/32 dev minik0; ip -6 route add {}/128 dev minik0
         ip route add {}/32 via {}; ip -6 route add {}/128 via {}",
        stranger[0], stranger[1], pretender[0], OUTSIDE[0], pretender[1], OUTSIDE[1]
    ));
    let by_address = |mode: &'static str, pretender: bool| (vec![mode], false, pretender);
    let by_interface = |flags: &[&'static str]| (flags.to_vec(), true, false);
    let modes = [
        by_address("--detect-local-mode=ClusterCIDR", true),
        by_address("--detect-local-mode=NodeCIDR", false),
        by_interface(&["--detect-local-mode=BridgeInterface"]),
        by_interface(&[
            "--detect-local-mode=InterfaceNamePrefix",
            "--pod-interface-name-prefix=minik",
        ]),
    ];
    for (flags, keeps_stranger, keeps_pretender) in modes {
        world.lab.restart_agent_with("node2", &flags);
        // With the bridge's own netfilter hooks on, which other software on a host relies on, and off.
        for (hooks, family) in [(1, 0), (1, 1), (0, 0), (0, 1)] {
            world.node.sh(&format!(
                "for hooks in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do
                   test ! -e $hooks || echo {hooks} > $hooks
                 done"
            ));
            let target = world.cluster_ip("here", family);
            for (from, source, kept) in [
                (&world.pod, world.pod_ips[family], true),
                (&world.pod, ip(stranger[family]), keeps_stranger),
                (&world.outside, ip(pretender[family]), keeps_pretender),
                (&world.outside, ip(OUTSIDE[family]), false),
            ] {
                let met = eventually("an answer", DEADLINE, || {
                    match from.run(|| net::ask_udp_from(source, target, DEADLINE)) {
                        Asked::Answered(_, seen) => Ok(seen),
                        other => Err(format!("{flags:?} {source}: {other:?}")),
                    }
                });
                let right = if kept {
                    met == source
                } else {
                    world.is_of_node(met)
                };
                assert!(
                    right,
                    "{flags:?}, bridge hooks {hooks}: of {source} the Pod saw {met}"
                );
            }
        }
    }
}
