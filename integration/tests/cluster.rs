//! Services on a lab of three nodes, seen from Pods, nodes and the outside.

use std::collections::BTreeSet;

use integration::{DEADLINE, Lab, eventually};
use serde_json::Value;

/// The hostnames that answered `count` requests.
fn answered(output: &str) -> BTreeSet<String> {
    let answers = output
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("fetch prints JSON lines"));
    answers
        .map(|answer| answer["hostname"].as_str().expect("a host name").to_owned())
        .collect()
}

fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

fn cluster_ip(lab: &Lab, name: &str) -> String {
    let service = lab.get(&["service", name]);
    service["spec"]["clusterIP"]
        .as_str()
        .expect("a ClusterIP")
        .to_owned()
}

#[test]
fn services_follow_their_pods_and_say_no_when_there_are_none() {
    let lab = Lab::up(3, &[]);
    lab.echo_pods(&[
        ("a1", "a", "node1"),
        ("a2", "a", "node2"),
        ("client", "client", "node3"),
    ]);
    let ports = "[{name: http, port: 80, targetPort: 9376}, {name: lines, port: 81, targetPort: 9377}, \
                 {name: datagrams, port: 82, protocol: UDP, targetPort: 9378}]";
    let _ = lab
        .apply(&service(
            "a",
            &format!("{{selector: {{app: a}}, ports: {ports}}}"),
        ))
        .ok();
    let _ = lab
        .apply(&service(
            "nobody",
            "{selector: {app: nobody}, ports: [{port: 80}]}",
        ))
        .ok();
    let _ = lab
        .apply(&service(
            "bare",
            "{clusterIP: None, selector: {app: a}, ports: [{port: 9376}]}",
        ))
        .ok();
    let _ = lab
        .apply(&service(
            "alias",
            "{type: ExternalName, externalName: a.default.svc.cluster.local}",
        ))
        .ok();
    let ip = cluster_ip(&lab, "a");

    // From a Pod and from every node, over all endpoints.
    let both = BTreeSet::from(["a1".to_owned(), "a2".to_owned()]);
    let url = format!("http://{ip}/");
    eventually("both Pods answer", DEADLINE, || {
        let answers = lab
            .minik_in(
                "node3",
                "client",
                &["fetch", "--json", "--count", "30", &url],
            )
            .result()?;
        (answered(&answers) == both).then_some(()).ok_or(answers)
    });
    for node in ["node1", "node2", "node3"] {
        let answers = lab
            .minik_on(node, &["fetch", "--json", "--count", "30", &url])
            .ok();
        assert_eq!(answered(&answers), both, "from {node}");
    }
    let udp = format!("udp://{ip}:82");
    let answers = lab
        .minik_in(
            "node3",
            "client",
            &["fetch", "--json", "--count", "30", &udp],
        )
        .ok();
    assert_eq!(answered(&answers), both, "over UDP");

    // Headless and ExternalName are names only.
    for name in ["http://bare:9376/", "http://alias/", "http://a.default/"] {
        let answers = lab
            .minik_in(
                "node3",
                "client",
                &["fetch", "--retry", "5", "--json", "--count", "4", name],
            )
            .ok();
        assert!(answered(&answers).is_subset(&both), "{name}: {answers}");
    }

    // No endpoints: refused at once, on both paths.
    let nobody = format!("http://{}/", cluster_ip(&lab, "nobody"));
    for refusal in [
        lab.minik_in("node3", "client", &["fetch", &nobody])
            .refused(),
        lab.minik_on("node2", &["fetch", &nobody]).refused(),
        lab.minik_on("node2", &["fetch", &format!("http://{ip}:4711/")])
            .refused(),
    ] {
        assert!(refusal.contains("refused"), "{refusal}");
    }
    let unknown = lab
        .minik_in("node3", "client", &["fetch", "http://no-such-service/"])
        .refused();
    assert!(
        unknown.contains("NXDOMAIN") || unknown.contains("no such name"),
        "{unknown}"
    );

    // The last Pod goes: what answered is refused now. It comes back: it answers again.
    let _ = lab
        .kubectl(&["delete", "pod", "a1", "a2", "--grace-period=1"])
        .ok();
    eventually("refused without Pods", DEADLINE, || {
        let refusal = lab.minik_on("node2", &["fetch", &url]);
        (refusal.code != Some(0) && refusal.err.contains("refused"))
            .then_some(())
            .ok_or(format!("{refusal:?}"))
    });
    lab.echo_pods(&[("a3", "a", "node1")]);
    eventually("the new Pod answers", DEADLINE, || {
        lab.minik_on("node2", &["fetch", &url]).result()
    });
}

#[test]
fn environment_variables_of_services_reach_later_pods() {
    let lab = Lab::up(1, &[]);
    let _ = lab
        .apply(&service("my-db", "{ports: [{name: sql, port: 5432}]}"))
        .ok();
    let ip = cluster_ip(&lab, "my-db");
    eventually("the Pod sees the variables", DEADLINE, || {
        let _ = lab.kubectl(&[
            "delete",
            "pod",
            "late",
            "--grace-period=0",
            "--force",
            "--ignore-not-found",
        ]);
        lab.echo_pods(&[("late", "late", "node1")]);
        let environment = lab
            .minik_in(
                "node1",
                "late",
                &["fetch", "http://127.0.0.1:9376/environment"],
            )
            .result()?;
        let wanted = [
            format!("MY_DB_SERVICE_HOST={ip}"),
            "MY_DB_SERVICE_PORT_SQL=5432".to_owned(),
            format!("MY_DB_PORT_5432_TCP=tcp://{ip}:5432"),
            "KUBERNETES_SERVICE_HOST=10.96.0.1".to_owned(),
        ];
        wanted
            .iter()
            .all(|line| environment.contains(line))
            .then_some(())
            .ok_or(environment)
    });
}

/// With the bridge's own netfilter hooks on, which other software on a host relies on, and off.
#[test]
fn pods_on_one_node_reach_themselves_and_each_other_through_a_service() {
    let lab = Lab::up(1, &[]);
    lab.echo_pods(&[("a1", "a", "node1"), ("b1", "b", "node1")]);
    let spec =
        |app| format!("{{selector: {{app: {app}}}, ports: [{{port: 80, targetPort: 9376}}]}}");
    for app in ["a", "b"] {
        let _ = lab.apply(&service(app, &spec(app))).ok();
    }
    for bridge_hooks in ["1", "0"] {
        // Not there: this kernel has no br_netfilter, and the bridge has no such hooks.
        let set = format!(
            "hooks=/proc/sys/net/bridge/bridge-nf-call-iptables; test ! -e $hooks || echo {bridge_hooks} > $hooks"
        );
        let _ = lab.on("node1", &["sh", "-c", &set]).ok();
        for (app, pod) in [("a", "a1"), ("b", "b1")] {
            let url = format!("http://{}/", cluster_ip(&lab, app));
            let answer = lab
                .minik_in("node1", "a1", &["fetch", "--retry", "5", &url])
                .ok();
            assert!(
                answer.contains(&format!("\"hostname\":\"{pod}\"")),
                "bridge hooks {bridge_hooks}: {answer}"
            );
        }
    }
}

/// `kubectl wait` returns when every node has the Service; a node that is cut off is named; `/metrics` counts the way.
#[test]
fn a_service_says_whether_and_where_it_is_programmed() {
    let lab = Lab::up(2, &[]);
    lab.echo_pods(&[("a1", "a", "node1")]);
    let a = service(
        "a",
        "{selector: {app: a}, ports: [{port: 80, targetPort: 9376}]}",
    );
    let _ = lab.apply(&a).ok();
    let wait = |state: &str| {
        let condition = format!("--for=condition=minik.dev/Programmed={state}");
        lab.kubectl(&["wait", &condition, "--timeout=60s", "service/a"])
            .ok()
    };
    let _ = wait("True");

    let _ = lab.lab(&["kill", "node2"]).ok();
    let _ = lab
        .kubectl(&[
            "patch",
            "service",
            "a",
            "--type=merge",
            "-p",
            r#"{"spec":{"ports":[{"port":81,"targetPort":9376}]}}"#,
        ])
        .ok();
    let _ = wait("False");
    let described = lab.get(&["service", "a"])["status"]["conditions"][0]["message"].to_string();
    assert!(
        described.contains("node2") && !described.contains("node1"),
        "{described}"
    );
    let _ = lab.lab(&["start", "node2"]).ok();
    let _ = wait("True");

    let metrics = lab.kubectl(&["get", "--raw", "/metrics"]).ok();
    let counted = metrics
        .lines()
        .find_map(|line| line.strip_prefix("minik_service_programmed_seconds_count "));
    let counted: u64 = counted
        .expect("the histogram is there")
        .parse()
        .expect("a number");
    assert!(counted > 0, "{metrics}");
}

/// A load balancer outside the cluster: it asks every node, sends to the one with an endpoint, and the Pod sees the client.
#[test]
fn a_balancer_with_a_local_policy_finds_the_node_and_the_client_keeps_its_address() {
    let lab = Lab::up(2, &[]);
    lab.echo_pods(&[("a1", "a", "node1"), ("client", "client", "node2")]);
    // Of a class that is not the built-in one, which therefore stays away.
    let spec = "{type: LoadBalancer, loadBalancerClass: example.com/outside, externalTrafficPolicy: Local, \
                sessionAffinity: ClientIP, selector: {app: a}, \
                loadBalancerSourceRanges: [198.18.0.100/32, 10.244.0.0/16], ports: [{port: 80, targetPort: 9376}]}";
    let _ = lab.apply(&service("a", spec)).ok();
    let object = lab.get(&["service", "a"]);
    let node_port = &object["spec"]["ports"][0]["nodePort"];
    let health_port = &object["spec"]["healthCheckNodePort"];
    let addr_of = |host: &str| {
        let node = lab.get(&["node", host]);
        let addrs = node["status"]["addresses"].as_array().cloned();
        let addrs = addrs.expect("addresses").into_iter();
        addrs
            .filter(|addr| addr["type"] == "InternalIP")
            .find_map(|addr| Some(addr["address"].as_str()?.to_owned()))
            .expect("an InternalIP")
    };
    let (here, elsewhere) = (addr_of("node1"), addr_of("node2"));

    // What the balancer asks: one node has an endpoint, the other has none.
    let health = |node: &str| {
        lab.minik_on(
            "client",
            &["fetch", &format!("http://{node}:{health_port}/")],
        )
    };
    eventually("node1 says that it has an endpoint", DEADLINE, || {
        health(&here).result()
    });
    let refusal = health(&elsewhere).refused();
    assert!(
        refusal.contains("503") && refusal.contains("\"localEndpoints\": 0"),
        "{refusal}"
    );
    let node = lab.minik_on(
        "client",
        &["fetch", &format!("http://{here}:10256/healthz")],
    );
    assert!(node.ok().contains("\"nodeEligible\":true"));

    // The client's own address arrives; the node without endpoints is silent.
    let answer = lab
        .minik_on("client", &["fetch", &format!("http://{here}:{node_port}/")])
        .ok();
    assert!(answer.contains("\"client\":\"198.18.0.100:"), "{answer}");
    let silent = format!("http://{elsewhere}:{node_port}/");
    let nothing = lab.on(
        "client",
        &[
            "timeout",
            "1",
            "bash",
            "-c",
            &format!("</dev/tcp/{elsewhere}/{node_port}"),
        ],
    );
    assert!(nothing.result().is_err(), "{silent} answers");

    // The balancer gives it an address. Pods go there without leaving the cluster, but only who may.
    let status = r#"{"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.7"}]}}}"#;
    let patch = [
        "patch",
        "service",
        "a",
        "--subresource=status",
        "--type=merge",
        "-p",
        status,
    ];
    let _ = lab.kubectl(&patch).ok();
    let answer = lab
        .minik_in(
            "node2",
            "client",
            &["fetch", "--retry", "5", "http://203.0.113.7/"],
        )
        .ok();
    assert!(
        answer.contains("\"client\":\"10.244."),
        "a Pod keeps its address: {answer}"
    );
    let nothing = lab.on(
        "node2",
        &["timeout", "1", "bash", "-c", "</dev/tcp/203.0.113.7/80"],
    );
    assert!(nothing.result().is_err(), "node2 is not among the sources");
}

/// An Event tells it, in the reference proxy's words, once; the port is served as soon as it is free.
#[test]
fn a_health_check_port_that_is_taken_is_told_to_the_services_owner() {
    const PORT: &str = "32123";
    let lab = Lab::up(2, &[]);
    lab.echo_pods(&[("a1", "a", "node1")]);
    let minik = integration::minik().to_string_lossy().into_owned();
    lab.start_on("node1", "taken", &[&minik, "echo", "--http", PORT]);
    let health = format!("http://198.18.0.11:{PORT}/");
    eventually("somebody has the port", DEADLINE, || {
        lab.minik_on("client", &["fetch", &health]).result()
    });
    let spec = format!(
        "{{type: LoadBalancer, loadBalancerClass: example.com/outside, externalTrafficPolicy: Local, \
         healthCheckNodePort: {PORT}, selector: {{app: a}}, ports: [{{port: 80, targetPort: 9376}}]}}"
    );
    let _ = lab.apply(&service("a", &spec)).ok();
    let selector = "--field-selector=reason=FailedToStartServiceHealthcheck";
    let events = || {
        lab.get(&["events", selector])["items"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    let event = eventually("it is told", DEADLINE, || {
        events()
            .into_iter()
            .next()
            .ok_or_else(|| lab.log("node1", "agent"))
    });
    let message = "node node1 failed to start healthcheck \"default/a\" on port 32123: listen tcp 0.0.0.0:32123: \
                   bind: address already in use";
    for (field, wanted) in [
        ("/message", message),
        ("/type", "Warning"),
        ("/action", "Listen"),
        ("/involvedObject/kind", "Service"),
        ("/involvedObject/name", "a"),
        ("/involvedObject/namespace", "default"),
        ("/reportingInstance", "node1"),
    ] {
        assert_eq!(
            event.pointer(field).and_then(Value::as_str),
            Some(wanted),
            "{field} of {event}"
        );
    }
    let described = lab.kubectl(&["describe", "service", "a"]).ok();
    assert!(described.contains(message), "{described}");

    // The other node serves it meanwhile; this one when it can.
    let elsewhere = format!("http://198.18.0.12:{PORT}/");
    let none = |answer: integration::Answer| {
        let said = answer.err + &answer.out;
        said.contains("\"localEndpoints\": 0")
            .then_some(())
            .ok_or(said)
    };
    eventually("node2 has no endpoint", DEADLINE, || {
        none(lab.minik_on("client", &["fetch", &elsewhere]))
    });
    lab.kill_on("node1", "taken");
    eventually("node1 has one", 2 * DEADLINE, || {
        let answer = lab.minik_on("client", &["fetch", &health]).result()?;
        answer
            .contains("\"localEndpoints\": 1")
            .then_some(())
            .ok_or(answer)
    });
    assert_eq!(events().len(), 1, "it is told once");
}
