//! Which endpoints get the connections, with real packets: hints, addresses that several slices name, Pods that are not ready,
//! an endpoint on the host's network.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use integration::{
    DEADLINE, Lab, echo_pod, eventually,
    net::{self, Asked, Namespace, Protocol},
};
use serde_json::{Value, json};

const PORTS: &str = "ports: [{name: tcp, port: 80, targetPort: 9377}, {name: udp, port: 80, protocol: UDP, targetPort: 9378}]";
const SPOKEN: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

fn service(name: &str, more: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{{more}, {PORTS}}}}}"
    )
}

fn apply(lab: &Lab, manifest: &str) {
    let _ = lab.apply(manifest).ok();
}

fn cluster_ip(lab: &Lab, service: &str) -> SocketAddr {
    let object = lab.get(&["service", service]);
    let ip = object["spec"]["clusterIP"].as_str().expect("a ClusterIP");
    SocketAddr::new(ip.parse().expect("an address"), 80)
}

fn node_port(lab: &Lab, service: &str, protocol: Protocol, node: &str) -> SocketAddr {
    let object = lab.get(&["service", service]);
    let ports = object["spec"]["ports"].as_array().expect("ports");
    let port = ports
        .iter()
        .find(|port| port["protocol"] == protocol.name());
    let number = port
        .and_then(|port| port["nodePort"].as_u64())
        .expect("a node port");
    SocketAddr::new(
        node.parse().expect("an address"),
        u16::try_from(number).expect("a port"),
    )
}

fn ask(from: &Namespace, protocol: Protocol, target: SocketAddr) -> Asked {
    from.run(|| match protocol {
        Protocol::Tcp => net::ask_tcp(target, DEADLINE),
        _ => net::ask_udp(target, DEADLINE),
    })
}

/// In the end all of these answer and nobody else does. Returns the sources they saw.
fn answered_by(
    from: &Namespace,
    protocol: Protocol,
    target: SocketAddr,
    wanted: &[&str],
) -> BTreeSet<IpAddr> {
    let wanted: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    eventually("exactly these answer", DEADLINE, || {
        let (mut names, mut sources) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..30 {
            match ask(from, protocol, target) {
                Asked::Answered(name, source) => {
                    names.insert(name);
                    sources.insert(source);
                }
                other => return Err(format!("{protocol:?} {target}: {other:?}")),
            }
        }
        let found = format!("{protocol:?} {target}: {names:?} instead of {wanted:?}");
        (names == wanted).then_some(sources).ok_or(found)
    })
}

fn refused(from: &Namespace, target: SocketAddr) {
    for protocol in SPOKEN {
        eventually("refused", DEADLINE, || match ask(from, protocol, target) {
            Asked::Refused => Ok(()),
            other => Err(format!("{protocol:?} {target}: {other:?}")),
        });
    }
}

/// An EndpointSlice that somebody wrote by hand.
fn slice(name: &str, service: &str, endpoints: &Value) -> String {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "endpoints": endpoints,
        "ports": [{"name": "tcp", "port": 9377}, {"name": "udp", "protocol": "UDP", "port": 9378}],
    })
    .to_string()
}

#[test]
fn hints_in_slices_decide_which_endpoints_a_node_uses() {
    let lab = Lab::up(3, &[]);
    for (node, zone) in [("node1", "z1"), ("node2", "z1"), ("node3", "z2")] {
        let zone = format!("topology.kubernetes.io/zone={zone}");
        let _ = lab.kubectl(&["label", "node", node, &zone]).ok();
    }
    lab.echo_pods(&[
        ("a1", "a", "node1"),
        ("a2", "a", "node2"),
        ("a3", "a", "node3"),
    ]);
    let nodes = ["node1", "node2", "node3"].map(|node| Namespace::of_host(&lab, node));
    let outside = Namespace::of_host(&lab, "client");

    // Those that trafficDistribution asks for.
    let selector = "selector: {app: a}, type: NodePort";
    for (value, wanted) in [
        (
            "PreferSameZone",
            [&["a1", "a2"][..], &["a1", "a2"], &["a3"]],
        ),
        ("PreferClose", [&["a1", "a2"], &["a1", "a2"], &["a3"]]),
        ("PreferSameNode", [&["a1"], &["a2"], &["a3"]]),
    ] {
        apply(
            &lab,
            &service("a", &format!("{selector}, trafficDistribution: {value}")),
        );
        let target = cluster_ip(&lab, "a");
        for protocol in SPOKEN {
            for (node, wanted) in nodes.iter().zip(wanted) {
                answered_by(node, protocol, target, wanted);
            }
            // They count for NodePorts, too: the node where the packets come in decides.
            let target = node_port(&lab, "a", protocol, "198.18.0.13");
            answered_by(&outside, protocol, target, &["a3"]);
        }
    }
    // A node without an endpoint of its own goes to one of its zone.
    let _ = lab.kubectl(&["delete", "pod", "a2"]).ok();
    answered_by(&nodes[1], Protocol::Tcp, cluster_ip(&lab, "a"), &["a1"]);

    // Written by hand, and crosswise: it is the hints that count, not where an endpoint is.
    let [a1, a3] = ["a1", "a3"].map(|pod| lab.pod_ips(pod)[0]);
    let endpoint = |ip: IpAddr, node: &str, zone: Option<&str>| {
        let hints = zone.map(|zone| json!({"forZones": [{"name": zone}]}));
        json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": true}, "hints": hints})
    };
    let crosswise = json!([
        endpoint(a1, "node1", Some("z2")),
        endpoint(a3, "node3", Some("z1"))
    ]);
    apply(&lab, &slice("by-hand-1", "by-hand", &crosswise));
    for annotation in [
        "{service.kubernetes.io/topology-mode: Auto}",
        "{service.kubernetes.io/topology-aware-hints: Auto}",
        "{service.kubernetes.io/topology-mode: Disabled}",
    ] {
        let annotated = format!("metadata: {{name: by-hand, annotations: {annotation}}}");
        let manifest =
            service("by-hand", "type: NodePort").replace("metadata: {name: by-hand}", &annotated);
        let _ = lab
            .kubectl(&["delete", "service", "by-hand", "--ignore-not-found"])
            .ok();
        apply(&lab, &slice("by-hand-1", "by-hand", &crosswise));
        apply(&lab, &manifest);
        let target = cluster_ip(&lab, "by-hand");
        for protocol in SPOKEN {
            for (node, wanted) in nodes.iter().zip(["a3", "a3", "a1"]) {
                answered_by(node, protocol, target, &[wanted]);
            }
            let target = node_port(&lab, "by-hand", protocol, "198.18.0.13");
            answered_by(&outside, protocol, target, &["a1"]);
        }
    }
    // A zone that nobody is hinted for, and one endpoint without a hint: all of them.
    let target = cluster_ip(&lab, "by-hand");
    let _ = lab
        .kubectl(&[
            "label",
            "node",
            "node3",
            "topology.kubernetes.io/zone=z9",
            "--overwrite",
        ])
        .ok();
    answered_by(&nodes[2], Protocol::Tcp, target, &["a1", "a3"]);
    answered_by(&nodes[0], Protocol::Tcp, target, &["a3"]);
    let partly = json!([
        endpoint(a1, "node1", None),
        endpoint(a3, "node3", Some("z1"))
    ]);
    apply(&lab, &slice("by-hand-1", "by-hand", &partly));
    answered_by(&nodes[0], Protocol::Tcp, target, &["a1", "a3"]);
    // A local policy knows no hints.
    apply(&lab, &slice("by-hand-1", "by-hand", &crosswise));
    answered_by(&nodes[0], Protocol::Tcp, target, &["a3"]);
    let local = r#"{"spec":{"internalTrafficPolicy":"Local"}}"#;
    let _ = lab
        .kubectl(&["patch", "service", "by-hand", "-p", local])
        .ok();
    answered_by(&nodes[0], Protocol::Tcp, target, &["a1"]);
}

#[test]
fn an_address_in_two_slices_serves_as_long_as_one_of_them_says_so() {
    let lab = Lab::up(2, &[]);
    lab.echo_pods(&[
        ("a1", "a", "node1"),
        ("a2", "a", "node2"),
        ("client", "client", "node2"),
    ]);
    let client = Namespace::of_pod(&lab.get(&["pod", "client"]));
    let [a1, a2] = ["a1", "a2"].map(|pod| lab.pod_ips(pod)[0]);
    let with = |ip: IpAddr, ready: bool, serving: bool, terminating: bool| {
        let conditions = json!({"ready": ready, "serving": serving, "terminating": terminating});
        json!([{"addresses": [ip], "conditions": conditions}])
    };
    let ready = |ip| with(ip, true, true, false);
    let gone = |ip| with(ip, false, false, true);
    apply(&lab, &service("a", "type: NodePort"));
    let target = cluster_ip(&lab, "a");
    let is_answered_by = |wanted: &[&str]| {
        for protocol in SPOKEN {
            answered_by(&client, protocol, target, wanted);
        }
    };
    let put = |name: &str, endpoints: &Value| apply(&lab, &slice(name, "a", endpoints));

    put("a-x", &gone(a1));
    refused(&client, target);
    // The address was given to another Pod while the old one's slice still names it. The order of names is nothing.
    for other in ["a-w", "a-y"] {
        put(other, &ready(a1));
        is_answered_by(&["a1"]);
        let _ = lab.kubectl(&["delete", "endpointslice", other]).ok();
        refused(&client, target);
    }
    // Twice the same is once, and the one that lives wins over one that serves its last.
    put("a-x", &ready(a1));
    put("a-y", &ready(a1));
    put("a-z", &ready(a2));
    is_answered_by(&["a1", "a2"]);
    put("a-y", &with(a1, false, true, true));
    put("a-z", &gone(a2));
    is_answered_by(&["a1"]);
    // Without anybody who is ready those that still serve are the last resort.
    put("a-x", &gone(a1));
    is_answered_by(&["a1"]);
    put("a-z", &ready(a2));
    is_answered_by(&["a2"]);
}

#[test]
fn a_pod_that_is_not_ready_serves_only_a_service_that_publishes_it() {
    let lab = Lab::up(2, &[]);
    lab.echo_pods(&[("client", "client", "node2")]);
    let client = Namespace::of_pod(&lab.get(&["pod", "client"]));
    let gate =
        "readinessGates: [{conditionType: example.com/up}]\n  terminationGracePeriodSeconds: 1";
    apply(
        &lab,
        &echo_pod("late", "late", "node1").replace("terminationGracePeriodSeconds: 1", gate),
    );
    let selector = "selector: {app: late}";
    apply(&lab, &service("strict", selector));
    apply(
        &lab,
        &service(
            "loose",
            &format!("{selector}, publishNotReadyAddresses: true"),
        ),
    );
    let (strict, loose) = (cluster_ip(&lab, "strict"), cluster_ip(&lab, "loose"));
    for protocol in SPOKEN {
        answered_by(&client, protocol, loose, &["late"]);
    }
    refused(&client, strict);
    let up = |status: &str| {
        let patch =
            json!({"status": {"conditions": [{"type": "example.com/up", "status": status}]}});
        let args = [
            "patch",
            "pod",
            "late",
            "--subresource=status",
            "-p",
            &patch.to_string(),
        ];
        let _ = lab.kubectl(&args).ok();
    };
    up("True");
    for protocol in SPOKEN {
        answered_by(&client, protocol, strict, &["late"]);
    }
    up("False");
    refused(&client, strict);
    answered_by(&client, Protocol::Tcp, loose, &["late"]);
}

#[test]
fn an_endpoint_on_the_hosts_network_is_reached_by_everybody_and_by_itself() {
    let lab = Lab::up(2, &[]);
    lab.echo_pods(&[("client", "client", "node2")]);
    let manifest = echo_pod("onhost", "onhost", "node2")
        .replace("spec:\n", "spec:\n  hostNetwork: true\n")
        .replace(", \"--udp\", \"9378\"", "");
    apply(&lab, &manifest);
    let _ = lab
        .kubectl(&[
            "wait",
            "--for=condition=Ready",
            "--timeout=60s",
            "pod/onhost",
        ])
        .ok();
    let node2: IpAddr = "198.18.0.12".parse().expect("an address");
    assert_eq!(lab.pod_ips("onhost"), [node2]);
    let selector = "selector: {app: onhost}, type: NodePort";
    for (name, policy) in [("cluster", "Cluster"), ("local", "Local")] {
        let policies =
            format!("{selector}, externalTrafficPolicy: {policy}, internalTrafficPolicy: {policy}");
        apply(&lab, &service(name, &policies));
    }
    let [own, other] = ["node2", "node1"].map(|node| Namespace::of_host(&lab, node));
    // A host has several addresses: who answers datagrams must do so from the one that was asked, as this does.
    net::serve(&own, "node2", SocketAddr::new(node2, 9378));
    let pod = Namespace::of_pod(&lab.get(&["pod", "client"]));
    let outside = Namespace::of_host(&lab, "client");
    let is_of_node2 = |sources: &BTreeSet<IpAddr>| {
        let is_own = |source: &IpAddr| own.run(|| std::net::UdpSocket::bind((*source, 0)).is_ok());
        sources.iter().all(is_own)
    };
    for name in ["cluster", "local"] {
        let target = cluster_ip(&lab, name);
        for protocol in SPOKEN {
            // From the very network that the endpoint is on.
            let sources = answered_by(&own, protocol, target, &["node2"]);
            assert!(is_of_node2(&sources), "{name} {protocol:?}: {sources:?}");
            let at_node = node_port(&lab, name, protocol, "198.18.0.12");
            let sources = answered_by(&own, protocol, at_node, &["node2"]);
            assert!(is_of_node2(&sources), "{name} {protocol:?}: {sources:?}");

            let sources = answered_by(&pod, protocol, target, &["node2"]);
            assert_eq!(
                sources,
                [lab.pod_ips("client")[0]].into(),
                "{name} {protocol:?}"
            );
            let sources = answered_by(&outside, protocol, at_node, &["node2"]);
            // What is delivered on the node that it came to has nothing translated but its destination.
            let kept = ["198.18.0.100".parse().expect("an address")].into();
            assert_eq!(sources, kept, "{name} {protocol:?}");
        }
    }
    for protocol in SPOKEN {
        answered_by(&other, protocol, cluster_ip(&lab, "cluster"), &["node2"]);
        let at_node = node_port(&lab, "cluster", protocol, "198.18.0.11");
        answered_by(&outside, protocol, at_node, &["node2"]);
    }
}
