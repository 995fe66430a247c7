//! Health, overload, requests that take too long: the statements Q of the contract.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use apiserver::{
    auth::User,
    http::{Check, Limits},
};
use axum::{body::Body, response::Response};
use common::{Api, CONFIG_MAPS, config_map};
use futures_util::{StreamExt as _, stream};
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::Notify;

async fn text(response: Response) -> (u16, String) {
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8(bytes.to_vec()).unwrap())
}

async fn get_text(api: &Api, path: &str) -> (u16, String) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    text(api.send(request).await).await
}

/// A server with a check for both probes, one for readiness alone, and the switch that breaks the second.
async fn with_checks() -> (Api, Arc<AtomicBool>) {
    let broken = Arc::new(AtomicBool::new(false));
    let switch = broken.clone();
    let checks = vec![
        Check {
            name: "store",
            live: true,
            run: Box::new(|| Ok(())),
        },
        Check {
            name: "shutdown",
            live: false,
            run: Box::new(move || {
                if switch.load(Relaxed) {
                    return Err("stopping".into());
                }
                Ok(())
            }),
        },
    ];
    (Api::limited(Limits::default(), checks).await, broken)
}

#[tokio::test]
async fn q1_health_paths_say_ok_and_verbosely_what_they_looked_at() {
    let (api, _) = with_checks().await;
    let ok = (200, "ok".to_owned());
    for path in [
        "/healthz",
        "/livez",
        "/readyz",
        "/readyz/shutdown",
        "/livez/store",
    ] {
        assert_eq!(get_text(&api, path).await, ok, "{path}");
    }
    let verbose = |text: &str| (200, text.to_owned());
    assert_eq!(
        get_text(&api, "/livez?verbose").await,
        verbose("[+]ping ok\n[+]store ok\nlivez check passed\n")
    );
    assert_eq!(
        get_text(&api, "/readyz?verbose=true").await,
        verbose("[+]ping ok\n[+]store ok\n[+]shutdown ok\nreadyz check passed\n")
    );
    for path in ["/livez/shutdown", "/readyz/none", "/readyz/store/more"] {
        assert_eq!(get_text(&api, path).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn q1_a_failed_check_is_named_and_can_be_excluded() {
    let (api, broken) = with_checks().await;
    broken.store(true, Relaxed);
    assert_eq!(get_text(&api, "/livez").await.0, 200, "not its concern");
    assert_eq!(
        get_text(&api, "/readyz").await,
        (
            503,
            "[+]ping ok\n[+]store ok\n[-]shutdown failed: stopping\nreadyz check failed\n"
                .to_owned()
        )
    );
    assert_eq!(get_text(&api, "/readyz/shutdown").await.0, 503);
    assert_eq!(get_text(&api, "/readyz/store").await.0, 200);
    let (code, lines) = get_text(&api, "/readyz?verbose&exclude=shutdown&exclude=none").await;
    assert_eq!(code, 200);
    assert!(lines.contains("[+]shutdown excluded: ok\n"), "{lines}");
    assert!(lines.contains("no matches for \"none\""), "{lines}");
}

/// A POST whose body never ends; tells when it is first read.
fn endless_post(reading: Arc<Notify>) -> Request<Body> {
    let started = stream::once(async move {
        reading.notify_one();
        Ok::<_, std::io::Error>("{")
    });
    let body = Body::from_stream(started.chain(stream::pending()));
    Request::post(CONFIG_MAPS).body(body).unwrap()
}

fn node() -> User {
    User {
        name: "system:node:n1".into(),
        groups: vec!["system:nodes".into()],
        ..User::default()
    }
}

/// Creates a ConfigMap as this user; the answer.
async fn create(api: &Api, name: &str, user: Option<User>) -> Response {
    let mut request = Request::post(CONFIG_MAPS)
        .body(Body::from(config_map(name).to_string()))
        .unwrap();
    if let Some(user) = user {
        request.extensions_mut().insert(user);
    }
    api.send(request).await
}

#[tokio::test]
async fn q2_e4_a_full_lane_refuses_with_retry_after_and_the_others_go_on() {
    let limits = Limits {
        reads: 1,
        writes: 1,
        nodes: 1,
        ..Limits::default()
    };
    let api = Arc::new(Api::limited(limits, Vec::new()).await);
    let reading = Arc::new(Notify::new());
    let (busy, post) = (api.clone(), endless_post(reading.clone()));
    let stuck = tokio::spawn(async move { busy.send(post).await });
    reading.notified().await;
    let refused = create(&api, "a", None).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    let (_, body) = text(refused).await;
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status["reason"], "TooManyRequests");
    assert_eq!(status["details"], json!({"retryAfterSeconds": 1}));

    assert_eq!(api.get(CONFIG_MAPS).await.0, 200, "reads have their lane");
    assert_eq!(api.get("/livez").await.0, 200);
    assert_eq!(api.get("/metrics").await.0, 200);
    let agent = create(&api, "of-an-agent", Some(node())).await;
    assert_eq!(agent.status(), 201, "agents have their lane");
    let mut watches = Vec::new();
    for _ in 0..5 {
        watches.push(api.watch(&format!("{CONFIG_MAPS}?watch=true")).await);
    }

    stuck.abort();
    assert!(stuck.await.unwrap_err().is_cancelled());
    assert_eq!(create(&api, "after", None).await.status(), 201);
}

#[tokio::test]
async fn q2_the_lane_of_agents_is_limited_too() {
    let limits = Limits {
        nodes: 0,
        ..Limits::default()
    };
    let api = Api::limited(limits, Vec::new()).await;
    assert_eq!(create(&api, "a", Some(node())).await.status(), 429);
    assert_eq!(create(&api, "a", None).await.status(), 201);
}

#[tokio::test]
async fn q4_a_request_that_takes_too_long_is_answered_504() {
    let limits = Limits {
        answer_within: Duration::from_millis(20),
        ..Limits::default()
    };
    let api = Api::limited(limits, Vec::new()).await;
    let response = api.send(endless_post(Arc::default())).await;
    assert_eq!(response.status(), 504);
    assert_eq!(response.headers()["retry-after"], "1", "E4");
    let (_, body) = text(response).await;
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status["reason"], "Timeout");
    let message = status["message"].as_str().unwrap();
    assert_eq!(message, "Timeout: request did not complete within 20ms");
    // Lists and watches take the time they need.
    let future = api.registry.backend().current().0 + 1;
    let mut watch = api
        .watch(&format!(
            "{CONFIG_MAPS}?watch=true&resourceVersion={future}&timeoutSeconds=1"
        ))
        .await;
    assert!(watch.next().await.is_none());
}
