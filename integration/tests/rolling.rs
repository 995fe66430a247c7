//! A Service is used all the time while every Pod behind it is replaced, by hand or by a Deployment: nobody notices.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use integration::{Answer, DEADLINE, Flow, Lab, echo_pod, eventually};
use serde_json::Value;

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  type: NodePort\n  selector: {app: a}\n  ports:\n  \
    - {name: http, port: 80, targetPort: 9376, nodePort: 30080}\n  - {name: lines, port: 81, targetPort: 9377, nodePort: 30081}\n";
/// Pods at the start, with their nodes; each is replaced by one of the same node.
const PODS: [(&str, &str); 4] = [
    ("a1", "node1"),
    ("a2", "node2"),
    ("a3", "node1"),
    ("a4", "node2"),
];
/// Four Pods of the same sort, replaced by whoever sees to it that there are four.
const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec:\n  replicas: 4\n  \
    selector: {matchLabels: {app: a}}\n  template:\n    metadata: {labels: {app: a}}\n    spec:\n      \
    terminationGracePeriodSeconds: 60\n      containers:\n      - name: app\n        image: minik.dev/echo\n        \
    args: [\"--http\", \"9376\", \"--tcp\", \"9377\"]\n        \
    readinessProbe: {httpGet: {path: /healthz, port: 9376}}\n";
/// Much longer than a Pod needs that ends with its last connection.
const GRACE: &str = "terminationGracePeriodSeconds: 60";
/// The port that such a Pod opens last.
const PROBE: &str = "    readinessProbe: {tcpSocket: {port: 9377}}\n";
/// New connections by one client process, one after the other, and how many such processes a client starts at most.
const CONNECTIONS: &str = "20";
const RUNS: usize = 500;
/// One takes hardly longer than a few of such processes.
const RESTARTS: usize = 4;
/// Fewer would hardly hit the moment in which a Pod leaves.
const ENOUGH_RUNS: usize = 10;

/// A Pod as a rolling update makes it: it may take long to end.
fn manifest(name: &str, node: &str) -> String {
    let pod = echo_pod(name, "a", node).replace("terminationGracePeriodSeconds: 1", GRACE);
    pod + PROBE
}

fn hostname(answer: &str) -> String {
    let answer: Value = serde_json::from_str(answer).expect("the server answers in JSON");
    answer["hostname"].as_str().expect("a host name").to_owned()
}

/// New connections until told to stop; how many processes made theirs, or what the first failure said.
fn load(stop: &AtomicBool, client: impl Fn() -> Answer) -> Result<usize, String> {
    for run in 0..RUNS {
        if stop.load(Ordering::Relaxed) {
            return Ok(run);
        }
        client()
            .result()
            .map_err(|error| format!("after {run} runs: {error}"))?;
    }
    Ok(RUNS)
}

#[test]
fn no_connection_is_dropped_while_every_pod_is_replaced() {
    let lab = Lab::up(3, &[]);
    let _ = lab.apply(SERVICE).ok();
    lab.echo_pods(&[("client", "client", "node3")]);
    let pods: Vec<_> = PODS
        .iter()
        .map(|(name, node)| manifest(name, node))
        .collect();
    let _ = lab.apply(&pods.join("---\n")).ok();
    wait_ready(&lab, &PODS.map(|(name, _)| name.to_owned()));
    under_load(&lab, |ip| replace_all(&lab, ip));
}

#[test]
fn no_connection_is_dropped_by_a_rollout_restart() {
    let lab = Lab::up(3, &[]);
    let _ = lab.apply(SERVICE).ok();
    let _ = lab.apply(DEPLOYMENT).ok();
    lab.echo_pods(&[("client", "client", "node3")]);
    restart(&lab);
}

fn restart(lab: &Lab) {
    let status = ["rollout", "status", "deployment/a", "--timeout=120s"];
    let _ = lab.kubectl(&status).ok();
    under_load(lab, |_| {
        for _ in 0..RESTARTS {
            let before = names_of_pods(lab);
            let _ = lab.kubectl(&["rollout", "restart", "deployment/a"]).ok();
            let _ = lab.kubectl(&status).ok();
            eventually("the old Pods are gone", 4 * DEADLINE, || {
                let now = names_of_pods(lab);
                (now.is_disjoint(&before) && now.len() == 4)
                    .then_some(())
                    .ok_or_else(|| format!("{now:?}"))
            });
        }
    });
}

fn names_of_pods(lab: &Lab) -> BTreeSet<String> {
    let pods = lab.get(&["pods", "-l", "app=a"]);
    let pods = pods["items"].as_array().expect("a list").iter();
    pods.map(|pod| pod["metadata"]["name"].to_string())
        .collect()
}

/// Does something while clients make connections to the Service without a pause, each of which must be answered.
fn under_load(lab: &Lab, act: impl FnOnce(&str)) {
    let ip = lab.get(&["service", "a"])["spec"]["clusterIP"]
        .as_str()
        .expect("a ClusterIP")
        .to_owned();
    let cluster_ip = format!("http://{ip}/");
    // Node 1 has Pods of its own and sends to others; node 3 has none of those made by hand.
    let node_ports = ["http://198.18.0.11:30080/", "http://198.18.0.13:30080/"];
    let many = |url| ["fetch", "--json", "--count", CONNECTIONS, url];
    eventually("both ways lead to the Pods", DEADLINE, || {
        lab.minik_in("node3", "client", &many(&cluster_ip))
            .result()?;
        node_ports
            .iter()
            .try_for_each(|url| lab.minik_on("client", &many(url)).result().map(drop))
    });

    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // A test that fails must not wait for its load for ever.
        let stopping = Stop(&stop);
        let mut loads = vec![scope.spawn(|| {
            load(&stop, || {
                lab.minik_in("node3", "client", &many(&cluster_ip))
            })
        })];
        for url in node_ports {
            let stop = &stop;
            loads.push(scope.spawn(move || load(stop, || lab.minik_on("client", &many(url)))));
        }
        act(&ip);
        drop(stopping);
        for load in loads {
            let runs = load.join().expect("the load does not panic");
            let runs = runs.expect("every connection is answered");
            assert!(runs >= ENOUGH_RUNS, "only {runs} runs");
        }
    });
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One Pod after the other: its successor is ready, it is told to go, its connections are finished, it is gone.
fn replace_all(lab: &Lab, ip: &str) {
    let mut flows: BTreeMap<String, Vec<Flow>> = BTreeMap::new();
    for (old, node) in PODS {
        let new = old.replace('a', "b");
        let _ = lab.apply(&manifest(&new, node)).ok();
        wait_ready(lab, &[new]);
        // Enough that the Pod has one almost surely; if not, the others are looked at all the same.
        eventually("the Pod has a long-lived connection", DEADLINE, || {
            let (host, pod, target) = if flows.values().flatten().count().is_multiple_of(2) {
                ("node3", Some("client"), format!("{ip}:81"))
            } else {
                ("client", None, "198.18.0.11:30081".to_owned())
            };
            let mut flow = Flow::open(lab, host, pod, &target);
            let at = hostname(&flow.say("hello"));
            flows.entry(at).or_default().push(flow);
            flows
                .contains_key(old)
                .then_some(())
                .ok_or_else(|| format!("{:?}", flows.keys()))
        });
        let status = lab.get(&["pod", old])["status"]["podIP"].clone();
        let direct = format!("http://{}:9376/", status.as_str().expect("an address"));
        let _ = lab.kubectl(&["delete", "pod", old, "--wait=false"]).ok();
        eventually("the program has got SIGTERM", DEADLINE, || {
            let answer = lab.minik_on("node3", &["fetch", &direct]);
            (answer.code != Some(0) && answer.err.contains("refused"))
                .then_some(())
                .ok_or(answer.out)
        });
        for (at, flows) in &mut flows {
            for flow in flows {
                assert_eq!(hostname(&flow.say("still there?")), *at);
            }
        }
        // Its last connections: with them it ends, long before its grace is over.
        flows.remove(old);
        let gone = [
            "wait",
            "--for=delete",
            "--timeout=30s",
            &format!("pod/{old}"),
        ];
        let _ = lab.kubectl(&gone).ok();
    }
    for (at, flows) in &mut flows {
        for flow in flows {
            assert_eq!(hostname(&flow.say("to the end")), *at);
        }
    }
}

fn wait_ready(lab: &Lab, pods: &[String]) {
    let pods: Vec<_> = pods.iter().map(|pod| format!("pod/{pod}")).collect();
    let mut command = vec!["wait", "--for=condition=Ready", "--timeout=60s"];
    command.extend(pods.iter().map(String::as_str));
    let _ = lab.kubectl(&command).ok();
}
