//! `kubectl apply` with our OpenAPI document: what it takes out of a file must go from the object.

mod loopback;

use std::io::Write;
use std::process::Stdio;

use api::schema::{self, ServedKind};
use loopback::{Request, Server, refusal};
use serde_json::{Value, json};

const PATH: &str = "/apis/apps/v1/namespaces/default/deployments/d";

/// A server that holds one Deployment.
fn server(stored: Value) -> Server {
    let kinds = [ServedKind {
        kind: "Deployment",
        plural: "deployments",
        namespaced: true,
        custom: None,
    }];
    let document = schema::openapi_v3("apps", "v1", &kinds);
    let version = json!({"groupVersion": "apps/v1", "version": "v1"});
    let group = json!({"name": "apps", "versions": [version], "preferredVersion": version});
    let resource = json!({"name": "deployments", "singularName": "deployment", "namespaced": true, "kind": "Deployment",
        "verbs": ["get", "patch"]});
    Server::start(move |request: &Request| {
        let body = match request.line.as_str() {
            "GET /api" => json!({"kind": "APIVersions", "versions": ["v1"]}),
            "GET /api/v1" => {
                json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": []})
            }
            "GET /apis" => json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]}),
            "GET /apis/apps/v1" => {
                json!({"kind": "APIResourceList", "groupVersion": "apps/v1", "resources": [resource]})
            }
            "GET /openapi/v3" => {
                json!({"paths": {"apis/apps/v1": {"serverRelativeURL": "/openapi/v3/apis/apps/v1?hash=1"}}})
            }
            "GET /openapi/v3/apis/apps/v1" => document.clone(),
            line if line.ends_with(PATH) => stored.clone(),
            _ => return refusal(404, "NotFound"),
        };
        (200, body)
    })
}

/// The patch kubectl sends to make of one applied object another.
fn applied(before: &Value, after: &Value) -> Value {
    let mut stored = before.clone();
    stored["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": before.to_string()});
    let server = server(stored);
    let cache = tempfile::tempdir().expect("a temporary directory");
    let mut child = server
        .kubectl()
        .args(["apply", "--filename=-", "--cache-dir"])
        .arg(cache.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this test runs kubectl, which must be in PATH");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin
        .write_all(after.to_string().as_bytes())
        .expect("kubectl reads its input");
    drop(stdin);
    let output = child.wait_with_output().expect("kubectl ends");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let patch = server
        .requests()
        .into_iter()
        .find(|request| request.line.starts_with("PATCH "));
    let patch = patch.expect("kubectl apply sends a patch");
    assert_eq!(patch.content_type, "application/strategic-merge-patch+json");
    serde_json::from_slice(&patch.body).expect("the patch is JSON")
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "default"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": spec}
    }})
}

#[test]
fn what_apply_takes_out_of_lists_goes() {
    let before = deployment(json!({
        "containers": [
            {"name": "web", "image": "i:1", "args": ["a", "b"], "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
             "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 53, "protocol": "UDP"}],
             "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
             "readinessProbe": {"httpGet": {"path": "/", "port": "http"}}},
            {"name": "side", "image": "i:1"}
        ],
        "tolerations": [{"key": "x", "operator": "Exists"}],
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "configMap": {"name": "c"}}]
    }));
    let after = deployment(json!({
        "containers": [
            {"name": "new", "image": "i:2"},
            {"name": "web", "image": "i:2", "args": ["a"], "env": [{"name": "B", "value": "3"}],
             "ports": [{"containerPort": 80, "name": "http", "protocol": "TCP"}],
             "resources": {"limits": {"cpu": "2"}},
             "readinessProbe": {"tcpSocket": {"port": 80}}}
        ],
        "tolerations": [],
        "volumes": [{"name": "v", "hostPath": {"path": "/tmp"}}]
    }));
    let patch = applied(&before, &after);
    let mut merged = before.clone();
    let of = schema::lookup("apps", "v1", "Deployment").expect("the table knows Deployments");
    of.strategic_merge(&mut merged, &patch)
        .expect("kubectl's patch makes sense");
    assert_eq!(of.prune(&mut merged), []);
    assert_eq!(merged["spec"], after["spec"], "patch: {patch}");
}
