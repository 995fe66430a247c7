//! Which objects are a workload's: those that name it as their controller and match its selector. It takes what has no
//! controller and matches, and lets go of what does not match any more.
//! Source: kubernetes/kubernetes pkg/controller/controller_ref_manager.go.

use std::sync::Arc;

use api::{
    core::ObjectReference,
    meta::{ObjectMeta, OwnerReference, Resource},
    selector::LabelSelector,
};
use serde_json::json;

use crate::{
    controller::{world::key_of, write::Action},
    registry::{Kind, Part},
};

/// A workload as owner.
pub(super) struct Claimant<'a> {
    pub(super) metadata: &'a ObjectMeta,
    pub(super) reference: OwnerReference,
    selector: LabelSelector,
}

impl<'a> Claimant<'a> {
    /// A workload, unless its selector selects nothing or everything.
    pub(super) fn new<T: Resource>(
        workload: &'a T,
        selector: &api::meta::LabelSelector,
    ) -> Option<Self> {
        let selector = LabelSelector::try_from(selector).ok()?;
        let metadata = workload.metadata();
        let reference = OwnerReference {
            api_version: T::api_version().into(),
            kind: T::KIND.into(),
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        };
        let claimant = Self {
            metadata,
            reference,
            selector,
        };
        (!claimant.selector.is_empty()).then_some(claimant)
    }

    /// The workload in events.
    pub(super) fn about(&self) -> ObjectReference {
        ObjectReference {
            kind: self.reference.kind.clone(),
            api_version: self.reference.api_version.clone(),
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
            uid: self.metadata.uid.clone(),
            resource_version: self.metadata.resource_version.clone(),
            ..ObjectReference::default()
        }
    }

    /// Those of the objects that are the workload's, and the writes by which others become so or cease to be.
    pub(super) fn claim<'b, T: Resource>(
        &self,
        kind: &'static Kind,
        objects: impl Iterator<Item = &'b Arc<T>>,
    ) -> (Vec<&'b T>, Vec<Action>) {
        let (mut mine, mut writes) = (Vec::new(), Vec::new());
        let may_write = self.metadata.deletion_timestamp.is_none();
        for object in objects.map(|object| &**object) {
            let metadata = object.metadata();
            let matches = self.selector.matches(&metadata.labels);
            let owners = &metadata.owner_references;
            match metadata.controller() {
                Some(owner) if owner.uid != self.metadata.uid => {}
                Some(_) if matches => mine.push(object),
                Some(_) if may_write => {
                    let mut owners = owners.clone();
                    owners.retain(|owner| owner.uid != self.metadata.uid);
                    writes.push(write(kind, object, &owners));
                }
                None if may_write && matches && metadata.deletion_timestamp.is_none() => {
                    let mut owners = owners.clone();
                    owners.retain(|owner| owner.uid != self.metadata.uid);
                    owners.push(self.reference.clone());
                    writes.push(write(kind, object, &owners));
                }
                _ => {}
            }
        }
        (mine, writes)
    }
}

fn write<T: Resource>(kind: &'static Kind, object: &T, owners: &[OwnerReference]) -> Action {
    let patch = json!({"metadata": {
        "resourceVersion": object.metadata().resource_version,
        "ownerReferences": if owners.is_empty() { json!(null) } else { json!(owners) },
    }});
    Action::Merge(kind, key_of(object), Part::Main, Box::new(patch))
}
