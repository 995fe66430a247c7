//! The commands of everyday use, row by row of what kubectl asks of a server, with each kubectl there is: what an API without
//! nodes can show. Streams into Pods and rollouts are in crate `integration`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::{os::unix::fs::PermissionsExt as _, process::Stdio};

use common::{
    Api, CONFIG_MAPS, PODS, SERVICES, config_map,
    kubectl::{Kubectl, each_version},
    pod, service,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": name}},
        "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "minik.dev/echo:1"}]}}}})
}

async fn node(api: &Api, name: &str) {
    api.made("/api/v1/nodes", json!({"metadata": {"name": name}}))
        .await;
}

/// A part of the stored object.
async fn part(api: &Api, path: &str, pointer: &str) -> Value {
    let (code, object) = api.get(path).await;
    assert_eq!(code, 200, "{object}");
    object.pointer(pointer).cloned().unwrap_or_default()
}

/// Runs until the condition holds.
async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let poll = async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    };
    let wait = std::time::Duration::from_secs(30);
    assert!(
        tokio::time::timeout(wait, poll).await.is_ok(),
        "not in time: {what}"
    );
}

/// A kubectl that runs beside the test, with its lines.
struct Beside {
    child: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Beside {
    fn start(kubectl: &Kubectl, arguments: &str) -> Self {
        let mut child = kubectl
            .command(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Reads on to the line that contains this.
    async fn tells(&mut self, wanted: &str) {
        let read = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if line.contains(wanted) {
                    return true;
                }
            }
            false
        };
        let wait = std::time::Duration::from_secs(60);
        let told = tokio::time::timeout(wait, read).await;
        assert_eq!(told, Ok(true), "kubectl does not tell {wanted}");
    }

    /// Whether it ended well.
    async fn ends(mut self) -> bool {
        let wait = std::time::Duration::from_secs(60);
        let end = tokio::time::timeout(wait, self.child.wait()).await;
        end.expect("kubectl goes on").unwrap().success()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn get_selects_sorts_and_watches_one() {
    each_version(async |api, kubectl| {
        for name in ["b", "a"] {
            api.made(PODS, pod(name)).await;
        }
        api.made(SERVICES, service("s")).await;
        let names = kubectl
            .works(
                "get pods --sort-by=.metadata.name -o custom-columns=N:.metadata.name --no-headers",
            )
            .await;
        assert_eq!(names, "a\nb\n");
        let sorted = kubectl.works("get pods --sort-by=.metadata.name").await;
        let first = sorted.lines().nth(1).unwrap();
        assert!(first.starts_with("a "), "{sorted}");
        let named = kubectl
            .works("get pods -A --field-selector=metadata.name=a -l app=web -o name")
            .await;
        assert_eq!(named, "pod/a\n");
        let all = kubectl.works("get all").await;
        assert!(all.contains("pod/a") && all.contains("service/s"), "{all}");
        let none = kubectl.works("get deployments").await;
        assert!(
            none.contains("No resources found in default namespace."),
            "{none}"
        );

        // It takes the first event of its watch for what it has shown already. Only the server tells it apart from a change, by
        // starting with the object as it is; so each change from then on is shown.
        let mut watch = Beside::start(kubectl, "get pod a -w");
        watch.tells("Pending").await;
        let changes = async {
            for phase in ["Running", "Pending"].iter().cycle() {
                api.merge(
                    &format!("{PODS}/a/status"),
                    json!({"status": {"phase": phase}}),
                )
                .await;
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = changes => {}
            () = watch.tells("Running") => {}
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn describe_shows_only_the_objects_own_events() {
    each_version(async |api, kubectl| {
        let events = "/api/v1/namespaces/default/events";
        for name in ["a", "b"] {
            let made = api.made(PODS, pod(name)).await;
            let event = json!({"metadata": {"name": name}, "reason": "Tested", "message": format!("about {name}"),
                "type": "Normal", "count": 1, "involvedObject": {"kind": "Pod", "apiVersion": "v1", "name": name,
                "namespace": "default", "uid": made["metadata"]["uid"]}});
            api.made(events, event).await;
        }
        let text = kubectl.works("describe pod a").await;
        assert!(text.contains("about a") && !text.contains("about b"), "{text}");
        let text = kubectl.works("events --for pod/a").await;
        assert!(text.contains("about a") && !text.contains("about b"), "{text}");
        let text = kubectl.works("events --types=Warning").await;
        assert!(!text.contains("about"), "{text}");
        let text = kubectl.works("get events").await;
        assert!(text.contains("pod/a") && text.contains("Tested"), "{text}");

        node(api, "n1").await;
        let bind = json!({"target": {"kind": "Node", "name": "n1"}});
        api.made(&format!("{PODS}/a/binding"), bind).await;
        let text = kubectl.works("describe node n1").await;
        let pods = text.split("Non-terminated Pods:").nth(1).unwrap();
        assert!(pods.contains("  a ") && !pods.contains("  b "), "{text}");

        api.made(SERVICES, service("s")).await;
        let slice = json!({"metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
            "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["192.0.2.7"]}]});
        api.made("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice).await;
        let endpoints = json!({"metadata": {"name": "s"},
            "subsets": [{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 80}]}]});
        api.made("/api/v1/namespaces/default/endpoints", endpoints).await;
        let text = kubectl.works("describe svc s").await;
        assert!(text.contains("192.0.2.7:80"), "{text}");

        api.made(DEPLOYMENTS, deployment("d")).await;
        let text = kubectl.works("describe deploy d").await;
        assert!(text.contains("2 desired") && text.contains("25% max unavailable"), "{text}");
        let text = kubectl.works("describe ns default").await;
        assert!(text.contains("Active"), "{text}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_takes_lists_and_files_of_several_documents() {
    each_version(async |api, kubectl| {
        let documents = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team}\n---\n\
            apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: team}\ndata: {a: b}\n";
        let text = kubectl.works_with("apply -f -", documents).await;
        assert!(text.contains("namespace/team created") && text.contains("configmap/c created"), "{text}");
        let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: one}}\n\
            - {apiVersion: v1, kind: ConfigMap, metadata: {name: two}}\n";
        let text = kubectl.works_with("apply -f -", list).await;
        assert!(text.contains("configmap/two created"), "{text}");

        // What the file no longer has goes; what others added stays.
        let file = |data: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata: {data}\n");
        kubectl.works_with("apply -f -", &file("{a: '1', b: '2'}")).await;
        api.merge(&format!("{CONFIG_MAPS}/m"), json!({"data": {"c": "3"}})).await;
        kubectl.works_with("apply -f -", &file("{a: '4'}")).await;
        assert_eq!(
            part(api, &format!("{CONFIG_MAPS}/m"), "/data").await,
            json!({"a": "4", "c": "3"})
        );

        // A list of a Deployment, by its merge key.
        let manifest = |env: &str| format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d}}\nspec:\n  \
            selector: {{matchLabels: {{app: d}}}}\n  template:\n    metadata: {{labels: {{app: d}}}}\n    \
            spec: {{containers: [{{name: c, image: x, env: {env}}}]}}\n");
        kubectl.works_with("apply -f -", &manifest("[{name: A, value: '1'}, {name: B, value: '2'}]")).await;
        kubectl.works_with("apply -f -", &manifest("[{name: B, value: '3'}]")).await;
        assert_eq!(
            part(api, &format!("{DEPLOYMENTS}/d"), "/spec/template/spec/containers/0/env").await,
            json!([{"name": "B", "value": "3"}])
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn create_makes_each_kind_it_has_a_command_for() {
    each_version(async |_, kubectl| {
        for (command, made) in [
            ("configmap c --from-literal=a=b", "configmap/c"),
            ("secret generic s --from-literal=a=b", "secret/s"),
            ("namespace n", "namespace/n"),
            ("serviceaccount sa", "serviceaccount/sa"),
            (
                "deployment d --image=x --replicas=3 --port=80",
                "deployment.apps/d",
            ),
            ("job j --image=x", "job.batch/j"),
            (
                "role r --verb=get --resource=pods",
                "role.rbac.authorization.k8s.io/r",
            ),
            (
                "clusterrole cr --verb=get --resource=nodes",
                "clusterrole.rbac.authorization.k8s.io/cr",
            ),
            (
                "rolebinding rb --role=r --user=jane",
                "rolebinding.rbac.authorization.k8s.io/rb",
            ),
            (
                "clusterrolebinding crb --clusterrole=cr --user=jane",
                "clusterrolebinding.rbac.authorization.k8s.io/crb",
            ),
            ("service clusterip ci --tcp=80:8080", "service/ci"),
            ("service nodeport np --tcp=80", "service/np"),
            ("service loadbalancer lb --tcp=80", "service/lb"),
            (
                "service externalname en --external-name=example.com",
                "service/en",
            ),
            ("quota q --hard=pods=3", "resourcequota/q"),
            (
                "poddisruptionbudget p --selector=app=x --min-available=1",
                "poddisruptionbudget.policy/p",
            ),
            (
                "priorityclass pc --value=5",
                "priorityclass.scheduling.k8s.io/pc",
            ),
        ] {
            let text = kubectl.works(&format!("create {command}")).await;
            assert!(
                text.contains(&format!("{made} created")),
                "{command}: {text}"
            );
            let (fine, text) = kubectl.run(&format!("create {command}")).await;
            assert!(
                !fine && text.contains("already exists"),
                "{command}: {text}"
            );
        }
        let replicas = kubectl
            .works("get deploy d -o jsonpath={.spec.replicas}")
            .await;
        assert_eq!(replicas, "3");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_waits_selects_forces_and_only_pretends() {
    each_version(async |api, kubectl| {
        for name in ["a", "b", "c", "d"] {
            api.made(CONFIG_MAPS, config_map(name)).await;
        }
        kubectl.works("delete cm a --dry-run=server").await;
        assert_eq!(api.get(&format!("{CONFIG_MAPS}/a")).await.0, 200);
        let text = kubectl.works("delete cm -l app=a").await;
        assert!(
            text.contains("\"a\" deleted") && !text.contains("\"b\""),
            "{text}"
        );
        let text = kubectl
            .works("delete cm --field-selector=metadata.name=b")
            .await;
        assert!(
            text.contains("\"b\" deleted") && !text.contains("\"c\""),
            "{text}"
        );
        kubectl.works("delete cm --all").await;
        let (_, left) = api.get(CONFIG_MAPS).await;
        assert_eq!(left["items"], json!([]));
        let (fine, text) = kubectl.run("delete cm a").await;
        assert!(!fine && text.contains("NotFound"), "{text}");
        kubectl.works("delete cm a --ignore-not-found").await;

        // It waits until the finalizer is gone.
        let mut held = config_map("held");
        held["metadata"]["finalizers"] = json!(["example.com/hold"]);
        api.made(CONFIG_MAPS, held).await;
        let mut waiting = Beside::start(kubectl, "delete cm held");
        waiting.tells("deleted").await;
        let path = format!("{CONFIG_MAPS}/held");
        assert!(
            part(api, &path, "/metadata/deletionTimestamp")
                .await
                .is_string()
        );
        api.merge(&path, json!({"metadata": {"finalizers": null}}))
            .await;
        assert!(waiting.ends().await);

        // A Pod on a node has its grace, unless that is cut.
        node(api, "n1").await;
        for (name, how) in [
            ("now", "--now --wait=false"),
            ("force", "--grace-period=0 --force"),
        ] {
            api.made(PODS, pod(name)).await;
            let bind = json!({"target": {"kind": "Node", "name": "n1"}});
            api.made(&format!("{PODS}/{name}/binding"), bind).await;
            kubectl.works(&format!("delete pod {name} {how}")).await;
        }
        let grace = part(
            api,
            &format!("{PODS}/now"),
            "/metadata/deletionGracePeriodSeconds",
        )
        .await;
        assert_eq!(grace, 1);
        assert_eq!(api.get(&format!("{PODS}/force")).await.0, 404);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replace_edit_expose_and_run() {
    each_version(async |api, kubectl| {
        api.made(SERVICES, service("s")).await;
        let before = part(api, &format!("{SERVICES}/s"), "/metadata/uid").await;
        let manifest =
            "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 81}]}\n";
        kubectl.works_with("replace -f -", manifest).await;
        assert_eq!(
            part(api, &format!("{SERVICES}/s"), "/metadata/uid").await,
            before
        );
        kubectl.works_with("replace --force -f -", manifest).await;
        assert_ne!(
            part(api, &format!("{SERVICES}/s"), "/metadata/uid").await,
            before
        );

        let editor = kubectl.home.path().join("editor");
        std::fs::write(&editor, "#!/bin/sh\nsed -i 's/port: 81/port: 82/' \"$1\"\n").unwrap();
        std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).unwrap();
        let edit = kubectl
            .command("edit svc s")
            .env("EDITOR", &editor)
            .output()
            .await
            .unwrap();
        assert!(edit.status.success(), "{edit:?}");
        assert_eq!(
            part(api, &format!("{SERVICES}/s"), "/spec/ports/0/port").await,
            82
        );

        api.made(DEPLOYMENTS, deployment("web")).await;
        kubectl
            .works("expose deployment web --port=80 --target-port=9376")
            .await;
        let spec = part(api, &format!("{SERVICES}/web"), "/spec").await;
        assert_eq!(spec["selector"], json!({"app": "web"}));
        assert_eq!(spec["ports"][0]["targetPort"], 9376);
        kubectl
            .works("run one --image=x --labels=app=one --port=80")
            .await;
        assert_eq!(
            part(api, &format!("{PODS}/one"), "/metadata/labels/app").await,
            "one"
        );
        kubectl.works("expose pod one --type=NodePort").await;
        assert!(
            part(api, &format!("{SERVICES}/one"), "/spec/ports/0/nodePort")
                .await
                .is_number()
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scale_set_and_rollout_change_the_template() {
    each_version(async |api, kubectl| {
        let path = format!("{DEPLOYMENTS}/d");
        api.made(DEPLOYMENTS, deployment("d")).await;
        kubectl.works("scale deploy d --replicas=5").await;
        kubectl.works("scale deploy d --current-replicas=5 --replicas=4").await;
        assert_eq!(part(api, &path, "/spec/replicas").await, 4);
        let (fine, text) = kubectl.run("scale deploy d --current-replicas=9 --replicas=1").await;
        assert!(!fine && text.contains("9"), "{text}");
        kubectl.works("set image deploy/d c=minik.dev/echo:2").await;
        kubectl.works("set env deploy/d A=1 B=2").await;
        kubectl.works("set env deploy/d A-").await;
        kubectl.works("set resources deploy/d --limits=cpu=200m").await;
        kubectl.works("set serviceaccount deploy d robot").await;
        let spec = part(api, &path, "/spec/template/spec").await;
        let container = &spec["containers"][0];
        assert_eq!(container["image"], "minik.dev/echo:2");
        assert_eq!(container["env"], json!([{"name": "B", "value": "2"}]));
        assert_eq!(container["resources"]["limits"]["cpu"], "200m");
        assert_eq!(spec["serviceAccountName"], "robot");
        kubectl.works("rollout pause deploy/d").await;
        assert_eq!(part(api, &path, "/spec/paused").await, true);
        kubectl.works("rollout resume deploy/d").await;
        assert_eq!(part(api, &path, "/spec/paused").await, Value::Null);
        kubectl.works("rollout restart deploy/d").await;
        let annotations = part(api, &path, "/spec/template/metadata/annotations").await;
        assert!(annotations["kubectl.kubernetes.io/restartedAt"].is_string());

        // `rollout status` goes by the numbers of the status and its generation.
        let mut status = Beside::start(kubectl, "rollout status deploy/d");
        status.tells("Waiting for deployment").await;
        let generation = part(api, &path, "/metadata/generation").await;
        let done = json!({"status": {"observedGeneration": generation, "replicas": 4, "updatedReplicas": 4,
            "readyReplicas": 4, "availableReplicas": 4}});
        api.merge(&format!("{path}/status"), done).await;
        status.tells("successfully rolled out").await;
        assert!(status.ends().await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_ends_with_the_condition_or_the_object() {
    each_version(async |api, kubectl| {
        api.made(PODS, pod("a")).await;
        let path = format!("{PODS}/a/status");
        let condition = Beside::start(kubectl, "wait --for=condition=Ready pod/a --timeout=60s");
        let phase = Beside::start(kubectl, "wait --for=jsonpath={.status.phase}=Running pod/a --timeout=60s");
        let gone = Beside::start(kubectl, "wait --for=delete pod/a --timeout=60s");
        let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        api.merge(&path, ready).await;
        assert!(condition.ends().await && phase.ends().await);
        api.delete(&format!("{PODS}/a")).await;
        assert!(gone.ends().await);
        let (fine, text) = kubectl.run("wait --for=condition=Ready pod/a --timeout=1s").await;
        assert!(!fine && text.contains("not found"), "{text}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_cordoned_and_tainted() {
    each_version(async |api, kubectl| {
        node(api, "n1").await;
        let path = "/api/v1/nodes/n1";
        kubectl.works("cordon n1").await;
        let table = kubectl.works("get nodes").await;
        assert!(table.contains("SchedulingDisabled"), "{table}");
        kubectl.works("uncordon n1").await;
        assert_eq!(part(api, path, "/spec/unschedulable").await, Value::Null);
        kubectl
            .works("taint nodes n1 key=value:NoSchedule other=x:NoExecute")
            .await;
        kubectl.works("taint nodes n1 other-").await;
        let taints = part(api, path, "/spec/taints").await;
        let keys = taints.as_array().unwrap().iter();
        let keys = keys.filter_map(|taint| taint["key"].as_str());
        // A node that never reported has a taint of the server's.
        let keys: Vec<&str> = keys.filter(|key| !key.contains("kubernetes.io/")).collect();
        assert_eq!(keys, ["key"]);
        kubectl
            .works("label node n1 node-role.kubernetes.io/worker=")
            .await;
        let table = kubectl.works("get nodes").await;
        assert!(table.contains("worker"), "{table}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_followed() {
    each_version(async |api, kubectl| {
        let mut events = Beside::start(kubectl, "get events -w");
        let event = |name: &str| {
            json!({"metadata": {"name": name}, "reason": "Tested", "message": name,
            "involvedObject": {"kind": "Pod", "name": "a", "namespace": "default"}})
        };
        let path = "/api/v1/namespaces/default/events";
        api.made(path, event("first")).await;
        events.tells("first").await;
        api.made(path, event("second")).await;
        events.tells("second").await;
        eventually("both are listed", async || {
            let text = kubectl.works("events").await;
            text.contains("first") && text.contains("second")
        })
        .await;
    })
    .await;
}
