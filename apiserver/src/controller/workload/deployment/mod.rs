//! Deployments: a ReplicaSet for each template they have had; the Pods move from the old ones to the newest.
//! Source: kubernetes/kubernetes pkg/controller/deployment/deployment_controller.go, sync.go.
//!
//! A look at a Deployment works on copies of its ReplicaSets ([`Set`]) and of its status; at the end what differs is written.
//! Reading order: here, [`revision`] (the newest ReplicaSet and its number), [`rolling`], [`recreate`], [`scale`], [`status`].

mod recreate;
mod revision;
mod rolling;
mod scale;
mod status;
#[cfg(test)]
mod tests;

use api::{
    apps::{Deployment, DeploymentStatus, ReplicaSet},
    core::Pod,
    meta::{Resource as _, StringMap},
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Moment, Plan,
    amount::{self, Round},
    claim::Claimant,
    progress, template,
};
use crate::{
    controller::{
        event::{self, Level},
        world::{Key, World, key_of},
        write::Action,
    },
    registry::{
        Part,
        kinds::{DEPLOYMENTS, EVENTS, REPLICA_SETS},
    },
};

const COMPONENT: &str = "deployment-controller";
/// On Deployments and their ReplicaSets: the how-manyth template it is.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// On a ReplicaSet that is used again: which revisions it has been.
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// On a ReplicaSet: how many Pods its Deployment wanted when it was scaled last, and how many it could have had.
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// As good as no limit.
const UNLIMITED: i32 = i32::MAX;

/// The writes for one Deployment.
pub(super) fn plan(world: &World, key: &Key, moment: Moment<'_>) -> Plan {
    let Some(deployment) = world.deployments.get(key).map(|deployment| &**deployment) else {
        return Plan::default();
    };
    let Some(claimant) = Claimant::new(deployment, &deployment.spec.selector) else {
        return Plan::default();
    };
    let candidates = world.replica_sets_to_claim(&key.0, &deployment.metadata.uid);
    let (sets, claims) = claimant.claim(&REPLICA_SETS, candidates);
    if !claims.is_empty() {
        return Plan {
            actions: claims,
            due: None,
        };
    }
    let mut rollout = Rollout::new(world, deployment, claimant, &sets, moment);
    rollout.step();
    rollout.finish()
}

/// A copy of a ReplicaSet, to be changed.
#[derive(Clone, Debug)]
struct Set<'a> {
    known: &'a ReplicaSet,
    replicas: i32,
    min_ready_seconds: i32,
    annotations: StringMap,
}

impl<'a> Set<'a> {
    fn of(known: &'a ReplicaSet) -> Self {
        Self {
            known,
            replicas: known.spec.replicas.unwrap_or(1),
            min_ready_seconds: known.spec.min_ready_seconds,
            annotations: known.metadata.annotations.clone(),
        }
    }

    fn name(&self) -> &'a str {
        &self.known.metadata.name
    }

    fn available(&self) -> i32 {
        self.known.status.available_replicas
    }

    /// A number in an annotation.
    fn number(&self, annotation: &str) -> Option<i64> {
        self.annotations.get(annotation)?.parse().ok()
    }

    fn revision(&self) -> i64 {
        self.number(REVISION).unwrap_or(0)
    }

    /// The write that makes the ReplicaSet what the copy is.
    fn write(&self) -> Option<Action> {
        let known = Self::of(self.known);
        let annotations = progress::difference(&json!(known.annotations), &json!(self.annotations));
        let mut spec = json!({});
        if self.replicas != known.replicas {
            spec["replicas"] = self.replicas.into();
        }
        if self.min_ready_seconds != known.min_ready_seconds {
            spec["minReadySeconds"] = self.min_ready_seconds.into();
        }
        if annotations.is_empty() && spec == json!({}) {
            return None;
        }
        let version = &self.known.metadata.resource_version;
        let patch = json!({
            "metadata": {"resourceVersion": version, "annotations": annotations},
            "spec": spec,
        });
        let key = key_of(self.known);
        Some(Action::Merge(
            &REPLICA_SETS,
            key,
            Part::Main,
            Box::new(patch),
        ))
    }
}

/// One look at a Deployment.
struct Rollout<'a> {
    world: &'a World,
    deployment: &'a Deployment,
    claimant: Claimant<'a>,
    moment: Moment<'a>,
    /// The ReplicaSet of the present template.
    new: Option<Set<'a>>,
    /// The others, the oldest first.
    old: Vec<Set<'a>>,
    status: DeploymentStatus,
    /// The Deployment's own revision annotation.
    revision: Option<String>,
    actions: Vec<Action>,
    due: Option<Timestamp>,
}

impl<'a> Rollout<'a> {
    fn new(
        world: &'a World,
        deployment: &'a Deployment,
        claimant: Claimant<'a>,
        sets: &[&'a ReplicaSet],
        moment: Moment<'a>,
    ) -> Self {
        let mut sets: Vec<&ReplicaSet> = sets.to_vec();
        sets.sort_by_key(|set| (set.metadata.creation_timestamp, set.metadata.name.clone()));
        let is_new =
            |set: &&ReplicaSet| template::equal(&set.spec.template, &deployment.spec.template);
        // Of several the oldest: they may be from before a field was hashed, or made by hand.
        let new = sets.iter().copied().find(is_new).map(Set::of);
        let is_old = |set: &&ReplicaSet| {
            new.as_ref()
                .is_none_or(|new| new.known.metadata.uid != set.metadata.uid)
        };
        let old = sets.iter().copied().filter(is_old).map(Set::of).collect();
        Self {
            world,
            deployment,
            claimant,
            moment,
            new,
            old,
            status: deployment.status.clone(),
            revision: deployment
                .metadata
                .annotations
                .get(REVISION)
                .map(|text| text.to_string()),
            actions: Vec::new(),
            due: None,
        }
    }

    fn step(&mut self) {
        if self.deployment.metadata.deletion_timestamp.is_some() {
            return self.count();
        }
        self.say_paused();
        if self.deployment.spec.paused || self.is_scaled() {
            self.number_new();
            self.scale();
            if self.deployment.spec.paused {
                self.clean_up();
            }
            return self.count();
        }
        let done = match &*self.deployment.spec.strategy.r#type {
            "Recreate" => self.recreate(),
            _ => self.roll(),
        };
        // Once the new ReplicaSet is asked for, the rest waits for it.
        if done {
            self.judge();
        }
    }

    /// The writes for what is different now.
    fn finish(mut self) -> Plan {
        let sets = self.new.iter().chain(&self.old);
        let sets: Vec<Action> = sets.filter_map(Set::write).collect();
        self.actions.extend(sets);
        let own = self.own_write();
        self.actions.extend(own);
        Plan {
            actions: self.actions,
            due: self.due,
        }
    }

    /// The write of the Deployment's status and revision.
    fn own_write(&self) -> Option<Action> {
        let status = progress::difference(&json!(self.deployment.status), &json!(self.status));
        let known = self.deployment.metadata.annotations.get(REVISION);
        let same = known.map(|text| &**text) == self.revision.as_deref();
        if status.is_empty() && same {
            return None;
        }
        let mut patch = json!({
            "metadata": {"resourceVersion": self.deployment.metadata.resource_version},
            "status": status,
        });
        if !same {
            patch["metadata"]["annotations"] = json!({REVISION: self.revision});
        }
        let key = key_of(self.deployment);
        Some(Action::Merge(
            &DEPLOYMENTS,
            key,
            Part::Status,
            Box::new(patch),
        ))
    }

    fn replicas(&self) -> i32 {
        self.deployment.spec.replicas.unwrap_or(1)
    }

    fn sets(&self) -> impl Iterator<Item = &Set<'a>> {
        self.old.iter().chain(&self.new)
    }

    /// How many Pods are asked for, of all templates.
    fn asked_for(&self) -> i32 {
        self.sets().map(|set| set.replicas).sum()
    }

    fn is_rolling(&self) -> bool {
        &*self.deployment.spec.strategy.r#type == "RollingUpdate"
    }

    /// How many Pods there may be beyond those wanted, and how many of those wanted may be missing; not both none.
    /// Source: pkg/controller/deployment/util/deployment_util.go, ResolveFenceposts.
    fn fence(&self) -> (i32, i32) {
        if !self.is_rolling() {
            return (0, 0);
        }
        let rolling = &self.deployment.spec.strategy.rolling_update;
        let replicas = self.replicas();
        let surge = amount::of(rolling.max_surge.as_ref(), replicas, Round::Up);
        // All of them together are still a number.
        let surge = surge.min(i32::MAX - replicas);
        let unavailable = amount::of(rolling.max_unavailable.as_ref(), replicas, Round::Down);
        match (surge, unavailable) {
            (0, 0) => (0, replicas.min(1)),
            (surge, unavailable) => (surge, unavailable.min(replicas)),
        }
    }

    /// Asks for another number of Pods of one ReplicaSet, and tells so.
    fn resize(&mut self, name: &str, replicas: i32) {
        let wanted = self.replicas();
        let (surge, _) = self.fence();
        let mut sets = self.old.iter_mut().chain(&mut self.new);
        let Some(set) = sets.find(|set| set.name() == name) else {
            return;
        };
        let before = std::mem::replace(&mut set.replicas, replicas);
        set.annotations
            .insert(DESIRED.into(), wanted.to_string().into());
        set.annotations
            .insert(MAX.into(), (wanted + surge).to_string().into());
        if before != replicas {
            let direction = if before < replicas { "up" } else { "down" };
            let message =
                format!("Scaled {direction} replica set {name} from {before} to {replicas}");
            let event = self.event(Level::Normal, "ScalingReplicaSet", message);
            self.actions.push(event);
        }
    }

    fn event(&self, level: Level, reason: &str, message: String) -> Action {
        let about = self.claimant.about();
        let event = event::new(about, COMPONENT, level, reason, message);
        Action::Create(&EVENTS, Box::new(event.to_value()))
    }

    /// The Pods of a ReplicaSet that are there, whether they end or not.
    fn pods_of(&self, set: &Set<'a>) -> impl Iterator<Item = &'a Pod> {
        let uid = &set.known.metadata.uid;
        let namespace = &self.deployment.metadata.namespace;
        let pods = self.world.pods_to_claim(namespace, uid);
        pods.map(|pod| &**pod).filter(move |pod| {
            let controller = pod.metadata.controller();
            controller.is_some_and(|controller| controller.uid == *uid) && !pod.is_finished()
        })
    }
}

/// A new ReplicaSet as JSON.
fn replica_set(rollout: &Rollout<'_>, hash: &str, name: &str, replicas: i32) -> Value {
    let spec = &rollout.deployment.spec;
    let mut template = spec.template.clone();
    template.metadata.labels =
        template::with_label(&template.metadata.labels, template::HASH, hash);
    let mut selector = spec.selector.clone();
    selector.match_labels = template::with_label(&selector.match_labels, template::HASH, hash);
    json!({
        "metadata": {
            "name": name,
            "namespace": rollout.deployment.metadata.namespace,
            "labels": template.metadata.labels,
            "ownerReferences": [rollout.claimant.reference],
        },
        "spec": {
            "replicas": replicas,
            "minReadySeconds": spec.min_ready_seconds,
            "selector": selector,
            "template": template,
        },
    })
}
