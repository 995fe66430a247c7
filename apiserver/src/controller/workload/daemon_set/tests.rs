//! DaemonSets, statement by statement.

use serde_json::{Value, json};

use super::*;
use crate::{controller::workload::template, store::Revision};

const NOW: &str = "2026-01-01T01:00:00Z";

fn merged(mut base: Value, patch: &Value) -> Value {
    json_patch::merge(&mut base, patch);
    base
}

/// DaemonSet `d/s`.
fn set(patch: &Value) -> DaemonSet {
    let base = json!({
        "metadata": {"name": "s", "namespace": "d", "uid": "us", "generation": 1},
        "spec": {
            "selector": {"matchLabels": {"app": "a"}},
            "template": {
                "metadata": {"labels": {"app": "a"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
            "revisionHistoryLimit": 10,
        },
    });
    serde_json::from_value(merged(base, patch)).unwrap()
}

fn surging() -> Value {
    json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}}})
}

/// A ready Pod of it on a node, of the present template.
fn pod(name: &str, node: &str, patch: &Value) -> Value {
    let base = json!({
        "metadata": {
            "name": name, "namespace": "d", "uid": name,
            "labels": {"app": "a", HASH: "now"}, "creationTimestamp": NOW,
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "s", "uid": "us", "controller": true}],
        },
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    });
    merged(base, patch)
}

fn old() -> Value {
    json!({"metadata": {"labels": {HASH: "then"}}})
}

fn unready(patch: Value) -> Value {
    merged(patch, &json!({"status": {"conditions": []}}))
}

/// The revision of a template with this image.
fn revision(number: i64, hash: &str, image: &str) -> Value {
    let template = json!({
        "$patch": "replace",
        "metadata": {"labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": image}]},
    });
    json!({
        "metadata": {
            "name": format!("s-{hash}"), "namespace": "d", "uid": hash, "labels": {"app": "a", HASH: hash},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "s", "uid": "us", "controller": true}],
        },
        "revision": number,
        "data": {"spec": {"template": template}},
    })
}

fn node(name: &str, patch: &Value) -> Value {
    merged(json!({"metadata": {"name": name}}), patch)
}

fn world(set: DaemonSet, nodes: &[Value], pods: &[Value]) -> World {
    let mut world = World::default();
    world.put(Revision(1), set);
    for value in nodes {
        let node: Node = serde_json::from_value(value.clone()).unwrap();
        world.put(Revision(1), node);
    }
    for value in pods {
        let pod: Pod = serde_json::from_value(value.clone()).unwrap();
        world.put(Revision(1), pod);
    }
    for value in [revision(2, "now", "i"), revision(1, "then", "j")] {
        put_revision(&mut world, value);
    }
    world
}

fn put_revision(world: &mut World, value: Value) {
    let revision: api::apps::ControllerRevision = serde_json::from_value(value).unwrap();
    world.put(Revision(1), revision);
}

fn look_at(world: &World) -> Plan {
    let moment = Moment {
        now: NOW.parse().unwrap(),
        failure: None,
    };
    plan(world, &("d".into(), "s".into()), moment)
}

/// `+node` for each Pod made, `-pod` for each removed.
fn changes(plan: &Plan) -> Vec<String> {
    let mut changes = Vec::new();
    for action in &plan.actions {
        let Action::Dependents(dependents) = action else {
            continue;
        };
        for pod in &dependents.create {
            let terms = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
                ["nodeSelectorTerms"];
            let node = terms[0]["matchFields"][0]["values"][0].as_str().unwrap();
            changes.push(format!("+{node}"));
        }
        for ((_, name), _) in &dependents.delete {
            changes.push(format!("-{name}"));
        }
    }
    changes
}

fn change(set: DaemonSet, nodes: &[Value], pods: &[Value]) -> Vec<String> {
    changes(&look_at(&world(set, nodes, pods)))
}

#[test]
fn every_node_that_is_fit_gets_a_pod() {
    let taint =
        |key: &str, effect: &str| json!({"spec": {"taints": [{"key": key, "effect": effect}]}});
    let unready = "node.kubernetes.io/not-ready";
    let cordon = "node.kubernetes.io/unschedulable";
    let rows = [
        ("a plain one", json!({}), json!({}), true, true),
        ("tainted", taint("k", "NoSchedule"), json!({}), false, true),
        (
            "tainted for running ones",
            taint("k", "NoExecute"),
            json!({}),
            false,
            false,
        ),
        (
            "preferably not",
            taint("k", "PreferNoSchedule"),
            json!({}),
            true,
            true,
        ),
        (
            "cordoned",
            taint(cordon, "NoSchedule"),
            json!({}),
            true,
            true,
        ),
        ("lost", taint(unready, "NoExecute"), json!({}), true, true),
        (
            "not selected",
            json!({}),
            json!({"nodeSelector": {"disk": "ssd"}}),
            false,
            false,
        ),
        (
            "selected",
            json!({"metadata": {"labels": {"disk": "ssd"}}}),
            json!({"nodeSelector": {"disk": "ssd"}}),
            true,
            true,
        ),
        (
            "not named",
            json!({}),
            json!({"nodeName": "other"}),
            false,
            false,
        ),
        (
            "tolerated",
            taint("k", "NoSchedule"),
            json!({"tolerations": [{"operator": "Exists"}]}),
            true,
            true,
        ),
    ];
    for (what, patch, spec, gets, keeps) in rows {
        let spec = json!({"spec": {"template": {"spec": spec}}});
        let nodes = [node("n1", &patch)];
        // Another spec is another template.
        let hash = |world: &mut World| {
            let mut present = revision(3, "now2", "i");
            present["data"]["spec"]["template"] = json!(set(&spec).spec.template);
            put_revision(world, present);
        };
        let mut empty = world(set(&spec), &nodes, &[]);
        hash(&mut empty);
        let wanted: &[&str] = if gets { &["+n1"] } else { &[] };
        assert_eq!(changes(&look_at(&empty)), wanted, "{what}");
        let there = pod("p", "n1", &json!({"metadata": {"labels": {HASH: "now2"}}}));
        let mut full = world(set(&spec), &nodes, &[there]);
        hash(&mut full);
        let wanted: &[&str] = if keeps { &[] } else { &["-p"] };
        assert_eq!(
            changes(&look_at(&full)),
            wanted,
            "{what}: a Pod that is there"
        );
    }
}

#[test]
fn the_pod_for_a_node_tolerates_what_befalls_nodes() {
    let own = json!({"spec": {"template": {"spec": {
        "hostNetwork": true,
        "tolerations": [{"key": "own", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]},
            "preferredDuringSchedulingIgnoredDuringExecution": [],
        }},
    }}}});
    let set = set(&own);
    let claimant = Claimant::new(&set, &set.spec.selector).unwrap();
    let pod = fit::pod(&set, &claimant, "h", "n1");
    assert_eq!(pod["metadata"]["labels"], json!({"app": "a", HASH: "h"}));
    let keys: Vec<&str> = pod["spec"]["tolerations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|toleration| toleration["key"].as_str().unwrap())
        .map(|key| key.trim_start_matches("node.kubernetes.io/"))
        .collect();
    assert_eq!(
        keys,
        [
            "own",
            "not-ready",
            "unreachable",
            "disk-pressure",
            "memory-pressure",
            "pid-pressure",
            "unschedulable",
            "network-unavailable",
        ]
    );
    assert_eq!(
        pod["spec"]["affinity"]["nodeAffinity"],
        json!({
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["n1"]},
            ]}]},
            "preferredDuringSchedulingIgnoredDuringExecution": [],
        })
    );
    let pod: Pod = serde_json::from_value(pod).unwrap();
    assert_eq!(fit::node_of(&pod), Some("n1"));
}

#[test]
fn each_node_has_one_pod_and_those_that_ended_are_replaced() {
    let nodes = [node("n1", &json!({}))];
    let failed = json!({"status": {"phase": "Failed"}, "metadata": {"creationTimestamp": "2026-01-01T00:59:50Z"}});
    let just_now = json!({"status": {"phase": "Failed"}, "metadata": {"creationTimestamp": "2026-01-01T00:59:51Z"}});
    let going = json!({"metadata": {"deletionTimestamp": NOW}});
    let younger = json!({"metadata": {"creationTimestamp": "2026-01-01T01:00:01Z"}});
    let waiting = json!({"spec": {"nodeName": "", "affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": ["n1"]},
        ]}]},
    }}}});
    let rows: [(&str, Vec<Value>, &[&str]); 7] = [
        ("one", vec![pod("p", "n1", &json!({}))], &[]),
        (
            "one that waits for the scheduler",
            vec![pod("p", "", &waiting)],
            &[],
        ),
        (
            "two: the younger goes",
            vec![pod("p", "n1", &younger), pod("q", "n1", &json!({}))],
            &["-p"],
        ),
        (
            "one that ends holds its place",
            vec![pod("p", "n1", &going)],
            &[],
        ),
        ("failed", vec![pod("p", "n1", &failed)], &["-p"]),
        ("failed at once", vec![pod("p", "n1", &just_now)], &[]),
        (
            "for a node that is gone",
            vec![
                pod("p", "n1", &json!({})),
                pod(
                    "q",
                    "",
                    &merged(
                        waiting.clone(),
                        &json!({"spec": {"affinity": {"nodeAffinity": {
                            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [
                                {"key": "metadata.name", "operator": "In", "values": ["n9"]},
                            ]}]},
                        }}}}),
                    ),
                ),
            ],
            &["-q"],
        ),
    ];
    for (what, pods, wanted) in rows {
        let plan = look_at(&world(set(&json!({})), &nodes, &pods));
        assert_eq!(changes(&plan), wanted, "{what}");
        if what == "failed at once" {
            let at: Timestamp = "2026-01-01T01:00:01Z".parse().unwrap();
            assert_eq!(plan.due, Some(at), "an exact time");
        }
    }
}

#[test]
fn old_pods_go_as_far_as_nodes_may_be_without() {
    let nodes: Vec<Value> = ["n1", "n2", "n3"].map(|name| node(name, &json!({}))).into();
    let of = |patches: [Value; 3]| {
        let pods = patches.iter().zip(1..);
        let pods =
            pods.map(|(patch, number)| pod(&format!("p{number}"), &format!("n{number}"), patch));
        pods.collect::<Vec<_>>()
    };
    let (new, old) = (json!({}), old());
    let rows: [(&str, [Value; 3], &[&str]); 6] = [
        (
            "one at a time",
            [old.clone(), old.clone(), old.clone()],
            &["-p1"],
        ),
        (
            "not while a new one is not available",
            [unready(new.clone()), old.clone(), old.clone()],
            &[],
        ),
        (
            "the next",
            [new.clone(), old.clone(), old.clone()],
            &["-p2"],
        ),
        (
            "one of no use always",
            [unready(new.clone()), unready(old.clone()), old.clone()],
            &["-p2"],
        ),
        (
            "one of no use leaves its node without",
            [unready(old.clone()), old.clone(), old.clone()],
            &["-p1"],
        ),
        ("done", [new.clone(), new.clone(), new.clone()], &[]),
    ];
    for (what, patches, wanted) in rows {
        assert_eq!(
            change(set(&json!({})), &nodes, &of(patches)),
            wanted,
            "{what}"
        );
    }
    let on_delete = json!({"spec": {"updateStrategy": {"type": "OnDelete"}}});
    let pods = of([old.clone(), old.clone(), old]);
    assert_eq!(change(set(&on_delete), &nodes, &pods), [""; 0]);
}

#[test]
fn with_surge_a_new_pod_comes_before_the_old_one_goes() {
    let nodes: Vec<Value> = ["n1", "n2"].map(|name| node(name, &json!({}))).into();
    let new = || pod("new", "n1", &json!({}));
    let fresh = || pod("new", "n1", &unready(json!({})));
    let first = || pod("a", "n1", &old());
    let second = || pod("b", "n2", &old());
    let rows: [(&str, Vec<Value>, &[&str]); 4] = [
        ("one at a time", vec![first(), second()], &["+n1"]),
        (
            "both, while it starts",
            vec![first(), fresh(), second()],
            &[],
        ),
        (
            "then the old one goes",
            vec![first(), new(), second()],
            &["-a"],
        ),
        ("the next", vec![new(), second()], &["+n2"]),
    ];
    for (what, pods, wanted) in rows {
        assert_eq!(change(set(&surging()), &nodes, &pods), wanted, "{what}");
    }
}

#[test]
fn a_new_template_is_written_down_before_a_pod_has_it() {
    let nodes = [node("n1", &json!({}))];
    let other =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "k"}]}}}});
    let plan = look_at(&world(set(&other), &nodes, &[pod("p", "n1", &json!({}))]));
    let [Action::Create(kind, revision)] = &plan.actions[..] else {
        panic!("{:?}", plan.actions)
    };
    assert_eq!(**kind, CONTROLLER_REVISIONS);
    assert_eq!(revision["revision"], 3);
    let hash = template::hash(&set(&other).spec.template, None);
    assert_eq!(revision["metadata"]["name"], format!("s-{hash}"));
    assert_eq!(
        revision["metadata"]["labels"],
        json!({"app": "a", HASH: hash})
    );
    let template = &revision["data"]["spec"]["template"];
    assert_eq!(template["$patch"], "replace");
    assert_eq!(template["spec"]["containers"][0]["image"], "k");

    // What was there before gets the newest number again.
    let former =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "j"}]}}}});
    let plan = look_at(&world(set(&former), &nodes, &[pod("p", "n1", &old())]));
    let renumbered = plan.actions.iter().any(|action| match action {
        Action::Merge(kind, key, _, patch) if **kind == CONTROLLER_REVISIONS => {
            &*key.1 == "s-then" && patch["revision"] == 3
        }
        _ => false,
    });
    assert!(renumbered, "{:?}", plan.actions);
}

#[test]
fn what_no_pod_has_any_more_is_forgotten_beyond_the_limit() {
    let nodes = [node("n1", &json!({}))];
    let none = json!({"spec": {"revisionHistoryLimit": 0}});
    let gone = |pods: &[Value]| {
        let plan = look_at(&world(set(&none), &nodes, pods));
        let gone = plan.actions.iter().filter_map(|action| match action {
            Action::Delete(_, key, _) => Some(key.1.to_string()),
            _ => None,
        });
        gone.collect::<Vec<_>>()
    };
    assert_eq!(gone(&[pod("p", "n1", &json!({}))]), ["s-then"]);
    let ending = merged(old(), &json!({"metadata": {"deletionTimestamp": NOW}}));
    assert!(gone(&[pod("p", "n1", &ending)]).is_empty());
}

#[test]
fn the_status_counts_nodes() {
    let nodes = [
        node("n1", &json!({})),
        node("n2", &json!({})),
        node("n3", &json!({})),
        node(
            "n4",
            &json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}),
        ),
    ];
    let pods = [
        pod("a", "n1", &json!({})),
        pod("b", "n2", &unready(json!({}))),
        pod(
            "c",
            "n3",
            &merged(old(), &json!({"metadata": {"deletionTimestamp": NOW}})),
        ),
        pod("d", "n4", &json!({})),
    ];
    let plan = look_at(&world(set(&json!({})), &nodes, &pods));
    let [Action::Merge(_, _, _, patch)] = &plan.actions[..] else {
        panic!("{:?}", plan.actions)
    };
    assert_eq!(
        patch["status"],
        json!({
            "desiredNumberScheduled": 3, "currentNumberScheduled": 3, "numberMisscheduled": 1,
            "numberReady": 2, "numberAvailable": 2, "numberUnavailable": 1,
            "updatedNumberScheduled": 2, "observedGeneration": 1,
        })
    );
}
