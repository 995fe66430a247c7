//! Gives Pods a node: schedulable, without a taint they do not tolerate (as nodes that are not ready have), matching the
//! nodeSelector; and of those the emptiest.

use std::{collections::BTreeMap, fmt};

use api::{
    core::{Node, ObjectReference, Pod, PodCondition, Taint, Toleration},
    meta::{Resource as _, Time},
};
use serde_json::json;

use super::{
    event::{self, Level},
    world::{Key, World, key_of, selects, waits_for_a_node},
    write::Action,
};
use crate::registry::{
    Part,
    kinds::{EVENTS, PODS},
};

const COMPONENT: &str = "default-scheduler";

/// Why a node is not for a Pod, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unfit {
    Unschedulable,
    Taint(Box<str>, Box<str>),
    Selector,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unschedulable => f.write_str("node(s) were unschedulable"),
            Self::Taint(key, value) => {
                write!(f, "node(s) had untolerated taint {{{key}: {value}}}")
            }
            Self::Selector => f.write_str("node(s) didn't match Pod's node affinity/selector"),
        }
    }
}

/// The writes for all Pods that wait. Those placed earlier in a round count for those placed later.
pub(super) fn plan(world: &World, waiting: impl IntoIterator<Item = Key>) -> Vec<Action> {
    let pods = waiting.into_iter().filter_map(|key| {
        let pod = world.pods.get(&key)?;
        waits_for_a_node(pod).then_some((key, pod))
    });
    let mut pods = pods.peekable();
    // Counting every Pod is work: only when there is one to place.
    if pods.peek().is_none() {
        return Vec::new();
    }
    let mut load = Load::of(world);
    let mut actions = Vec::new();
    for (key, pod) in pods {
        match choose(world, pod, &load) {
            Ok(node) => {
                load.add(node, pod);
                actions.push(bind(key, pod, node));
            }
            Err(message) => actions.extend(refuse(pod, &message)),
        }
    }
    actions
}

fn bind(key: Key, pod: &Pod, node: &str) -> Action {
    let message = format!("Successfully assigned {}/{} to {node}", key.0, key.1);
    let event = event::new(
        reference(pod),
        COMPONENT,
        Level::Normal,
        "Scheduled",
        message,
    );
    Action::Bind {
        pod: key,
        uid: pod.metadata.uid.clone(),
        node: node.into(),
        event: Box::new(event.to_value()),
    }
}

fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: "v1".into(),
        ..super::pods::reference(pod)
    }
}

/// How many Pods each node has, and how many of each sort.
struct Load {
    total: BTreeMap<Box<str>, usize>,
    of_sort: BTreeMap<(Box<str>, String), usize>,
}

impl Load {
    fn of(world: &World) -> Self {
        let mut load = Self {
            total: BTreeMap::new(),
            of_sort: BTreeMap::new(),
        };
        for pod in world
            .pods
            .all()
            .filter(|pod| !pod.spec.node_name.is_empty() && !pod.is_finished())
        {
            load.add(&pod.spec.node_name, pod);
        }
        load
    }

    fn add(&mut self, node: &str, pod: &Pod) {
        *self.total.entry(node.into()).or_default() += 1;
        *self.of_sort.entry((node.into(), sort(pod))).or_default() += 1;
    }

    fn on(&self, node: &str, pod: &Pod) -> (usize, usize) {
        let of_sort = self
            .of_sort
            .get(&(node.into(), sort(pod)))
            .copied()
            .unwrap_or_default();
        (of_sort, self.total.get(node).copied().unwrap_or_default())
    }
}

/// Pods of one owner, or with the same labels, do the same and should not share a node.
fn sort(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    let owner = metadata
        .owner_references
        .iter()
        .find(|owner| owner.controller == Some(true));
    match owner {
        Some(owner) => owner.uid.to_string(),
        None => format!("{} {:?}", metadata.namespace, metadata.labels),
    }
}

fn choose<'a>(world: &'a World, pod: &Pod, load: &Load) -> Result<&'a str, String> {
    let mut unfit: BTreeMap<Unfit, usize> = BTreeMap::new();
    let mut fit = Vec::new();
    for node in world.nodes.all() {
        match check(node, pod) {
            None => fit.push(&*node.metadata.name),
            Some(reason) => *unfit.entry(reason).or_default() += 1,
        }
    }
    fit.into_iter()
        .min_by_key(|node| (load.on(node, pod), *node))
        .ok_or_else(|| {
            let count: usize = unfit.values().sum();
            if count == 0 {
                return "no nodes available to schedule pods".to_owned();
            }
            let mut reasons: Vec<_> = unfit
                .iter()
                .map(|(reason, count)| format!("{count} {reason}"))
                .collect();
            reasons.sort_unstable();
            format!("0/{count} nodes are available: {}.", reasons.join(", "))
        })
}

fn check(node: &Node, pod: &Pod) -> Option<Unfit> {
    let tolerated = |taint: &Taint| {
        let mut tolerations = pod.spec.tolerations.iter();
        tolerations.any(|toleration| tolerates(toleration, taint))
    };
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    let going = node.metadata.deletion_timestamp.is_some();
    if going || (node.spec.unschedulable && !tolerated(&cordon)) {
        return Some(Unfit::Unschedulable);
    }
    let hard = |taint: &&Taint| matches!(&*taint.effect, "NoSchedule" | "NoExecute");
    let mut taints = node.spec.taints.iter().filter(hard);
    if let Some(taint) = taints.find(|taint| !tolerated(taint)) {
        return Some(Unfit::Taint(taint.key.clone(), taint.value.clone()));
    }
    (!selects(&pod.spec.node_selector, &node.metadata.labels)).then_some(Unfit::Selector)
}

/// Source: k8s.io/api/core/v1 Toleration.ToleratesTaint.
pub(super) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.is_empty() || toleration.effect == taint.effect;
    let key = toleration.key.is_empty() || toleration.key == taint.key;
    let value = &*toleration.operator == "Exists" || toleration.value == taint.value;
    effect && key && value && !(toleration.key.is_empty() && &*toleration.operator != "Exists")
}

/// Says on the Pod why it has no node; nothing when that is said already.
fn refuse(pod: &Pod, message: &str) -> Vec<Action> {
    let said = pod.status.condition("PodScheduled");
    if said.is_some_and(|condition| &*condition.status == "False" && &*condition.message == message)
    {
        return Vec::new();
    }
    let mut conditions = pod.status.conditions.clone();
    conditions.retain(|condition| &*condition.r#type != "PodScheduled");
    conditions.push(PodCondition {
        r#type: "PodScheduled".into(),
        status: "False".into(),
        reason: "Unschedulable".into(),
        message: message.into(),
        last_transition_time: Some(Time::now()),
        ..PodCondition::default()
    });
    let patch = json!({
        "metadata": { "resourceVersion": pod.metadata.resource_version },
        "status": { "conditions": conditions },
    });
    let event = event::new(
        reference(pod),
        COMPONENT,
        Level::Warning,
        "FailedScheduling",
        message.to_owned(),
    );
    vec![
        Action::Merge(&PODS, key_of(pod), Part::Status, Box::new(patch)),
        Action::create(&EVENTS, &event),
    ]
}

#[cfg(test)]
mod tests {
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
        told.status.conditions =
            serde_json::from_value(patch["status"]["conditions"].clone()).unwrap();
        world.put(Revision(2), told);
        assert_eq!(plan(&world, [key]), []);
    }
}
