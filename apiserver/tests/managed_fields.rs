//! Who owns which fields: the statements A3, A4, A7, A8 of the contract, for every way of writing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use axum::body::Body;
use common::{Api, CONFIG_MAPS, PODS, SERVICES, config_map, pod, service};
use http::Request;
use serde_json::{Value, json};

fn entries(object: &Value) -> &[Value] {
    object["metadata"]["managedFields"]
        .as_array()
        .map_or(&[], Vec::as_slice)
}

/// The fields of a manager.
fn owned<'a>(object: &'a Value, manager: &str) -> &'a Value {
    let mut found = entries(object)
        .iter()
        .filter(|entry| entry["manager"] == manager);
    found
        .next()
        .map_or(&Value::Null, |entry| &entry["fieldsV1"])
}

#[tokio::test]
async fn a3_a4_a7_a_new_object_is_its_creators() {
    let api = Api::new().await;
    let path = format!("{SERVICES}?fieldManager=maker");
    let made = api.made(&path, service("a")).await;
    let entry = &entries(&made)[0];
    assert_eq!(entries(&made).len(), 1);
    assert_eq!(entry["manager"], "maker");
    assert_eq!(entry["operation"], "Update");
    assert_eq!(entry["apiVersion"], "v1");
    assert_eq!(entry["fieldsType"], "FieldsV1");
    assert_eq!(entry["time"], made["metadata"]["creationTimestamp"]);
    // Defaults of the schema are the creator's; addresses the server gave out are nobody's.
    let fields = &entry["fieldsV1"];
    assert_eq!(fields["f:spec"]["f:selector"], json!({}));
    assert_eq!(
        fields["f:spec"]["f:ports"],
        json!({".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {
            ".": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {}}})
    );
    assert!(fields["f:spec"].get("f:clusterIP").is_none(), "{fields}");
    assert!(fields.get("f:status").is_none(), "{fields}");
    assert!(fields.get("f:metadata").is_none(), "{fields}");
    // Every way of reading shows the same.
    let (_, read) = api.get(&format!("{SERVICES}/a")).await;
    assert_eq!(read, made);
    let (_, list) = api.get(SERVICES).await;
    assert_eq!(list["items"][0]["metadata"], made["metadata"]);
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let (_, partial) = api.get_as(&format!("{SERVICES}/a"), accept).await;
    assert_eq!(partial["metadata"], made["metadata"]);
    let mut watch = api.watch(&format!("{SERVICES}?watch=true")).await;
    assert_eq!(
        watch.next().await.unwrap()["object"]["metadata"],
        made["metadata"]
    );
}

#[tokio::test]
async fn a8_the_manager_is_named_or_the_program() {
    let api = Api::new().await;
    for (query, agent, wanted) in [
        ("", "prog/1.2 (linux)", "prog"),
        ("", "", "unknown"),
        ("?fieldManager=me", "prog/1.2", "me"),
    ] {
        let mut body = config_map("x");
        body["metadata"]["name"] = Value::Null;
        body["metadata"]["generateName"] = "x-".into();
        let request = Request::post(format!("{CONFIG_MAPS}{query}"))
            .header("content-type", "application/json")
            .header("user-agent", agent)
            .body(Body::from(body.to_string()))
            .unwrap();
        let response = api.send(request).await;
        assert_eq!(response.status(), 201);
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20)
            .await
            .unwrap();
        let made: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(entries(&made)[0]["manager"], wanted);
    }
    let long = format!("{CONFIG_MAPS}?fieldManager={}", "x".repeat(129));
    let (code, status) = api.post(&long, config_map("y")).await;
    assert_eq!(code, 422, "{status}");
    assert_eq!(status["details"]["causes"][0]["field"], "fieldManager");
}

#[tokio::test]
async fn a8_changes_move_fields_to_who_made_them() {
    let api = Api::new().await;
    api.made(
        &format!("{CONFIG_MAPS}?fieldManager=maker"),
        config_map("a"),
    )
    .await;
    let path = format!("{CONFIG_MAPS}/a?fieldManager=editor");
    let (code, patched) = api
        .merge(&path, json!({"data": {"key": "x", "new": "y"}}))
        .await;
    assert_eq!(code, 200);
    assert_eq!(
        owned(&patched, "maker"),
        &json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:data": {}})
    );
    assert_eq!(
        owned(&patched, "editor"),
        &json!({"f:data": {"f:key": {}, "f:new": {}}})
    );
    // A PUT without managedFields keeps them; what it leaves out nobody owns.
    let mut body = config_map("a");
    body["data"] = json!({"key": "x"});
    let (code, put) = api
        .put(&format!("{CONFIG_MAPS}/a?fieldManager=putter"), body)
        .await;
    assert_eq!(code, 200);
    assert_eq!(owned(&put, "editor"), &json!({"f:data": {"f:key": {}}}));
    assert_eq!(owned(&put, "putter"), &Value::Null);
    assert_eq!(
        owned(&put, "maker")["f:metadata"],
        owned(&patched, "maker")["f:metadata"]
    );
    // So does one that sends them back, or an empty list.
    for sent in [put["metadata"]["managedFields"].clone(), json!([])] {
        let mut body = put.clone();
        body["metadata"]["managedFields"] = sent;
        let (code, again) = api
            .put(&format!("{CONFIG_MAPS}/a?fieldManager=putter"), body)
            .await;
        assert_eq!((code.as_u16(), &again), (200, &put));
    }
}

#[tokio::test]
async fn a8_managed_fields_can_be_edited_and_forgotten() {
    let api = Api::new().await;
    let made = api
        .made(
            &format!("{CONFIG_MAPS}?fieldManager=maker"),
            config_map("a"),
        )
        .await;
    let path = format!("{CONFIG_MAPS}/a?fieldManager=editor");
    // As kubectl hands the fields of client-side apply over to server-side apply.
    let mut managed = made["metadata"]["managedFields"].clone();
    managed[0]["manager"] = "kubectl".into();
    managed[0]["operation"] = "Apply".into();
    let patch = json!([
        {"op": "replace", "path": "/metadata/managedFields", "value": managed},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": made["metadata"]["resourceVersion"]},
    ]);
    let json_patch = "application/json-patch+json";
    let (code, edited) = api.call_as("PATCH", &path, json_patch, patch.clone()).await;
    assert_eq!(code, 200, "{edited}");
    assert_eq!(entries(&edited), managed.as_array().unwrap());
    assert_ne!(
        edited["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
    let (code, _) = api.call_as("PATCH", &path, json_patch, patch).await;
    assert_eq!(code, 409, "the resourceVersion is a precondition");
    // Other times alone are no change.
    let mut later = managed.clone();
    later[0]["time"] = "2020-01-01T00:00:00Z".into();
    let (_, same) = api
        .merge(&path, json!({"metadata": {"managedFields": later}}))
        .await;
    assert_eq!(same, edited);
    // Nonsense is ignored, as upstream.
    let (code, same) = api
        .merge(
            &path,
            json!({"metadata": {"managedFields": [{"manager": "x"}]}}),
        )
        .await;
    assert_eq!((code.as_u16(), &same), (200, &edited));
    let (_, reset) = api
        .merge(&path, json!({"metadata": {"managedFields": [{}]}}))
        .await;
    assert_eq!(entries(&reset), &[] as &[Value]);
    assert!(reset["metadata"].get("managedFields").is_none());
    // An object that is not tracked stays so.
    let (_, patched) = api.merge(&path, json!({"data": {"key": "z"}})).await;
    assert!(patched["metadata"].get("managedFields").is_none());
}

#[tokio::test]
async fn a3_a8_the_status_is_tracked_apart() {
    let api = Api::new().await;
    api.made(&format!("{PODS}?fieldManager=maker"), pod("a"))
        .await;
    let status = format!("{PODS}/a/status?fieldManager=node");
    let (_, running) = api
        .merge(&status, json!({"status": {"phase": "Running"}}))
        .await;
    assert_eq!(entries(&running).len(), 2);
    let entry = &entries(&running)[1];
    assert_eq!(
        (&entry["manager"], &entry["subresource"], &entry["fieldsV1"]),
        (
            &json!("node"),
            &json!("status"),
            &json!({"f:status": {"f:phase": {}}})
        )
    );
    // The status endpoint takes no managedFields.
    let body = json!({"metadata": {"managedFields": [{}]}, "status": {"message": "x"}});
    let (_, told) = api.merge(&status, body).await;
    assert_eq!(
        owned(&told, "node"),
        &json!({"f:status": {"f:message": {}, "f:phase": {}}})
    );
    // Through the main endpoint a status is neither written nor owned.
    let main = format!("{PODS}/a?fieldManager=editor");
    let body = json!({"status": {"phase": "Failed"}, "metadata": {"labels": {"x": "y"}}});
    let (_, labelled) = api.merge(&main, body).await;
    assert_eq!(labelled["status"]["phase"], "Running");
    assert_eq!(
        owned(&labelled, "editor"),
        &json!({"f:metadata": {"f:labels": {"f:x": {}}}})
    );
}

#[tokio::test]
async fn a8_a_write_that_changes_nothing_changes_no_times() {
    let api = Api::new().await;
    let made = api
        .made(
            &format!("{CONFIG_MAPS}?fieldManager=maker"),
            config_map("a"),
        )
        .await;
    for manager in ["maker", "other"] {
        let path = format!("{CONFIG_MAPS}/a?fieldManager={manager}");
        let (_, same) = api.merge(&path, json!({"data": {"key": "value"}})).await;
        assert_eq!(same, made);
    }
}

#[tokio::test]
async fn m11_a_dry_run_shows_who_would_own_what() {
    let api = Api::new().await;
    let path = format!("{CONFIG_MAPS}?fieldManager=maker&dryRun=All");
    let (code, shown) = api.post(&path, config_map("a")).await;
    assert_eq!(code, 201);
    assert_eq!(
        owned(&shown, "maker")["f:data"],
        json!({".": {}, "f:key": {}})
    );
    assert_eq!(api.get(&format!("{CONFIG_MAPS}/a")).await.0, 404);
}

#[tokio::test]
async fn x3_what_waits_for_finalizers_keeps_its_managers() {
    let api = Api::new().await;
    let mut body = config_map("a");
    body["metadata"]["finalizers"] = json!(["example.com/f"]);
    let made = api.made(CONFIG_MAPS, body).await;
    let (_, waiting) = api.delete(&format!("{CONFIG_MAPS}/a")).await;
    assert_eq!(
        waiting["metadata"]["managedFields"],
        made["metadata"]["managedFields"]
    );
    assert!(waiting["metadata"]["deletionTimestamp"].is_string());
}

/// What the server writes by itself is its own.
#[tokio::test]
async fn a8_the_servers_own_writes_are_minik_s() {
    let api = Api::new().await;
    let (_, namespace) = api.get("/api/v1/namespaces/default").await;
    assert_eq!(entries(&namespace)[0]["manager"], "minik");
}

/// Agents do not look at who owns what, and are not sent it; what they write back keeps it all the same.
#[tokio::test]
async fn managed_fields_are_left_out_for_those_who_say_so() {
    let mut api = Api::new().await;
    let made = api.made(CONFIG_MAPS, config_map("a")).await;
    api.accept = "application/json;managedFields=false";
    let path = format!("{CONFIG_MAPS}/a");
    let mut without = made.clone();
    let metadata = without["metadata"].as_object_mut().unwrap();
    metadata.shift_remove("managedFields").unwrap();
    let (_, read) = api.get(&path).await;
    assert_eq!(read, without);
    let (_, list) = api.get(CONFIG_MAPS).await;
    assert_eq!(list["items"][0], without);
    let mut slim = api.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    assert_eq!(slim.next().await.unwrap()["object"], without);
    let (_, put) = api.put(&path, without.clone()).await;
    assert_eq!(put, without, "nothing changed");
    // Watchers that want it and watchers that do not share events, not their encoding.
    api.accept = "application/json";
    let mut whole = api.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    assert_eq!(whole.next().await.unwrap()["object"], made);
    let (_, changed) = api.merge(&path, json!({"data": {"key": "x"}})).await;
    assert_eq!(whole.next().await.unwrap()["object"], changed);
    let told = slim.next().await.unwrap();
    assert_eq!(told["object"]["data"], changed["data"]);
    assert!(
        told["object"]["metadata"].get("managedFields").is_none(),
        "{told}"
    );
}
