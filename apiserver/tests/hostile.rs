//! Bodies that are small and would cost much: each is refused, or costs little.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use axum::body::Body;
use common::{Api, CONFIG_MAPS, config_map};
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

#[tokio::test]
async fn cve_2019_1002100_copies_of_a_json_patch_do_not_grow_without_end() {
    let api = Api::new().await;
    api.made(CONFIG_MAPS, config_map("a")).await;
    let add = json!({"op": "add", "path": "/data/x", "value": "x".repeat(1000)});
    let double = |index| json!({"op": "copy", "from": "/data", "path": format!("/data/{index}")});
    let patch: Value = std::iter::once(add).chain((0..14).map(double)).collect();
    let path = format!("{CONFIG_MAPS}/a");
    let media_type = "application/json-patch+json";
    let (code, status) = api.call_as("PATCH", &path, media_type, patch).await;
    assert_eq!(code, 413, "{}", status["message"]);
    let few: Value = (0..3)
        .map(|index| json!({"op": "copy", "from": "/data/key", "path": format!("/data/{index}")}))
        .collect();
    let (code, changed) = api.call_as("PATCH", &path, media_type, few).await;
    assert_eq!(code, 200, "{changed}");
    assert_eq!(changed["data"]["2"], "value");
}

#[tokio::test]
async fn an_operation_that_fails_is_named() {
    let api = Api::new().await;
    api.made(CONFIG_MAPS, config_map("a")).await;
    let patch = json!([
        {"op": "test", "path": "/data/key", "value": "value"},
        {"op": "remove", "path": "/data/none"},
    ]);
    let path = format!("{CONFIG_MAPS}/a");
    let (code, status) = api
        .call_as("PATCH", &path, "application/json-patch+json", patch)
        .await;
    assert_eq!(code, 422);
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("operation [1] at \"/data/none\""),
        "{message}"
    );
}

#[tokio::test]
async fn v3_warnings_fit_into_headers_that_clients_accept() {
    let api = Api::new().await;
    let mut body = config_map("a");
    for index in 0..3000 {
        body[format!("unknown{index}")] = 1.into();
    }
    let request = Request::post(CONFIG_MAPS)
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap();
    let response = api.send(request).await;
    assert_eq!(response.status(), 201);
    let warnings: Vec<&str> = response
        .headers()
        .get_all("warning")
        .iter()
        .map(|warning| warning.to_str().unwrap())
        .collect();
    let size_bytes: usize = warnings.iter().map(|warning| warning.len()).sum();
    assert!(size_bytes <= 4096, "{size_bytes}");
    assert_eq!(warnings[0], r#"299 - "unknown field \"unknown0\"""#);
    let more = format!("and {} more warnings", 3000 - (warnings.len() - 1));
    assert!(warnings.last().unwrap().contains(&more), "{warnings:?}");
}

/// Sends YAML; the code and the message.
async fn post_yaml(api: &Api, query: &str, text: String) -> (u16, String) {
    let request = Request::post(format!("{CONFIG_MAPS}{query}"))
        .header("content-type", "application/yaml")
        .body(Body::from(text))
        .unwrap();
    let response = api.send(request).await;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let status: Value = serde_json::from_slice(&bytes).unwrap();
    let message = status["message"].as_str().unwrap_or_default();
    (code, message.to_owned())
}

#[tokio::test]
async fn cve_2019_11253_yaml_that_nests_or_repeats_itself_without_end_is_refused() {
    let api = Api::new().await;
    let (code, message) = post_yaml(&api, "", "[".repeat(200_000)).await;
    assert_eq!(code, 400);
    assert!(
        message.starts_with("the request body is not valid YAML: "),
        "{message}"
    );
    let long = "1,".repeat(1000);
    let aliases = "*x,".repeat(50_000);
    let (code, message) = post_yaml(&api, "", format!("x: &x [{long}]\ny: [{aliases}]\n")).await;
    assert_eq!(code, 400);
    assert!(
        message.contains("aliases make the document too large at line 2"),
        "{message}"
    );
}

#[tokio::test]
async fn v5_duplicate_keys_of_yaml_are_seen() {
    let api = Api::new().await;
    let text = "metadata: {name: a}\ndata:\n  k: x\n  k: y\n";
    let (code, message) = post_yaml(&api, "?fieldValidation=Strict", text.into()).await;
    assert_eq!(code, 400);
    assert!(message.ends_with("duplicate field \"data.k\""), "{message}");
    assert_eq!(post_yaml(&api, "", text.into()).await.0, 201);
}

#[tokio::test]
async fn bodies_that_nest_without_end_are_refused() {
    let api = Api::new().await;
    api.made(CONFIG_MAPS, config_map("a")).await;
    let nested = |open: &str, close: &str| {
        let (open, close) = (open.repeat(100_000), close.repeat(100_000));
        format!("{{\"metadata\": {{\"name\": \"b\"}}, \"data\": {open}{close}}}")
    };
    let one = format!("{CONFIG_MAPS}/a");
    for text in [nested("[", "]"), nested("{\"a\":", "}"), nested("[", "")] {
        for (method, path, media_type) in [
            ("POST", CONFIG_MAPS, "application/json"),
            ("PUT", &one, "application/json"),
            ("PATCH", &one, "application/merge-patch+json"),
            ("PATCH", &one, "application/json-patch+json"),
            ("PATCH", &one, "application/strategic-merge-patch+json"),
            (
                "PATCH",
                &format!("{one}?fieldManager=me"),
                "application/apply-patch+yaml",
            ),
            ("DELETE", &one, "application/json"),
        ] {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("content-type", media_type)
                .body(Body::from(text.clone()));
            let response = api.send(request.unwrap()).await;
            assert_eq!(response.status(), 400, "{method} {media_type}");
        }
    }
    assert_eq!(api.get(&one).await.0, 200, "it is still there");
}
