//! CustomResourceDefinitions and the objects of the kinds they make.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

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

#[tokio::test]
async fn f6_a_definition_is_established_and_says_so() {
    let api = with(definition()).await;
    let (_, definition) = api
        .get(&format!("{DEFINITIONS}/crontabs.stable.example.com"))
        .await;
    let status = &definition["status"];
    assert_eq!(status["storedVersions"], json!(["v1"]));
    assert_eq!(
        status["acceptedNames"],
        json!({"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "listKind": "CronTabList", "shortNames": ["ct"], "categories": ["all"]})
    );
    let told: Vec<String> = status["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| format!("{} {} {}", one["type"], one["status"], one["reason"]).replace('"', ""))
        .collect();
    assert_eq!(
        told,
        [
            "NamesAccepted True NoConflicts",
            "Established True InitialNamesAccepted"
        ]
    );
}

#[tokio::test]
async fn f6_names_that_another_definition_has_are_not_accepted() {
    let api = with(definition()).await;
    let mut second = definition();
    second["metadata"]["name"] = json!("tables.stable.example.com");
    second["spec"]["names"] = json!({"plural": "tables", "kind": "Table", "shortNames": ["ct"]});
    let mut events = api
        .watch(&format!(
            "{DEFINITIONS}?watch=true&fieldSelector=metadata.name=tables.stable.example.com"
        ))
        .await;
    api.made(DEFINITIONS, second).await;
    let status = loop {
        let event = events.next().await.unwrap();
        if event["object"]["status"]["conditions"].is_array() {
            break event["object"]["status"].clone();
        }
    };
    assert_eq!(status["conditions"][0]["reason"], "ShortNamesConflict");
    assert_eq!(status["conditions"][1]["status"], "False");
    let (code, _) = api.get("/apis/stable.example.com/v1/tables").await;
    assert_eq!(code, 404);
}

#[tokio::test]
async fn f6_definitions_that_are_wrong_are_refused_in_words() {
    let api = Api::new().await;
    type Case = (fn(&mut Value), &'static str);
    let cases: [Case; 9] = [
        (
            |one| one["metadata"]["name"] = json!("a.b"),
            "metadata.name: Invalid value: \"a.b\": must be spec.names.plural+\".\"+spec.group",
        ),
        (
            |one| one["spec"]["scope"] = json!("Global"),
            "spec.scope: Unsupported value: \"Global\": supported values: \"Cluster\", \"Namespaced\"",
        ),
        (
            |one| one["spec"]["versions"][0]["storage"] = json!(false),
            "must have exactly one version marked as storage version",
        ),
        (
            |one| {
                drop(
                    one["spec"]["versions"][0]
                        .as_object_mut()
                        .unwrap()
                        .remove("schema"),
                )
            },
            "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required",
        ),
        (
            |one| {
                one["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["type"] =
                    json!(null)
            },
            "spec.versions[0].schema.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields",
        ),
        (
            |one| one["spec"]["conversion"] = json!({"strategy": "Webhook"}),
            "spec.conversion.strategy: Forbidden: this server calls no webhooks",
        ),
        (
            |one| {
                one["spec"]["versions"][0]["subresources"]["scale"]["specReplicasPath"] =
                    json!(".replicas")
            },
            "spec.versions[0].subresources.scale.specReplicasPath: Invalid value: \".replicas\": should be a json path under .spec",
        ),
        (
            |one| one["spec"]["versions"][0]["additionalPrinterColumns"][0]["type"] = json!("text"),
            "spec.versions[0].additionalPrinterColumns[0].type: Unsupported value: \"text\"",
        ),
        (
            |one| {
                one["spec"]["versions"][0]["selectableFields"][0]["jsonPath"] = json!(".spec.ports")
            },
            "spec.versions[0].selectableFields[0].jsonPath: Invalid value: \".spec.ports\": is an invalid path",
        ),
    ];
    for (change, wanted) in cases {
        let mut wrong = definition();
        change(&mut wrong);
        let (code, status) = api.post(DEFINITIONS, wrong).await;
        assert_eq!(code, 422, "{status}");
        let message = status["message"].as_str().unwrap();
        assert!(message.contains(wanted), "{message}\nwanted {wanted}");
    }
}

#[tokio::test]
async fn d5_definitions_change_discovery_at_once() {
    let api = Api::new().await;
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let tag = async || {
        let request = http::Request::get("/apis").header("accept", accept);
        let response = api
            .send(request.body(axum::body::Body::empty()).unwrap())
            .await;
        response.headers()["etag"].to_str().unwrap().to_owned()
    };
    let before = tag().await;
    assert_eq!(api.get("/apis/stable.example.com").await.0, 404);
    api.made(DEFINITIONS, definition()).await;
    wait_for(&api, "crontabs.stable.example.com", "Established").await;
    assert_ne!(tag().await, before);
    let (_, group) = api.get("/apis/stable.example.com").await;
    assert_eq!(
        group["preferredVersion"]["groupVersion"],
        "stable.example.com/v1"
    );
    let (_, resources) = api.get("/apis/stable.example.com/v1").await;
    let names: Vec<&Value> = resources["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(
        json!(names),
        json!(["crontabs", "crontabs/scale", "crontabs/status"])
    );
    assert_eq!(resources["resources"][0]["shortNames"], json!(["ct"]));
    let (_, aggregated) = api.get_as("/apis", accept).await;
    assert!(aggregated.to_string().contains("\"crontabs\""));

    let mut gone = api.watch(&format!("{DEFINITIONS}?watch=true")).await;
    api.delete(&format!("{DEFINITIONS}/crontabs.stable.example.com"))
        .await;
    while gone.next().await.unwrap()["type"] != "DELETED" {}
    eventually(async || api.get("/apis/stable.example.com").await.0 == 404).await;
    assert_eq!(tag().await, before);
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

#[tokio::test]
async fn o6_openapi_describes_custom_resources() {
    let api = with(definition()).await;
    let (_, root) = api.get("/openapi/v3").await;
    let protobuf = async || {
        let accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
        let request = http::Request::get("/openapi/v2").header("accept", accept);
        let response = api.send(request.body(axum::body::Body::empty()).unwrap());
        let body = response.await.into_body();
        http_body_util::BodyExt::collect(body)
            .await
            .unwrap()
            .to_bytes()
    };
    let protobuf_before = protobuf().await;
    let entry = |root: &Value| {
        root["paths"]["apis/stable.example.com/v1"]["serverRelativeURL"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (_, document) = api.get(&entry(&root)).await;
    let schema = &document["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(
        schema["x-kubernetes-group-version-kind"],
        json!([{"group": "stable.example.com", "version": "v1", "kind": "CronTab"}])
    );
    assert_eq!(
        schema["properties"]["spec"]["properties"]["schedule"]["description"],
        "When it runs."
    );
    assert_eq!(
        schema["properties"]["metadata"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    );
    let patch = &document["paths"]["/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}"]
        ["patch"];
    let media: Vec<&String> = patch["requestBody"]["content"]
        .as_object()
        .unwrap()
        .keys()
        .collect();
    assert!(
        !media.iter().any(|one| one.contains("strategic")),
        "{media:?}"
    );

    let path = format!("{DEFINITIONS}/crontabs.stable.example.com");
    let (_, mut changed) = api.get(&path).await;
    changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        ["more"] = json!({"type": "string"});
    assert_eq!(api.put(&path, changed).await.0, 200);
    eventually(async || entry(&api.get("/openapi/v3").await.1) != entry(&root)).await;
    let (_, swagger) = api.get("/openapi/v2").await;
    assert!(swagger["definitions"]["com.example.stable.v1.CronTab"].is_object());
    let protobuf = protobuf().await;
    assert_ne!(protobuf, protobuf_before);
    assert_eq!(protobuf, api::schema::openapi_v2_protobuf(&swagger));
}

#[tokio::test]
async fn objects_are_pruned_defaulted_and_validated() {
    let api = with(definition()).await;
    let mut object = tab("a");
    object["spec"]["colour"] = json!("red");
    object["spec"]["note"] = json!(null);
    object["status"] = json!({"replicas": 7});
    let made = api.made(TABS, object.clone()).await;
    assert_eq!(made["apiVersion"], "stable.example.com/v1");
    assert_eq!(made["kind"], "CronTab");
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(
        made["spec"],
        json!({"schedule": "* * * * *", "image": "busybox", "replicas": 1, "note": null})
    );
    assert_eq!(made.get("status"), None);
    let (_, read) = api.get(&format!("{TABS}/a")).await;
    assert_eq!(read["spec"], made["spec"]);

    object["metadata"]["name"] = json!("b");
    let (code, status) = api
        .post(&format!("{TABS}?fieldValidation=Strict"), object)
        .await;
    assert_eq!(code, 400);
    assert_eq!(
        status["message"],
        "CronTab in version \"v1\" cannot be handled as a CronTab: strict decoding error: unknown field \"spec.colour\""
    );

    let wrong = json!({"metadata": {"name": "b"}, "spec": {"replicas": 11, "ports": [{"name": "x"}, {"name": "x"}]}});
    let (code, status) = api.post(TABS, wrong).await;
    assert_eq!(code, 422);
    let causes: Vec<String> = status["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| {
            format!(
                "{}: {}",
                cause["field"].as_str().unwrap(),
                cause["message"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(
        causes,
        [
            "spec.schedule: Required value",
            "spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10",
            "spec.ports[1]: Duplicate value: {\"name\":\"x\"}",
        ]
    );
}

#[tokio::test]
async fn m5_a_replacement_names_the_version_it_replaces() {
    let api = with(definition()).await;
    api.made(TABS, tab("a")).await;
    let (code, status) = api.put(&format!("{TABS}/a"), tab("a")).await;
    assert_eq!(code, 422);
    assert!(
        status["message"].as_str().unwrap().contains(
            "metadata.resourceVersion: Invalid value: 0: must be specified for an update"
        )
    );
}

#[tokio::test]
async fn m9_m10_status_and_generation() {
    let api = with(definition()).await;
    let made = api.made(TABS, tab("a")).await;
    let mut new = made.clone();
    new["status"] = json!({"replicas": 3, "selector": "app=a"});
    let (code, written) = api.put(&format!("{TABS}/a/status"), new).await;
    assert_eq!(code, 200);
    assert_eq!(written["status"]["replicas"], 3);
    assert_eq!(written["metadata"]["generation"], 1);
    let (_, changed) = api
        .merge(
            &format!("{TABS}/a"),
            json!({"spec": {"replicas": 2}, "status": {"replicas": 9}}),
        )
        .await;
    assert_eq!(changed["metadata"]["generation"], 2);
    assert_eq!(changed["status"]["replicas"], 3);
}

#[tokio::test]
async fn m12_custom_resources_have_a_scale() {
    let api = with(definition()).await;
    let made = api.made(TABS, tab("a")).await;
    let mut new = made;
    new["status"] = json!({"replicas": 3, "selector": "app=a"});
    api.put(&format!("{TABS}/a/status"), new).await;
    let (_, scale) = api.get(&format!("{TABS}/a/scale")).await;
    assert_eq!(scale["apiVersion"], "autoscaling/v1");
    assert_eq!(
        (&scale["spec"], &scale["status"]),
        (
            &json!({"replicas": 1}),
            &json!({"replicas": 3, "selector": "app=a"})
        )
    );
    let (code, _) = api
        .merge(&format!("{TABS}/a/scale"), json!({"spec": {"replicas": 4}}))
        .await;
    assert_eq!(code, 200);
    assert_eq!(api.get(&format!("{TABS}/a")).await.1["spec"]["replicas"], 4);
    let (code, _) = api
        .merge(
            &format!("{TABS}/a/scale"),
            json!({"spec": {"replicas": 40}}),
        )
        .await;
    assert_eq!(code, 422);
}

#[tokio::test]
async fn p1_strategic_patches_are_refused_and_the_others_work() {
    let api = with(definition()).await;
    api.made(TABS, tab("a")).await;
    let path = format!("{TABS}/a");
    let (code, status) = api
        .call_as(
            "PATCH",
            &path,
            "application/strategic-merge-patch+json",
            json!({"spec": {"replicas": 2}}),
        )
        .await;
    assert_eq!(code, 415, "{status}");
    let (code, patched) = api
        .call_as(
            "PATCH",
            &path,
            "application/json-patch+json",
            json!([{"op": "replace", "path": "/spec/replicas", "value": 2}]),
        )
        .await;
    assert_eq!(
        (code.as_u16(), &patched["spec"]["replicas"]),
        (200, &json!(2))
    );
}

#[tokio::test]
async fn a1_applying_merges_lists_by_the_keys_of_the_definition() {
    let api = with(definition()).await;
    let path = |manager: &str| format!("{TABS}/a?fieldManager={manager}");
    let apply = async |manager: &str, spec: Value| {
        let body = json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "spec": spec});
        api.call_as(
            "PATCH",
            &path(manager),
            "application/apply-patch+yaml",
            body,
        )
        .await
    };
    let (code, _) = apply(
        "one",
        json!({"schedule": "* * * * *", "ports": [{"name": "a", "port": 1}]}),
    )
    .await;
    assert_eq!(code, 201);
    let (code, both) = apply("two", json!({"ports": [{"name": "b", "port": 2}]})).await;
    assert_eq!(code, 200);
    assert_eq!(
        both["spec"]["ports"],
        json!([{"name": "a", "port": 1}, {"name": "b", "port": 2}])
    );
    let (code, conflict) = apply(
        "two",
        json!({"ports": [{"name": "a", "port": 3}, {"name": "b", "port": 2}]}),
    )
    .await;
    assert_eq!(code, 409);
    assert!(
        conflict["message"]
            .as_str()
            .unwrap()
            .contains(".spec.ports[name=\"a\"].port"),
        "{conflict}"
    );
    let (_, less) = apply("one", json!({"schedule": "* * * * *"})).await;
    assert_eq!(less["spec"]["ports"], json!([{"name": "b", "port": 2}]));
    let (code, status) = apply("one", json!({"colour": "red"})).await;
    assert_eq!(code, 400);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains(".spec.colour: field not declared in schema"),
        "{status}"
    );
}

#[tokio::test]
async fn t4_columns_are_those_of_the_definition() {
    let api = with(definition()).await;
    api.made(TABS, tab("a")).await;
    let (_, table) = api
        .get_as(TABS, "application/json;as=Table;v=v1;g=meta.k8s.io")
        .await;
    let names: Vec<&Value> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(json!(names), json!(["Name", "Schedule", "Replicas", "Age"]));
    let cells = &table["rows"][0]["cells"];
    assert_eq!(
        (&cells[0], &cells[1], &cells[2]),
        (&json!("a"), &json!("* * * * *"), &json!(1))
    );
    assert!(cells[3].as_str().unwrap().ends_with('s'), "{cells}");
}

#[tokio::test]
async fn r8_r9_selectable_fields_select() {
    let api = with(definition()).await;
    api.made(TABS, tab("a")).await;
    let mut other = tab("b");
    other["spec"]["image"] = json!("nginx");
    api.made(TABS, other).await;
    let (_, list) = api
        .get(&format!("{TABS}?fieldSelector=spec.image=nginx"))
        .await;
    assert_eq!(list["kind"], "CronTabList");
    let names: Vec<&Value> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["metadata"]["name"])
        .collect();
    assert_eq!(json!(names), json!(["b"]));
    let (code, status) = api
        .get(&format!("{TABS}?fieldSelector=spec.schedule=x"))
        .await;
    assert_eq!(code, 400);
    assert_eq!(
        status["message"],
        "field label not supported: spec.schedule"
    );
}

#[tokio::test]
async fn every_version_shows_the_same_objects() {
    let mut two = definition();
    let mut second = two["spec"]["versions"][0].clone();
    second["name"] = json!("v2");
    second["storage"] = json!(false);
    second["deprecated"] = json!(true);
    second["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["suspend"] =
        json!({"type": "boolean", "default": false});
    two["spec"]["versions"].as_array_mut().unwrap().push(second);
    let api = with(two).await;
    let v2 = TABS.replace("/v1/", "/v2/");
    let mut old = api.watch(&format!("{TABS}?watch=true")).await;
    let mut new = api.watch(&format!("{v2}?watch=true")).await;
    api.made(TABS, tab("a")).await;
    let event = old.next().await.unwrap();
    assert_eq!(
        (
            &event["object"]["apiVersion"],
            event["object"]["spec"].get("suspend")
        ),
        (&json!("stable.example.com/v1"), None)
    );
    let event = new.next().await.unwrap();
    assert_eq!(
        (
            &event["object"]["apiVersion"],
            &event["object"]["spec"]["suspend"]
        ),
        (&json!("stable.example.com/v2"), &json!(false))
    );
    let (_, changed) = api
        .merge(&format!("{v2}/a"), json!({"spec": {"suspend": true}}))
        .await;
    assert_eq!(changed["spec"]["suspend"], true);
    let (_, seen) = api.get(&format!("{TABS}/a")).await;
    assert_eq!(
        (&seen["apiVersion"], seen["spec"].get("suspend")),
        (&json!("stable.example.com/v1"), None)
    );
    let request = http::Request::post(&v2).header("content-type", "application/json");
    let response = api
        .send(request.body(tab("b").to_string().into()).unwrap())
        .await;
    assert_eq!(
        response.headers()["warning"],
        "299 - \"stable.example.com/v2 CronTab is deprecated\""
    );
}

#[tokio::test]
async fn deleting_a_definition_deletes_its_objects_first() {
    let api = with(definition()).await;
    let mut held = tab("held");
    held["metadata"]["finalizers"] = json!(["example.com/wait"]);
    api.made(TABS, held).await;
    api.made(TABS, tab("free")).await;
    let mut events = api.watch(&format!("{TABS}?watch=true")).await;
    let (_, deleted) = api
        .delete(&format!("{DEFINITIONS}/crontabs.stable.example.com"))
        .await;
    assert_eq!(
        deleted["metadata"]["finalizers"],
        json!(["customresourcecleanup.apiextensions.k8s.io"])
    );
    wait_for(&api, "crontabs.stable.example.com", "Terminating").await;
    while events.told().await != "DELETED free" {}
    assert_eq!(api.post(TABS, tab("late")).await.0, 405);
    assert_eq!(
        api.get(DEFINITIONS).await.1["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    api.merge(
        &format!("{TABS}/held"),
        json!({"metadata": {"finalizers": null}}),
    )
    .await;
    eventually(async || api.get(DEFINITIONS).await.1["items"] == json!([])).await;
    eventually(async || api.get(TABS).await.0 == 404).await;
    // The same definition again begins with nothing.
    api.made(DEFINITIONS, definition()).await;
    wait_for(&api, "crontabs.stable.example.com", "Established").await;
    assert_eq!(api.get(TABS).await.1["items"], json!([]));
}

#[tokio::test]
async fn f2_x7_namespaces_and_owners_take_custom_resources_along() {
    let (api, _running) = common::cluster::cluster().await;
    api.made(DEFINITIONS, definition()).await;
    wait_for(&api, "crontabs.stable.example.com", "Established").await;
    api.made("/api/v1/namespaces", json!({"metadata": {"name": "x"}}))
        .await;
    let inside = TABS.replace("/default/", "/x/");
    api.made(&inside, tab("a")).await;
    assert_eq!(api.delete("/api/v1/namespaces/x").await.0, 200);
    eventually(async || api.get("/api/v1/namespaces/x").await.0 == 404).await;
    assert_eq!(api.get(&inside).await.1["items"], json!([]));

    // A custom resource owns a ConfigMap and is owned by one.
    let top = api
        .made(common::CONFIG_MAPS, common::config_map("top"))
        .await;
    let reference = |owner: &Value| {
        json!([{"apiVersion": owner["apiVersion"], "kind": owner["kind"],
            "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}])
    };
    let mut middle = tab("middle");
    middle["metadata"]["ownerReferences"] = reference(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": top["metadata"]}));
    let middle = api.made(TABS, middle).await;
    let mut leaf = common::config_map("leaf");
    leaf["metadata"]["ownerReferences"] = reference(&middle);
    api.made(common::CONFIG_MAPS, leaf).await;
    let (code, _) = api.delete(&format!("{}/top", common::CONFIG_MAPS)).await;
    assert_eq!(code, 200);
    for path in [
        format!("{TABS}/middle"),
        format!("{}/leaf", common::CONFIG_MAPS),
    ] {
        eventually(async || api.get(&path).await.0 == 404).await;
    }
}

#[tokio::test]
async fn w2_w6_r5_custom_resources_are_paged_and_watched_from_any_revision() {
    let api = with(definition()).await;
    let first = api.made(TABS, tab("a")).await;
    api.made(TABS, tab("b")).await;
    let (_, page) = api.get(&format!("{TABS}?limit=1")).await;
    assert_eq!(page["metadata"]["remainingItemCount"], 1);
    let token = page["metadata"]["continue"].as_str().unwrap();
    let (_, rest) = api.get(&format!("{TABS}?limit=1&continue={token}")).await;
    assert_eq!(rest["items"][0]["metadata"]["name"], "b");
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{TABS}?watch=true&resourceVersion={version}");
    let mut events = api.watch(&path).await;
    assert_eq!(events.told().await, "ADDED b");
    api.merge(
        &format!("{TABS}/b"),
        json!({"metadata": {"labels": {"x": "y"}}}),
    )
    .await;
    assert_eq!(events.told().await, "MODIFIED b");
    let labelled = format!(
        "{TABS}?watch=true&labelSelector=x%3Dy&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut events = api.watch(&labelled).await;
    assert_eq!(events.told().await, "ADDED b");
    let bookmark = events.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "CronTab");
}

#[tokio::test]
async fn what_is_not_done_is_said() {
    let api = Api::new().await;
    let mut with_rules = definition();
    with_rules["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
        json!([{"rule": "self.replicas < 5"}]);
    let request = http::Request::post(DEFINITIONS).header("content-type", "application/json");
    let response = api
        .send(request.body(with_rules.to_string().into()).unwrap())
        .await;
    assert_eq!(response.status(), 201);
    let warning = response.headers()["warning"].to_str().unwrap();
    assert!(warning.contains("does not evaluate them"), "{warning}");
}

#[tokio::test]
async fn n1_custom_resources_have_no_protobuf() {
    let api = with(definition()).await;
    let media_type = "application/vnd.kubernetes.protobuf";
    let (code, _) = api.call_as("POST", TABS, media_type, tab("a")).await;
    assert_eq!(code, 415);
}

/// A right to everything in a namespace is none to objects without one.
#[tokio::test]
async fn cve_2019_11247_custom_resources_without_a_namespace_are_in_none() {
    let mut cluster = definition();
    cluster["spec"]["scope"] = json!("Cluster");
    let api = with(cluster).await;
    let everywhere = "/apis/stable.example.com/v1/crontabs";
    api.made(everywhere, tab("a")).await;
    assert_eq!(api.get(&format!("{everywhere}/a")).await.0, 200);
    for path in [
        TABS.to_owned(),
        format!("{TABS}/a"),
        format!("{TABS}/a/status"),
    ] {
        assert_eq!(api.get(&path).await.0, 404, "{path}");
        assert_eq!(api.put(&path, tab("a")).await.0, 404, "{path}");
        assert_eq!(api.post(&path, tab("b")).await.0, 404, "{path}");
        assert_eq!(api.delete(&path).await.0, 404, "{path}");
    }
    assert_eq!(api.get(&format!("{everywhere}/a")).await.0, 200);
}
