//! DaemonSets: a Pod on every node that is fit for it.
//! Source: kubernetes/kubernetes pkg/controller/daemon/daemon_controller.go.
//!
//! Reading order: here, [`fit`] (which nodes, and the Pod for one), [`manage`] (what each node lacks or has too much),
//! [`rolling`] (old Pods are replaced), [`history`] (the templates there were), [`status`].

mod fit;
mod history;
mod manage;
mod rolling;
mod status;
#[cfg(test)]
mod tests;

use std::{cmp::Reverse, collections::BTreeMap};

use api::{
    apps::DaemonSet,
    core::{Node, Pod},
};
use jiff::Timestamp;

use self::fit::Fitness;
use super::{
    Moment, Plan, Sort,
    amount::{self, Round},
    claim::Claimant,
    dependents::Dependents,
    progress::{Availability, availability},
};
use crate::{
    controller::{
        world::{Key, World, key_of},
        write::Action,
    },
    registry::kinds::{CONTROLLER_REVISIONS, PODS},
};

const COMPONENT: &str = "daemonset-controller";
/// On the Pods and ControllerRevisions of a DaemonSet: which template they have.
const HASH: &str = "controller-revision-hash";
/// At most so many Pods are made or removed at a time. Source: daemon_controller.go, BurstReplicas.
const BURST: usize = 250;

/// The writes for one DaemonSet.
pub(super) fn plan(world: &World, key: &Key, moment: Moment<'_>) -> Plan {
    let mut plan = Plan::default();
    let Some(set) = world.daemon_sets.get(key).map(|set| &**set) else {
        return plan;
    };
    let Some(claimant) = Claimant::new(set, &set.spec.selector) else {
        return plan;
    };
    if set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let candidates = world.pods_to_claim(&key.0, &set.metadata.uid);
    let (pods, mut claims) = claimant.claim(&PODS, candidates);
    let candidates = world.controller_revisions.of_namespace(&key.0);
    let (revisions, more) = claimant.claim(&CONTROLLER_REVISIONS, candidates);
    claims.extend(more);
    if !claims.is_empty() {
        plan.actions = claims;
        return plan;
    }
    let history = match history::of(world, set, &claimant, revisions) {
        Ok(history) => history,
        Err(write) => {
            // The Pods carry its hash: they wait for it.
            plan.actions.extend(write);
            return plan;
        }
    };
    let look = Look::new(world, set, claimant, pods, &history.hash, moment);
    plan.actions.extend(history.renumbered);
    plan.due = look.due();
    if moment.may_try(set.metadata.generation) {
        let mut change = look.manage();
        plan.due = [plan.due, change.due].into_iter().flatten().min();
        plan.actions.append(&mut change.events);
        if change.is_empty() {
            change = look.replace_old();
        }
        if !change.is_empty() {
            let dependents = look.dependents(change);
            plan.actions.push(Action::Dependents(Box::new(dependents)));
            return plan;
        }
    }
    let live = look.pods.iter().filter_map(|pod| look.hash_of(pod));
    plan.actions
        .extend(history::clean_up(set, history.old, live.collect()));
    plan.actions.extend(look.status_write());
    plan
}

/// What is to be made and removed.
#[derive(Debug, Default)]
struct Change<'a> {
    /// The nodes that get a Pod.
    nodes: Vec<&'a str>,
    /// The Pods that go.
    pods: Vec<&'a Pod>,
    events: Vec<Action>,
    /// When a Pod that is left for now is to go.
    due: Option<Timestamp>,
}

impl Change<'_> {
    fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.pods.is_empty()
    }
}

/// One look at a DaemonSet.
struct Look<'a> {
    set: &'a DaemonSet,
    claimant: Claimant<'a>,
    moment: Moment<'a>,
    fitness: Fitness,
    nodes: Vec<&'a Node>,
    pods: Vec<&'a Pod>,
    /// The Pods by the node they have or are meant for, the oldest first.
    on_node: BTreeMap<&'a str, Vec<&'a Pod>>,
    /// The hash of the present template.
    hash: String,
}

impl<'a> Look<'a> {
    fn new(
        world: &'a World,
        set: &'a DaemonSet,
        claimant: Claimant<'a>,
        pods: Vec<&'a Pod>,
        hash: &str,
        moment: Moment<'a>,
    ) -> Self {
        let mut on_node: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
        let there = |pod: &&&Pod| !pod.is_finished() || pod.metadata.deletion_timestamp.is_none();
        for pod in pods.iter().filter(there) {
            if let Some(node) = fit::node_of(pod) {
                on_node.entry(node).or_default().push(pod);
            }
        }
        for pods in on_node.values_mut() {
            pods.sort_by_key(|pod| {
                let metadata = &pod.metadata;
                let scheduled = !pod.spec.node_name.is_empty();
                let age = (metadata.creation_timestamp, metadata.name.clone());
                (Reverse(scheduled), age)
            });
        }
        Self {
            fitness: Fitness::of(&set.spec.template),
            nodes: world.nodes.all().map(|node| &**node).collect(),
            hash: hash.to_owned(),
            set,
            claimant,
            moment,
            pods,
            on_node,
        }
    }

    fn on(&self, node: &str) -> &[&'a Pod] {
        self.on_node.get(node).map_or(&[], Vec::as_slice)
    }

    fn hash_of(&self, pod: &'a Pod) -> Option<&'a str> {
        pod.metadata.labels.get(HASH).map(|hash| &**hash)
    }

    fn is_new(&self, pod: &'a Pod) -> bool {
        self.hash_of(pod) == Some(&self.hash)
    }

    fn availability(&self, pod: &Pod) -> Availability {
        availability(pod, self.set.spec.min_ready_seconds, self.moment.now)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        self.availability(pod) == Availability::Available
    }

    /// On how many nodes a new Pod may be beside the old one, and on how many none may be available.
    fn fence(&self) -> (usize, usize) {
        let wanted = self
            .nodes
            .iter()
            .filter(|node| self.fitness.is_wanted(node));
        let wanted = i32::try_from(wanted.count()).unwrap_or(i32::MAX);
        let rolling = &self.set.spec.update_strategy.rolling_update;
        let surge = amount::of(rolling.max_surge.as_ref(), wanted, Round::Up);
        let unavailable = amount::of(rolling.max_unavailable.as_ref(), wanted, Round::Up);
        let number = |number: i32| usize::try_from(number).unwrap_or(0);
        match (number(surge), number(unavailable)) {
            (0, 0) => (0, number(wanted.min(1))),
            fence => fence,
        }
    }

    /// When the next Pod becomes available.
    fn due(&self) -> Option<Timestamp> {
        let times = self
            .pods
            .iter()
            .filter_map(|pod| match self.availability(pod) {
                Availability::From(at) => Some(at),
                Availability::NotReady | Availability::Available => None,
            });
        times.min()
    }

    fn dependents(&self, change: Change<'a>) -> Dependents {
        let nodes = change.nodes.into_iter().take(BURST);
        let pods = change.pods.into_iter().take(BURST);
        Dependents {
            owner: (Sort::DaemonSet, key_of(self.set)),
            generation: self.set.metadata.generation,
            about: self.claimant.about(),
            component: COMPONENT,
            kind: &PODS,
            create: nodes
                .map(|node| fit::pod(self.set, &self.claimant, &self.hash, node))
                .collect(),
            delete: pods
                .map(|pod| (key_of(pod), pod.metadata.uid.clone()))
                .collect(),
            then: Vec::new(),
        }
    }
}
