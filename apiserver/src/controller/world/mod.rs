//! What the controllers know: slim values of the newest state, with the indices they look through.
//!
//! [`kept`] says for each kind what a change of it touches (`owners`: which workloads), [`dirty`] holds what was touched.

mod dirty;
mod kept;
mod owners;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
};

use api::{
    apps::{ControllerRevision, DaemonSet, Deployment, ReplicaSet},
    coordination::Lease,
    core::{ConfigMap, Endpoints, Namespace, Node, Pod, Secret, Service, ServiceAccount},
    discovery::EndpointSlice,
    meta::{ObjectMeta, Resource, StringMap},
};

pub(in crate::controller) use self::{
    dirty::{Dirty, Trigger},
    kept::Kept,
};
use crate::store::Revision;

/// Namespace and name; the namespace is empty for what has none.
pub(in crate::controller) type Key = (Box<str>, Box<str>);

/// Namespace, label and value.
type LabelOfNamespace = (Box<str>, Box<str>, Box<str>);

/// Namespace and uid of a controller, or no uid for what has none -> names.
type ByController = HashMap<(Box<str>, Box<str>), BTreeSet<Box<str>>>;

pub(in crate::controller) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The objects of one kind.
#[derive(Debug)]
pub(in crate::controller) struct Items<T> {
    map: BTreeMap<Key, (Revision, Arc<T>)>,
    /// What our own writes have deleted: what was said of it before may still be on its way, and must not bring it back.
    deleted: BTreeMap<Key, Revision>,
}

impl<T> Default for Items<T> {
    fn default() -> Self {
        Self {
            map: BTreeMap::new(),
            deleted: BTreeMap::new(),
        }
    }
}

impl<T: Resource> Items<T> {
    /// One object.
    pub(in crate::controller) fn get(&self, key: &Key) -> Option<&Arc<T>> {
        self.map.get(key).map(|(_, object)| object)
    }

    /// Every object.
    pub(in crate::controller) fn all(&self) -> impl Iterator<Item = &Arc<T>> {
        self.map.values().map(|(_, object)| object)
    }

    /// The objects of one namespace.
    pub(in crate::controller) fn of_namespace(
        &self,
        namespace: &str,
    ) -> impl Iterator<Item = &Arc<T>> {
        let start = (namespace.into(), Box::default());
        let range = self.map.range((Bound::Included(start), Bound::Unbounded));
        let namespace: Box<str> = namespace.into();
        range
            .take_while(move |((of, _), _)| *of == namespace)
            .map(|(_, (_, object))| object)
    }

    /// Takes a newer state; answers with the one before, or nothing when what came is old.
    fn put(&mut self, key: Key, revision: Revision, object: Arc<T>) -> Option<Option<Arc<T>>> {
        let deleted = self.deleted.get(&key);
        if deleted.is_some_and(|at| *at >= revision) {
            return None;
        }
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
pub(in crate::controller) fn key_of<T: Resource>(object: &T) -> Key {
    let metadata = object.metadata();
    (metadata.namespace.clone(), metadata.name.clone())
}

/// Everything the controllers know.
#[derive(Debug, Default)]
pub(in crate::controller) struct World {
    pub(in crate::controller) namespaces: Items<Namespace>,
    pub(in crate::controller) nodes: Items<Node>,
    pub(in crate::controller) leases: Items<Lease>,
    pub(in crate::controller) pods: Items<Pod>,
    pub(in crate::controller) services: Items<Service>,
    pub(in crate::controller) endpoints: Items<Endpoints>,
    pub(in crate::controller) slices: Items<EndpointSlice>,
    pub(in crate::controller) service_accounts: Items<ServiceAccount>,
    pub(in crate::controller) config_maps: Items<ConfigMap>,
    pub(in crate::controller) secrets: Items<Secret>,
    pub(in crate::controller) deployments: Items<Deployment>,
    pub(in crate::controller) replica_sets: Items<ReplicaSet>,
    pub(in crate::controller) daemon_sets: Items<DaemonSet>,
    pub(in crate::controller) controller_revisions: Items<ControllerRevision>,
    pub(in crate::controller) dirty: Dirty,
    /// The Services with a load balancer, or what one left behind.
    pub(in crate::controller) balanced: BTreeSet<Key>,
    pods_by_label: HashMap<LabelOfNamespace, BTreeSet<Box<str>>>,
    slices_by_service: HashMap<Key, BTreeSet<Box<str>>>,
    pods_by_node: HashMap<Box<str>, BTreeSet<Key>>,
    pods_by_controller: ByController,
    replica_sets_by_controller: ByController,
    /// The Pods that wait for a node.
    waiting: BTreeSet<Key>,
}

impl World {
    /// Takes the newest state of an object.
    pub(in crate::controller) fn put<T: Kept>(&mut self, revision: Revision, object: T) {
        let object = Arc::new(object);
        let key = key_of(&*object);
        if let Some(before) = T::items(self).put(key, revision, Arc::clone(&object)) {
            T::touch(self, before.as_deref(), Some(&object));
        }
    }

    /// Forgets an object that was deleted at a revision.
    pub(in crate::controller) fn remove<T: Kept>(&mut self, revision: Revision, key: &Key) {
        T::items(self).deleted.remove(key);
        if let Some(before) = T::items(self).remove(key, revision) {
            T::touch(self, Some(&before), None);
        }
    }

    /// Forgets an object that we have deleted ourselves, before the watch says so.
    pub(in crate::controller) fn remove_own<T: Kept>(&mut self, revision: Revision, key: &Key) {
        let known = T::items(self).get(key).is_some();
        self.remove::<T>(revision, key);
        if known {
            T::items(self).deleted.insert(key.clone(), revision);
        }
    }

    /// Takes a whole list: what is not in it is gone.
    pub(in crate::controller) fn replace<T: Kept>(
        &mut self,
        revision: Revision,
        objects: Vec<(Revision, T)>,
    ) {
        T::items(self).deleted.clear();
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
    pub(in crate::controller) fn selected_pods(
        &self,
        namespace: &str,
        selector: &StringMap,
    ) -> Vec<&Arc<Pod>> {
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

    /// The Pods that have this node.
    pub(in crate::controller) fn pods_on(&self, node: &str) -> impl Iterator<Item = &Arc<Pod>> {
        let keys = self.pods_by_node.get(node).into_iter().flatten();
        keys.filter_map(|key| self.pods.get(key))
    }

    /// The Pods of this controller, and those of the namespace that have none.
    pub(in crate::controller) fn pods_to_claim(
        &self,
        namespace: &str,
        uid: &str,
    ) -> impl Iterator<Item = &Arc<Pod>> {
        to_claim(&self.pods_by_controller, &self.pods, namespace, uid)
    }

    /// The ReplicaSets of this controller, and those of the namespace that have none.
    pub(in crate::controller) fn replica_sets_to_claim(
        &self,
        namespace: &str,
        uid: &str,
    ) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        to_claim(
            &self.replica_sets_by_controller,
            &self.replica_sets,
            namespace,
            uid,
        )
    }

    /// The slices that say they belong to a Service.
    pub(in crate::controller) fn slices_of(&self, service: &Key) -> Vec<&Arc<EndpointSlice>> {
        let names = self.slices_by_service.get(service).unwrap_or(&EMPTY);
        names
            .iter()
            .filter_map(|name| self.slices.get(&(service.0.clone(), name.clone())))
            .collect()
    }

    /// Marks the Services that select a Pod, or did.
    fn touch_services_of(&mut self, before: Option<&Pod>, after: Option<&Pod>) {
        let Some(pod) = after.or(before) else { return };
        for service in self.services.of_namespace(&pod.metadata.namespace) {
            let selector = &service.spec.selector;
            let selected =
                |pod: &&Pod| !selector.is_empty() && selects(selector, &pod.metadata.labels);
            let (before, after) = (before.filter(selected), after.filter(selected));
            if before.is_some() || after.is_some() {
                let trigger = Trigger::of_pod(before, after);
                self.dirty.service(key_of(&**service), trigger);
            }
        }
    }

    fn index_pod(&mut self, pod: &Pod, present: bool) {
        let metadata = &pod.metadata;
        for (name, value) in &metadata.labels {
            let place = (metadata.namespace.clone(), name.clone(), value.clone());
            index(&mut self.pods_by_label, place, &metadata.name, present);
        }
        let controller = controller_place(metadata);
        index(
            &mut self.pods_by_controller,
            controller,
            &metadata.name,
            present,
        );
        let node = &pod.spec.node_name;
        if present && !node.is_empty() {
            let pods = self.pods_by_node.entry(node.clone()).or_default();
            pods.insert(key_of(pod));
        } else if let Some(pods) = self.pods_by_node.get_mut(node) {
            pods.remove(&key_of(pod));
            if pods.is_empty() {
                self.pods_by_node.remove(node);
            }
        }
        if present && waits_for_a_node(pod) {
            self.waiting.insert(key_of(pod));
        } else {
            self.waiting.remove(&key_of(pod));
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
            self.dirty.edited.insert(place);
        }
    }
}

/// Where an object is found by its controller.
fn controller_place(metadata: &ObjectMeta) -> (Box<str>, Box<str>) {
    let controller = metadata.controller();
    let uid = controller.map(|controller| controller.uid.clone());
    (metadata.namespace.clone(), uid.unwrap_or_default())
}

fn to_claim<'a, T: Resource>(
    by_controller: &'a ByController,
    items: &'a Items<T>,
    namespace: &str,
    uid: &str,
) -> impl Iterator<Item = &'a Arc<T>> {
    let names = |uid: &str| by_controller.get(&(namespace.into(), uid.into()));
    let names = [names(uid), names("")].into_iter().flatten().flatten();
    let namespace: Box<str> = namespace.into();
    names.filter_map(move |name| items.get(&(namespace.clone(), name.clone())))
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
pub(in crate::controller) fn selects(selector: &StringMap, labels: &StringMap) -> bool {
    selector
        .iter()
        .all(|(name, value)| labels.get(name) == Some(value))
}

/// Whether a Pod waits for the scheduler.
pub(in crate::controller) fn waits_for_a_node(pod: &Pod) -> bool {
    pod.spec.node_name.is_empty()
        && pod.metadata.deletion_timestamp.is_none()
        && !pod.is_finished()
        && pod.spec.scheduling_gates.is_empty()
        && matches!(&*pod.spec.scheduler_name, "" | "default-scheduler")
}
