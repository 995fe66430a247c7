//! The controllers' eyes: one watch per kind, from the registry in the same process.

use api::selector::FieldSelector;
use tokio::sync::mpsc;

use super::{
    world::{Kept, World},
    write::take,
};
use crate::{
    registry::{
        ApiError, ChangeKind, Kind, ListQuery, Object, Registry, Selection, WatchItem, WatchQuery,
        WatchStart,
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

/// Lists and watches a kind until nobody listens, from the start again when the history was lost.
pub(super) async fn follow<T: Kept>(
    registry: Registry,
    kind: &'static Kind,
    namespace: Option<&'static str>,
    fields: Option<&'static str>,
    seen: mpsc::Sender<Seen>,
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
        if let Err(error) = follow_once::<T>(&registry, kind, namespace, &selection, &seen).await {
            tracing::warn!(%error, kind = kind.kind, "a controller's watch ended: listing again");
            tokio::time::sleep(super::run::RETRY).await;
        }
    }
}

async fn follow_once<T: Kept>(
    registry: &Registry,
    kind: &'static Kind,
    namespace: Option<&str>,
    selection: &Selection,
    seen: &mpsc::Sender<Seen>,
) -> Result<(), ApiError> {
    let query = ListQuery {
        selection: selection.clone(),
        ..ListQuery::default()
    };
    let list = registry.list(kind, namespace, &query).await?;
    let revision = list.revision;
    if seen
        .send(Seen::List(put_list::<T>, revision, list.objects))
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
        if seen
            .send(Seen::Change(take::<T>, change.object, gone))
            .await
            .is_err()
        {
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
