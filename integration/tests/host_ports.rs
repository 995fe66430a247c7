//! Ports of a node that lead to a Pod (`hostPort`), in both IP families.

use std::fs;

use integration::{DEADLINE, Lab, eventually};

/// The nodes' and the client's addresses in the lab's segment.
const NODE1: [&str; 2] = ["198.18.0.11", "[2001:2:0:1::11]"];
const NODE2: [&str; 2] = ["198.18.0.12", "[2001:2:0:1::12]"];
const CLIENT: [&str; 2] = ["198.18.0.100:", "[2001:2:0:1::100]:"];

/// A Pod of the built-in image on node1 that has these ports of the node.
fn pod(name: &str, ports: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: node1, terminationGracePeriodSeconds: 1, \
         containers: [{{name: app, image: minik.dev/echo, args: [--http, \"9376\", --udp, \"9378\"], ports: {ports}}}]}}}}"
    )
}

const PORTS: &str =
    "[{containerPort: 9376, hostPort: 8080}, {containerPort: 9378, hostPort: 8081, protocol: UDP}]";

fn create(lab: &Lab, name: &str, ports: &str) {
    let _ = lab.apply(&pod(name, ports)).ok();
    let ready = [
        "wait",
        "--for=condition=Ready",
        "--timeout=60s",
        "pod",
        name,
    ];
    let _ = lab.kubectl(&ready).ok();
}

fn fetch(url: &str) -> Vec<&str> {
    vec!["fetch", "--json", "--retry", "10", url]
}

fn refused(lab: &Lab, url: &str) {
    let refusal = lab.minik_on("client", &["fetch", url]).refused();
    assert!(refusal.contains("refused"), "{url}: {refusal}");
}

#[test]
fn a_port_of_the_node_leads_to_its_pod_from_everywhere_and_the_client_keeps_its_address() {
    let lab = Lab::up(2, &["--ip-families", "ipv4,ipv6"]);
    lab.echo_pods(&[("near", "x", "node1"), ("far", "x", "node2")]);
    create(&lab, "web", PORTS);
    let at_one = "[{containerPort: 9376, hostPort: 8090, hostIP: 198.18.0.11}]";
    create(&lab, "pinned", at_one);

    for (family, node) in NODE1.into_iter().enumerate() {
        for url in [format!("http://{node}:8080/"), format!("udp://{node}:8081")] {
            let answer = lab.minik_on("client", &fetch(&url)).ok();
            let client = format!("\"client\":\"{}", CLIENT[family]);
            for words in ["\"hostname\":\"web\"", &client] {
                assert!(answer.contains(words), "{url}: {words} in {answer}");
            }
            for (host, pod) in [("node1", "near"), ("node2", "far"), ("node1", "web")] {
                let answer = lab.minik_in(host, pod, &fetch(&url)).ok();
                assert!(
                    answer.contains("\"hostname\":\"web\""),
                    "{url} from {pod}: {answer}"
                );
            }
            for host in ["node1", "node2"] {
                let answer = lab.minik_on(host, &fetch(&url)).ok();
                assert!(
                    answer.contains("\"hostname\":\"web\""),
                    "{url} from {host}: {answer}"
                );
            }
        }
        // A Pod of the node keeps its address, too.
        let own = lab.get(&["pod", "near"])["status"]["podIPs"][family]["ip"].clone();
        let own = own.as_str().expect("an address").to_owned();
        let answer = lab
            .minik_in("node1", "near", &fetch(&format!("http://{node}:8080/")))
            .ok();
        assert!(answer.contains(&own), "{own} in {answer}");
        refused(&lab, &format!("http://{}:8080/", NODE2[family]));
    }
    let answer = lab
        .minik_on("client", &fetch("http://198.18.0.11:8090/"))
        .ok();
    assert!(answer.contains("\"hostname\":\"pinned\""), "{answer}");
    refused(&lab, "http://[2001:2:0:1::11]:8090/");

    // It outlives the agent, and is there when the agent is back.
    let url = "http://198.18.0.11:8080/";
    let _ = lab.lab(&["kill", "node1"]).ok();
    let _ = lab.minik_on("client", &["fetch", url]).ok();
    let _ = lab.lab(&["start", "node1"]).ok();
    eventually("the agent is back", DEADLINE, || {
        lab.kubectl(&[
            "wait",
            "--for=condition=Ready",
            "--timeout=1s",
            "node/node1",
        ])
        .result()
    });
    let _ = lab.minik_on("client", &["fetch", url]).ok();

    // It goes with its Pod.
    let _ = lab.kubectl(&["delete", "pod", "web"]).ok();
    eventually("refused without the Pod", DEADLINE, || {
        let refusal = lab.minik_on("client", &["fetch", url]);
        (refusal.code != Some(0) && refusal.err.contains("refused"))
            .then_some(())
            .ok_or(format!("{refusal:?}"))
    });
}

/// The flow never pauses, so nothing but the deletion of its entry makes it go elsewhere.
#[test]
fn a_port_that_is_taken_is_refused_in_words_and_passes_to_the_next_pod_with_its_udp_flows() {
    let lab = Lab::up(1, &[]);
    create(&lab, "first", PORTS);
    let flow = "exec 3<>/dev/udp/198.18.0.11/8081; \
                while :; do echo hi >&3; timeout 1 head -n 1 <&3; sleep 0.1; done";
    lab.start_on("client", "flow", &["bash", "-c", flow]);
    let answered_by = |name: &str| {
        let log = fs::read_to_string(lab.dir().join("client/flow.log")).unwrap_or_default();
        let last = log.lines().rfind(|line| line.contains("hostname"));
        last.filter(|line| line.contains(name))
            .map(|_| ())
            .ok_or(log.clone())
    };
    eventually("the first Pod answers", DEADLINE, || answered_by("first"));

    let _ = lab.apply(&pod("second", PORTS)).ok();
    eventually("the second Pod is told why it waits", DEADLINE, || {
        let pod = lab.get(&["pod", "second"]);
        let said = pod["status"].to_string();
        let told = said.contains("hostPort 8080/TCP of this node belongs to Pod default/first")
            || said.contains("hostPort 8081/UDP of this node belongs to Pod default/first");
        told.then_some(()).ok_or(said)
    });
    let _ = lab.kubectl(&["delete", "pod", "first"]).ok();
    eventually("the flow goes to the second Pod", DEADLINE, || {
        answered_by("second")
    });
    lab.kill_on("client", "flow");

    for (name, port, words) in [
        (
            "loop",
            "{containerPort: 1, hostPort: 1, hostIP: 127.0.0.1}",
            "loopback",
        ),
        (
            "foreign",
            "{containerPort: 1, hostPort: 1, hostIP: 192.0.2.7}",
            "is no address of this node",
        ),
    ] {
        let _ = lab.apply(&pod(name, &format!("[{port}]"))).ok();
        eventually("it is told", DEADLINE, || {
            let said = lab.get(&["pod", name])["status"].to_string();
            said.contains(words).then_some(()).ok_or(said)
        });
    }
}
