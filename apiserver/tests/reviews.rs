//! Questions about who may do what, over TLS and by the real kubectl.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod control;

use control::{Client, Running, eventually};
use serde_json::{Value, json};

const AUTHORIZATION: &str = "/apis/authorization.k8s.io/v1";

async fn bind(server: &Running, namespace: &str, role: &str, user: &str) {
    let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings");
    let body = json!({
        "metadata": {"name": user}, "roleRef": {"kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "name": user}],
    });
    let (code, answer) = server.admin().post(&path, body).await;
    assert_eq!(code, 201, "{answer}");
}

async fn asked(client: &Client, plural: &str, spec: Value) -> Value {
    let path = format!("{AUTHORIZATION}/{plural}");
    let (code, answer) = client.post(&path, json!({"spec": spec})).await;
    assert_eq!(code, 201, "{answer}");
    answer["status"].clone()
}

fn verb(verb: &str, resource: &str, namespace: &str) -> Value {
    json!({"verb": verb, "resource": resource, "namespace": namespace})
}

#[tokio::test]
async fn u6_reviews_answer_as_the_authorizer_does_and_store_nothing() {
    let server = Running::start().await;
    bind(&server, "default", "view", "jane").await;
    let (admin, jane) = (
        server.admin(),
        server
            .admin()
            .with_header("impersonate-user", "jane".into()),
    );
    let see_pods = json!({"resourceAttributes": verb("list", "pods", "default")});
    eventually("the binding holds", async || {
        let status = asked(&jane, "selfsubjectaccessreviews", see_pods.clone()).await;
        let by = status["reason"].as_str().unwrap_or_default();
        let by_role = by.contains("of ClusterRole \"view\" to User \"jane\"");
        (status["allowed"] == true && by_role).then_some(())
    })
    .await;
    let may =
        async |spec: Value| asked(&admin, "subjectaccessreviews", spec).await["allowed"].clone();
    for (spec, wanted) in [
        (
            json!({"user": "jane", "resourceAttributes": verb("get", "pods", "default")}),
            true,
        ),
        (
            json!({"user": "jane", "resourceAttributes": verb("get", "pods", "kube-system")}),
            false,
        ),
        (
            json!({"user": "jane", "resourceAttributes": verb("*", "*", "default")}),
            false,
        ),
        (
            json!({"user": "a", "groups": ["system:masters"], "resourceAttributes": verb("*", "*", "")}),
            true,
        ),
        (
            json!({"user": "a", "nonResourceAttributes": {"path": "/metrics", "verb": "get"}}),
            false,
        ),
        (
            json!({"user": "a", "nonResourceAttributes": {"path": "/livez", "verb": "get"}}),
            true,
        ),
        // An empty resource is not a path.
        (
            json!({"user": "a", "resourceAttributes": {"verb": "get"}}),
            false,
        ),
    ] {
        assert_eq!(may(spec.clone()).await, json!(wanted), "{spec}");
    }
    for spec in [
        json!({"user": "a"}),
        json!({"resourceAttributes": {}}),
        json!({"user": "a", "resourceAttributes": {}, "nonResourceAttributes": {}}),
    ] {
        let path = format!("{AUTHORIZATION}/subjectaccessreviews");
        let (code, status) = admin.post(&path, json!({"spec": spec})).await;
        assert_eq!(code, 422, "{status}");
    }
    let local = format!("{AUTHORIZATION}/namespaces/default/localsubjectaccessreviews");
    let spec = |namespace| json!({"spec": {"user": "jane", "resourceAttributes": verb("get", "pods", namespace)}});
    let (code, answer) = admin.post(&local, spec("default")).await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(true)));
    assert_eq!(admin.post(&local, spec("kube-system")).await.0, 422);
    // Who may not ask about others is refused.
    let path = format!("{AUTHORIZATION}/subjectaccessreviews");
    assert_eq!(jane.post(&path, json!({"spec": {}})).await.0, 403);
    assert_eq!(admin.get(&path).await.0, 405);

    let (code, answer) = jane
        .post(
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            json!({}),
        )
        .await;
    let wanted = json!({"username": "jane", "groups": ["system:authenticated"]});
    assert_eq!((code, &answer["status"]["userInfo"]), (201, &wanted));
    assert_eq!(answer["kind"], "SelfSubjectReview");
    server.stop().await;
}

#[tokio::test]
async fn n5_a_review_is_no_table() {
    let server = Running::start().await;
    let client = server.admin().with_header(
        "accept",
        "application/json;as=Table;v=v1;g=meta.k8s.io".into(),
    );
    let path = format!("{AUTHORIZATION}/selfsubjectaccessreviews");
    let body = json!({"spec": {"resourceAttributes": verb("get", "pods", "")}});
    assert_eq!(client.post(&path, body).await.0, 406);
    server.stop().await;
}

#[tokio::test]
async fn u6_u7_kubectl_auth_says_who_and_what() {
    let server = Running::start().await;
    bind(&server, "default", "view", "jane").await;
    let kubectl = async |arguments: &str| {
        let home = tempfile::tempdir().unwrap();
        let mut command = tokio::process::Command::new("kubectl");
        let path = std::env::var_os("PATH").unwrap();
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", home.path())
            .args([
                "--kubeconfig",
                &server.kubeconfig().to_string_lossy(),
                &format!("--server=https://{}", server.address),
            ]);
        let output = command.args(arguments.split_whitespace()).output();
        let output = output.await.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    };
    eventually("jane may see Pods", async || {
        let answer = kubectl("auth can-i list pods --as=jane").await;
        (answer == "yes\n").then_some(())
    })
    .await;
    assert_eq!(kubectl("auth can-i delete pods --as=jane").await, "no\n");
    assert_eq!(kubectl("auth can-i * *").await, "yes\n");
    let whoami = kubectl("auth whoami").await;
    assert!(whoami.contains("system:masters"), "{whoami}");
    let list = kubectl("auth can-i --list --as=jane").await;
    for wanted in [
        "endpointslices.discovery.k8s.io",
        "selfsubjectaccessreviews",
        "/api/*",
    ] {
        assert!(list.contains(wanted), "{list}");
    }
    let refused = kubectl("get secrets --as=jane").await;
    assert_eq!(
        refused,
        "Error from server (Forbidden): secrets is forbidden: User \"jane\" cannot list resource \"secrets\" in API \
         group \"\" in the namespace \"default\"\n"
    );
    server.stop().await;
}
