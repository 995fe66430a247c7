//! Services of type LoadBalancer: an address of the nodes' network, answered by one node, and by another when that one is lost.

use std::time::{Duration, Instant};

use integration::{DEADLINE, Lab, eventually};

/// A Service of type LoadBalancer for the Pods labelled `app: a`.
fn service(name: &str, policy: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{type: LoadBalancer, \
         externalTrafficPolicy: {policy}, selector: {{app: a}}, ports: [{{port: 80, targetPort: 9376}}]}}}}"
    )
}

/// The address a Service has got.
fn address(lab: &Lab, name: &str) -> Result<String, String> {
    let service = lab.get(&["service", name]);
    let ip = service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str();
    ip.map(str::to_owned)
        .ok_or_else(|| service["status"].to_string())
}

/// The node that announces a Service.
fn node(lab: &Lab, name: &str) -> Result<String, String> {
    let service = lab.get(&["service", name]);
    let text = service["metadata"]["annotations"]["minik.dev/announced-by"].as_str();
    let node = text.and_then(|text| Some(text.split_once('=')?.1.to_owned()));
    node.ok_or_else(|| service["metadata"].to_string())
}

/// What the client outside the cluster gets from an address.
fn fetch(lab: &Lab, address: &str) -> Result<String, String> {
    let url = match address.contains(':') {
        true => format!("http://[{address}]/"),
        false => format!("http://{address}/"),
    };
    lab.minik_on("client", &["fetch", "--json", &url]).result()
}

fn events(lab: &Lab, name: &str) -> String {
    lab.kubectl(&["describe", "service", name]).ok()
}

#[test]
fn a_client_outside_reaches_a_service_by_its_address_and_another_node_takes_over_when_one_is_lost()
{
    is_answered_and_taken_over("ipv4", "198.18.0.200");
}

/// By neighbour advertisements, where that was ARP.
#[test]
fn an_ipv6_address_is_announced_and_taken_over_too() {
    is_answered_and_taken_over("ipv6", "2001:2:0:1::200");
}

/// The hardware address of a node.
fn mac(lab: &Lab, node: &str) -> String {
    let link = lab
        .on(node, &["ip", "-o", "link", "show", "dev", "eth0"])
        .ok();
    let rest = link.split("link/ether ").nth(1);
    let mac = rest.and_then(|rest| rest.split(' ').next());
    mac.expect("the link's address").to_owned()
}

/// Asks the segment anew where an address is: whether it is there.
fn is_at(lab: &Lab, vip: &str, mac: &str) -> Result<(), String> {
    let _ = lab.on("client", &["ip", "neigh", "flush", "to", vip]);
    fetch(lab, vip)?;
    let known = lab
        .on("client", &["ip", "neigh", "show", "to", vip])
        .result()?;
    known.contains(mac).then_some(()).ok_or(known)
}

/// Its reports wait to be read when the server goes on: who is judged before that is judged wrongly.
#[test]
fn a_server_that_stands_still_for_a_while_moves_no_address() {
    let lab = Lab::up(2, &[]);
    for name in ["a", "b", "c"] {
        let _ = lab.apply(&service(name, "Cluster")).ok();
    }
    let nodes = || -> Result<Vec<String>, String> {
        ["a", "b", "c"]
            .iter()
            .map(|name| node(&lab, name))
            .collect()
    };
    let before = eventually("nodes", DEADLINE, nodes);
    let server = lab.on("control", &["pgrep", "-f", "minik server"]).ok();
    // Twice as long as the silence that counts.
    let pause = format!("kill -STOP {0}; sleep 3; kill -CONT {0}", server.trim());
    let _ = lab.on("control", &["sh", "-c", &pause]).ok();
    // Whoever had been judged would have lost its addresses before this one is given.
    let _ = lab.apply(&service("d", "Cluster")).ok();
    eventually("a node", DEADLINE, || node(&lab, "d"));
    assert_eq!(nodes(), Ok(before));
    let said = lab.log("control", "server");
    assert!(!said.contains("does not report"), "{said}");
}

#[test]
fn a_node_that_lost_only_the_server_gives_way_to_the_one_that_was_chosen() {
    gives_way("ipv4", "198.18.0.2/32");
}

#[test]
fn by_neighbour_discovery_it_gives_way_too() {
    gives_way("ipv6", "2001:2:0:1::2/128");
}

fn gives_way(family: &str, server: &str) {
    let lab = Lab::up(2, &["--ip-families", family]);
    lab.echo_pods(&[("a1", "a", "node1"), ("a2", "a", "node2")]);
    let _ = lab.apply(&service("lb", "Cluster")).ok();
    let vip = eventually("an address", DEADLINE, || address(&lab, "lb"));
    let first = eventually("a node", DEADLINE, || node(&lab, "lb"));
    let its_mac = mac(&lab, &first);
    eventually("it answers", DEADLINE, || is_at(&lab, &vip, &its_mac));
    // The client and the other node are on its segment still.
    let _ = lab
        .on(&first, &["ip", "route", "add", "blackhole", server])
        .ok();
    let second = eventually("another node", DEADLINE, || {
        let now = node(&lab, "lb")?;
        (now != first)
            .then_some(now)
            .ok_or("the same node".to_owned())
    });
    let its_mac = mac(&lab, &second);
    eventually("that one answers", DEADLINE, || is_at(&lab, &vip, &its_mac));
    for _ in 0..20 {
        assert_eq!(is_at(&lab, &vip, &its_mac), Ok(()), "and no other does");
    }
    // Back, the first does not take it again, and is the next to be chosen.
    let _ = lab
        .on(&first, &["ip", "route", "del", "blackhole", server])
        .ok();
    let _ = lab.lab(&["partition", &second]).ok();
    eventually("the first again", DEADLINE, || {
        let now = node(&lab, "lb")?;
        (now == first).then_some(()).ok_or(now)
    });
    let its_mac = mac(&lab, &first);
    eventually("it answers", DEADLINE, || is_at(&lab, &vip, &its_mac));
}

/// How far a node's rules have come.
fn applied(lab: &Lab, node: &str) -> u64 {
    let told = lab.kubectl(&["get", "--raw", "/minik/v1/applied"]).ok();
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    let revision = told["nodes"][node]["revision"].as_str();
    revision.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The reports of a node that is back come through at once, on a new connection. The one of its watches goes on when TCP tries
/// again: the longer it was cut, the later. Until then the node takes its addresses for its own.
#[test]
fn a_node_that_is_back_gives_way_until_its_watches_have_told_it_who_was_chosen() {
    let lab = Lab::up(2, &[]);
    lab.echo_pods(&[("a1", "a", "node1"), ("a2", "a", "node2")]);
    let _ = lab.apply(&service("lb", "Cluster")).ok();
    let vip = eventually("an address", DEADLINE, || address(&lab, "lb"));
    let first = eventually("a node", DEADLINE, || node(&lab, "lb"));
    let its_mac = mac(&lab, &first);
    eventually("it answers", DEADLINE, || is_at(&lab, &vip, &its_mac));
    let _ = lab.lab(&["partition", &first]).ok();
    let cut = Instant::now();
    let second = eventually("another node", DEADLINE, || {
        let now = node(&lab, "lb")?;
        (now != first)
            .then_some(now)
            .ok_or("the same node".to_owned())
    });
    let chosen = lab.get(&["service", "lb"])["metadata"]["resourceVersion"].clone();
    let chosen: u64 = chosen
        .as_str()
        .and_then(|text| text.parse().ok())
        .expect("a revision");
    // The pauses double: the server's last try was just before, and the next one is six seconds later.
    std::thread::sleep(Duration::from_millis(8500).saturating_sub(cut.elapsed()));
    let _ = lab.lab(&["heal", &first]).ok();
    let its_mac = mac(&lab, &second);
    eventually("the first has heard the second", DEADLINE, || {
        lab.log(&first, "agent")
            .contains("another node announces a load-balancer address of this one")
            .then_some(())
            .ok_or_else(String::new)
    });
    let (end, mut asked) = (Instant::now() + DEADLINE, 0);
    while applied(&lab, &first) < chosen {
        assert!(Instant::now() < end, "its watches do not go on");
        assert_eq!(is_at(&lab, &vip, &its_mac), Ok(()), "question {asked}");
        asked += 1;
    }
    assert_eq!(
        is_at(&lab, &vip, &its_mac),
        Ok(()),
        "after {asked} questions"
    );
    println!("{asked} questions, {:?} after the cut", cut.elapsed());
}

fn is_answered_and_taken_over(family: &str, first_of_pool: &str) {
    let lab = Lab::up(3, &["--ip-families", family]);
    lab.echo_pods(&[
        ("a1", "a", "node1"),
        ("a2", "a", "node2"),
        ("a3", "a", "node3"),
    ]);
    let _ = lab.apply(&service("lb", "Cluster")).ok();
    let vip = eventually("an address", DEADLINE, || address(&lab, "lb"));
    assert_eq!(vip, first_of_pool);
    eventually("the client is answered", DEADLINE, || fetch(&lab, &vip));
    let said = events(&lab, "lb");
    let first = eventually("a node", DEADLINE, || node(&lab, "lb"));
    for words in ["IPAllocated", &format!("announced by node {first}")] {
        assert!(said.contains(words), "{words:?} is missing in: {said}");
    }

    // Dead and cut off: nothing tells the server but silence.
    let _ = lab.lab(&["kill", &first]).ok();
    let _ = lab.lab(&["partition", &first]).ok();
    let second = eventually("another node", DEADLINE, || {
        let now = node(&lab, "lb")?;
        (now != first)
            .then_some(now)
            .ok_or("the same node".to_owned())
    });
    eventually("the client is answered again", DEADLINE, || {
        fetch(&lab, &vip)
    });

    // Cut off only: its agent lives on, and ends its answers when it hears of the new one.
    let _ = lab.lab(&["heal", &first]).ok();
    let _ = lab.lab(&["start", &first]).ok();
    let _ = lab.lab(&["partition", &second]).ok();
    let third = eventually("a third node", DEADLINE, || {
        let now = node(&lab, "lb")?;
        (now != second)
            .then_some(now)
            .ok_or("the same node".to_owned())
    });
    let _ = lab.lab(&["heal", &second]).ok();
    let its_mac = mac(&lab, &third);
    eventually("only the third node answers", DEADLINE, || {
        is_at(&lab, &vip, &its_mac)
    });

    // A link that changes is announced on as it is then.
    let mac = "02:00:00:00:00:77";
    let change = ["ip", "link", "set", "dev", "eth0", "address", mac];
    let _ = lab.on(&third, &change).ok();
    eventually("the new link answers", DEADLINE, || is_at(&lab, &vip, mac));
}

#[test]
fn with_a_local_policy_a_node_with_an_endpoint_answers_and_the_pod_sees_the_client() {
    let lab = Lab::up(3, &[]);
    lab.echo_pods(&[("a2", "a", "node2")]);
    let _ = lab.apply(&service("lb", "Local")).ok();
    let vip = eventually("an address", DEADLINE, || address(&lab, "lb"));
    let answer = eventually("the client is answered", DEADLINE, || fetch(&lab, &vip));
    assert!(answer.contains("198.18.0.100:"), "{answer}");
    assert_eq!(node(&lab, "lb"), Ok("node2".to_owned()));
}

#[test]
fn an_address_is_given_back_and_an_event_says_why_a_service_has_none() {
    let lab = Lab::up(1, &["--load-balancer-pool", "198.18.0.220-198.18.0.220"]);
    let _ = lab.apply(&service("first", "Cluster")).ok();
    eventually("an address", DEADLINE, || address(&lab, "first"));
    let _ = lab.apply(&service("second", "Cluster")).ok();
    eventually("it is told", DEADLINE, || {
        let said = events(&lab, "second");
        let told = said.contains("SyncLoadBalancerFailed") && said.contains("is taken");
        told.then_some(()).ok_or(said)
    });
    let table = lab.kubectl(&["get", "service", "second"]).ok();
    assert!(table.contains("<pending>"), "{table}");
    let _ = lab
        .kubectl(&["delete", "service", "first", "--timeout=30s"])
        .ok();
    let given = eventually("the address", DEADLINE, || address(&lab, "second"));
    assert_eq!(given, "198.18.0.220");

    // Of another type it needs none.
    let patch = r#"{"spec":{"type":"ClusterIP"}}"#;
    let _ = lab
        .kubectl(&["patch", "service", "second", "-p", patch])
        .ok();
    eventually("nothing is left of it", DEADLINE, || {
        let service = lab.get(&["service", "second"]);
        let gone = service["metadata"]["finalizers"].is_null()
            && service["status"]["loadBalancer"]["ingress"].is_null();
        gone.then_some(()).ok_or(service.to_string())
    });
}
