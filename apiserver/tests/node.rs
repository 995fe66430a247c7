//! What a node reads and writes: what is its own, and what its Pods name.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod control;

use control::{
    Client, Running,
    join::{add_token, joined},
};
use serde_json::{Value, json};

const DEFAULT: &str = "/api/v1/namespaces/default";

async fn made(admin: &Client, path: &str, body: Value) -> Value {
    let (code, made) = admin.post(path, body).await;
    assert_eq!(code, 201, "{made}");
    made
}

/// A server, its administrator, and the node `n1`, which has joined.
async fn cluster() -> (Running, Client, Client) {
    let server = Running::start().await;
    add_token(&server, "good00", "2099-01-01T00:00:00Z").await;
    let (admin, node) = (server.admin(), joined(&server, "n1").await);
    for name in ["n1", "n2"] {
        made(&admin, "/api/v1/nodes", json!({"metadata": {"name": name}})).await;
    }
    (server, admin, node)
}

/// A Pod on a node that names a Secret and a ConfigMap, both `<name>`.
fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {
            "nodeName": node, "serviceAccountName": "default",
            "containers": [{
                "name": "c", "image": "i", "envFrom": [{"configMapRef": {"name": name}}],
            }],
            "volumes": [
                {"name": "s", "secret": {"secretName": name}},
                {"name": "t", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "token", "audience": "vault"}},
                ]}},
            ],
        },
    })
}

#[tokio::test]
async fn a_node_reads_what_its_pods_name_and_nothing_else() {
    let (server, admin, node) = cluster().await;
    for (name, on) in [("mine", "n1"), ("other", "n2")] {
        let object = json!({"metadata": {"name": name}});
        made(&admin, &format!("{DEFAULT}/secrets"), object.clone()).await;
        made(&admin, &format!("{DEFAULT}/configmaps"), object).await;
        made(&admin, &format!("{DEFAULT}/pods"), pod(name, on)).await;
    }
    let code = async |path: &str| node.get(&format!("{DEFAULT}/{path}")).await.0;
    for plural in ["secrets", "configmaps"] {
        // At once: the node may have seen its Pod before the graph did.
        assert_eq!(code(&format!("{plural}/mine")).await, 200);
        assert_eq!(code(&format!("{plural}/other")).await, 403);
        assert_eq!(code(&format!("{plural}/missing")).await, 403);
        assert_eq!(code(plural).await, 403);
        let only = |selector: &str| format!("{plural}?fieldSelector={selector}");
        assert_eq!(code(&only("metadata.name%3Dmine")).await, 200);
        assert_eq!(code(&only("metadata.name%3Dother")).await, 403);
        assert_eq!(code(&only("metadata.name!%3Dmine")).await, 403);
        let watch = only("metadata.name%3Dother&watch=true");
        assert_eq!(code(&watch).await, 403);
        let watch = only("metadata.name%3Dmine&watch=true&timeoutSeconds=1");
        assert_eq!(code(&watch).await, 200);
        let everywhere = format!("/api/v1/{plural}?fieldSelector=metadata.name%3Dmine");
        assert_eq!(node.get(&everywhere).await.0, 403);
        let (plural, body) = (format!("{DEFAULT}/{plural}/mine"), json!({"data": {}}));
        assert_eq!(node.patch(&plural, body).await.0, 403);
        assert_eq!(node.delete(&plural).await.0, 403);
    }
    assert_eq!(code("serviceaccounts/default").await, 200);
    assert_eq!(code("serviceaccounts").await, 403);
    // With the Pod goes the right.
    let gone = format!("{DEFAULT}/pods/mine?gracePeriodSeconds=0");
    assert_eq!(admin.delete(&gone).await.0, 200);
    control::eventually("the right is gone", async || {
        (code("secrets/mine").await == 403).then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn u4_a_node_makes_tokens_for_its_own_pods_only() {
    let (server, admin, node) = cluster().await;
    let pods = format!("{DEFAULT}/pods");
    let uid = |pod: Value| pod["metadata"]["uid"].as_str().unwrap().to_owned();
    let mine = uid(made(&admin, &pods, pod("mine", "n1")).await);
    let other = uid(made(&admin, &pods, pod("other", "n2")).await);
    let mut bare = pod("bare", "n1");
    bare["spec"]["automountServiceAccountToken"] = json!(false);
    let bare = uid(made(&admin, &pods, bare).await);
    let path = format!("{DEFAULT}/serviceaccounts/default/token");
    let bound = |name: &str, uid: &str| json!({"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid});
    for (spec, code, words) in [
        (json!({"boundObjectRef": bound("mine", &mine)}), 201, ""),
        (
            json!({"boundObjectRef": bound("mine", &mine), "audiences": ["vault"]}),
            201,
            "",
        ),
        (
            json!({"boundObjectRef": bound("mine", &mine), "audiences": ["bank"]}),
            403,
            "audience",
        ),
        (
            json!({"boundObjectRef": bound("bare", &bare)}),
            403,
            "audience \"\" is not that",
        ),
        (json!({}), 403, "not bound to a pod"),
        (
            json!({"boundObjectRef": bound("mine", "")}),
            403,
            "without a uid",
        ),
        (
            json!({"boundObjectRef": bound("other", &other)}),
            403,
            "different node",
        ),
    ] {
        let (got, answer) = node.post(&path, json!({"spec": spec})).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(got == code && message.contains(words), "{spec}: {answer}");
    }
    let path = "/api/v1/namespaces/kube-system/serviceaccounts/default/token";
    assert_eq!(node.post(path, json!({})).await.0, 403);
    server.stop().await;
}

#[tokio::test]
async fn a_node_neither_labels_nor_taints_itself_as_it_likes() {
    let (server, admin, node) = cluster().await;
    let own = "/api/v1/nodes/n1";
    let label = |key: &str| json!({"metadata": {"labels": {key: "x"}}});
    for path in [own.to_owned(), format!("{own}/status")] {
        assert_eq!(node.patch(&path, label("acme.com/rack")).await.0, 200);
        for key in [
            "node-role.kubernetes.io/control-plane",
            "node-restriction.kubernetes.io/safe",
        ] {
            let (code, status) = node.patch(&path, label(key)).await;
            assert_eq!(code, 403, "{path} {key}: {status}");
        }
        let owners = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]);
        let owned = json!({"metadata": {"ownerReferences": owners}});
        assert_eq!(node.patch(&path, owned).await.0, 403);
    }
    let taint = json!({"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}});
    assert_eq!(admin.patch(own, taint).await.0, 200);
    let (code, status) = node.patch(own, json!({"spec": {"taints": null}})).await;
    assert_eq!(code, 403, "{status}");
    let untainted = json!({"metadata": {"name": "n1"}, "spec": {}});
    assert_eq!(node.put(own, untainted).await.0, 403);
    assert_eq!(node.delete(own).await.0, 403);
    server.stop().await;
}

#[tokio::test]
async fn a_node_writes_the_status_of_its_pods_and_not_their_labels() {
    let (server, admin, node) = cluster().await;
    made(&admin, &format!("{DEFAULT}/pods"), pod("mine", "n1")).await;
    let path = format!("{DEFAULT}/pods/mine/status");
    let status = json!({"status": {"phase": "Running"}});
    assert_eq!(node.patch(&path, status).await.0, 200);
    let label = json!({"metadata": {"labels": {"app": "bank"}}});
    let (code, answer) = node.patch(&path, label.clone()).await;
    assert_eq!(code, 403, "{answer}");
    let main = format!("{DEFAULT}/pods/mine");
    assert_eq!(node.patch(&main, label).await.0, 403);
    let exec = format!("{main}/exec?command=sh");
    assert_ne!(node.post(&exec, json!({})).await.0, 200);
    server.stop().await;
}

/// What a node says that its object was like before counts for nothing: it is judged by what is stored.
#[tokio::test]
async fn cve_2021_25735_a_node_is_judged_by_what_is_stored_and_not_by_what_it_says() {
    let (server, admin, node) = cluster().await;
    let own = "/api/v1/nodes/n1";
    let kept = "node-restriction.kubernetes.io/kept";
    let given = json!({
        "metadata": {"labels": {kept: "a"}},
        "spec": {"taints": [{"key": "k", "effect": "NoExecute"}]},
    });
    assert_eq!(admin.patch(own, given).await.0, 200);
    let (_, stored) = node.get(own).await;
    let changes: [fn(&mut Value); 4] = [
        |object| object["spec"]["taints"] = json!([]),
        |object| object["metadata"]["labels"]["node-restriction.kubernetes.io/kept"] = json!("b"),
        |object| object["metadata"]["labels"] = json!({}),
        |object| object["metadata"]["labels"]["node-restriction.kubernetes.io/new"] = json!("c"),
    ];
    for change in changes {
        let mut object = stored.clone();
        change(&mut object);
        // However old it says that it is, and whose managed fields it claims.
        for version in [
            stored["metadata"]["resourceVersion"].clone(),
            json!(""),
            json!("1"),
        ] {
            object["metadata"]["resourceVersion"] = version.clone();
            object["metadata"]["managedFields"] = json!([{}]);
            object["metadata"]["generation"] = json!(99);
            for path in [own.to_owned(), format!("{own}/status")] {
                let (code, answer) = node.put(&path, object.clone()).await;
                let is_refused = code == 403 || code == 409;
                // The status has no spec in it.
                let ignored = path != own && answer["spec"] == stored["spec"];
                let same = answer["metadata"]["labels"] == stored["metadata"]["labels"];
                assert!(is_refused || ignored && same, "{path} {version}: {answer}");
            }
        }
    }
    let (_, after) = admin.get(own).await;
    assert_eq!(after["spec"]["taints"][0]["key"], "k");
    assert_eq!(after["metadata"]["labels"], stored["metadata"]["labels"]);
    server.stop().await;
}
