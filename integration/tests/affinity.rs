//! Session affinity by client address, with real connections: kept whatever happens to the agent, given up when its endpoint
//! goes.

use std::net::{IpAddr, SocketAddr};

use integration::{
    DEADLINE, Lab, echo_pod, eventually,
    net::{self, Asked, Namespace},
};
use serde_json::json;

const NODE_PORT: u16 = 30090;
/// With their nodes; two of each, so that what an agent leaves alone is no accident.
const PODS: [(&str, &str); 4] = [
    ("p1", "node1"),
    ("p2", "node2"),
    ("p3", "node1"),
    ("p4", "node2"),
];
/// A connection that chose at random would meet another Pod within so many, all but once in four thousand million.
const MANY: usize = 16;

struct World {
    lab: Lab,
    /// Clients that come by node2, with the addresses that they ask: all paths of one client are one affinity.
    clients: [(Namespace, Vec<SocketAddr>); 2],
}

impl World {
    fn build() -> Self {
        let lab = Lab::up(2, &[]);
        lab.echo_pods(&[("client", "client", "node2")]);
        let gate =
            "readinessGates: [{conditionType: example.com/up}]\n  terminationGracePeriodSeconds: 1";
        let pods: Vec<_> = PODS
            .iter()
            .map(|(name, node)| {
                echo_pod(name, "a", node).replace("terminationGracePeriodSeconds: 1", gate)
            })
            .collect();
        let _ = lab.apply(&pods.join("---\n")).ok();
        for (pod, _) in PODS {
            is_up(&lab, pod, "True");
            let ready = ["wait", "--for=condition=Ready", "--timeout=60s", "pod", pod];
            let _ = lab.kubectl(&ready).ok();
        }
        let service = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {{type: NodePort, sessionAffinity: ClientIP, \
             selector: {{app: a}}, ports: [{{port: 80, targetPort: 9377, nodePort: {NODE_PORT}}}]}}}}"
        );
        let _ = lab.apply(&service).ok();
        lab.programmed("a");
        let object = lab.get(&["service", "a"]);
        let ip: IpAddr = object["spec"]["clusterIP"]
            .as_str()
            .and_then(|ip| ip.parse().ok())
            .expect("a ClusterIP");
        let outside = Namespace::of_host(&lab, "client");
        outside.sh("ip route add 10.96.0.0/16 via 198.18.0.12");
        let pod = Namespace::of_pod(&lab.get(&["pod", "client"]));
        let paths = vec![
            SocketAddr::new(ip, 80),
            SocketAddr::new([198, 18, 0, 12].into(), NODE_PORT),
        ];
        let clients = [(pod, paths.clone()), (outside, paths)];
        Self { lab, clients }
    }

    /// Who answers a client, if anybody.
    fn ask(&self, client: usize, attempt: usize) -> Result<String, String> {
        let (namespace, paths) = &self.clients[client];
        let path = paths[attempt % paths.len()];
        match namespace.run(|| net::ask_tcp(path, DEADLINE)) {
            Asked::Answered(name, _) => Ok(name),
            other => Err(format!("{path}: {other:?}")),
        }
    }

    fn stays(&self, client: usize, with: &str, when: &str) {
        for attempt in 0..MANY {
            assert_eq!(
                self.ask(client, attempt).as_deref(),
                Ok(with),
                "client {client} {when}"
            );
        }
    }

    /// Each client has its own by now, which it keeps.
    fn who(&self) -> [String; 2] {
        [0, 1].map(|client| {
            let first = self.ask(client, 0).expect("an answer");
            self.stays(client, &first, "at first");
            first
        })
    }

    /// A client whose Pod went has another one, and stays there.
    fn moves(&self, client: usize, away_from: &str) -> String {
        let next = eventually("another Pod answers", DEADLINE, || {
            let name = self.ask(client, 0)?;
            (name != away_from)
                .then_some(name)
                .ok_or("still the former".to_owned())
        });
        self.stays(client, &next, "after its Pod went");
        next
    }
}

/// Says that a Pod is ready, or is not.
fn is_up(lab: &Lab, pod: &str, status: &str) {
    let patch = json!({"status": {"conditions": [{"type": "example.com/up", "status": status}]}});
    let args = [
        "patch",
        "pod",
        pod,
        "--subresource=status",
        "-p",
        &patch.to_string(),
    ];
    let _ = lab.kubectl(&args).ok();
}

#[test]
fn a_client_keeps_its_endpoint_whatever_happens_to_the_agent_until_the_endpoint_goes() {
    let world = World::build();
    let first = world.who();
    world.lab.kill_agent("node2");
    for (client, pod) in first.iter().enumerate() {
        world.stays(client, pod, "while the agent is dead");
    }
    world.lab.start_agent("node2");
    for (client, pod) in first.iter().enumerate() {
        world.stays(client, pod, "after the agent was killed");
    }

    // It is not ready for a while: when it is ready again, the client has forgotten it.
    is_up(&world.lab, &first[0], "False");
    let second = world.moves(0, &first[0]);
    is_up(&world.lab, &first[0], "True");
    eventually("it is an endpoint again", DEADLINE, || {
        let slices = world
            .lab
            .get(&["endpointslices", "-l", "kubernetes.io/service-name=a"]);
        let endpoints = slices["items"][0]["endpoints"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let ready = |one: &serde_json::Value| one["conditions"]["ready"] == true;
        (endpoints.len() == PODS.len() && endpoints.iter().all(ready))
            .then_some(())
            .ok_or(slices.to_string())
    });
    world.stays(0, &second, "when the former is ready again");

    // It leaves for ever.
    let _ = world.lab.kubectl(&["delete", "pod", &second]).ok();
    let third = world.moves(0, &second);

    // It leaves while no agent is there to notice.
    world.lab.kill_agent("node2");
    let gone = json!({"metadata": {"labels": {"app": "other"}}}).to_string();
    let _ = world
        .lab
        .kubectl(&["patch", "pod", &third, "-p", &gone])
        .ok();
    world.stays(0, &third, "as long as nobody tells the rules");
    world.lab.start_agent("node2");
    world.moves(0, &third);
}
