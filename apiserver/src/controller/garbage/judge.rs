//! What is to be done about one object: pure, from what it is and what its owners are.
//! Source: kubernetes/kubernetes pkg/controller/garbagecollector/garbagecollector.go, attemptToDeleteItem.

use bytes::Bytes;
use serde_json::Value;

use super::{index::Index, uid};
use crate::registry::{Propagation, kinds::items, meta};

/// So many dependents are orphaned before the owner is looked at again.
const ORPHANED_AT_ONCE: usize = 256;

/// What an owner is, looked up by kind, name and uid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnerState {
    /// It exists.
    Solid,
    /// It exists and waits, deleted in the foreground, for its dependents.
    Waiting,
    /// There is none of this uid.
    Absent,
    /// It cannot be looked up, and why.
    Unknown(&'static str),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Keep,
    /// Nothing, and that is worth a word.
    Odd {
        /// The uid of the owner.
        owner: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Its owners are gone: it goes, the way its own finalizers say.
    Delete,
    /// Its owner waits for it, so it waits for its own dependents.
    DeleteForeground,
    /// The same, but it and what it waits for may wait for each other: first it stops holding back its owners.
    Unblock,
    /// It loses these owners and stays, for it has others.
    Disown(Vec<String>),
    /// It waits for nobody any more: this finalizer goes.
    Release(&'static str),
    /// These still name it as their owner and must not.
    Orphan(Vec<Bytes>),
}

/// The owner references of an object.
pub(super) fn owners(object: &Value) -> &[Value] {
    items(&object["metadata"]["ownerReferences"])
}

/// The same, to be changed.
pub(super) fn owners_mut(object: &mut Value) -> &mut [Value] {
    let owners = object.pointer_mut("/metadata/ownerReferences");
    let owners = owners.and_then(Value::as_array_mut);
    owners.map_or(&mut [], Vec::as_mut_slice)
}

/// What the object found under an owner's name is to who means this uid.
pub(super) fn state_of(found: &Value, wanted_uid: &str) -> OwnerState {
    if meta::text(found, "uid") != wanted_uid {
        OwnerState::Absent
    } else if meta::is_terminating(found) && waits(found, Propagation::FOREGROUND_FINALIZER) {
        OwnerState::Waiting
    } else {
        OwnerState::Solid
    }
}

fn waits(object: &Value, finalizer: &str) -> bool {
    meta::finalizers(object).contains(&finalizer)
}

/// What is to be done about the object at `key`, whose owners, by uid, are as given.
pub(super) fn judge(
    key: &Bytes,
    object: &Value,
    owners: &[(&str, OwnerState)],
    index: &Index,
) -> Verdict {
    let own_uid = uid(&object["metadata"]);
    if meta::is_terminating(object) {
        return judge_terminating(key, object, own_uid, index);
    }
    let mut lost = Vec::new();
    let mut solid = false;
    let mut waiting = false;
    let mut odd = None;
    for (uid, state) in owners {
        match state {
            OwnerState::Solid => solid = true,
            OwnerState::Waiting => {
                waiting = true;
                lost.push((*uid).to_owned());
            }
            OwnerState::Absent => lost.push((*uid).to_owned()),
            OwnerState::Unknown(why) => {
                odd = odd.or(Some(Verdict::Odd {
                    owner: (*uid).to_owned(),
                    why,
                }));
            }
        }
    }
    match odd {
        Some(odd) => odd,
        None if lost.is_empty() => Verdict::Keep,
        None if solid => Verdict::Disown(lost),
        None if waiting && index.dependents(own_uid).next().is_some() => {
            let blocks = self::owners(object)
                .iter()
                .any(|owner| owner["blockOwnerDeletion"] == true);
            if blocks && index.may_be_in_a_circle(own_uid) {
                Verdict::Unblock
            } else {
                Verdict::DeleteForeground
            }
        }
        None => Verdict::Delete,
    }
}

fn judge_terminating(key: &Bytes, object: &Value, uid: &str, index: &Index) -> Verdict {
    if waits(object, Propagation::ORPHAN_FINALIZER) {
        let dependents = index.dependents(uid).take(ORPHANED_AT_ONCE);
        let dependents: Vec<Bytes> = dependents.cloned().collect();
        return if dependents.is_empty() {
            Verdict::Release(Propagation::ORPHAN_FINALIZER)
        } else {
            Verdict::Orphan(dependents)
        };
    }
    if waits(object, Propagation::FOREGROUND_FINALIZER) && !index.is_blocked(key, uid) {
        return Verdict::Release(Propagation::FOREGROUND_FINALIZER);
    }
    Verdict::Keep
}
