//! What every object shares: metadata, times, `Status`, watch events. Group `meta.k8s.io`, version `v1`.

mod resource;
mod status;
mod time;
mod watch;

use std::collections::BTreeMap;

pub use resource::{Gvk, Resource};
pub use status::{Status, StatusCause, StatusDetails};
pub use time::{MicroTime, Time, TimeError};
pub use watch::{EventType, List, WatchEvent};

use crate::wire::wire;

/// Labels, annotations and selectors.
pub type StringMap = BTreeMap<Box<str>, Box<str>>;

wire! {
    /// The metadata of an object. `managedFields` is left to the stored JSON.
    pub struct ObjectMeta {
        name: Box<str>,
        generate_name: Box<str>,
        namespace: Box<str>,
        uid: Box<str>,
        resource_version: Box<str>,
        generation: i64,
        creation_timestamp: Option<Time>,
        deletion_timestamp: Option<Time>,
        deletion_grace_period_seconds: Option<i64>,
        labels: StringMap,
        annotations: StringMap,
        owner_references: Vec<OwnerReference>,
        finalizers: Vec<Box<str>>,
    }

    /// An owner in the same namespace, or cluster-scoped: the object goes when all its owners are gone.
    pub struct OwnerReference {
        [always] {
            api_version: Box<str>,
            kind: Box<str>,
            name: Box<str>,
            uid: Box<str>,
        }
        controller: Option<bool>,
        block_owner_deletion: Option<bool>,
    }

    /// The metadata of a list.
    pub struct ListMeta {
        resource_version: Box<str>,
        r#continue: Box<str>,
        remaining_item_count: Option<i64>,
    }

    /// A label selector as objects carry it; see [`crate::selector`] for the one in query strings.
    pub struct LabelSelector {
        match_labels: StringMap,
        match_expressions: Vec<LabelSelectorRequirement>,
    }

    /// One requirement; `operator` is `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub struct LabelSelectorRequirement {
        [always] {
            key: Box<str>,
            operator: Box<str>,
        }
        values: Vec<Box<str>>,
    }

    /// A condition in the common form (`meta/v1.Condition`).
    pub struct Condition {
        [always] {
            r#type: Box<str>,
            status: Box<str>,
            last_transition_time: Option<Time>,
            reason: Box<str>,
            message: Box<str>,
        }
        observed_generation: i64,
    }

    /// What a DELETE asks for.
    pub struct DeleteOptions {
        grace_period_seconds: Option<i64>,
        preconditions: Option<Preconditions>,
        orphan_dependents: Option<bool>,
        propagation_policy: Option<Box<str>>,
        dry_run: Vec<Box<str>>,
    }

    /// What must hold of the stored object for a write to happen.
    pub struct Preconditions {
        uid: Option<Box<str>>,
        resource_version: Option<Box<str>>,
    }
}

impl ObjectMeta {
    /// True from the first DELETE on, while finalizers or a grace period keep the object.
    pub fn is_terminating(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// The owner that manages this object, if any: at most one reference is the controller's.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references
            .iter()
            .find(|owner| owner.controller == Some(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_read_as_absent_and_defaults_are_not_written() {
        let meta: ObjectMeta = serde_json::from_str(
            r#"{"name":"a","creationTimestamp":null,"labels":null,"unknown":1}"#,
        )
        .unwrap();
        assert_eq!(&*meta.name, "a");
        assert_eq!(serde_json::to_string(&meta).unwrap(), r#"{"name":"a"}"#);
    }

    #[test]
    fn kept_fields_are_written_even_when_zero() {
        let owner = serde_json::to_string(&OwnerReference::default()).unwrap();
        assert_eq!(owner, r#"{"apiVersion":"","kind":"","name":"","uid":""}"#);
        let list = ListMeta {
            r#continue: "t".into(),
            ..ListMeta::default()
        };
        assert_eq!(serde_json::to_string(&list).unwrap(), r#"{"continue":"t"}"#);
    }
}
