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
mod tests;
