//! Pods and Services with addresses of both IP families, and of IPv6 alone.

use std::{collections::BTreeSet, net::IpAddr};

use integration::{DEADLINE, Lab, eventually};
use serde_json::Value;

const POLICY_BOTH: &str = "ipFamilyPolicy: RequireDualStack, ";

fn service(name: &str, more: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{type: NodePort, {more}selector: {{app: a}}, \
         ports: [{{name: http, port: 80, targetPort: 9376}}, {{name: udp, port: 81, protocol: UDP, targetPort: 9378}}]}}}}"
    )
}

/// The texts at a path of a list, for example the `ip` of each of `status.podIPs`.
fn texts(object: &Value, pointer: &str, field: &str) -> Vec<IpAddr> {
    let list = object.pointer(pointer).and_then(Value::as_array);
    let list = list.unwrap_or_else(|| panic!("{pointer} of {object}"));
    let texts = list
        .iter()
        .filter_map(|entry| entry.get(field).unwrap_or(entry).as_str());
    texts.filter_map(|text| text.parse().ok()).collect()
}

fn addresses(lab: &Lab, kind: &str, name: &str) -> Vec<IpAddr> {
    let object = lab.get(&[kind, name]);
    match kind {
        "pod" => texts(&object, "/status/podIPs", "ip"),
        "node" => texts(&object, "/status/addresses", "address"),
        _ => texts(&object, "/spec/clusterIPs", ""),
    }
}

fn families(addresses: &[IpAddr]) -> Vec<&'static str> {
    let family = |address: &IpAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
    addresses.iter().map(family).collect()
}

/// The client's address and the hostnames in the answers of `fetch --json`.
fn said(answers: &str) -> (BTreeSet<IpAddr>, BTreeSet<String>) {
    let (mut clients, mut hosts) = (BTreeSet::new(), BTreeSet::new());
    for line in answers.lines() {
        let answer: Value = serde_json::from_str(line).expect("a JSON line");
        let client = answer["client"].as_str().expect("a client");
        let client: std::net::SocketAddr = client.parse().expect("a socket address");
        clients.insert(client.ip());
        hosts.insert(answer["hostname"].as_str().expect("a name").to_owned());
    }
    (clients, hosts)
}

fn host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// Pod to Pod, ClusterIP from Pod and node, NodePort from outside, names: in each family that the cluster has.
fn everything_works_in(lab: &Lab, wanted: &[&str]) {
    lab.echo_pods(&[
        ("a1", "a", "node1"),
        ("a2", "a", "node2"),
        ("client", "client", "node2"),
    ]);
    let policy = if wanted.len() > 1 { POLICY_BOTH } else { "" };
    let _ = lab.apply(&service("web", policy)).ok();
    let pods = addresses(lab, "pod", "a1");
    let (client, nodes) = (
        addresses(lab, "pod", "client"),
        addresses(lab, "node", "node1"),
    );
    for found in [&pods, &client, &nodes, &addresses(lab, "service", "web")] {
        assert_eq!(families(found), wanted, "{found:?}");
    }
    let host_ips = texts(&lab.get(&["pod", "a1"]), "/status/hostIPs", "ip");
    assert_eq!(host_ips, nodes);
    let both = BTreeSet::from(["a1", "a2"].map(str::to_owned));
    let node_port = lab.get(&["service", "web"])["spec"]["ports"][0]["nodePort"].to_string();

    for (family, service) in addresses(lab, "service", "web").into_iter().enumerate() {
        let direct = format!("http://{}:9376/", host(pods[family]));
        let answer = lab.minik_in(
            "node2",
            "client",
            &["fetch", "--json", "--retry", "5", &direct],
        );
        let (clients, _) = said(&answer.ok());
        assert_eq!(
            clients,
            [client[family]].into(),
            "another node's Pod sees the Pod"
        );

        let url = format!("http://{}/", host(service));
        let many = ["fetch", "--json", "--retry", "5", "--count", "30", &url];
        let (clients, hosts) = said(&lab.minik_in("node2", "client", &many).ok());
        assert_eq!(
            (clients, hosts),
            ([client[family]].into(), both.clone()),
            "{url} from a Pod"
        );
        let (_, hosts) = said(&lab.minik_on("node1", &many).ok());
        assert_eq!(hosts, both, "{url} from a node");
        // A Pod that reaches itself.
        let (_, hosts) = said(&lab.minik_in("node1", "a1", &many).ok());
        assert_eq!(hosts, both, "{url} from one of its own Pods");

        let udp = format!("udp://{}:81", host(service));
        let many = ["fetch", "--json", "--count", "30", &udp];
        let (_, hosts) = said(&lab.minik_in("node2", "client", &many).ok());
        assert_eq!(hosts, both, "{udp} from a Pod");

        let outside = format!("http://{}:{node_port}/", host(nodes[family]));
        let many = ["fetch", "--json", "--retry", "5", "--count", "30", &outside];
        let (_, hosts) = said(&lab.minik_on("client", &many).ok());
        assert_eq!(hosts, both, "{outside} from outside");
    }
    let by_name = ["fetch", "--json", "--retry", "5", "http://web/"];
    let (_, hosts) = said(&lab.minik_in("node2", "client", &by_name).ok());
    assert!(hosts.is_subset(&both));
}

#[test]
fn with_two_families_everything_works_in_each() {
    let lab = Lab::up(2, &["--ip-families", "ipv4,ipv6"]);
    everything_works_in(&lab, &["IPv4", "IPv6"]);

    // Without endpoints refused, in the second family too.
    let [_, second] = addresses(&lab, "service", "web")[..] else {
        panic!("two ClusterIPs")
    };
    let _ = lab
        .kubectl(&["delete", "pod", "a1", "a2", "--grace-period=1"])
        .ok();
    let url = format!("http://{}/", host(second));
    eventually("refused without Pods", DEADLINE, || {
        let refusal = lab.minik_in("node2", "client", &["fetch", &url]);
        (refusal.code != Some(0) && refusal.err.contains("refused"))
            .then_some(())
            .ok_or(format!("{refusal:?}"))
    });
}

#[test]
fn with_ipv6_alone_everything_works_and_an_agent_that_is_killed_changes_nothing() {
    let lab = Lab::up(2, &["--ip-families", "ipv6"]);
    everything_works_in(&lab, &["IPv6"]);
    let none = lab.on("node1", &["sh", "-c", "ip -4 addr show scope global"]);
    assert_eq!(none.ok(), "", "a node of this lab has no IPv4 address");
    let before = addresses(&lab, "pod", "a1");
    let _ = lab.lab(&["kill", "node1"]).ok();
    let _ = lab.lab(&["start", "node1"]).ok();
    everything_works_in(&lab, &["IPv6"]);
    assert_eq!(addresses(&lab, "pod", "a1"), before);
}
