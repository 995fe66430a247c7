//! The templates a DaemonSet has had, as ControllerRevisions that `kubectl rollout undo` goes back to.
//! Source: kubernetes/kubernetes pkg/controller/daemon/update.go, constructHistory, cleanupHistory.

use std::collections::BTreeSet;

use api::{
    apps::{ControllerRevision, DaemonSet, PodTemplate},
    core::Json,
    meta::{ObjectMeta, Resource as _},
};
use serde_json::{Value, json};

use super::HASH;
use crate::{
    controller::{
        workload::{claim::Claimant, progress, template},
        world::{World, key_of},
        write::Action,
    },
    registry::{
        Part,
        kinds::{CONTROLLER_REVISIONS, DAEMON_SETS},
    },
};

pub(super) struct History<'a> {
    /// The hash of the present template, as its Pods carry it.
    pub(super) hash: String,
    /// The revisions of other templates, the oldest first.
    pub(super) old: Vec<&'a ControllerRevision>,
    /// The write that gives the present one the newest number.
    pub(super) renumbered: Option<Action>,
}

/// The history, or the write that has to come first.
pub(super) fn of<'a>(
    world: &World,
    set: &DaemonSet,
    claimant: &Claimant<'_>,
    mut revisions: Vec<&'a ControllerRevision>,
) -> Result<History<'a>, Option<Action>> {
    revisions.sort_by_key(|revision| revision.revision);
    let is_present = |revision: &&ControllerRevision| has_template(revision, &set.spec.template);
    let present = revisions.iter().copied().rfind(is_present);
    let old = |revision: &&ControllerRevision| Some(*revision) != present;
    let old: Vec<&ControllerRevision> = revisions.iter().copied().filter(old).collect();
    let next = old.last().map_or(0, |newest| newest.revision) + 1;
    let Some(present) = present else {
        return Err(snapshot(world, set, claimant, next));
    };
    let renumbered = (present.revision < next).then(|| {
        let version = &present.metadata.resource_version;
        let patch = json!({"metadata": {"resourceVersion": version}, "revision": next});
        let key = key_of(present);
        Action::Merge(&CONTROLLER_REVISIONS, key, Part::Main, Box::new(patch))
    });
    let hash = present.metadata.labels.get(HASH);
    Ok(History {
        hash: hash.map(|hash| hash.to_string()).unwrap_or_default(),
        old,
        renumbered,
    })
}

fn has_template(revision: &ControllerRevision, template: &PodTemplate) -> bool {
    let data = revision.data.value();
    let then: Option<PodTemplate> = serde_json::from_value(data["spec"]["template"].clone()).ok();
    then.is_some_and(|then| template::equal(&then, template))
}

/// The write of a revision of the present template. A name that is taken by another one makes another hash.
fn snapshot(
    world: &World,
    set: &DaemonSet,
    claimant: &Claimant<'_>,
    revision: i64,
) -> Option<Action> {
    let hash = template::hash(&set.spec.template, set.status.collision_count);
    let metadata = &set.metadata;
    let name: Box<str> = format!("{}-{hash}", metadata.name).into();
    let key = (metadata.namespace.clone(), name.clone());
    if world.controller_revisions.get(&key).is_some() {
        let mut status = set.status.clone();
        let count = status.collision_count.unwrap_or(0);
        status.collision_count = Some(count.saturating_add(1));
        return progress::status_write(&DAEMON_SETS, set, &set.status, &status);
    }
    let mut annotations = metadata.annotations.clone();
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    let snapshot = ControllerRevision {
        revision,
        metadata: ObjectMeta {
            name,
            namespace: metadata.namespace.clone(),
            labels: template::with_label(&set.spec.template.metadata.labels, HASH, &hash),
            annotations,
            owner_references: vec![claimant.reference.clone()],
            ..ObjectMeta::default()
        },
        data: Json::from(&patch(&set.spec.template)),
    };
    Some(Action::Create(
        &CONTROLLER_REVISIONS,
        Box::new(snapshot.to_value()),
    ))
}

/// The strategic merge patch that brings this template back.
fn patch(template: &PodTemplate) -> Value {
    let mut template = json!(template);
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// Forgets the oldest revisions that no Pod has any more, as far as there are more than are to be kept.
pub(super) fn clean_up(
    set: &DaemonSet,
    old: Vec<&ControllerRevision>,
    live: BTreeSet<&str>,
) -> Vec<Action> {
    let limit = set.spec.revision_history_limit.unwrap_or(10);
    let surplus = old
        .len()
        .saturating_sub(usize::try_from(limit).unwrap_or(0));
    let is_dead = |revision: &&ControllerRevision| {
        let hash = revision.metadata.labels.get(HASH);
        hash.is_none_or(|hash| !live.contains(&**hash))
    };
    let dead = old.into_iter().filter(is_dead).take(surplus);
    dead.map(|revision| Action::delete(&CONTROLLER_REVISIONS, revision))
        .collect()
}
