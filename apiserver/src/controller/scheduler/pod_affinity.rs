//! Which Pods a Pod wants around itself, which not, and which do not want it around.
//! Source: kubernetes/kubernetes pkg/scheduler/framework/plugins/interpodaffinity.

use std::collections::BTreeSet;

use api::{
    core::{Pod, PodAffinity, PodAffinityTerm},
    meta,
    selector::LabelSelector,
};

use super::{
    Unfit,
    place::{Place, Places},
};
use crate::controller::world::World;

/// A label of nodes and a value of it: where something is.
type Topology = (Box<str>, Box<str>);

/// What holds for one Pod on all nodes.
pub(super) struct Neighbours<'a> {
    /// Where Pods are that do not want it.
    unwelcome: BTreeSet<Topology>,
    /// Where Pods are that it does not want.
    avoided: BTreeSet<Topology>,
    /// For each term of Pods it wants: the label, and its values where such Pods are. `None`: nobody is like that yet but
    /// the Pod itself, so that any value will do.
    wanted: Vec<(&'a str, Option<BTreeSet<Box<str>>>)>,
    /// Where it likes to be, and how much.
    liked: Vec<(Topology, i64)>,
}

fn terms(affinity: Option<&PodAffinity>) -> &[PodAffinityTerm] {
    affinity.map_or(&[], |affinity| {
        &affinity.required_during_scheduling_ignored_during_execution
    })
}

fn required_anti(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = pod.spec.affinity.as_deref();
    terms(affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref()))
}

impl<'a> Neighbours<'a> {
    pub(super) fn of(world: &World, places: &Places<'_>, pod: &'a Pod) -> Self {
        let affinity = pod.spec.affinity.as_deref();
        let with = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
        let without = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        let mut unwelcome = BTreeSet::new();
        for place in places.all() {
            for other in &place.pods {
                let terms = required_anti(other).iter();
                let terms = terms.filter(|term| selects(world, term, other, pod));
                unwelcome.extend(terms.filter_map(|term| at(place, &term.topology_key)));
            }
        }
        let avoided = terms(without).iter().flat_map(|term| {
            let values = whereabouts(world, places, term, pod);
            let key = term.topology_key.clone();
            values.into_iter().map(move |value| (key.clone(), value))
        });
        let found: Vec<_> = terms(with)
            .iter()
            .map(|term| {
                let values = whereabouts(world, places, term, pod);
                (&*term.topology_key, values)
            })
            .collect();
        let alone = found.iter().all(|(_, values)| values.is_empty())
            && terms(with)
                .iter()
                .all(|term| selects(world, term, pod, pod));
        let wanted = found
            .into_iter()
            .map(|(key, values)| (key, (!alone).then_some(values)));
        let mut liked = Vec::new();
        for (affinity, sign) in [(with, 1), (without, -1)] {
            let weighted = affinity.into_iter().flat_map(|affinity| {
                &affinity.preferred_during_scheduling_ignored_during_execution
            });
            for weighted in weighted {
                let term = &weighted.pod_affinity_term;
                let weight = sign * i64::from(weighted.weight);
                let values = whereabouts(world, places, term, pod).into_iter();
                liked.extend(values.map(|value| ((term.topology_key.clone(), value), weight)));
            }
        }
        Self {
            avoided: avoided.collect(),
            wanted: wanted.collect(),
            unwelcome,
            liked,
        }
    }

    /// Why the Pod cannot be there.
    pub(super) fn refuse(&self, place: &Place<'_>) -> Option<Unfit> {
        let is_in = |set: &BTreeSet<Topology>| {
            let mut topologies = set.iter();
            topologies.any(|(key, value)| place.label(key) == Some(value))
        };
        let mut wanted = self.wanted.iter();
        let has_all = wanted.all(|(key, values)| {
            let value = place.label(key);
            value.is_some_and(|value| values.as_ref().is_none_or(|values| values.contains(value)))
        });
        if !has_all {
            return Some(Unfit::PodAffinity);
        }
        if is_in(&self.avoided) {
            return Some(Unfit::PodAntiAffinity);
        }
        is_in(&self.unwelcome).then_some(Unfit::Unwelcome)
    }

    /// How much the Pod likes to be there.
    pub(super) fn liking(&self, place: &Place<'_>) -> i64 {
        let liked = self.liked.iter();
        let here = liked.filter(|((key, value), _)| place.label(key) == Some(value));
        here.map(|(_, weight)| weight).sum()
    }
}

fn at(place: &Place<'_>, key: &str) -> Option<Topology> {
    Some((key.into(), place.label(key)?.into()))
}

/// The values of the term's label where Pods of the term are.
fn whereabouts(
    world: &World,
    places: &Places<'_>,
    term: &PodAffinityTerm,
    pod: &Pod,
) -> BTreeSet<Box<str>> {
    let with = places.all().filter(|place| {
        let mut pods = place.pods.iter();
        pods.any(|other| selects(world, term, pod, other))
    });
    with.filter_map(|place| place.label(&term.topology_key).map(Box::from))
        .collect()
}

/// Whether a term of `pod` means `other`.
fn selects(world: &World, term: &PodAffinityTerm, pod: &Pod, other: &Pod) -> bool {
    let (own, labels) = (&pod.metadata.labels, &other.metadata.labels);
    let same = |key: &str| {
        own.get(key)
            .is_none_or(|value| labels.get(key) == Some(value))
    };
    let different = |key: &str| {
        own.get(key)
            .is_none_or(|value| labels.get(key) != Some(value))
    };
    matches(term.label_selector.as_ref(), labels)
        && term.match_label_keys.iter().all(|key| same(key))
        && term.mismatch_label_keys.iter().all(|key| different(key))
        && in_namespaces(
            world,
            term,
            &pod.metadata.namespace,
            &other.metadata.namespace,
        )
}

/// No selector selects nothing, an empty one everything.
pub(super) fn matches(selector: Option<&meta::LabelSelector>, labels: &meta::StringMap) -> bool {
    let selector = selector.and_then(|selector| LabelSelector::try_from(selector).ok());
    selector.is_some_and(|selector| selector.matches(labels))
}

fn in_namespaces(world: &World, term: &PodAffinityTerm, own: &str, other: &str) -> bool {
    if term.namespaces.is_empty() && term.namespace_selector.is_none() {
        return own == other;
    }
    let listed = term
        .namespaces
        .iter()
        .any(|namespace| **namespace == *other);
    listed || {
        let namespace = world.namespaces.get(&(Box::default(), other.into()));
        namespace.is_some_and(|namespace| {
            matches(term.namespace_selector.as_ref(), &namespace.metadata.labels)
        })
    }
}
