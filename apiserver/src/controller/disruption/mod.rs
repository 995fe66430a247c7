//! PodDisruptionBudgets: how many of their Pods may be evicted now.
//!
//! One task follows budgets, Pods and the workloads whose size counts, and marks the budgets that a change concerns. What a
//! budget allows is reckoned from its stored version, in the write itself: an eviction that was counted in between is not
//! lost. Evictions charge the budget themselves ([`Registry::evict`]).
//! Source: kubernetes/kubernetes pkg/controller/disruption.
//!
//! Reading order: [`status`] (pure), [`view`] (what is known), then the loop here.

mod status;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use api::meta::OwnerReference;
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use tokio::{sync::mpsc, task::JoinSet};

use self::{
    status::Expected,
    view::{BUDGETS_SEEN, PODS_SEEN, Seen, View, WORKLOADS_SEEN},
};
use super::{run::RETRY, watch::follow_objects, world::Key};
use crate::registry::{
    ApiError, Object, Part, Registry, WriteOptions,
    kinds::{
        DEPLOYMENTS, POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS, STATEFUL_SETS, template::count,
    },
    meta,
};

const SEEN_AT_ONCE: usize = 4096;
/// So many writes are on their way at a time: they share the store's commits.
const WRITES_AT_ONCE: usize = 64;

/// Keeps the status of budgets for ever.
pub(super) async fn run(registry: Registry) {
    let (sender, mut seen) = mpsc::channel(SEEN_AT_ONCE);
    let mut watches = JoinSet::new();
    for (kind, make) in [
        (&POD_DISRUPTION_BUDGETS, BUDGETS_SEEN),
        (&PODS, PODS_SEEN),
        (&DEPLOYMENTS, WORKLOADS_SEEN),
        (&REPLICA_SETS, WORKLOADS_SEEN),
        (&STATEFUL_SETS, WORKLOADS_SEEN),
    ] {
        let sender = sender.clone();
        watches.spawn(follow_objects(
            registry.clone(),
            kind,
            None,
            None,
            sender,
            make,
        ));
    }
    drop(sender);
    let mut lists_missing = watches.len();
    let mut disruptions = Disruptions {
        registry,
        view: View::default(),
        due: BTreeMap::new(),
    };
    let mut batch = Vec::with_capacity(SEEN_AT_ONCE);
    loop {
        let wait = disruptions.idle_time();
        tokio::select! {
            count = seen.recv_many(&mut batch, SEEN_AT_ONCE) => if count == 0 { return },
            () = at(wait) => {}
        }
        for step in batch.drain(..) {
            lists_missing -= usize::from(matches!(step, Seen::List(..)) && lists_missing > 0);
            disruptions.view.absorb(step);
        }
        // Nothing is written before everything is known: absence would be mistaken for deletion.
        if lists_missing == 0 {
            disruptions.settle().await;
        }
    }
}

/// Waits so long; for ever without a time.
async fn at(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

struct Disruptions {
    registry: Registry,
    view: View,
    /// When time alone makes a budget worth a look.
    due: BTreeMap<Key, Timestamp>,
}

impl Disruptions {
    fn idle_time(&self) -> Option<Duration> {
        let next = self.due.values().min()?;
        Some(Duration::try_from(next.duration_since(Timestamp::now())).unwrap_or_default())
    }

    /// Looks at every budget that something concerns.
    async fn settle(&mut self) {
        let now = Timestamp::now();
        let mut keys: BTreeSet<Key> = self.view.take_dirty();
        let due = self.due.iter().filter(|(_, at)| **at <= now);
        keys.extend(due.map(|(key, _)| key.clone()));
        let this = &*self;
        let settled: Vec<_> = stream::iter(keys)
            .map(|key| async move { (this.settle_one(&key, now).await, key) })
            .buffer_unordered(WRITES_AT_ONCE)
            .collect()
            .await;
        for (result, key) in settled {
            let again = result.unwrap_or_else(|error| {
                let (namespace, budget) = (&key.0, &key.1);
                tracing::warn!(%error, %namespace, %budget, "the status of a disruption budget was not written: trying again");
                now.checked_add(RETRY).ok()
            });
            match again {
                Some(at) => drop(self.due.insert(key, at)),
                None => drop(self.due.remove(&key)),
            }
        }
    }

    /// Writes what a budget allows; answers when to look again though nothing is seen.
    async fn settle_one(&self, key: &Key, now: Timestamp) -> Result<Option<Timestamp>, ApiError> {
        let Some(budget) = self.view.budget(key) else {
            return Ok(None);
        };
        let expected = if budget.asks_owners {
            let owners = self.view.owners(key);
            self.wanted_by(&key.0, owners).await?
        } else {
            Ok(0)
        };
        let selected = self.view.selected(key);
        let options = WriteOptions::default();
        let mut again = None;
        let written = self.registry.modify(
            &POD_DISRUPTION_BUDGETS,
            Some(&key.0),
            &key.1,
            Part::Status,
            &options,
            |budget| {
                again = status::settle(budget, &selected, &expected, now);
                Ok(())
            },
        );
        match written.await {
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
            Ok(_) => Ok(again),
        }
    }

    /// How many Pods these controllers want together.
    async fn wanted_by(
        &self,
        namespace: &str,
        owners: BTreeMap<&str, &OwnerReference>,
    ) -> Result<Expected, ApiError> {
        let mut sizes = BTreeMap::new();
        for owner in owners.into_values() {
            match self.size_of(namespace, owner).await? {
                Ok((uid, size)) => sizes.insert(uid, size),
                Err(why) => return Ok(Err(why)),
            };
        }
        Ok(Ok(sizes.into_values().sum()))
    }

    /// The uid and size of what scales the Pods of a controller: itself, or the Deployment of a ReplicaSet.
    async fn size_of(
        &self,
        namespace: &str,
        owner: &OwnerReference,
    ) -> Result<Result<(String, i64), String>, ApiError> {
        let mut found = self.look_up(namespace, owner).await?;
        if let Some(object) = &found
            && *object.kind() == REPLICA_SETS
        {
            let metadata = object.decode::<view::Owned>()?.metadata;
            if let Some(deployment) = metadata.controller() {
                found = self.look_up(namespace, deployment).await?.or(found);
            }
        }
        let Some(object) = found else {
            let OwnerReference { kind, name, .. } = owner;
            return Ok(Err(format!("found no {kind} {name:?} that can be scaled")));
        };
        let value = object.scale().value();
        let uid = meta::text(&value, "uid").to_owned();
        Ok(Ok((uid, count(&value, ["spec", "replicas"]))))
    }

    /// The very object that is named, if it exists and can be scaled.
    async fn look_up(
        &self,
        namespace: &str,
        owner: &OwnerReference,
    ) -> Result<Option<Object>, ApiError> {
        let group = match owner.api_version.split_once('/') {
            Some((group, _)) => group,
            None => "",
        };
        let kind = self.registry.kinds().named(group, &owner.kind);
        let Some(kind) = kind.filter(|kind| kind.subresource("scale").is_some()) else {
            return Ok(None);
        };
        let namespace = kind.namespaced.then_some(namespace);
        match self.registry.get(kind, namespace, &owner.name).await {
            Ok(object) => {
                let uid = object.decode::<view::Owned>()?.metadata.uid;
                Ok((uid == owner.uid).then_some(object))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
