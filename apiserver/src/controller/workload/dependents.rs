//! Making and removing what a workload owns: one at first, then two, four, ... as long as it works, so that what cannot work
//! is not tried a thousand times.
//! Source: kubernetes/kubernetes pkg/controller/replicaset/replica_set.go, slowStartBatch.

use api::{core::ObjectReference, meta::Resource as _};
use futures_util::future::join_all;
use serde_json::Value;

use super::Owner;
use crate::{
    controller::{
        event::{self, Level},
        world::Key,
        write::{Action, Done, delete, execute, tell},
    },
    registry::{
        ApiError, Kind, Registry, WriteOptions,
        kinds::{PODS, text_at},
    },
};

/// What a workload has too few or too many of.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::controller) struct Dependents {
    pub(super) owner: Owner,
    pub(super) generation: i64,
    /// The owner in events.
    pub(super) about: ObjectReference,
    /// Who tells.
    pub(super) component: &'static str,
    pub(super) kind: &'static Kind,
    pub(super) create: Vec<Value>,
    /// What goes, with its uid.
    pub(super) delete: Vec<(Key, Box<str>)>,
    /// What is written once all of it is done.
    pub(super) then: Vec<Action>,
}

/// What it came to.
pub(in crate::controller) struct Made {
    pub(super) owner: Owner,
    pub(super) generation: i64,
    pub(in crate::controller) done: Vec<Done>,
    /// A reason in one word, and in many.
    pub(super) failure: Option<(&'static str, String)>,
}

impl Dependents {
    pub(in crate::controller) async fn carry_out(mut self, registry: &Registry) -> Made {
        let mut made = Made {
            owner: self.owner.clone(),
            generation: self.generation,
            done: Vec::new(),
            failure: None,
        };
        let mut removals = std::mem::take(&mut self.delete);
        while !removals.is_empty() {
            let batch = removals.drain(..removals.len().min(SOME));
            let removed = batch.map(|(key, uid)| self.remove(registry, key, uid));
            made.take(join_all(removed).await);
        }
        let mut size = 1;
        while !self.create.is_empty() && made.failure.is_none() {
            let count = self.create.len().min(size);
            let batch: Vec<Value> = self.create.drain(..count).collect();
            let created = batch.into_iter().map(|value| self.make(registry, value));
            made.take(join_all(created).await);
            size = (size * 2).min(SOME);
        }
        if made.failure.is_none() {
            for action in self.then.drain(..) {
                match Box::pin(execute(registry, action)).await {
                    Ok(done) => made.done.push(done),
                    Err(error) => made.failure = Some(("FailedUpdate", error.to_string())),
                }
            }
        }
        made
    }

    async fn make(&self, registry: &Registry, value: Value) -> Result<Done, Failed> {
        let options = WriteOptions::default();
        let name = text_at(&value, &["metadata", "name"]).to_owned();
        let namespace = Some(&*self.about.namespace);
        let created = registry.create(self.kind, namespace, value, &options);
        let is_pod = *self.kind == PODS;
        match created.await {
            Ok(object) => {
                if is_pod {
                    let made = object.value();
                    let name = text_at(&made, &["metadata", "name"]);
                    let message = format!("Created pod: {name}");
                    self.say(registry, Level::Normal, "SuccessfulCreate", message)
                        .await;
                }
                Ok(Done::Put(self.kind, object))
            }
            // Of that name there is one: its event is on its way.
            Err(error) if error.is_already_exists() => Ok(Done::Nothing),
            Err(error) if error.is_namespace_terminating() => Err(Failed::Quietly(error)),
            Err(error) => {
                let (reason, words) = if is_pod {
                    ("FailedCreate", format!("Error creating: {error}"))
                } else {
                    let words = format!("Failed to create new replica set {name:?}: {error}");
                    ("ReplicaSetCreateError", words)
                };
                self.say(registry, Level::Warning, reason, words).await;
                Err(Failed::Told(reason, error))
            }
        }
    }

    async fn remove(&self, registry: &Registry, key: Key, uid: Box<str>) -> Result<Done, Failed> {
        match delete(registry, self.kind, &key, uid).await {
            Ok(done) => {
                let message = format!("Deleted pod: {}", key.1);
                self.say(registry, Level::Normal, "SuccessfulDelete", message)
                    .await;
                Ok(done)
            }
            Err(error) => {
                let message = format!("Error deleting: {error}");
                self.say(registry, Level::Warning, "FailedDelete", message)
                    .await;
                Err(Failed::Told("FailedDelete", error))
            }
        }
    }

    async fn say(&self, registry: &Registry, level: Level, reason: &str, message: String) {
        let event = event::new(self.about.clone(), self.component, level, reason, message);
        let about = (self.about.namespace.clone(), self.about.name.clone());
        tell(registry, &about, event.to_value()).await;
    }
}

/// So many writes share commits; more at a time would only keep others waiting.
const SOME: usize = 64;

enum Failed {
    /// People were told why.
    Told(&'static str, ApiError),
    /// Nothing is wrong: the namespace goes away.
    Quietly(ApiError),
}

impl Made {
    fn take(&mut self, results: Vec<Result<Done, Failed>>) {
        for result in results {
            match result {
                Ok(done) => self.done.push(done),
                Err(Failed::Told(reason, error)) => {
                    tracing::warn!(%error, owner = ?self.owner, reason, "a workload's write failed");
                    self.failure = Some((reason, error.to_string()));
                }
                Err(Failed::Quietly(error)) => {
                    self.failure = Some(("FailedCreate", error.to_string()));
                }
            }
        }
    }
}
