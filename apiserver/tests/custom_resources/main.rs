//! CustomResourceDefinitions and the objects of the kinds they make.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../common/mod.rs"]
mod common;
mod definitions;
mod objects;

use common::Api;
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";

fn schema() -> Value {
    json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["schedule"], "properties": {
            "schedule": {"type": "string", "pattern": "^(\\S+\\s){4}\\S+$", "description": "When it runs."},
            "image": {"type": "string", "default": "busybox"},
            "replicas": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1},
            "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "port": {"type": "integer"}}}},
            "note": {"type": "string", "nullable": true},
        }},
        "status": {"type": "object", "properties": {
            "replicas": {"type": "integer"}, "selector": {"type": "string"}}},
    }})
}

fn definition() -> Value {
    json!({
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"], "categories": ["all"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": schema()},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
                "additionalPrinterColumns": [
                    {"name": "Schedule", "type": "string", "jsonPath": ".spec.schedule"},
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas", "priority": 1},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}],
                "selectableFields": [{"jsonPath": ".spec.image"}],
            }],
        },
    })
}

fn tab(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"schedule": "* * * * *"}})
}

/// Waits until a condition of a definition is true.
async fn wait_for(api: &Api, name: &str, condition: &str) {
    let path = format!("{DEFINITIONS}?watch=true&fieldSelector=metadata.name={name}");
    let mut events = api.watch(&path).await;
    let is = |object: &Value| {
        let conditions = object["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten();
        let mut found =
            conditions.filter(|one| one["type"] == condition && one["status"] == "True");
        found.next().is_some()
    };
    while !is(&events.next().await.expect("the watch ended")["object"]) {}
}

/// A cluster with this definition established.
async fn with(definition: Value) -> Api {
    let api = Api::new().await;
    let made = api.made(DEFINITIONS, definition).await;
    wait_for(
        &api,
        made["metadata"]["name"].as_str().unwrap(),
        "Established",
    )
    .await;
    api
}

/// Asks until it is so.
async fn eventually(is: impl AsyncFn() -> bool) {
    for _ in 0..500 {
        if is().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("it did not become so in ten seconds");
}
