//! What the agent knows of the cluster's Services: indices over the watched objects, and what changed since the last look.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use api::networking::ServiceCidr;
use ipnet::IpNet;

use crate::{
    objects::{Endpoint, EndpointSlice, Key, Object, Revision, Service, Uid},
    reflector::Delta,
};

/// The Services of the cluster with their EndpointSlices, the ranges they are in, and the namespaces.
#[derive(Debug, Default)]
pub(crate) struct View {
    services: HashMap<Key, Service>,
    /// By Service, ordered by the slice's name; most Services have one.
    slices: HashMap<Key, Vec<EndpointSlice>>,
    /// The Service each slice belongs to, by the slice's key.
    slice_owners: HashMap<Key, Key>,
    namespaces: BTreeSet<Box<str>>,
    /// The ranges of every ServiceCIDR, by its name; also of those that are to go, as long as they are there.
    service_cidrs: BTreeMap<Box<str>, Vec<IpNet>>,
    /// Names that many objects share: of namespaces and nodes.
    shared_names: HashSet<Arc<str>>,
    dirty: Dirty,
    positions: Positions,
}

/// What must be looked at again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Dirty {
    pub(crate) services: HashSet<Key>,
    pub(crate) namespaces: BTreeSet<Box<str>>,
    /// Whether ranges of Services came or went.
    pub(crate) service_networks: bool,
}

/// How far the two collections that make rules are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) services: Revision,
    pub(crate) slices: Revision,
}

impl Position {
    /// Everything that happened to either up to here is known.
    pub(crate) fn both(self) -> Revision {
        self.services.min(self.slices)
    }
}

/// How far each collection is known; `None` before its first full list.
#[derive(Clone, Copy, Debug, Default)]
struct Positions {
    services: Option<Revision>,
    slices: Option<Revision>,
    namespaces: Option<Revision>,
    service_cidrs: Option<Revision>,
}

impl View {
    /// Whether every collection was listed once. Before that nothing may be programmed or answered.
    pub(crate) fn is_synced(&self) -> bool {
        let rest = [self.positions.namespaces, self.positions.service_cidrs];
        self.position().is_some() && rest.iter().all(Option::is_some)
    }

    /// How far both Services and EndpointSlices are known; `None` before their first lists.
    pub(crate) fn position(&self) -> Option<Position> {
        let Positions {
            services, slices, ..
        } = self.positions;
        Some(Position {
            services: services?,
            slices: slices?,
        })
    }

    pub(crate) fn service(&self, key: &Key) -> Option<&Service> {
        self.services.get(key)
    }

    /// The slices of a Service, ordered by name.
    pub(crate) fn slices(&self, service: &Key) -> impl Iterator<Item = &EndpointSlice> {
        self.slices.get(service).into_iter().flatten()
    }

    /// Whether traffic may still be sent to a Pod: whether a slice of its namespace says it is ready. Else the revision up
    /// to which that must be applied for traffic to have stopped.
    pub(crate) fn drained(&self, namespace: &str, pod_uid: &str) -> Option<Revision> {
        let Some(uid) = Uid::parse(pod_uid) else {
            return Some(Revision::default());
        };
        let is_pod = |endpoint: &&Endpoint| endpoint.pod_uid == Some(uid);
        let mut revision = Revision::default();
        let in_namespace = self
            .slices
            .iter()
            .filter(|(service, _)| &*service.namespace == namespace);
        for slice in in_namespace.flat_map(|(_, slices)| slices) {
            for endpoint in slice.endpoints.iter().filter(is_pod) {
                if endpoint.is_ready() && !endpoint.is_terminating() {
                    return None;
                }
                revision = revision.max(slice.revision());
            }
        }
        Some(revision)
    }

    /// The Services of a namespace, ordered by name, and `default/kubernetes`, which every Pod may know.
    pub(crate) fn services_for_pods(&self, namespace: &str) -> Vec<&Service> {
        let mut found: Vec<_> = self
            .services
            .values()
            .filter(|service| {
                let meta = &service.metadata;
                &*meta.namespace == namespace
                    || (&*meta.namespace == "default" && &*meta.name == "kubernetes")
            })
            .collect();
        found.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        found
    }

    pub(crate) fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    /// Every Service known.
    pub(crate) fn service_keys(&self) -> impl Iterator<Item = &Key> {
        self.services.keys()
    }

    /// What changed since the last call.
    pub(crate) fn take_dirty(&mut self) -> Dirty {
        std::mem::take(&mut self.dirty)
    }

    pub(crate) fn apply_services(&mut self, deltas: Vec<Delta<Service>>) {
        for delta in deltas {
            match delta {
                Delta::Replace { items, revision } => {
                    self.replace_services(items);
                    self.positions.services = Some(revision);
                }
                Delta::Put(service) => {
                    advance(&mut self.positions.services, service.revision());
                    self.put_service(service);
                }
                Delta::Remove { key, revision } => {
                    advance(&mut self.positions.services, revision);
                    self.services.remove(&key);
                    self.dirty.services.insert(key);
                }
                Delta::Progress(revision) => advance(&mut self.positions.services, revision),
            }
        }
    }

    fn put_service(&mut self, mut service: Service) {
        share(&mut self.shared_names, &mut service.metadata.namespace);
        self.dirty.services.insert(service.key());
        self.services.insert(service.key(), service);
    }

    fn replace_services(&mut self, items: Vec<Service>) {
        let mut gone: HashSet<Key> = self.services.keys().cloned().collect();
        for service in items {
            let key = service.key();
            gone.remove(&key);
            if self.services.get(&key) != Some(&service) {
                self.put_service(service);
            }
        }
        for key in gone {
            self.services.remove(&key);
            self.dirty.services.insert(key);
        }
        self.forget_unused_names();
    }

    fn forget_unused_names(&mut self) {
        self.shared_names.retain(|name| Arc::strong_count(name) > 1);
    }

    pub(crate) fn apply_slices(&mut self, deltas: Vec<Delta<EndpointSlice>>) {
        for delta in deltas {
            match delta {
                Delta::Replace { items, revision } => {
                    self.replace_slices(items);
                    self.positions.slices = Some(revision);
                }
                Delta::Put(slice) => {
                    advance(&mut self.positions.slices, slice.revision());
                    self.put_slice(slice);
                }
                Delta::Remove { key, revision } => {
                    advance(&mut self.positions.slices, revision);
                    self.remove_slice(&key);
                }
                Delta::Progress(revision) => advance(&mut self.positions.slices, revision),
            }
        }
    }

    fn put_slice(&mut self, mut slice: EndpointSlice) {
        share(&mut self.shared_names, &mut slice.metadata.namespace);
        for node in slice
            .endpoints
            .iter_mut()
            .filter_map(|endpoint| endpoint.node_name.as_mut())
        {
            share(&mut self.shared_names, node);
        }
        let key = slice.key();
        let owner = slice.service();
        // A slice may change hands by its label: the old owner loses it.
        if self.slice_owners.get(&key) != owner.as_ref() {
            self.remove_slice(&key);
        }
        let Some(owner) = owner else { return };
        self.dirty.services.insert(owner.clone());
        self.slice_owners.insert(key.clone(), owner.clone());
        let slices = self.slices.entry(owner).or_default();
        match find(slices, &key.name) {
            Ok(place) => slices[place] = slice,
            Err(place) => {
                slices.reserve_exact(1);
                slices.insert(place, slice);
            }
        }
    }

    fn remove_slice(&mut self, key: &Key) {
        let Some(owner) = self.slice_owners.remove(key) else {
            return;
        };
        if let Some(slices) = self.slices.get_mut(&owner) {
            if let Ok(place) = find(slices, &key.name) {
                slices.remove(place);
            }
            if slices.is_empty() {
                self.slices.remove(&owner);
            }
        }
        self.dirty.services.insert(owner);
    }

    fn replace_slices(&mut self, items: Vec<EndpointSlice>) {
        let mut gone: HashSet<Key> = self.slice_owners.keys().cloned().collect();
        for slice in items {
            let key = slice.key();
            gone.remove(&key);
            if self.slice(&key) != Some(&slice) {
                self.put_slice(slice);
            }
        }
        for key in gone {
            self.remove_slice(&key);
        }
        self.forget_unused_names();
    }

    fn slice(&self, key: &Key) -> Option<&EndpointSlice> {
        let slices = self.slices.get(self.slice_owners.get(key)?)?;
        find(slices, &key.name).ok().map(|place| &slices[place])
    }

    pub(crate) fn apply_namespaces(&mut self, deltas: Vec<Delta<api::core::Namespace>>) {
        for delta in deltas {
            match delta {
                Delta::Replace { items, revision } => {
                    let now: BTreeSet<Box<str>> = items
                        .into_iter()
                        .map(|namespace| namespace.metadata.name)
                        .collect();
                    let changed = now.symmetric_difference(&self.namespaces).cloned();
                    self.dirty.namespaces.extend(changed);
                    self.namespaces = now;
                    self.positions.namespaces = Some(revision);
                }
                Delta::Put(namespace) => {
                    let name = namespace.metadata.name;
                    if self.namespaces.insert(name.clone()) {
                        self.dirty.namespaces.insert(name);
                    }
                }
                Delta::Remove { key, .. } => {
                    if self.namespaces.remove(&*key.name) {
                        self.dirty.namespaces.insert((*key.name).into());
                    }
                }
                Delta::Progress(_) => {}
            }
        }
    }
}

impl View {
    /// The ranges that ServiceCIDRs name.
    pub(crate) fn service_networks(&self) -> BTreeSet<IpNet> {
        self.service_cidrs.values().flatten().copied().collect()
    }

    pub(crate) fn apply_service_cidrs(&mut self, deltas: Vec<Delta<ServiceCidr>>) {
        let before = self.service_networks();
        for delta in deltas {
            match delta {
                Delta::Replace { items, revision } => {
                    self.service_cidrs = items.into_iter().map(ranges).collect();
                    self.positions.service_cidrs = Some(revision);
                }
                Delta::Put(cidr) => self.service_cidrs.extend([ranges(cidr)]),
                Delta::Remove { key, .. } => _ = self.service_cidrs.remove(&*key.name),
                Delta::Progress(_) => {}
            }
        }
        self.dirty.service_networks |= self.service_networks() != before;
    }
}

fn ranges(cidr: ServiceCidr) -> (Box<str>, Vec<IpNet>) {
    let ranges = cidr.spec.cidrs.iter();
    let ranges = ranges.filter_map(|range| range.parse().ok());
    (cidr.metadata.name, ranges.collect())
}

/// Where a slice is among those of its Service, or belongs.
fn find(slices: &[EndpointSlice], name: &str) -> Result<usize, usize> {
    slices.binary_search_by(|slice| (*slice.metadata.name).cmp(name))
}

/// Replaces a name by the one that others use already.
fn share(names: &mut HashSet<Arc<str>>, name: &mut Arc<str>) {
    match names.get(name) {
        Some(shared) => Arc::clone_from(name, shared),
        None => _ = names.insert(Arc::clone(name)),
    }
}

fn advance(position: &mut Option<Revision>, to: Revision) {
    *position = (*position).max(Some(to));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, revision: u64) -> Service {
        let mut service = Service::default();
        service.metadata.namespace = "default".into();
        service.metadata.name = name.into();
        service.metadata.resource_version = Revision(revision);
        service
    }

    fn slice(name: &str, owner: &str, revision: u64) -> EndpointSlice {
        let mut slice = EndpointSlice::default();
        slice.metadata.namespace = "default".into();
        slice.metadata.name = name.into();
        slice.metadata.resource_version = Revision(revision);
        slice
            .metadata
            .labels
            .insert("kubernetes.io/service-name".into(), owner.into());
        slice
    }

    fn dirty(view: &mut View) -> Vec<String> {
        let mut names: Vec<_> = view
            .take_dirty()
            .services
            .into_iter()
            .map(|key| key.name.to_string())
            .collect();
        names.sort();
        names
    }

    fn replace<T>(items: Vec<T>, revision: u64) -> Vec<Delta<T>> {
        vec![Delta::Replace {
            items,
            revision: Revision(revision),
        }]
    }

    #[test]
    fn only_what_differs_from_the_fresh_list_is_dirty() {
        let mut view = View::default();
        view.apply_services(replace(
            vec![service("a", 1), service("b", 2), service("c", 3)],
            5,
        ));
        assert_eq!(dirty(&mut view), ["a", "b", "c"]);
        view.apply_services(replace(vec![service("a", 1), service("b", 7)], 9));
        assert_eq!(dirty(&mut view), ["b", "c"]);
        assert!(view.service(&Key::new("default", "c")).is_none());
    }

    #[test]
    fn a_slice_that_changes_hands_makes_both_services_dirty() {
        let mut view = View::default();
        view.apply_slices(replace(vec![slice("x", "a", 1)], 5));
        dirty(&mut view);
        view.apply_slices(vec![Delta::Put(slice("x", "b", 6))]);
        assert_eq!(dirty(&mut view), ["a", "b"]);
        assert_eq!(view.slices(&Key::new("default", "a")).count(), 0);
        assert_eq!(view.slices(&Key::new("default", "b")).count(), 1);
        view.apply_slices(vec![Delta::Remove {
            key: Key::new("default", "x"),
            revision: Revision(8),
        }]);
        assert_eq!(dirty(&mut view), ["b"]);
    }

    #[test]
    fn slices_of_a_service_are_ordered_by_name_and_replaced_in_place() {
        let mut view = View::default();
        view.apply_slices(replace(vec![slice("y", "a", 1), slice("x", "a", 2)], 5));
        view.apply_slices(vec![
            Delta::Put(slice("z", "a", 6)),
            Delta::Put(slice("y", "a", 7)),
        ]);
        let owner = Key::new("default", "a");
        let slices = |view: &View| -> Vec<(String, u64)> {
            let slices = view.slices(&owner);
            slices
                .map(|slice| (slice.metadata.name.to_string(), slice.revision().0))
                .collect()
        };
        let wanted = [("x".into(), 2), ("y".into(), 7), ("z".into(), 6)];
        assert_eq!(slices(&view), wanted);
        let fresh = vec![slice("z", "a", 6)];
        view.apply_slices(replace(fresh, 9));
        assert_eq!(slices(&view), wanted[2..]);
    }

    #[test]
    fn names_are_kept_once_and_no_longer_than_they_are_used() {
        let mut view = View::default();
        let mut on_a_node = slice("x", "a", 1);
        on_a_node.endpoints =
            serde_json::from_str(r#"[{"nodeName": "n1"}, {"nodeName": "n1"}]"#).expect("endpoints");
        view.apply_slices(replace(vec![on_a_node], 5));
        let shared: Vec<&str> = view.shared_names.iter().map(|name| &**name).collect();
        assert_eq!(shared.len(), 2, "{shared:?}");
        let node = view.shared_names.get("n1").expect("the node's name");
        assert_eq!(Arc::strong_count(node), 3, "two endpoints and the set");
        view.apply_slices(replace(vec![], 9));
        assert!(view.shared_names.is_empty());
    }

    #[test]
    fn the_revision_is_that_of_the_collection_that_lags() {
        let mut view = View::default();
        view.apply_services(replace(vec![], 5));
        assert_eq!(view.position(), None);
        view.apply_slices(replace(vec![], 6));
        assert_eq!(view.position().map(Position::both), Some(Revision(5)));
        assert!(!view.is_synced(), "namespaces are missing");
        view.apply_namespaces(replace(vec![], 6));
        assert!(!view.is_synced(), "the ranges of Services are missing");
        view.apply_service_cidrs(replace(vec![], 6));
        assert!(view.is_synced());
        view.apply_services(vec![Delta::Progress(Revision(9))]);
        view.apply_slices(vec![Delta::Put(slice("x", "a", 8))]);
        assert_eq!(view.position().map(Position::both), Some(Revision(8)));
    }

    #[test]
    fn ranges_of_services_come_and_go_with_their_objects() {
        let mut view = View::default();
        let cidr = |name: &str, ranges: &[&str]| ServiceCidr {
            metadata: api::meta::ObjectMeta {
                name: name.into(),
                ..Default::default()
            },
            spec: api::networking::ServiceCidrSpec {
                cidrs: ranges.iter().map(|range| (*range).into()).collect(),
            },
        };
        let ranges = |view: &mut View| -> (Vec<String>, bool) {
            let ranges = view.service_networks();
            let ranges = ranges.iter().map(ToString::to_string).collect();
            (ranges, view.take_dirty().service_networks)
        };
        let first = cidr("kubernetes", &["10.96.0.0/16"]);
        view.apply_service_cidrs(replace(vec![first.clone()], 5));
        assert_eq!(ranges(&mut view), (vec!["10.96.0.0/16".to_owned()], true));
        view.apply_service_cidrs(vec![Delta::Put(cidr(
            "more",
            &["10.100.0.0/24", "fd00:100::/112"],
        ))]);
        let all = ["10.96.0.0/16", "10.100.0.0/24", "fd00:100::/112"].map(str::to_owned);
        assert_eq!(ranges(&mut view), (all.to_vec(), true));
        view.apply_service_cidrs(vec![Delta::Put(first.clone())]);
        assert_eq!(ranges(&mut view), (all.to_vec(), false), "nothing new");
        view.apply_service_cidrs(vec![Delta::Remove {
            key: Key::new("", "more"),
            revision: Revision(9),
        }]);
        assert_eq!(ranges(&mut view), (all[..1].to_vec(), true));
    }
}
