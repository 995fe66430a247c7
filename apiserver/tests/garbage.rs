//! Dependents follow their owners: the statements X7 and X8 of the contract, with the collector at work.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use apiserver::applied::Applied;
use common::{
    Api, CONFIG_MAPS,
    cluster::{self, NODE_GRACE, cluster, eventually},
    config_map,
    kubectl::each_version,
};
use serde_json::{Value, json};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const NODES: &str = "/api/v1/nodes";

/// A reference to an object that was made.
fn to(owner: &Value) -> Value {
    json!({
        "apiVersion": owner["apiVersion"], "kind": owner["kind"],
        "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
    })
}

/// The same; a foreground deletion of the owner waits for this one.
fn blocking(owner: &Value) -> Value {
    let mut reference = to(owner);
    reference["blockOwnerDeletion"] = true.into();
    reference
}

fn owned(name: &str, owners: &[Value]) -> Value {
    let mut object = config_map(name);
    object["metadata"]["ownerReferences"] = json!(owners);
    object
}

fn path(name: &str) -> String {
    format!("{CONFIG_MAPS}/{name}")
}

async fn delete(api: &Api, path: &str, policy: &str) -> Value {
    let options = json!({"propagationPolicy": policy});
    let (code, answer) = api.call("DELETE", path, options).await;
    assert_eq!(code, 200, "{answer}");
    answer
}

async fn gone(api: &Api, path: &str) {
    eventually(api, path, "it goes", |got| got["code"] == 404).await;
}

async fn is_there(api: &Api, path: &str) -> bool {
    api.get(path).await.0 == 200
}

#[tokio::test]
async fn x7_background_takes_the_owner_at_once_and_then_what_it_owns_down_to_the_last() {
    let (api, _running) = cluster().await;
    let top = api.made(CONFIG_MAPS, config_map("top")).await;
    let mut middle = owned("middle", &[to(&top)]);
    middle["data"] = json!({});
    let middle = api.made(SECRETS, middle).await;
    api.made(CONFIG_MAPS, owned("leaf", &[to(&middle)])).await;
    api.made(CONFIG_MAPS, config_map("other")).await;
    let answer = delete(&api, &path("top"), "Background").await;
    assert_eq!(answer["status"], "Success");
    assert!(!is_there(&api, &path("top")).await);
    gone(&api, &format!("{SECRETS}/middle")).await;
    gone(&api, &path("leaf")).await;
    assert!(is_there(&api, &path("other")).await);
}

#[tokio::test]
async fn x7_foreground_takes_the_owner_after_those_that_block_it() {
    let (api, _running) = cluster().await;
    let owner = api.made(CONFIG_MAPS, config_map("owner")).await;
    let mut held = owned("held", &[blocking(&owner)]);
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.made(CONFIG_MAPS, held).await;
    api.made(CONFIG_MAPS, owned("free", &[to(&owner)])).await;
    let answer = delete(&api, &path("owner"), "Foreground").await;
    let finalizers = json!(["foregroundDeletion"]);
    assert_eq!(answer["metadata"]["finalizers"], finalizers);
    gone(&api, &path("free")).await;
    eventually(&api, &path("held"), "it is deleted", |held| {
        held["metadata"]["deletionTimestamp"].is_string()
    })
    .await;
    let (_, waiting) = api.get(&path("owner")).await;
    assert_eq!(waiting["metadata"]["finalizers"], finalizers);
    let release = json!({"metadata": {"finalizers": null}});
    api.merge(&path("held"), release).await;
    gone(&api, &path("owner")).await;
}

#[tokio::test]
async fn x7_foreground_goes_down_before_it_comes_up() {
    let (api, _running) = cluster().await;
    let top = api.made(CONFIG_MAPS, config_map("top")).await;
    let middle = api
        .made(CONFIG_MAPS, owned("middle", &[blocking(&top)]))
        .await;
    api.made(CONFIG_MAPS, owned("leaf", &[blocking(&middle)]))
        .await;
    let mut watch = api.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    delete(&api, &path("top"), "Foreground").await;
    let mut order = Vec::new();
    while order.len() < 3 {
        let told = watch.told().await;
        order.extend(told.strip_prefix("DELETED ").map(str::to_owned));
    }
    assert_eq!(order, ["leaf", "middle", "top"]);
}

#[tokio::test]
async fn x7_orphans_stay_without_the_owner() {
    let (api, _running) = cluster().await;
    let owner = api.made(CONFIG_MAPS, config_map("owner")).await;
    let other = api.made(CONFIG_MAPS, config_map("other")).await;
    api.made(CONFIG_MAPS, owned("a", &[to(&owner)])).await;
    api.made(CONFIG_MAPS, owned("b", &[to(&owner), to(&other)]))
        .await;
    let answer = delete(&api, &path("owner"), "Orphan").await;
    assert_eq!(answer["metadata"]["finalizers"], json!(["orphan"]));
    gone(&api, &path("owner")).await;
    let (_, a) = api.get(&path("a")).await;
    assert_eq!(a["metadata"].get("ownerReferences"), None, "{a}");
    let (_, b) = api.get(&path("b")).await;
    assert_eq!(b["metadata"]["ownerReferences"], json!([to(&other)]));
}

#[tokio::test]
async fn x7_a_second_delete_may_say_otherwise() {
    let api = Api::new().await;
    let mut body = config_map("a");
    body["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.made(CONFIG_MAPS, body).await;
    let finalizers = async |policy: &str| {
        let held = delete(&api, &path("a"), policy).await;
        held["metadata"]["finalizers"].clone()
    };
    let hold = "example.com/hold";
    assert_eq!(finalizers("Orphan").await, json!([hold, "orphan"]));
    assert_eq!(
        finalizers("Foreground").await,
        json!([hold, "foregroundDeletion"])
    );
    // Who says nothing leaves it at that.
    let (_, held) = api.delete(&path("a")).await;
    assert_eq!(
        held["metadata"]["finalizers"],
        json!([hold, "foregroundDeletion"])
    );
    assert_eq!(finalizers("Background").await, json!([hold]));
    let orphan = json!({"orphanDependents": true});
    let (_, held) = api.call("DELETE", &path("a"), orphan).await;
    assert_eq!(held["metadata"]["finalizers"], json!([hold, "orphan"]));
}

#[tokio::test]
async fn x8_with_several_owners_an_object_loses_those_that_are_gone_and_goes_with_the_last() {
    let (api, _running) = cluster().await;
    let first = api.made(CONFIG_MAPS, config_map("first")).await;
    let second = api.made(CONFIG_MAPS, config_map("second")).await;
    let both = [to(&first), to(&second)];
    api.made(CONFIG_MAPS, owned("a", &both)).await;
    delete(&api, &path("first"), "Background").await;
    eventually(&api, &path("a"), "it has one owner", |a| {
        a["metadata"]["ownerReferences"] == json!([to(&second)])
    })
    .await;
    delete(&api, &path("second"), "Background").await;
    gone(&api, &path("a")).await;
}

#[tokio::test]
async fn x8_an_owner_is_known_by_its_uid_and_looked_for_in_the_namespace_of_what_it_owns() {
    let (api, _running) = cluster().await;
    let owner = api.made(CONFIG_MAPS, config_map("owner")).await;
    let mut another = to(&owner);
    another["uid"] = "3b241101-e2bb-4255-8caf-4136c566a962".into();
    api.made(CONFIG_MAPS, owned("a", &[another])).await;
    gone(&api, &path("a")).await;
    let namespace = json!({"metadata": {"name": "far"}});
    api.made("/api/v1/namespaces", namespace).await;
    let far = "/api/v1/namespaces/far/configmaps";
    api.made(far, owned("b", &[to(&owner)])).await;
    gone(&api, &format!("{far}/b")).await;
    assert!(is_there(&api, &path("owner")).await);
}

#[tokio::test]
async fn x8_what_is_cluster_scoped_owns_in_every_namespace_and_is_not_owned_from_one() {
    let (api, _running) = cluster().await;
    let node = api.made(NODES, json!({"metadata": {"name": "n"}})).await;
    let in_namespace = api.made(CONFIG_MAPS, owned("a", &[to(&node)])).await;
    let odd = json!({"metadata": {"name": "odd", "ownerReferences": [to(&in_namespace)]}});
    api.made(NODES, odd).await;
    api.delete(&format!("{NODES}/n")).await;
    gone(&api, &path("a")).await;
    // What came later has been dealt with: so has the node been looked at.
    let last = api.made(CONFIG_MAPS, config_map("last")).await;
    api.made(CONFIG_MAPS, owned("b", &[to(&last)])).await;
    delete(&api, &path("last"), "Background").await;
    gone(&api, &path("b")).await;
    assert!(is_there(&api, &format!("{NODES}/odd")).await);
}

#[tokio::test]
async fn x8_circles_do_not_hold_themselves() {
    let (api, _running) = cluster().await;
    for policy in ["Foreground", "Background", "Orphan"] {
        let a = api.made(CONFIG_MAPS, config_map("a")).await;
        let b = api.made(CONFIG_MAPS, owned("b", &[blocking(&a)])).await;
        let c = api.made(CONFIG_MAPS, owned("c", &[blocking(&b)])).await;
        let close = json!({"metadata": {"ownerReferences": [blocking(&c)]}});
        api.merge(&path("a"), close).await;
        delete(&api, &path("a"), policy).await;
        gone(&api, &path("a")).await;
        if policy == "Orphan" {
            assert!(is_there(&api, &path("b")).await && is_there(&api, &path("c")).await);
        } else {
            gone(&api, &path("b")).await;
            gone(&api, &path("c")).await;
        }
    }
}

#[tokio::test]
async fn x8_what_lost_its_owner_while_nobody_looked_is_found_at_the_start() {
    let api = Api::new().await;
    let owner = api.made(CONFIG_MAPS, config_map("owner")).await;
    api.made(CONFIG_MAPS, owned("a", &[to(&owner)])).await;
    delete(&api, &path("owner"), "Background").await;
    let waiting = api.made(CONFIG_MAPS, config_map("waiting")).await;
    api.made(CONFIG_MAPS, owned("b", &[blocking(&waiting)]))
        .await;
    delete(&api, &path("waiting"), "Foreground").await;
    let _running = cluster::start(&api, NODE_GRACE, Applied::default()).await;
    gone(&api, &path("a")).await;
    gone(&api, &path("b")).await;
    gone(&api, &path("waiting")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x7_kubectl_deletes_in_the_three_ways() {
    each_version(async |api, kubectl| {
        let _running = cluster::start(api, NODE_GRACE, Applied::default()).await;
        for cascade in ["foreground", "background", "orphan"] {
            let owner = api.made(CONFIG_MAPS, config_map("owner")).await;
            api.made(CONFIG_MAPS, owned("a", &[blocking(&owner)])).await;
            // It waits until the owner is gone.
            kubectl
                .works(&format!(
                    "delete configmap owner --cascade={cascade} --timeout=30s"
                ))
                .await;
            assert!(!is_there(api, &path("owner")).await);
            match cascade {
                "foreground" => assert!(!is_there(api, &path("a")).await),
                "background" => gone(api, &path("a")).await,
                _ => {
                    let (_, a) = api.get(&path("a")).await;
                    assert_eq!(a["metadata"].get("ownerReferences"), None, "{a}");
                }
            }
        }
    })
    .await;
}
