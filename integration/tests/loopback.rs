//! What a host keeps on loopback, and who reaches it.

use integration::{DEADLINE, Lab, eventually};

/// Something that listens on loopback and nowhere else.
const KEPT: &str = "import http.server as h; h.HTTPServer((\"127.0.0.1\", 7001), h.SimpleHTTPRequestHandler).serve_forever()";

/// A neighbour that sends packets for 127.0.0.1 to a node instead of to itself reaches what listens there if the node has
/// `route_localnet` on, which NodePorts on loopback by translation need.
#[test]
fn cve_2020_8558_what_a_node_keeps_on_loopback_its_neighbours_do_not_reach() {
    let lab = Lab::up(1, &[]);
    lab.start_on("node1", "kept", &["python3", "-c", KEPT]);
    let kept = "http://127.0.0.1:7001/";
    let fetch = |host: &str, url: &str| lab.minik_on(host, &["fetch", url]).result();
    eventually("it is there for the node", DEADLINE, || {
        fetch("node1", kept)
    });

    let node = lab.get(&["node", "node1"]);
    let addresses = node["status"]["addresses"].as_array().expect("addresses");
    let mut internal = addresses
        .iter()
        .filter(|address| address["type"] == "InternalIP")
        .filter_map(|address| address["address"].as_str());
    let node = internal.next().expect("an address");
    // All that a neighbour needs: for him, 127.0.0.1 is the node.
    let script = format!(
        "ip address del 127.0.0.1/8 dev lo; ip route add 127.0.0.1/32 via {node}; \
         for file in /proc/sys/net/ipv4/conf/*/route_localnet; do echo 1 > $file; done"
    );
    let _ = lab.on("client", &["sh", "-ec", &script]).ok();
    let answer = fetch("client", kept);
    assert!(answer.is_err(), "{answer:?}");
    // He would, if the node let him: it is the node that does not.
    let open = "for file in /proc/sys/net/ipv4/conf/*/route_localnet; do echo 1 > $file; done";
    let _ = lab.on("node1", &["sh", "-ec", open]).ok();
    eventually("with route_localnet", DEADLINE, || fetch("client", kept));
}
