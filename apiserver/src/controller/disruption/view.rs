//! What is known of budgets and Pods, and which budgets a change concerns.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use api::{
    core::Pod,
    meta::{ObjectMeta, OwnerReference, StringMap},
    selector::LabelSelector,
};
use serde::Deserialize;
use serde_json::Value;

use super::status::{self, Selected};
use crate::{
    controller::{watch::Make, world::Key},
    registry::{Object, kinds::template::read_selector, meta},
};

/// What the watches say.
pub(super) enum Seen {
    /// All that there is of a kind.
    List(Of, Vec<Object>),
    /// One object, or (true) that it is gone.
    Change(Of, Object, bool),
}

/// Of which kind.
#[derive(Clone, Copy)]
pub(super) enum Of {
    Budgets,
    Pods,
    Workloads,
}

pub(super) const BUDGETS_SEEN: Make<Seen> = Make {
    list: |_, objects| Seen::List(Of::Budgets, objects),
    change: |object, gone| Seen::Change(Of::Budgets, object, gone),
};
pub(super) const PODS_SEEN: Make<Seen> = Make {
    list: |_, objects| Seen::List(Of::Pods, objects),
    change: |object, gone| Seen::Change(Of::Pods, object, gone),
};
pub(super) const WORKLOADS_SEEN: Make<Seen> = Make {
    list: |_, objects| Seen::List(Of::Workloads, objects),
    change: |object, gone| Seen::Change(Of::Workloads, object, gone),
};

/// A budget.
#[derive(Debug)]
pub(super) struct Budget {
    /// `None` selects nothing, as in policy/v1.
    selector: Option<LabelSelector>,
    /// Whether it is reckoned from the size the Pods' owners should have.
    pub(super) asks_owners: bool,
}

/// What counts of a Pod.
#[derive(Debug, PartialEq)]
struct PodView {
    labels: StringMap,
    ready: bool,
    deleted: bool,
    controller: Option<OwnerReference>,
}

/// The metadata of any object.
#[derive(Deserialize)]
pub(super) struct Owned {
    pub(super) metadata: ObjectMeta,
}

/// Everything known, by namespace and name.
#[derive(Debug, Default)]
pub(super) struct View {
    budgets: BTreeMap<Key, Budget>,
    pods: BTreeMap<Key, PodView>,
    dirty: BTreeSet<Key>,
}

/// The entries of one namespace.
fn of_namespace<'a, T>(
    map: &'a BTreeMap<Key, T>,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a Key, &'a T)> {
    let start = (namespace.into(), Box::default());
    map.range((Bound::Included(start), Bound::Unbounded))
        .take_while(move |((of, _), _)| &**of == namespace)
}

impl Budget {
    fn selects(&self, pod: &PodView) -> bool {
        let selector = self.selector.as_ref();
        selector.is_some_and(|selector| selector.matches(&pod.labels))
    }
}

impl View {
    pub(super) fn absorb(&mut self, step: Seen) {
        match step {
            Seen::List(of, objects) => {
                let there: BTreeSet<Key> =
                    objects.iter().map(|object| key(&object.value())).collect();
                self.keep_only(of, &there);
                for object in objects {
                    self.put(of, &object);
                }
            }
            Seen::Change(of, object, false) => self.put(of, &object),
            Seen::Change(of, object, true) => self.remove(of, &key(&object.value())),
        }
    }

    /// Forgets what a new list does not name.
    fn keep_only(&mut self, of: Of, there: &BTreeSet<Key>) {
        let known: Vec<Key> = match of {
            Of::Budgets => self.budgets.keys().cloned().collect(),
            Of::Pods => self.pods.keys().cloned().collect(),
            Of::Workloads => return,
        };
        for key in known.iter().filter(|key| !there.contains(*key)) {
            self.remove(of, key);
        }
    }

    fn put(&mut self, of: Of, object: &Object) {
        match of {
            Of::Budgets => {
                let value = object.value();
                let budget = Budget {
                    selector: read_selector(&value["spec"]["selector"]),
                    asks_owners: status::asks_owners(&value["spec"]),
                };
                self.dirty.insert(key(&value));
                self.budgets.insert(key(&value), budget);
            }
            Of::Pods => match object.decode::<Pod>() {
                Ok(pod) => self.put_pod(&pod),
                Err(error) => tracing::error!(%error, "a Pod cannot be read"),
            },
            Of::Workloads => self.resized(&key(&object.value()).0),
        }
    }

    fn put_pod(&mut self, pod: &Pod) {
        let key = (pod.metadata.namespace.clone(), pod.metadata.name.clone());
        let now = PodView {
            labels: pod.metadata.labels.clone(),
            ready: pod.is_ready(),
            deleted: pod.metadata.is_terminating(),
            controller: pod.metadata.controller().cloned(),
        };
        if self.pods.get(&key) == Some(&now) {
            return;
        }
        self.mark_those_of(&key.0, &now);
        if let Some(before) = self.pods.insert(key.clone(), now) {
            self.mark_those_of(&key.0, &before);
        }
    }

    fn remove(&mut self, of: Of, key: &Key) {
        match of {
            Of::Budgets => drop(self.budgets.remove(key)),
            Of::Pods => {
                if let Some(before) = self.pods.remove(key) {
                    self.mark_those_of(&key.0, &before);
                }
            }
            Of::Workloads => self.resized(&key.0),
        }
    }

    /// A change of this Pod concerns the budgets that select it.
    fn mark_those_of(&mut self, namespace: &str, pod: &PodView) {
        let budgets = of_namespace(&self.budgets, namespace);
        let concerned = budgets.filter(|(_, budget)| budget.selects(pod));
        self.dirty.extend(concerned.map(|(key, _)| key.clone()));
    }

    /// The size of a workload may have changed.
    fn resized(&mut self, namespace: &str) {
        let budgets = of_namespace(&self.budgets, namespace);
        let concerned = budgets.filter(|(_, budget)| budget.asks_owners);
        self.dirty.extend(concerned.map(|(key, _)| key.clone()));
    }

    /// The budgets that something concerned since the last call.
    pub(super) fn take_dirty(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.dirty)
    }

    pub(super) fn budget(&self, key: &Key) -> Option<&Budget> {
        self.budgets.get(key)
    }

    fn pods_of<'a>(&'a self, key: &'a Key) -> impl Iterator<Item = (&'a Key, &'a PodView)> {
        let budget = self.budgets.get(key);
        of_namespace(&self.pods, &key.0)
            .filter(move |(_, pod)| budget.is_some_and(|budget| budget.selects(pod)))
    }

    /// The Pods that a budget selects.
    pub(super) fn selected<'a>(&'a self, key: &'a Key) -> Vec<Selected<'a>> {
        let selected = self.pods_of(key).map(|((_, name), pod)| Selected {
            name,
            ready: pod.ready,
            deleted: pod.deleted,
        });
        selected.collect()
    }

    /// The controllers of those Pods, by uid. Pods without one are not counted by size.
    pub(super) fn owners<'a>(&'a self, key: &'a Key) -> BTreeMap<&'a str, &'a OwnerReference> {
        let owners = self
            .pods_of(key)
            .filter_map(|(_, pod)| pod.controller.as_ref());
        owners.map(|owner| (&*owner.uid, owner)).collect()
    }
}

fn key(object: &Value) -> Key {
    (
        meta::text(object, "namespace").into(),
        meta::text(object, "name").into(),
    )
}
