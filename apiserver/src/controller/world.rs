//! What the controllers know: slim values of the newest state, with the indices they look through.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
};

use api::{
    coordination::Lease,
    core::{ConfigMap, Endpoints, Namespace, Node, Pod, Secret, Service, ServiceAccount},
    discovery::EndpointSlice,
    meta::{Resource, StringMap},
};

use crate::store::Revision;

/// Namespace and name; the namespace is empty for what has none.
pub(super) type Key = (Box<str>, Box<str>);

/// Namespace, label and value.
type LabelOfNamespace = (Box<str>, Box<str>, Box<str>);

pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The objects of one kind.
#[derive(Debug)]
pub(super) struct Items<T> {
    map: BTreeMap<Key, (Revision, Arc<T>)>,
}

impl<T> Default for Items<T> {
    fn default() -> Self {
        Self {
            map: BTreeMap::new(),
        }
    }
}

impl<T: Resource> Items<T> {
    /// One object.
    pub(super) fn get(&self, key: &Key) -> Option<&Arc<T>> {
        self.map.get(key).map(|(_, object)| object)
    }

    /// Every object.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<T>> {
        self.map.values().map(|(_, object)| object)
    }

    /// The objects of one namespace.
    pub(super) fn of_namespace(&self, namespace: &str) -> impl Iterator<Item = &Arc<T>> {
        let start = (namespace.into(), Box::default());
        let range = self.map.range((Bound::Included(start), Bound::Unbounded));
        let namespace: Box<str> = namespace.into();
        range
            .take_while(move |((of, _), _)| *of == namespace)
            .map(|(_, (_, object))| object)
    }

    /// Takes a newer state; answers with the one before, or nothing when what came is old.
    fn put(&mut self, key: Key, revision: Revision, object: Arc<T>) -> Option<Option<Arc<T>>> {
        match self.map.get(&key) {
            Some((known, _)) if *known >= revision => None,
            _ => Some(
                self.map
                    .insert(key, (revision, object))
                    .map(|(_, before)| before),
            ),
        }
    }

    fn remove(&mut self, key: &Key, revision: Revision) -> Option<Arc<T>> {
        match self.map.get(key) {
            Some((known, _)) if *known > revision => None,
            _ => self.map.remove(key).map(|(_, before)| before),
        }
    }
}

/// The key of an object.
pub(super) fn key_of<T: Resource>(object: &T) -> Key {
    let metadata = object.metadata();
    (metadata.namespace.clone(), metadata.name.clone())
}

/// One kind's place in the world.
pub(super) trait Kept: Resource {
    fn items(world: &mut World) -> &mut Items<Self>;
    /// Marks what a change of this object touches.
    fn touch(world: &mut World, before: Option<&Self>, after: Option<&Self>);
}

/// What has to be looked at again.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) services: BTreeSet<Key>,
    pub(super) endpoints: BTreeSet<Key>,
    pub(super) namespaces: BTreeSet<Box<str>>,
    pub(super) nodes: BTreeSet<Box<str>>,
    /// Pods that wait for a node.
    pub(super) unscheduled: BTreeSet<Key>,
    pub(super) join_tokens: bool,
}

impl Dirty {
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            services,
            endpoints,
            namespaces,
            nodes,
            unscheduled,
            join_tokens,
        } = self;
        services.is_empty()
            && endpoints.is_empty()
            && namespaces.is_empty()
            && nodes.is_empty()
            && unscheduled.is_empty()
            && !join_tokens
    }

    /// Adds what another one names.
    pub(super) fn merge(&mut self, other: Self) {
        let Self {
            services,
            endpoints,
            namespaces,
            nodes,
            unscheduled,
            join_tokens,
        } = other;
        self.services.extend(services);
        self.endpoints.extend(endpoints);
        self.namespaces.extend(namespaces);
        self.nodes.extend(nodes);
        self.unscheduled.extend(unscheduled);
        self.join_tokens |= join_tokens;
    }
}

/// Everything the controllers know.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) namespaces: Items<Namespace>,
    pub(super) nodes: Items<Node>,
    pub(super) leases: Items<Lease>,
    pub(super) pods: Items<Pod>,
    pub(super) services: Items<Service>,
    pub(super) endpoints: Items<Endpoints>,
    pub(super) slices: Items<EndpointSlice>,
    pub(super) service_accounts: Items<ServiceAccount>,
    pub(super) config_maps: Items<ConfigMap>,
    pub(super) secrets: Items<Secret>,
    pub(super) dirty: Dirty,
    pods_by_label: HashMap<LabelOfNamespace, BTreeSet<Box<str>>>,
    slices_by_service: HashMap<Key, BTreeSet<Box<str>>>,
}

impl World {
    /// Takes the newest state of an object.
    pub(super) fn put<T: Kept>(&mut self, revision: Revision, object: T) {
        let object = Arc::new(object);
        let key = key_of(&*object);
        if let Some(before) = T::items(self).put(key, revision, Arc::clone(&object)) {
            T::touch(self, before.as_deref(), Some(&object));
        }
    }

    /// Forgets an object that was deleted at a revision.
    pub(super) fn remove<T: Kept>(&mut self, revision: Revision, key: &Key) {
        if let Some(before) = T::items(self).remove(key, revision) {
            T::touch(self, Some(&before), None);
        }
    }

    /// Takes a whole list: what is not in it is gone.
    pub(super) fn replace<T: Kept>(&mut self, revision: Revision, objects: Vec<(Revision, T)>) {
        let listed: BTreeSet<Key> = objects.iter().map(|(_, object)| key_of(object)).collect();
        let gone: Vec<Key> = T::items(self)
            .map
            .keys()
            .filter(|key| !listed.contains(*key))
            .cloned()
            .collect();
        for key in gone {
            self.remove::<T>(revision, &key);
        }
        for (revision, object) in objects {
            self.put(revision, object);
        }
    }

    /// The Pods of a namespace that have all of these labels.
    pub(super) fn selected_pods(&self, namespace: &str, selector: &StringMap) -> Vec<&Arc<Pod>> {
        let candidates = selector.iter().map(|(name, value)| {
            self.pods_by_label
                .get(&(namespace.into(), name.clone(), value.clone()))
                .map_or(&EMPTY, |names| names)
        });
        let Some(fewest) = candidates.min_by_key(|names| names.len()) else {
            return Vec::new();
        };
        fewest
            .iter()
            .filter_map(|name| self.pods.get(&(namespace.into(), name.clone())))
            .filter(|pod| selects(selector, &pod.metadata.labels))
            .collect()
    }

    /// The slices that say they belong to a Service.
    pub(super) fn slices_of(&self, service: &Key) -> Vec<&Arc<EndpointSlice>> {
        let names = self.slices_by_service.get(service).unwrap_or(&EMPTY);
        names
            .iter()
            .filter_map(|name| self.slices.get(&(service.0.clone(), name.clone())))
            .collect()
    }

    fn touch_services_of(&mut self, pod: &Pod) {
        let namespace = &pod.metadata.namespace;
        let services = self.services.of_namespace(namespace);
        let selecting = services.filter(|service| {
            !service.spec.selector.is_empty()
                && selects(&service.spec.selector, &pod.metadata.labels)
        });
        let keys: Vec<Key> = selecting.map(|service| key_of(&**service)).collect();
        self.dirty.services.extend(keys);
    }

    fn index_pod(&mut self, pod: &Pod, present: bool) {
        let metadata = &pod.metadata;
        for (name, value) in &metadata.labels {
            let place = (metadata.namespace.clone(), name.clone(), value.clone());
            index(&mut self.pods_by_label, place, &metadata.name, present);
        }
    }

    fn index_slice(&mut self, slice: &EndpointSlice, present: bool) {
        let metadata = &slice.metadata;
        if let Some(service) = metadata.labels.get(SERVICE_NAME) {
            let place = (metadata.namespace.clone(), service.clone());
            index(
                &mut self.slices_by_service,
                place.clone(),
                &metadata.name,
                present,
            );
            self.dirty.endpoints.insert(place.clone());
            self.dirty.services.insert(place);
        }
    }
}

static EMPTY: BTreeSet<Box<str>> = BTreeSet::new();

fn index<K: std::hash::Hash + Eq>(
    map: &mut HashMap<K, BTreeSet<Box<str>>>,
    place: K,
    name: &str,
    present: bool,
) {
    if present {
        map.entry(place).or_default().insert(name.into());
    } else if let Some(names) = map.get_mut(&place) {
        names.remove(name);
        if names.is_empty() {
            map.remove(&place);
        }
    }
}

/// Whether these labels have everything the selector names.
pub(super) fn selects(selector: &StringMap, labels: &StringMap) -> bool {
    selector
        .iter()
        .all(|(name, value)| labels.get(name) == Some(value))
}

/// Whether a Pod waits for the scheduler.
pub(super) fn waits_for_a_node(pod: &Pod) -> bool {
    pod.spec.node_name.is_empty()
        && pod.metadata.deletion_timestamp.is_none()
        && !pod.is_finished()
        && pod.spec.scheduling_gates.is_empty()
        && matches!(&*pod.spec.scheduler_name, "" | "default-scheduler")
}

impl Kept for Pod {
    fn items(world: &mut World) -> &mut Items<Self> {
        &mut world.pods
    }

    fn touch(world: &mut World, before: Option<&Self>, after: Option<&Self>) {
        if let Some(pod) = before {
            world.index_pod(pod, false);
        }
        if let Some(pod) = after {
            world.index_pod(pod, true);
            if waits_for_a_node(pod) {
                world.dirty.unscheduled.insert(key_of(pod));
            }
        }
        for pod in [before, after].into_iter().flatten() {
            world.touch_services_of(pod);
            if pod.metadata.deletion_timestamp.is_some() {
                world
                    .dirty
                    .namespaces
                    .insert(pod.metadata.namespace.clone());
            }
        }
    }
}

impl Kept for Service {
    fn items(world: &mut World) -> &mut Items<Self> {
        &mut world.services
    }

    fn touch(world: &mut World, before: Option<&Self>, after: Option<&Self>) {
        if let Some(service) = after.or(before) {
            world.dirty.services.insert(key_of(service));
            world.dirty.endpoints.insert(key_of(service));
        }
    }
}

impl Kept for Endpoints {
    fn items(world: &mut World) -> &mut Items<Self> {
        &mut world.endpoints
    }

    fn touch(world: &mut World, before: Option<&Self>, after: Option<&Self>) {
        if let Some(endpoints) = after.or(before) {
            world.dirty.endpoints.insert(key_of(endpoints));
            world.dirty.services.insert(key_of(endpoints));
        }
    }
}

impl Kept for EndpointSlice {
    fn items(world: &mut World) -> &mut Items<Self> {
        &mut world.slices
    }

    fn touch(world: &mut World, before: Option<&Self>, after: Option<&Self>) {
        if let Some(slice) = before {
            world.index_slice(slice, false);
        }
        if let Some(slice) = after {
            world.index_slice(slice, true);
        }
    }
}

impl Kept for Node {
    fn items(world: &mut World) -> &mut Items<Self> {
        &mut world.nodes
    }

    fn touch(world: &mut World, before: Option<&Self>, after: Option<&Self>) {
        let Some(node) = after.or(before) else { return };
        world.dirty.nodes.insert(node.metadata.name.clone());
        // Endpoints carry their node's zone, and leave with it.
        let zone = |node: Option<&Node>| {
            node.map(|node| node.metadata.labels.get(super::pods::ZONE).cloned())
        };
        if zone(before) != zone(after) {
            let services: Vec<Key> = world
                .services
                .all()
                .map(|service| key_of(&**service))
                .collect();
            world.dirty.services.extend(services);
        }
        let waiting: Vec<Key> = world
            .pods
            .all()
            .filter(|pod| waits_for_a_node(pod))
            .map(|pod| key_of(&**pod))
            .collect();
        world.dirty.unscheduled.extend(waiting);
    }
}

impl Kept for Lease {
    fn items(world: &mut World) -> &mut Items<Self> {
        &mut world.leases
    }

    fn touch(world: &mut World, before: Option<&Self>, after: Option<&Self>) {
        if let Some(lease) = after.or(before) {
            world.dirty.nodes.insert(lease.metadata.name.clone());
        }
    }
}

impl Kept for Namespace {
    fn items(world: &mut World) -> &mut Items<Self> {
        &mut world.namespaces
    }

    fn touch(world: &mut World, before: Option<&Self>, after: Option<&Self>) {
        if let Some(namespace) = after.or(before) {
            world
                .dirty
                .namespaces
                .insert(namespace.metadata.name.clone());
        }
    }
}

impl Kept for ServiceAccount {
    fn items(world: &mut World) -> &mut Items<Self> {
        &mut world.service_accounts
    }

    fn touch(world: &mut World, before: Option<&Self>, after: Option<&Self>) {
        if let Some(account) = after.or(before) {
            world
                .dirty
                .namespaces
                .insert(account.metadata.namespace.clone());
        }
    }
}

impl Kept for ConfigMap {
    fn items(world: &mut World) -> &mut Items<Self> {
        &mut world.config_maps
    }

    fn touch(world: &mut World, before: Option<&Self>, after: Option<&Self>) {
        if let Some(map) = after.or(before) {
            world
                .dirty
                .namespaces
                .insert(map.metadata.namespace.clone());
        }
    }
}

impl Kept for Secret {
    fn items(world: &mut World) -> &mut Items<Self> {
        &mut world.secrets
    }

    fn touch(world: &mut World, _: Option<&Self>, _: Option<&Self>) {
        world.dirty.join_tokens = true;
    }
}
