//! Server-side apply: the statements A1-A13 of the contract, over HTTP.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use apiserver::{
    auth::{Attributes, Authorizer, Decision, User},
    registry::Context,
};
use axum::body::Body;
use common::{Api, CONFIG_MAPS, PODS, SERVICES, config_map, pod};
use http::{Request, StatusCode};
use serde_json::{Value, json};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Applies as a manager.
async fn apply(api: &Api, path: &str, query: &str, config: Value) -> (StatusCode, Value) {
    let path = format!("{path}?{query}");
    api.call_as("PATCH", &path, "application/apply-patch+yaml", config)
        .await
}

fn data(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

fn config_map_a() -> String {
    format!("{CONFIG_MAPS}/a")
}

fn owned<'a>(object: &'a Value, manager: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array();
    let mut found = entries
        .into_iter()
        .flatten()
        .filter(|entry| entry["manager"] == manager);
    found
        .next()
        .map_or(&Value::Null, |entry| &entry["fieldsV1"])
}

#[tokio::test]
async fn a1_applying_to_what_does_not_exist_creates_it() {
    let api = Api::new().await;
    let path = config_map_a();
    let (code, made) = apply(&api, &path, "fieldManager=m", data(json!({"k": "v"}))).await;
    assert_eq!(code, 201, "{made}");
    assert!(made["metadata"]["uid"].is_string());
    let entry = &made["metadata"]["managedFields"][0];
    assert_eq!(
        (
            &entry["manager"],
            &entry["operation"],
            &entry["apiVersion"],
            &entry["fieldsType"]
        ),
        (
            &json!("m"),
            &json!("Apply"),
            &json!("v1"),
            &json!("FieldsV1")
        )
    );
    assert_eq!(entry["fieldsV1"], json!({"f:data": {"f:k": {}}}));
    let (_, read) = api.get(&path).await;
    assert_eq!(read, made);
    let (code, changed) = apply(&api, &path, "fieldManager=m", data(json!({"k": "w"}))).await;
    assert_eq!((code.as_u16(), &changed["data"]["k"]), (200, &json!("w")));

    let mut with_uid = data(json!({}));
    with_uid["metadata"] = json!({"name": "b", "uid": "x"});
    let (code, status) = apply(
        &api,
        &format!("{CONFIG_MAPS}/b"),
        "fieldManager=m",
        with_uid,
    )
    .await;
    assert_eq!(
        (code.as_u16(), &status["reason"]),
        (409, &json!("Conflict"))
    );
    let elsewhere = "/api/v1/namespaces/x/configmaps/a";
    let (code, _) = apply(&api, elsewhere, "fieldManager=m", data(json!({}))).await;
    assert_eq!(code, 404);
    let (code, _) = apply(
        &api,
        &format!("{PODS}/a/status"),
        "fieldManager=m",
        json!({"apiVersion": "v1", "kind": "Pod"}),
    )
    .await;
    assert_eq!(
        code, 404,
        "a status cannot be applied to what does not exist"
    );
}

#[tokio::test]
async fn a2_what_an_apply_must_say() {
    let api = Api::new().await;
    let path = config_map_a();
    let (code, status) = apply(&api, &path, "", data(json!({}))).await;
    assert_eq!(code, 422);
    assert_eq!(
        status["message"],
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
    );
    let changed = |change: fn(&mut Value)| {
        let mut body = data(json!({"k": "v"}));
        change(&mut body);
        body
    };
    for (body, words) in [
        (
            changed(|b| b["apiVersion"] = "v2".into()),
            "Incorrect version specified in apply patch. Specified patch version: v2, expected: v1",
        ),
        (
            changed(|b| b["apiVersion"] = Value::Null),
            "apiVersion is required",
        ),
        (changed(|b| b["kind"] = Value::Null), "kind is required"),
        (
            changed(|b| b["kind"] = "Secret".into()),
            "cannot be handled as a ConfigMap",
        ),
        (
            changed(|b| b["metadata"]["name"] = "b".into()),
            "does not match the name on the URL",
        ),
        (
            changed(|b| b["metadata"]["namespace"] = "x".into()),
            "does not match the namespace",
        ),
        (
            changed(|b| b["metadata"]["managedFields"] = json!([])),
            "metadata.managedFields must be nil",
        ),
        (
            changed(|b| b["data"]["k"] = json!(1)),
            "data.k: wanted string, got number",
        ),
        (json!(["no", "object"]), "not an object"),
    ] {
        let (code, status) = apply(&api, &path, "fieldManager=m", body).await;
        let message = status["message"].as_str().unwrap();
        assert!(
            code == 400 && message.contains(words),
            "{message}, not {words}"
        );
    }
}

#[tokio::test]
async fn a2_a_resource_version_is_a_precondition() {
    let api = Api::new().await;
    let path = config_map_a();
    let mut body = data(json!({"k": "v"}));
    body["metadata"]["resourceVersion"] = "1".into();
    let (code, _) = apply(&api, &path, "fieldManager=m", body.clone()).await;
    assert_eq!(code, 409, "nothing is there at that version");
    let (_, made) = apply(&api, &path, "fieldManager=m", data(json!({"k": "v"}))).await;
    let (code, _) = apply(&api, &path, "fieldManager=m", body.clone()).await;
    assert_eq!(code, 409);
    body["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
    body["data"]["k"] = "w".into();
    let (code, _) = apply(&api, &path, "fieldManager=m", body).await;
    assert_eq!(code, 200);
}

#[tokio::test]
async fn a3_appliers_come_first_and_then_the_oldest() {
    let api = Api::new().await;
    let path = config_map_a();
    api.made(
        &format!("{CONFIG_MAPS}?fieldManager=first"),
        config_map("a"),
    )
    .await;
    for manager in ["b", "a"] {
        let query = format!("fieldManager={manager}");
        let (code, _) = apply(&api, &path, &query, data(json!({manager: "v"}))).await;
        assert_eq!(code, 200);
    }
    let (_, object) = api.get(&path).await;
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    let operations: Vec<_> = entries
        .iter()
        .map(|entry| entry["operation"].as_str().unwrap())
        .collect();
    assert_eq!(operations, ["Apply", "Apply", "Update"]);
    let order = |entry: &Value| {
        (
            entry["time"].as_str().unwrap().to_owned(),
            entry["manager"].as_str().unwrap().to_owned(),
        )
    };
    assert!(order(&entries[0]) < order(&entries[1]));
}

#[tokio::test]
async fn a4_a5_lists_merge_by_all_keys_and_sets_by_value() {
    let api = Api::new().await;
    let path = format!("{SERVICES}/s");
    let service = |ports: Value, finalizers: Value| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "finalizers": finalizers},
               "spec": {"selector": {"app": "s"}, "ports": ports}})
    };
    let tcp = json!({"name": "tcp", "port": 53, "targetPort": 53});
    let udp = json!({"name": "udp", "port": 53, "targetPort": 53, "protocol": "UDP"});
    let one = service(json!([tcp]), json!(["example.com/one"]));
    let (code, made) = apply(&api, &path, "fieldManager=one", one.clone()).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(
        owned(&made, "one"),
        &json!({
            "f:metadata": {"f:finalizers": {"v:\"example.com/one\"": {}}},
            "f:spec": {
                "f:ports": {"k:{\"port\":53,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}, "f:port": {}, "f:targetPort": {}}},
                "f:selector": {},
            },
        })
    );
    let two = service(json!([udp]), json!(["example.com/two"]));
    let (code, both) = apply(&api, &path, "fieldManager=two", two).await;
    assert_eq!(code, 200, "{both}");
    assert_eq!(
        both["metadata"]["finalizers"],
        json!(["example.com/one", "example.com/two"])
    );
    let ports = both["spec"]["ports"].as_array().unwrap();
    assert_eq!(ports.len(), 2);
    // The first takes its port and finalizer back; the rest is not its own.
    let (code, left) = apply(
        &api,
        &path,
        "fieldManager=one",
        service(json!([]), json!([])),
    )
    .await;
    assert_eq!(code, 200, "{left}");
    assert_eq!(left["metadata"]["finalizers"], json!(["example.com/two"]));
    assert_eq!(left["spec"]["ports"].as_array().unwrap().len(), 1);
    assert_eq!(left["spec"]["ports"][0]["name"], "udp");
    // An atomic map is taken or left.
    let (_, before) = api.get(&path).await;
    let mut other = one.clone();
    other["spec"] = json!({"selector": {"other": "s"}});
    let (code, status) = apply(&api, &path, "fieldManager=three", other.clone()).await;
    assert_eq!(code, 409);
    let fields: Vec<_> = status["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| &cause["field"])
        .collect();
    assert_eq!(fields, [".spec.selector", ".spec.selector"]);
    let (_, after) = api.get(&path).await;
    assert_eq!(before, after);
    let (_, forced) = apply(&api, &path, "fieldManager=three&force=true", other).await;
    assert_eq!(forced["spec"]["selector"], json!({"other": "s"}));
}

#[tokio::test]
async fn a6_conflicts_name_manager_and_field_and_force_takes_over() {
    let api = Api::new().await;
    let path = config_map_a();
    let (_, _) = apply(
        &api,
        &path,
        "fieldManager=one",
        data(json!({"x": "1", "y": "1", "z": "1"})),
    )
    .await;
    api.merge(
        &format!("{path}?fieldManager=editor"),
        json!({"data": {"z": "2"}}),
    )
    .await;
    let (code, status) = apply(&api, &path, "fieldManager=two", data(json!({"x": "2"}))).await;
    assert_eq!(code, 409);
    assert_eq!(
        status["message"],
        "Apply failed with 1 conflict: conflict with \"one\": .data.x"
    );
    assert_eq!(status["reason"], "Conflict");
    assert_eq!(
        status["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.x"}])
    );
    let wanted = data(json!({"x": "2", "y": "2", "z": "3"}));
    let (code, status) = apply(&api, &path, "fieldManager=two", wanted.clone()).await;
    assert_eq!(code, 409);
    assert_eq!(
        status["message"],
        "Apply failed with 3 conflicts: conflicts with \"editor\" using v1:\n- .data.z\nconflicts with \"one\":\n- .data.x\n- .data.y"
    );
    // Equal values are shared without a conflict.
    let (code, shared) = apply(&api, &path, "fieldManager=three", data(json!({"x": "1"}))).await;
    assert_eq!(code, 200);
    assert_eq!(owned(&shared, "three"), &json!({"f:data": {"f:x": {}}}));
    assert_eq!(
        owned(&shared, "one"),
        &json!({"f:data": {"f:x": {}, "f:y": {}}})
    );
    let (code, forced) = apply(&api, &path, "fieldManager=two&force=true", wanted).await;
    assert_eq!(code, 200);
    assert_eq!(forced["data"], json!({"x": "2", "y": "2", "z": "3"}));
    let managers: Vec<_> = forced["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["manager"])
        .collect();
    assert_eq!(managers, ["two"]);
    // And with the owner gone, a field it no longer applies stays with its new one.
    let (_, after) = apply(&api, &path, "fieldManager=one", data(json!({}))).await;
    assert_eq!(after["data"], forced["data"]);
}

#[tokio::test]
async fn a7_defaults_and_what_the_server_gives_are_nobodys() {
    let api = Api::new().await;
    let path = format!("{PODS}/p");
    let mut config = pod("p");
    config["apiVersion"] = "v1".into();
    config["kind"] = "Pod".into();
    let (code, made) = apply(&api, &path, "fieldManager=m", config).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["restartPolicy"], "Always");
    assert_eq!(
        owned(&made, "m"),
        &json!({
            "f:metadata": {"f:labels": {"f:app": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}}}},
        })
    );
}

#[tokio::test]
async fn a8_the_status_is_applied_through_its_endpoint() {
    let api = Api::new().await;
    api.made(PODS, pod("p")).await;
    let path = format!("{PODS}/p/status");
    let config = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": "n"},
                        "status": {"conditions": [{"type": "example.com/Gate", "status": "True"}]}});
    let (code, applied) = apply(&api, &path, "fieldManager=gate", config).await;
    assert_eq!(code, 200, "{applied}");
    assert_eq!(
        applied["status"]["conditions"][0]["type"],
        "example.com/Gate"
    );
    assert!(applied["spec"].get("nodeName").is_none());
    let entry = &applied["metadata"]["managedFields"][0];
    assert_eq!(
        (
            &entry["manager"],
            &entry["operation"],
            &entry["subresource"]
        ),
        (&json!("gate"), &json!("Apply"), &json!("status"))
    );
    assert_eq!(
        entry["fieldsV1"],
        json!({"f:status": {"f:conditions": {"k:{\"type\":\"example.com/Gate\"}": {".": {}, "f:status": {}, "f:type": {}}}}})
    );
    // The main endpoint takes no status.
    let config = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"x": "y"}}, "status": {"phase": "Failed"}});
    let (code, applied) = apply(&api, &format!("{PODS}/p"), "fieldManager=main", config).await;
    assert_eq!(code, 200);
    assert_ne!(applied["status"]["phase"], "Failed");
    assert_eq!(
        owned(&applied, "main"),
        &json!({"f:metadata": {"f:labels": {"f:x": {}}}})
    );
}

#[tokio::test]
async fn a9_untracked_objects_belong_to_before_first_apply() {
    let api = Api::new().await;
    let path = config_map_a();
    api.made(CONFIG_MAPS, config_map("a")).await;
    api.merge(&path, json!({"metadata": {"managedFields": [{}]}}))
        .await;
    let (code, status) = apply(&api, &path, "fieldManager=m", data(json!({"key": "x"}))).await;
    assert_eq!(code, 409);
    assert_eq!(
        status["message"],
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.key"
    );
    let (code, applied) = apply(&api, &path, "fieldManager=m", data(json!({"key": "value"}))).await;
    assert_eq!(code, 200);
    assert_eq!(
        owned(&applied, "before-first-apply"),
        &json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:data": {".": {}, "f:key": {}}})
    );
}

#[tokio::test]
async fn a10_kubectl_goes_over_to_server_side_apply_without_conflicts() {
    let api = Api::new().await;
    let path = config_map_a();
    let last = data(json!({"k": "v", "l": "v"}));
    let mut first = last.clone();
    first["metadata"]["annotations"] = json!({LAST_APPLIED: last.to_string()});
    api.made(
        &format!("{CONFIG_MAPS}?fieldManager=kubectl-client-side-apply"),
        first,
    )
    .await;
    let wanted = data(json!({"k": "w", "l": "v"}));
    let (code, _) = apply(&api, &path, "fieldManager=other", wanted.clone()).await;
    assert_eq!(code, 409);
    let (code, applied) = apply(&api, &path, "fieldManager=kubectl", wanted.clone()).await;
    assert_eq!(code, 200, "{applied}");
    assert_eq!(applied["data"]["k"], "w");
    let kept = applied["metadata"]["annotations"][LAST_APPLIED]
        .as_str()
        .unwrap();
    let kept: Value = serde_json::from_str(kept).unwrap();
    assert_eq!(kept["data"], wanted["data"]);
    // What somebody changed since is not kubectl's any more.
    api.merge(
        &format!("{path}?fieldManager=editor"),
        json!({"data": {"l": "edited"}}),
    )
    .await;
    let (code, status) = apply(&api, &path, "fieldManager=kubectl", wanted).await;
    assert_eq!(code, 409);
    assert_eq!(status["details"]["causes"][0]["field"], ".data.l");
}

#[tokio::test]
async fn a12_applying_again_writes_nothing() {
    let api = Api::new().await;
    let path = format!("{SERVICES}/s");
    let config = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "labels": {"a": "b"}},
                        "spec": {"selector": {"app": "s"}, "ports": [{"port": 80}]}});
    let (_, made) = apply(&api, &path, "fieldManager=m", config.clone()).await;
    let revision = api.registry.backend().current();
    for force in ["", "&force=true", "&dryRun=All"] {
        let query = format!("fieldManager=m{force}");
        let (code, again) = apply(&api, &path, &query, config.clone()).await;
        assert_eq!((code.as_u16(), &again), (200, &made));
    }
    assert_eq!(api.registry.backend().current(), revision);
}

#[tokio::test]
async fn a13_what_the_schema_does_not_know_is_refused() {
    let api = Api::new().await;
    let path = format!("{SERVICES}/s");
    let service = |spec: Value| json!({"apiVersion": "v1", "kind": "Service", "spec": spec});
    for (spec, words) in [
        (
            json!({"foo": 1}),
            "failed to create typed patch object (default/s; v1, Kind=Service): .spec.foo: field not declared in schema",
        ),
        (
            json!({"ports": [{"port": 80}, {"port": 80}]}),
            "failed to create typed patch object (default/s; v1, Kind=Service): .spec.ports: duplicate entries for key [port=80,protocol=\"TCP\"]",
        ),
    ] {
        for validation in ["Strict", "Warn", "Ignore"] {
            let query = format!("fieldManager=m&fieldValidation={validation}");
            let (code, status) = apply(&api, &path, &query, service(spec.clone())).await;
            assert_eq!((code.as_u16(), &status["message"]), (400, &json!(words)));
        }
    }
}

#[tokio::test]
async fn v5_bodies_are_yaml_and_doubled_keys_are_seen() {
    let api = Api::new().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  k: one\n  k: two\n";
    for (validation, code, warning) in [
        ("Strict", 400, false),
        ("Warn", 201, true),
        ("Ignore", 200, false),
    ] {
        let uri = format!("{CONFIG_MAPS}/a?fieldManager=m&fieldValidation={validation}");
        let request = Request::patch(uri)
            .header("content-type", "application/apply-patch+yaml")
            .body(Body::from(yaml))
            .unwrap();
        let response = api.send(request).await;
        assert_eq!(response.status(), code);
        assert_eq!(response.headers().contains_key("warning"), warning);
    }
    let (_, object) = api.get(&config_map_a()).await;
    assert_eq!(object["data"], json!({"k": "two"}));
}

#[tokio::test]
async fn m11_a_dry_run_merges_and_stores_nothing() {
    let api = Api::new().await;
    let path = config_map_a();
    let (code, shown) = apply(
        &api,
        &path,
        "fieldManager=m&dryRun=All",
        data(json!({"k": "v"})),
    )
    .await;
    assert_eq!((code.as_u16(), &shown["data"]["k"]), (201, &json!("v")));
    assert_eq!(api.get(&path).await.0, 404);
    let (_, made) = apply(&api, &path, "fieldManager=m", data(json!({"k": "v"}))).await;
    let (code, shown) = apply(
        &api,
        &path,
        "fieldManager=m&dryRun=All",
        data(json!({"l": "v"})),
    )
    .await;
    assert_eq!((code.as_u16(), &shown["data"]), (200, &json!({"l": "v"})));
    assert_eq!(api.get(&path).await.1, made);
}

/// Two managers at once: none of their fields is lost.
#[tokio::test]
async fn a5_concurrent_appliers_lose_nothing() {
    let api = std::sync::Arc::new(Api::new().await);
    let path = config_map_a();
    let tasks: Vec<_> = (0..8)
        .map(|index| {
            let (api, path) = (api.clone(), path.clone());
            tokio::spawn(async move {
                let key = format!("k{index}");
                let query = format!("fieldManager=m{index}");
                let (code, status) = apply(&api, &path, &query, data(json!({key: "v"}))).await;
                assert!(code.is_success(), "{status}");
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let (_, object) = api.get(&path).await;
    assert_eq!(object["data"].as_object().unwrap().len(), 8);
    assert_eq!(
        object["metadata"]["managedFields"]
            .as_array()
            .unwrap()
            .len(),
        8
    );
}

/// Applies as somebody.
async fn apply_as(api: &Api, user: &str, group: &str, path: &str, config: Value) -> (u16, Value) {
    let mut request = Request::patch(format!("{path}?fieldManager=m&force=true"))
        .header("content-type", "application/apply-patch+yaml")
        .body(Body::from(config.to_string()))
        .unwrap();
    request.extensions_mut().insert(User {
        name: user.to_owned(),
        groups: vec![group.to_owned()],
        ..User::default()
    });
    let response = api.send(request).await;
    let code = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20)
        .await
        .unwrap();
    (code, serde_json::from_slice(&bytes).unwrap())
}

/// A node is held to its own Node, whose Pod range the server gives out, by this way of writing too.
#[tokio::test]
async fn u7_a_node_applies_what_it_may_write_only() {
    let api = Api::new().await;
    let node = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec});
    let own = "/api/v1/nodes/n1";
    for (path, config, code) in [
        ("/api/v1/nodes/n2", node("n2", json!({})), 403),
        (own, node("n1", json!({"podCIDR": "10.0.0.0/8"})), 403),
        (own, node("n1", json!({})), 201),
        (own, node("n1", json!({"podCIDR": "10.0.0.0/8"})), 403),
        (own, node("n1", json!({"unschedulable": true})), 200),
    ] {
        let applied = apply_as(&api, "system:node:n1", "system:nodes", path, config).await;
        assert_eq!(applied.0, code, "{path}: {}", applied.1);
    }
}

/// Applying to what does not exist needs the right to create.
#[tokio::test]
async fn u7_an_apply_that_creates_is_a_create() {
    let api = Api::with_authorizer(Context::default(), Patcher).await;
    let config = data(json!({"k": "v"}));
    let (code, status) = apply_as(&api, "patcher", "", &config_map_a(), config.clone()).await;
    let message = status["message"].as_str().unwrap();
    assert!(
        code == 403 && message.contains("cannot create resource"),
        "{code} {message}"
    );
    api.made(CONFIG_MAPS, config_map("a")).await;
    let (code, _) = apply_as(&api, "patcher", "", &config_map_a(), config).await;
    assert_eq!(code, 200);
}

/// Lets one user patch only.
struct Patcher;

#[async_trait::async_trait]
impl Authorizer for Patcher {
    async fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        if user.name == "patcher" && attributes.verb != "patch" {
            return Decision::Deny(String::new());
        }
        Decision::allow()
    }

    fn rules(&self, _user: &User, _namespace: Option<&str>) -> Vec<api::rbac::PolicyRule> {
        Vec::new()
    }
}
