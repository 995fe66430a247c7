//! `minik server --agent`: a whole cluster on one host, in one process.

use std::path::PathBuf;

use integration::{Answer, DEADLINE, Flow, Lab, echo_pod, eventually, minik};
use serde_json::Value;

const SERVICE: &str = "---\napiVersion: v1\nkind: Service\nmetadata: {name: my-service}\n\
    spec: {type: NodePort, selector: {app: a}, ports: [{name: http, port: 80, targetPort: 9376, nodePort: 30080}, {name: lines, port: 81, targetPort: 9377}, \
    {name: datagrams, protocol: UDP, port: 82, targetPort: 9378, nodePort: 30080}]}\n";

/// The lab's client host, which is no node of the lab's own cluster.
struct OneHost(Lab);

impl OneHost {
    fn start(&self) {
        let dir = self.dir();
        let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
        let minik = minik().to_string_lossy().into_owned();
        let cgroup = format!("minik-lab/{}/one-host", self.0.name());
        let command = [
            &minik,
            "server",
            "--agent",
            "--bind",
            "198.18.0.100:6443",
            "--node-name",
            "solo",
            "--localhost-nodeports",
            "--detect-local-mode=BridgeInterface",
            "--data-dir",
            &path("server"),
            "--agent-data-dir",
            &path("agent"),
            "--run-dir",
            &path("run"),
            "--log-dir",
            &path("pods"),
            "--cgroup-parent",
            &cgroup,
        ];
        self.0.start_on("client", "minik", &command);
    }

    fn dir(&self) -> PathBuf {
        self.0.dir().join("client")
    }

    fn kubectl(&self, args: &[&str]) -> Answer {
        let kubeconfig = self.dir().join("server/admin.kubeconfig");
        let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
        let cache = format!("--cache-dir={}", self.dir().join("cache").display());
        let command = ["kubectl", &kubeconfig, &cache];
        self.0.on("client", &[&command, args].concat())
    }

    fn pod(&self) -> Value {
        let pod = self.kubectl(&["get", "pod", "a1", "-o", "json"]).ok();
        serde_json::from_str(&pod).expect("kubectl prints JSON")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("minik.log")).unwrap_or_default()
    }

    fn eventually(&self, what: &str, mut condition: impl FnMut() -> Result<String, String>) {
        eventually(what, DEADLINE, || {
            condition().map_err(|reason| format!("{reason}\n{}", self.log()))
        });
    }
}

#[test]
fn a_cluster_on_one_host_runs_pods_and_services_and_survives_kill_9() {
    let host = OneHost(Lab::up(1, &[]));
    host.start();
    host.eventually("the node is ready", || {
        host.kubectl(&["wait", "--for=condition=Ready", "node/solo", "--timeout=5s"])
            .result()
    });
    let manifest = host.dir().join("manifest.yaml");
    std::fs::write(&manifest, echo_pod("a1", "a", "solo") + SERVICE).expect("a file");
    let _ = host
        .kubectl(&["apply", "-f", &manifest.to_string_lossy()])
        .ok();
    host.eventually("the Pod is ready", || {
        host.kubectl(&["wait", "--for=condition=Ready", "pod/a1", "--timeout=5s"])
            .result()
    });
    let by_name = || {
        host.0
            .minik_in("client", "a1", &["fetch", "http://my-service/"])
            .result()
    };
    host.eventually("the Service answers by name", by_name);
    let on_loopback = || {
        let fetch = |url| host.0.minik_on("client", &["fetch", url]).result();
        Ok(fetch("http://127.0.0.1:30080/")? + &fetch("udp://127.0.0.1:30080")?)
    };
    host.eventually("the NodePort answers on loopback", on_loopback);
    let mut flow = Flow::open(&host.0, "client", Some("a1"), "my-service:81");
    flow.say("before");
    let before = host.pod();

    host.0.kill_on("client", "minik");
    flow.say("while server and agent are dead");
    host.start();
    host.eventually("the API is back", || {
        host.kubectl(&["get", "service", "my-service"]).result()
    });
    host.eventually("the Service answers by name again", by_name);
    host.eventually("the NodePort answers on loopback again", on_loopback);
    host.eventually("the node is ready again", || {
        host.kubectl(&["wait", "--for=condition=Ready", "node/solo", "--timeout=5s"])
            .result()
    });
    flow.say("after");
    let after = host.pod();
    for part in ["/metadata/uid", "/status/containerStatuses/0/containerID"] {
        assert_eq!(after.pointer(part), before.pointer(part), "{part}");
    }
    let restarts = after.pointer("/status/containerStatuses/0/restartCount");
    assert_eq!(restarts, Some(&Value::from(0)));

    // What changes after the restart is programmed: a second Pod behind the Service answers too.
    std::fs::write(&manifest, echo_pod("a2", "a", "solo")).expect("a file");
    let _ = host
        .kubectl(&["apply", "-f", &manifest.to_string_lossy()])
        .ok();
    host.eventually("the second Pod answers", || {
        let answer = by_name()?;
        answer
            .contains("\"a2\"")
            .then_some(answer.clone())
            .ok_or(answer)
    });
}

/// One process, one end: without its agent the server stops too, and says why.
#[test]
fn a_cluster_on_one_host_ends_when_its_agent_cannot_run() {
    let lab = Lab::up(1, &[]);
    let dir = lab.dir().join("client/ends");
    let minik = minik().to_string_lossy().into_owned();
    let answer = lab.on(
        "client",
        &[
            "setpriv",
            "--bounding-set=-net_admin",
            "--inh-caps=-all",
            &minik,
            "server",
            "--agent",
            "--bind",
            "198.18.0.100:6443",
            "--data-dir",
            &dir.to_string_lossy(),
            "--agent-data-dir",
            &dir.join("agent").to_string_lossy(),
        ],
    );
    assert_eq!(answer.code, Some(77), "{answer:?}");
    assert!(answer.err.contains("CAP_NET_ADMIN"), "{answer:?}");
}
