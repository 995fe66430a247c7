//! However a path is spelled, nobody reads by it what they may not: what is asked of the authorizer is what is served (U7).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod control;

use control::{Client, Running, eventually};
use serde_json::{Value, json};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const SECRET: &str = "/api/v1/namespaces/x/secrets/s";
/// What is in the Secret, in base64: `inside`.
const INSIDE: &str = "aW5zaWRl";

/// Ways to write the path of the Secret, or of something with it in it, and what an administrator gets.
const SPELLINGS: [(&str, u16); 45] = [
    (SECRET, 200),
    ("/api/v1/namespaces/x/secrets/s/", 200),
    ("/api/v1/namespaces/x/%73ecrets/s", 200),
    ("/api/v1/namespaces/x/secrets/%73", 200),
    ("/api/v1/namespaces/%78/secrets/s", 200),
    ("/api/v1/%6eamespaces/x/secrets/s", 200),
    ("/%61pi/v1/namespaces/x/secrets/s", 200),
    ("/api/%76%31/namespaces/x/secrets/s?pretty=1", 200),
    ("http://localhost/api/v1/namespaces/x/secrets/s", 200),
    ("/api/v1/namespaces/x/secrets", 200),
    ("/api/v1/namespaces/x/secrets/", 200),
    ("/api/v1/secrets", 200),
    ("/api/v1/secrets?fieldSelector=metadata.namespace%3Dx", 200),
    (
        "/api/v1/namespaces/x/secrets?fieldSelector=metadata.name%3Ds",
        200,
    ),
    (
        "/api/v1/namespaces/x/secrets?watch=true&timeoutSeconds=1",
        200,
    ),
    ("/api/v1/watch/namespaces/x/secrets?timeoutSeconds=1", 200),
    ("/api/v1/watch/namespaces/x/secrets/s?timeoutSeconds=1", 200),
    ("/api/v1/watch/secrets?timeoutSeconds=1", 200),
    // None of these is the same.
    ("//api/v1/namespaces/x/secrets/s", 404),
    ("/api//v1/namespaces/x/secrets/s", 404),
    ("/api/v1/namespaces//x/secrets/s", 404),
    ("/api/v1/namespaces/x//secrets/s", 404),
    ("/api/v1/namespaces/x/secrets//s", 404),
    ("/api/v1/namespaces/x/secrets/s//", 404),
    ("/./api/v1/namespaces/x/secrets/s", 404),
    ("/api/./v1/namespaces/x/secrets/s", 404),
    ("/api/v1/namespaces/x/pods/../secrets/s", 404),
    ("/api/v1/namespaces/x/pods/../../secrets", 404),
    ("/api/v1/namespaces/x/pods/%2e%2e/secrets/s", 404),
    ("/api/v1/namespaces/x/pods/..%2fsecrets%2fs", 404),
    ("/api/v1/namespaces/x/pods%2f..%2fsecrets/s", 404),
    ("/api/v1/namespaces/x%2fsecrets%2fs", 404),
    ("/api/v1/namespaces/x/secrets%2fs", 404),
    ("/api/v1/namespaces/x/secrets%5cs", 404),
    ("/api/v1/namespaces/x/%2573ecrets/s", 404),
    ("/api/v1/namespaces/x/SECRETS/s", 404),
    ("/api/v1/namespaces/x/Secrets/s", 404),
    ("/API/v1/namespaces/x/secrets/s", 404),
    ("/api/v1/namespaces/x/secrets;a=b/s", 404),
    ("/api/v1/namespaces/x/secrets%00/s", 404),
    ("/api/v1/namespaces/x/%c0%aesecrets/s", 404),
    ("/healthz/../api/v1/namespaces/x/secrets/s", 404),
    ("/livez/%2e%2e/api/v1/namespaces/x/secrets/s", 404),
    ("/version/..%2fapi/v1/namespaces/x/secrets/s", 404),
    ("/apis//v1/namespaces/x/secrets/s", 404),
];

async fn made(client: &Client, path: &str, body: Value) {
    let (code, answer) = client.post(path, body).await;
    assert_eq!(code, 201, "{path}: {answer}");
}

/// A server with a Secret in namespace `x`; and who may do everything with Pods in `x`, everything with Secrets in `y`, and
/// read what is below `/healthz/` and `/api/v1/namespaces/x/pods/`, all as paths.
async fn server() -> Running {
    let server = Running::start().await;
    let admin = server.admin();
    for namespace in ["x", "y"] {
        let named = json!({"metadata": {"name": namespace}});
        made(&admin, "/api/v1/namespaces", named).await;
    }
    let secret = json!({"metadata": {"name": "s"}, "data": {"key": INSIDE}});
    made(&admin, "/api/v1/namespaces/x/secrets", secret).await;
    let rules =
        |resources: &[&str]| json!([{"verbs": ["*"], "apiGroups": [""], "resources": resources}]);
    let paths = json!([{
        "verbs": ["*"],
        "nonResourceURLs": ["/healthz/*", "/livez/*", "/version/*", "/api/v1/namespaces/x/pods/*", "//*"],
    }]);
    for (namespace, rules) in [
        (Some("x"), rules(&["pods", "pods/*"])),
        (Some("y"), rules(&["secrets", "namespaces"])),
        (None, paths),
    ] {
        let (kind, home) = match namespace {
            Some(namespace) => ("Role", format!("{RBAC}/namespaces/{namespace}/role")),
            None => ("ClusterRole", format!("{RBAC}/clusterrole")),
        };
        let role = json!({"metadata": {"name": "jane"}, "rules": rules});
        made(&admin, &format!("{home}s"), role).await;
        let binding = json!({
            "metadata": {"name": "jane"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "jane"},
            "subjects": [{"kind": "User", "name": "jane"}],
        });
        made(&admin, &format!("{home}bindings"), binding).await;
    }
    server
}

#[tokio::test]
async fn u7_no_spelling_of_a_path_gets_around_the_authorizer() {
    let server = server().await;
    // HTTP/1.1 sends a path as it is.
    let admin = server.admin().with_alpn(&[]);
    let jane = admin
        .clone()
        .with_header("impersonate-user", "jane".to_owned());
    for path in [
        "/api/v1/namespaces/x/pods",
        "/api/v1/namespaces/y/secrets",
        "/api/v1/namespaces/x/%70ods/",
    ] {
        eventually(path, async || (jane.get(path).await.0 == 200).then_some(())).await;
    }
    let nobody = server.anonymous().with_alpn(&[]);
    for (path, wanted) in SPELLINGS {
        let (code, text) = admin.get_text(path).await;
        assert_eq!(code, wanted, "{path}: {text}");
        // What is served is what was meant, or nothing.
        assert_eq!(text.contains(INSIDE), wanted == 200, "{path}: {text}");
        for client in [&jane, &nobody] {
            let (code, text) = client.get_text(path).await;
            let refused = if wanted == 200 {
                code == 403
            } else {
                code == 403 || code == 404
            };
            assert!(refused, "{path}: {code} {text}");
            assert!(!text.contains(INSIDE), "{path}: {text}");
        }
    }
    server.stop().await;
}

/// Writing is no other matter.
#[tokio::test]
async fn u7_no_spelling_of_a_path_writes_what_one_may_not() {
    let server = server().await;
    let admin = server.admin().with_alpn(&[]);
    let jane = admin
        .clone()
        .with_header("impersonate-user", "jane".to_owned());
    let pods = "/api/v1/namespaces/x/pods";
    eventually(pods, async || (jane.get(pods).await.0 == 200).then_some(())).await;
    let change = json!({"data": {"key": ""}, "metadata": {"name": "s"}});
    for (path, _) in SPELLINGS {
        for code in [
            jane.patch(path, change.clone()).await.0,
            jane.put(path, change.clone()).await.0,
            jane.post(path, change.clone()).await.0,
            jane.delete(path).await.0,
        ] {
            assert!(matches!(code, 403..=405), "{path}: {code}");
        }
    }
    let (code, secret) = admin.get(SECRET).await;
    assert_eq!((code, &secret["data"]["key"]), (200, &json!(INSIDE)));
    server.stop().await;
}
