//! A ServiceCIDR that is added to a running cluster: its range is one of Services on every node, until it is deleted.

use integration::{DEADLINE, Lab, eventually, minik};

/// An address outside the cluster, which Pods reach by way of their node, and which then falls into the added range.
const OUTSIDE: &str = "203.0.113.6";
const RANGE: &str = "203.0.113.0/24";

#[test]
fn a_range_that_is_added_is_one_of_services_until_it_is_deleted() {
    let lab = Lab::up(2, &[]);
    lab.echo_pods(&[("a", "a", "node2"), ("client", "client", "node1")]);
    let _ = lab
        .on("client", &["ip", "addr", "add", OUTSIDE, "dev", "lo"])
        .ok();
    let route = ["ip", "route", "add", RANGE, "via", "198.18.0.100"];
    let _ = lab.on("node1", &route).ok();
    let program = minik().to_string_lossy().into_owned();
    lab.start_on("client", "outside", &[&program, "echo", "--http", "80"]);
    let fetch = |url: &str| {
        let args = ["fetch", "--connect-timeout", "1", url];
        lab.minik_in("node1", "client", &args).result()
    };
    let reverse = || {
        let ask = ["dig", "+tries=1", "+time=2", "@10.96.0.10", "-x", OUTSIDE];
        lab.on("node1", &ask).result()
    };
    let ours = "113.0.203.in-addr.arpa.\t5\tIN\tSOA\tns.dns.cluster.local.";
    let outside = format!("http://{OUTSIDE}/");
    eventually("the address is one of the world outside", DEADLINE, || {
        fetch(&outside)
    });
    let answer = reverse().unwrap_or_default();
    assert!(!answer.contains(ours), "{answer}");

    let cidr = format!(
        "{{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {{name: more}}, spec: {{cidrs: [{RANGE}]}}}}"
    );
    let _ = lab.apply(&cidr).ok();
    eventually(
        "an unused ClusterIP is not answered",
        DEADLINE,
        || match fetch(&outside) {
            Err(_) => Ok(()),
            Ok(answer) => Err(answer),
        },
    );
    eventually("and has no name, for sure", DEADLINE, || {
        let answer = reverse()?;
        let wanted = answer.contains("status: NXDOMAIN") && answer.contains(ours);
        wanted.then_some(()).ok_or(answer)
    });
    let service = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 203.0.113.7, selector: {app: a}, \
                   ports: [{port: 80, targetPort: 9376}]}}";
    let _ = lab.apply(service).ok();
    eventually("a Service of the range is served", DEADLINE, || {
        fetch("http://203.0.113.7/")
    });
    eventually("by its name too", DEADLINE, || fetch("http://web/"));

    let _ = lab.kubectl(&["delete", "service", "web"]).ok();
    let _ = lab
        .kubectl(&["delete", "servicecidr", "more", "--timeout=30s"])
        .ok();
    eventually("it is of the world outside again", DEADLINE, || {
        fetch(&outside)
    });
    eventually("and its names are", DEADLINE, || {
        let answer = reverse().unwrap_or_default();
        if answer.contains(ours) {
            Err(answer)
        } else {
            Ok(())
        }
    });
}
