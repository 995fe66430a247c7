//! Keeps the authorizer's roles and bindings up to date, and the rules of aggregated ClusterRoles.
//! Source: kubernetes/kubernetes pkg/controller/clusterroleaggregation.
//!
//! Reading order: [`defaults`] (the roles every cluster has), [`reconcile`] (how they come to be), this page.

mod defaults;
mod reconcile;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::{
    rbac::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding},
    selector::LabelSelector,
};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub(super) use self::reconcile::ensure_defaults;
use super::{
    run::RETRY,
    watch::{Make, follow_objects},
};
use crate::{
    auth::rbac::{Binding, Index, Rbac, RoleKey},
    registry::{
        ApiError, Kind, Object, Part, Registry, WriteOptions,
        kinds::{CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES},
    },
    store::Revision,
};

/// One step of one of the watches.
enum Seen {
    /// Everything there is of the kind.
    List(&'static Kind, Vec<Object>),
    /// One object that is there, or (true) gone.
    Change(Object, bool),
}

type ListSeen = fn(Revision, Vec<Object>) -> Seen;

/// The kinds, and how a list of each is told.
const KINDS: [(&Kind, ListSeen); 4] = [
    (&CLUSTER_ROLES, |_, objects| {
        Seen::List(&CLUSTER_ROLES, objects)
    }),
    (&ROLES, |_, objects| Seen::List(&ROLES, objects)),
    (&CLUSTER_ROLE_BINDINGS, |_, objects| {
        Seen::List(&CLUSTER_ROLE_BINDINGS, objects)
    }),
    (&ROLE_BINDINGS, |_, objects| {
        Seen::List(&ROLE_BINDINGS, objects)
    }),
];

/// Fills `rbac`, and keeps it filled until `stop` is cancelled. When this returns, all that is stored counts.
pub async fn start(registry: &Registry, rbac: Arc<Rbac>, stop: CancellationToken) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let (sender, mut seen) = mpsc::channel(64);
    for (kind, list) in KINDS {
        let change = Seen::Change;
        let follow = follow_objects(
            registry.clone(),
            kind,
            None,
            None,
            sender.clone(),
            Make { list, change },
        );
        let stop = stop.clone();
        tasks.spawn(async move {
            stop.run_until_cancelled(follow).await;
        });
    }
    let mut keeper = Keeper {
        registry: registry.clone(),
        rbac,
        cluster_roles: BTreeMap::new(),
        dirty: false,
    };
    let mut lists = 0;
    while lists < KINDS.len() {
        let Some(step) = seen.recv().await else { break };
        lists += usize::from(matches!(step, Seen::List(..)));
        keeper.take(step);
    }
    keeper.aggregate().await;
    tasks.spawn(async move {
        stop.run_until_cancelled(keeper.run(seen)).await;
    });
    tasks
}

/// Who keeps them.
struct Keeper {
    registry: Registry,
    rbac: Arc<Rbac>,
    /// All ClusterRoles, to aggregate them.
    cluster_roles: BTreeMap<Box<str>, (Revision, ClusterRole)>,
    /// Whether a ClusterRole has changed since they were aggregated.
    dirty: bool,
}

impl Keeper {
    async fn run(mut self, mut seen: mpsc::Receiver<Seen>) {
        loop {
            let patience = if self.dirty { RETRY } else { Duration::MAX };
            match tokio::time::timeout(patience, seen.recv()).await {
                Ok(None) => return,
                Ok(Some(step)) => self.take(step),
                Err(_) => {}
            }
            while let Ok(step) = seen.try_recv() {
                self.take(step);
            }
            self.aggregate().await;
        }
    }

    fn take(&mut self, step: Seen) {
        match step {
            Seen::List(kind, objects) => {
                if *kind == CLUSTER_ROLES {
                    self.cluster_roles.clear();
                }
                for object in objects.iter().filter(|_| *kind == CLUSTER_ROLES) {
                    self.keep(object, false);
                }
                // At once: in between, nobody would have any right.
                self.rbac.update(|index| {
                    clear(index, kind);
                    for object in &objects {
                        put(index, object, false);
                    }
                });
            }
            Seen::Change(object, gone) => self.change(&object, gone),
        }
    }

    fn change(&mut self, object: &Object, gone: bool) {
        if *object.kind() == CLUSTER_ROLES && !self.keep(object, gone) {
            return;
        }
        self.rbac.update(|index| put(index, object, gone));
    }

    /// Takes in a ClusterRole; false when a newer version is known, since our own writes are known before they are seen.
    fn keep(&mut self, object: &Object, gone: bool) -> bool {
        let Some(role) = decode::<ClusterRole>(object) else {
            return false;
        };
        let name = role.metadata.name.clone();
        let known = self.cluster_roles.get(&name);
        if known.is_some_and(|(revision, _)| *revision >= object.revision()) {
            return false;
        }
        if gone {
            self.cluster_roles.remove(&name);
        } else {
            self.cluster_roles.insert(name, (object.revision(), role));
        }
        self.dirty = true;
        true
    }

    /// Writes the rules of the ClusterRoles that are made of others. What one of them gains, another may gain by it: the
    /// next round finds out.
    async fn aggregate(&mut self) {
        while std::mem::take(&mut self.dirty) {
            for (name, rules) in aggregated(&self.cluster_roles) {
                match self.write_rules(&name, &rules).await {
                    Ok(object) => self.change(&object, false),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => {
                        tracing::warn!(%error, role = %name, "a ClusterRole cannot be aggregated: trying again");
                        self.dirty = true;
                        return;
                    }
                }
            }
        }
    }

    async fn write_rules(&self, name: &str, rules: &[PolicyRule]) -> Result<Object, ApiError> {
        let rules = serde_json::to_value(rules).expect("rules are plain values");
        let options = WriteOptions::default();
        let registry = &self.registry;
        registry
            .modify(&CLUSTER_ROLES, None, name, Part::Main, &options, |role| {
                if role.get("aggregationRule").is_some() {
                    role["rules"] = rules.clone();
                }
                Ok(())
            })
            .await
    }
}

/// The rules of every aggregated role whose rules are not what they should be.
fn aggregated(
    roles: &BTreeMap<Box<str>, (Revision, ClusterRole)>,
) -> Vec<(Box<str>, Vec<PolicyRule>)> {
    let mut changes = Vec::new();
    for (name, (_, role)) in roles {
        let Some(aggregation) = &role.aggregation_rule else {
            continue;
        };
        let selectors = aggregation.cluster_role_selectors.iter();
        let selectors: Vec<LabelSelector> = selectors
            .filter_map(|selector| LabelSelector::try_from(selector).ok())
            .collect();
        let mut rules: Vec<PolicyRule> = Vec::new();
        for (other, (_, part)) in roles {
            let labels = &part.metadata.labels;
            let chosen = selectors.iter().any(|selector| selector.matches(labels));
            if !chosen || other == name {
                continue;
            }
            for rule in &part.rules {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
        if rules != role.rules {
            changes.push((name.clone(), rules));
        }
    }
    changes
}

fn clear(index: &mut Index, kind: &'static Kind) {
    if *kind == CLUSTER_ROLES || *kind == ROLES {
        index.clear_roles(kind.namespaced);
    } else {
        index.clear_bindings(kind.namespaced);
    }
}

/// Takes one role or binding into the index, or out of it.
fn put(index: &mut Index, object: &Object, gone: bool) {
    let kind = object.kind();
    if *kind == CLUSTER_ROLES {
        let Some(role) = decode::<ClusterRole>(object) else {
            return;
        };
        let key = RoleKey {
            namespace: "".into(),
            name: role.metadata.name,
        };
        index.set_role(key, (!gone).then_some(role.rules));
    } else if *kind == ROLES {
        let Some(role) = decode::<Role>(object) else {
            return;
        };
        let key = RoleKey {
            namespace: role.metadata.namespace,
            name: role.metadata.name,
        };
        index.set_role(key, (!gone).then_some(role.rules));
    } else if *kind == ROLE_BINDINGS {
        let Some(binding) = decode::<RoleBinding>(object) else {
            return;
        };
        let given = Binding {
            role: binding.role_ref,
            subjects: binding.subjects,
        };
        let metadata = &binding.metadata;
        index.set_binding(
            &metadata.namespace,
            &metadata.name,
            (!gone).then_some(given),
        );
    } else if let Some(binding) = decode::<ClusterRoleBinding>(object) {
        let given = Binding {
            role: binding.role_ref,
            subjects: binding.subjects,
        };
        index.set_binding("", &binding.metadata.name, (!gone).then_some(given));
    }
}

fn decode<T: DeserializeOwned>(object: &Object) -> Option<T> {
    let decoded = object.decode::<T>();
    decoded
        .inspect_err(|error| tracing::error!(%error, "a role or binding cannot be read"))
        .ok()
}
