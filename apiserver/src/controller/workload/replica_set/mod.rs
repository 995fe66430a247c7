//! ReplicaSets: as many Pods of the template as are wanted.
//! Source: kubernetes/kubernetes pkg/controller/replicaset/replica_set.go.

mod rank;
#[cfg(test)]
mod tests;

use api::{
    apps::{ReplicaSet, ReplicaSetStatus},
    core::Pod,
};
use jiff::Timestamp;

use super::{
    Failure, Moment, Plan, Sort,
    claim::Claimant,
    dependents::Dependents,
    progress::{self, Availability, availability, is_active},
    template,
};
use crate::{
    controller::{
        world::{Key, World, key_of},
        write::Action,
    },
    registry::kinds::{PODS, REPLICA_SETS},
};

const COMPONENT: &str = "replicaset-controller";
pub(super) const FAILURE: &str = "ReplicaFailure";
/// At most so many Pods are made or removed at a time. Source: replica_set.go, BurstReplicas.
const BURST: usize = 500;

/// The writes for one ReplicaSet.
pub(super) fn plan(world: &World, key: &Key, moment: Moment<'_>) -> Plan {
    let mut plan = Plan::default();
    let Some(set) = world.replica_sets.get(key).map(|set| &**set) else {
        return plan;
    };
    let Some(claimant) = Claimant::new(set, &set.spec.selector) else {
        return plan;
    };
    let all = || world.pods_to_claim(&key.0, &set.metadata.uid);
    let active = all().filter(|pod| is_active(pod));
    let (pods, claims) = claimant.claim(&PODS, active);
    if !claims.is_empty() {
        // What is made or removed depends on what is ours: looked at again as soon as that is written.
        plan.actions = claims;
        return plan;
    }
    if set.metadata.deletion_timestamp.is_none()
        && moment.may_try(set.metadata.generation)
        && let Some(dependents) = change(world, set, &claimant, &pods, moment.now)
    {
        plan.actions.push(Action::Dependents(Box::new(dependents)));
        return plan;
    }
    let is_terminating = |pod: &&std::sync::Arc<Pod>| {
        !pod.is_finished() && pod.metadata.deletion_timestamp.is_some()
    };
    let (terminating, _) = claimant.claim(&PODS, all().filter(is_terminating));
    let (mut status, due) = count(set, &pods, moment.now);
    status.terminating_replicas = i32::try_from(terminating.len()).ok();
    // One that has what it wants has not failed, whatever was tried before.
    let complete = status.replicas == set.spec.replicas.unwrap_or(1);
    say_failure(
        &mut status,
        moment.failure.filter(|_| !complete),
        moment.now,
    );
    plan.due = due;
    let write = progress::status_write(&REPLICA_SETS, set, &set.status, &status);
    plan.actions.extend(write);
    plan
}

/// The Pods to make or to remove.
fn change(
    world: &World,
    set: &ReplicaSet,
    claimant: &Claimant<'_>,
    pods: &[&Pod],
    now: Timestamp,
) -> Option<Dependents> {
    let wanted = usize::try_from(set.spec.replicas.unwrap_or(1)).unwrap_or(0);
    if pods.len() == wanted {
        return None;
    }
    let missing = wanted.saturating_sub(pods.len()).min(BURST);
    let surplus = pods.len().saturating_sub(wanted).min(BURST);
    let namespace = &set.metadata.namespace;
    let pod = || template::pod(&set.spec.template, namespace, &claimant.reference);
    let victims = if surplus == 0 {
        Vec::new()
    } else {
        rank::first_to_go(pods, &related(world, set), now)
    };
    let victims = victims.into_iter().take(surplus);
    Some(Dependents {
        owner: (Sort::ReplicaSet, key_of(set)),
        generation: set.metadata.generation,
        about: claimant.about(),
        component: COMPONENT,
        kind: &PODS,
        create: (0..missing).map(|_| pod()).collect(),
        delete: victims
            .map(|pod| (key_of(pod), pod.metadata.uid.clone()))
            .collect(),
        then: Vec::new(),
    })
}

/// The Pods that do the same: of this ReplicaSet, and of the others of its Deployment.
fn related<'a>(world: &'a World, set: &ReplicaSet) -> Vec<&'a Pod> {
    let namespace = &set.metadata.namespace;
    let mut owners = vec![set.metadata.uid.clone()];
    if let Some(deployment) = set.metadata.controller() {
        let sets = world.replica_sets_to_claim(namespace, &deployment.uid);
        let siblings = sets.filter(|other| other.metadata.controller() == Some(deployment));
        owners.extend(siblings.map(|other| other.metadata.uid.clone()));
        owners.sort_unstable();
        owners.dedup();
    }
    let pods = owners.iter().flat_map(|uid| {
        let pods = world.pods_to_claim(namespace, uid);
        pods.filter(move |pod| {
            let controller = pod.metadata.controller();
            controller.is_some_and(|controller| controller.uid == *uid)
        })
    });
    let pods = pods.map(|pod| &**pod);
    pods.filter(|pod| is_active(pod)).collect()
}

/// The numbers of the status, and when the next Pod becomes available.
fn count(set: &ReplicaSet, pods: &[&Pod], now: Timestamp) -> (ReplicaSetStatus, Option<Timestamp>) {
    let template = &set.spec.template.metadata.labels;
    let mut status = ReplicaSetStatus {
        replicas: i32::try_from(pods.len()).unwrap_or(i32::MAX),
        observed_generation: set.metadata.generation,
        conditions: set.status.conditions.clone(),
        ..ReplicaSetStatus::default()
    };
    let mut due: Option<Timestamp> = None;
    for pod in pods {
        let labels = &pod.metadata.labels;
        let whole = crate::controller::world::selects(template, labels);
        status.fully_labeled_replicas += i32::from(whole);
        match availability(pod, set.spec.min_ready_seconds, now) {
            Availability::NotReady => {}
            Availability::From(at) => {
                status.ready_replicas += 1;
                due = Some(due.map_or(at, |due| due.min(at)));
            }
            Availability::Available => {
                status.ready_replicas += 1;
                status.available_replicas += 1;
            }
        }
    }
    (status, due)
}

fn say_failure(status: &mut ReplicaSetStatus, failure: Option<&Failure>, now: Timestamp) {
    match failure {
        None => progress::remove(&mut status.conditions, FAILURE),
        Some(failure) => {
            let words = (failure.reason, failure.message.clone());
            let mut condition = progress::condition(FAILURE, "True", words, now);
            condition.last_update_time = None;
            progress::set(&mut status.conditions, condition);
        }
    }
}
