//! DaemonSets, with the real kubectl in each version the machine has.

use super::*;
use common::kubectl::each_version;

const SETS: &str = "/apis/apps/v1/namespaces/default/daemonsets";

/// The nodes of the Pods with this image, sorted.
fn nodes_with<'a>(pods: &'a Value, image: &str) -> Vec<&'a str> {
    let pods = items(pods)
        .iter()
        .filter(|pod| pod["spec"]["containers"][0]["image"] == image);
    let mut nodes: Vec<&str> = pods
        .filter_map(|pod| pod["spec"]["nodeName"].as_str())
        .collect();
    nodes.sort_unstable();
    nodes
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_rolls_a_daemon_set_out_and_back() {
    each_version(async |api, kubectl| {
        let test = async {
            let status = "rollout status daemonset/agent --timeout=60s";
            api.made(SETS, workload("agent", &json!({}))).await;
            let done = kubectl.works(status).await;
            assert!(done.contains("successfully rolled out"), "{done}");
            let (_, pods) = api.get(PODS).await;
            assert_eq!(nodes_with(&pods, "minik.dev/echo:1"), ["n1", "n2", "n3"]);

            kubectl
                .works("set image daemonset/agent c=minik.dev/echo:2")
                .await;
            kubectl.works(status).await;
            let (_, pods) = api.get(PODS).await;
            assert_eq!(nodes_with(&pods, "minik.dev/echo:2"), ["n1", "n2", "n3"]);
            let history = kubectl.works("rollout history daemonset/agent").await;
            assert!(
                history.contains("\n1 ") && history.contains("\n2 "),
                "{history}"
            );

            kubectl.works("rollout undo daemonset/agent").await;
            kubectl.works(status).await;
            let (_, pods) = api.get(PODS).await;
            assert_eq!(nodes_with(&pods, "minik.dev/echo:1"), ["n1", "n2", "n3"]);
            let history = kubectl.works("rollout history daemonset/agent").await;
            assert!(
                history.contains("\n3 ") && !history.contains("\n1 "),
                "{history}"
            );

            kubectl.works("rollout restart daemonset/agent").await;
            kubectl.works(status).await;
            let listed = kubectl.works("get daemonset agent").await;
            assert!(
                listed.contains("agent   3         3         3       3            3"),
                "{listed}"
            );
            let described = kubectl.works("describe daemonset agent").await;
            assert!(described.contains("SuccessfulCreate"), "{described}");
        };
        on_nodes(api, &["n1", "n2", "n3"], test).await;
    })
    .await;
}

#[tokio::test]
async fn a_daemon_set_follows_the_nodes() {
    let api = Api::new().await;
    on_nodes(&api, &["n1"], async {
        let ssd = json!({"template": {"spec": {"nodeSelector": {"disk": "ssd"}}}});
        api.made(SETS, workload("agent", &ssd)).await;
        let on = |wanted: &'static [&'static str]| {
            move |pods: &Value| nodes_with(pods, "minik.dev/echo:1") == wanted
        };
        let path = format!("{SETS}/agent");
        eventually(&api, &path, "observed", |set| {
            set["status"]["observedGeneration"] == 1
        })
        .await;
        node(&api, "n2", &json!({"disk": "ssd"})).await;
        eventually(&api, PODS, "a new node", on(&["n2"])).await;
        let label = json!({"metadata": {"labels": {"disk": "ssd"}}});
        api.merge("/api/v1/nodes/n1", label).await;
        eventually(&api, PODS, "a label", on(&["n1", "n2"])).await;
        let cordon = json!({"spec": {"unschedulable": true}});
        api.merge("/api/v1/nodes/n1", cordon).await;
        let taint = json!({"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}});
        api.merge("/api/v1/nodes/n2", taint).await;
        eventually(&api, PODS, "a taint; a cordon does not matter", on(&["n1"])).await;
        eventually(&api, &path, "the status", |set| {
            let status = &set["status"];
            status["numberAvailable"] == 1 && status["desiredNumberScheduled"] == 1
        })
        .await;
        assert_eq!(told(&api, "SuccessfulCreate").await.len(), 2);
    })
    .await;
}

#[tokio::test]
async fn with_surge_no_node_is_ever_without_a_ready_pod() {
    let api = Api::new().await;
    on_nodes(&api, &["n1", "n2"], async {
        let surge = json!({"updateStrategy": {
            "type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
        }});
        let path = format!("{SETS}/agent");
        api.made(SETS, workload("agent", &surge)).await;
        let done = |generation: i64| {
            move |set: &Value| {
                set["status"]["observedGeneration"] == generation
                    && set["status"]["updatedNumberScheduled"] == 2
                    && set["status"]["numberAvailable"] == 2
            }
        };
        eventually(&api, &path, "two", done(1)).await;
        let mut events = api.watch(&format!("{PODS}?watch=1")).await;
        let new = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "new"}]}}}});
        api.merge(&path, new).await;
        eventually(&api, &path, "two new ones", done(2)).await;
        let mut ready = std::collections::BTreeMap::<String, BTreeSet<String>>::new();
        let mut gone = 0;
        while gone < 2 {
            let event = events.next().await.unwrap();
            let pod = &event["object"];
            let Some(node) = pod["spec"]["nodeName"].as_str() else {
                continue;
            };
            let conditions = pod["status"]["conditions"].as_array();
            let is_ready = conditions.is_some_and(|conditions| {
                let mut conditions = conditions.iter();
                conditions.any(|it| it["type"] == "Ready" && it["status"] == "True")
            });
            let here = ready.entry(node.to_owned()).or_default();
            let going = pod["metadata"]["deletionTimestamp"].is_string();
            if is_ready && !going {
                here.insert(name(pod).to_owned());
            } else if here.remove(name(pod)) {
                gone += 1;
                assert!(!here.is_empty(), "{node} has none");
            }
        }
    })
    .await;
}
