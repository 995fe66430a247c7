//! Deployments, ReplicaSets and DaemonSets over a store in memory, with nodes that only say what real ones would.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../common/mod.rs"]
mod common;

mod daemon_set;
mod deployment;
mod replica_set;

use std::{collections::BTreeSet, time::Duration};

use apiserver::applied::Applied;
use common::{Api, PODS, cluster::start};
use serde_json::{Value, json};

const APPS: &str = "/apis/apps/v1/namespaces/default";
/// No test here wants a node to be lost.
const NODE_GRACE: Duration = Duration::from_secs(3600);
const WAIT: Duration = Duration::from_secs(60);

/// Runs a test on a cluster of these nodes.
async fn on_nodes(api: &Api, names: &[&str], test: impl Future<Output = ()>) {
    let _controllers = start(api, NODE_GRACE, Applied::default()).await;
    for name in names {
        node(api, name, &json!({})).await;
    }
    tokio::select! {
        () = run_pods(api) => {}
        () = test => {}
    }
}

/// Makes a node that is ready.
async fn node(api: &Api, name: &str, labels: &Value) {
    let node = json!({"metadata": {"name": name, "labels": labels}});
    api.made("/api/v1/nodes", node).await;
    let ready = json!({"status": {
        "conditions": [{"type": "Ready", "status": "True"}],
        "allocatable": {"cpu": "8", "memory": "8Gi", "pods": "110"},
    }});
    let (code, node) = api
        .merge(&format!("/api/v1/nodes/{name}/status"), ready)
        .await;
    assert_eq!(code, 200, "{node}");
}

/// What the agents do: Pods that have a node are ready at once, unless their image is `broken`; those told to go are gone.
async fn run_pods(api: &Api) {
    let mut events = api.watch(&format!("{PODS}?watch=1")).await;
    let mut running = BTreeSet::new();
    loop {
        // A watch that says nothing for long is no error here.
        let Ok(Some(event)) = tokio::time::timeout(WAIT * 10, events.read()).await else {
            return;
        };
        let pod = &event["object"];
        let metadata = &pod["metadata"];
        let path = format!("{PODS}/{}", metadata["name"].as_str().unwrap());
        let uid = metadata["uid"].to_string();
        if event["type"] == "DELETED" || pod["spec"]["nodeName"].is_null() {
            continue;
        }
        if metadata["deletionTimestamp"].is_string() {
            api.delete(&format!("{path}?gracePeriodSeconds=0")).await;
        } else if running.insert(uid) && pod["spec"]["containers"][0]["image"] != "broken" {
            let now = api::meta::Time::now();
            let status = json!({"status": {
                "phase": "Running", "podIP": "10.244.0.9",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}],
            }});
            api.merge(&format!("{path}/status"), status).await;
        }
    }
}

/// Reads until what is read is as wanted.
async fn eventually(api: &Api, path: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + WAIT;
    loop {
        let (_, got) = api.get(path).await;
        if wanted(&got) {
            return got;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{what}: {path} is still {got:#}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map_or(&[], Vec::as_slice)
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

/// The messages of the events of a reason.
async fn told(api: &Api, reason: &str) -> Vec<String> {
    let path = "/api/v1/namespaces/default/events";
    let (_, list) = api.get(path).await;
    let events = items(&list).iter();
    let of_reason = events.filter(|event| event["reason"] == reason);
    of_reason
        .map(|event| event["message"].as_str().unwrap().to_owned())
        .collect()
}

/// A workload of Pods labelled `app: NAME`.
fn workload(name: &str, spec: &Value) -> Value {
    let mut workload = json!({
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "minik.dev/echo:1"}]},
            },
        },
    });
    json_patch::merge(&mut workload["spec"], spec);
    workload
}
