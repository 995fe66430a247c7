//! Deployments, with the real kubectl in each version the machine has.

use super::*;
use common::kubectl::each_version;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == kind);
    found.unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_creates_scales_updates_and_undoes() {
    each_version(async |api, kubectl| {
        let test = async {
            let status = "rollout status deployment/web --timeout=60s";
            let image = "get deployment web -o jsonpath={.spec.template.spec.containers[0].image}";
            kubectl
                .works("create deployment web --image=minik.dev/echo:1 --replicas=3 --port=9376")
                .await;
            let done = kubectl.works(status).await;
            assert!(done.contains("successfully rolled out"), "{done}");
            let (_, sets) = api.get(SETS).await;
            let hash = &items(&sets)[0]["metadata"]["labels"]["pod-template-hash"];
            let hash = hash.as_str().unwrap();
            assert!(
                hash.chars()
                    .all(|c| "bcdfghjklmnpqrstvwxz2456789".contains(c)),
                "{hash}"
            );

            kubectl.works("scale deployment/web --replicas=5").await;
            kubectl.works(status).await;
            kubectl
                .works("set image deployment/web echo=minik.dev/echo:2")
                .await;
            kubectl.works(status).await;
            let listed = kubectl.works("get deployment web").await;
            assert!(listed.contains("5/5"), "{listed}");
            let (_, pods) = api.get(&format!("{PODS}?labelSelector=app%3Dweb")).await;
            let new = |pod: &&Value| pod["spec"]["containers"][0]["image"] == "minik.dev/echo:2";
            assert_eq!(items(&pods).iter().filter(new).count(), 5);

            let history = kubectl.works("rollout history deployment/web").await;
            assert!(
                history.contains("\n1 ") && history.contains("\n2 "),
                "{history}"
            );
            let second = kubectl
                .works("rollout history deployment/web --revision=2")
                .await;
            assert!(second.contains("minik.dev/echo:2"), "{second}");
            kubectl.works("rollout undo deployment/web").await;
            kubectl.works(status).await;
            assert_eq!(kubectl.works(image).await, "minik.dev/echo:1");
            let history = kubectl.works("rollout history deployment/web").await;
            assert!(
                history.contains("\n3 ") && !history.contains("\n1 "),
                "{history}"
            );

            kubectl.works("rollout restart deployment/web").await;
            let done = kubectl.works(status).await;
            assert!(done.contains("successfully rolled out"), "{done}");

            kubectl.works("rollout pause deployment/web").await;
            kubectl
                .works("set image deployment/web echo=minik.dev/echo:3")
                .await;
            let path = format!("{DEPLOYMENTS}/web");
            let paused = eventually(api, &path, "paused", |deployment| {
                let observed = &deployment["status"]["observedGeneration"];
                *observed == deployment["metadata"]["generation"]
                    && condition(deployment, "Progressing")["reason"] == "DeploymentPaused"
            })
            .await;
            assert!(paused["status"]["updatedReplicas"].is_null(), "{paused}");
            kubectl.works("rollout resume deployment/web").await;
            kubectl.works(status).await;
            let described = kubectl.works("describe deployment web").await;
            for words in [
                "5 desired | 5 updated | 5 total | 5 available | 0 unavailable",
                "Available      True    MinimumReplicasAvailable",
                "Progressing    True    NewReplicaSetAvailable",
                "(5/5 replicas created)",
                "ScalingReplicaSet",
            ] {
                assert!(described.contains(words), "{words}: {described}");
            }
        };
        on_nodes(api, &["n1", "n2"], test).await;
    })
    .await;
}

#[tokio::test]
async fn a_broken_update_leaves_enough_of_the_old_ones_and_is_told_in_time() {
    let api = Api::new().await;
    on_nodes(&api, &["n1"], async {
        let path = format!("{DEPLOYMENTS}/web");
        let spec = json!({"replicas": 4, "progressDeadlineSeconds": 2});
        api.made(DEPLOYMENTS, workload("web", &spec)).await;
        eventually(&api, &path, "complete", |deployment| {
            condition(deployment, "Progressing")["reason"] == "NewReplicaSetAvailable"
        })
        .await;
        let broken = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "broken"}]}}}});
        api.merge(&path, broken).await;
        let late = eventually(&api, &path, "too late", |deployment| {
            condition(deployment, "Progressing")["status"] == "False"
        })
        .await;
        assert_eq!(
            condition(&late, "Progressing")["reason"],
            "ProgressDeadlineExceeded"
        );
        assert_eq!(condition(&late, "Available")["status"], "True");
        assert_eq!(late["status"]["availableReplicas"], 3);
        let (_, list) = api.get(PODS).await;
        assert_eq!(items(&list).len(), 5, "one may be missing, one may be too many");
    })
    .await;
}

#[tokio::test]
async fn recreate_never_has_old_and_new_pods_at_a_time() {
    let api = Api::new().await;
    on_nodes(&api, &["n1"], async {
        let path = format!("{DEPLOYMENTS}/web");
        let spec = json!({"replicas": 3, "strategy": {"type": "Recreate"}});
        api.made(DEPLOYMENTS, workload("web", &spec)).await;
        let complete = |image: &'static str| {
            move |deployment: &Value| {
                let spec = &deployment["spec"]["template"]["spec"];
                spec["containers"][0]["image"] == image
                    && deployment["status"]["observedGeneration"]
                        == deployment["metadata"]["generation"]
                    && deployment["status"]["updatedReplicas"] == 3
                    && deployment["status"]["availableReplicas"] == 3
            }
        };
        eventually(&api, &path, "complete", complete("minik.dev/echo:1")).await;
        let mut events = api.watch(&format!("{PODS}?watch=1")).await;
        let new = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "new"}]}}}});
        api.merge(&path, new).await;
        eventually(&api, &path, "complete", complete("new")).await;
        let (mut old, mut made) = (0, 0);
        while made < 3 {
            let event = events.next().await.unwrap();
            let image = &event["object"]["spec"]["containers"][0]["image"];
            match (event["type"].as_str().unwrap(), image == "new") {
                ("ADDED", false) => old += 1,
                ("DELETED", false) => old -= 1,
                ("ADDED", true) => {
                    assert_eq!(old, 0, "an old Pod is still there");
                    made += 1;
                }
                _ => {}
            }
        }
    })
    .await;
}

#[tokio::test]
async fn only_so_many_old_replica_sets_are_kept() {
    let api = Api::new().await;
    on_nodes(&api, &["n1"], async {
        let path = format!("{DEPLOYMENTS}/web");
        let spec = json!({"revisionHistoryLimit": 1});
        api.made(DEPLOYMENTS, workload("web", &spec)).await;
        for revision in 1..5 {
            let number = revision.to_string();
            eventually(&api, &path, "complete", |deployment| {
                let revisions = &deployment["metadata"]["annotations"];
                revisions["deployment.kubernetes.io/revision"] == *number
                    && deployment["status"]["updatedReplicas"] == 1
                    && condition(deployment, "Progressing")["reason"] == "NewReplicaSetAvailable"
            })
            .await;
            let image = format!("i:{revision}");
            let new = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
            api.merge(&path, new).await;
        }
        eventually(&api, SETS, "two", |list| {
            let mut revisions: Vec<&str> = items(list)
                .iter()
                .filter_map(|set| {
                    let annotations = &set["metadata"]["annotations"];
                    annotations["deployment.kubernetes.io/revision"].as_str()
                })
                .collect();
            revisions.sort_unstable();
            revisions == ["4", "5"]
        })
        .await;
    })
    .await;
}
