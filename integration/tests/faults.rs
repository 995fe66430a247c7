//! `kill -9`, partitions, foreign hands: what must not break, and what must come back.

use std::{process::Command, time::Duration};

use integration::{DEADLINE, Flow, Lab, eventually, minik, run};

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n\
    spec: {type: NodePort, selector: {app: a}, ports: [{port: 81, targetPort: 9377, nodePort: 30081}]}\n";

fn lab_with_a_service(nodes: u16, flags: &[&str]) -> (Lab, String) {
    let lab = Lab::up(nodes, flags);
    lab.echo_pods(&[("a1", "a", "node1"), ("client", "client", "node2")]);
    let _ = lab.apply(SERVICE).ok();
    let ip = lab.get(&["service", "a"])["spec"]["clusterIP"]
        .as_str()
        .expect("a ClusterIP")
        .to_owned();
    eventually("the Service answers", DEADLINE, || {
        lab.minik_in("node2", "client", &["fetch", &format!("tcp://{ip}:81")])
            .result()
    });
    (lab, ip)
}

#[test]
fn a_killed_server_or_agent_loses_nothing_and_breaks_no_flow() {
    let (lab, ip) = lab_with_a_service(2, &[]);
    let target = format!("{ip}:81");
    let mut from_pod = Flow::open(&lab, "node2", Some("client"), &target);
    let mut from_outside = Flow::open(&lab, "client", None, "198.18.0.12:30081");
    from_pod.say("before");
    from_outside.say("before");
    let uid = lab.get(&["pod", "a1"])["metadata"]["uid"].clone();
    let restarts = |lab: &Lab| {
        lab.get(&["pod", "a1"])["status"]["containerStatuses"][0]["restartCount"].clone()
    };

    let _ = lab.lab(&["kill", "control"]).ok();
    from_pod.say("while the server is dead");
    from_outside.say("while the server is dead");
    let new =
        Flow::open(&lab, "node2", Some("client"), &target).say("a new connection without a server");
    assert!(new.contains("a1"), "{new}");
    let _ = lab.lab(&["start", "control"]).ok();
    eventually("the server is back with everything", DEADLINE, || {
        lab.kubectl(&["get", "service/a", "pod/a1", "pod/client", "endpoints/a"])
            .result()
    });
    assert_eq!(
        lab.get(&["pod", "a1"])["metadata"]["uid"],
        uid,
        "the Pod is the same"
    );

    for node in ["node1", "node2"] {
        let _ = lab.lab(&["kill", node]).ok();
        from_pod.say("while an agent is dead");
        from_outside.say("while an agent is dead");
        let _ = lab.lab(&["start", node]).ok();
    }
    // After both restarts a new Service is programmed again, and nothing old was touched.
    let _ = lab
        .apply(
            &SERVICE
                .replace("name: a}", "name: b}")
                .replace(", nodePort: 30081", ""),
        )
        .ok();
    let other = lab.get(&["service", "b"])["spec"]["clusterIP"]
        .as_str()
        .expect("a ClusterIP")
        .to_owned();
    eventually(
        "a Service created after the restarts answers",
        DEADLINE,
        || {
            lab.minik_in("node2", "client", &["fetch", &format!("tcp://{other}:81")])
                .result()
        },
    );
    from_pod.say("after all of it");
    from_outside.say("after all of it");
    assert_eq!(restarts(&lab), 0, "no container was restarted");
}

#[test]
fn a_killed_server_keeps_its_ca_its_tokens_and_its_revocations() {
    let lab = Lab::up(1, &[]);
    let data = lab.dir().join("control/lib/server");
    let valid = lab.token();
    let revoked = lab.token();
    let revoke = ["token", "revoke", &revoked, "--data-dir"];
    let _ = lab
        .minik_on(
            "control",
            &[&revoke[..], &[&data.to_string_lossy()]].concat(),
        )
        .ok();
    let ca = || std::fs::read(data.join("tls/ca.crt")).expect("the CA's certificate");
    let before = ca();
    let _ = lab.lab(&["kill", "control"]).ok();
    let _ = lab.lab(&["start", "control"]).ok();
    eventually("the server is back", DEADLINE, || {
        lab.kubectl(&["get", "nodes"]).result()
    });
    assert!(before == ca(), "the server has made itself another CA");

    let dir = lab.dir().join("client");
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let minik = minik().to_string_lossy().into_owned();
    let cgroup = format!("minik-lab/{}/late", lab.name());
    let (data, run, log) = (path("lib"), path("run"), path("pods"));
    let agent = |token| {
        [
            &minik,
            "agent",
            "--join",
            "https://198.18.0.2:6443",
            "--token",
            token,
            "--node-name",
            "late",
            "--node-ip",
            "198.18.0.100",
            "--data-dir",
            &data,
            "--run-dir",
            &run,
            "--log-dir",
            &log,
            "--cgroup-parent",
            &cgroup,
        ]
        .map(str::to_owned)
    };
    let refused = agent(&revoked);
    let refused = refused.each_ref().map(String::as_str);
    let refusal = lab.on("client", &refused);
    assert_eq!(refusal.code, Some(77), "{refusal:?}");
    assert!(refusal.err.contains("401"), "{refusal:?}");
    let joining = agent(&valid);
    lab.start_on("client", "agent", &joining.each_ref().map(String::as_str));
    eventually("the valid token joins", DEADLINE, || {
        let wait = ["wait", "--for=condition=Ready", "node/late", "--timeout=5s"];
        lab.kubectl(&wait).result()
    });
}

#[test]
fn a_flushed_ruleset_is_back_and_other_tables_stay() {
    let (lab, ip) = lab_with_a_service(2, &[]);
    let target = format!("tcp://{ip}:81");
    let foreign =
        "add table ip foreign; add chain ip foreign keep; add rule ip foreign keep counter";
    let _ = lab.on("node2", &["nft", foreign]).ok();
    for damage in ["delete table ip minik", "flush table ip minik"] {
        // A table with an owner refuses foreign hands altogether, which is as good.
        let _ = lab.on("node2", &["nft", damage]);
        eventually(
            "the Service answers after the damage",
            Duration::from_secs(4),
            || {
                lab.minik_in(
                    "node2",
                    "client",
                    &["fetch", "--connect-timeout", "1", &target],
                )
                .result()
            },
        );
    }
    let _ = lab.on("node2", &["nft", "flush ruleset"]).ok();
    eventually(
        "the Service answers after a flush of everything",
        Duration::from_secs(4),
        || {
            lab.minik_in(
                "node2",
                "client",
                &["fetch", "--connect-timeout", "1", &target],
            )
            .result()
        },
    );
    let _ = lab.on("node2", &["nft", foreign]).ok();
    let _ = lab.lab(&["kill", "node2"]).ok();
    let _ = lab.lab(&["start", "node2"]).ok();
    eventually(
        "the foreign table survives an agent's start",
        DEADLINE,
        || {
            lab.on("node2", &["nft", "list", "table", "ip", "foreign"])
                .result()
        },
    );
}

#[test]
fn a_node_that_is_cut_off_leaves_the_endpoints_and_comes_back() {
    let (lab, _) = lab_with_a_service(2, &["--node-grace-secs", "4"]);
    let ready = |wanted: &str| {
        let endpoints = lab.get(&["endpointslices", "-l", "kubernetes.io/service-name=a"]);
        let found = endpoints["items"][0]["endpoints"][0]["conditions"]["ready"].to_string();
        (found == wanted)
            .then_some(())
            .ok_or(format!("ready is {found}"))
    };
    let _ = lab.lab(&["partition", "node1"]).ok();
    eventually(
        "the lost node is not ready",
        Duration::from_secs(60),
        || {
            let node = lab.get(&["node", "node1"]);
            let conditions = node["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let condition = conditions
                .into_iter()
                .find(|condition| condition["type"] == "Ready")
                .unwrap_or_default();
            (condition["status"] != "True")
                .then_some(())
                .ok_or(condition.to_string())
        },
    );
    eventually("its endpoint is not ready", DEADLINE, || ready("false"));
    let _ = lab.lab(&["heal", "node1"]).ok();
    eventually(
        "its endpoint is ready again",
        Duration::from_secs(60),
        || ready("true"),
    );
}

#[test]
fn an_interrupted_lab_is_cleaned_up_and_two_labs_live_side_by_side() {
    let first = Lab::up(1, &[]);
    let second = Lab::up(1, &[]);
    for lab in [&first, &second] {
        let _ = lab.kubectl(&["get", "nodes"]).ok();
    }
    // A lab whose `up` was killed at some point: whatever is there is found and removed.
    let name = format!("cut{}", std::process::id());
    let mut up = Command::new(minik())
        .args(["lab", "--name", &name, "up", "--nodes", "1"])
        .spawn()
        .expect("start up");
    let dir = std::path::Path::new("/run/minik-lab").join(&name);
    eventually("the first host has started", DEADLINE, || {
        dir.join("control/pid")
            .exists()
            .then_some(())
            .ok_or("no pid yet".to_owned())
    });
    up.kill().expect("kill -9");
    let _ = up.wait();
    let down = run(Command::new(minik()).args(["lab", "--name", &name, "down"]));
    assert_eq!(down.code, Some(0), "{}", down.err);
    assert!(!dir.exists(), "{} is still there", dir.display());
    let left = run(Command::new("pgrep").args(["-f", &format!("minik-lab/{name}/")]));
    assert_eq!(left.out, "", "processes were left behind");
    let _ = first.kubectl(&["get", "nodes"]).ok();
}
