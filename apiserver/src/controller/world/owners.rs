//! Which workloads a change of what they own, or could own, touches.

use api::{
    apps::{ControllerRevision, DaemonSet, ReplicaSet},
    core::Pod,
    meta::{self, ObjectMeta, Resource, StringMap},
    selector::LabelSelector,
};

use super::{Key, World, controller_place, index, key_of};

pub(super) fn pod(world: &mut World, before: Option<&Pod>, after: Option<&Pod>) {
    for pod in [before, after].into_iter().flatten() {
        touch_owner(world, &pod.metadata);
    }
    let Some(pod) = before.filter(|_| after.is_none()) else {
        return;
    };
    // A Deployment that makes no new Pods before the old ones are gone.
    if let Some(owner) = pod.metadata.controller()
        && let Some(set) = world
            .replica_sets
            .get(&(pod.metadata.namespace.clone(), owner.name.clone()))
        && let Some(owner) = set.metadata.controller()
    {
        let key = (pod.metadata.namespace.clone(), owner.name.clone());
        world.dirty.deployments.insert(key);
    }
}

pub(super) fn replica_set(
    world: &mut World,
    before: Option<&ReplicaSet>,
    after: Option<&ReplicaSet>,
) {
    for (set, present) in [(before, false), (after, true)] {
        let Some(set) = set else { continue };
        let metadata = &set.metadata;
        let place = controller_place(metadata);
        index(
            &mut world.replica_sets_by_controller,
            place,
            &metadata.name,
            present,
        );
        touch_owner(world, metadata);
        world.dirty.replica_sets.insert(key_of(set));
        let named = named_after(metadata).filter(|key| world.deployments.get(key).is_some());
        world.dirty.deployments.extend(named);
    }
}

pub(super) fn controller_revision(
    world: &mut World,
    before: Option<&ControllerRevision>,
    after: Option<&ControllerRevision>,
) {
    for revision in [before, after].into_iter().flatten() {
        touch_owner(world, &revision.metadata);
        let named =
            named_after(&revision.metadata).filter(|key| world.daemon_sets.get(key).is_some());
        world.dirty.daemon_sets.extend(named);
    }
}

/// The workload whose name this one begins with, up to the hash at its end: whoever owns it, the name is taken.
fn named_after(metadata: &ObjectMeta) -> Option<Key> {
    let (name, _) = metadata.name.rsplit_once('-')?;
    Some((metadata.namespace.clone(), name.into()))
}

/// The controller of an object, or all that might become it.
fn touch_owner(world: &mut World, metadata: &ObjectMeta) {
    let namespace = &metadata.namespace;
    if let Some(owner) = metadata.controller() {
        let key = (namespace.clone(), owner.name.clone());
        match &*owner.kind {
            "ReplicaSet" => world.dirty.replica_sets.insert(key),
            "Deployment" => world.dirty.deployments.insert(key),
            "DaemonSet" => world.dirty.daemon_sets.insert(key),
            _ => false,
        };
        return;
    }
    let labels = &metadata.labels;
    let deployments = world.deployments.of_namespace(namespace);
    let deployments = selecting(deployments, |it| &it.spec.selector, labels);
    let sets = world.replica_sets.of_namespace(namespace);
    let sets = selecting(sets, |it: &ReplicaSet| &it.spec.selector, labels);
    let daemons = world.daemon_sets.of_namespace(namespace);
    let daemons = selecting(daemons, |it: &DaemonSet| &it.spec.selector, labels);
    world.dirty.deployments.extend(deployments);
    world.dirty.replica_sets.extend(sets);
    world.dirty.daemon_sets.extend(daemons);
}

fn selecting<'a, T: Resource>(
    workloads: impl Iterator<Item = &'a std::sync::Arc<T>>,
    selector: impl Fn(&T) -> &meta::LabelSelector,
    labels: &StringMap,
) -> Vec<Key> {
    let matching = workloads.filter(|workload| {
        let selector = LabelSelector::try_from(selector(workload));
        selector.is_ok_and(|selector| !selector.is_empty() && selector.matches(labels))
    });
    matching.map(|workload| key_of(&**workload)).collect()
}
