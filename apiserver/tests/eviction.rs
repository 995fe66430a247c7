//! Evictions and the budgets that may refuse them: the statement X9 of the contract, with the controllers at work.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use apiserver::applied::Applied;
use axum::body::Body;
use common::{
    Api, PODS,
    cluster::{self, NODE_GRACE, cluster, eventually},
    kubectl::each_version,
    pod,
};
use serde_json::{Value, json};

const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
const STATEFUL_SETS: &str = "/apis/apps/v1/namespaces/default/statefulsets";

/// A Pod on node `n` that runs; ready or not.
async fn running(api: &Api, mut pod: Value, ready: bool) {
    pod["spec"]["nodeName"] = "n".into();
    pod["spec"]["terminationGracePeriodSeconds"] = 0.into();
    let made = api.made(PODS, pod).await;
    let name = made["metadata"]["name"].as_str().unwrap();
    become_ready(api, name, ready).await;
}

async fn become_ready(api: &Api, name: &str, ready: bool) {
    let ready = if ready { "True" } else { "False" };
    let status = json!({"status": {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": ready}],
    }});
    let (code, pod) = api.merge(&format!("{PODS}/{name}/status"), status).await;
    assert_eq!(code, 200, "{pod}");
}

/// A budget for the Pods of `pod()`.
async fn budget(api: &Api, name: &str, mut spec: Value) {
    spec["selector"] = json!({"matchLabels": {"app": "web"}});
    let budget = json!({"metadata": {"name": name}, "spec": spec});
    api.made(BUDGETS, budget).await;
}

/// Waits until the budget allows so many disruptions.
async fn allows(api: &Api, name: &str, wanted: i64) -> Value {
    let path = format!("{BUDGETS}/{name}");
    eventually(api, &path, "the budget is settled", |budget| {
        budget["status"]["observedGeneration"] == budget["metadata"]["generation"]
            && budget["status"]["disruptionsAllowed"] == wanted
    })
    .await
}

async fn evict(api: &Api, name: &str, options: Value) -> (u16, Value) {
    let mut body = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": name, "namespace": "default"},
    });
    if !options.is_null() {
        body["deleteOptions"] = options;
    }
    let (code, answer) = api.post(&format!("{PODS}/{name}/eviction"), body).await;
    (code.as_u16(), answer)
}

async fn exists(api: &Api, name: &str) -> bool {
    api.get(&format!("{PODS}/{name}")).await.0 == 200
}

#[tokio::test]
async fn x9_a_pod_goes_while_its_budget_allows_it_and_then_not() {
    let (api, _running) = cluster().await;
    running(&api, pod("a"), true).await;
    running(&api, pod("b"), true).await;
    budget(&api, "web", json!({"minAvailable": 1})).await;
    let settled = allows(&api, "web", 1).await;
    assert_eq!(settled["status"]["expectedPods"], 2);
    assert_eq!(
        settled["status"]["conditions"][0]["type"],
        "DisruptionAllowed"
    );
    assert_eq!(settled["status"]["conditions"][0]["status"], "True");

    let (code, answer) = evict(&api, "a", Value::Null).await;
    assert_eq!(
        (code, &answer["status"]),
        (201, &json!("Success")),
        "{answer}"
    );
    assert!(!exists(&api, "a").await);

    let request = http::Request::post(format!("{PODS}/b/eviction"))
        .header("content-type", "application/json")
        .body(Body::from(json!({"metadata": {"name": "b"}}).to_string()));
    let response = api.send(request.unwrap()).await;
    assert_eq!(response.status(), 429);
    assert!(response.headers().contains_key("retry-after"));
    let (_, refused) = evict(&api, "b", Value::Null).await;
    assert_eq!(refused["reason"], "TooManyRequests");
    assert_eq!(
        refused["details"]["causes"][0]["reason"],
        "DisruptionBudget"
    );
    assert!(exists(&api, "b").await);

    running(&api, pod("c"), true).await;
    allows(&api, "web", 1).await;
    assert_eq!(evict(&api, "b", Value::Null).await.0, 201);
}

#[tokio::test]
async fn x9_without_a_budget_an_eviction_is_a_deletion_with_its_options() {
    let api = Api::new().await;
    let mut body = pod("a");
    body["spec"]["nodeName"] = "n".into();
    let made = api.made(PODS, body).await;
    let (code, answer) = evict(&api, "a", json!({"dryRun": ["All"]})).await;
    assert_eq!(code, 201, "{answer}");
    let (_, same) = api.get(&format!("{PODS}/a")).await;
    assert_eq!(same, made);

    let other = json!({"preconditions": {"uid": "another"}});
    assert_eq!(evict(&api, "a", other).await.0, 409);
    let other = json!({"preconditions": {"resourceVersion": "1"}});
    assert_eq!(evict(&api, "a", other).await.0, 409);
    assert_eq!(evict(&api, "missing", Value::Null).await.0, 404);
    let misnamed = json!({"metadata": {"name": "b"}});
    let (code, _) = api.post(&format!("{PODS}/a/eviction"), misnamed).await;
    assert_eq!(code, 400);

    let meant = json!({
        "gracePeriodSeconds": 7,
        "preconditions": {
            "uid": made["metadata"]["uid"], "resourceVersion": made["metadata"]["resourceVersion"],
        },
    });
    assert_eq!(evict(&api, "a", meant).await.0, 201);
    let (_, going) = api.get(&format!("{PODS}/a")).await;
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 7);
    let target = &going["status"]["conditions"][0];
    assert_eq!(target["type"], "DisruptionTarget");
    assert_eq!(target["reason"], "EvictionByEvictionAPI");
}

#[tokio::test]
async fn x9_a_body_may_be_protobuf() {
    let api = Api::new().await;
    api.made(PODS, pod("a")).await;
    // runtime.Unknown{typeMeta{apiVersion: "policy/v1", kind: "Eviction"}, raw: Eviction{metadata{name: "a"}}}
    let mut bytes = b"k8s\0\x0a\x15\x0a\x09policy/v1\x12\x08Eviction".to_vec();
    bytes.extend(b"\x12\x05\x0a\x03\x0a\x01a");
    let request = http::Request::post(format!("{PODS}/a/eviction"))
        .header("content-type", "application/vnd.kubernetes.protobuf");
    let response = api.send(request.body(Body::from(bytes)).unwrap()).await;
    assert_eq!(response.status(), 201);
    assert!(!exists(&api, "a").await);
}

#[tokio::test]
async fn x9_a_dry_run_charges_no_budget() {
    let (api, _running) = cluster().await;
    running(&api, pod("a"), true).await;
    budget(&api, "web", json!({"maxUnavailable": "100%"})).await;
    // A Pod without an owner has no size to reckon from.
    allows(&api, "web", 0).await;
    let patch = json!({"spec": {"maxUnavailable": null, "minAvailable": 0}});
    api.merge(&format!("{BUDGETS}/web"), patch).await;
    let before = allows(&api, "web", 1).await;
    assert_eq!(evict(&api, "a", json!({"dryRun": ["All"]})).await.0, 201);
    let (_, after) = api.get(&format!("{BUDGETS}/web")).await;
    assert_eq!(after, before);
    assert!(exists(&api, "a").await);
}

#[tokio::test]
async fn x9_the_size_that_counts_is_that_of_the_pods_owner() {
    let (api, _running) = cluster().await;
    // One that no controller of ours makes Pods for.
    let set = json!({"metadata": {"name": "web"}, "spec": {
        "replicas": 4,
        "serviceName": "web",
        "selector": {"matchLabels": {"app": "none"}},
        "template": {
            "metadata": {"labels": {"app": "none"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        },
    }});
    let set = api.made(STATEFUL_SETS, set).await;
    let owner = json!({
        "apiVersion": "example.com/v1", "kind": "Thing", "name": "web",
        "uid": "71d5b1f7-6e0f-4d5e-9a3c-3d3b4a9c8f11", "controller": true,
    });
    let mut unknown = pod("unknown");
    unknown["metadata"]["ownerReferences"] = json!([owner]);
    running(&api, unknown, true).await;
    budget(&api, "web", json!({"maxUnavailable": "50%"})).await;
    let path = format!("{BUDGETS}/web");
    eventually(&api, &path, "nobody knows the size", |budget| {
        budget["status"]["conditions"][0]["reason"] == "SyncFailed"
    })
    .await;
    api.delete(&format!("{PODS}/unknown")).await;

    let owner = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web",
        "uid": set["metadata"]["uid"], "controller": true,
    });
    for name in ["a", "b", "c"] {
        let mut pod = pod(name);
        pod["metadata"]["ownerReferences"] = json!([owner]);
        pod["metadata"]["labels"]["pod"] = name.into();
        running(&api, pod, true).await;
    }
    let settled = allows(&api, "web", 1).await;
    assert_eq!(settled["status"]["expectedPods"], 4);
    assert_eq!(settled["status"]["desiredHealthy"], 2);
    let smaller = json!({"spec": {"replicas": 2}});
    let (code, answer) = api
        .merge(&format!("{STATEFUL_SETS}/web/scale"), smaller)
        .await;
    assert_eq!(code, 200, "{answer}");
    let settled = allows(&api, "web", 2).await;
    assert_eq!(settled["status"]["expectedPods"], 2);
}

#[tokio::test]
async fn x9_pods_that_are_not_ready_go_as_the_policy_says() {
    let (api, _running) = cluster().await;
    running(&api, pod("sick"), false).await;
    running(&api, pod("well"), true).await;
    budget(&api, "web", json!({"minAvailable": 2})).await;
    allows(&api, "web", 0).await;
    assert_eq!(evict(&api, "sick", Value::Null).await.0, 429);
    let policy = json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}});
    api.merge(&format!("{BUDGETS}/web"), policy).await;
    assert_eq!(evict(&api, "sick", Value::Null).await.0, 201);
    assert_eq!(evict(&api, "well", Value::Null).await.0, 429);
}

#[tokio::test]
async fn x9_a_pod_under_two_budgets_cannot_be_evicted() {
    let (api, _running) = cluster().await;
    running(&api, pod("a"), true).await;
    for name in ["one", "two"] {
        budget(&api, name, json!({"minAvailable": 0})).await;
        allows(&api, name, 1).await;
    }
    let (code, answer) = evict(&api, "a", Value::Null).await;
    assert_eq!(code, 500);
    let message = answer["message"].as_str().unwrap();
    assert!(
        message.contains("more than one PodDisruptionBudget"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn x9_evictions_at_once_never_take_more_than_the_budget() {
    let (api, _running) = cluster().await;
    for at in 0..10 {
        running(&api, pod(&format!("p{at}")), true).await;
    }
    budget(&api, "web", json!({"minAvailable": 7})).await;
    allows(&api, "web", 3).await;
    let all = (0..10).map(|at| {
        let api = &api;
        async move { evict(api, &format!("p{at}"), Value::Null).await.0 }
    });
    let codes = futures_util::future::join_all(all).await;
    let gone = codes.iter().filter(|code| **code == 201).count();
    assert_eq!(gone, 3, "{codes:?}");
    allows(&api, "web", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x9_kubectl_drain_takes_what_the_budget_allows_and_waits_for_the_rest() {
    each_version(async |api, kubectl| {
        let _running = cluster::start(api, NODE_GRACE, Applied::default()).await;
        api.made("/api/v1/nodes", json!({"metadata": {"name": "n"}}))
            .await;
        running(api, pod("a"), true).await;
        running(api, pod("b"), true).await;
        budget(api, "web", json!({"minAvailable": 1})).await;
        allows(api, "web", 1).await;
        let drain = kubectl.run("drain n --force --timeout=60s");
        let relief = async {
            // One is gone, one is refused, until another Pod stands in for it.
            eventually(api, PODS, "one Pod is left", |pods| {
                pods["items"].as_array().is_some_and(|pods| pods.len() == 1)
            })
            .await;
            let mut elsewhere = pod("c");
            elsewhere["spec"]["nodeName"] = "m".into();
            api.made(PODS, elsewhere).await;
            become_ready(api, "c", true).await;
        };
        let ((fine, text), ()) = tokio::join!(drain, relief);
        assert!(fine, "{text}");
        assert!(text.contains("node/n drained"), "{text}");
        let (_, node) = api.get("/api/v1/nodes/n").await;
        assert_eq!(node["spec"]["unschedulable"], true);
        assert!(exists(api, "c").await && !exists(api, "a").await && !exists(api, "b").await);
    })
    .await;
}
