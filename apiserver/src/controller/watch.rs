//! The controllers' eyes: one watch per kind, from the registry in the same process.

use api::{
    apps::{ControllerRevision, DaemonSet, Deployment, ReplicaSet},
    coordination::Lease,
    core::{ConfigMap, Endpoints, Namespace, Node, Pod, Secret, Service, ServiceAccount},
    discovery::EndpointSlice,
    selector::FieldSelector,
};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    join_token::JOIN_TOKENS,
    world::{Kept, World},
    write::take,
};
use crate::{
    registry::{
        ApiError, ChangeKind, Kind, ListQuery, Object, Registry, Selection, WatchItem, WatchQuery,
        WatchStart,
        kinds::{
            CONFIG_MAPS, CONTROLLER_REVISIONS, DAEMON_SETS, DEPLOYMENTS, ENDPOINT_SLICES,
            ENDPOINTS, LEASES, NAMESPACES, NODES, PODS, REPLICA_SETS, SECRETS, SERVICE_ACCOUNTS,
            SERVICES,
        },
    },
    store::Revision,
};

/// A step towards the newest state.
pub(super) enum Seen {
    /// Everything there is of a kind.
    List(fn(&mut World, Revision, Vec<Object>), Revision, Vec<Object>),
    /// One object that is there, or (true) gone.
    Change(fn(&mut World, &Object, bool), Object, bool),
}

impl Seen {
    pub(super) fn absorb(self, world: &mut World) {
        match self {
            Self::List(put, revision, objects) => put(world, revision, objects),
            Self::Change(put, object, gone) => put(world, &object, gone),
        }
    }
}

/// Watches every kind the controllers need, each in a task of its own; they end with the receiver, or with the set.
pub(super) fn all(registry: &Registry, seen: &mpsc::Sender<Seen>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    macro_rules! follow {
        ($type:ty, $kind:expr, $namespace:expr, $fields:expr) => {
            tasks.spawn(follow::<$type>(
                registry.clone(),
                &$kind,
                $namespace,
                $fields,
                seen.clone(),
            ));
        };
    }
    follow!(Namespace, NAMESPACES, None, None);
    follow!(Node, NODES, None, None);
    follow!(Lease, LEASES, Some("kube-node-lease"), None);
    follow!(Pod, PODS, None, None);
    follow!(Service, SERVICES, None, None);
    follow!(Endpoints, ENDPOINTS, None, None);
    follow!(EndpointSlice, ENDPOINT_SLICES, None, None);
    follow!(Deployment, DEPLOYMENTS, None, None);
    follow!(ReplicaSet, REPLICA_SETS, None, None);
    follow!(DaemonSet, DAEMON_SETS, None, None);
    follow!(ControllerRevision, CONTROLLER_REVISIONS, None, None);
    let account = Some("metadata.name=default");
    follow!(ServiceAccount, SERVICE_ACCOUNTS, None, account);
    let root_ca = Some("metadata.name=kube-root-ca.crt");
    follow!(ConfigMap, CONFIG_MAPS, None, root_ca);
    follow!(Secret, SECRETS, Some("kube-system"), Some(JOIN_TOKENS));
    tasks
}

/// Lists and watches a kind of the world until nobody listens.
pub(super) async fn follow<T: Kept>(
    registry: Registry,
    kind: &'static Kind,
    namespace: Option<&'static str>,
    fields: Option<&'static str>,
    seen: mpsc::Sender<Seen>,
) {
    let make = Make {
        list: |revision, objects| Seen::List(put_list::<T>, revision, objects),
        change: |object, gone| Seen::Change(take::<T>, object, gone),
    };
    follow_objects(registry, kind, namespace, fields, seen, make).await;
}

/// How what a watch says is told to its reader.
pub(super) struct Make<S> {
    /// Everything there is of the kind.
    pub(super) list: fn(Revision, Vec<Object>) -> S,
    /// One object that is there, or (true) gone.
    pub(super) change: fn(Object, bool) -> S,
}

/// Lists and watches a kind until nobody listens, from the start again when the history was lost.
pub(super) async fn follow_objects<S: Send>(
    registry: Registry,
    kind: &'static Kind,
    namespace: Option<&'static str>,
    fields: Option<&'static str>,
    seen: mpsc::Sender<S>,
    make: Make<S>,
) {
    let fields = fields.map(|text| {
        text.parse::<FieldSelector>()
            .expect("the selectors of the controllers are valid")
    });
    let selection = Selection {
        labels: None,
        fields,
    };
    while !seen.is_closed() {
        if let Err(error) = follow_once(&registry, kind, namespace, &selection, &seen, &make).await
        {
            tracing::warn!(%error, kind = kind.kind, "a controller's watch ended: listing again");
            tokio::time::sleep(super::run::RETRY).await;
        }
    }
}

async fn follow_once<S: Send>(
    registry: &Registry,
    kind: &'static Kind,
    namespace: Option<&str>,
    selection: &Selection,
    seen: &mpsc::Sender<S>,
    make: &Make<S>,
) -> Result<(), ApiError> {
    let query = ListQuery {
        selection: selection.clone(),
        ..ListQuery::default()
    };
    let list = registry.list(kind, namespace, &query).await?;
    let revision = list.revision;
    if seen
        .send((make.list)(revision, list.objects))
        .await
        .is_err()
    {
        return Ok(());
    }
    let start = WatchStart::After(revision);
    let query = WatchQuery {
        selection: selection.clone(),
        start,
        ..WatchQuery::default()
    };
    let mut stream = registry.watch(kind, namespace, &query).await?;
    while let Some(item) = stream.next().await {
        let WatchItem::Change(change) = item? else {
            continue;
        };
        let gone = change.kind == ChangeKind::Deleted;
        if seen.send((make.change)(change.object, gone)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn put_list<T: Kept>(world: &mut World, revision: Revision, objects: Vec<Object>) {
    let decoded = objects
        .iter()
        .filter_map(|object| match object.decode::<T>() {
            Ok(value) => Some((object.revision(), value)),
            Err(error) => {
                tracing::error!(%error, kind = T::KIND, "an object cannot be read");
                None
            }
        });
    world.replace(revision, decoded.collect());
}
