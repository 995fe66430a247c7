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
        let got = choose(&world, &Places::of(&world), &picky);
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

fn from<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// Pod `default/NAME` labelled `app: NAME`.
fn of_spec(name: &str, spec: serde_json::Value) -> Pod {
    Pod {
        spec: from(spec),
        ..pod(name, name)
    }
}

/// Nodes n1 and n2 in zone a, n3 in zone b, each with 2 CPUs and room for three Pods.
fn three() -> Vec<Node> {
    let nodes = [("n1", "a"), ("n2", "a"), ("n3", "b")].map(|(name, zone)| {
        let mut node = node(name, true);
        node.metadata.labels.insert("zone".into(), zone.into());
        node.status = from(json!({"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"}}));
        node
    });
    nodes.into()
}

/// Where a Pod named `p` goes, beside these.
fn goes(pods: &[Pod]) -> Result<String, String> {
    let world = world(three(), pods);
    let waiting = world.pods.get(&("default".into(), "p".into())).unwrap();
    choose(&world, &Places::of(&world), waiting).map(str::to_owned)
}

#[test]
fn what_a_pod_asks_for_is_heeded_and_told() {
    let cpu = |cpu: &str| json!({"containers": [{"resources": {"requests": {"cpu": cpu}}}]});
    let port = |port: u16, ip: &str| json!({"containers": [{"ports": [{"hostPort": port, "hostIP": ip}]}]});
    let on = |node: &str, mut spec: serde_json::Value| {
        spec["nodeName"] = node.into();
        spec
    };
    let near = |kind: &str, key: &str, app: &str| {
        json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}},
        ]}}})
    };
    let host = "kubernetes.io/hostname";
    let none = |reasons: &str| Err(format!("0/3 nodes are available: {reasons}."));
    let to = |node: &str| Ok(node.to_owned());
    let named = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}],
    }}}});
    let liked = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]}},
    ]}}});
    let evenly = |key: &str| {
        json!({"topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "p"}},
        }]})
    };
    let mut alike = of_spec("q", json!({"nodeName": "n3"}));
    alike.metadata.labels = pod("p", "p").metadata.labels;
    let rows = [
        ("a name", of_spec("p", named), vec![], to("n2")),
        ("a preference", of_spec("p", liked), vec![], to("n3")),
        (
            "what is left",
            of_spec("p", cpu("1500m")),
            vec![
                of_spec("q", on("n1", cpu("1"))),
                of_spec("r", on("n2", cpu("501m"))),
            ],
            to("n3"),
        ),
        (
            "more than there is",
            of_spec("p", cpu("3")),
            vec![],
            none("3 Insufficient cpu"),
        ),
        (
            "a port that is free",
            of_spec("p", port(80, "")),
            vec![
                of_spec("q", on("n1", port(80, "127.0.0.1"))),
                of_spec("r", on("n3", port(81, ""))),
            ],
            to("n2"),
        ),
        (
            "a port of one address",
            of_spec("p", port(80, "127.0.0.2")),
            ["n1", "n2", "n3"]
                .map(|node| of_spec(node, on(node, port(80, "127.0.0.1"))))
                .into(),
            to("n1"),
        ),
        (
            "a port that is taken",
            of_spec("p", port(80, "127.0.0.1")),
            ["n1", "n2", "n3"]
                .map(|node| of_spec(node, on(node, port(80, ""))))
                .into(),
            none("3 node(s) didn't have free ports for the requested pod ports"),
        ),
        (
            "away from a zone",
            of_spec("p", near("podAntiAffinity", "zone", "q")),
            vec![of_spec("q", json!({"nodeName": "n1"}))],
            to("n3"),
        ),
        (
            "where it is welcome",
            of_spec("p", json!({})),
            vec![
                of_spec("q", on("n3", near("podAntiAffinity", host, "p"))),
                of_spec("r", on("n1", near("podAntiAffinity", host, "p"))),
            ],
            to("n2"),
        ),
        (
            "beside another",
            of_spec("p", near("podAffinity", host, "q")),
            vec![of_spec("q", json!({"nodeName": "n2"}))],
            to("n2"),
        ),
        (
            "beside one that is nowhere",
            of_spec("p", near("podAffinity", host, "q")),
            vec![],
            none("3 node(s) didn't match pod affinity rules"),
        ),
        (
            "beside its own, the first",
            of_spec("p", near("podAffinity", host, "p")),
            vec![],
            to("n1"),
        ),
        (
            "evenly",
            of_spec("p", evenly("zone")),
            vec![alike],
            to("n1"),
        ),
        (
            "evenly by a label nobody has",
            of_spec("p", evenly("rack")),
            vec![],
            none("3 node(s) didn't match pod topology spread constraints (missing required label)"),
        ),
    ];
    for (what, pod, mut others, wanted) in rows {
        others.push(pod);
        assert_eq!(goes(&others), wanted, "{what}");
    }
    let mut crowd: Vec<Pod> = (0..9)
        .map(|number| {
            of_spec(
                &format!("q{number}"),
                json!({"nodeName": format!("n{}", number % 3 + 1)}),
            )
        })
        .collect();
    crowd.push(of_spec("p", json!({})));
    assert_eq!(goes(&crowd), none("3 Too many pods"));
}

#[test]
fn of_nodes_that_may_be_had_a_tainted_one_is_taken_last() {
    let mut nodes = three();
    for node in &mut nodes[..2] {
        node.spec.taints = vec![Taint {
            key: "k".into(),
            effect: "PreferNoSchedule".into(),
            ..Taint::default()
        }];
    }
    let world = world(nodes, &[pod("a", "x"), pod("b", "x")]);
    assert_eq!(placed(&world, &["a", "b"]), ["n3", "n3"]);
}

#[test]
fn the_more_important_pod_comes_first() {
    let one = |name: &str, priority: i32| {
        of_spec(
            name,
            json!({"priority": priority, "containers": [{"resources": {"requests": {"cpu": "2"}}}]}),
        )
    };
    let mut nodes = three();
    nodes.truncate(1);
    let world = world(nodes, &[one("a", 0), one("b", 7)]);
    let actions = plan(
        &world,
        ["a", "b"].map(|name| ("default".into(), name.into())),
    );
    let bound = actions.iter().find_map(|action| match action {
        Action::Bind { pod, .. } => Some(&*pod.1),
        _ => None,
    });
    assert_eq!(bound, Some("b"));
}

#[test]
fn who_waits_is_looked_at_again_when_room_is_made() {
    let full = of_spec("q", json!({"nodeName": "n1"}));
    let mut world = world(vec![node("n1", true)], &[full, pod("p", "p")]);
    let key: Key = ("default".into(), "p".into());
    world.dirty.unscheduled.clear();
    world.remove::<Pod>(Revision(2), &("default".into(), "q".into()));
    assert!(world.dirty.unscheduled.contains(&key));
    world.dirty.unscheduled.clear();
    let mut bigger = node("n1", true);
    bigger.status = from(json!({"allocatable": {"cpu": "64"}}));
    world.put(Revision(3), bigger);
    assert!(world.dirty.unscheduled.contains(&key));
}
