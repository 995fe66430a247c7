//! What has to be looked at again.

use std::collections::{BTreeMap, BTreeSet};

use api::{
    core::{Pod, Service},
    meta::Time,
};

use super::Key;

/// What has to be looked at again.
#[derive(Debug, Default, PartialEq)]
pub(in crate::controller) struct Dirty {
    /// Services whose endpoints may be different, and since when.
    pub(in crate::controller) services: BTreeMap<Key, Trigger>,
    pub(in crate::controller) endpoints: BTreeSet<Key>,
    /// Services whose slices or Endpoints somebody wrote. When it was not us, this is set right, but not at once: two
    /// writers who disagree would keep each other busy.
    pub(in crate::controller) edited: BTreeSet<Key>,
    pub(in crate::controller) namespaces: BTreeSet<Box<str>>,
    pub(in crate::controller) nodes: BTreeSet<Box<str>>,
    /// Nodes that were ready and are not any more.
    pub(in crate::controller) fallen: BTreeSet<Box<str>>,
    /// Pods that wait for a node.
    pub(in crate::controller) unscheduled: BTreeSet<Key>,
    pub(in crate::controller) join_tokens: bool,
    /// Services with a load balancer, or what one left behind.
    pub(in crate::controller) balanced: BTreeSet<Key>,
    pub(in crate::controller) deployments: BTreeSet<Key>,
    pub(in crate::controller) replica_sets: BTreeSet<Key>,
    pub(in crate::controller) daemon_sets: BTreeSet<Key>,
}

impl Dirty {
    pub(in crate::controller) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// A Service is looked at again; when more than once before that happens, the times are kept together.
    pub(in crate::controller) fn service(&mut self, key: Key, trigger: Trigger) {
        self.services.entry(key).or_default().merge(trigger);
    }

    /// Adds what another one names.
    pub(in crate::controller) fn merge(&mut self, other: Self) {
        let Self {
            services,
            endpoints,
            edited,
            namespaces,
            nodes,
            fallen,
            unscheduled,
            join_tokens,
            balanced,
            deployments,
            replica_sets,
            daemon_sets,
        } = other;
        for (key, trigger) in services {
            self.service(key, trigger);
        }
        self.endpoints.extend(endpoints);
        self.edited.extend(edited);
        self.namespaces.extend(namespaces);
        self.nodes.extend(nodes);
        self.fallen.extend(fallen);
        self.unscheduled.extend(unscheduled);
        self.join_tokens |= join_tokens;
        self.balanced.extend(balanced);
        self.deployments.extend(deployments);
        self.replica_sets.extend(replica_sets);
        self.daemon_sets.extend(daemon_sets);
    }
}

/// The times of what changed the endpoints of a Service, from which the annotation
/// `endpoints.kubernetes.io/last-change-trigger-time` is made.
/// Source: kubernetes/kubernetes staging/src/k8s.io/endpointslice/util/trigger_time_tracker.go.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::controller) struct Trigger {
    /// When the Service was created, if it was not known before.
    created: Option<Time>,
    /// The earliest of the changes.
    changed: Option<Time>,
}

impl Trigger {
    /// A Service was seen.
    pub(super) fn of_service(before: Option<&Service>, after: Option<&Service>) -> Self {
        let created = after.and_then(|service| service.metadata.creation_timestamp);
        match before {
            None => Self {
                created,
                changed: None,
            },
            Some(before) => Self {
                created: None,
                changed: created.filter(|at| Some(*at) > before.metadata.creation_timestamp),
            },
        }
    }

    /// A Pod was seen, before and after as far as the Service selects it.
    pub(super) fn of_pod(before: Option<&Pod>, after: Option<&Pod>) -> Self {
        let turned = |pod: &Pod| {
            pod.status
                .condition("Ready")
                .and_then(|ready| ready.last_transition_time)
        };
        let before = before.and_then(turned);
        Self {
            created: None,
            changed: after.and_then(turned).filter(|at| Some(*at) > before),
        }
    }

    fn merge(&mut self, other: Self) {
        let earliest = |a: Option<Time>, b: Option<Time>| [a, b].into_iter().flatten().min();
        self.created = earliest(self.created, other.created);
        self.changed = earliest(self.changed, other.changed);
    }

    /// What the annotation says: a new Service's creation, else the earliest change. Nothing when nothing of note changed.
    pub(in crate::controller) fn time(self) -> Option<Time> {
        self.created.or(self.changed)
    }
}
