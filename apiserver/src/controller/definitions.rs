//! CustomResourceDefinitions: whose names are accepted, which kinds are served, and the end of their objects.
//! Source: kubernetes/kubernetes staging/src/k8s.io/apiextensions-apiserver/pkg/controller/{status,establish,finalizer}.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::{AbortHandle, JoinSet};

use crate::registry::{
    ApiError, ChangeKind, DeleteOptions, Kind, ListQuery, Part, Registry, WatchItem, WatchQuery,
    WatchStart, WriteOptions,
    custom::conditions,
    kinds::{CUSTOM_RESOURCE_DEFINITIONS, custom_resource_definition::CLEANUP, items, text_at},
    meta,
};

/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// So many deletions are on their way at a time: they share the store's commits.
const DELETES_AT_ONCE: usize = 64;

/// Serves the kinds of the definitions that are stored: before the first request, so that none misses them.
///
/// # Errors
/// The store's.
pub async fn load(registry: &Registry) -> Result<(), ApiError> {
    let query = ListQuery::default();
    let list = registry.list(&CUSTOM_RESOURCE_DEFINITIONS, None, &query);
    let definitions: Vec<Value> = list.await?.objects.iter().map(|one| one.value()).collect();
    registry.serve_definitions(&definitions);
    Ok(())
}

/// Follows the definitions for ever.
pub async fn run(registry: Registry) {
    loop {
        if let Err(error) = follow(&registry).await {
            tracing::warn!(%error, "the watch of CustomResourceDefinitions ended: listing again");
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn follow(registry: &Registry) -> Result<(), ApiError> {
    let kind = &CUSTOM_RESOURCE_DEFINITIONS;
    let list = registry.list(kind, None, &ListQuery::default()).await?;
    let mut definitions: Vec<Value> = list.objects.iter().map(|one| one.value()).collect();
    let query = WatchQuery {
        start: WatchStart::After(list.revision),
        ..WatchQuery::default()
    };
    let mut watch = registry.watch(kind, None, &query).await?;
    let mut endings = Endings::default();
    settle(registry, &mut definitions, &mut endings).await?;
    while let Some(item) = watch.next().await {
        let WatchItem::Change(change) = item? else {
            continue;
        };
        let value = change.object.value();
        let name = meta::text(&value, "name");
        definitions.retain(|other| meta::text(other, "name") != name);
        if change.kind != ChangeKind::Deleted {
            definitions.push(value);
        }
        settle(registry, &mut definitions, &mut endings).await?;
    }
    Ok(())
}

/// Brings everything to what the definitions say. A kind is served before its definition says so: whoever has seen that finds
/// the kind.
async fn settle(
    registry: &Registry,
    definitions: &mut [Value],
    endings: &mut Endings,
) -> Result<(), ApiError> {
    let now = meta::timestamp(Timestamp::now());
    definitions.sort_by(|a, b| age(a).cmp(&age(b)));
    let mut told = Vec::new();
    for at in 0..definitions.len() {
        let mut status = conditions(&definitions[at], definitions, &now);
        if meta::is_terminating(&definitions[at]) {
            let current = status.as_ref().unwrap_or(&definitions[at]["status"]);
            status = terminating(current, &now).or(status);
        }
        if let Some(status) = status {
            definitions[at]["status"] = status.clone();
            told.push((meta::text(&definitions[at], "name").to_owned(), status));
        }
    }
    registry.serve_definitions(definitions);
    for (name, status) in told {
        tell(registry, &name, status).await?;
    }
    for definition in definitions.iter() {
        if meta::is_terminating(definition) && meta::finalizers(definition).contains(&CLEANUP) {
            endings.see_to(registry, definition);
        }
    }
    Ok(())
}

/// The oldest has a name that two want.
fn age(definition: &Value) -> (&str, &str) {
    (
        meta::text(definition, "creationTimestamp"),
        meta::text(definition, "name"),
    )
}

/// The status of a definition that is on its way out; `None` when it says so already.
fn terminating(status: &Value, now: &str) -> Option<Value> {
    let says = |condition: &Value| condition["type"] == "Terminating";
    if items(&status["conditions"]).iter().any(says) {
        return None;
    }
    let mut conditions = items(&status["conditions"]).to_vec();
    conditions.push(json!({
        "type": "Terminating", "status": "True", "reason": "InstanceDeletionInProgress",
        "message": "CustomResource deletion is in progress", "lastTransitionTime": now,
    }));
    let mut status = status.clone();
    status["conditions"] = conditions.into();
    Some(status)
}

async fn tell(registry: &Registry, name: &str, status: Value) -> Result<(), ApiError> {
    let options = WriteOptions::default();
    let write = |definition: &mut Value| {
        for field in ["conditions", "acceptedNames"] {
            definition["status"][field] = status[field].clone();
        }
        Ok(())
    };
    let kind = &CUSTOM_RESOURCE_DEFINITIONS;
    match registry
        .modify(kind, None, name, Part::Status, &options, write)
        .await
    {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// The definitions that are on their way out.
#[derive(Default)]
struct Endings {
    tasks: JoinSet<()>,
    /// By uid: another definition of the name is another one.
    known: HashMap<String, AbortHandle>,
}

impl Endings {
    /// Deletes the objects of a definition and lets it go, once.
    fn see_to(&mut self, registry: &Registry, definition: &Value) {
        self.known.retain(|_, task| !task.is_finished());
        while self.tasks.try_join_next().is_some() {}
        let uid = meta::text(definition, "uid").to_owned();
        if self.known.contains_key(&uid) {
            return;
        }
        let name = meta::text(definition, "name").to_owned();
        let group = text_at(definition, &["spec", "group"]);
        let plural = text_at(definition, &["spec", "names", "plural"]);
        let kinds = registry.kinds();
        let kind = kinds
            .resources()
            .find(|kind| kind.is_custom() && kind.group == group && kind.plural == plural);
        let task = self.tasks.spawn(end(registry.clone(), name, kind));
        self.known.insert(uid, task);
    }
}

async fn end(registry: Registry, name: String, kind: Option<&'static Kind>) {
    loop {
        let ended = match kind {
            Some(kind) => empty(&registry, kind).await,
            None => Ok(true),
        };
        let released = match ended {
            Ok(true) => release(&registry, &name).await,
            Ok(false) => continue,
            Err(error) => Err(error),
        };
        match released {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(%error, definition = name, "the objects of a CustomResourceDefinition cannot be deleted yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Deletes all objects of a kind; true when none was there. What is left is waited for.
async fn empty(registry: &Registry, kind: &'static Kind) -> Result<bool, ApiError> {
    let list = registry.list(kind, None, &ListQuery::default()).await?;
    if list.objects.is_empty() {
        return Ok(true);
    }
    let mut deletions = stream::iter(list.objects)
        .map(|object| async move {
            let value = object.value();
            let namespace = kind.namespaced.then(|| meta::text(&value, "namespace"));
            let options = DeleteOptions::default();
            let name = meta::text(&value, "name");
            registry.delete(kind, namespace, name, &options).await
        })
        .buffer_unordered(DELETES_AT_ONCE);
    let mut left = false;
    while let Some(deleted) = deletions.next().await {
        match deleted {
            Ok(deleted) => left |= !deleted.gone,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    if left {
        let query = WatchQuery {
            start: WatchStart::After(list.revision),
            ..WatchQuery::default()
        };
        let mut watch = registry.watch(kind, None, &query).await?;
        let gone = |item: &WatchItem| matches!(item, WatchItem::Change(change) if change.kind == ChangeKind::Deleted);
        while let Some(item) = watch.next().await {
            if gone(&item?) {
                break;
            }
        }
    }
    Ok(false)
}

/// The definition has nothing left to wait for.
async fn release(registry: &Registry, name: &str) -> Result<(), ApiError> {
    let options = WriteOptions::default();
    let release = |definition: &mut Value| {
        if let Some(finalizers) = definition["metadata"]["finalizers"].as_array_mut() {
            finalizers.retain(|finalizer| finalizer != CLEANUP);
        }
        Ok(())
    };
    let kind = &CUSTOM_RESOURCE_DEFINITIONS;
    match registry
        .modify(kind, None, name, Part::Main, &options, release)
        .await
    {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
