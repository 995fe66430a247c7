//! How evenly Pods are spread: by what they ask for themselves.
//! Source: kubernetes/kubernetes pkg/scheduler/framework/plugins/podtopologyspread.

use std::collections::BTreeMap;

use api::core::{Pod, TopologySpreadConstraint};

use super::{
    Unfit,
    node_affinity::is_asked_for,
    place::{Place, Places},
    pod_affinity::matches,
    untolerated,
};

/// What a Pod's constraints say of all nodes.
pub(super) struct Spread<'a> {
    hard: Vec<Domains<'a>>,
    soft: Vec<Domains<'a>>,
}

/// The Pods of one constraint, by the value of its label.
struct Domains<'a> {
    constraint: &'a TopologySpreadConstraint,
    counts: BTreeMap<Box<str>, usize>,
    /// Whether the Pod counts itself.
    own: bool,
}

impl<'a> Spread<'a> {
    pub(super) fn of(places: &Places<'_>, pod: &'a Pod) -> Self {
        let constraints = || pod.spec.topology_spread_constraints.iter();
        let hard = |constraint: &&TopologySpreadConstraint| {
            &*constraint.when_unsatisfiable == "DoNotSchedule"
        };
        let domains = |constraint| Domains::of(places, pod, constraint);
        Self {
            hard: constraints().filter(hard).map(domains).collect(),
            soft: constraints().filter(|it| !hard(it)).map(domains).collect(),
        }
    }

    /// Why the Pod cannot be there.
    pub(super) fn refuse(&self, place: &Place<'_>) -> Option<Unfit> {
        self.hard.iter().find_map(|domains| {
            let key = &domains.constraint.topology_key;
            let Some(value) = place.label(key) else {
                return Some(Unfit::SpreadLabel);
            };
            let most = usize::try_from(domains.constraint.max_skew).unwrap_or(0);
            let here = domains.count(value) + usize::from(domains.own);
            (here > domains.fewest() + most).then_some(Unfit::Spread)
        })
    }

    /// How many Pods are there already, by the constraints that are only wishes.
    pub(super) fn crowd(&self, place: &Place<'_>) -> usize {
        let crowds = self.soft.iter().map(|domains| {
            let value = place.label(&domains.constraint.topology_key);
            // Where the label is missing nothing can be even.
            value.map_or(usize::MAX / 1024, |value| domains.count(value))
        });
        crowds.sum()
    }
}

impl<'a> Domains<'a> {
    fn of(places: &Places<'_>, pod: &'a Pod, constraint: &'a TopologySpreadConstraint) -> Self {
        let honors = |policy: &Option<Box<str>>, default: bool| {
            policy
                .as_deref()
                .map_or(default, |policy| policy == "Honor")
        };
        let by_affinity = honors(&constraint.node_affinity_policy, true);
        let by_taints = honors(&constraint.node_taints_policy, false);
        let counts_for = |place: &&Place<'_>| {
            (!by_affinity || is_asked_for(&pod.spec, place.node))
                && (!by_taints || untolerated(place.node, pod).is_none())
        };
        let is_meant = |other: &Pod| {
            let (own, labels) = (&pod.metadata.labels, &other.metadata.labels);
            let mut keys = constraint.match_label_keys.iter();
            matches(constraint.label_selector.as_ref(), labels)
                && keys.all(|key| {
                    own.get(key)
                        .is_none_or(|value| labels.get(key) == Some(value))
                })
        };
        let mut counts: BTreeMap<Box<str>, usize> = BTreeMap::new();
        for place in places.all().filter(counts_for) {
            if let Some(value) = place.label(&constraint.topology_key) {
                let pods = place.pods.iter().filter(|other| {
                    other.metadata.namespace == pod.metadata.namespace
                        && other.metadata.deletion_timestamp.is_none()
                        && is_meant(other)
                });
                *counts.entry(value.into()).or_default() += pods.count();
            }
        }
        Self {
            own: is_meant(pod),
            constraint,
            counts,
        }
    }

    fn count(&self, value: &str) -> usize {
        self.counts.get(value).copied().unwrap_or(0)
    }

    /// How many Pods the emptiest domain has; none, while there are too few domains.
    fn fewest(&self) -> usize {
        let wanted = self.constraint.min_domains.unwrap_or(1);
        if self.counts.len() < usize::try_from(wanted).unwrap_or(1) {
            return 0;
        }
        self.counts.values().copied().min().unwrap_or(0)
    }
}
