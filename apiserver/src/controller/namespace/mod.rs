//! The end of a namespace: its Pods first, then everything else in it, then itself.
//! Source: kubernetes/kubernetes pkg/controller/namespace/deletion; the order is KEP-5080.
//!
//! Each terminating namespace has a task of its own that waits for what is left to change, and ends with the namespace.

mod conditions;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use api::core::Namespace;
use futures_util::{StreamExt as _, future::select_all, stream};
use serde_json::Value;
use tokio::task::{AbortHandle, JoinSet};

use self::conditions::Content;
use crate::{
    registry::{
        ApiError, DeleteOptions, Kind, ListQuery, Part, Registry, WatchItem, WatchQuery,
        WatchStart, WriteOptions,
        kinds::{NAMESPACES, PODS},
        meta,
    },
    store::Revision,
};

/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// So many deletions are on their way at a time: they share the store's commits.
const DELETES_AT_ONCE: usize = 64;
/// The finalizer every namespace has, until its content is gone.
const FINALIZER: &str = "kubernetes";

/// The namespaces that are on their way out.
#[derive(Default)]
pub(super) struct Endings {
    tasks: JoinSet<()>,
    /// By uid: another namespace of the name is another one.
    known: HashMap<Box<str>, AbortHandle>,
}

impl Endings {
    /// Sees a namespace to its end, once.
    pub(super) fn watch_over(&mut self, registry: &Registry, namespace: &Namespace) {
        self.known.retain(|_, task| !task.is_finished());
        while self.tasks.try_join_next().is_some() {}
        let mut finalizers = namespace.spec.finalizers.iter();
        let uid = &namespace.metadata.uid;
        let held = finalizers.any(|finalizer| &**finalizer == FINALIZER);
        if held && !self.known.contains_key(uid) {
            let task = end(registry.clone(), namespace.metadata.name.clone());
            self.known.insert(uid.clone(), self.tasks.spawn(task));
        }
    }
}

/// Empties a namespace and lets it go.
async fn end(registry: Registry, name: Box<str>) {
    loop {
        match look(&registry, &name).await {
            Ok(None) => return,
            Ok(Some(left)) => left.change(&registry, &name).await,
            Err(error) => {
                tracing::warn!(%error, namespace = %name, "a namespace cannot be emptied yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// What a look left behind, and since when its changes count.
#[derive(Default)]
struct Left {
    content: Content,
    since: Vec<(&'static Kind, Revision)>,
    /// What our own deletions wrote is nothing new.
    own: BTreeSet<Revision>,
}

impl Left {
    /// Waits until somebody else changes something of what is left; a moment when it could not be deleted.
    async fn change(self, registry: &Registry, name: &str) {
        if !self.content.errors.is_empty() {
            return tokio::time::sleep(RETRY).await;
        }
        let changes = self.since.iter().map(|(kind, after)| {
            let own = &self.own;
            Box::pin(async move {
                let query = WatchQuery {
                    start: WatchStart::After(*after),
                    ..WatchQuery::default()
                };
                // A history that is gone already is a change too.
                let Ok(mut changes) = registry.watch(kind, Some(name), &query).await else {
                    return;
                };
                while let Some(Ok(item)) = changes.next().await {
                    if matches!(item, WatchItem::Change(change) if !own.contains(&change.object.revision())) {
                        return;
                    }
                }
            })
        });
        let changes: Vec<_> = changes.collect();
        if !changes.is_empty() {
            select_all(changes).await;
        }
    }
}

/// Deletes what is there; nothing is left when the namespace itself was let go, or is gone.
async fn look(registry: &Registry, name: &str) -> Result<Option<Left>, ApiError> {
    let mut left = Left::default();
    // Pods may need the rest until they have stopped.
    delete_all(registry, &PODS, name, &mut left).await?;
    if left.since.is_empty() && left.content.errors.is_empty() {
        let kinds = registry.kinds();
        for kind in kinds
            .resources()
            .filter(|kind| kind.namespaced && kind.verbs.contains(&"delete") && **kind != PODS)
        {
            delete_all(registry, kind, name, &mut left).await?;
        }
    }
    let options = WriteOptions::default();
    let told = registry.modify(
        &NAMESPACES,
        None,
        name,
        Part::Status,
        &options,
        |namespace| {
            let before = namespace["status"]["conditions"].take();
            let before = serde_json::from_value(before).unwrap_or_default();
            let conditions = conditions::after(before, &left.content, api::meta::Time::now());
            namespace["status"]["conditions"] =
                serde_json::to_value(conditions).expect("conditions are plain values");
            Ok(())
        },
    );
    match told.await {
        Err(error) if error.is_not_found() => return Ok(None),
        other => drop(other?),
    }
    if !left.since.is_empty() || !left.content.errors.is_empty() {
        return Ok(Some(left));
    }
    let release = |namespace: &mut Value| {
        if let Some(finalizers) = namespace["spec"]["finalizers"].as_array_mut() {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        Ok(())
    };
    match registry
        .modify(&NAMESPACES, None, name, Part::Finalize, &options, release)
        .await
    {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(None),
    }
}

/// Deletes the objects of one kind, and counts those that take their time.
async fn delete_all(
    registry: &Registry,
    kind: &'static Kind,
    namespace: &str,
    left: &mut Left,
) -> Result<(), ApiError> {
    let list = registry
        .list(kind, Some(namespace), &ListQuery::default())
        .await?;
    let mut deletions = stream::iter(list.objects)
        .map(|object| async move {
            let value = object.value();
            let options = DeleteOptions {
                uid: Some(meta::text(&value, "uid").to_owned()),
                ..DeleteOptions::default()
            };
            let name = meta::text(&value, "name");
            registry.delete(kind, Some(namespace), name, &options).await
        })
        .buffer_unordered(DELETES_AT_ONCE);
    let mut remaining = 0;
    let mut finalizers: BTreeMap<String, usize> = BTreeMap::new();
    while let Some(result) = deletions.next().await {
        match result {
            Ok(deleted) => {
                left.own.insert(deleted.object.revision());
                if !deleted.gone {
                    remaining += 1;
                    for finalizer in meta::finalizers(&deleted.object.value()) {
                        *finalizers.entry(finalizer.to_owned()).or_default() += 1;
                    }
                }
            }
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => left.content.errors.push(error.to_string()),
        }
    }
    if remaining > 0 {
        let resource = format!("{}.{}", kind.plural, kind.group);
        left.content.remaining.insert(resource, remaining);
        left.since.push((kind, list.revision));
    }
    for (finalizer, count) in finalizers {
        *left.content.finalizers.entry(finalizer).or_default() += count;
    }
    Ok(())
}
