//! ReplicaSets, statement by statement.

use serde_json::{Value, json};

use super::*;
use crate::{registry::Part, store::Revision};

const NOW: &str = "2026-01-01T01:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn merged(mut base: Value, patch: &Value) -> Value {
    json_patch::merge(&mut base, patch);
    base
}

/// ReplicaSet `d/s` of two Pods labelled `app: a`.
fn set(patch: &Value) -> ReplicaSet {
    let base = json!({
        "metadata": {"name": "s", "namespace": "d", "uid": "us", "generation": 3},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "a"}},
            "template": {
                "metadata": {"labels": {"app": "a", "also": "this"}, "annotations": {"n": "v"}},
                "spec": {"containers": [{"name": "c", "image": "i"}], "unknown": {"field": 1}},
            },
        },
    });
    serde_json::from_value(merged(base, patch)).unwrap()
}

/// A ready Pod of it.
fn pod(name: &str, patch: &Value) -> Pod {
    let base = json!({
        "metadata": {
            "name": name, "namespace": "d", "uid": name, "labels": {"app": "a"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "s", "uid": "us", "controller": true}],
        },
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:59:50Z"},
        ]},
    });
    serde_json::from_value(merged(base, patch)).unwrap()
}

fn look(set: ReplicaSet, pods: Vec<Pod>, failure: Option<&Failure>) -> Plan {
    let mut world = World::default();
    world.put(Revision(1), set);
    pods.into_iter().for_each(|pod| world.put(Revision(1), pod));
    let moment = Moment {
        now: now(),
        failure,
    };
    plan(&world, &("d".into(), "s".into()), moment)
}

fn dependents(plan: &Plan) -> &Dependents {
    match &plan.actions[..] {
        [Action::Dependents(dependents)] => dependents,
        other => panic!("{other:?}"),
    }
}

fn status(plan: &Plan) -> &Value {
    match &plan.actions[..] {
        [Action::Merge(_, _, _, patch)] => &patch["status"],
        other => panic!("{other:?}"),
    }
}

#[test]
fn missing_pods_are_made_of_the_whole_template() {
    let plan = look(set(&json!({})), vec![], None);
    let made = dependents(&plan);
    let wanted = json!({
        "metadata": {
            "generateName": "s-", "namespace": "d",
            "labels": {"app": "a", "also": "this"}, "annotations": {"n": "v"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "s", "uid": "us",
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": {"containers": [{"name": "c", "image": "i"}], "unknown": {"field": 1}},
    });
    assert_eq!(made.create, [wanted.clone(), wanted]);
    assert_eq!(made.delete, []);
}

/// Each row: a Pod beside one that counts, and how many more are made.
#[test]
fn what_counts_as_a_pod_of_it() {
    let other = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "t", "uid": "ut", "controller": true}]);
    let rows = [
        ("one of its own", json!({}), 0),
        (
            "one that ends",
            json!({"metadata": {"deletionTimestamp": NOW}}),
            1,
        ),
        (
            "one that has ended",
            json!({"status": {"phase": "Failed"}}),
            1,
        ),
        (
            "one that is not ready",
            json!({"status": {"conditions": []}}),
            0,
        ),
        (
            "one of another",
            json!({"metadata": {"ownerReferences": other}}),
            1,
        ),
    ];
    for (what, patch, wanted) in rows {
        let pods = vec![pod("a", &json!({})), pod("b", &patch)];
        let plan = look(set(&json!({})), pods, None);
        let made = plan.actions.iter().find_map(|action| match action {
            Action::Dependents(dependents) => Some(dependents.create.len()),
            _ => None,
        });
        assert_eq!(made.unwrap_or(0), wanted, "{what}");
    }
}

#[test]
fn orphans_that_match_are_adopted_and_pods_that_do_not_are_released() {
    let owners = |plan: &Plan| match &plan.actions[..] {
        [Action::Merge(_, key, Part::Main, patch)] => (
            key.1.to_string(),
            patch["metadata"]["ownerReferences"].clone(),
        ),
        other => panic!("{other:?}"),
    };
    let orphan = json!({"metadata": {"ownerReferences": null}});
    let plan = look(set(&json!({})), vec![pod("a", &orphan)], None);
    let (name, owner) = owners(&plan);
    assert_eq!((&*name, &owner[0]["uid"]), ("a", &json!("us")));
    assert_eq!(
        (&owner[0]["controller"], &owner[0]["blockOwnerDeletion"]),
        (&json!(true), &json!(true))
    );
    let stray = json!({"metadata": {"labels": {"app": "b"}}});
    let plan = look(set(&json!({})), vec![pod("a", &stray)], None);
    assert_eq!(owners(&plan), ("a".to_owned(), Value::Null));

    // One that ends itself, or whose ReplicaSet does, is left alone.
    let ending = json!({"metadata": {"deletionTimestamp": NOW}});
    let going = merged(orphan.clone(), &ending);
    let plan = look(set(&json!({})), vec![pod("a", &going)], None);
    assert_eq!(dependents(&plan).create.len(), 2);
    let plan = look(set(&ending), vec![pod("a", &orphan)], None);
    assert_eq!(status(&plan)["replicas"], Value::Null, "none, as before");
}

#[test]
fn of_too_many_those_go_that_are_missed_least() {
    let unready = json!({"status": {"conditions": []}});
    let pods = vec![
        pod("a", &json!({})),
        pod("b", &unready),
        pod("c", &json!({})),
    ];
    let plan = look(set(&json!({})), pods, None);
    let gone = &dependents(&plan).delete;
    assert_eq!(gone[..], [(("d".into(), "b".into()), "b".into())]);
}

#[test]
fn a_pod_is_available_at_an_exact_time() {
    let slow = json!({"spec": {"minReadySeconds": 15}});
    let pods = vec![
        pod("a", &json!({"metadata": {"labels": {"also": "this"}}})),
        pod("b", &json!({"status": {"conditions": []}})),
    ];
    let plan = look(set(&slow), pods, None);
    assert_eq!(
        *status(&plan),
        json!({
            "replicas": 2, "fullyLabeledReplicas": 1, "readyReplicas": 1,
            "terminatingReplicas": 0, "observedGeneration": 3,
        })
    );
    let in_five: Timestamp = "2026-01-01T01:00:05Z".parse().unwrap();
    assert_eq!(plan.due, Some(in_five));
    let pods = vec![pod("a", &json!({})), pod("b", &json!({}))];
    let quick = json!({"spec": {"minReadySeconds": 10}});
    let plan = look(set(&quick), pods, None);
    assert_eq!(status(&plan)["availableReplicas"], 2);
    assert_eq!(plan.due, None);
}

#[test]
fn a_failure_is_told_and_not_tried_again_at_once() {
    let failure = Failure {
        generation: 3,
        reason: "FailedCreate",
        message: "no".into(),
        pause: std::time::Duration::from_secs(1),
        again: "2026-01-01T01:00:01Z".parse().unwrap(),
    };
    let plan = look(set(&json!({})), vec![], Some(&failure));
    let condition = &status(&plan)["conditions"][0];
    assert_eq!(condition["type"], "ReplicaFailure");
    assert_eq!(condition["reason"], "FailedCreate");
    assert_eq!(condition["message"], "no");
    let other = json!({"metadata": {"generation": 4}});
    let plan = look(set(&other), vec![], Some(&failure));
    assert_eq!(dependents(&plan).create.len(), 2, "another ReplicaSet now");
    let none = json!({"spec": {"replicas": 0}, "status": {"conditions": [{"type": "ReplicaFailure", "status": "True"}]}});
    let plan = look(set(&none), vec![], Some(&failure));
    assert_eq!(
        status(&plan)["conditions"],
        Value::Null,
        "it has what it wants"
    );
    let over = Failure {
        again: now(),
        ..failure
    };
    let plan = look(set(&json!({})), vec![], Some(&over));
    assert_eq!(dependents(&plan).create.len(), 2);
}
