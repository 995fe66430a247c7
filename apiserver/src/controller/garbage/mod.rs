//! Garbage collection: what becomes of objects whose owners go (X7, X8).
//!
//! One cursor follows every object of every kind. [`index`] remembers who names whom as owner, by uid, and marks what a change
//! may concern; [`judge`] says what is to be done about one object; this page looks the owners up and carries it out. Objects
//! without owners cost nothing but a glance at each of their versions, and nothing happens while nothing changes.
//!
//! Whether an owner exists is never taken from the index while its kind is served: it is looked up by kind and name at the
//! moment of judging, and its uid compared. An owner of the same name with another uid is another one. Of a kind that went with
//! its definition only those are absent that were seen to go.
//! Source: kubernetes/kubernetes pkg/controller/garbagecollector.

mod index;
mod judge;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use self::{
    index::Index,
    judge::{OwnerState, Verdict},
};
use crate::{
    registry::{
        ApiError, DeleteOptions, Kind, Object, Part, Propagation, Registry, WriteOptions, meta,
    },
    store::{ListOptions, StoreError, Watch, WatchItem},
};

/// The pause after a failure, doubled with each one that follows, up to [`RETRY_AT_MOST`].
const RETRY: Duration = Duration::from_secs(1);
const RETRY_AT_MOST: Duration = Duration::from_secs(300);
/// So many objects are judged before what happened meanwhile is taken in.
const JUDGED_AT_ONCE: usize = 1024;
/// So many writes are on their way at a time: they share the store's commits.
const WRITES_AT_ONCE: usize = 64;
/// So many stored objects are read before other tasks have their turn.
const READ_AT_ONCE: usize = 1024;

/// Collects for ever.
pub(super) async fn run(registry: Registry) {
    loop {
        let Err(error) = Collector::new(registry.clone()).run().await;
        tracing::warn!(%error, "the garbage collector lost the history: reading everything again");
        tokio::time::sleep(RETRY).await;
    }
}

/// Nothing, of a loop that only an error ends.
enum Never {}

struct Collector {
    registry: Registry,
    index: Index,
    /// What failed, to be judged again at this time.
    later: BTreeMap<Instant, BTreeSet<Bytes>>,
    /// How often in a row.
    failures: HashMap<Bytes, u32>,
}

impl Collector {
    fn new(registry: Registry) -> Self {
        Self {
            registry,
            index: Index::default(),
            later: BTreeMap::new(),
            failures: HashMap::new(),
        }
    }

    async fn run(mut self) -> Result<Never, StoreError> {
        let everything = Bytes::from_static(b"/registry/")..Bytes::from_static(b"/registry0");
        let backend = self.registry.backend().clone();
        let options = ListOptions::default();
        let page = backend.list(everything.clone(), options).await?;
        for (count, record) in page.records.iter().enumerate() {
            self.index.put(&record.key, None, &record.value);
            if count % READ_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
        }
        let mut changes = backend.watch(everything, page.revision).await?;
        drop(page);
        loop {
            self.see(changes.as_mut()).await?;
            self.judge_some().await;
        }
    }

    /// Takes in all that has happened; waits when nothing else is to be done.
    async fn see(&mut self, changes: &mut dyn Watch) -> Result<(), StoreError> {
        loop {
            let due = self.later.keys().next().copied();
            let wait = async {
                match due {
                    _ if self.index.has_dirty() => {}
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                item = changes.next() => self.take(&item?),
                () = wait => break,
            }
        }
        let now = Instant::now();
        while let Some(due) = self.later.first_entry().filter(|due| *due.key() <= now) {
            self.index.mark(due.remove());
        }
        Ok(())
    }

    fn take(&mut self, item: &WatchItem) {
        let WatchItem::Events(events) = item else {
            return;
        };
        for event in events {
            let previous = event.previous.as_ref().map(|record| &record.value);
            match &event.current {
                Some(record) => self.index.put(&event.key, previous, &record.value),
                None => self.index.remove(&event.key, previous),
            }
        }
    }

    async fn judge_some(&mut self) {
        let keys = self.index.take_dirty(JUDGED_AT_ONCE);
        let this = &*self;
        let done: Vec<_> = stream::iter(keys)
            .map(|key| async move {
                let done = this.judge(&key).await;
                (key, done)
            })
            .buffer_unordered(WRITES_AT_ONCE)
            .collect()
            .await;
        for (key, done) in done {
            match done {
                Ok(()) => drop(self.failures.remove(&key)),
                // Somebody else wrote since it was judged: it is another case now.
                Err(error) if error.is_conflict() => self.index.mark([key]),
                Err(error) => self.again(key, &error),
            }
        }
    }

    fn again(&mut self, key: Bytes, error: &ApiError) {
        let failures = self.failures.entry(key.clone()).or_default();
        let pause = RETRY
            .saturating_mul(1 << (*failures).min(16))
            .min(RETRY_AT_MOST);
        *failures += 1;
        let object = String::from_utf8_lossy(&key);
        tracing::warn!(%error, %object, ?pause, "an object cannot be collected: trying again");
        let at = Instant::now() + pause;
        self.later.entry(at).or_default().insert(key);
    }

    /// Judges an object as it is now, and does what follows.
    async fn judge(&self, key: &Bytes) -> Result<(), ApiError> {
        let Some(object) = self.subject(key).await? else {
            return Ok(());
        };
        let mut owners = Vec::new();
        if !meta::is_terminating(&object.value) {
            for owner in judge::owners(&object.value) {
                owners.push((uid(owner), self.look_up(&object, owner).await?));
            }
        }
        let verdict = judge::judge(key, &object.value, &owners, &self.index);
        self.carry_out(&object, verdict).await
    }

    /// What an owner is at this moment.
    async fn look_up(&self, object: &Subject<'_>, owner: &Value) -> Result<OwnerState, ApiError> {
        let text = |field: &str| owner[field].as_str().unwrap_or_default();
        let group = match text("apiVersion").split_once('/') {
            Some((group, _)) => group,
            None => "",
        };
        let Some(kind) = self.registry.kinds().named(group, text("kind")) else {
            if self.index.is_gone(text("uid")) {
                return Ok(OwnerState::Absent);
            }
            return Ok(OwnerState::Unknown("its kind is not served here"));
        };
        if kind.namespaced && object.namespace.is_none() {
            return Ok(OwnerState::Unknown(
                "what is in no namespace cannot be owned by what is in one",
            ));
        }
        let namespace = object.namespace.filter(|_| kind.namespaced);
        let found = self.registry.get(kind, namespace, text("name")).await;
        match found {
            Ok(found) => Ok(judge::state_of(&found.value(), text("uid"))),
            Err(error) if error.is_not_found() => Ok(OwnerState::Absent),
            Err(error) => Err(error),
        }
    }

    async fn carry_out(&self, object: &Subject<'_>, verdict: Verdict) -> Result<(), ApiError> {
        match verdict {
            Verdict::Keep => Ok(()),
            Verdict::Odd { owner, why } => {
                tracing::warn!(
                    kind = object.kind.kind,
                    namespace = object.namespace.unwrap_or_default(),
                    name = object.name,
                    %owner,
                    "an owner cannot be looked up, {why}: the object is left alone"
                );
                Ok(())
            }
            Verdict::Delete => self.delete(object, None).await,
            Verdict::DeleteForeground => self.delete(object, Some(Propagation::Foreground)).await,
            // It is judged again by what this left.
            Verdict::Unblock => {
                self.change(object, |value| {
                    for owner in judge::owners_mut(value) {
                        owner["blockOwnerDeletion"] = json!(false);
                    }
                })
                .await
            }
            Verdict::Disown(uids) => self.disown(object, &uids).await,
            Verdict::Release(finalizer) => {
                self.change(object, |value| {
                    if let Some(finalizers) = value["metadata"]["finalizers"].as_array_mut() {
                        finalizers.retain(|held| held != finalizer);
                    }
                })
                .await
            }
            Verdict::Orphan(dependents) => self.orphan(object, dependents).await,
        }
    }

    /// Takes the dying owner out of its dependents; their changes bring it up again until none is left.
    async fn orphan(&self, owner: &Subject<'_>, dependents: Vec<Bytes>) -> Result<(), ApiError> {
        let uids = [uid(&owner.value["metadata"]).to_owned()];
        let uids = &uids;
        let mut disowned = stream::iter(dependents)
            .map(|key| async move { self.disown_stored(&key, uids).await })
            .buffer_unordered(WRITES_AT_ONCE);
        while let Some(done) = disowned.next().await {
            match done {
                // Another object by now.
                Err(error) if error.is_conflict() => {}
                done => done?,
            }
        }
        Ok(())
    }

    async fn disown_stored(&self, key: &Bytes, uids: &[String]) -> Result<(), ApiError> {
        match self.subject(key).await? {
            Some(dependent) => self.disown(&dependent, uids).await,
            None => Ok(()),
        }
    }

    /// What is stored at a key now.
    async fn subject<'a>(&self, key: &'a Bytes) -> Result<Option<Subject<'a>>, ApiError> {
        let Some(record) = self.registry.backend().get(key, None).await? else {
            return Ok(None);
        };
        let at = self.registry.kinds().at_key(key);
        Ok(at.map(|(kind, namespace, name)| Subject {
            kind,
            namespace,
            name,
            value: Object::from_record(kind, &record).value(),
        }))
    }

    async fn delete(
        &self,
        object: &Subject<'_>,
        propagation: Option<Propagation>,
    ) -> Result<(), ApiError> {
        let options = DeleteOptions {
            uid: Some(uid(&object.value["metadata"]).to_owned()),
            // Who gives it a new owner now is heard.
            resource_version: Some(meta::text(&object.value, "resourceVersion").to_owned()),
            propagation,
            ..DeleteOptions::default()
        };
        let deleted = self
            .registry
            .delete(object.kind, object.namespace, object.name, &options)
            .await;
        match deleted {
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                tracing::debug!(
                    kind = object.kind.kind,
                    namespace = object.namespace.unwrap_or_default(),
                    name = object.name,
                    "deleted: its owners are gone"
                );
                Ok(())
            }
        }
    }

    /// Takes owners out of an object.
    async fn disown(&self, object: &Subject<'_>, uids: &[String]) -> Result<(), ApiError> {
        self.change(object, |value| {
            let owners = &mut value["metadata"]["ownerReferences"];
            if let Some(owners) = owners.as_array_mut() {
                owners.retain(|owner| !uids.iter().any(|uid| owner["uid"] == **uid));
            }
        })
        .await
    }

    /// Changes the metadata of this very object.
    async fn change(
        &self,
        object: &Subject<'_>,
        mut change: impl FnMut(&mut Value) + Send,
    ) -> Result<(), ApiError> {
        let wanted = uid(&object.value["metadata"]);
        let (kind, name) = (object.kind, object.name);
        let options = WriteOptions::default();
        let change = |value: &mut Value| {
            if uid(&value["metadata"]) != wanted {
                return Err(ApiError::modified(kind, name));
            }
            change(value);
            Ok(())
        };
        let changed = self
            .registry
            .modify(kind, object.namespace, name, Part::Main, &options, change)
            .await;
        match changed {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }
}

/// The object that is judged.
struct Subject<'a> {
    kind: &'static Kind,
    namespace: Option<&'a str>,
    name: &'a str,
    value: Value,
}

fn uid(of: &Value) -> &str {
    of["uid"].as_str().unwrap_or_default()
}
