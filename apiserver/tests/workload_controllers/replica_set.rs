//! ReplicaSets.

use super::*;

fn available(number: i64) -> impl Fn(&Value) -> bool {
    move |set| set["status"]["availableReplicas"].as_i64().unwrap_or(0) == number
}

#[tokio::test]
async fn a_replica_set_has_as_many_pods_as_it_wants_never_more() {
    let api = Api::new().await;
    on_nodes(&api, &["n1", "n2"], async {
        let sets = format!("{APPS}/replicasets");
        let path = format!("{sets}/web");
        api.made(&sets, workload("web", &json!({"replicas": 20})))
            .await;
        let set = eventually(&api, &path, "twenty", available(20)).await;
        let status = &set["status"];
        assert_eq!(
            (&status["replicas"], &status["fullyLabeledReplicas"]),
            (&json!(20), &json!(20))
        );
        assert_eq!(
            told(&api, "SuccessfulCreate").await.len(),
            20,
            "none was made twice"
        );
        let (_, pods) = api.get(PODS).await;
        for pod in items(&pods) {
            assert!(name(pod).starts_with("web-"), "{}", name(pod));
        }

        let (code, _) = api
            .merge(&format!("{path}/scale"), json!({"spec": {"replicas": 3}}))
            .await;
        assert_eq!(code, 200);
        eventually(&api, PODS, "three", |list| items(list).len() == 3).await;
        assert_eq!(told(&api, "SuccessfulDelete").await.len(), 17);
        let set = eventually(&api, &path, "three", available(3)).await;
        assert_eq!(set["status"]["observedGeneration"], 2);

        let (_, pods) = api.get(PODS).await;
        let gone = name(&items(&pods)[0]).to_owned();
        api.delete(&format!("{PODS}/{gone}")).await;
        eventually(&api, PODS, "another one", |list| {
            items(list).len() == 3 && items(list).iter().all(|pod| name(pod) != gone)
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_replica_set_takes_orphans_in_and_lets_go_what_is_not_its_own_any_more() {
    let api = Api::new().await;
    on_nodes(&api, &["n1"], async {
        let mut orphan = common::pod("orphan");
        orphan["metadata"]["labels"] = json!({"app": "web"});
        api.made(PODS, orphan).await;
        let orphan = format!("{PODS}/orphan");
        // The controllers have seen it once it has a node.
        eventually(&api, &orphan, "on a node", |pod| {
            pod["spec"]["nodeName"] == "n1"
        })
        .await;
        let sets = format!("{APPS}/replicasets");
        let made = api
            .made(&sets, workload("web", &json!({"replicas": 2})))
            .await;
        let path = format!("{sets}/web");
        eventually(&api, &path, "two", available(2)).await;
        assert_eq!(told(&api, "SuccessfulCreate").await.len(), 1);
        let (_, pod) = api.get(&orphan).await;
        let owner = &pod["metadata"]["ownerReferences"][0];
        assert_eq!(owner["uid"], made["metadata"]["uid"]);
        assert_eq!(owner["controller"], true);

        let label = json!({"metadata": {"labels": {"app": "other"}}});
        api.merge(&orphan, label).await;
        eventually(&api, &orphan, "released", |pod| {
            pod["metadata"]["ownerReferences"].is_null()
        })
        .await;
        eventually(&api, PODS, "a new one in its place", |list| {
            items(list).len() == 3
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_made_is_told_and_not_tried_a_thousand_times() {
    let api = Api::new().await;
    on_nodes(&api, &["n1"], async {
        let sets = format!("{APPS}/replicasets");
        let path = format!("{sets}/web");
        // Nobody looks at this in a template, but in a Pod.
        let wrong = json!({"finalizers": ["not a name"]});
        let spec = json!({"replicas": 100, "template": {"metadata": wrong}});
        api.made(&sets, workload("web", &spec)).await;
        let failed = |set: &Value| set["status"]["conditions"][0]["type"] == "ReplicaFailure";
        let set = eventually(&api, &path, "the failure", failed).await;
        assert_eq!(set["status"]["conditions"][0]["reason"], "FailedCreate");
        let failures = told(&api, "FailedCreate").await;
        assert!((1..5).contains(&failures.len()), "{failures:?}");
        assert!(failures[0].starts_with("Error creating: "), "{failures:?}");

        let fixed =
            json!({"spec": {"replicas": 2, "template": {"metadata": {"finalizers": null}}}});
        api.merge(&path, fixed).await;
        let set = eventually(&api, &path, "two", available(2)).await;
        assert!(set["status"]["conditions"].is_null(), "{set}");
    })
    .await;
}

#[tokio::test]
async fn pods_count_as_available_after_their_time_without_anything_happening() {
    let api = Api::new().await;
    on_nodes(&api, &["n1"], async {
        let sets = format!("{APPS}/replicasets");
        let path = format!("{sets}/web");
        let slow = json!({"minReadySeconds": 2});
        api.made(&sets, workload("web", &slow)).await;
        let ready = |set: &Value| set["status"]["readyReplicas"] == 1;
        let set = eventually(&api, &path, "ready", ready).await;
        assert!(set["status"]["availableReplicas"].is_null(), "{set}");
        eventually(&api, &path, "available", available(1)).await;
    })
    .await;
}
