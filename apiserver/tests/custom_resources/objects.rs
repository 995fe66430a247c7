//! The objects: created, changed, shown, selected, paged and watched as those of other kinds.

use serde_json::{Value, json};

use super::{TABS, definition, tab, with};

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
