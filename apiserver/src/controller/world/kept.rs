//! What a change of an object touches, kind by kind.

use api::{
    apps::{ControllerRevision, DaemonSet, Deployment, ReplicaSet},
    coordination::Lease,
    core::{ConfigMap, Endpoints, Namespace, Node, Pod, Secret, Service, ServiceAccount},
    discovery::EndpointSlice,
    meta::Resource,
};

use super::{Items, Key, SERVICE_NAME, Trigger, World, key_of, owners, waits_for_a_node};
use crate::controller::{load_balancer, pods::ZONE};

/// One kind's place in the world.
pub(in crate::controller) trait Kept: Resource {
    fn items(world: &mut World) -> &mut Items<Self>;
    /// Marks what a change of this object touches.
    fn touch(world: &mut World, before: Option<&Self>, after: Option<&Self>);
}

/// `Kind in field: function`, for each kind.
macro_rules! kept {
    ($($kind:ty, $items:ident, $touch:expr;)*) => {$(
        impl Kept for $kind {
            fn items(world: &mut World) -> &mut Items<Self> {
                &mut world.$items
            }

            fn touch(world: &mut World, before: Option<&Self>, after: Option<&Self>) {
                let touch: fn(&mut World, Option<&Self>, Option<&Self>) = $touch;
                touch(world, before, after);
            }
        }
    )*};
}

kept! {
    Pod, pods, pod;
    Service, services, service;
    Endpoints, endpoints, endpoints;
    EndpointSlice, slices, slice;
    Node, nodes, node;
    Lease, leases, |world, before, after| {
        let names = after.or(before).map(|lease| lease.metadata.name.clone());
        world.dirty.nodes.extend(names);
    };
    Namespace, namespaces, |world, before, after| {
        let names = after.or(before).map(|namespace| namespace.metadata.name.clone());
        world.dirty.namespaces.extend(names);
    };
    ServiceAccount, service_accounts, its_namespace;
    ConfigMap, config_maps, its_namespace;
    Secret, secrets, |world, _, _| world.dirty.join_tokens = true;
    Deployment, deployments, |world, before, after| {
        world.dirty.deployments.extend(after.or(before).map(key_of));
    };
    ReplicaSet, replica_sets, owners::replica_set;
    DaemonSet, daemon_sets, |world, before, after| {
        world.dirty.daemon_sets.extend(after.or(before).map(key_of));
    };
    ControllerRevision, controller_revisions, owners::controller_revision;
}

fn its_namespace<T: Resource>(world: &mut World, before: Option<&T>, after: Option<&T>) {
    let names = after
        .or(before)
        .map(|object| object.metadata().namespace.clone());
    world.dirty.namespaces.extend(names);
}

fn service(world: &mut World, before: Option<&Service>, after: Option<&Service>) {
    if let Some(service) = after.or(before) {
        let trigger = Trigger::of_service(before, after);
        world.dirty.service(key_of(service), trigger);
        world.dirty.endpoints.insert(key_of(service));
    }
    let concerned = |service: Option<&Service>| service.is_some_and(load_balancer::concerns);
    if concerned(before) || concerned(after) {
        let key = after.or(before).map(key_of).expect("one of them is there");
        if concerned(after) {
            world.balanced.insert(key.clone());
        } else {
            world.balanced.remove(&key);
        }
        world.dirty.balanced.insert(key);
    }
}

fn endpoints(world: &mut World, before: Option<&Endpoints>, after: Option<&Endpoints>) {
    if let Some(endpoints) = after.or(before) {
        world.dirty.endpoints.insert(key_of(endpoints));
        world.dirty.edited.insert(key_of(endpoints));
    }
}

fn pod(world: &mut World, before: Option<&Pod>, after: Option<&Pod>) {
    if let Some(pod) = before {
        world.index_pod(pod, false);
    }
    if let Some(pod) = after {
        world.index_pod(pod, true);
        if waits_for_a_node(pod) {
            world.dirty.unscheduled.insert(key_of(pod));
        }
    }
    // Room, ports and neighbours of those that wait.
    let holds = |pod: Option<&Pod>| {
        let placed = pod.filter(|pod| !pod.spec.node_name.is_empty() && !pod.is_finished());
        placed.map(|pod| (pod.metadata.labels.clone(), pod.metadata.deletion_timestamp))
    };
    if !world.waiting.is_empty() && holds(before) != holds(after) {
        let waiting = world.waiting.iter().cloned();
        world.dirty.unscheduled.extend(waiting);
    }
    world.touch_services_of(before, after);
    owners::pod(world, before, after);
    // Somebody new on a node that nobody may stay on.
    let moved = |pod: Option<&Pod>| {
        pod.map(|pod| (pod.spec.node_name.clone(), pod.spec.tolerations.clone()))
    };
    if let Some((name, _)) = moved(after).filter(|_| moved(before) != moved(after)) {
        let node = world.nodes.get(&(Box::default(), name.clone()));
        let mut taints = node.into_iter().flat_map(|node| &node.spec.taints);
        if taints.any(|taint| &*taint.effect == "NoExecute") {
            world.dirty.nodes.insert(name);
        }
    }
}

fn slice(world: &mut World, before: Option<&EndpointSlice>, after: Option<&EndpointSlice>) {
    if let Some(slice) = before {
        world.index_slice(slice, false);
    }
    if let Some(slice) = after {
        world.index_slice(slice, true);
    }
    for slice in [before, after].into_iter().flatten() {
        if let Some(service) = slice.metadata.labels.get(SERVICE_NAME) {
            let key = (slice.metadata.namespace.clone(), service.clone());
            if world.balanced.contains(&key) {
                world.dirty.balanced.insert(key);
            }
        }
    }
}

fn node(world: &mut World, before: Option<&Node>, after: Option<&Node>) {
    let Some(node) = after.or(before) else { return };
    world.dirty.nodes.insert(node.metadata.name.clone());
    let ready = |node: &Node| {
        let mut conditions = node.status.conditions.iter();
        let ready = conditions.find(|condition| &*condition.r#type == "Ready");
        ready.map(|condition| condition.status.clone())
    };
    // One that was lost while no controller ran may not have been dealt with.
    let (was, is) = (before.map(ready), after.map(ready));
    let fell = match (
        was.as_ref().map(Option::as_deref),
        is.as_ref().map(Option::as_deref),
    ) {
        (_, None | Some(Some("True"))) => false,
        (None, Some(is)) => is == Some("Unknown"),
        (Some(was), Some(_)) => was == Some("True"),
    };
    if fell {
        world.dirty.fallen.insert(node.metadata.name.clone());
    }
    // Endpoints carry their node's zone, and leave with it.
    let zone = |node: Option<&Node>| node.map(|node| node.metadata.labels.get(ZONE).cloned());
    if zone(before) != zone(after) {
        let services: Vec<Key> = world
            .services
            .all()
            .map(|service| key_of(&**service))
            .collect();
        for key in services {
            world.dirty.service(key, Trigger::default());
        }
    }
    let balances = |node: Option<&Node>| {
        node.map(|node| {
            (
                load_balancer::may_announce(node),
                load_balancer::addresses(node),
            )
        })
    };
    if balances(before) != balances(after) {
        world.dirty.balanced.extend(world.balanced.iter().cloned());
    }
    // What the scheduler looks at; a heartbeat is not among it.
    let place = |node: Option<&Node>| {
        node.map(|node| {
            (
                node.spec.unschedulable,
                node.spec.taints.clone(),
                node.status.allocatable.clone(),
                node.metadata.labels.clone(),
                node.metadata.deletion_timestamp,
            )
        })
    };
    if place(before) != place(after) {
        world
            .dirty
            .unscheduled
            .extend(world.waiting.iter().cloned());
        let daemon_sets = world.daemon_sets.all().map(|set| key_of(&**set));
        world.dirty.daemon_sets.extend(daemon_sets);
    }
}
