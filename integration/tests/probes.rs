//! Probes and hooks of real containers: what they change for the container, its Pod and its Service.
//!
//! What a probe finds is in the test's hands: it asks a server of the node, which the test starts and kills.

use integration::{DEADLINE, Lab, eventually, minik};
use serde_json::Value;

/// Where node1 is reached by its Pods, and by its own agent.
const NODE: &str = "198.18.0.11";

fn pod(name: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{app: {name}}}\nspec:\n  nodeName: node1\n  \
         terminationGracePeriodSeconds: 5\n  containers:\n  - name: app\n    image: minik.dev/echo\n    \
         args: [\"--http\", \"9376\"]\n    ports: [{{name: http, containerPort: 9376}}]\n{container}"
    )
}

/// A probe that asks the test's server.
fn asks_the_node(kind: &str, numbers: &str) -> String {
    format!("    {kind}: {{httpGet: {{host: {NODE}, port: 7000, path: /healthz}}, {numbers}}}\n")
}

fn start_server(lab: &Lab) {
    let minik = minik().to_string_lossy().into_owned();
    lab.start_on("node1", "health", &[&minik, "echo", "--http", "7000"]);
}

fn condition(pod: &Value, name: &str) -> Value {
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == name);
    found.cloned().unwrap_or_default()
}

/// Waits until the Pod is as wanted, and returns it.
fn wait_for(lab: &Lab, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("{name}: {what}"), DEADLINE, || {
        let pod = lab.get(&["pod", name]);
        if is_so(&pod) {
            Ok(pod)
        } else {
            Err(pod["status"].to_string())
        }
    })
}

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready")["status"] == "True"
}

fn container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

/// Waits for an Event about the Pod.
fn event(lab: &Lab, pod: &str, reason: &str, message: &str) {
    let about = format!("involvedObject.name={pod}");
    eventually(&format!("{pod}: {reason}: {message}"), DEADLINE, || {
        let events = lab.get(&["events", "--field-selector", &about]);
        let events = events["items"].as_array().expect("a list");
        let mut texts = events.iter();
        let told = texts.any(|event| {
            let text = event["message"].as_str().unwrap_or_default();
            event["reason"] == reason && text.contains(message)
        });
        told.then_some(()).ok_or_else(|| format!("{events:?}"))
    });
}

fn endpoints(lab: &Lab, service: &str) -> usize {
    let subsets = lab.get(&["endpoints", service])["subsets"].clone();
    let subsets = subsets.as_array().cloned().unwrap_or_default();
    let addresses = subsets
        .iter()
        .map(|subset| subset["addresses"].as_array().map_or(0, Vec::len));
    addresses.sum()
}

#[test]
fn a_pod_is_ready_when_its_probe_says_so_and_stays_so_without_an_agent() {
    let lab = Lab::up(1, &[]);
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: p}\nspec:\n  selector: {app: p}\n  ports: [{port: 80, targetPort: http}]\n";
    let _ = lab.apply(service).ok();
    let probe = asks_the_node("readinessProbe", "periodSeconds: 1, failureThreshold: 1");
    let _ = lab.apply(&pod("p", &probe)).ok();
    let running = wait_for(&lab, "p", "runs", |pod| {
        container(pod)["state"]["running"].is_object() && pod["status"]["phase"] == "Running"
    });
    assert_eq!(
        (
            &container(&running)["started"],
            &container(&running)["ready"]
        ),
        (&true.into(), &false.into())
    );
    for name in ["Ready", "ContainersReady"] {
        let condition = condition(&running, name);
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&"False".into(), &"ContainersNotReady".into())
        );
        assert_eq!(
            condition["message"],
            "containers with unready status: [app]"
        );
    }
    let refused = format!(
        "Readiness probe failed: Get \"http://{NODE}:7000/healthz\": dial tcp {NODE}:7000: connect: connection refused"
    );
    event(&lab, "p", "Unhealthy", &refused);
    assert_eq!(endpoints(&lab, "p"), 0);

    start_server(&lab);
    let ready = wait_for(&lab, "p", "is ready", is_ready);
    assert_eq!(container(&ready)["ready"], true);
    eventually("the Service has it", DEADLINE, || {
        (endpoints(&lab, "p") == 1)
            .then_some(())
            .ok_or_else(String::new)
    });
    lab.kill_on("node1", "health");
    wait_for(&lab, "p", "is not ready any more", |pod| !is_ready(pod));
    eventually("the Service has it no more", DEADLINE, || {
        (endpoints(&lab, "p") == 0)
            .then_some(())
            .ok_or_else(String::new)
    });

    // From now on nothing answers the probe of this one for an hour: whoever forgets that it was ready cannot find out.
    start_server(&lab);
    let probe = asks_the_node("readinessProbe", "periodSeconds: 3600");
    let _ = lab.apply(&pod("q", &probe)).ok();
    let before = condition(&wait_for(&lab, "q", "is ready", is_ready), "Ready");
    lab.kill_on("node1", "health");
    let _ = lab.lab(&["kill", "node1"]).ok();
    let _ = lab.lab(&["start", "node1"]).ok();
    let _ = lab.apply(&pod("later", "")).ok();
    wait_for(&lab, "later", "is ready: the new agent works", is_ready);
    start_server(&lab);
    wait_for(&lab, "p", "is ready again: the new agent asks", is_ready);
    assert_eq!(condition(&lab.get(&["pod", "q"]), "Ready"), before);
}

#[test]
fn a_container_that_does_not_live_is_restarted_once_it_has_started() {
    let lab = Lab::up(1, &[]);
    let url = format!("http://{NODE}:7000/healthz");
    // Liveness would fail at once and at all times: only a startup probe that has not succeeded yet keeps it from that.
    let probes = format!(
        "{}    livenessProbe: {{exec: {{command: [/minik, fetch, \"http://127.0.0.1:1/\"]}}, periodSeconds: 1, failureThreshold: 1, \
         terminationGracePeriodSeconds: 60}}\n    readinessProbe: {{tcpSocket: {{port: http}}}}\n",
        asks_the_node("startupProbe", "periodSeconds: 1, failureThreshold: 3600"),
    );
    let _ = lab.apply(&pod("held", &probes)).ok();
    event(
        &lab,
        "held",
        "Unhealthy",
        &format!("Startup probe failed: Get \"{url}\""),
    );
    let held = lab.get(&["pod", "held"]);
    let status = container(&held);
    assert_eq!(
        (&status["started"], &status["ready"]),
        (&false.into(), &false.into())
    );
    assert_eq!(status["restartCount"], 0);

    start_server(&lab);
    let restarted = wait_for(&lab, "held", "is restarted", |pod| {
        container(pod)["restartCount"] != 0
    });
    event(&lab, "held", "Unhealthy", "Liveness probe failed: ");
    event(
        &lab,
        "held",
        "Killing",
        "Container app failed liveness probe, will be restarted",
    );
    // It ended by SIGTERM, which it heeds.
    let ended = &container(&restarted)["lastState"]["terminated"];
    assert_eq!(
        (&ended["exitCode"], &ended["reason"]),
        (&0.into(), &"Completed".into())
    );

    // To start it has its time and no more. A Pod that never restarts is over then; it ended well when it was told to.
    lab.kill_on("node1", "health");
    let probe = asks_the_node("startupProbe", "periodSeconds: 1, failureThreshold: 1");
    let never = pod("never", &probe).replace("spec:", "spec:\n  restartPolicy: Never");
    let _ = lab.apply(&never).ok();
    event(
        &lab,
        "never",
        "Killing",
        "Container app failed startup probe",
    );
    wait_for(&lab, "never", "is over", |pod| {
        pod["status"]["phase"] == "Succeeded"
    });
}

#[test]
fn hooks_come_before_others_see_a_container_and_before_it_is_told_to_stop() {
    let lab = Lab::up(1, &[]);
    // Both hooks serve as long as they run, so that one can see that they do.
    let serve = |port: u16| format!("{{exec: {{command: [/minik, echo, --http, \"{port}\"]}}}}");
    let hooks = format!("    lifecycle: {{preStop: {}}}\n", serve(9400));
    let _ = lab.apply(&pod("stopped", &hooks)).ok();
    let ip = wait_for(&lab, "stopped", "is ready", is_ready)["status"]["podIP"].clone();
    let ip = ip.as_str().expect("an address");
    let answers = |port: u16| {
        lab.minik_on("node1", &["fetch", &format!("http://{ip}:{port}/")])
            .code
            == Some(0)
    };
    assert!(!answers(9400));
    let _ = lab
        .kubectl(&["delete", "pod", "stopped", "--wait=false"])
        .ok();
    eventually(
        "the hook runs, and the program still serves",
        DEADLINE,
        || {
            (answers(9400) && answers(9376))
                .then_some(())
                .ok_or_else(String::new)
        },
    );
    // It does not end by itself; the grace period ends it, and then the container.
    event(
        &lab,
        "stopped",
        "FailedPreStopHook",
        "PreStopHook failed: it was not done within the grace period",
    );
    let _ = lab
        .kubectl(&["wait", "--for=delete", "pod/stopped", "--timeout=30s"])
        .ok();

    // A hook that ends leaves the rest of the grace period unused.
    let quick = "    lifecycle: {preStop: {sleep: {seconds: 1}}}\n";
    let quick = pod("quick", quick).replace("PeriodSeconds: 5", "PeriodSeconds: 3600");
    let _ = lab.apply(&quick).ok();
    wait_for(&lab, "quick", "is ready", is_ready);
    let _ = lab
        .kubectl(&["delete", "pod", "quick", "--timeout=60s"])
        .ok();

    let hooks = format!("    lifecycle: {{postStart: {}}}\n", serve(9401));
    let _ = lab.apply(&pod("started", &hooks)).ok();
    let created = wait_for(&lab, "started", "has an address", |pod| {
        pod["status"]["podIP"].is_string()
    });
    let ip = created["status"]["podIP"].as_str().expect("an address");
    let url = format!("http://{ip}:9401/");
    eventually("the hook runs", DEADLINE, || {
        lab.minik_on("node1", &["fetch", &url]).result()
    });
    let pending = lab.get(&["pod", "started"]);
    assert_eq!(pending["status"]["phase"], "Pending");
    assert_eq!(
        container(&pending)["state"]["waiting"]["reason"],
        "ContainerCreating"
    );
    assert!(!is_ready(&pending));

    let hook =
        "    lifecycle: {postStart: {exec: {command: [/minik, fetch, \"http://127.0.0.1:1/\"]}}}\n";
    let _ = lab.apply(&pod("failing", hook)).ok();
    event(
        &lab,
        "failing",
        "FailedPostStartHook",
        "PostStartHook failed: ",
    );
    wait_for(&lab, "failing", "is restarted", |pod| {
        container(pod)["restartCount"] != 0
    });
}
