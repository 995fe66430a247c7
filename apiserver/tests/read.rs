//! Get, list, negotiation, discovery: the statements N, D, O, R, T of the contract.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use common::{Api, CONFIG_MAPS, PODS, SERVICES, config_map, pod, service};
use serde_json::{Value, json};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

async fn three() -> Api {
    let api = Api::new().await;
    for name in ["b", "a", "c"] {
        api.made(CONFIG_MAPS, config_map(name)).await;
    }
    api
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn r2_lists_are_sorted_snapshots_with_a_revision() {
    let api = three().await;
    let (_, list) = api.get(CONFIG_MAPS).await;
    assert_eq!(names(&list), ["a", "b", "c"]);
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&json!("ConfigMapList"), &json!("v1"))
    );
    let (_, empty) = api.get("/api/v1/namespaces/none/configmaps").await;
    assert_eq!(empty["items"], json!([]), "R7: no such namespace");
    assert_eq!(
        empty["metadata"]["resourceVersion"],
        list["metadata"]["resourceVersion"]
    );
    let (_, all) = api.get("/api/v1/configmaps").await;
    assert_eq!(names(&all).len(), 3, "R7: across namespaces");
}

#[tokio::test]
async fn r1_revisions_rise_over_all_kinds() {
    let api = Api::new().await;
    let first = api.made(CONFIG_MAPS, config_map("a")).await;
    let second = api.made(SERVICES, service("a")).await;
    let number = |object: &Value| {
        object["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    assert!(number(&first) < number(&second));
    assert_eq!(api.get(&format!("{CONFIG_MAPS}/a")).await.1, first);
}

#[tokio::test]
async fn r3_future_revisions_time_out() {
    let api = three().await;
    let current = api.registry.backend().current().0;
    for path in [
        format!("{CONFIG_MAPS}?resourceVersion=99"),
        format!("{CONFIG_MAPS}/a?resourceVersion=99"),
    ] {
        let (code, status) = api.get(&path).await;
        assert_eq!((code.as_u16(), &status["reason"]), (504, &json!("Timeout")));
        assert_eq!(
            status["message"],
            format!("Timeout: Too large resource version: 99, current: {current}")
        );
        assert_eq!(
            status["details"]["causes"][0]["reason"],
            "ResourceVersionTooLarge"
        );
    }
    assert_eq!(
        api.get(&format!("{CONFIG_MAPS}?resourceVersion=0")).await.0,
        200
    );
}

#[tokio::test]
async fn r4_exact_reads_the_past() {
    let api = three().await;
    let (_, then) = api.get(CONFIG_MAPS).await;
    let revision = then["metadata"]["resourceVersion"].as_str().unwrap();
    api.delete(&format!("{CONFIG_MAPS}/a")).await;
    let (_, past) = api
        .get(&format!(
            "{CONFIG_MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact"
        ))
        .await;
    assert_eq!(past, then);
    for query in [
        "resourceVersionMatch=Exact",
        "resourceVersion=x",
        "resourceVersion=0&resourceVersionMatch=Exact",
        "sendInitialEvents=true",
    ] {
        assert_eq!(
            api.get(&format!("{CONFIG_MAPS}?{query}")).await.0,
            422,
            "{query}"
        );
    }
}

#[tokio::test]
async fn r5_pages_share_the_first_revision() {
    let api = three().await;
    let (_, first) = api.get(&format!("{CONFIG_MAPS}?limit=2")).await;
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    api.made(CONFIG_MAPS, config_map("d")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = api
        .get(&format!("{CONFIG_MAPS}?limit=2&continue={token}"))
        .await;
    assert_eq!(names(&second), ["c"]);
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    assert!(second["metadata"]["continue"].is_null());
    assert_eq!(
        api.get(&format!("{CONFIG_MAPS}?continue={token}&resourceVersion=3"))
            .await
            .0,
        400
    );
    assert_eq!(
        api.get(&format!("{CONFIG_MAPS}?continue=nonsense")).await.0,
        400
    );
    let (_, selected) = api
        .get(&format!("{CONFIG_MAPS}?limit=1&labelSelector=app!=a"))
        .await;
    assert_eq!(names(&selected), ["b"]);
    assert!(selected["metadata"]["remainingItemCount"].is_null());
}

#[tokio::test]
async fn r8_r9_selectors() {
    let api = three().await;
    api.made(PODS, pod("p")).await;
    let cases: [(&str, &str, &[&str]); 11] = [
        (CONFIG_MAPS, "labelSelector=app%3Da", &["a"]),
        (CONFIG_MAPS, "labelSelector=app", &["a", "b", "c"]),
        (CONFIG_MAPS, "labelSelector=!app", &[]),
        (CONFIG_MAPS, "labelSelector=app+in+(a,c)", &["a", "c"]),
        (CONFIG_MAPS, "labelSelector=app+notin+(a,c)", &["b"]),
        (CONFIG_MAPS, "fieldSelector=metadata.name%3Da", &["a"]),
        (CONFIG_MAPS, "fieldSelector=metadata.name!%3Da", &["b", "c"]),
        (CONFIG_MAPS, "fieldSelector=metadata.namespace=other", &[]),
        (
            PODS,
            "fieldSelector=status.phase=Pending,spec.nodeName=",
            &["p"],
        ),
        (PODS, "fieldSelector=status.phase!=Pending", &[]),
        (PODS, "fieldSelector=status.podIPs=1.2.3.4", &[]),
    ];
    for (path, query, wanted) in cases {
        let (code, list) = api.get(&format!("{path}?{query}")).await;
        assert_eq!(code, 200, "{query}: {list}");
        assert_eq!(names(&list), wanted, "{query}");
    }
    let (code, status) = api
        .get(&format!("{PODS}?fieldSelector=spec.colour=red"))
        .await;
    assert_eq!(
        (code.as_u16(), &status["message"]),
        (400, &json!("field label not supported: spec.colour"))
    );
    assert_eq!(
        api.get(&format!("{CONFIG_MAPS}?fieldSelector=data.x=y"))
            .await
            .0,
        400
    );
    assert_eq!(
        api.get(&format!("{CONFIG_MAPS}?labelSelector=a+b+c"))
            .await
            .0,
        400
    );
}

#[tokio::test]
async fn n6_metadata_projections() {
    let api = three().await;
    let one = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let (_, object) = api.get_as(&format!("{CONFIG_MAPS}/a"), one).await;
    assert_eq!(object["kind"], "PartialObjectMetadata");
    assert_eq!(object["apiVersion"], "meta.k8s.io/v1");
    assert_eq!(object["metadata"]["name"], "a");
    assert!(object["data"].is_null());
    let many = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let (_, list) = api.get_as(CONFIG_MAPS, many).await;
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(names(&list), ["a", "b", "c"]);
    let (code, status) = api.get_as(&format!("{CONFIG_MAPS}/none"), one).await;
    assert_eq!((code.as_u16(), &status["kind"]), (404, &json!("Status")));
}

#[tokio::test]
async fn t1_tables_have_columns_rows_and_the_list_metadata() {
    let api = three().await;
    let (_, table) = api.get_as(&format!("{CONFIG_MAPS}?limit=2"), TABLE).await;
    assert_eq!(
        (&table["kind"], &table["apiVersion"]),
        (&json!("Table"), &json!("meta.k8s.io/v1"))
    );
    let columns: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(columns, ["Name", "Data", "Age"]);
    assert_eq!(table["columnDefinitions"][0]["format"], "name");
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table["rows"][0]["object"]["metadata"]["labels"]["app"], "a");
    assert!(table["metadata"]["continue"].is_string());
    let (_, table) = api
        .get_as(&format!("{CONFIG_MAPS}?includeObject=Object"), TABLE)
        .await;
    assert_eq!(table["rows"][0]["object"]["data"]["key"], "value");
    let (_, table) = api
        .get_as(&format!("{CONFIG_MAPS}?includeObject=None"), TABLE)
        .await;
    assert!(table["rows"][0]["object"].is_null());
    assert_eq!(
        api.get_as(&format!("{CONFIG_MAPS}?includeObject=All"), TABLE)
            .await
            .0,
        400
    );
}

#[tokio::test]
async fn t3_cells_of_each_kind() {
    let api = Api::new().await;
    let mut ports = service("s");
    ports["spec"]["clusterIP"] = "10.96.0.50".into();
    api.made(SERVICES, ports).await;
    let endpoints = json!({"metadata": {"name": "e"}, "subsets": [{
        "addresses": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2"}, {"ip": "192.0.2.3"}, {"ip": "192.0.2.4"}],
        "ports": [{"port": 80}],
    }]});
    api.made("/api/v1/namespaces/default/endpoints", endpoints)
        .await;
    let slice = json!({"metadata": {"name": "e"}, "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"]}], "ports": [{"port": 80}]});
    api.made(
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        slice,
    )
    .await;
    let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": ""}}, "spec": {"unschedulable": true}});
    api.made("/api/v1/nodes", node).await;
    let cases = [
        (
            "/api/v1/services",
            json!([
                "s",
                "ClusterIP",
                "10.96.0.50",
                "<none>",
                "80/TCP",
                "0s",
                "app=web"
            ]),
        ),
        (
            "/api/v1/endpoints",
            json!([
                "e",
                "192.0.2.1:80,192.0.2.2:80,192.0.2.3:80 + 1 more...",
                "0s"
            ]),
        ),
        (
            "/apis/discovery.k8s.io/v1/endpointslices",
            json!(["e", "IPv4", "80", "192.0.2.1", "0s"]),
        ),
        (
            "/api/v1/nodes",
            json!([
                "n",
                "Unknown,SchedulingDisabled",
                "worker",
                "0s",
                "",
                "<none>",
                "<none>",
                "<unknown>",
                "<unknown>",
                "<unknown>"
            ]),
        ),
        ("/api/v1/namespaces", json!(["default", "Active", "0s"])),
        (
            "/apis/networking.k8s.io/v1/ipaddresses",
            json!(["10.96.0.50", "services/default/s"]),
        ),
    ];
    for (path, wanted) in cases {
        let (_, table) = api.get_as(path, TABLE).await;
        let cells = table["rows"][0]["cells"].as_array().unwrap();
        for (cell, wanted) in cells.iter().zip(wanted.as_array().unwrap()) {
            // The age is what the clock says.
            if wanted != "0s" {
                assert_eq!(cell, wanted, "{path}");
            }
        }
        let columns = table["columnDefinitions"].as_array().unwrap();
        assert_eq!(columns.len(), cells.len(), "{path}");
    }
}

#[tokio::test]
async fn t3_every_kind_fills_every_column() {
    for kind in apiserver::registry::kinds::ALL {
        let mut row = apiserver::registry::table::Row::new(jiff::Timestamp::UNIX_EPOCH);
        (kind.table.cells)(&json!({}), &mut row);
        assert_eq!(row.cells.len(), kind.table.columns.len(), "{kind:?}");
    }
}

#[tokio::test]
async fn d1_d2_legacy_discovery() {
    let api = Api::new().await;
    let (_, core) = api.get("/api").await;
    assert_eq!(core["versions"], json!(["v1"]));
    let (_, groups) = api.get("/apis").await;
    assert_eq!(groups["kind"], "APIGroupList");
    let (_, group) = api.get("/apis/discovery.k8s.io").await;
    assert_eq!(
        group["preferredVersion"]["groupVersion"],
        "discovery.k8s.io/v1"
    );
    let (_, resources) = api.get("/api/v1").await;
    let resources = resources["resources"].as_array().unwrap();
    let named = |name: &str| {
        resources
            .iter()
            .find(|r| r["name"] == name)
            .unwrap_or_else(|| panic!("{name}"))
    };
    assert_eq!(named("services")["shortNames"], json!(["svc"]));
    assert_eq!(named("services")["categories"], json!(["all"]));
    assert_eq!(named("pods/binding")["kind"], "Binding");
    assert_eq!(named("namespaces")["namespaced"], false);
    named("namespaces/finalize");
    named("pods/status");
}

#[tokio::test]
async fn d3_d4_aggregated_discovery_says_its_version_in_the_media_type() {
    let api = Api::new().await;
    let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
    for (accept, wanted) in [
        (format!("{v2},{beta},application/json"), v2),
        (format!("{beta},application/json"), beta),
        (format!("{v2};profile=nopeer"), v2),
        ("application/json".to_owned(), "application/json"),
    ] {
        for path in ["/api", "/apis"] {
            let request = http::Request::get(path).header("accept", &accept);
            let response = api
                .send(request.body(axum::body::Body::empty()).unwrap())
                .await;
            assert_eq!(response.headers()["content-type"], wanted);
            let Some(etag) = response.headers().get("etag").cloned() else {
                assert_eq!(wanted, "application/json");
                continue;
            };
            let request = http::Request::get(path)
                .header("accept", &accept)
                .header("if-none-match", etag);
            let response = api
                .send(request.body(axum::body::Body::empty()).unwrap())
                .await;
            assert_eq!(response.status(), 304, "D4");
        }
    }
    let (_, document) = api.get_as("/api", v2).await;
    assert_eq!(document["items"][0]["metadata"]["name"], "");
    assert_eq!(document["items"][0]["versions"][0]["freshness"], "Current");
}

#[tokio::test]
async fn d6_unknown_paths_are_404() {
    let api = Api::new().await;
    for path in [
        "/apis/apps.example.com",
        "/apis/apps/v1/unknowns",
        "/api/v1/unknowns",
        "/nothing",
    ] {
        assert_eq!(api.get(path).await.0, 404, "{path}");
    }
}

/// kubectl prints the message of the `Status`; of any other body it makes "the Pod was not found".
#[tokio::test]
async fn what_an_object_does_not_serve_is_refused_in_words() {
    let api = Api::new().await;
    for (path, words) in [
        ("pods/p/nothing", "does not serve pods/nothing"),
        ("services/s/log", "does not serve services/log"),
    ] {
        let (code, status) = api.get(&format!("/api/v1/namespaces/default/{path}")).await;
        assert_eq!(
            (code.as_u16(), status["reason"].as_str()),
            (404, Some("NotFound")),
            "{path}"
        );
        let message = status["message"].as_str().unwrap_or_default();
        assert!(message.contains(words), "{path}: {message}");
    }
    let (_, status) = api.get("/api/v1/nodes/n/scale").await;
    assert_eq!(
        status["details"],
        serde_json::json!({"kind": "nodes", "name": "n"})
    );
}

#[tokio::test]
async fn d7_version_is_digits_and_semver() {
    let (_, version) = Api::new().await.get("/version").await;
    for field in ["major", "minor"] {
        let text = version[field].as_str().unwrap();
        assert!(text.bytes().all(|byte| byte.is_ascii_digit()), "{text}");
    }
    assert!(
        version["gitVersion"]
            .as_str()
            .unwrap()
            .starts_with("v1.33.0+minik")
    );
}

#[tokio::test]
async fn o1_o2_openapi_lists_a_patch_for_every_kind() {
    let api = Api::new().await;
    let (_, root) = api.get("/openapi/v3").await;
    let paths = root["paths"].as_object().unwrap();
    let kinds = apiserver::registry::kinds::ALL.iter();
    let served: std::collections::BTreeSet<_> = kinds.map(|kind| kind.api_version()).collect();
    assert_eq!(paths.len(), served.len());
    for (path, entry) in paths {
        let url = entry["serverRelativeURL"].as_str().unwrap();
        assert!(url.starts_with(&format!("/openapi/v3/{path}?hash=")));
        let (code, document) = api.get(url).await;
        assert_eq!(code, 200);
        let patches: Vec<&Value> = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .filter_map(|item| item.get("patch"))
            .collect();
        assert!(!patches.is_empty());
        for patch in patches {
            assert!(patch["x-kubernetes-group-version-kind"].is_object());
            let parameters = patch["parameters"].as_array().unwrap();
            assert!(
                parameters
                    .iter()
                    .any(|parameter| parameter["name"] == "fieldValidation")
            );
        }
    }
}

#[tokio::test]
async fn o4_openapi_v2_comes_in_protobuf_and_is_asked_for_by_its_hash() {
    let api = Api::new().await;
    let (_, json) = api.get("/openapi/v2").await;
    let ask = async |etag: &str| {
        let accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
        let request = http::Request::get("/openapi/v2")
            .header("accept", accept)
            .header("if-none-match", etag);
        api.send(request.body(axum::body::Body::empty()).unwrap())
            .await
    };
    let response = ask("").await;
    assert_eq!(response.status(), 200);
    let headers = response.headers().clone();
    assert_eq!(
        headers["content-type"],
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    );
    let vary: Vec<_> = headers.get_all("vary").iter().collect();
    assert_eq!(vary, ["Accept", "Accept-Encoding"]);
    let body = http_body_util::BodyExt::collect(response.into_body());
    let bytes = body.await.unwrap().to_bytes();
    // What the bytes mean is tested where they are made.
    assert_eq!(bytes, api::schema::openapi_v2_protobuf(&json));
    let definitions = json["definitions"].as_object().unwrap();
    assert!(definitions.contains_key("io.k8s.api.core.v1.Service"));

    let etag = headers["etag"].to_str().unwrap();
    assert_eq!(ask(etag).await.status(), 304);
    assert_eq!(ask(&format!("\"0\", {etag}")).await.status(), 304);
    assert_eq!(ask("\"0\"").await.status(), 200);
}
