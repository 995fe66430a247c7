//! Deployment, ReplicaSet, DaemonSet, StatefulSet and ControllerRevision: defaults, validation, status, scale.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use common::{Api, kubectl::each_version};
use serde_json::{Value, json};

const APPS: &str = "/apis/apps/v1/namespaces/default";

/// A workload as people write it.
fn workload(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "minik.dev/echo:1"}]},
            },
        },
    })
}

/// Sets the value at a JSON pointer, making the objects on the way.
fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let mut at = &mut object;
    for part in pointer.split('/').skip(1) {
        at = match part.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[part],
        };
    }
    *at = value;
    object
}

#[tokio::test]
async fn m13_workloads_are_filled_in() {
    let api = Api::new().await;
    let made = |plural: &'static str| {
        let api = &api;
        async move { api.made(&format!("{APPS}/{plural}"), workload("w")).await }
    };
    let deployment = made("deployments").await;
    let spec = &deployment["spec"];
    assert_eq!(deployment["metadata"]["generation"], 1);
    assert_eq!(deployment["status"], json!({}));
    assert_eq!(spec["replicas"], 1);
    assert_eq!(spec["revisionHistoryLimit"], 10);
    assert_eq!(spec["progressDeadlineSeconds"], 600);
    assert_eq!(
        spec["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
    );
    // A template gets what every Pod has, and nothing that admission adds to Pods.
    assert_eq!(
        spec["template"]["spec"],
        json!({
            "containers": [{
                "name": "c", "image": "minik.dev/echo:1", "imagePullPolicy": "IfNotPresent",
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File", "resources": {},
            }],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst", "securityContext": {}, "schedulerName": "default-scheduler",
        })
    );
    let set = made("replicasets").await;
    assert_eq!(set["spec"]["replicas"], 1);
    let set = made("daemonsets").await;
    assert_eq!(set["spec"]["revisionHistoryLimit"], 10);
    assert_eq!(
        set["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
    );
    let set = made("statefulsets").await;
    assert_eq!(set["spec"]["podManagementPolicy"], "OrderedReady");
    assert_eq!(
        set["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
    );
}

/// Resource, what is wrong, and the refusal (V6).
#[tokio::test]
async fn v6_wrong_workloads_are_refused() {
    let api = Api::new().await;
    let template = "/spec/template/metadata/labels/app";
    let zero = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}});
    let recreate = json!({"type": "Recreate", "rollingUpdate": {}});
    for (plural, pointer, value, field, words) in [
        (
            "deployments",
            "/spec/selector",
            Value::Null,
            "spec.selector",
            "Required value",
        ),
        (
            "deployments",
            "/spec/selector",
            json!({}),
            "spec.selector",
            "empty selector is invalid for deployment",
        ),
        (
            "deployments",
            template,
            json!("x"),
            "spec.template.metadata.labels",
            "`selector` does not match template `labels`",
        ),
        (
            "deployments",
            "/spec/replicas",
            json!(-1),
            "spec.replicas",
            "must be greater than or equal to 0",
        ),
        (
            "deployments",
            "/spec/minReadySeconds",
            json!(600),
            "spec.progressDeadlineSeconds",
            "must be greater than minReadySeconds",
        ),
        (
            "deployments",
            "/spec/strategy",
            zero,
            "spec.strategy.rollingUpdate.maxUnavailable",
            "may not be 0 when `maxSurge` is 0",
        ),
        (
            "deployments",
            "/spec/strategy",
            recreate,
            "spec.strategy.rollingUpdate",
            "may not be specified when strategy `type` is 'Recreate'",
        ),
        (
            "deployments",
            "/spec/strategy/type",
            json!("Blue"),
            "spec.strategy.type",
            "supported values: \"Recreate\", \"RollingUpdate\"",
        ),
        (
            "deployments",
            "/spec/strategy/rollingUpdate/maxUnavailable",
            json!("101%"),
            "spec.strategy.rollingUpdate.maxUnavailable",
            "must not be greater than 100%",
        ),
        (
            "deployments",
            "/spec/strategy/rollingUpdate/maxSurge",
            json!("x"),
            "spec.strategy.rollingUpdate.maxSurge",
            "a valid percent string",
        ),
        (
            "deployments",
            "/spec/template/spec/restartPolicy",
            json!("Never"),
            "spec.template.spec.restartPolicy",
            "supported values: \"Always\"",
        ),
        (
            "deployments",
            "/spec/template/spec/activeDeadlineSeconds",
            json!(5),
            "spec.template.spec.activeDeadlineSeconds",
            "activeDeadlineSeconds in ReplicaSet is not Supported",
        ),
        (
            "deployments",
            "/spec/template/spec/containers/0/name",
            json!("A_"),
            "spec.template.spec.containers[0].name",
            "RFC 1123 label",
        ),
        (
            "deployments",
            "/spec/template/spec/containers",
            json!([]),
            "spec.template.spec.containers",
            "Required value",
        ),
        (
            "replicasets",
            "/spec/replicas",
            json!(-1),
            "spec.replicas",
            "must be greater than or equal to 0",
        ),
        (
            "replicasets",
            template,
            json!("x"),
            "spec.template.metadata.labels",
            "does not match",
        ),
        (
            "daemonsets",
            "/spec/updateStrategy",
            json!({"rollingUpdate": {"maxSurge": 1}}),
            "spec.updateStrategy.rollingUpdate.maxSurge",
            "may not be set when maxUnavailable is non-zero",
        ),
        (
            "daemonsets",
            "/spec/selector",
            json!({}),
            "spec.selector",
            "empty selector is invalid for daemonset",
        ),
        (
            "statefulsets",
            "/spec/podManagementPolicy",
            json!("x"),
            "spec.podManagementPolicy",
            "\"OrderedReady\", \"Parallel\"",
        ),
        (
            "statefulsets",
            "/spec/updateStrategy/rollingUpdate/partition",
            json!(-1),
            "spec.updateStrategy.rollingUpdate.partition",
            "greater than or equal",
        ),
    ] {
        let path = format!("{APPS}/{plural}");
        let (code, refused) = api
            .post(&path, with(workload("w"), pointer, value.clone()))
            .await;
        assert_eq!(code, 422, "{plural} {pointer} {value}: {refused}");
        let causes = refused["details"]["causes"].as_array().unwrap();
        let told = causes.iter().any(|cause| {
            cause["field"] == field && cause["message"].as_str().unwrap().contains(words)
        });
        assert!(told, "{plural} {pointer} {value}: {refused}");
    }
    let selector = json!({"matchExpressions": [
        {"key": "a", "operator": "In"}, {"key": "b", "operator": "Exists", "values": ["x"]},
        {"key": "c", "operator": "Gt", "values": ["1"]}, {"key": "-", "operator": "Exists"},
    ]});
    let wrong = with(workload("w"), "/spec/selector", selector);
    let (_, refused) = api.post(&format!("{APPS}/deployments"), wrong).await;
    for field in ["[0].values", "[1].values", "[2].operator", "[3].key"] {
        let field = format!("spec.selector.matchExpressions{field}");
        assert!(refused.to_string().contains(&field), "{field}: {refused}");
    }
}

#[tokio::test]
async fn selectors_and_the_rest_of_a_stateful_set_stay_as_they_are() {
    let api = Api::new().await;
    for (plural, words) in [
        ("deployments", "field is immutable"),
        ("replicasets", "field is immutable"),
        ("daemonsets", "field is immutable"),
        (
            "statefulsets",
            "updates to statefulset spec for fields other than",
        ),
    ] {
        let _ = api.made(&format!("{APPS}/{plural}"), workload("w")).await;
        let labels = json!({"app": "w", "more": "yes"});
        let change = json!({"spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}},
        }});
        let (code, refused) = api.merge(&format!("{APPS}/{plural}/w"), change).await;
        assert_eq!(code, 422, "{plural}: {refused}");
        assert!(refused.to_string().contains(words), "{plural}: {refused}");
    }
    let revision = json!({"metadata": {"name": "r"}, "revision": 1, "data": {"a": 1}});
    let _ = api
        .made(&format!("{APPS}/controllerrevisions"), revision)
        .await;
    let path = format!("{APPS}/controllerrevisions/r");
    let (code, _) = api.merge(&path, json!({"data": {"a": 2}})).await;
    assert_eq!(code, 422);
    let (code, changed) = api.merge(&path, json!({"revision": 2})).await;
    assert_eq!((code.as_u16(), &changed["revision"]), (200, &json!(2)));
}

#[tokio::test]
async fn m9_m10_the_status_is_its_own_part_and_the_spec_has_a_generation() {
    let api = Api::new().await;
    let path = format!("{APPS}/deployments/w");
    let status = with(workload("w"), "/status/readyReplicas", json!(5));
    let made = api.made(&format!("{APPS}/deployments"), status).await;
    assert_eq!(made["status"], json!({}));
    let status =
        json!({"status": {"readyReplicas": 1, "observedGeneration": 1}, "spec": {"replicas": 7}});
    let (_, changed) = api.merge(&format!("{path}/status"), status).await;
    assert_eq!(changed["status"]["readyReplicas"], 1);
    assert_eq!(
        (
            &changed["spec"]["replicas"],
            &changed["metadata"]["generation"]
        ),
        (&json!(1), &json!(1))
    );
    let (_, changed) = api
        .merge(&path, json!({"spec": {"replicas": 7}, "status": null}))
        .await;
    assert_eq!(changed["status"]["readyReplicas"], 1);
    assert_eq!(changed["metadata"]["generation"], 2);
}

#[tokio::test]
async fn m12_scale_is_read_and_written_under_its_conditions() {
    let api = Api::new().await;
    for plural in ["deployments", "replicasets", "statefulsets"] {
        let made = api.made(&format!("{APPS}/{plural}"), workload("w")).await;
        let path = format!("{APPS}/{plural}/w/scale");
        let (_, scale) = api.get(&path).await;
        assert_eq!(
            (&scale["kind"], &scale["apiVersion"]),
            (&json!("Scale"), &json!("autoscaling/v1"))
        );
        for field in [
            "uid",
            "resourceVersion",
            "name",
            "namespace",
            "creationTimestamp",
        ] {
            assert_eq!(scale["metadata"][field], made["metadata"][field], "{field}");
        }
        assert_eq!(scale["spec"], json!({"replicas": 1}));
        assert_eq!(scale["status"], json!({"replicas": 0, "selector": "app=w"}));

        let (code, _) = api
            .put(&path, with(scale.clone(), "/spec/replicas", json!(3)))
            .await;
        assert_eq!(code, 200);
        // The version it was read at is over.
        let (code, refused) = api
            .put(&path, with(scale.clone(), "/spec/replicas", json!(4)))
            .await;
        assert_eq!(code, 409, "{refused}");
        let other = with(scale, "/metadata/uid", json!("x"));
        let other = with(other, "/metadata/resourceVersion", Value::Null);
        assert_eq!(api.put(&path, other).await.0, 409);
        let (_, changed) = api.merge(&path, json!({"spec": {"replicas": 2}})).await;
        assert_eq!(changed["spec"]["replicas"], 2);
        let (code, refused) = api.merge(&path, json!({"spec": {"replicas": -2}})).await;
        assert_eq!(code, 422, "{refused}");
        let dry = format!("{path}?dryRun=All");
        let (_, would) = api.merge(&dry, json!({"spec": {"replicas": 9}})).await;
        assert_eq!(would["spec"]["replicas"], 9);
        let (_, now) = api.get(&format!("{APPS}/{plural}/w")).await;
        assert_eq!(
            (&now["spec"]["replicas"], &now["metadata"]["generation"]),
            (&json!(2), &json!(3))
        );
        let columns = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let (_, table) = api.get_as(&path, columns).await;
        assert_eq!(table["rows"][0]["cells"][1], 2, "{table}");
    }
    let _ = api.made(&format!("{APPS}/daemonsets"), workload("w")).await;
    let (code, _) = api.get(&format!("{APPS}/daemonsets/w/scale")).await;
    assert_eq!(code, 404);
    let (_, resources) = api.get("/apis/apps/v1").await;
    let resources = resources["resources"].as_array().unwrap();
    let scale = resources
        .iter()
        .find(|r| r["name"] == "deployments/scale")
        .unwrap();
    assert_eq!(
        (&scale["group"], &scale["version"], &scale["kind"]),
        (&json!("autoscaling"), &json!("v1"), &json!("Scale"))
    );
}

const MANIFEST: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: 'minik.dev/echo:1'}, {name: d, image: 'minik.dev/echo:2'}]}
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: 'minik.dev/echo:1'}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 2
  serviceName: web
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: 'minik.dev/echo:1'}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {nodeSelector: {disk: fast}, containers: [{name: c, image: 'minik.dev/echo:1'}]}
---
apiVersion: apps/v1
kind: ControllerRevision
metadata:
  name: web-1
  ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: web, uid: u, controller: true}]
revision: 3
data: {spec: {}}
";

#[tokio::test(flavor = "multi_thread")]
async fn t3_kubectl_applies_shows_scales_and_deletes_workloads() {
    each_version(async |_, kubectl| {
        let manifest = MANIFEST.to_owned();
        let _ = kubectl.works_with("apply -f -", &manifest).await;
        let same = kubectl.works_with("apply -f -", &manifest).await;
        assert_eq!(same.matches("unchanged").count(), 5, "{same}");
        for (kind, wanted) in [
            ("deploy", "NAME READY UP-TO-DATE AVAILABLE AGE CONTAINERS IMAGES SELECTOR|web 0/2 0 0 _ c,d minik.dev/echo:1,minik.dev/echo:2 app=web"),
            ("rs", "NAME DESIRED CURRENT READY AGE CONTAINERS IMAGES SELECTOR|web 2 0 0 _ c minik.dev/echo:1 app=web"),
            ("sts", "NAME READY AGE CONTAINERS IMAGES|web 0/2 _ c minik.dev/echo:1"),
            ("ds", "NAME DESIRED CURRENT READY UP-TO-DATE AVAILABLE NODE SELECTOR AGE CONTAINERS IMAGES SELECTOR|web 0 0 0 0 0 disk=fast _ c minik.dev/echo:1 app=web"),
            ("controllerrevisions", "NAME CONTROLLER REVISION AGE|web-1 statefulset.apps/web 3 _"),
        ] {
            let table = kubectl.works(&format!("get {kind} -o wide")).await;
            let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let (head, row) = (lines.next().unwrap(), lines.next().unwrap());
            let (wanted_head, wanted_row) = wanted.split_once('|').unwrap();
            assert_eq!(head.join(" "), wanted_head);
            assert_eq!(row.len(), wanted_row.split(' ').count(), "{table}");
            for (got, wanted) in row.into_iter().zip(wanted_row.split(' ')) {
                assert!(wanted == "_" || got == wanted, "{wanted}: {table}");
            }
        }
        let all = kubectl.works("get all -o name").await;
        for name in ["deployment.apps/web", "replicaset.apps/web", "statefulset.apps/web", "daemonset.apps/web"] {
            assert!(all.contains(name), "{name}: {all}");
        }
        for kind in ["deploy/web", "rs/web", "sts/web", "ds/web", "controllerrevision/web-1"] {
            let _ = kubectl.works(&format!("describe {kind}")).await;
        }
        for kind in ["deploy", "rs", "sts"] {
            let _ = kubectl.works(&format!("scale {kind}/web --replicas=5")).await;
            let _ = kubectl.works(&format!("scale {kind}/web --replicas=3 --current-replicas=5")).await;
            let replicas = kubectl.works(&format!("get {kind}/web -o jsonpath={{.spec.replicas}}")).await;
            assert_eq!(replicas, "3", "{kind}");
        }
        // From kubectl 1.32 on the body is protobuf (N2).
        let _ = kubectl.works("create deployment made --image=minik.dev/echo:1 --replicas=3 --port=80").await;
        let made = kubectl.works("get deploy/made -o json").await;
        let made: Value = serde_json::from_str(&made).unwrap();
        assert_eq!(made["spec"]["replicas"], 3);
        assert_eq!(made["spec"]["template"]["spec"]["containers"][0]["ports"][0], json!({"containerPort": 80, "protocol": "TCP"}));
        let _ = kubectl.works("set image deploy/made echo=minik.dev/echo:2").await;
        let _ = kubectl.works("rollout restart deploy/made").await;
        let _ = kubectl.works("rollout pause deploy/made").await;
        let paused = kubectl.works("get deploy/made -o jsonpath={.spec.paused}").await;
        assert_eq!(paused, "true");
        // Recreate leaves no rollingUpdate behind: the strategy has retainKeys (P5).
        let recreate = manifest.replacen("replicas: 2", "strategy: {type: Recreate}\n  replicas: 2", 1);
        let _ = kubectl.works_with("apply -f -", &recreate).await;
        let strategy = kubectl.works("get deploy/web -o jsonpath={.spec.strategy}").await;
        assert_eq!(strategy, r#"{"type":"Recreate"}"#);
        let _ = kubectl.works("delete deploy,rs,sts,ds,controllerrevisions --all").await;
        let left = kubectl.works("get deploy,rs,sts,ds,controllerrevisions -o name").await;
        assert_eq!(left.trim(), "");
    })
    .await;
}

#[tokio::test]
async fn v3_every_write_of_a_pod_or_a_template_tells_what_is_questionable() {
    let api = Api::new().await;
    let write = async |method: &str, path: &str, media: &str, body: &Value| {
        let request = http::Request::builder().method(method).uri(path);
        let request = request.header("content-type", media);
        let body = axum::body::Body::from(body.to_string());
        let response = api.send(request.body(body).unwrap()).await;
        assert!(response.status().is_success(), "{method} {path}");
        let warnings = response.headers().get_all("warning").iter();
        let texts: Vec<_> = warnings
            .map(|text| text.to_str().unwrap().to_owned())
            .collect();
        texts
    };
    let (json, merge, apply) = (
        "application/json",
        "application/merge-patch+json",
        "application/apply-patch+yaml",
    );
    let env = json!([{"name": "X", "value": "1"}, {"name": "X", "value": "2"}]);
    let hides = |at: &str| {
        format!(
            r#"299 - "{at}spec.containers[0].env[1]: hides previous definition of \"X\", which may be dropped when using apply""#
        )
    };
    let pod = with(common::pod("a"), "/spec/containers/0/env", env.clone());
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(write("POST", pods, json, &pod).await, [hides("")]);
    let one = format!("{pods}/a");
    let label = json!({"metadata": {"labels": {"x": "y"}}});
    for _ in 0..2 {
        // The second one changes nothing.
        assert_eq!(write("PATCH", &one, merge, &label).await, [hides("")]);
    }
    let status = format!("{one}/status");
    let running = json!({"status": {"phase": "Running"}});
    assert!(write("PATCH", &status, merge, &running).await.is_empty());

    let deployments = format!("{APPS}/deployments");
    let pointer = "/spec/template/spec/containers/0/env";
    let deployment = with(workload("a"), pointer, env);
    let hidden = [hides("spec.template.")];
    let dry = format!("{deployments}?dryRun=All");
    assert_eq!(write("POST", &dry, json, &deployment).await, hidden);
    let mut applied = with(deployment, "/apiVersion", "apps/v1".into());
    applied["kind"] = "Deployment".into();
    // Server-side apply merges by name and takes no name twice; ports are told apart by the protocol, too.
    let ports =
        json!([{"containerPort": 80}, {"containerPort": 80, "hostPort": 8080, "protocol": "UDP"}]);
    applied["spec"]["template"]["spec"]["containers"][0] = json!({"name": "c", "image": "minik.dev/echo:1", "ports": ports, "resources": {"limits": {"memory": "0.5"}}});
    let one = format!("{deployments}/a?fieldManager=x");
    for _ in 0..2 {
        assert_eq!(
            write("PATCH", &one, apply, &applied).await,
            [
                r#"299 - "spec.template.spec.containers[0].resources.limits[memory]: fractional byte value \"0.5\" is invalid, must be an integer""#
            ]
        );
    }
}
