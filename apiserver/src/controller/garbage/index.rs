//! Who names whom as owner, and what a change of that concerns. Pure: stored bytes in, keys of objects to look at out.

use std::collections::{BTreeSet, HashMap, HashSet};

use api::meta::OwnerReference;
use bytes::Bytes;
use serde::Deserialize;

use crate::registry::Propagation;

/// The key of an object in the store.
pub(super) type Key = Bytes;

/// Objects with owners, and owners that wait for their dependents.
#[derive(Debug, Default)]
pub(super) struct Index {
    tracked: HashMap<Key, Tracked>,
    /// By the owner's uid.
    dependents: HashMap<Box<str>, BTreeSet<Key>>,
    /// The owners that wait, by uid.
    waiting: HashMap<Box<str>, Key>,
    /// The owners that were seen to go, by uid, as long as somebody names them.
    gone: HashSet<Box<str>>,
    dirty: BTreeSet<Key>,
}

/// What is remembered of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tracked {
    uid: Box<str>,
    owners: Vec<Owner>,
    waits: Option<Propagation>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    uid: Box<str>,
    /// Whether the owner, deleted in the foreground, waits for this one.
    blocked: bool,
}

impl Index {
    /// Takes in a new version of an object; `previous` is the one it replaces.
    pub(super) fn put(&mut self, key: &Key, previous: Option<&Bytes>, stored: &[u8]) {
        let was_told = previous.is_some_and(|bytes| tells(bytes));
        if !was_told && !tells(stored) {
            return;
        }
        let before = self.tracked.remove(key);
        let now = Tracked::read(stored);
        if before == now {
            self.tracked.extend(now.map(|now| (key.clone(), now)));
            return;
        }
        if let Some(before) = &before {
            self.forget(key, before);
        }
        for owner in now.iter().flat_map(|now| &now.owners) {
            let of_owner = self.dependents.entry(owner.uid.clone()).or_default();
            of_owner.insert(key.clone());
        }
        self.forget_gone(before.as_ref());
        let Some(now) = now else { return };
        if now.waits.is_some() {
            self.waiting.insert(now.uid.clone(), key.clone());
            if now.waits == Some(Propagation::Foreground)
                && before.is_none_or(|before| before.waits != now.waits)
            {
                self.mark_dependents(&now.uid);
            }
        }
        self.dirty.insert(key.clone());
        self.tracked.insert(key.clone(), now);
    }

    /// Takes in that an object is gone; `last` is its last version.
    pub(super) fn remove(&mut self, key: &Key, last: Option<&Bytes>) {
        let before = self.tracked.remove(key);
        if let Some(before) = &before {
            self.forget(key, before);
        }
        self.forget_gone(before.as_ref());
        self.dirty.remove(key);
        if self.dependents.is_empty() {
            return;
        }
        if let Some(uid) = last.and_then(|bytes| Stored::read(bytes)) {
            let uid = uid.metadata.uid;
            self.mark_dependents(&uid);
            if self.dependents.contains_key(&uid) {
                self.gone.insert(uid);
            }
        }
    }

    /// Whether the owner was seen to go. With its definition a custom resource's kind goes too: then it cannot be looked up.
    pub(super) fn is_gone(&self, uid: &str) -> bool {
        self.gone.contains(uid)
    }

    /// Takes an object out of the maps; owners that may have waited for it are to be looked at.
    fn forget(&mut self, key: &Key, before: &Tracked) {
        for owner in &before.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(key);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
            self.dirty.extend(self.waiting.get(&owner.uid).cloned());
        }
        if before.waits.is_some() {
            self.waiting.remove(&before.uid);
        }
    }

    /// Owners that are gone and that nobody names any more need not be known.
    fn forget_gone(&mut self, before: Option<&Tracked>) {
        for owner in before.into_iter().flat_map(|before| &before.owners) {
            if !self.dependents.contains_key(&owner.uid) {
                self.gone.remove(&owner.uid);
            }
        }
    }

    fn mark_dependents(&mut self, uid: &str) {
        let dependents = self.dependents.get(uid).into_iter().flatten();
        self.dirty.extend(dependents.cloned());
    }

    /// The objects that name this uid as an owner.
    pub(super) fn dependents(&self, uid: &str) -> impl Iterator<Item = &Key> {
        self.dependents.get(uid).into_iter().flatten()
    }

    /// Whether an object other than the owner itself holds its deletion in the foreground back.
    pub(super) fn is_blocked(&self, key: &Key, uid: &str) -> bool {
        let mut others = self.dependents(uid).filter(|dependent| *dependent != key);
        others.any(|dependent| {
            let owners = self.tracked.get(dependent).map(|it| it.owners.as_slice());
            let mut owners = owners.unwrap_or_default().iter();
            owners.any(|owner| owner.blocked && &*owner.uid == uid)
        })
    }

    /// Whether a dependent of this one waits for its own dependents: then each may wait for the other.
    pub(super) fn may_be_in_a_circle(&self, uid: &str) -> bool {
        self.dependents(uid).any(|dependent| {
            let waits = self.tracked.get(dependent).and_then(|it| it.waits);
            waits == Some(Propagation::Foreground)
        })
    }

    pub(super) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Marks objects to be looked at.
    pub(super) fn mark(&mut self, keys: impl IntoIterator<Item = Key>) {
        self.dirty.extend(keys);
    }

    /// Some of the objects to be looked at.
    pub(super) fn take_dirty(&mut self, at_most: usize) -> Vec<Key> {
        let some = std::iter::from_fn(|| self.dirty.pop_first());
        some.take(at_most).collect()
    }
}

impl Tracked {
    /// What there is to remember of an object, if anything.
    fn read(stored: &[u8]) -> Option<Self> {
        let Metadata {
            uid,
            owner_references,
            finalizers,
            deletion_timestamp,
        } = Stored::read(stored)?.metadata;
        let waits = deletion_timestamp.and_then(|_| {
            let called = |policy: &Propagation| {
                let finalizer = policy.finalizer();
                finalizers.iter().any(|held| Some(&**held) == finalizer)
            };
            let mut waiting = [Propagation::Orphan, Propagation::Foreground].into_iter();
            waiting.find(called)
        });
        let owners: Vec<Owner> = owner_references
            .into_iter()
            .map(|owner| Owner {
                uid: owner.uid,
                blocked: owner.block_owner_deletion == Some(true),
            })
            .collect();
        (waits.is_some() || !owners.is_empty()).then_some(Self { uid, owners, waits })
    }
}

/// The part of a stored object that counts here. What follows the JSON, its managedFields, is not looked at.
#[derive(Deserialize)]
struct Stored {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    uid: Box<str>,
    #[serde(default)]
    owner_references: Vec<OwnerReference>,
    #[serde(default)]
    finalizers: Vec<Box<str>>,
    deletion_timestamp: Option<Box<str>>,
}

impl Stored {
    fn read(stored: &[u8]) -> Option<Self> {
        let mut json = serde_json::Deserializer::from_slice(stored);
        Self::deserialize(&mut json).ok()
    }
}

/// Whether the bytes can be of an object with owners, or of one that waits. Most are not, and are not parsed.
fn tells(stored: &[u8]) -> bool {
    let has = |field: &[u8]| memchr::memmem::find(stored, field).is_some();
    has(b"\"ownerReferences\"") || (has(b"\"deletionTimestamp\"") && has(b"\"finalizers\""))
}
