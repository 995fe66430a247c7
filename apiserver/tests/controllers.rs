//! The controllers at work over a store in memory, with clients that speak the API.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::time::Duration;

use apiserver::{applied::Applied, controller, store::Revision};
use common::cluster::{cluster, cluster_with, eventually, ready_node};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

fn running(ip: &str) -> Value {
    json!({"status": {
        "phase": "Running",
        "podIP": ip,
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:07Z"}],
    }})
}

const OF_WEB: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name%3Dweb";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

#[tokio::test]
async fn a_slice_is_one_object_from_the_first_pod_to_the_last() {
    let (api, _running) = cluster().await;
    ready_node(&api, "n1").await;
    let service = common::service("web");
    let service = api
        .made("/api/v1/namespaces/default/services", service)
        .await;
    let created = &service["metadata"]["creationTimestamp"];
    let list = eventually(&api, OF_WEB, "a placeholder", |list| {
        list["items"]
            .as_array()
            .is_some_and(|items| items.len() == 1)
    })
    .await;
    let slice = &list["items"][0];
    assert_eq!(&slice["metadata"]["annotations"][TRIGGER_TIME], created);
    let uid = slice["metadata"]["uid"].clone();

    let pod = json!({"metadata": {"name": "p", "labels": {"app": "web"}}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    api.made(PODS, pod).await;
    api.merge(&format!("{PODS}/p/status"), running("10.244.0.9"))
        .await;
    let list = eventually(&api, OF_WEB, "the first Pod", |list| {
        list["items"][0]["endpoints"][0]["conditions"]["ready"] == true
    })
    .await;
    let slice = &list["items"][0];
    assert_eq!(slice["metadata"]["uid"], uid);
    let changed = &slice["metadata"]["annotations"][TRIGGER_TIME];
    assert_eq!(changed, "2026-01-01T00:00:07Z");
    let endpoints = "/api/v1/namespaces/default/endpoints/web";
    let endpoints = eventually(&api, endpoints, "Endpoints", |endpoints| {
        endpoints["subsets"][0]["addresses"][0]["ip"] == "10.244.0.9"
    })
    .await;
    let changed = &endpoints["metadata"]["annotations"][TRIGGER_TIME];
    assert_eq!(changed, "2026-01-01T00:00:07Z");

    api.delete(&format!("{PODS}/p?gracePeriodSeconds=0")).await;
    let list = eventually(&api, OF_WEB, "the last Pod", |list| {
        list["items"][0]["endpoints"] == json!([])
    })
    .await;
    assert_eq!(list["items"][0]["metadata"]["uid"], uid);
}

#[tokio::test]
async fn what_others_write_into_a_slice_is_set_right() {
    let (api, _running) = cluster().await;
    let service = common::service("web");
    api.made("/api/v1/namespaces/default/services", service)
        .await;
    let list = eventually(&api, OF_WEB, "a placeholder", |list| {
        list["items"]
            .as_array()
            .is_some_and(|items| items.len() == 1)
    })
    .await;
    let name = list["items"][0]["metadata"]["name"].as_str().unwrap();
    let path = format!("{SLICES}/{name}");
    let edit = json!({
        "metadata": {"labels": {"other": "label"}, "annotations": {"other": "annotation"}},
        "endpoints": [{"addresses": ["192.0.2.3"]}],
    });
    let (code, edited) = api.merge(&path, edit).await;
    assert_eq!(code, 200, "{edited}");
    let slice = eventually(&api, &path, "the edit is taken back", |slice| {
        slice["endpoints"] == json!([])
    })
    .await;
    assert_eq!(slice["metadata"]["labels"]["other"], Value::Null);
    assert_eq!(slice["metadata"]["annotations"]["other"], "annotation");
    let (code, _) = api.delete(&path).await;
    assert_eq!(code, 200);
    eventually(&api, OF_WEB, "another placeholder", |list| {
        list["items"]
            .as_array()
            .is_some_and(|items| items.len() == 1)
    })
    .await;
}

fn condition<'a>(object: &'a Value, name: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions
        .find(|condition| condition["type"] == name)
        .unwrap_or(&Value::Null)
}

fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    })
}

#[tokio::test]
async fn a_pod_waits_for_a_node_and_says_so_until_it_has_one() {
    let (api, _running) = cluster().await;
    api.made(PODS, pod("p")).await;
    let path = format!("{PODS}/p");
    let waiting = eventually(&api, &path, "PodScheduled", |pod| {
        condition(pod, "PodScheduled")["status"] == "False"
    })
    .await;
    assert_eq!(
        condition(&waiting, "PodScheduled")["reason"],
        "Unschedulable"
    );
    ready_node(&api, "n1").await;
    let bound = eventually(&api, &path, "a node", |pod| pod["spec"]["nodeName"] == "n1").await;
    // In the very version that first has the node, nothing is left of what was said before.
    let conditions = bound["status"]["conditions"].as_array().unwrap();
    assert_eq!(conditions.len(), 1, "{conditions:?}");
    assert_eq!(condition(&bound, "PodScheduled")["status"], "True");
    assert_eq!(bound["metadata"]["generation"], 1);
    let events = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp";
    let told = |list: &Value, reason: &str| {
        let items = list["items"].as_array().into_iter().flatten();
        items
            .filter(|event| event["reason"] == reason)
            .map(|event| event["message"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let list = eventually(&api, events, "an event", |list| {
        !told(list, "Scheduled").is_empty()
    })
    .await;
    assert_eq!(
        told(&list, "Scheduled"),
        ["Successfully assigned default/p to n1"]
    );
    let failed = told(&list, "FailedScheduling");
    let wanted = "no nodes available to schedule pods".to_owned();
    assert!(failed.contains(&wanted), "{failed:?}");
}

#[tokio::test]
async fn a_gated_pod_is_not_scheduled_before_its_gates_are_gone() {
    let (api, _running) = cluster().await;
    ready_node(&api, "n1").await;
    let mut gated = pod("p");
    gated["spec"]["schedulingGates"] = json!([{"name": "g"}]);
    let made = api.made(PODS, gated).await;
    assert_eq!(
        condition(&made, "PodScheduled")["reason"],
        "SchedulingGated"
    );
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    let (code, status) = api.post(&format!("{PODS}/p/binding"), binding).await;
    assert_eq!(code, 409, "{status}");
    let path = format!("{PODS}/p");
    let moved = json!({"spec": {"nodeName": "n1"}});
    assert_eq!(api.merge(&path, moved).await.0, 422);
    let (code, _) = api
        .merge(&path, json!({"spec": {"schedulingGates": null}}))
        .await;
    assert_eq!(code, 200);
    eventually(&api, &path, "a node", |pod| {
        pod["spec"]["nodeName"] == "n1" && condition(pod, "PodScheduled")["status"] == "True"
    })
    .await;
}

#[tokio::test]
async fn a_service_says_whether_every_ready_node_has_it() {
    let applied = Applied::default();
    let (api, _controllers) = cluster_with(Duration::from_secs(50), applied.clone()).await;
    ready_node(&api, "node1").await;
    ready_node(&api, "node2").await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}});
    api.made("/api/v1/namespaces/default/services", service)
        .await;
    let path = "/api/v1/namespaces/default/services/web";
    applied.report("node1".into(), Revision(u64::MAX));
    let waiting = eventually(&api, path, "a node that is late is named", |service| {
        condition(service, controller::PROGRAMMED)["reason"] == "NodesPending"
    })
    .await;
    let message = condition(&waiting, controller::PROGRAMMED)["message"].to_string();
    assert!(
        message.contains("node2") && !message.contains("node1"),
        "{message}"
    );

    applied.report("node2".into(), Revision(u64::MAX));
    let programmed = eventually(&api, path, "both have it", |service| {
        condition(service, controller::PROGRAMMED)["status"] == "True"
    })
    .await;
    assert_eq!(programmed["status"]["loadBalancer"], json!({}));
}

/// `key:effect` of each taint, without the common prefix.
fn taints(node: &Value) -> Vec<String> {
    let taints = node["spec"]["taints"].as_array().into_iter().flatten();
    let texts = taints.map(|taint| {
        let key = taint["key"].as_str().unwrap();
        let key = key.trim_start_matches("node.kubernetes.io/");
        format!("{key}:{}", taint["effect"].as_str().unwrap())
    });
    texts.collect()
}

#[tokio::test]
async fn a_new_node_is_kept_free_until_it_says_that_it_is_ready() {
    let (api, _running) = cluster().await;
    let made = api
        .made("/api/v1/nodes", json!({"metadata": {"name": "n1"}}))
        .await;
    assert_eq!(taints(&made), ["not-ready:NoSchedule"]);
    let path = "/api/v1/nodes/n1";
    let says =
        |status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
    for (status, wanted) in [
        ("True", &[][..]),
        ("False", &["not-ready:NoSchedule", "not-ready:NoExecute"]),
        ("True", &[]),
    ] {
        let (code, _) = api.merge(&format!("{path}/status"), says(status)).await;
        assert_eq!(code, 200);
        eventually(&api, path, "taints", |node| taints(node) == wanted).await;
    }
    let cordon = json!({"spec": {"unschedulable": true}});
    assert_eq!(api.merge(path, cordon).await.0, 200);
    eventually(&api, path, "a cordon", |node| {
        taints(node) == ["unschedulable:NoSchedule"]
    })
    .await;
}

#[tokio::test]
async fn pods_leave_a_lost_node_when_their_toleration_is_over_and_stay_on_one_that_is_back() {
    let (api, _running) = cluster_with(Duration::from_secs(1), Applied::default()).await;
    ready_node(&api, "n1").await;
    let on_n1 = |name: &str, secs: u32| {
        let mut pod = pod(name);
        pod["spec"]["nodeName"] = "n1".into();
        pod["spec"]["tolerations"] = json!([{
            "key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": secs,
        }]);
        pod
    };
    for (name, secs, ip) in [("short", 0, "10.244.0.8"), ("long", 3600, "10.244.0.9")] {
        api.made(PODS, on_n1(name, secs)).await;
        let path = format!("{PODS}/{name}/status");
        assert_eq!(api.merge(&path, running(ip)).await.0, 200);
    }
    let gone = eventually(&api, &format!("{PODS}/short"), "eviction", |pod| {
        pod["metadata"]["deletionTimestamp"].is_string()
    })
    .await;
    let why = condition(&gone, "DisruptionTarget");
    assert_eq!(
        (&why["status"], &why["reason"]),
        (&json!("True"), &json!("DeletionByTaintManager"))
    );
    eventually(&api, &format!("{PODS}/long"), "not ready", |pod| {
        condition(pod, "Ready")["reason"] == "NodeNotReady"
    })
    .await;
    let node = eventually(&api, "/api/v1/nodes/n1", "taints", |node| {
        taints(node) == ["unreachable:NoSchedule", "unreachable:NoExecute"]
    })
    .await;
    assert_eq!(condition(&node, "Ready")["status"], "Unknown");

    // The agent is back: it renews its Lease for as long as this takes, and says that it is ready.
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let lease =
        json!({"metadata": {"name": "n1"}, "spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}});
    api.made(leases, lease).await;
    for beat in 1..3000 {
        let time = format!("2026-01-01T{:02}:{:02}:00.000000Z", beat / 60, beat % 60);
        let renewed = json!({"spec": {"renewTime": time}});
        api.merge(&format!("{leases}/n1"), renewed).await;
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        api.merge("/api/v1/nodes/n1/status", ready).await;
        if taints(&api.get("/api/v1/nodes/n1").await.1).is_empty() {
            break;
        }
    }
    let (_, node) = api.get("/api/v1/nodes/n1").await;
    assert_eq!(taints(&node), Vec::<String>::new());
    let (_, pod) = api.get(&format!("{PODS}/long")).await;
    assert!(pod["metadata"]["deletionTimestamp"].is_null(), "{pod}");
}

#[tokio::test]
async fn a_namespace_goes_with_its_content_and_says_what_it_waits_for() {
    let (api, _running) = cluster().await;
    api.made("/api/v1/namespaces", json!({"metadata": {"name": "x"}}))
        .await;
    let path = "/api/v1/namespaces/x";
    let mut on_n1 = pod("p");
    on_n1["spec"]["nodeName"] = "n1".into();
    api.made(&format!("{path}/pods"), on_n1).await;
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/held"]}});
    api.made(&format!("{path}/configmaps"), held).await;
    assert_eq!(api.delete(path).await.0, 200);

    let remaining = |namespace: &Value, what: &str| {
        let remaining = condition(namespace, "NamespaceContentRemaining");
        remaining["status"] == "True" && remaining["message"].as_str().unwrap().ends_with(what)
    };
    eventually(&api, path, "the Pod", |namespace| {
        remaining(namespace, ": pods. has 1 resource instances")
    })
    .await;
    let (_, map) = api.get(&format!("{path}/configmaps/held")).await;
    assert!(
        map["metadata"]["deletionTimestamp"].is_null(),
        "what Pods may need stays until they are gone"
    );
    // Stopped, as its agent would say it.
    api.delete(&format!("{path}/pods/p?gracePeriodSeconds=0"))
        .await;
    let namespace = eventually(&api, path, "the ConfigMap", |namespace| {
        remaining(namespace, ": configmaps. has 1 resource instances")
    })
    .await;
    let finalizers = condition(&namespace, "NamespaceFinalizersRemaining");
    assert_eq!(
        (&finalizers["status"], &finalizers["message"]),
        (
            &json!("True"),
            &json!("Some finalizers are remaining: example.com/held in 1 resource instances")
        )
    );
    let failure = condition(&namespace, "NamespaceDeletionContentFailure");
    assert_eq!(failure["status"], "False");
    let released = json!({"metadata": {"finalizers": null}});
    api.merge(&format!("{path}/configmaps/held"), released)
        .await;
    eventually(&api, path, "the namespace goes", |namespace| {
        namespace["code"] == 404
    })
    .await;
}

#[tokio::test]
async fn a_namespace_with_a_finalizer_of_its_own_waits_for_that_alone() {
    let (api, _running) = cluster().await;
    let held = json!({"metadata": {"name": "x", "finalizers": ["example.com/held"]}});
    api.made("/api/v1/namespaces", held).await;
    let path = "/api/v1/namespaces/x";
    assert_eq!(api.delete(path).await.0, 200);
    let namespace = eventually(&api, path, "the content goes", |namespace| {
        namespace["spec"]["finalizers"]
            .as_array()
            .is_none_or(Vec::is_empty)
    })
    .await;
    let remaining = condition(&namespace, "NamespaceContentRemaining");
    assert_eq!(remaining["reason"], "ContentRemoved");
    api.merge(path, json!({"metadata": {"finalizers": null}}))
        .await;
    eventually(&api, path, "the namespace goes", |namespace| {
        namespace["code"] == 404
    })
    .await;
}

#[tokio::test]
async fn f4_each_namespace_gets_its_service_account_and_the_ca() {
    let (api, _running) = cluster().await;
    let namespace = json!({"metadata": {"name": "new"}});
    api.made("/api/v1/namespaces", namespace).await;
    let account = "/api/v1/namespaces/new/serviceaccounts/default";
    let there = |got: &Value| got["metadata"]["name"].is_string();
    eventually(&api, account, "the account comes", there).await;
    let root_ca = "/api/v1/namespaces/new/configmaps/kube-root-ca.crt";
    let map = eventually(&api, root_ca, "the CA comes", there).await;
    let ca = map["data"]["ca.crt"].as_str().unwrap();
    assert!(ca.starts_with("-----BEGIN CERTIFICATE-----"), "{ca}");
    // They come back.
    for path in [account, root_ca] {
        let (_, before) = api.get(path).await;
        api.delete(path).await;
        eventually(&api, path, "it comes back", |got| {
            there(got) && got["metadata"]["uid"] != before["metadata"]["uid"]
        })
        .await;
    }
}
