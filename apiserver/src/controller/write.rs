//! What controllers want written, as values, and how it is done.

use api::meta::Resource;
use serde_json::Value;

use super::{
    workload::{Dependents, Made},
    world::{Kept, Key, World, key_of},
};
use crate::registry::{
    ApiError, Binding, DeleteOptions, Kind, Object, Part, Registry, WriteOptions,
    kinds::{
        CONFIG_MAPS, CONTROLLER_REVISIONS, DAEMON_SETS, DEPLOYMENTS, ENDPOINT_SLICES, ENDPOINTS,
        EVENTS, NAMESPACES, NODES, PODS, REPLICA_SETS, SECRETS, SERVICE_ACCOUNTS, SERVICES,
    },
};

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Creates an object; one of that name is fine.
    Create(&'static Kind, Box<Value>),
    /// Replaces an object, on the condition that it is still at the version the value names.
    Update(&'static Kind, Box<Value>),
    /// Merges a patch (RFC 7396) into an object, on the condition that it is still at the version the patch names.
    Merge(&'static Kind, Key, Part, Box<Value>),
    /// Deletes an object, on the condition that it has this uid. One that is gone is fine.
    Delete(&'static Kind, Key, Box<str>),
    /// Deletes the Pod of this uid from a node it may not stay on, and tells so.
    Evict {
        /// The Pod.
        pod: Key,
        /// Its uid.
        uid: Box<str>,
        /// What is told.
        event: Box<Value>,
    },
    /// Gives the Pod of this uid its node, and tells so.
    Bind {
        /// The Pod.
        pod: Key,
        /// Its uid.
        uid: Box<str>,
        /// The node.
        node: Box<str>,
        /// What is told once it is done.
        event: Box<Value>,
    },
    /// Makes and removes what a workload owns.
    Dependents(Box<Dependents>),
}

impl Action {
    /// Creates a typed object.
    pub(super) fn create<T: Resource>(kind: &'static Kind, object: &T) -> Self {
        Self::Create(kind, Box::new(object.to_value()))
    }

    /// Replaces a typed object.
    pub(super) fn update<T: Resource>(kind: &'static Kind, object: &T) -> Self {
        Self::Update(kind, Box::new(object.to_value()))
    }

    /// Deletes this very object.
    pub(super) fn delete<T: Resource>(kind: &'static Kind, object: &T) -> Self {
        Self::Delete(kind, key_of(object), object.metadata().uid.clone())
    }
}

/// What a write did to the world.
pub(super) enum Done {
    /// The object is like this now.
    Put(&'static Kind, Object),
    /// The object is gone.
    Gone(&'static Kind, Object),
    /// Several writes for a workload, and whether the last of them failed.
    Dependents(Made),
    /// Nothing to take in.
    Nothing,
}

/// Carries out one write.
pub(super) async fn execute(registry: &Registry, action: Action) -> Result<Done, ApiError> {
    let options = WriteOptions::default();
    match action {
        Action::Create(kind, value) => {
            let namespace = text(&value, "namespace");
            match registry
                .create(kind, namespace.as_deref(), *value, &options)
                .await
            {
                Err(error) if error.is_already_exists() => Ok(Done::Nothing),
                other => other.map(|object| Done::Put(kind, object)),
            }
        }
        Action::Update(kind, value) => {
            let key = (
                text(&value, "namespace").unwrap_or_default(),
                text(&value, "name").unwrap_or_default(),
            );
            let key = (key.0.into(), key.1.into());
            modify(registry, kind, key, Part::Main, |target| {
                replace(target, &value)
            })
            .await
        }
        Action::Merge(kind, key, part, patch) => {
            modify(registry, kind, key, part, |target| {
                json_patch::merge(target, &patch)
            })
            .await
        }
        Action::Delete(kind, key, uid) => delete(registry, kind, &key, uid).await,
        Action::Evict { pod, uid, event } => {
            let disrupted = registry.modify(
                &PODS,
                Some(&pod.0),
                &pod.1,
                Part::Status,
                &options,
                |target| {
                    if target["metadata"]["uid"] == *uid {
                        disrupt(target);
                    }
                    Ok(())
                },
            );
            match disrupted.await {
                Err(error) if error.is_not_found() => return Ok(Done::Nothing),
                other => drop(other?),
            }
            tell(registry, &pod, *event).await;
            delete(registry, &PODS, &pod, uid).await
        }
        Action::Dependents(dependents) => {
            let made = dependents.carry_out(registry).await;
            Ok(Done::Dependents(made))
        }
        Action::Bind {
            pod: (namespace, name),
            uid,
            node,
            event,
        } => {
            let binding = Binding {
                node: node.into(),
                uid: Some(uid.into()),
                ..Binding::default()
            };
            match registry.bind(&namespace, &name, &binding, &options).await {
                // Somebody else was faster, or the Pod is another one by now.
                Err(error) if error.is_conflict() || error.is_not_found() => Ok(Done::Nothing),
                Err(error) => Err(error),
                Ok(object) => {
                    tell(registry, &(namespace, name), *event).await;
                    Ok(Done::Put(&PODS, object))
                }
            }
        }
    }
}

/// Says in the Pod why it goes (KEP-3329).
fn disrupt(pod: &mut Value) {
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.cloned().unwrap_or_default();
    conditions.retain(|condition| condition["type"] != "DisruptionTarget");
    conditions.push(serde_json::json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint",
        "lastTransitionTime": api::meta::Time::now(),
    }));
    pod["status"]["conditions"] = conditions.into();
}

/// Writes an event; without it the work is done all the same.
pub(super) async fn tell(registry: &Registry, (namespace, name): &Key, event: Value) {
    let options = WriteOptions::default();
    let told = registry.create(&EVENTS, Some(namespace), event, &options);
    if let Err(error) = told.await {
        tracing::warn!(%error, %namespace, %name, "an event cannot be written");
    }
}

/// Deletes the object of this uid; one that is gone, or another one by now, is fine.
pub(super) async fn delete(
    registry: &Registry,
    kind: &'static Kind,
    (namespace, name): &Key,
    uid: Box<str>,
) -> Result<Done, ApiError> {
    let options = DeleteOptions {
        uid: Some(uid.into()),
        ..DeleteOptions::default()
    };
    match registry
        .delete(kind, scope(namespace), name, &options)
        .await
    {
        // Gone, or another one of that name now.
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(Done::Nothing),
        Err(error) => Err(error),
        Ok(deleted) if deleted.gone => Ok(Done::Gone(kind, deleted.object)),
        Ok(deleted) => Ok(Done::Put(kind, deleted.object)),
    }
}

async fn modify(
    registry: &Registry,
    kind: &'static Kind,
    (namespace, name): Key,
    part: Part,
    mut change: impl FnMut(&mut Value) + Send,
) -> Result<Done, ApiError> {
    let change = |target: &mut Value| {
        change(target);
        Ok(())
    };
    let options = WriteOptions::default();
    match registry
        .modify(kind, scope(&namespace), &name, part, &options, change)
        .await
    {
        // Somebody else wrote: their event is on its way and will be looked at.
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(Done::Nothing),
        other => other.map(|object| Done::Put(kind, object)),
    }
}

/// Puts a whole slim value in place of an object. Of the metadata, which slim values know only in part, the rest stays.
fn replace(target: &mut Value, value: &Value) {
    let mut metadata = target["metadata"].take();
    for part in [
        "resourceVersion",
        "labels",
        "annotations",
        "ownerReferences",
    ] {
        metadata[part] = value["metadata"].get(part).cloned().unwrap_or(Value::Null);
    }
    *target = value.clone();
    target["metadata"] = metadata;
}

fn text(value: &Value, field: &str) -> Option<String> {
    value["metadata"][field]
        .as_str()
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

fn scope(namespace: &str) -> Option<&str> {
    (!namespace.is_empty()).then_some(namespace)
}

/// Takes a write's result into the world.
pub(super) fn absorb(world: &mut World, done: &Done) {
    let (kind, object, gone) = match done {
        Done::Put(kind, object) => (*kind, object, false),
        Done::Gone(kind, object) => (*kind, object, true),
        Done::Dependents(made) => {
            return made.done.iter().for_each(|done| absorb(world, done));
        }
        Done::Nothing => return,
    };
    macro_rules! take {
        ($type:ty) => {
            take_own::<$type>(world, object, gone)
        };
    }
    match kind {
        kind if *kind == PODS => take!(api::core::Pod),
        kind if *kind == SERVICES => take!(api::core::Service),
        kind if *kind == ENDPOINTS => take!(api::core::Endpoints),
        kind if *kind == ENDPOINT_SLICES => take!(api::discovery::EndpointSlice),
        kind if *kind == NODES => take!(api::core::Node),
        kind if *kind == NAMESPACES => take!(api::core::Namespace),
        kind if *kind == SERVICE_ACCOUNTS => take!(api::core::ServiceAccount),
        kind if *kind == CONFIG_MAPS => take!(api::core::ConfigMap),
        kind if *kind == SECRETS => take!(api::core::Secret),
        kind if *kind == DEPLOYMENTS => take!(api::apps::Deployment),
        kind if *kind == REPLICA_SETS => take!(api::apps::ReplicaSet),
        kind if *kind == DAEMON_SETS => take!(api::apps::DaemonSet),
        kind if *kind == CONTROLLER_REVISIONS => take!(api::apps::ControllerRevision),
        kind => debug_assert!(
            *kind == EVENTS,
            "controllers write {kind:?}, which the world does not keep"
        ),
    }
}

/// Takes in what we wrote: the watch will say the same later.
fn take_own<T: Kept>(world: &mut World, object: &Object, gone: bool) {
    match object.decode::<T>() {
        Ok(value) if gone => world.remove_own::<T>(object.revision(), &key_of(&value)),
        _ => take::<T>(world, object, gone),
    }
}

/// Takes one object in, or forgets it.
pub(super) fn take<T: Kept>(world: &mut World, object: &Object, gone: bool) {
    match object.decode::<T>() {
        Ok(value) if gone => world.remove::<T>(object.revision(), &key_of(&value)),
        Ok(value) => world.put(object.revision(), value),
        // What does not decode is as good as not there; the registry lets nothing of the kind in.
        Err(error) => tracing::error!(%error, kind = T::KIND, "an object cannot be read"),
    }
}
