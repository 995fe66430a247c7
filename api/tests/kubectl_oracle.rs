//! Strategic merge against the Go implementation: `kubectl patch --local` runs it without a server.

use std::process::Command;

use api::schema;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Map, Value, json};

/// What kubectl makes of it; none when it refuses the patch.
fn kubectl(object: &Value, patch: &Value) -> Option<Value> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("object.json");
    std::fs::write(&file, object.to_string()).expect("the object is written");
    let output = Command::new("kubectl")
        .args([
            "patch",
            "--local",
            "--type=strategic",
            "--output=json",
            "--filename",
        ])
        .arg(&file)
        .arg(format!("--patch={patch}"))
        .env("KUBECONFIG", "/dev/null")
        .output()
        .expect("this test compares with kubectl, which must be in PATH");
    output
        .status
        .success()
        .then(|| serde_json::from_slice(&output.stdout).expect("kubectl writes JSON"))
}

fn ours(object: &Value, patch: &Value) -> Option<Value> {
    let (group, version) = match object["apiVersion"].as_str()?.split_once('/') {
        Some(parts) => parts,
        None => ("", object["apiVersion"].as_str()?),
    };
    let of = schema::lookup(group, version, object["kind"].as_str()?)?;
    let mut merged = object.clone();
    of.strategic_merge(&mut merged, patch).ok()?;
    of.prune(&mut merged);
    Some(merged)
}

/// Go's structs show some empty parts and hide others: neither counts.
fn without_empty(value: Value) -> Value {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    };
    match value {
        Value::Object(map) => {
            let parts = map
                .into_iter()
                .map(|(key, value)| (key, without_empty(value)));
            Value::Object(
                parts
                    .filter(|(_, value)| !empty(value))
                    .collect::<Map<_, _>>(),
            )
        }
        Value::Array(list) => Value::Array(list.into_iter().map(without_empty).collect()),
        scalar => scalar,
    }
}

fn compare(object: &Value, patch: &Value) {
    let wanted = kubectl(object, patch).map(without_empty);
    let got = ours(object, patch).map(without_empty);
    assert_eq!(
        got, wanted,
        "\nobject: {object}\npatch: {patch}\n(left: ours, right: kubectl's)"
    );
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "labels": {"a": "1", "b": "2"}, "finalizers": ["x/1", "x/2", "x/3"]},
        "spec": {
            "selector": {"matchLabels": {"a": "1"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"}},
            "template": {
                "metadata": {"labels": {"a": "1"}},
                "spec": {
                    "containers": [
                        {"name": "one", "image": "i", "args": ["x"], "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                         "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 53, "protocol": "UDP"}]},
                        {"name": "two", "image": "i"}, {"name": "three", "image": "i"}
                    ],
                    "tolerations": [{"key": "k", "operator": "Exists"}],
                    "nodeSelector": {"disk": "ssd"},
                    "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}, {"name": "w", "configMap": {"name": "c"}}]
                }
            }
        }
    })
}

#[test]
fn named_patches_merge_as_kubectl_merges_them() {
    let pod = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
    let patches = [
        json!({"metadata": {"labels": {"a": null, "c": "3", "zz": null}}}),
        json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}}),
        json!({"metadata": {"labels": {"$patch": "delete"}}}),
        json!({"metadata": {"labels": null}}),
        json!({"metadata": {"finalizers": ["x/9", "x/1"]}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x/1"], "finalizers": ["x/4"]}}),
        json!({"metadata": {"$setElementOrder/finalizers": ["x/3", "x/4", "x/1"], "finalizers": ["x/4"]}}),
        json!({"metadata": {"$setElementOrder/finalizers": ["x/3"], "finalizers": ["x/4"]}}),
        json!({"metadata": {"annotations": {}}}),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate", "rollingUpdate": null}}}),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {"maxSurge": 2}}}}),
        pod(json!({"containers": [{"name": "two", "image": "j"}, {"name": "four", "image": "k"}]})),
        pod(json!({"containers": [{"name": "two", "$patch": "delete"}]})),
        pod(json!({"containers": [{"$patch": "delete"}]})),
        pod(json!({"containers": [{"image": "j"}]})),
        pod(json!({"containers": [{"$patch": "replace"}, {"name": "four", "image": "k"}]})),
        pod(json!({"containers": [{"name": "one", "$patch": "merge"}]})),
        pod(json!({"$setElementOrder/containers": [{"name": "three"}, {"name": "one"}]})),
        pod(
            json!({"$setElementOrder/containers": [{"name": "three"}, {"name": "four"}, {"name": "one"}],
                   "containers": [{"name": "four", "image": "k"}, {"name": "two", "$patch": "delete"}]}),
        ),
        pod(
            json!({"$setElementOrder/containers": [{"name": "one"}], "containers": [{"name": "four", "image": "k"}]}),
        ),
        pod(
            json!({"containers": [{"name": "one", "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 53, "protocol": "TCP"}]}]}),
        ),
        pod(
            json!({"containers": [{"name": "one", "$setElementOrder/env": [{"name": "B"}, {"name": "C"}, {"name": "A"}],
                   "env": [{"name": "C", "value": "3"}], "args": ["y", "z"]}]}),
        ),
        pod(
            json!({"containers": [{"name": "five", "image": "k", "env": [{"name": "X", "value": null}]}]}),
        ),
        pod(json!({"tolerations": [{"key": "l"}], "nodeSelector": {"disk": null, "cpu": "fast"}})),
        pod(
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/tmp"}}]}),
        ),
        pod(json!({"volumes": null})),
        pod(json!({"hostNetwork": true, "dnsPolicy": "None", "terminationGracePeriodSeconds": 0})),
    ];
    for patch in patches {
        compare(&deployment(), &patch);
    }
}

/// Objects with distinct names from a small set, so that lists of object and patch overlap.
fn containers(with_directives: bool) -> impl Strategy<Value = Vec<Value>> {
    let one = (
        select(vec!["i", "j"]),
        any::<bool>(),
        subsequence(vec!["A", "B", "C"], 0..=3),
        any::<bool>(),
    );
    subsequence(vec!["a", "b", "c", "d", "e"], 1..=4)
        .prop_shuffle()
        .prop_flat_map(move |names| {
            proptest::collection::vec(one.clone(), names.len()).prop_map(move |parts| {
                let item =
                    |(name, (image, gone, env, null)): (&&str, (&str, bool, Vec<&str>, bool))| {
                        if with_directives && gone {
                            return json!({"name": name, "$patch": "delete"});
                        }
                        let env: Vec<_> = env
                            .iter()
                            .map(|name| json!({"name": name, "value": image}))
                            .collect();
                        let mut item = json!({"name": name, "image": image, "env": env});
                        if with_directives && null {
                            item["env"] = Value::Null;
                        }
                        item
                    };
                names.iter().zip(parts).map(item).collect()
            })
        })
}

fn patches() -> impl Strategy<Value = Value> {
    // An empty order list makes Go compare items that have no place: their order is then an accident of its sort.
    let names = subsequence(vec!["a", "b", "c", "d", "e"], 1..=5).prop_shuffle();
    // Go refuses a list that is empty in the object, in the patch and in the order: no case worth having.
    let finalizers = || subsequence(vec!["x/1", "x/2", "x/3", "x/4"], 1..=4).prop_shuffle();
    (
        containers(true),
        names,
        any::<bool>(),
        finalizers(),
        finalizers(),
        any::<bool>(),
    )
        .prop_map(|(containers, order, ordered, finalizers, other, deletes)| {
            let mut spec = json!({"containers": containers});
            if ordered {
                spec["$setElementOrder/containers"] =
                    order.iter().map(|name| json!({"name": name})).collect();
            }
            // Go takes the two in any order: nothing is both set and deleted here.
            let other: Vec<_> = other
                .into_iter()
                .filter(|item| !deletes || !finalizers.contains(item))
                .collect();
            let directive = if deletes {
                "$deleteFromPrimitiveList/finalizers"
            } else {
                "$setElementOrder/finalizers"
            };
            json!({"metadata": {"finalizers": finalizers, directive: other}, "spec": spec})
        })
}

#[test]
fn random_patches_merge_as_kubectl_merges_them() {
    let config = Config {
        cases: 150,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let pods = (containers(false), subsequence(vec!["x/1", "x/2", "x/3"], 0..=3)).prop_map(|(containers, finalizers)| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "finalizers": finalizers}, "spec": {"containers": containers}})
    });
    let outcome = runner.run(&(pods, patches()), |(pod, patch)| {
        let wanted = kubectl(&pod, &patch).map(without_empty);
        let got = ours(&pod, &patch).map(without_empty);
        prop_assert_eq!(got, wanted, "pod: {} patch: {}", pod, patch);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
