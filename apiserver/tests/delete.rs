//! Delete, finalizers, bindings, the end of namespaces: the statements X and F of the contract.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use common::{Api, CONFIG_MAPS, PODS, SERVICES, config_map, pod, service};
use serde_json::json;

#[tokio::test]
async fn x1_delete_answers_the_object_or_a_status() {
    let api = Api::new().await;
    let made = api.made(CONFIG_MAPS, config_map("a")).await;
    let (code, status) = api.delete(&format!("{CONFIG_MAPS}/a")).await;
    assert_eq!((code.as_u16(), &status["status"]), (200, &json!("Success")));
    assert_eq!(status["details"]["kind"], "configmaps");
    assert_eq!(status["details"]["uid"], made["metadata"]["uid"]);
    api.made(SERVICES, service("a")).await;
    let (_, object) = api.delete(&format!("{SERVICES}/a")).await;
    assert_eq!(object["kind"], "Service");
    let (code, status) = api.delete(&format!("{SERVICES}/a")).await;
    assert_eq!(
        (code.as_u16(), &status["reason"]),
        (404, &json!("NotFound"))
    );
    assert_eq!(status["details"], json!({"name": "a", "kind": "services"}));
}

#[tokio::test]
async fn n2_delete_options_may_be_protobuf() {
    let api = Api::new().await;
    let mut body = pod("a");
    body["spec"]["nodeName"] = "node1".into();
    api.made(PODS, body).await;
    // runtime.Unknown{typeMeta{apiVersion: "v1", kind: "DeleteOptions"}, raw: DeleteOptions{gracePeriodSeconds: 7}}
    let mut bytes = b"k8s\0\x0a\x13\x0a\x02v1\x12\x0dDeleteOptions".to_vec();
    bytes.extend(b"\x12\x02\x08\x07");
    let request = http::Request::delete(format!("{PODS}/a"))
        .header("content-type", "application/vnd.kubernetes.protobuf");
    let response = api
        .send(request.body(axum::body::Body::from(bytes)).unwrap())
        .await;
    assert_eq!(response.status(), 200);
    let (_, going) = api.get(&format!("{PODS}/a")).await;
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 7);
}

#[tokio::test]
async fn x2_preconditions_and_contradictions() {
    let api = Api::new().await;
    api.made(CONFIG_MAPS, config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let wrong = json!({"preconditions": {"uid": "other"}});
    assert_eq!(api.call("DELETE", &path, wrong).await.0, 409);
    let wrong = json!({"preconditions": {"resourceVersion": "1"}});
    assert_eq!(api.call("DELETE", &path, wrong).await.0, 409);
    let both = json!({"orphanDependents": true, "propagationPolicy": "Background"});
    assert_eq!(api.call("DELETE", &path, both).await.0, 422);
    // What is not understood does not pass for nothing said.
    for unread in [
        json!({"preconditions": {"uid": 5}}),
        json!({"gracePeriodSeconds": "0"}),
        json!({"dryRun": "All"}),
        json!({"kind": "Pod"}),
        json!([]),
    ] {
        let (code, status) = api.call("DELETE", &path, unread.clone()).await;
        assert_eq!(code, 400, "{unread}: {status}");
    }
    assert_eq!(api.get(&path).await.0, 200);
}

#[tokio::test]
async fn x3_finalizers_hold_an_object_back_until_the_last_is_gone() {
    let api = Api::new().await;
    let mut body = pod("a");
    body["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.made(PODS, body).await;
    let path = format!("{PODS}/a");
    let (code, held) = api.delete(&path).await;
    assert_eq!(code, 200);
    assert_eq!(held["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(held["metadata"]["generation"], 2);
    let (code, again) = api.delete(&path).await;
    assert_eq!((code.as_u16(), &again), (200, &held), "X4");
    let more = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}});
    assert_eq!(api.merge(&path, more).await.0, 422, "M7");
    let mut watch = api
        .watch(&format!(
            "{PODS}?watch=1&resourceVersion={}",
            held["metadata"]["resourceVersion"].as_str().unwrap()
        ))
        .await;
    let (code, _) = api
        .merge(&path, json!({"metadata": {"finalizers": null}}))
        .await;
    assert_eq!(code, 200);
    assert_eq!(watch.told().await, "DELETED a");
    assert_eq!(api.get(&path).await.0, 404);
}

#[tokio::test]
async fn x5_pods_get_grace_and_the_agent_ends_it() {
    let api = Api::new().await;
    let mut body = pod("a");
    body["spec"]["nodeName"] = "node1".into();
    let made = api.made(PODS, body).await;
    let path = format!("{PODS}/a");
    let (_, going) = api.delete(&path).await;
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    let (_, longer) = api
        .call("DELETE", &path, json!({"gracePeriodSeconds": 60}))
        .await;
    assert_eq!(longer, going);
    let (_, shorter) = api
        .call("DELETE", &path, json!({"gracePeriodSeconds": 5}))
        .await;
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    let last = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": made["metadata"]["uid"]}});
    assert_eq!(api.call("DELETE", &path, last).await.0, 200);
    assert_eq!(api.get(&path).await.0, 404);
    api.made(PODS, pod("unscheduled")).await;
    api.delete(&format!("{PODS}/unscheduled")).await;
    assert_eq!(api.get(&format!("{PODS}/unscheduled")).await.0, 404);
}

#[tokio::test]
async fn x6_delete_collection_honours_selectors() {
    let api = Api::new().await;
    for name in ["a", "b", "c"] {
        api.made(CONFIG_MAPS, config_map(name)).await;
    }
    let (code, list) = api
        .delete(&format!("{CONFIG_MAPS}?labelSelector=app+in+(a,b)"))
        .await;
    assert_eq!(
        (code.as_u16(), list["items"].as_array().unwrap().len()),
        (200, 2)
    );
    let (_, left) = api.get(CONFIG_MAPS).await;
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn x10_binding_puts_a_pod_on_a_node_once() {
    let api = Api::new().await;
    api.made(PODS, pod("a")).await;
    let body =
        json!({"kind": "Binding", "apiVersion": "v1", "target": {"kind": "Node", "name": "node1"}});
    let (code, status) = api.post(&format!("{PODS}/a/binding"), body.clone()).await;
    assert_eq!((code.as_u16(), &status["status"]), (201, &json!("Success")));
    let (_, pod) = api.get(&format!("{PODS}/a")).await;
    assert_eq!(pod["spec"]["nodeName"], "node1");
    assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
    assert_eq!(api.post(&format!("{PODS}/a/binding"), body).await.0, 409);
}

#[tokio::test]
async fn f1_to_f3_namespaces_live_and_go() {
    let api = Api::new().await;
    let made = api
        .made("/api/v1/namespaces", json!({"metadata": {"name": "team"}}))
        .await;
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(made["status"]["phase"], "Active");
    assert_eq!(
        made["metadata"]["labels"]["kubernetes.io/metadata.name"],
        "team"
    );
    let (code, going) = api.delete("/api/v1/namespaces/team").await;
    assert_eq!(
        (code.as_u16(), &going["status"]["phase"]),
        (200, &json!("Terminating"))
    );
    let (code, status) = api
        .post("/api/v1/namespaces/team/configmaps", config_map("a"))
        .await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "configmaps \"a\" is forbidden: unable to create new content in namespace team because it is being terminated"
    );
    assert_eq!(
        status["details"]["causes"][0]["reason"],
        "NamespaceTerminating"
    );
    let mut empty = going.clone();
    empty["spec"] = json!({});
    assert_eq!(
        api.put("/api/v1/namespaces/team/finalize", empty).await.0,
        200
    );
    assert_eq!(api.get("/api/v1/namespaces/team").await.0, 404);
    assert_eq!(api.delete("/api/v1/namespaces/default").await.0, 403);
}
