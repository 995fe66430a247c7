//! Status and conditions of workloads, and since when Pods count as available.

use api::{
    apps::WorkloadCondition,
    core::Pod,
    meta::{Resource, Time},
};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    controller::{world::key_of, write::Action},
    registry::{Kind, Part},
};

/// The write that makes an object's status another one, if it is.
pub(super) fn status_write<T: Resource, S: Serialize>(
    kind: &'static Kind,
    object: &T,
    before: &S,
    after: &S,
) -> Option<Action> {
    let status = difference(&json!(before), &json!(after));
    if status.is_empty() {
        return None;
    }
    let patch = json!({
        "metadata": {"resourceVersion": object.metadata().resource_version},
        "status": status,
    });
    let key = key_of(object);
    Some(Action::Merge(kind, key, Part::Status, Box::new(patch)))
}

/// The merge patch between two values, field by field.
pub(super) fn difference(before: &Value, after: &Value) -> Map<String, Value> {
    let fields = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let (before, after) = (fields(before), fields(after));
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    let gone: Vec<String> = gone.cloned().collect();
    let changed = after
        .into_iter()
        .filter(|(name, value)| before.get(name) != Some(value));
    changed
        .chain(gone.into_iter().map(|name| (name, Value::Null)))
        .collect()
}

pub(super) fn find<'a>(
    conditions: &'a [WorkloadCondition],
    name: &str,
) -> Option<&'a WorkloadCondition> {
    conditions
        .iter()
        .find(|condition| &*condition.r#type == name)
}

/// Sets a condition; one of the same status and reason stays as it is.
pub(super) fn set(conditions: &mut Vec<WorkloadCondition>, mut new: WorkloadCondition) {
    if let Some(known) = find(conditions, &new.r#type) {
        if known.status == new.status && known.reason == new.reason {
            return;
        }
        if known.status == new.status {
            new.last_transition_time = known.last_transition_time;
        }
    }
    remove(conditions, &new.r#type.clone());
    conditions.push(new);
}

pub(super) fn remove(conditions: &mut Vec<WorkloadCondition>, name: &str) {
    conditions.retain(|condition| &*condition.r#type != name);
}

pub(super) fn condition(
    name: &str,
    status: &str,
    (reason, message): (&str, String),
    now: Timestamp,
) -> WorkloadCondition {
    WorkloadCondition {
        r#type: name.into(),
        status: status.into(),
        last_update_time: Some(Time::from(now)),
        last_transition_time: Some(Time::from(now)),
        reason: reason.into(),
        message: message.into(),
    }
}

/// A Pod that runs or may still run, and is to stay.
pub(super) fn is_active(pod: &Pod) -> bool {
    !pod.is_finished() && pod.metadata.deletion_timestamp.is_none()
}

/// Whether a Pod has been ready for long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Availability {
    NotReady,
    /// Ready, and available from then on.
    From(Timestamp),
    Available,
}

pub(super) fn availability(pod: &Pod, min_ready_secs: i32, now: Timestamp) -> Availability {
    let Some(ready) = pod.status.condition("Ready").filter(|_| pod.is_ready()) else {
        return Availability::NotReady;
    };
    if min_ready_secs <= 0 {
        return Availability::Available;
    }
    let since = ready.last_transition_time.map_or(now, Time::timestamp);
    let wait = SignedDuration::from_secs(min_ready_secs.into());
    let from = since.checked_add(wait).unwrap_or(Timestamp::MAX);
    if from <= now {
        Availability::Available
    } else {
        Availability::From(from)
    }
}
