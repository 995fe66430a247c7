//! The server on loopback, over real TLS.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod control;

use apiserver::{
    auth::token,
    server::{Config, Server, ServerError},
};
use control::{
    Running, config, eventually,
    join::{SECRET, add_token, join, joined},
};
use serde_json::{Value, json};

#[tokio::test]
async fn strangers_reach_the_health_paths_and_the_ca_and_nothing_else() {
    let server = Running::start().await;
    let client = server.anonymous();
    for path in ["/livez", "/readyz", "/healthz", "/version"] {
        assert_eq!(client.get(path).await.0, 200, "{path}");
    }
    let (code, ca) = client.get_text("/minik/v1/ca").await;
    assert_eq!((code, ca), (200, server.ca_pem.clone()));
    for path in [
        "/api",
        "/api/v1/nodes",
        "/minik/v1/config",
        "/minik/v1/applied",
        "/unknown",
    ] {
        let (code, status) = client.get(path).await;
        assert_eq!(
            (code, &status["reason"]),
            (403, &json!("Forbidden")),
            "{path}"
        );
    }
    let bearer = server
        .anonymous()
        .with_header("authorization", "Bearer x".into());
    assert_eq!(bearer.get("/api/v1/nodes").await.0, 401);
    server.stop().await;
}

#[tokio::test]
async fn an_administrator_finds_what_every_cluster_has() {
    let server = Running::start().await;
    let admin = server.admin();
    for path in [
        "/api/v1/namespaces/kube-node-lease",
        "/api/v1/namespaces/default/services/kubernetes",
        "/api/v1/namespaces/kube-system/services/kube-dns",
        "/apis/networking.k8s.io/v1/servicecidrs/kubernetes",
    ] {
        assert_eq!(admin.get(path).await.0, 200, "{path}");
    }
    let (_, service) = admin
        .get("/api/v1/namespaces/default/services/kubernetes")
        .await;
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    server.stop().await;
}

#[tokio::test]
async fn n10_http_1_and_a_client_without_alpn_are_served() {
    let server = Running::start().await;
    for alpn in [&[][..], &["http/1.1"], &["h2"]] {
        let (code, _) = server.admin().with_alpn(alpn).get("/api/v1/nodes").await;
        assert_eq!(code, 200, "{alpn:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn n10_the_certificate_is_for_every_name_the_api_has() {
    let server = Running::start().await;
    for name in [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "127.0.0.1",
        "192.0.2.7",
        "10.96.0.1",
    ] {
        let connected = server.anonymous().connect(name).await;
        assert!(connected.is_ok(), "{name}: {connected:?}");
    }
    for other in ["example.com", "192.0.2.8"] {
        let connected = server.anonymous().connect(other).await;
        assert!(connected.is_err(), "{other}");
    }
    server.stop().await;
}

#[tokio::test]
async fn n10_a_connection_carries_250_watches_and_still_answers() {
    let server = Running::start().await;
    let connection = server.admin().http2().await;
    let ask = async |path: &str| {
        let request = http::Request::get(format!("https://localhost{path}"));
        let request = request.body(axum::body::Body::empty()).unwrap();
        let response = connection.clone().send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        response
    };
    let mut watches = Vec::new();
    for _ in 0..250 {
        watches.push(ask("/api/v1/namespaces/default/configmaps?watch=true").await);
    }
    let answer = ask("/version").await;
    let body = http_body_util::BodyExt::collect(answer.into_body()).await;
    assert!(!body.unwrap().to_bytes().is_empty());
    // Each of them is alive.
    let made = json!({"metadata": {"name": "told"}});
    let path = "/api/v1/namespaces/default/configmaps";
    assert_eq!(server.admin().post(path, made).await.0, 201);
    for watch in watches {
        let mut body = watch.into_body();
        let mut told = String::new();
        while !told.contains("\"told\"") {
            let frame = http_body_util::BodyExt::frame(&mut body)
                .await
                .unwrap()
                .unwrap();
            told += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
        }
    }
    drop(connection);
    server.stop().await;
}

#[tokio::test]
async fn a_token_lets_a_node_in_and_each_refusal_says_why() {
    let server = Running::start().await;
    add_token(&server, "good00", "2099-01-01T00:00:00Z").await;
    // Written behind the back of the controller that deletes expired ones: it may be gone before it is used.
    add_token(&server, "old000", "2001-01-01T00:00:00Z").await;

    let (code, answer) = join(&server, "good00", SECRET, "n1").await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(answer["clusterDomain"], "cluster.local");
    assert_eq!(answer["clusterDNS"], "10.96.0.10");
    assert_eq!(answer["serviceCIDRs"], json!(["10.96.0.0/16"]));
    assert_eq!(answer["ca"], server.ca_pem.as_str());

    let message = |answer: &Value| answer["message"].as_str().unwrap().to_owned();
    let (code, answer) = join(&server, "old000", SECRET, "n1").await;
    assert_eq!(code, 401);
    assert!(message(&answer).contains("expired"), "{answer}");
    let (code, answer) = join(&server, "good00", &SECRET.replace('a', "b"), "n1").await;
    assert_eq!(code, 401);
    assert!(message(&answer).contains("another secret"), "{answer}");
    let (code, answer) = join(&server, "none00", SECRET, "n1").await;
    assert_eq!(code, 401);
    assert!(message(&answer).contains("does not exist"), "{answer}");
    let (code, answer) = join(&server, "good00", SECRET, "No_Name").await;
    assert_eq!(code, 400, "{answer}");

    let path = format!(
        "/api/v1/namespaces/kube-system/secrets/{}good00",
        token::NAME_PREFIX
    );
    assert_eq!(server.admin().delete(&path).await.0, 200);
    let (code, answer) = join(&server, "good00", SECRET, "n1").await;
    assert_eq!(code, 401);
    assert!(message(&answer).contains("revoked"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_name_in_use_by_a_live_node_is_refused() {
    let server = Running::start().await;
    add_token(&server, "good00", "2099-01-01T00:00:00Z").await;
    let admin = server.admin();
    let node = json!({"metadata": {"name": "n1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(admin.post("/api/v1/nodes", node.clone()).await.0, 201);
    let (code, status) = admin.patch("/api/v1/nodes/n1/status", node).await;
    assert_eq!(code, 200, "{status}");
    let (code, answer) = join(&server, "good00", SECRET, "n1").await;
    assert_eq!(
        (code, &answer["reason"]),
        (409, &json!("Conflict")),
        "{answer}"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_node_touches_its_own_objects_only() {
    let server = Running::start().await;
    add_token(&server, "good00", "2099-01-01T00:00:00Z").await;
    let node = joined(&server, "n1").await;
    let named = |name: &str| json!({"metadata": {"name": name}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

    assert_eq!(node.post("/api/v1/nodes", named("n1")).await.0, 201);
    assert_eq!(node.post(leases, named("n1")).await.0, 201);
    assert_eq!(node.post("/api/v1/nodes", named("n2")).await.0, 403);
    assert_eq!(node.post(leases, named("n2")).await.0, 403);
    // However the path is spelled.
    for path in [
        "/api/v1/node%73",
        "/api/v1/nodes/",
        &leases.replace("leases", "lease%73"),
    ] {
        assert_eq!(node.post(path, named("n2")).await.0, 403, "{path}");
    }
    let admin = server.admin();
    assert_eq!(admin.post("/api/v1/nodes", named("n2")).await.0, 201);
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(node.patch("/api/v1/nodes/n1", labels.clone()).await.0, 200);
    assert_eq!(node.patch("/api/v1/nodes/n2", labels).await.0, 403);

    let pod = |name: &str, node: &str| json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
    let pods = "/api/v1/namespaces/default/pods";
    for (name, on) in [("a", "n1"), ("b", "n2")] {
        let (code, answer) = admin.post(pods, pod(name, on)).await;
        assert_eq!(code, 201, "{answer}");
    }
    let status = json!({"status": {"phase": "Running"}});
    assert_eq!(
        node.patch(&format!("{pods}/a/status"), status.clone())
            .await
            .0,
        200
    );
    assert_eq!(node.patch(&format!("{pods}/b/status"), status).await.0, 403);
    assert_eq!(
        node.delete(&format!("{pods}/b?gracePeriodSeconds=0"))
            .await
            .0,
        403
    );
    assert_eq!(
        node.delete(&format!("{pods}/a?gracePeriodSeconds=0"))
            .await
            .0,
        200
    );
    assert_eq!(node.get("/api/v1/pods").await.0, 403);
    assert_eq!(
        node.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn2")
            .await
            .0,
        403
    );
    assert_eq!(
        node.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1")
            .await
            .0,
        200
    );
    let (code, status) = node.get("/api/v1/namespaces/kube-system/secrets").await;
    assert_eq!(code, 403);
    let message = status["message"].as_str().unwrap();
    let wanted = "secrets is forbidden: User \"system:node:n1\" cannot list resource \"secrets\" in API group \"\" in \
                  the namespace \"kube-system\"";
    assert!(message.starts_with(wanted), "{message}");

    assert_eq!(
        node.put("/minik/v1/nodes/n1/applied", json!({"revision": "7"}))
            .await
            .0,
        204
    );
    assert_eq!(
        node.put("/minik/v1/nodes/n2/applied", json!({"revision": "7"}))
            .await
            .0,
        403
    );
    assert_eq!(
        node.put("/minik/v1/nodes/n1/applied", json!({"revision": "x"}))
            .await
            .0,
        400
    );
    // Whoever waits for a revision is answered when the node has it, or when the time is up.
    let late = admin
        .get("/minik/v1/applied?atLeast=8&timeoutSeconds=0")
        .await;
    assert_eq!(
        (late.0, &late.1["nodes"]["n1"]["revision"]),
        (200, &json!("7"))
    );
    let waits = tokio::spawn({
        let admin = admin.clone();
        async move {
            admin
                .get("/minik/v1/applied?atLeast=8&timeoutSeconds=20")
                .await
        }
    });
    let report = json!({"revision": "8"});
    assert_eq!(node.put("/minik/v1/nodes/n1/applied", report).await.0, 204);
    let reached = waits.await.unwrap();
    assert_eq!(
        (reached.0, &reached.1["nodes"]["n1"]["revision"]),
        (200, &json!("8"))
    );
    let badly = admin.get("/minik/v1/applied?atLeast=x").await;
    assert_eq!(badly.0, 400);

    assert_eq!(node.get("/minik/v1/config").await.0, 200);
    assert_eq!(node.get("/minik/v1/applied").await.0, 200);
    let (code, applied) = admin.get("/minik/v1/applied").await;
    assert_eq!(
        (code, &applied["nodes"]["n1"]["revision"]),
        (200, &json!("8"))
    );

    let lending = node
        .clone()
        .with_header("impersonate-user", "minik-admin".into());
    assert_eq!(lending.get("/api/v1/nodes").await.0, 403);
    let lowered = server
        .admin()
        .with_header("impersonate-user", "jane".into());
    assert_eq!(lowered.get("/api/v1/nodes").await.0, 403);
    server.stop().await;
}

#[tokio::test]
async fn a_node_does_not_choose_its_pod_range() {
    let server = Running::start().await;
    add_token(&server, "good00", "2099-01-01T00:00:00Z").await;
    let node = joined(&server, "n1").await;
    let range = json!({"podCIDR": "10.244.0.0/16", "podCIDRs": ["10.244.0.0/16"]});
    let greedy = json!({"metadata": {"name": "n1"}, "spec": range});
    let (code, status) = node.post("/api/v1/nodes", greedy.clone()).await;
    assert_eq!(code, 403);
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("spec.podCIDR"), "{message}");
    let modest = json!({"metadata": {"name": "n1"}});
    assert_eq!(node.post("/api/v1/nodes", modest).await.0, 201);
    let own = "/api/v1/nodes/n1";
    assert_eq!(node.put(own, greedy.clone()).await.0, 403);
    assert_eq!(node.patch(own, greedy).await.0, 403);
    // What the server gave may be said again.
    let mut stored = eventually("the Pod range of n1", async || {
        let (_, stored) = server.admin().get(own).await;
        (!stored["spec"]["podCIDR"].is_null()).then_some(stored)
    })
    .await;
    stored["metadata"]["resourceVersion"] = json!("");
    stored["metadata"]["labels"] = json!({"a": "b"});
    let (code, status) = node.put(own, stored).await;
    assert_eq!(code, 200, "{status}");
    server.stop().await;
}

#[tokio::test]
async fn only_the_owner_reads_keys_and_the_store() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    std::fs::create_dir(&store).unwrap();
    std::fs::set_permissions(&store, std::fs::Permissions::from_mode(0o755)).unwrap();
    let server = Running::with(dir, |_| {}).await;
    let dir = server.stop().await;
    assert_eq!(mode(&store), 0o700, "Secrets are in there");
    assert_eq!(mode(&dir.path().join("tls")), 0o700);
    for file in [
        "tls/ca.key",
        "tls/server.key",
        "tls/admin.key",
        "admin.kubeconfig",
    ] {
        assert_eq!(mode(&dir.path().join(file)), 0o600, "{file}");
    }
}

#[tokio::test]
async fn a_taken_port_names_the_flag_and_what_to_do() {
    let server = Running::start().await;
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        bind: server.address,
        ..config(dir.path())
    };
    let Err(error) = Server::bind(config) else {
        panic!("the port is taken");
    };
    assert!(matches!(error, ServerError::AddressInUse { .. }));
    let message = error.to_string();
    assert!(
        message.starts_with(&format!("--bind {}: ", server.address)),
        "{message}"
    );
    assert!(message.contains("give another port"), "{message}");
    server.stop().await;
}

#[tokio::test]
async fn a_data_dir_that_cannot_be_used_names_the_flag_and_what_to_do() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let Err(error) = Server::bind(config(file.path())) else {
        panic!("a file is no directory");
    };
    let message = error.to_string();
    assert!(
        message.starts_with(&format!("--data-dir {}: ", file.path().display()))
            && message.ends_with("give a directory"),
        "{message}"
    );
}

#[tokio::test]
async fn an_inherited_socket_is_served_too() {
    let dir = tempfile::tempdir().unwrap();
    let extra = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = extra.local_addr().unwrap();
    let server = Running::with(dir, |config| config.inherited.push(extra)).await;
    assert_eq!(server.admin().at(address).get("/api/v1/nodes").await.0, 200);
    server.stop().await;
}

#[tokio::test]
async fn stopping_ends_watches_between_two_events_and_closes_the_store() {
    let server = Running::start().await;
    let client = server.admin();
    let path = "/api/v1/namespaces?watch=true&resourceVersion=0";
    let watch = tokio::spawn(async move { client.get_text(path).await });
    server.admin().get("/api/v1/nodes").await;
    let dir = server.stop().await;
    let (code, lines) = watch.await.unwrap();
    assert!(code == 200 || code == 0, "{code}");
    for line in lines.lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }
    let again = Running::with(dir, |_| {}).await;
    assert_eq!(again.admin().get("/api/v1/namespaces/default").await.0, 200);
    again.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_the_ca_and_the_tokens() {
    let server = Running::start().await;
    add_token(&server, "good00", "2099-01-01T00:00:00Z").await;
    let ca = server.ca_pem.clone();
    let dir = server.stop().await;
    let again = Running::with(dir, |_| {}).await;
    assert_eq!(again.ca_pem, ca);
    let (code, answer) = join(&again, "good00", SECRET, "n1").await;
    assert_eq!(code, 200, "{answer}");
    again.stop().await;
}
