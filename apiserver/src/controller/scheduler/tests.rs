//! Which node a Pod gets, and what it is told when it gets none.

use super::*;
use crate::store::Revision;

fn node(name: &str, ready: bool) -> Node {
    let mut node = Node::default();
    node.metadata.name = name.into();
    node.metadata
        .labels
        .insert("kubernetes.io/hostname".into(), name.into());
    if !ready {
        node.spec.taints.push(Taint {
            key: "node.kubernetes.io/not-ready".into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        });
    }
    node
}

fn pod(name: &str, app: &str) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.name = name.into();
    pod.metadata.namespace = "default".into();
    pod.metadata.labels.insert("app".into(), app.into());
    pod
}

fn world(nodes: Vec<Node>, pods: &[Pod]) -> World {
    let mut world = World::default();
    nodes
        .into_iter()
        .for_each(|node| world.put(Revision(1), node));
    pods.iter()
        .for_each(|pod| world.put(Revision(1), pod.clone()));
    world
}

fn placed(world: &World, names: &[&str]) -> Vec<String> {
    let keys = names
        .iter()
        .map(|name| (Box::from("default"), Box::from(*name)));
    let bound = plan(world, keys)
        .into_iter()
        .filter_map(|action| match action {
            Action::Bind { node, .. } => Some(node.to_string()),
            _ => None,
        });
    bound.collect()
}

#[test]
fn pods_of_a_sort_spread_over_ready_nodes() {
    let pods = [pod("a", "x"), pod("b", "x"), pod("c", "x"), pod("d", "x")];
    let world = world(
        vec![
            node("n1", true),
            node("n2", true),
            node("n3", true),
            node("n4", false),
        ],
        &pods,
    );
    assert_eq!(
        placed(&world, &["a", "b", "c", "d"]),
        ["n1", "n2", "n3", "n1"]
    );
}

#[test]
fn selector_taint_and_cordon_are_respected() {
    let mut picky = pod("a", "x");
    picky
        .spec
        .node_selector
        .insert("kubernetes.io/hostname".into(), "n2".into());
    let mut tainted = node("n1", true);
    tainted.spec.taints.push(Taint {
        key: "k".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    });
    let mut cordoned = node("n3", true);
    cordoned.spec.unschedulable = true;
    let mut tolerant = pod("b", "y");
    tolerant.spec.tolerations.push(Toleration {
        operator: "Exists".into(),
        ..Toleration::default()
    });
    tolerant
        .spec
        .node_selector
        .insert("kubernetes.io/hostname".into(), "n1".into());
    let world = world(
        vec![tainted, node("n2", true), cordoned],
        &[picky, tolerant, pod("c", "z")],
    );
    assert_eq!(placed(&world, &["a", "b", "c"]), ["n2", "n1", "n2"]);
}

#[test]
fn what_a_pod_is_told_when_no_node_is_for_it() {
    let tainted = |name: &str, key: &str| {
        let mut node = node(name, true);
        node.spec.taints.push(Taint {
            key: key.into(),
            effect: "NoExecute".into(),
            value: "v".into(),
            ..Taint::default()
        });
        node
    };
    let cordoned = |name: &str| {
        let mut node = node(name, true);
        node.spec.unschedulable = true;
        node
    };
    let mut picky = pod("a", "x");
    picky.spec.node_selector.insert("disk".into(), "ssd".into());
    let rows: [(Vec<Node>, &str); 3] = [
        (vec![], "no nodes available to schedule pods"),
        (
            vec![cordoned("n1"), cordoned("n2"), node("n3", true)],
            "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 2 node(s) were unschedulable.",
        ),
        (
            vec![tainted("n1", "k")],
            "0/1 nodes are available: 1 node(s) had untolerated taint {k: v}.",
        ),
    ];
    for (nodes, wanted) in rows {
        let world = world(nodes, std::slice::from_ref(&picky));
        let got = choose(&world, &picky, &Load::of(&world));
        assert_eq!(got, Err(wanted.to_owned()));
    }
}

#[test]
fn a_toleration_lifts_a_taint_and_a_cordon() {
    let toleration = |key: &str, operator: &str, value: &str, effect: &str| Toleration {
        key: key.into(),
        operator: operator.into(),
        value: value.into(),
        effect: effect.into(),
        ..Toleration::default()
    };
    let taint = Taint {
        key: "k".into(),
        value: "v".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    for (toleration, wanted) in [
        (toleration("k", "Equal", "v", "NoSchedule"), true),
        (toleration("k", "", "v", ""), true),
        (toleration("k", "Equal", "w", "NoSchedule"), false),
        (toleration("k", "Exists", "", "NoExecute"), false),
        (toleration("k", "Exists", "", ""), true),
        (toleration("l", "Exists", "", ""), false),
        (toleration("", "Exists", "", ""), true),
        (toleration("", "Equal", "v", ""), false),
    ] {
        assert_eq!(tolerates(&toleration, &taint), wanted, "{toleration:?}");
    }
    let mut cordoned = node("n1", true);
    cordoned.spec.unschedulable = true;
    let mut tolerant = pod("a", "x");
    tolerant.spec.tolerations = vec![toleration(
        "node.kubernetes.io/unschedulable",
        "Exists",
        "",
        "",
    )];
    let world = world(vec![cordoned], &[tolerant]);
    assert_eq!(placed(&world, &["a"]), ["n1"]);
}

#[test]
fn a_placed_pod_is_told_so() {
    let world = world(vec![node("n1", true)], &[pod("a", "x")]);
    let actions = plan(&world, [(Box::from("default"), Box::from("a"))]);
    let [Action::Bind { event, .. }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(
        (&event["type"], &event["reason"], &event["message"]),
        (
            &json!("Normal"),
            &json!("Scheduled"),
            &json!("Successfully assigned default/a to n1")
        )
    );
}

#[test]
fn a_pod_without_a_node_says_why_once() {
    let mut world = world(vec![node("n1", false)], &[pod("a", "x")]);
    let key = (Box::from("default"), Box::from("a"));
    let actions = plan(&world, [key.clone()]);
    let [Action::Merge(_, _, _, patch), Action::Create(_, event)] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(
        patch["status"]["conditions"][0]["message"],
        "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }."
    );
    assert_eq!(event["reason"], "FailedScheduling");
    let mut told = pod("a", "x");
    told.status.conditions = serde_json::from_value(patch["status"]["conditions"].clone()).unwrap();
    world.put(Revision(2), told);
    assert_eq!(plan(&world, [key]), []);
}
