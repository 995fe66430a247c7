//! How far a Deployment is, in numbers and in the words `kubectl rollout status` waits for.
//! Source: kubernetes/kubernetes pkg/controller/deployment/progress.go, sync.go, util/deployment_util.go.

use api::{
    apps::{DeploymentStatus, ReplicaSetStatus, WorkloadCondition},
    meta::Time,
};
use jiff::{SignedDuration, Timestamp};

use super::{Rollout, revision::PROGRESSING};
use crate::controller::workload::{
    progress::{self, condition, find},
    replica_set,
};

const AVAILABLE: &str = "Available";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

impl Rollout<'_> {
    /// Says when a Deployment is paused, and when it goes on. That it was too late already is not forgotten.
    pub(super) fn say_paused(&mut self) {
        if !self.has_deadline() {
            return;
        }
        let reason = self.reason().map(str::to_owned);
        let was_paused = reason.as_deref() == Some(PAUSED);
        let words = match (self.deployment.spec.paused, was_paused) {
            _ if reason.as_deref() == Some(TIMED_OUT) => return,
            (true, false) => (PAUSED, "Deployment is paused".to_owned()),
            (false, true) => ("DeploymentResumed", "Deployment is resumed".to_owned()),
            _ => return,
        };
        let new = condition(PROGRESSING, "Unknown", words, self.moment.now);
        progress::set(&mut self.status.conditions, new);
    }

    fn reason(&self) -> Option<&str> {
        find(&self.status.conditions, PROGRESSING).map(|condition| &*condition.reason)
    }

    /// The numbers, and whether enough Pods are available.
    pub(super) fn count(&mut self) {
        let sum = |number: fn(&ReplicaSetStatus) -> i32| {
            let statuses = self.sets().map(|set| &set.known.status);
            statuses.map(number).sum::<i32>()
        };
        let available = sum(|status| status.available_replicas);
        let terminating = self
            .sets()
            .map(|set| set.known.status.terminating_replicas)
            .sum::<Option<i32>>();
        let status = DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: sum(|status| status.replicas),
            updated_replicas: self.new.as_ref().map_or(0, |new| new.known.status.replicas),
            ready_replicas: sum(|status| status.ready_replicas),
            available_replicas: available,
            unavailable_replicas: (self.asked_for() - available).max(0),
            terminating_replicas: terminating,
            collision_count: self.status.collision_count,
            conditions: std::mem::take(&mut self.status.conditions),
        };
        self.status = status;
        let (_, unavailable) = self.fence();
        let (value, reason, message) = if available >= self.replicas() - unavailable {
            let message = "Deployment has minimum availability.";
            ("True", "MinimumReplicasAvailable", message)
        } else {
            let message = "Deployment does not have minimum availability.";
            ("False", "MinimumReplicasUnavailable", message)
        };
        let words = (reason, message.to_owned());
        let new = condition(AVAILABLE, value, words, self.moment.now);
        progress::set(&mut self.status.conditions, new);
    }

    /// The numbers, and whether the rollout is complete, progresses, or is too late.
    pub(super) fn judge(&mut self) {
        self.count();
        if !self.has_deadline() {
            progress::remove(&mut self.status.conditions, PROGRESSING);
        } else if !(self.status.replicas == self.status.updated_replicas
            && self.reason() == Some(COMPLETE))
        {
            self.say_progress();
        }
        let failure = self.failure_of_sets().cloned();
        match failure {
            Some(failure) => progress::set(&mut self.status.conditions, failure),
            None => progress::remove(&mut self.status.conditions, replica_set::FAILURE),
        }
        self.due = self.deadline();
    }

    fn say_progress(&mut self) {
        let now = self.moment.now;
        let subject = match &self.new {
            Some(new) => format!("ReplicaSet {:?}", new.name()),
            None => format!("Deployment {:?}", self.deployment.metadata.name),
        };
        let new = if self.is_complete(&self.status) {
            let message = format!("{subject} has successfully progressed.");
            condition(PROGRESSING, "True", (COMPLETE, message), now)
        } else if self.progresses() {
            let message = format!("{subject} is progressing.");
            let words = ("ReplicaSetUpdated", message);
            let mut new = condition(PROGRESSING, "True", words, now);
            // Each step counts as news, though status and reason stay the same.
            let known = find(&self.status.conditions, PROGRESSING);
            if let Some(known) = known.filter(|known| &*known.status == "True") {
                new.last_transition_time = known.last_transition_time;
            }
            progress::remove(&mut self.status.conditions, PROGRESSING);
            new
        } else if self.deadline().is_some_and(|at| at <= now) {
            let message = format!("{subject} has timed out progressing.");
            condition(PROGRESSING, "False", (TIMED_OUT, message), now)
        } else {
            return;
        };
        progress::set(&mut self.status.conditions, new);
    }

    /// Whether this status is that of a finished rollout.
    pub(super) fn is_complete(&self, status: &DeploymentStatus) -> bool {
        let wanted = self.replicas();
        [
            status.updated_replicas,
            status.replicas,
            status.available_replicas,
        ] == [wanted; 3]
            && status.observed_generation >= self.deployment.metadata.generation
    }

    /// Whether anything is better than when it was written last.
    fn progresses(&self) -> bool {
        let (before, after) = (&self.deployment.status, &self.status);
        let old = |status: &DeploymentStatus| status.replicas - status.updated_replicas;
        after.updated_replicas > before.updated_replicas
            || old(after) < old(before)
            || after.ready_replicas > before.ready_replicas
            || after.available_replicas > before.available_replicas
    }

    /// When a rollout that has not progressed since is too late; never, when it is complete or too late already.
    fn deadline(&self) -> Option<Timestamp> {
        let secs = self.deployment.spec.progress_deadline_seconds;
        let secs = secs.filter(|_| self.has_deadline())?;
        let condition = find(&self.status.conditions, PROGRESSING)?;
        if [COMPLETE, TIMED_OUT].contains(&&*condition.reason) || self.is_complete(&self.status) {
            return None;
        }
        let since = condition.last_update_time.map(Time::timestamp)?;
        since
            .checked_add(SignedDuration::from_secs(secs.into()))
            .ok()
    }

    /// Why a ReplicaSet has not the Pods it should, the new one first.
    fn failure_of_sets(&self) -> Option<&WorkloadCondition> {
        let sets = self.new.iter().chain(&self.old);
        let mut failures =
            sets.filter_map(|set| find(&set.known.status.conditions, replica_set::FAILURE));
        failures.next()
    }
}
