//! Keys, values and revisions: etcd's contract, whatever keeps the bytes.
//!
//! This module knows nothing of Kubernetes objects: keys and values are bytes. One global, strictly increasing
//! [`Revision`] orders every change of every key; a watch from a revision sees each later change exactly once.

pub mod embedded;
pub mod engine;
mod sketch;

pub use embedded::EmbeddedStore;
pub use sketch::Sketch;

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

/// The position of a change in the one global order. `Revision(0)` is before every change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// One version of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The whole key, for example `/registry/services/default/my-service`.
    pub key: Bytes,
    /// The value as it was written.
    pub value: Bytes,
    /// The revision that created the key (since its last deletion).
    pub created: Revision,
    /// The revision that wrote this version.
    pub modified: Revision,
    /// 1 when created, one more with each write.
    pub version: u64,
    /// What a reader noted about the value.
    pub sketch: Sketch,
}

/// What must be true of a key for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key exists and was last written at this revision.
    Modified(Revision),
    /// Anything, including nothing. A delete of an absent key then changes nothing.
    Any,
}

/// What a write does to its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sets the value; with `ttl` the store deletes the key after that time unless it is written again.
    Put {
        /// The new value.
        value: Bytes,
        /// Time to live, counted from the commit.
        ttl: Option<Duration>,
    },
    /// Removes the key.
    Delete,
    /// Checks the expectation only.
    Check,
}

/// One conditional write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key written.
    pub key: Bytes,
    /// The condition.
    pub expect: Expect,
    /// The change.
    pub operation: Operation,
}

/// When a commit may be acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// On stable storage first. Nothing is visible to anyone before it is durable.
    #[default]
    Strict,
    /// At once; on stable storage with the next strict commit, or within ten seconds. For heartbeats and Events.
    Relaxed,
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every write happened, all at this one revision.
    Committed {
        /// The revision of the whole transaction.
        revision: Revision,
        /// The previous version of each key, in the order of the writes.
        previous: Vec<Option<Arc<Record>>>,
    },
    /// No write happened: the expectation of `writes[index]` did not hold.
    Conflict {
        /// Which write was refused.
        index: usize,
        /// The key as it is now.
        current: Option<Arc<Record>>,
        /// The store's revision when it refused.
        revision: Revision,
    },
}

/// Which part of a key range to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Read the state as of this revision; `None` is the newest.
    pub at: Option<Revision>,
    /// Begin at this key (inclusive) instead of the range's start.
    pub from: Option<Bytes>,
    /// At most this many records; 0 is no limit.
    pub limit: usize,
    /// Leave out records whose sketch is made and lacks one of these bits.
    pub sketch: u64,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The records, ordered bytewise by key.
    pub records: Vec<Arc<Record>>,
    /// The revision of the snapshot.
    pub revision: Revision,
    /// How many records of the range follow after this page.
    pub remaining: usize,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The revision of the change. Several events share it when one transaction wrote several keys.
    pub revision: Revision,
    /// The key.
    pub key: Bytes,
    /// The version written; `None` is a deletion.
    pub current: Option<Arc<Record>>,
    /// The version before; `None` is a creation.
    pub previous: Option<Arc<Record>>,
}

/// What a watch yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// Changes in revision order; a transaction is never split over two batches.
    Events(Vec<Arc<Event>>),
    /// Everything up to this revision has been delivered; asked for by [`Watch::progress`].
    Progress(Revision),
}

/// A running watch: a cursor into the history, no queue of its own.
#[async_trait]
pub trait Watch: Send {
    /// The next changes, as soon as there are any.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when this watcher fell behind the kept history; it must list again.
    async fn next(&mut self) -> Result<WatchItem, StoreError>;
    /// The revision up to which this watcher has seen everything, and the newest, without waiting.
    fn progress(&self) -> Revision;
}

/// A store with etcd's contract. Implemented by the embedded store and, later, by etcd.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// The newest revision.
    fn current(&self) -> Revision;
    /// One key, at a revision or now.
    ///
    /// # Errors
    /// [`StoreError::Compacted`], [`StoreError::Future`].
    async fn get(
        &self,
        key: &[u8],
        at: Option<Revision>,
    ) -> Result<Option<Arc<Record>>, StoreError>;
    /// A range of keys as one snapshot.
    ///
    /// # Errors
    /// [`StoreError::Compacted`], [`StoreError::Future`].
    async fn list(&self, keys: Range<Bytes>, options: ListOptions) -> Result<Page, StoreError>;
    /// All of these writes at one revision, or none of them. An empty transaction is refused as a programming error.
    ///
    /// # Errors
    /// [`StoreError::Malformed`], [`StoreError::TooLarge`], [`StoreError::NoSpace`], [`StoreError::Unavailable`].
    async fn commit(
        &self,
        writes: Vec<Write>,
        durability: Durability,
    ) -> Result<Outcome, StoreError>;
    /// Changes of a key range after a revision, replayed and then live, with no seam.
    ///
    /// # Errors
    /// [`StoreError::Compacted`].
    async fn watch(
        &self,
        keys: Range<Bytes>,
        after: Revision,
    ) -> Result<Box<dyn Watch>, StoreError>;
    /// Forgets history up to and including this revision's predecessors.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when already compacted further, [`StoreError::Future`].
    async fn compact(&self, to: Revision) -> Result<(), StoreError>;
}

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// That revision's history is gone: list again.
    #[error("revision {wanted:?} is compacted; the oldest kept is {oldest:?}")]
    Compacted {
        /// The revision asked for.
        wanted: Revision,
        /// The oldest one still answered.
        oldest: Revision,
    },
    /// That revision does not exist yet.
    #[error("revision {wanted:?} is in the future; the newest is {current:?}")]
    Future {
        /// The revision asked for.
        wanted: Revision,
        /// The newest one.
        current: Revision,
    },
    /// A value above 1.5 MiB.
    #[error("value of {key} is {size_bytes} bytes; the limit is {limit_bytes}")]
    TooLarge {
        /// The key, lossily as text.
        key: String,
        /// The size of the refused value.
        size_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// A transaction without writes, or with two for one key, which could not have one revision.
    #[error("malformed transaction: {0}")]
    Malformed(&'static str),
    /// The disk is nearly full: reads and deletes go on, what would fill it is refused.
    #[error(
        "the disk of {path} is nearly full: {} MiB are free, {} MiB must be. Free some space; reading and deleting go on",
        free_bytes >> 20, required_bytes >> 20
    )]
    NoSpace {
        /// The data directory.
        path: String,
        /// What is free.
        free_bytes: u64,
        /// What must be free.
        required_bytes: u64,
    },
    /// Another process has the store open.
    #[error(
        "the store in {path} is in use by another process: stop it, or choose another --data-dir"
    )]
    Locked {
        /// The data directory.
        path: String,
    },
    /// The files cannot be read back. Never repaired silently.
    #[error(
        "the store in {path} is damaged: {detail}. Restore it from a snapshot, or move it aside to start empty"
    )]
    Corrupt {
        /// The data directory.
        path: String,
        /// What the engine reported.
        detail: String,
    },
    /// The store is shutting down or its engine failed.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// A file operation failed.
    #[error("{operation} {path}: {source}{}", advice(source))]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On which path.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
}

/// What to do about a file operation's failure, where that is known.
fn advice(source: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ": free some space, then start again",
        ErrorKind::FileTooLarge => {
            ": raise this process's limit of file sizes (ulimit -f, LimitFSIZE=)"
        }
        ErrorKind::ReadOnlyFilesystem => ": mount the file system for writing",
        ErrorKind::PermissionDenied => ": give this user the file, or run as the user who owns it",
        _ => "",
    }
}
