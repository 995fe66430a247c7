//! The audit log: who did what, by whose rights, and nothing of what it was about.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod control;

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use apiserver::audit::LogConfig;
use control::{Running, eventually};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn events(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

async fn server(path: &Path) -> Running {
    let config = LogConfig {
        path: path.to_owned(),
        max_bytes: 1 << 20,
        max_backups: 1,
    };
    Running::with(tempfile::tempdir().unwrap(), |server| {
        server.audit = Some(config);
    })
    .await
}

#[tokio::test]
async fn n11_each_request_is_told_by_its_audit_id_without_bodies_and_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let server = server(&path).await;
    let admin = server.admin();
    let map = json!({"metadata": {"name": "m"}, "data": {"k": "inside-the-body"}});
    assert_eq!(admin.post(MAPS, map).await.0, 201);
    let jane = server
        .admin()
        .with_header("impersonate-user", "jane".into());
    let secrets = "/api/v1/namespaces/default/secrets/s";
    assert_eq!(jane.get(secrets).await.0, 403);
    let stranger = server
        .anonymous()
        .with_header("authorization", "Bearer not-a-token".into());
    assert_eq!(stranger.get("/api").await.0, 401);
    assert_eq!(server.anonymous().get("/readyz").await.0, 200);
    let node = server
        .admin()
        .with_header("impersonate-user", "system:node:a".into())
        .with_header("impersonate-group", "system:nodes".into());
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let (own, of_another) = (format!("{leases}/a"), format!("{leases}/b"));
    assert_eq!(node.get(&own).await.0, 404);
    assert_eq!(node.get(&of_another).await.0, 403);
    let (code, headers) = admin.head(&format!("{MAPS}/m")).await;
    let id = headers["audit-id"].to_str().unwrap().to_owned();
    assert_eq!(code, 200);
    let (_, headers) = stranger.head("/api").await;
    assert!(headers.contains_key("audit-id"));
    let watch = format!("{MAPS}?watch=true&timeoutSeconds=1");
    assert_eq!(admin.get_text(&watch).await.0, 200);
    // What another one may do, by a role; and what a rule keeps him from although he may.
    let admin_of = json!({
        "metadata": {"name": "joe"}, "roleRef": {"kind": "ClusterRole", "name": "admin"},
        "subjects": [{"kind": "User", "name": "joe"}],
    });
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let bound = admin.post(&format!("{roles}/rolebindings"), admin_of).await;
    assert_eq!(bound.0, 201, "{}", bound.1);
    let joe = server.admin().with_header("impersonate-user", "joe".into());
    let of_joe = format!("{MAPS}/m?pretty=false");
    eventually("joe is an administrator", async || {
        (joe.get(&of_joe).await.0 == 200).then_some(())
    })
    .await;
    let too_much = json!({
        "metadata": {"name": "all"},
        "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
    });
    let (code, _) = joe.post(&format!("{roles}/roles"), too_much).await;
    assert_eq!(code, 403);
    let (_, metrics) = admin.get_text("/metrics").await;
    let losses = "apiserver_audit_error_total{plugin=\"log\"} 0\n";
    assert!(metrics.contains(losses), "{metrics}");
    server.stop().await;

    let text = std::fs::read_to_string(&path).unwrap();
    for secret in ["inside-the-body", "not-a-token", "Bearer", "/readyz"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let events = events(&path);
    let find = |wanted: &dyn Fn(&&Value) -> bool| events.iter().find(wanted).unwrap().clone();

    let created = find(&|event| event["verb"] == "create" && event["requestURI"] == MAPS);
    for (field, wanted) in [
        ("kind", json!("Event")),
        ("apiVersion", json!("audit.k8s.io/v1")),
        ("level", json!("Metadata")),
        ("stage", json!("ResponseComplete")),
        ("sourceIPs", json!(["127.0.0.1"])),
        (
            "objectRef",
            json!({"resource": "configmaps", "namespace": "default", "apiVersion": "v1"}),
        ),
        ("responseStatus", json!({"metadata": {}, "code": 201})),
    ] {
        assert_eq!(created[field], wanted, "{field} of {created}");
    }
    assert_eq!(created["user"]["username"], "minik-admin");
    assert_eq!(created.get("impersonatedUser"), None);
    let decision = "authorization.k8s.io/decision";
    assert_eq!(created["annotations"][decision], "allow");
    for field in ["requestReceivedTimestamp", "stageTimestamp"] {
        let time = created[field].as_str().unwrap();
        assert_eq!(time.len(), "2026-01-01T00:00:00.000000Z".len(), "{time}");
    }

    let refused = find(&|event| event["requestURI"] == secrets);
    assert_eq!(refused["user"]["username"], "minik-admin");
    assert_eq!(refused["impersonatedUser"]["username"], "jane");
    assert_eq!(refused["objectRef"]["name"], "s");
    assert_eq!(
        refused["responseStatus"],
        json!({"metadata": {}, "status": "Failure", "reason": "Forbidden", "code": 403})
    );
    let told = |path: &str| {
        let of_path = events.iter().filter(|event| event["requestURI"] == path);
        of_path.count()
    };
    assert_eq!(told(&own), 0, "nodes look at their Leases all the time");
    assert_eq!(told(&of_another), 1);
    assert_eq!(refused["annotations"][decision], "forbid");
    let reason = &refused["annotations"]["authorization.k8s.io/reason"];
    assert!(reason.as_str().unwrap().contains("jane"), "{reason}");

    let reason = "authorization.k8s.io/reason";
    assert_eq!(
        created["annotations"][reason], "",
        "as upstream says of administrators"
    );
    let by_role =
        find(&|event| event["requestURI"] == of_joe && event["responseStatus"]["code"] == 200);
    let wanted =
        "RBAC: allowed by RoleBinding \"joe/default\" of ClusterRole \"admin\" to User \"joe\"";
    assert_eq!(by_role["annotations"][decision], "allow");
    assert_eq!(by_role["annotations"][reason], wanted);
    let kept = find(&|event| event["requestURI"] == format!("{roles}/roles"));
    assert_eq!(kept["responseStatus"]["code"], 403);
    assert_eq!(kept["annotations"][decision], "allow");
    assert_eq!(kept["annotations"][reason], wanted);

    let unknown = find(&|event| event["responseStatus"]["code"] == 401);
    assert_eq!(unknown["user"], json!({}));
    assert_eq!(unknown["responseStatus"]["reason"], "Unauthorized");
    assert_eq!(find(&|event| event["auditID"] == json!(id))["verb"], "get");

    let watched: Vec<_> = events
        .iter()
        .filter(|event| event["verb"] == "watch" && event["requestURI"] == json!(watch))
        .map(|event| (&event["stage"], &event["auditID"]))
        .collect();
    let [(first, a), (second, b)] = watched.as_slice() else {
        panic!("{watched:?}")
    };
    assert_eq!(
        (first.as_str(), second.as_str()),
        (Some("ResponseStarted"), Some("ResponseComplete"))
    );
    assert_eq!(a, b);
}

#[tokio::test]
async fn a_log_that_cannot_be_written_is_named_by_its_flag() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = control::config(dir.path());
    config.audit = Some(LogConfig {
        path: dir.path().join("missing/audit.log"),
        max_bytes: 1 << 20,
        max_backups: 1,
    });
    let error = apiserver::server::Server::bind(config)
        .map(drop)
        .unwrap_err();
    assert!(
        error.to_string().starts_with("--audit-log-path "),
        "{error}"
    );
}
