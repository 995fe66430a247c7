//! Deployments, statement by statement.

use serde_json::{Value, json};

use super::*;
use crate::store::Revision;

const NOW: &str = "2026-01-01T01:00:00Z";

fn merged(mut base: Value, patch: &Value) -> Value {
    json_patch::merge(&mut base, patch);
    base
}

fn template(image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": image}]},
    })
}

/// Deployment `d/w`, which wants ten Pods of `new`.
fn deployment(patch: &Value) -> Deployment {
    let base = json!({
        "metadata": {"name": "w", "namespace": "d", "uid": "uw", "generation": 2},
        "spec": {
            "replicas": 10,
            "selector": {"matchLabels": {"app": "a"}},
            "template": template("new"),
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}},
            "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 10,
        },
    });
    serde_json::from_value(merged(base, patch)).unwrap()
}

/// A ReplicaSet of it with so many Pods, so many available.
fn set(image: &str, revision: i64, (replicas, available): (i32, i32)) -> ReplicaSet {
    let base = json!({
        "metadata": {
            "name": format!("w-{image}"), "namespace": "d", "uid": format!("u{image}"), "labels": {"app": "a"},
            "creationTimestamp": format!("2026-01-01T00:00:{revision:02}Z"),
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "w", "uid": "uw", "controller": true}],
            "annotations": {REVISION: revision.to_string(), DESIRED: "10", MAX: "13"},
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "a"}},
            "template": template(image),
        },
        "status": {"replicas": replicas, "readyReplicas": available, "availableReplicas": available},
    });
    serde_json::from_value(base).unwrap()
}

fn look(deployment: Deployment, sets: Vec<ReplicaSet>) -> Plan {
    let mut world = World::default();
    world.put(Revision(1), deployment);
    sets.into_iter().for_each(|set| world.put(Revision(1), set));
    let moment = Moment {
        now: NOW.parse().unwrap(),
        failure: None,
    };
    plan(&world, &("d".into(), "w".into()), moment)
}

/// `name -> replicas` of each ReplicaSet that gets another size.
fn sizes(plan: &Plan) -> Vec<String> {
    let sizes = plan.actions.iter().filter_map(|action| match action {
        Action::Merge(kind, key, Part::Main, patch) if **kind == REPLICA_SETS => {
            let replicas = patch["spec"]["replicas"].as_i64()?;
            Some(format!("{}={replicas}", key.1))
        }
        _ => None,
    });
    let mut sizes: Vec<String> = sizes.collect();
    sizes.sort_unstable();
    sizes
}

fn own(plan: &Plan) -> &Value {
    let mut patches = plan.actions.iter().filter_map(|action| match action {
        Action::Merge(kind, _, Part::Status, patch) if **kind == DEPLOYMENTS => Some(&**patch),
        _ => None,
    });
    patches.next().unwrap_or(&Value::Null)
}

fn reason<'a>(patch: &'a Value, name: &str) -> &'a str {
    let conditions = patch["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == name);
    found.map_or("", |condition| condition["reason"].as_str().unwrap())
}

#[test]
fn the_first_replica_set_has_every_pod_and_says_so_once_it_is_there() {
    let annotated = json!({"metadata": {"annotations": {
        "note": "kept", "kubectl.kubernetes.io/last-applied-configuration": "{}",
    }}});
    let plan = look(deployment(&annotated), vec![]);
    let [Action::Dependents(made)] = &plan.actions[..] else {
        panic!("{:?}", plan.actions)
    };
    let set = &made.create[0];
    let hash = set["metadata"]["labels"][template::HASH].as_str().unwrap();
    assert_eq!(set["metadata"]["name"], format!("w-{hash}"));
    assert_eq!(set["spec"]["replicas"], 10);
    for labels in [
        &set["spec"]["selector"]["matchLabels"],
        &set["spec"]["template"]["metadata"]["labels"],
    ] {
        assert_eq!(*labels, json!({"app": "a", template::HASH: hash}));
    }
    assert_eq!(
        set["metadata"]["annotations"],
        json!({"note": "kept", REVISION: "1", DESIRED: "10", MAX: "13"})
    );
    let [
        Action::Create(_, event),
        Action::Merge(_, _, Part::Status, patch),
    ] = &made.then[..]
    else {
        panic!("{:?}", made.then)
    };
    let wanted = format!("Scaled up replica set w-{hash} from 0 to 10");
    assert_eq!(event["message"], wanted);
    assert_eq!(patch["metadata"]["annotations"], json!({REVISION: "1"}));
    assert_eq!(reason(patch, "Progressing"), "NewReplicaSetCreated");
}

#[test]
fn a_name_that_is_taken_makes_another_hash() {
    let plain = deployment(&json!({}));
    let hash = template::hash(&plain.spec.template, None);
    let mut taken = set("other", 1, (0, 0));
    taken.metadata.name = format!("w-{hash}").into();
    taken.metadata.owner_references.clear();
    taken.metadata.labels.clear();
    let plan = look(plain.clone(), vec![taken]);
    assert_eq!(own(&plan)["status"]["collisionCount"], 1);
    assert_ne!(template::hash(&plain.spec.template, Some(1)), hash);
}

/// Each row: old and new ReplicaSet with their Pods and how many of them are available, and the sizes they get.
#[test]
fn a_rolling_update_stays_within_its_fence() {
    let rows = [
        (
            "new ones as surge allows",
            (10, 10),
            (0, 0),
            &["w-new=3"][..],
        ),
        (
            "then old ones as availability allows",
            (10, 10),
            (3, 0),
            &["w-old=8"],
        ),
        ("new ones for those that went", (8, 8), (3, 0), &["w-new=5"]),
        (
            "nothing before the new ones are available",
            (8, 8),
            (5, 0),
            &[],
        ),
        ("old ones for those that came", (8, 8), (5, 5), &["w-old=3"]),
        ("old ones of no use go first", (8, 2), (5, 5), &["w-old=3"]),
        ("the last", (1, 1), (10, 10), &["w-old=0"]),
        ("too many new ones", (0, 0), (12, 12), &["w-new=10"]),
    ];
    for (what, old, new, wanted) in rows {
        let sets = vec![set("old", 1, old), set("new", 2, new)];
        let plan = look(deployment(&json!({})), sets);
        assert_eq!(sizes(&plan), wanted, "{what}");
    }
}

#[test]
fn surge_is_rounded_up_and_unavailability_down_and_not_both_are_none() {
    for (replicas, surge, unavailable, wanted) in [
        (10, json!("25%"), json!("25%"), (3, 2)),
        (1, json!("25%"), json!("25%"), (1, 0)),
        (1, json!(0), json!("25%"), (0, 1)),
        (0, json!(0), json!("25%"), (0, 0)),
        (3, json!(1), json!(5), (1, 3)),
    ] {
        let patch = json!({"spec": {
            "replicas": replicas,
            "strategy": {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
        }});
        let world = World::default();
        let deployment = deployment(&patch);
        let claimant = Claimant::new(&deployment, &deployment.spec.selector).unwrap();
        let moment = Moment {
            now: NOW.parse().unwrap(),
            failure: None,
        };
        let rollout = Rollout::new(&world, &deployment, claimant, &[], moment);
        assert_eq!(rollout.fence(), wanted, "{patch}");
    }
}

#[test]
fn recreate_makes_no_pod_before_the_last_old_one_is_gone() {
    let recreate = json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}});
    let plan = look(deployment(&recreate), vec![set("old", 1, (10, 10))]);
    assert_eq!(sizes(&plan), ["w-old=0"]);

    // Scaled down, but one Pod still ends.
    let mut world = World::default();
    world.put(Revision(1), deployment(&recreate));
    world.put(Revision(1), set("old", 1, (0, 0)));
    let ending = json!({"metadata": {
        "name": "p", "namespace": "d", "deletionTimestamp": NOW,
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "w-old", "uid": "uold", "controller": true}],
    }});
    let ending: api::core::Pod = serde_json::from_value(ending).unwrap();
    world.put(Revision(1), ending);
    let moment = Moment {
        now: NOW.parse().unwrap(),
        failure: None,
    };
    let key: Key = ("d".into(), "w".into());
    let creates = |plan: &Plan| {
        let mut actions = plan.actions.iter();
        actions.any(|action| matches!(action, Action::Dependents(_)))
    };
    assert!(!creates(&plan_of(&world, &key, moment)));
    world.dirty.deployments.clear();
    world.remove::<api::core::Pod>(Revision(2), &("d".into(), "p".into()));
    assert!(
        world.dirty.deployments.contains(&key),
        "the Pod's end is noticed"
    );
    assert!(creates(&plan_of(&world, &key, moment)));
}

fn plan_of(world: &World, key: &Key, moment: Moment<'_>) -> Plan {
    plan(world, key, moment)
}

/// Each row: how many Pods are wanted now instead of ten, what each ReplicaSet has, and what it gets.
#[test]
fn each_replica_set_gets_its_share_of_another_scale() {
    /// Image, revision and Pods of each ReplicaSet.
    type Sets<'a> = &'a [(&'a str, i64, i32)];
    let rows: [(&str, i32, Sets<'_>, &[&str]); 6] = [
        ("one alone gets all", 12, &[("new", 2, 10)], &["w-new=12"]),
        (
            "two of the same size: the newer gets the rest",
            12,
            &[("new", 2, 5), ("old", 1, 5)],
            &["w-new=9", "w-old=6"],
        ),
        (
            "down in proportion",
            5,
            &[("new", 2, 8), ("old", 1, 5)],
            &["w-new=5", "w-old=3"],
        ),
        (
            "up in proportion",
            20,
            &[("new", 2, 8), ("old", 1, 5)],
            &["w-new=14", "w-old=9"],
        ),
        (
            "to none",
            0,
            &[("new", 2, 8), ("old", 1, 5)],
            &["w-new=0", "w-old=0"],
        ),
        (
            "none has any",
            5,
            &[("new", 2, 0), ("old", 1, 0)],
            &["w-new=5"],
        ),
    ];
    for (what, replicas, sets, wanted) in rows {
        let patch = json!({"spec": {"replicas": replicas, "paused": true}});
        let sets = sets
            .iter()
            .map(|(image, revision, replicas)| set(image, *revision, (*replicas, *replicas)));
        let plan = look(deployment(&patch), sets.collect());
        assert_eq!(sizes(&plan), wanted, "{what}");
    }
}

#[test]
fn what_is_used_again_gets_a_new_number_and_remembers_the_former() {
    let sets = vec![set("new", 1, (0, 0)), set("old", 2, (10, 10))];
    let plan = look(deployment(&json!({})), sets);
    let annotations = plan.actions.iter().find_map(|action| match action {
        Action::Merge(kind, key, Part::Main, patch)
            if **kind == REPLICA_SETS && &*key.1 == "w-new" =>
        {
            Some(&patch["metadata"]["annotations"])
        }
        _ => None,
    });
    assert_eq!(
        annotations,
        Some(&json!({REVISION: "3", REVISION_HISTORY: "1"}))
    );
    assert_eq!(
        own(&plan)["metadata"]["annotations"],
        json!({REVISION: "3"})
    );
}

#[test]
fn old_replica_sets_are_forgotten_when_the_rollout_is_complete() {
    let complete = json!({
        "spec": {"revisionHistoryLimit": 1},
        "status": {"observedGeneration": 2, "replicas": 10, "updatedReplicas": 10, "availableReplicas": 10},
    });
    let sets = || {
        let old = ["a", "b", "c"].iter().zip(1..);
        let mut sets: Vec<_> = old
            .map(|(image, number)| set(image, number, (0, 0)))
            .collect();
        sets.push(set("new", 4, (10, 10)));
        sets
    };
    let gone = |plan: &Plan| {
        let gone = plan.actions.iter().filter_map(|action| match action {
            Action::Delete(_, key, _) => Some(key.1.to_string()),
            _ => None,
        });
        gone.collect::<Vec<_>>()
    };
    assert_eq!(gone(&look(deployment(&complete), sets())), ["w-a", "w-b"]);
    let unfinished = merged(complete, &json!({"status": {"availableReplicas": 9}}));
    assert!(gone(&look(deployment(&unfinished), sets())).is_empty());
}

/// Each row: the status that was written last, what the new ReplicaSet has and how much of it is available, and the reasons that follow.
#[test]
fn progress_is_told_in_the_words_clients_wait_for() {
    let progressing = |reason: &str, updated: &str| json!([{"type": "Progressing", "status": "True", "reason": reason, "lastUpdateTime": updated}]);
    let written = |reason: &str, updated: &str, ready: i32| {
        json!({"status": {
            "observedGeneration": 2, "replicas": 10, "updatedReplicas": 10,
            "readyReplicas": ready, "availableReplicas": ready,
            "conditions": progressing(reason, updated),
        }})
    };
    let long_ago = "2026-01-01T00:50:00Z";
    let rows = [
        (
            "none yet",
            json!({}),
            (10, 0),
            "ReplicaSetUpdated",
            "MinimumReplicasUnavailable",
        ),
        (
            "more",
            written("ReplicaSetUpdated", long_ago, 3),
            (10, 8),
            "ReplicaSetUpdated",
            "MinimumReplicasAvailable",
        ),
        (
            "all",
            written("ReplicaSetUpdated", long_ago, 8),
            (10, 10),
            "NewReplicaSetAvailable",
            "MinimumReplicasAvailable",
        ),
        (
            "too late",
            written("ReplicaSetUpdated", long_ago, 8),
            (10, 8),
            "ProgressDeadlineExceeded",
            "MinimumReplicasAvailable",
        ),
        (
            "not yet too late",
            written("ReplicaSetUpdated", "2026-01-01T00:50:01Z", 8),
            (10, 8),
            "ReplicaSetUpdated",
            "MinimumReplicasAvailable",
        ),
        (
            "was complete",
            written("NewReplicaSetAvailable", long_ago, 10),
            (10, 8),
            "NewReplicaSetAvailable",
            "MinimumReplicasAvailable",
        ),
    ];
    for (what, patch, pods, progress, available) in rows {
        let plan = look(deployment(&patch), vec![set("new", 1, pods)]);
        let patch = own(&plan);
        assert_eq!(reason(patch, "Progressing"), progress, "{what}");
        assert_eq!(reason(patch, "Available"), available, "{what}");
        if what == "not yet too late" {
            let at: Timestamp = "2026-01-01T01:00:01Z".parse().unwrap();
            assert_eq!(plan.due, Some(at), "an exact deadline");
        }
    }
}

#[test]
fn pausing_stops_the_rollout_and_is_told() {
    let paused = json!({"spec": {"paused": true}});
    let sets = || vec![set("old", 1, (10, 10)), set("new", 2, (0, 0))];
    let plan = look(deployment(&paused), sets());
    assert_eq!(sizes(&plan), [] as [String; 0]);
    assert_eq!(reason(own(&plan), "Progressing"), "DeploymentPaused");
    let resumed = json!({"status": {"conditions": [
        {"type": "Progressing", "status": "Unknown", "reason": "DeploymentPaused", "lastUpdateTime": NOW},
    ]}});
    let plan = look(deployment(&resumed), sets());
    assert_eq!(sizes(&plan), ["w-new=3"]);
    assert_ne!(reason(own(&plan), "Progressing"), "DeploymentPaused");
}

#[test]
fn the_greatest_surge_is_no_more_than_fits() {
    let rolling = json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": i32::MAX, "maxUnavailable": 0}}}});
    let sets = vec![set("old", 1, (10, 10)), set("new", 2, (0, 0))];
    assert_eq!(sizes(&look(deployment(&rolling), sets)), ["w-new=10"]);
}
