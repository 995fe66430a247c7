//! Deployments, ReplicaSets and DaemonSets: they make Pods and replace them.
//!
//! Each controller is a pure function from the world and the time to a [`Plan`]: writes, and when to look again though nothing
//! is seen. What they share: [`claim`] (which objects are theirs), [`dependents`] (making and removing, a few at first),
//! [`template`], [`progress`] (status and conditions), [`amount`] (numbers and percentages).

mod amount;
mod claim;
mod daemon_set;
mod dependents;
mod deployment;
mod progress;
mod replica_set;
mod template;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

pub(super) use self::dependents::{Dependents, Made};
use super::{
    world::{Dirty, Key, World},
    write::Action,
};

/// The pause after a first failure; each further one doubles it.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_AT_MOST: Duration = Duration::from_secs(300);

/// A workload.
pub(super) type Owner = (Sort, Key);

/// The kind of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sort {
    Deployment,
    ReplicaSet,
    DaemonSet,
}

/// What one look at a workload comes to.
#[derive(Debug, Default)]
struct Plan {
    actions: Vec<Action>,
    /// When time alone changes something.
    due: Option<Timestamp>,
}

/// What a controller must know besides the world.
#[derive(Clone, Copy, Debug)]
struct Moment<'a> {
    now: Timestamp,
    /// What the workload's last attempt to make or remove something came to.
    failure: Option<&'a Failure>,
}

impl Moment<'_> {
    /// Whether something may be made or removed: after a failure not at once, unless the workload is another one now.
    fn may_try(self, generation: i64) -> bool {
        self.failure
            .is_none_or(|failure| failure.again <= self.now || failure.generation != generation)
    }
}

/// Why something could not be made or removed.
#[derive(Clone, Debug, PartialEq)]
struct Failure {
    generation: i64,
    reason: &'static str,
    message: String,
    pause: Duration,
    again: Timestamp,
}

/// What the controllers remember besides the world.
#[derive(Debug, Default)]
pub(super) struct Workloads {
    failures: BTreeMap<Owner, Failure>,
    due: BTreeMap<Owner, Timestamp>,
}

impl Workloads {
    /// When something is due by time alone.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.due.values().min().copied()
    }

    /// Marks what time has touched.
    pub(super) fn due(&mut self, dirty: &mut Dirty, now: Timestamp) {
        let due = self.due.iter().filter(|(_, at)| **at <= now);
        let owners: Vec<Owner> = due.map(|(owner, _)| owner.clone()).collect();
        for owner in owners {
            self.due.remove(&owner);
            mark(dirty, owner);
        }
    }

    /// The writes for the workloads that were touched.
    pub(super) fn plan(&mut self, world: &World, dirty: &Dirty, now: Timestamp) -> Vec<Action> {
        type Planner = fn(&World, &Key, Moment<'_>) -> Plan;
        let sorts: [(Sort, &BTreeSet<Key>, Planner); 3] = [
            (Sort::Deployment, &dirty.deployments, deployment::plan),
            (Sort::ReplicaSet, &dirty.replica_sets, replica_set::plan),
            (Sort::DaemonSet, &dirty.daemon_sets, daemon_set::plan),
        ];
        let mut actions = Vec::new();
        for (sort, keys, planner) in sorts {
            for key in keys {
                let owner = (sort, key.clone());
                let failure = self.failures.get(&owner);
                let plan = planner(world, key, Moment { now, failure });
                actions.extend(plan.actions);
                let again = failure.map(|failure| failure.again);
                let due = [plan.due, again.filter(|at| *at > now)];
                match due.into_iter().flatten().min() {
                    Some(at) => self.due.insert(owner, at),
                    None => self.due.remove(&owner),
                };
            }
        }
        actions
    }

    /// Takes in what making and removing came to.
    pub(super) fn learn(&mut self, dirty: &mut Dirty, made: &Made, now: Timestamp) {
        let before = self.failures.remove(&made.owner);
        if before.is_none() && made.failure.is_none() {
            return;
        }
        mark(dirty, made.owner.clone());
        if let Some((reason, message)) = &made.failure {
            let pause = before.map_or(RETRY, |before| (before.pause * 2).min(RETRY_AT_MOST));
            let failure = Failure {
                generation: made.generation,
                reason,
                message: message.clone(),
                pause,
                again: now.checked_add(pause).unwrap_or(Timestamp::MAX),
            };
            self.failures.insert(made.owner.clone(), failure);
        }
    }

    /// Forgets workloads that are gone.
    pub(super) fn forget(&mut self, world: &World, dirty: &Dirty) {
        let gone = |(sort, key): &Owner| match sort {
            Sort::Deployment => {
                dirty.deployments.contains(key) && world.deployments.get(key).is_none()
            }
            Sort::ReplicaSet => {
                dirty.replica_sets.contains(key) && world.replica_sets.get(key).is_none()
            }
            Sort::DaemonSet => {
                dirty.daemon_sets.contains(key) && world.daemon_sets.get(key).is_none()
            }
        };
        self.failures.retain(|owner, _| !gone(owner));
        self.due.retain(|owner, _| !gone(owner));
    }
}

fn mark(dirty: &mut Dirty, (sort, key): Owner) {
    match sort {
        Sort::Deployment => dirty.deployments.insert(key),
        Sort::ReplicaSet => dirty.replica_sets.insert(key),
        Sort::DaemonSet => dirty.daemon_sets.insert(key),
    };
}
