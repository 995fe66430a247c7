//! Gives Pods a node. One that may have them: schedulable, without a taint they do not tolerate (as nodes that are not ready
//! have), asked for ([`node_affinity`]), with room and free ports ([`place`], [`resources`]), evenly spread ([`spread`]), beside
//! the right Pods ([`pod_affinity`]). Of those the one they like best, with the fewest of their sort, the emptiest.
//!
//! Nobody is evicted to make room.

mod node_affinity;
mod place;
mod pod_affinity;
mod resources;
mod spread;

use std::{cmp::Reverse, collections::BTreeMap, fmt};

use api::{
    core::{Node, ObjectReference, Pod, PodCondition, Taint, Toleration},
    meta::{Resource as _, Time},
};
use serde_json::json;

pub(super) use self::node_affinity::is_asked_for;
use self::{
    place::{Place, Places},
    pod_affinity::Neighbours,
    resources::Amounts,
    spread::Spread,
};
use super::{
    event::{self, Level},
    world::{Key, World, key_of, waits_for_a_node},
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
    Ports,
    Full,
    Lacks(Box<str>),
    SpreadLabel,
    Spread,
    PodAffinity,
    PodAntiAffinity,
    Unwelcome,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unschedulable => f.write_str("node(s) were unschedulable"),
            Self::Taint(key, value) => {
                write!(f, "node(s) had untolerated taint {{{key}: {value}}}")
            }
            Self::Selector => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Self::Ports => {
                f.write_str("node(s) didn't have free ports for the requested pod ports")
            }
            Self::Full => f.write_str("Too many pods"),
            Self::Lacks(resource) => write!(f, "Insufficient {resource}"),
            Self::SpreadLabel => f.write_str(
                "node(s) didn't match pod topology spread constraints (missing required label)",
            ),
            Self::Spread => f.write_str("node(s) didn't match pod topology spread constraints"),
            Self::PodAffinity => f.write_str("node(s) didn't match pod affinity rules"),
            Self::PodAntiAffinity => f.write_str("node(s) didn't match pod anti-affinity rules"),
            Self::Unwelcome => {
                f.write_str("node(s) didn't satisfy existing pods anti-affinity rules")
            }
        }
    }
}

/// The writes for all Pods that wait, the most important and then the oldest first. Those placed earlier in a round count for
/// those placed later.
pub(super) fn plan(world: &World, waiting: impl IntoIterator<Item = Key>) -> Vec<Action> {
    let pods = waiting.into_iter().filter_map(|key| {
        let pod = world.pods.get(&key)?;
        waits_for_a_node(pod).then_some((key, &**pod))
    });
    let mut pods: Vec<(Key, &Pod)> = pods.collect();
    // Counting every Pod is work: only when there is one to place.
    if pods.is_empty() {
        return Vec::new();
    }
    pods.sort_by_key(|(key, pod)| {
        let age = pod.metadata.creation_timestamp;
        (Reverse(pod.spec.priority), age, key.clone())
    });
    let mut places = Places::of(world);
    let mut actions = Vec::new();
    for (key, pod) in pods {
        match choose(world, &places, pod) {
            Ok(node) => {
                places.add(node, pod);
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

/// The node a Pod gets, or why none.
fn choose<'a>(world: &'a World, places: &Places<'a>, pod: &Pod) -> Result<&'a str, String> {
    let wish = Wish {
        requests: resources::requests(&pod.spec),
        neighbours: Neighbours::of(world, places, pod),
        spread: Spread::of(places, pod),
        sort: place::sort(pod),
        pod,
    };
    let mut unfit: BTreeMap<Unfit, usize> = BTreeMap::new();
    let (mut fit, mut count) = (Vec::new(), 0);
    for place in places.all() {
        count += 1;
        let reasons = wish.refuse(place);
        if reasons.is_empty() {
            fit.push(place);
        }
        for reason in reasons {
            *unfit.entry(reason).or_default() += 1;
        }
    }
    let best = fit.into_iter().min_by_key(|place| wish.rank(places, place));
    best.map(|place| &*place.node.metadata.name).ok_or_else(|| {
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

/// What one Pod asks of all nodes.
struct Wish<'a> {
    pod: &'a Pod,
    requests: Amounts,
    neighbours: Neighbours<'a>,
    spread: Spread<'a>,
    sort: String,
}

impl Wish<'_> {
    /// Why the Pod cannot have the node: of what upstream looks at one after the other, the first that is wrong.
    fn refuse(&self, place: &Place<'_>) -> Vec<Unfit> {
        if let Some(reason) = check(place.node, self.pod) {
            return vec![reason];
        }
        if place.ports_clash(self.pod) {
            return vec![Unfit::Ports];
        }
        let full = place.is_full().then_some(Unfit::Full);
        let lacks = place.lacks(&self.requests).into_iter().map(Unfit::Lacks);
        let lacks: Vec<Unfit> = full.into_iter().chain(lacks).collect();
        if !lacks.is_empty() {
            return lacks;
        }
        let spread = self.spread.refuse(place);
        let reason = spread.or_else(|| self.neighbours.refuse(place));
        reason.into_iter().collect()
    }

    /// The smaller the better: what the Pod asks for comes first, then fewer of its sort, then an emptier node.
    fn rank<'b>(&self, places: &Places<'b>, place: &Place<'b>) -> impl Ord + use<'b> {
        let unwanted =
            place.node.spec.taints.iter().filter(|taint| {
                &*taint.effect == "PreferNoSchedule" && !is_tolerated(self.pod, taint)
            });
        let liking =
            node_affinity::liking(&self.pod.spec, place.node) + self.neighbours.liking(place);
        (
            unwanted.count(),
            Reverse(liking),
            self.spread.crowd(place),
            places.alike(place, &self.sort),
            place.fullness(&self.requests),
            place.pods.len(),
            &*place.node.metadata.name,
        )
    }
}

fn is_tolerated(pod: &Pod, taint: &Taint) -> bool {
    let mut tolerations = pod.spec.tolerations.iter();
    tolerations.any(|toleration| tolerates(toleration, taint))
}

fn check(node: &Node, pod: &Pod) -> Option<Unfit> {
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    let going = node.metadata.deletion_timestamp.is_some();
    if going || (node.spec.unschedulable && !is_tolerated(pod, &cordon)) {
        return Some(Unfit::Unschedulable);
    }
    if let Some(taint) = untolerated(node, pod) {
        return Some(Unfit::Taint(taint.key.clone(), taint.value.clone()));
    }
    (!is_asked_for(&pod.spec, node)).then_some(Unfit::Selector)
}

/// A taint that keeps the Pod away.
fn untolerated<'a>(node: &'a Node, pod: &Pod) -> Option<&'a Taint> {
    let hard = |taint: &&Taint| matches!(&*taint.effect, "NoSchedule" | "NoExecute");
    let mut taints = node.spec.taints.iter().filter(hard);
    taints.find(|taint| !is_tolerated(pod, taint))
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
