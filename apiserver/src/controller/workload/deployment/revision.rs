//! The newest ReplicaSet: made when there is none for the template, numbered, and the oldest ones forgotten.
//! Source: kubernetes/kubernetes pkg/controller/deployment/sync.go, util/deployment_util.go.

use serde_json::json;

use super::{
    COMPONENT, DESIRED, MAX, REVISION, REVISION_HISTORY, Rollout, Set, UNLIMITED, replica_set,
};
use crate::{
    controller::{
        event::Level,
        workload::{Sort, dependents::Dependents, progress, template},
        world::key_of,
        write::Action,
    },
    registry::kinds::REPLICA_SETS,
};

/// What a Deployment's ReplicaSets do not get of its annotations.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];
/// How long the list of former revisions may be. Source: sync.go, maxRevHistoryLengthInChars.
const HISTORY_LENGTH: usize = 2000;
pub(super) const PROGRESSING: &str = "Progressing";

impl Rollout<'_> {
    /// Sees to it that there is a ReplicaSet for the template; false when it is asked for only now.
    pub(super) fn ensure_new(&mut self) -> bool {
        if self.new.is_some() {
            self.number_new();
            return true;
        }
        if self.moment.may_try(self.deployment.metadata.generation) {
            self.ask_for_new();
        } else if let Some(failure) = self.moment.failure.filter(|_| self.has_deadline()) {
            let words = (failure.reason, failure.message.clone());
            let condition = progress::condition(PROGRESSING, "False", words, self.moment.now);
            progress::set(&mut self.status.conditions, condition);
        }
        false
    }

    fn ask_for_new(&mut self) {
        let metadata = &self.deployment.metadata;
        let hash = template::hash(&self.deployment.spec.template, self.status.collision_count);
        let name = format!("{}-{hash}", metadata.name);
        let key = (metadata.namespace.clone(), name.as_str().into());
        if self.world.replica_sets.get(&key).is_some() {
            // It has another template, or is not ours: the next hash is another one.
            let count = self.status.collision_count.unwrap_or(0);
            self.status.collision_count = Some(count.saturating_add(1));
            return;
        }
        let replicas = self.room_for_new(0);
        let mut set = replica_set(self, &hash, &name, replicas);
        let revision = self.next_revision().to_string();
        let mut annotations = self.inherited();
        let (surge, _) = self.fence();
        for (annotation, value) in [
            (REVISION, revision.clone()),
            (DESIRED, self.replicas().to_string()),
            (MAX, (self.replicas() + surge).to_string()),
        ] {
            annotations.insert(annotation.into(), value.into());
        }
        set["metadata"]["annotations"] = json!(annotations);
        let mut then = Vec::new();
        if replicas > 0 {
            let message = format!("Scaled up replica set {name} from 0 to {replicas}");
            then.push(self.event(Level::Normal, "ScalingReplicaSet", message));
        }
        self.revision = Some(revision);
        if self.has_deadline() {
            let message = format!("Created new replica set {name:?}");
            let words = ("NewReplicaSetCreated", message);
            let condition = progress::condition(PROGRESSING, "True", words, self.moment.now);
            progress::set(&mut self.status.conditions, condition);
        }
        then.extend(self.own_write());
        self.actions.push(Action::Dependents(Box::new(Dependents {
            owner: (Sort::Deployment, key_of(self.deployment)),
            generation: metadata.generation,
            about: self.claimant.about(),
            component: COMPONENT,
            kind: &REPLICA_SETS,
            create: vec![set],
            delete: Vec::new(),
            then,
        })));
        // Said once it is there.
        self.status = self.deployment.status.clone();
        let known = self.deployment.metadata.annotations.get(REVISION);
        self.revision = known.map(|text| text.to_string());
    }

    /// The annotations a ReplicaSet has from its Deployment.
    fn inherited(&self) -> api::meta::StringMap {
        let mut annotations = self.deployment.metadata.annotations.clone();
        annotations.retain(|name, _| !OWN.contains(&&**name));
        annotations
    }

    fn next_revision(&self) -> i64 {
        let newest = self.old.iter().map(Set::revision).max();
        newest.unwrap_or(0) + 1
    }

    /// Gives the ReplicaSet of the template the newest number, and the Deployment the same.
    pub(super) fn number_new(&mut self) {
        let (inherited, next) = (self.inherited(), self.next_revision());
        let min_ready_seconds = self.deployment.spec.min_ready_seconds;
        let Some(new) = &mut self.new else { return };
        new.annotations.extend(inherited);
        new.min_ready_seconds = min_ready_seconds;
        let before = new.annotations.get(REVISION).cloned();
        if new.revision() < next {
            let number = next.to_string().into();
            new.annotations.insert(REVISION.into(), number);
            if let Some(before) = before {
                let history = new.annotations.get(REVISION_HISTORY);
                let history = longer(history.map_or("", |text| text), &before);
                new.annotations
                    .insert(REVISION_HISTORY.into(), history.into());
            }
        }
        self.revision = new.annotations.get(REVISION).map(|text| text.to_string());
        let name = new.name();
        if self.has_deadline() && progress::find(&self.status.conditions, PROGRESSING).is_none() {
            let words = (
                "FoundNewReplicaSet",
                format!("Found new replica set {name:?}"),
            );
            let condition = progress::condition(PROGRESSING, "True", words, self.moment.now);
            progress::set(&mut self.status.conditions, condition);
        }
    }

    /// Whether there is a time after which a rollout without progress counts as failed.
    pub(super) fn has_deadline(&self) -> bool {
        let deadline = self.deployment.spec.progress_deadline_seconds;
        deadline.is_some_and(|deadline| deadline != UNLIMITED)
    }

    /// Forgets the oldest ReplicaSets without Pods, as far as there are more than are to be kept.
    pub(super) fn clean_up(&mut self) {
        let limit = self.deployment.spec.revision_history_limit;
        let Some(limit) = limit.filter(|limit| *limit != UNLIMITED) else {
            return;
        };
        let living = self
            .old
            .iter()
            .filter(|set| set.known.metadata.deletion_timestamp.is_none());
        let mut living: Vec<&Set<'_>> = living.collect();
        living.sort_by_key(|set| set.revision());
        let surplus = living
            .len()
            .saturating_sub(usize::try_from(limit).unwrap_or(0));
        let is_empty = |set: &&&Set<'_>| {
            let (metadata, status) = (&set.known.metadata, &set.known.status);
            set.replicas == 0
                && status.replicas == 0
                && metadata.generation <= status.observed_generation
        };
        let forgotten = living.iter().take(surplus).filter(is_empty);
        let forgotten: Vec<Action> = forgotten
            .map(|set| Action::delete(&REPLICA_SETS, set.known))
            .collect();
        self.actions.extend(forgotten);
    }
}

/// A list of former revisions with one more; the oldest fall off the end of what it may hold.
fn longer(history: &str, revision: &str) -> String {
    let mut revisions: Vec<&str> = history.split(',').filter(|text| !text.is_empty()).collect();
    revisions.push(revision);
    let length = |revisions: &[&str]| revisions.iter().map(|text| text.len() + 1).sum::<usize>();
    while revisions.len() > 1 && length(&revisions) > HISTORY_LENGTH {
        revisions.remove(0);
    }
    revisions.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_of_revisions_is_bounded() {
        assert_eq!(longer("", "1"), "1");
        assert_eq!(longer("1,3", "5"), "1,3,5");
        let long = "12345,".repeat(400);
        let longer = longer(&long, "9");
        assert!(longer.len() <= HISTORY_LENGTH && longer.ends_with(",9"));
    }
}
