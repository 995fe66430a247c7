//! Definitions: what they say of themselves, what they change in discovery and OpenAPI, and how they go.

use serde_json::{Value, json};

use super::{
    DEFINITIONS, TABS,
    common::{self, Api},
    definition, eventually, tab, wait_for, with,
};

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
