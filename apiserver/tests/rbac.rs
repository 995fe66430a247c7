//! Roles and bindings on a real server, over TLS: who is refused what, in which words.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod control;

use control::{Client, Running, eventually};
use serde_json::{Value, json};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn somebody(server: &Running, name: &str) -> Client {
    server
        .admin()
        .with_header("impersonate-user", name.to_owned())
}

fn binding(name: &str, kind: &str, role: &str, user: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "User", "name": user}],
    })
}

fn role(name: &str, verbs: &[&str], resources: &[&str]) -> Value {
    json!({
        "metadata": {"name": name},
        "rules": [{"verbs": verbs, "apiGroups": [""], "resources": resources}],
    })
}

async fn made(client: &Client, path: &str, body: Value) -> Value {
    let (code, answer) = client.post(path, body).await;
    assert_eq!(code, 201, "{answer}");
    answer
}

/// Waits until a GET is answered with this code.
async fn answers(client: &Client, path: &str, wanted: u16) {
    eventually(path, async || {
        (client.get(path).await.0 == wanted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn u7_who_may_view_reads_and_is_refused_the_rest_in_upstreams_words() {
    let server = Running::start().await;
    let jane = somebody(&server, "jane");
    let (code, status) = jane.get(PODS).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let view = binding("viewers", "ClusterRole", "view", "jane");
    let view = made(&server.admin(), &bindings, view).await;
    assert_eq!(view["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
    answers(&jane, PODS, 200).await;
    // Who has a role in a namespace sees the namespace itself, and no other.
    assert_eq!(jane.get("/api/v1/namespaces/default").await.0, 200);
    let (code, status) = jane.get("/api/v1/namespaces/kube-system").await;
    let wanted = "namespaces \"kube-system\" is forbidden: User \"jane\" cannot get resource \"namespaces\" in API \
                  group \"\" in the namespace \"kube-system\"";
    assert_eq!((code, &status["message"]), (403, &json!(wanted)));
    let (code, status) = jane.get("/api/v1/namespaces/kube-system/pods").await;
    assert_eq!(code, 403, "{status}");
    let (code, status) = jane.delete(&format!("{PODS}/a")).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "pods \"a\" is forbidden: User \"jane\" cannot delete resource \"pods\" in API group \"\" in the namespace \
         \"default\""
    );
    assert_eq!(jane.get("/apis").await.0, 200, "discovery is everybody's");
    let (code, status) = jane.get("/metrics").await;
    let wanted = "forbidden: User \"jane\" cannot get path \"/metrics\"";
    assert_eq!((code, &status["message"]), (403, &json!(wanted)));

    let (code, _) = server.admin().delete(&format!("{bindings}/viewers")).await;
    assert_eq!(code, 200);
    answers(&jane, PODS, 403).await;
    server.stop().await;
}

#[tokio::test]
async fn nobody_gives_rights_they_do_not_have() {
    let server = Running::start().await;
    let admin = server.admin();
    let joe = somebody(&server, "joe");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let roles = format!("{RBAC}/namespaces/default/roles");
    made(
        &admin,
        &bindings,
        binding("admins", "ClusterRole", "admin", "joe"),
    )
    .await;
    answers(&joe, &roles, 200).await;

    made(&joe, &roles, role("reader", &["get"], &["pods"])).await;
    let (code, status) = joe.post(&roles, role("nodes", &["get"], &["nodes"])).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "roles.rbac.authorization.k8s.io \"nodes\" is forbidden: user \"joe\" (groups=[\"system:authenticated\"]) is \
         attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\"]}"
    );
    // Nor by another way.
    let wider = role("reader", &["get"], &["pods", "nodes"]);
    let path = format!("{roles}/reader");
    assert_eq!(joe.put(&path, wider.clone()).await.0, 403);
    assert_eq!(
        joe.patch(&path, json!({"rules": wider["rules"]})).await.0,
        403
    );
    let (code, _) = joe
        .patch(&path, json!({"metadata": {"labels": {"a": "b"}}}))
        .await;
    assert_eq!(code, 200, "what is held may be kept");
    let mine = binding("mine", "ClusterRole", "cluster-admin", "joe");
    assert_eq!(joe.post(&bindings, mine.clone()).await.0, 403);
    made(
        &joe,
        &bindings,
        binding("edits", "ClusterRole", "edit", "jane"),
    )
    .await;
    let missing = binding("m", "Role", "missing", "jane");
    let (code, status) = joe.post(&bindings, missing.clone()).await;
    assert_eq!(code, 404, "{status}");
    made(&admin, &bindings, missing).await;

    // `bind` and `escalate` lift it, for the roles they name.
    let more = json!({
        "metadata": {"name": "more"},
        "rules": [
            {"verbs": ["bind"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"],
             "resourceNames": ["cluster-admin"]},
            {"verbs": ["escalate"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"],
             "resourceNames": ["reader"]},
        ],
    });
    made(&admin, &format!("{RBAC}/clusterroles"), more).await;
    let granted = binding("more", "ClusterRole", "more", "joe");
    made(&admin, &bindings, granted).await;
    eventually("bind counts", async || {
        (joe.post(&bindings, mine.clone()).await.0 == 201).then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn an_aggregated_role_asks_for_everything_of_its_author() {
    let server = Running::start().await;
    let admin = server.admin();
    let joe = somebody(&server, "joe");
    let path = format!("{RBAC}/clusterroles");
    let writer = json!({
        "metadata": {"name": "roles"},
        "rules": [{
            "verbs": ["list", "create"], "apiGroups": ["*"], "resources": ["*"],
        }],
    });
    made(&admin, &path, writer).await;
    let bindings = format!("{RBAC}/clusterrolebindings");
    made(
        &admin,
        &bindings,
        binding("joe", "ClusterRole", "roles", "joe"),
    )
    .await;
    answers(&joe, &path, 200).await;
    let all = json!({
        "metadata": {"name": "all"},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]},
    });
    let (code, status) = joe.post(&path, all.clone()).await;
    let wanted = "clusterroles.rbac.authorization.k8s.io \"all\" is forbidden: must have cluster-admin privileges to use \
                  an aggregationRule";
    assert_eq!((code, &status["message"]), (403, &json!(wanted)));
    made(&admin, &path, all).await;
    server.stop().await;
}

#[tokio::test]
async fn roles_and_bindings_are_validated_as_upstream_does() {
    let server = Running::start().await;
    let admin = server.admin();
    let roles = format!("{RBAC}/namespaces/default/roles");
    let cluster_roles = format!("{RBAC}/clusterroles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let cluster_bindings = format!("{RBAC}/clusterrolebindings");
    let path_rule = json!({
        "metadata": {"name": "a"}, "rules": [{"verbs": ["get"], "nonResourceURLs": ["/a"]}],
    });
    let cases: &[(&str, Value, &[&str])] = &[
        (
            &roles,
            json!({"metadata": {"name": "a/b"}}),
            &["metadata.name"],
        ),
        (
            &roles,
            json!({"metadata": {"name": "a"}, "rules": [{}]}),
            &["rules[0].verbs", "rules[0].apiGroups", "rules[0].resources"],
        ),
        (&roles, path_rule.clone(), &["rules[0].nonResourceURLs"]),
        (
            &cluster_roles,
            json!({
                "metadata": {"name": "a"},
                "rules": [{"verbs": ["get"], "nonResourceURLs": ["/a"], "resources": ["pods"]}],
            }),
            &["rules[0].nonResourceURLs"],
        ),
        (
            &cluster_roles,
            json!({"metadata": {"name": "a"}, "aggregationRule": {}}),
            &["aggregationRule.clusterRoleSelectors"],
        ),
        (
            &cluster_bindings,
            binding("a", "Role", "view", "jane"),
            &["roleRef.kind"],
        ),
        (
            &bindings,
            json!({
                "metadata": {"name": "a"},
                "roleRef": {"kind": "Role", "name": "a", "apiGroup": "x"},
                "subjects": [
                    {"kind": "User", "name": ""}, {"kind": "Robot", "name": "a"},
                    {"kind": "ServiceAccount", "name": "A_"},
                    {"kind": "Group", "name": "g", "apiGroup": "y"},
                ],
            }),
            &[
                "roleRef.apiGroup",
                "subjects[0].name",
                "subjects[1].kind",
                "subjects[2].name",
                "subjects[3].apiGroup",
            ],
        ),
        (
            &cluster_bindings,
            json!({
                "metadata": {"name": "a"}, "roleRef": {"kind": "ClusterRole", "name": "a"},
                "subjects": [{"kind": "ServiceAccount", "name": "a"}],
            }),
            &["subjects[0].namespace"],
        ),
    ];
    for (path, body, wanted) in cases {
        let (code, status) = admin.post(path, body.clone()).await;
        let causes = status["details"]["causes"].as_array();
        let fields: Vec<&str> = causes
            .into_iter()
            .flatten()
            .filter_map(|cause| cause["field"].as_str())
            .collect();
        assert_eq!(
            (code, fields.as_slice()),
            (422, *wanted),
            "{body}: {status}"
        );
    }
    made(&admin, &cluster_roles, path_rule).await;
    made(
        &admin,
        &cluster_bindings,
        binding("x:y", "ClusterRole", "view", "jane"),
    )
    .await;
    let path = format!("{cluster_bindings}/x:y");
    let (code, status) = admin
        .patch(&path, json!({"roleRef": {"name": "edit"}}))
        .await;
    assert_eq!(code, 422, "{status}");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("cannot change roleRef")
    );
    server.stop().await;
}
