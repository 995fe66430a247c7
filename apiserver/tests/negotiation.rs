//! Media types, projections, field validation, patches as requests: the statements N, V, P, D, T that `read.rs` and
//! `write.rs` do not hold.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::sync::Arc;

use axum::{body::Body, response::Response};
use common::{Api, CONFIG_MAPS, PODS, SERVICES, config_map, pod, service};
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

async fn send(
    api: &Api,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Value,
) -> Response {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if body.is_null() {
        Body::empty()
    } else {
        Body::from(body.to_string())
    };
    api.send(request.body(body).unwrap()).await
}

async fn text(response: Response) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn n1_a_missing_media_type_counts_as_json() {
    let api = Api::new().await;
    let response = send(&api, "POST", CONFIG_MAPS, &[], config_map("a")).await;
    assert_eq!(response.status(), 201);
}

#[tokio::test]
async fn n3_what_the_url_says_may_be_left_out_and_not_contradicted() {
    let api = Api::new().await;
    let made = api.made(SERVICES, service("a")).await;
    let (_, read) = api.get(&format!("{SERVICES}/a")).await;
    for object in [&made, &read] {
        assert_eq!(object["kind"], "Service");
        assert_eq!(object["apiVersion"], "v1");
        assert_eq!(object["metadata"]["namespace"], "default");
    }
    for (field, value) in [("kind", "Pod"), ("apiVersion", "v2")] {
        let mut body = made.clone();
        body[field] = value.into();
        let (code, status) = api.put(&format!("{SERVICES}/a"), body).await;
        assert_eq!(code, 400, "{field}: {status}");
    }
}

#[tokio::test]
async fn n5_n12_what_is_not_served_is_406_or_415_with_what_is() {
    let api = Api::new().await;
    for accept in [
        "application/cbor",
        "text/xml",
        "application/json;as=Other;g=meta.k8s.io;v=v1",
    ] {
        let (code, status) = api.get_as(CONFIG_MAPS, accept).await;
        assert_eq!(
            (code.as_u16(), &status["reason"]),
            (406, &json!("NotAcceptable")),
            "{accept}"
        );
        let message = status["message"].as_str().unwrap();
        assert!(message.contains("application/json"), "{message}");
    }
    let both = "application/cbor,application/json";
    assert_eq!(api.get_as(CONFIG_MAPS, both).await.0, 200);
    let cbor = "application/cbor";
    let (code, _) = api
        .call_as("POST", CONFIG_MAPS, cbor, config_map("a"))
        .await;
    assert_eq!(code, 415);
    api.made(CONFIG_MAPS, config_map("a")).await;
    let apply = "application/apply-patch+cbor";
    let path = format!("{CONFIG_MAPS}/a?fieldManager=m");
    assert_eq!(api.call_as("PATCH", &path, apply, json!({})).await.0, 415);
}

#[tokio::test]
async fn n6_patches_and_watches_are_projected_to_metadata() {
    let api = Api::new().await;
    api.made(CONFIG_MAPS, config_map("a")).await;
    let merge = [
        ("accept", METADATA),
        ("content-type", "application/merge-patch+json"),
    ];
    let body = json!({"data": {"x": "y"}});
    let response = send(&api, "PATCH", &format!("{CONFIG_MAPS}/a"), &merge, body).await;
    let object: Value = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(object["kind"], "PartialObjectMetadata");
    assert!(object.get("data").is_none());
    let path = format!("{CONFIG_MAPS}?watch=true");
    let response = send(&api, "GET", &path, &[("accept", METADATA)], Value::Null).await;
    let mut events = common::Events::new(response.into_body());
    let event = events.next().await.unwrap();
    assert_eq!(event["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(event["object"]["metadata"]["name"], "a");
    assert!(event["object"].get("data").is_none());
}

#[tokio::test]
async fn n7_leading_ampersands_durations_and_unknown_parameters_are_no_errors() {
    let api = Api::new().await;
    api.made(CONFIG_MAPS, config_map("a")).await;
    let query = "&limit=500&timeout=7m38s&colour=red&limit=1";
    let (code, list) = api.get(&format!("{CONFIG_MAPS}?{query}")).await;
    assert_eq!(
        (code.as_u16(), list["items"].as_array().unwrap().len()),
        (200, 1)
    );
}

#[tokio::test]
async fn n11_json_is_indented_for_eyes_and_answers_carry_an_id() {
    let api = Api::new().await;
    api.made(CONFIG_MAPS, config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let curl = [("user-agent", "curl/8.5.0")];
    for (path, headers) in [
        (format!("{path}?pretty=true"), &[][..]),
        (path.clone(), &curl),
    ] {
        let response = send(&api, "GET", &path, headers, Value::Null).await;
        assert!(!response.headers()["audit-id"].is_empty());
        assert_eq!(response.headers()["cache-control"], "no-cache, private");
        let text = text(response).await;
        assert!(
            text.starts_with("{\n  \"kind\": \"ConfigMap\",\n"),
            "{text}"
        );
    }
    for path in [path.clone(), format!("{path}?pretty=false")] {
        let headers = if path.contains('?') { &curl[..] } else { &[] };
        let response = send(&api, "GET", &path, headers, Value::Null).await;
        assert!(!text(response).await.contains('\n'));
    }
}

#[tokio::test]
async fn w1_n11_the_head_of_a_watch_comes_before_the_first_event() {
    let api = Api::new().await;
    let mut stream = TcpStream::connect(api.listen().await).await.unwrap();
    let head = format!("GET {CONFIG_MAPS}?watch=true HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    let reading = async {
        while !received.ends_with(b"\r\n\r\n") {
            received.push(stream.read_u8().await.unwrap());
        }
    };
    let patience = std::time::Duration::from_secs(10);
    tokio::time::timeout(patience, reading)
        .await
        .expect("no head");
    let head = String::from_utf8(received).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
    for line in [
        "transfer-encoding: chunked",
        "content-type: application/json",
        "date: ",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
}

#[tokio::test]
async fn d2_both_forms_of_discovery_list_the_same_and_each_group_once() {
    let api = Api::new().await;
    let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let mut groups = Vec::new();
    for root in ["/api", "/apis"] {
        let (_, document) = api.get_as(root, v2).await;
        for group in document["items"].as_array().unwrap() {
            let name = group["metadata"]["name"].as_str().unwrap();
            assert!(!groups.contains(&name.to_owned()), "{name} twice");
            groups.push(name.to_owned());
            for version in group["versions"].as_array().unwrap() {
                let version_name = version["version"].as_str().unwrap();
                let path = match name {
                    "" => format!("/api/{version_name}"),
                    name => format!("/apis/{name}/{version_name}"),
                };
                let (_, legacy) = api.get(&path).await;
                for resource in version["resources"].as_array().unwrap() {
                    let plural = &resource["resource"];
                    let resources = legacy["resources"].as_array().unwrap();
                    let same = resources.iter().find(|legacy| legacy["name"] == *plural);
                    let same = same.unwrap_or_else(|| panic!("{path}: {plural}"));
                    assert_eq!(same["verbs"], resource["verbs"]);
                    assert_eq!(same["singularName"], resource["singularResource"]);
                    assert_eq!(same["categories"], resource["categories"]);
                    let scope = if same["namespaced"] == true {
                        "Namespaced"
                    } else {
                        "Cluster"
                    };
                    assert_eq!(resource["scope"], scope);
                }
            }
        }
    }
}

#[tokio::test]
async fn v1_v4_ignored_fields_go_without_a_word() {
    let api = Api::new().await;
    let mut body = service("a");
    body["spec"]["colour"] = "red".into();
    let path = format!("{SERVICES}?fieldValidation=Ignore");
    let response = send(&api, "POST", &path, &[], body).await;
    assert_eq!(response.status(), 201);
    assert!(response.headers().get("warning").is_none());
    assert!(!text(response).await.contains("colour"));
}

#[tokio::test]
async fn v2_a_strict_patch_with_an_unknown_field_is_422() {
    let api = Api::new().await;
    api.made(SERVICES, service("a")).await;
    for media_type in ["application/merge-patch+json", STRATEGIC] {
        let path = format!("{SERVICES}/a?fieldValidation=Strict");
        let body = json!({"spec": {"colour": "red"}});
        let (code, status) = api.call_as("PATCH", &path, media_type, body).await;
        assert_eq!((code.as_u16(), &status["reason"]), (422, &json!("Invalid")));
        let message = status["message"].as_str().unwrap();
        assert!(
            message.ends_with("strict decoding error: unknown field \"spec.colour\""),
            "{message}"
        );
    }
}

#[tokio::test]
async fn p1_a_json_patch_has_at_most_ten_thousand_operations() {
    let api = Api::new().await;
    api.made(CONFIG_MAPS, config_map("a")).await;
    let operation = json!({"op": "test", "path": "/data/key", "value": "value"});
    let path = format!("{CONFIG_MAPS}/a");
    for (count, wanted) in [(10_000, 200), (10_001, 413)] {
        let patch: Value = std::iter::repeat_n(operation.clone(), count).collect();
        let (code, _) = api
            .call_as("PATCH", &path, "application/json-patch+json", patch)
            .await;
        assert_eq!(code.as_u16(), wanted, "{count}");
    }
}

#[tokio::test]
async fn p2_concurrent_patches_are_applied_one_after_the_other() {
    let api = Arc::new(Api::new().await);
    api.made(CONFIG_MAPS, config_map("a")).await;
    let mut patches = tokio::task::JoinSet::new();
    for index in 0..20 {
        let api = api.clone();
        patches.spawn(async move {
            let body = json!({"data": {format!("k{index}"): "v"}});
            api.merge(&format!("{CONFIG_MAPS}/a"), body).await.0
        });
    }
    while let Some(code) = patches.join_next().await {
        assert_eq!(code.unwrap(), 200);
    }
    let (_, object) = api.get(&format!("{CONFIG_MAPS}/a")).await;
    assert_eq!(object["data"].as_object().unwrap().len(), 21);
}

#[tokio::test]
async fn p4_p6_p7_lists_by_their_strategy_and_no_directive_is_stored() {
    let api = Api::new().await;
    let mut body = pod("a");
    body["metadata"]["finalizers"] = json!(["example.com/a"]);
    body["spec"]["tolerations"] = json!([{"key": "x", "operator": "Exists"}]);
    let made = api.made(PODS, body).await;
    let path = format!("{PODS}/a");
    let patch = async |body: Value| {
        let (code, object) = api.call_as("PATCH", &path, STRATEGIC, body).await;
        assert_eq!(code, 200, "{object}");
        object
    };
    let same = patch(json!({"metadata": {"annotations": {}}})).await;
    assert_eq!(
        same["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"],
        "P6"
    );
    let united = patch(json!({"metadata": {"finalizers": ["example.com/b"]}})).await;
    let finalizers = united["metadata"]["finalizers"].as_array().unwrap();
    assert_eq!(finalizers.len(), 2, "P7");
    for finalizer in ["example.com/a", "example.com/b"] {
        assert!(finalizers.contains(&json!(finalizer)), "P7");
    }
    let replaced = patch(json!({
        "metadata": {"labels": {"$patch": "replace", "only": "this"}, "$deleteFromPrimitiveList/finalizers": ["example.com/a"]},
        "spec": {"containers": [{"name": "c", "image": "minik.dev/echo:2"}]},
    }))
    .await;
    assert_eq!(
        replaced["metadata"]["labels"],
        json!({"only": "this"}),
        "P5"
    );
    assert_eq!(
        replaced["metadata"]["finalizers"],
        json!(["example.com/b"]),
        "P5"
    );
    let containers = replaced["spec"]["containers"].as_array().unwrap();
    assert_eq!(
        (containers.len(), &containers[0]["image"]),
        (1, &json!("minik.dev/echo:2")),
        "P4"
    );
    assert!(!replaced.to_string().contains('$'), "P6");
}

#[tokio::test]
async fn p8_only_an_apply_may_force() {
    let api = Api::new().await;
    api.made(CONFIG_MAPS, config_map("a")).await;
    let (code, _) = api
        .merge(&format!("{CONFIG_MAPS}/a?force=true"), json!({}))
        .await;
    assert_eq!(code, 422);
}

#[tokio::test]
async fn e5_wrong_verbs_say_which_are_allowed() {
    let api = Api::new().await;
    let response = send(&api, "PUT", CONFIG_MAPS, &[], config_map("a")).await;
    assert_eq!(response.status(), 405);
    assert_eq!(response.headers()["allow"], "GET, POST, DELETE");
    // Each path allows what its kind and place serve.
    for (method, path, allowed) in [
        ("POST", "/api/v1/configmaps", "GET"),
        ("DELETE", "/apis/networking.k8s.io/v1/ipaddresses", "GET"),
        (
            "PUT",
            "/apis/networking.k8s.io/v1/ipaddresses/10.96.0.1",
            "GET",
        ),
        (
            "POST",
            "/api/v1/namespaces/default/pods/a/status",
            "GET, PUT, PATCH",
        ),
        ("GET", "/api/v1/namespaces/default/pods/a/eviction", "POST"),
        (
            "GET",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            "POST",
        ),
    ] {
        let response = send(&api, method, path, &[], Value::Null).await;
        assert_eq!(response.status(), 405, "{method} {path}");
        assert_eq!(response.headers()["allow"], allowed, "{method} {path}");
    }
    let response = send(&api, "POST", "/version", &[], Value::Null).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["allow"]),
        (405, &"GET, HEAD".parse().unwrap())
    );
}

#[tokio::test]
async fn t1_t5_tables_have_the_accepted_version_and_say_which_pods_are_over() {
    let api = Api::new().await;
    api.made(PODS, pod("a")).await;
    let status = json!({"status": {"phase": "Succeeded"}});
    assert_eq!(api.merge(&format!("{PODS}/a/status"), status).await.0, 200);
    let accept = "application/json;as=Table;v=v1beta1;g=meta.k8s.io";
    let (_, table) = api.get_as(PODS, accept).await;
    assert_eq!(table["apiVersion"], "meta.k8s.io/v1beta1");
    let condition = &table["rows"][0]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["status"]),
        (&json!("Completed"), &json!("True"))
    );
    assert_eq!(condition["reason"], "Succeeded");
}

#[tokio::test]
async fn n8_large_answers_are_compressed_for_those_who_take_it() {
    use std::io::Read as _;
    let api = Api::new().await;
    let mut large = config_map("large");
    large["data"]["text"] = "large ".repeat(30_000).into();
    api.made(CONFIG_MAPS, large).await;
    let plain = send(&api, "GET", CONFIG_MAPS, &[], Value::Null).await;
    assert!(!plain.headers().contains_key("content-encoding"));
    assert_eq!(plain.headers()["vary"], "Accept-Encoding");
    let plain = plain.into_body().collect().await.unwrap().to_bytes();

    let accepts = [("accept-encoding", "gzip")];
    let answer = send(&api, "GET", CONFIG_MAPS, &accepts, Value::Null).await;
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let compressed = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(compressed.len() < plain.len() / 10);
    let mut text = Vec::new();
    let mut decoder = flate2::read::GzDecoder::new(&*compressed);
    decoder.read_to_end(&mut text).unwrap();
    assert_eq!(text, plain);

    let small = send(&api, "GET", "/api/v1/namespaces", &accepts, Value::Null).await;
    assert!(!small.headers().contains_key("content-encoding"));
    let watch = format!("{CONFIG_MAPS}?watch=true");
    let watch = send(&api, "GET", &watch, &accepts, Value::Null).await;
    assert!(!watch.headers().contains_key("content-encoding"));
}

#[tokio::test]
async fn v7_endpoints_are_said_to_be_deprecated() {
    let api = Api::new().await;
    let path = "/api/v1/namespaces/default/endpoints";
    let answer = send(&api, "GET", path, &[], Value::Null).await;
    let warning = answer.headers()["warning"].to_str().unwrap().to_owned();
    assert!(
        warning.contains("use discovery.k8s.io/v1 EndpointSlice"),
        "{warning}"
    );
    let answer = send(&api, "GET", CONFIG_MAPS, &[], Value::Null).await;
    assert!(!answer.headers().contains_key("warning"));
}
