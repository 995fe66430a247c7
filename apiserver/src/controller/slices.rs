//! From the endpoints that should be in EndpointSlices to the fewest writes that make it so.

use std::collections::{BTreeMap, BTreeSet};

use api::{
    discovery::{Endpoint, EndpointPort, EndpointSlice},
    meta::{ObjectMeta, OwnerReference, StringMap, Time},
    names::random_suffix,
};

use super::{pods::Family, world::SERVICE_NAME, write::Action};
use crate::registry::kinds::ENDPOINT_SLICES;

pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Deletes the slices that one controller wrote.
pub(super) fn delete_all(managed_by: &str, existing: &[&EndpointSlice]) -> Vec<Action> {
    let ours = existing
        .iter()
        .filter(|slice| is_managed(slice, managed_by));
    ours.map(|slice| Action::delete(&ENDPOINT_SLICES, *slice))
        .collect()
}

fn is_managed(slice: &EndpointSlice, by: &str) -> bool {
    slice.metadata.labels.get(MANAGED_BY).map(|name| &**name) == Some(by)
}

/// Slices of one family and one list of ports share endpoints.
pub(super) type Group = (Family, Vec<EndpointPort>);

/// Which annotations slices get.
#[derive(Clone, Debug)]
pub(super) enum Annotations {
    /// What stands there stays, but for the time of the change: that is set, or removed.
    Kept {
        /// The time of the change.
        trigger: Option<Time>,
    },
    /// These and no others.
    Exactly(StringMap),
}

impl Default for Annotations {
    fn default() -> Self {
        Self::Kept { trigger: None }
    }
}

/// Says when the change happened that led to this write; without a time, says nothing.
pub(super) fn set_trigger_time(metadata: &mut ObjectMeta, time: Option<Time>) {
    metadata.annotations.remove(TRIGGER_TIME);
    let time = time.map(|time| (TRIGGER_TIME.into(), time.to_string().into()));
    metadata.annotations.extend(time);
}

/// What the slices of one owner should hold.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// The object they belong to and go with.
    pub(super) owner: OwnerReference,
    pub(super) namespace: Box<str>,
    /// The Service's name.
    pub(super) service: Box<str>,
    /// Which controller writes them.
    pub(super) managed_by: &'static str,
    /// Beside the two that every slice has.
    pub(super) labels: StringMap,
    pub(super) annotations: Annotations,
    /// False when the owner is going: what is made now might stay behind.
    pub(super) may_create: bool,
    /// The endpoints, by the slices that can hold them together.
    pub(super) groups: Vec<(Group, Vec<Endpoint>)>,
    /// Families that keep an empty slice when they have no endpoint.
    pub(super) placeholders: Vec<Family>,
    /// The most endpoints of one slice.
    pub(super) max_endpoints: usize,
}

/// The writes that turn the slices there are into the wanted ones.
pub(super) fn plan(wanted: &Wanted, existing: &[&EndpointSlice]) -> Vec<Action> {
    let ours = |slice: &&&EndpointSlice| is_managed(slice, wanted.managed_by);
    // Slices of an earlier owner of the same name are not adopted.
    let (own, strangers): (Vec<&EndpointSlice>, Vec<&EndpointSlice>) = existing
        .iter()
        .filter(ours)
        .copied()
        .partition(|slice| is_owned(slice, &wanted.owner));
    let mut actions: Vec<Action> = strangers
        .into_iter()
        .map(|slice| Action::delete(&ENDPOINT_SLICES, slice))
        .collect();

    let mut unused: BTreeMap<&str, &EndpointSlice> = own
        .iter()
        .map(|slice| (&*slice.metadata.name, *slice))
        .collect();
    let mut groups = wanted.groups.clone();
    let families: BTreeSet<Family> = groups.iter().map(|((family, _), _)| *family).collect();
    let missing = wanted
        .placeholders
        .iter()
        .filter(|family| !families.contains(family));
    groups.extend(missing.map(|family| ((*family, Vec::new()), Vec::new())));
    let mut updates: Vec<(&EndpointSlice, Group, Vec<Endpoint>)> = Vec::new();
    let mut creates: Vec<(Group, Vec<Endpoint>)> = Vec::new();
    for (group, endpoints) in groups {
        let of_group: Vec<&EndpointSlice> = own
            .iter()
            .copied()
            .filter(|slice| is_of(slice, &group))
            .collect();
        for (slice, endpoints) in pack(&of_group, endpoints, wanted.max_endpoints) {
            match slice {
                Some(slice) => {
                    unused.remove(&*slice.metadata.name);
                    updates.push((slice, group.clone(), endpoints));
                }
                None => creates.push((group.clone(), endpoints)),
            }
        }
    }
    // A slice that would go takes what a new one would hold: watchers see one change, and never none or twice as many
    // endpoints.
    creates.retain_mut(|(group, endpoints)| {
        let family = group.0.name();
        let mut of_family = unused
            .values()
            .filter(|slice| *slice.address_type == *family);
        let Some(slice) = of_family.next().copied() else {
            return true;
        };
        unused.remove(&*slice.metadata.name);
        updates.push((slice, group.clone(), std::mem::take(endpoints)));
        false
    });
    for (slice, group, endpoints) in updates {
        let mut changed = slice.clone();
        fill(&mut changed, wanted, &group, endpoints);
        if changed != *slice {
            stamp(&mut changed, wanted);
            actions.push(Action::update(&ENDPOINT_SLICES, &changed));
        }
    }
    if wanted.may_create {
        for (group, endpoints) in creates {
            let slice = new_slice(wanted, &group, endpoints);
            actions.push(Action::create(&ENDPOINT_SLICES, &slice));
        }
    }
    actions.extend(
        unused
            .into_values()
            .map(|slice| Action::delete(&ENDPOINT_SLICES, slice)),
    );
    actions
}

/// Distributes endpoints over slices: each stays where it is, new ones go where something changes anyway, then where there is
/// room, then into new slices. An empty group keeps (or gets) one empty slice.
fn pack<'a>(
    slices: &[&'a EndpointSlice],
    endpoints: Vec<Endpoint>,
    max: usize,
) -> Vec<(Option<&'a EndpointSlice>, Vec<Endpoint>)> {
    if endpoints.is_empty() {
        return vec![(slices.first().copied(), Vec::new())];
    }
    let mut rest: BTreeMap<Box<str>, Endpoint> = BTreeMap::new();
    for endpoint in endpoints {
        rest.insert(identity(&endpoint), endpoint);
    }
    let mut kept: Vec<(&EndpointSlice, Vec<Endpoint>, bool)> = Vec::new();
    for slice in slices {
        let stay: Vec<Endpoint> = slice
            .endpoints
            .iter()
            .filter_map(|endpoint| rest.remove(&identity(endpoint)))
            .collect();
        let changes = stay != slice.endpoints;
        kept.push((slice, stay, changes));
    }
    // Fullest first among those that are written anyway.
    kept.sort_by_key(|(_, endpoints, changes)| (!changes, std::cmp::Reverse(endpoints.len())));
    let mut rest = rest.into_values();
    for (_, endpoints, changes) in &mut kept {
        let room = max.saturating_sub(endpoints.len());
        let fits_whole = *changes || rest.len() <= room;
        if fits_whole && rest.len() > 0 {
            endpoints.extend(rest.by_ref().take(room));
        }
    }
    let mut packed: Vec<_> = kept
        .into_iter()
        .filter(|(_, endpoints, _)| !endpoints.is_empty())
        .map(|(slice, endpoints, _)| (Some(slice), endpoints))
        .collect();
    let mut rest: Vec<Endpoint> = rest.collect();
    while !rest.is_empty() {
        let tail = rest.split_off(rest.len().min(max));
        packed.push((None, std::mem::replace(&mut rest, tail)));
    }
    packed
}

/// What makes two endpoints the same one: the address, and the Pod behind it.
fn identity(endpoint: &Endpoint) -> Box<str> {
    let address = endpoint.addresses.first().map_or("", |address| address);
    let uid = endpoint
        .target_ref
        .as_ref()
        .map_or("", |target| &target.uid);
    format!("{address} {uid}").into()
}

fn is_owned(slice: &EndpointSlice, owner: &OwnerReference) -> bool {
    slice
        .metadata
        .owner_references
        .iter()
        .any(|reference| reference.uid == owner.uid)
}

fn is_of(slice: &EndpointSlice, (family, ports): &Group) -> bool {
    *slice.address_type == *family.name() && slice.ports == *ports
}

fn fill(slice: &mut EndpointSlice, wanted: &Wanted, group: &Group, endpoints: Vec<Endpoint>) {
    slice.endpoints = endpoints;
    slice.ports.clone_from(&group.1);
    slice.metadata.labels = wanted.labels.clone();
    slice
        .metadata
        .labels
        .insert(SERVICE_NAME.into(), wanted.service.clone());
    slice
        .metadata
        .labels
        .insert(MANAGED_BY.into(), wanted.managed_by.into());
    if let Annotations::Exactly(annotations) = &wanted.annotations {
        slice.metadata.annotations.clone_from(annotations);
    }
}

/// What only a slice that is written anyway gets.
fn stamp(slice: &mut EndpointSlice, wanted: &Wanted) {
    if let Annotations::Kept { trigger } = wanted.annotations {
        set_trigger_time(&mut slice.metadata, trigger);
    }
}

fn new_slice(wanted: &Wanted, group: &Group, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let mut slice = EndpointSlice {
        address_type: group.0.name().into(),
        metadata: ObjectMeta {
            // A generated name; made here so that the write can be tried again.
            name: format!("{}-{}", wanted.service, random_suffix(5, &mut rand::rng())).into(),
            namespace: wanted.namespace.clone(),
            owner_references: vec![wanted.owner.clone()],
            ..ObjectMeta::default()
        },
        ..EndpointSlice::default()
    };
    fill(&mut slice, wanted, group, endpoints);
    stamp(&mut slice, wanted);
    slice
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(number: usize) -> Endpoint {
        Endpoint {
            addresses: vec![format!("10.0.{}.{}", number / 256, number % 256).into()],
            ..Endpoint::default()
        }
    }

    fn wanted(count: usize) -> Wanted {
        let group = (
            Family::V4,
            vec![EndpointPort {
                port: Some(80),
                ..EndpointPort::default()
            }],
        );
        Wanted {
            owner: OwnerReference {
                uid: "u".into(),
                ..OwnerReference::default()
            },
            service: "s".into(),
            managed_by: "test",
            groups: vec![(group, (0..count).map(endpoint).collect())],
            may_create: true,
            placeholders: vec![Family::V4],
            max_endpoints: 100,
            ..Wanted::default()
        }
    }

    /// Carries the actions out on a list of slices.
    fn apply(slices: &mut Vec<EndpointSlice>, actions: Vec<Action>) -> usize {
        let count = actions.len();
        for action in actions {
            match action {
                Action::Create(_, value) => slices.push(serde_json::from_value(*value).unwrap()),
                Action::Update(_, value) => {
                    let new: EndpointSlice = serde_json::from_value(*value).unwrap();
                    let old = slices
                        .iter_mut()
                        .find(|slice| slice.metadata.name == new.metadata.name)
                        .unwrap();
                    *old = new;
                }
                Action::Delete(_, (_, name), _) => {
                    slices.retain(|slice| slice.metadata.name != name)
                }
                other => panic!("{other:?}"),
            }
        }
        count
    }

    fn reconcile(slices: &mut Vec<EndpointSlice>, wanted: &Wanted) -> usize {
        let actions = plan(wanted, &slices.iter().collect::<Vec<_>>());
        let count = apply(slices, actions);
        let again = plan(wanted, &slices.iter().collect::<Vec<_>>());
        assert_eq!(again, [], "a second look changes nothing");
        count
    }

    fn sizes(slices: &[EndpointSlice]) -> Vec<usize> {
        let mut sizes: Vec<_> = slices.iter().map(|slice| slice.endpoints.len()).collect();
        sizes.sort_unstable();
        sizes
    }

    #[test]
    fn endpoints_are_packed_and_little_is_written() {
        let mut slices = Vec::new();
        reconcile(&mut slices, &wanted(250));
        assert_eq!(sizes(&slices), [50, 100, 100]);
        assert_eq!(reconcile(&mut slices, &wanted(251)), 1);
        assert_eq!(sizes(&slices), [51, 100, 100]);
        assert_eq!(reconcile(&mut slices, &wanted(250)), 1);
    }

    #[test]
    fn a_service_without_endpoints_keeps_one_empty_slice() {
        let mut slices = Vec::new();
        reconcile(&mut slices, &wanted(0));
        assert_eq!(sizes(&slices), [0]);
        reconcile(&mut slices, &wanted(3));
        assert_eq!(sizes(&slices), [3]);
        reconcile(
            &mut slices,
            &Wanted {
                groups: Vec::new(),
                ..wanted(0)
            },
        );
        assert_eq!(sizes(&slices), [0]);
        assert!(slices[0].ports.is_empty());
    }

    #[test]
    fn slices_of_an_earlier_owner_and_of_others_are_told_apart() {
        let mut slices = Vec::new();
        reconcile(&mut slices, &wanted(1));
        slices[0].metadata.owner_references[0].uid = "before".into();
        let mut foreign = slices[0].clone();
        foreign.metadata.name = "by-hand".into();
        foreign
            .metadata
            .labels
            .insert(MANAGED_BY.into(), "me".into());
        slices.push(foreign);
        reconcile(&mut slices, &wanted(1));
        let owners: Vec<_> = slices
            .iter()
            .map(|slice| &*slice.metadata.owner_references[0].uid)
            .collect();
        assert_eq!(
            owners,
            ["before", "u"],
            "the foreign slice stays, the old one is replaced"
        );
    }
}
