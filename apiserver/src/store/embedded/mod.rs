//! The embedded store: every read from memory, one committer thread, an engine that makes commits durable.
//!
//! `state` holds all versions, `committer` is the only writer, `disk` is the byte layout, `space` guards against a full disk.
//! Revisions never repeat: blocks of them are reserved on disk ahead (the fence), and after an unclean stop the store goes on
//! above the reserve.

mod committer;
mod disk;
mod space;
mod state;
mod version;

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, mpsc},
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use self::{
    committer::{Command, Committer},
    space::Space,
    state::State,
};
use super::{
    Backend, Durability, ListOptions, Outcome, Page, Record, Revision, StoreError, Watch,
    WatchItem, Write,
    engine::{KvEngine, SledEngine},
};

/// A commit that waits this long, twice in a row, waits for ever: sled can deadlock, a disk can hang. (Once may be this
/// process having been stopped for a while.)
const STALLED: Duration = Duration::from_secs(5);
/// The revision of a store in which nothing was ever written; 0 has a meaning of its own for clients.
const FIRST: Revision = Revision(1);

/// Why the store stopped accepting writes for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

impl From<&StoreError> for Failure {
    fn from(error: &StoreError) -> Self {
        Self(error.to_string())
    }
}

/// A store in this process. Clones share it.
#[derive(Clone, Debug)]
pub struct EmbeddedStore {
    state: Arc<RwLock<State>>,
    commands: mpsc::Sender<Command>,
    tick: watch::Receiver<Revision>,
    failure: Arc<watch::Sender<Option<Failure>>>,
}

impl EmbeddedStore {
    /// Opens or creates the durable store in `dir`.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        space::make_room(dir);
        Self::with_engine(SledEngine::open(dir)?, Some(dir.to_owned()))
    }

    /// Opens the store on any engine; `disk` is the directory whose free space is watched.
    ///
    /// # Errors
    /// As [`EmbeddedStore::open`].
    pub fn with_engine<E: KvEngine>(engine: E, disk: Option<PathBuf>) -> Result<Self, StoreError> {
        let path = disk
            .as_ref()
            .map_or_else(|| "memory".to_owned(), |dir| dir.display().to_string());
        let found = disk::read(&engine, &path)?;
        // After an unclean stop a revision of the lost tail may have been seen by somebody: never give it out again.
        let start = found.clean.unwrap_or(found.fence).max(FIRST);
        let mut state = State::starting_at(start);
        let mut expiries = BinaryHeap::new();
        for (record, expiry) in found.records {
            if expiry != 0 {
                expiries.push(Reverse((expiry, record.modified, record.key.clone())));
            }
            state.restore(record);
        }
        let state = Arc::new(RwLock::new(state));
        let (commands, received) = mpsc::channel();
        let (tick, ticks) = watch::channel(start);
        let failure = Arc::new(watch::Sender::new(None));
        if let Some(dir) = &disk {
            version::check(dir, &engine, found.fresh)?;
        } else if found.fresh {
            engine.apply(vec![disk::format()])?;
        }
        let committer = Committer {
            engine,
            state: Arc::clone(&state),
            commands: received,
            tick,
            failure: Arc::clone(&failure),
            space: Space::new(disk),
            chunks: found.chunks,
            fence: start,
            expiries,
            // From the first commit on a stop is unclean until it is marked as clean.
            relaxed: vec![disk::clean(None)],
            relaxed_bytes: 0,
            relaxed_since: None,
            carried: None,
            compacted: (Instant::now(), start),
        };
        let spawned = thread::Builder::new()
            .name("committer".into())
            .spawn(|| committer.run());
        spawned.map_err(|source| StoreError::Io {
            operation: "start the committer of",
            path,
            source,
        })?;
        Ok(Self {
            state,
            commands,
            tick: ticks,
            failure,
        })
    }

    /// Writes what is not on disk yet and marks the stop as clean: the next start continues at this very revision.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.ask(|reply| Command::Close { reply }).await
    }

    /// Completes when the engine has failed and the process should end: memory is ahead of the disk for ever.
    pub async fn failed(&self) -> Failure {
        let mut failures = self.failure.subscribe();
        let failure = failures.wait_for(Option::is_some).await;
        failure
            .ok()
            .and_then(|failure| failure.clone())
            .expect("this store holds the sender, and was waited for")
    }

    /// The engine's last words, if it has failed.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        self.failure.borrow().clone()
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let gone = || match &*self.failure.borrow() {
            Some(Failure(reason)) => StoreError::Unavailable(reason.clone()),
            None => StoreError::Unavailable("it is closed".to_owned()),
        };
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_| gone())?;
        answered(answer, &self.failure)
            .await
            .unwrap_or_else(|| Err(gone()))
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the committer, but not for ever; `None` when there will be no answer.
async fn answered<T>(
    mut answer: oneshot::Receiver<T>,
    failure: &watch::Sender<Option<Failure>>,
) -> Option<T> {
    for _ in 0..2 {
        if let Ok(answer) = tokio::time::timeout(STALLED, &mut answer).await {
            return answer.ok();
        }
    }
    failure.send_if_modified(|failure| {
        let first = failure.is_none();
        let seconds = 2 * STALLED.as_secs();
        failure.get_or_insert_with(|| Failure(format!("no commit for {seconds} s")));
        first
    });
    None
}

#[async_trait]
impl Backend for EmbeddedStore {
    fn current(&self) -> Revision {
        self.state().current()
    }

    async fn get(
        &self,
        key: &[u8],
        at: Option<Revision>,
    ) -> Result<Option<Arc<Record>>, StoreError> {
        self.state().get(key, at)
    }

    async fn list(&self, keys: Range<Bytes>, options: ListOptions) -> Result<Page, StoreError> {
        self.state().list(keys, &options)
    }

    async fn commit(
        &self,
        writes: Vec<Write>,
        durability: Durability,
    ) -> Result<Outcome, StoreError> {
        self.ask(|reply| Command::Commit {
            writes,
            durability,
            reply,
        })
        .await
    }

    async fn watch(
        &self,
        keys: Range<Bytes>,
        after: Revision,
    ) -> Result<Box<dyn Watch>, StoreError> {
        // Whether that history is still there is known now, not at the first event.
        self.state().changes(&(Bytes::new()..Bytes::new()), after)?;
        Ok(Box::new(Cursor {
            store: self.clone(),
            keys,
            seen: after,
        }))
    }

    async fn compact(&self, to: Revision) -> Result<(), StoreError> {
        self.ask(|reply| Command::Compact { to, reply }).await
    }
}

/// A watch: a place in the shared history.
struct Cursor {
    store: EmbeddedStore,
    keys: Range<Bytes>,
    seen: Revision,
}

#[async_trait]
impl Watch for Cursor {
    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        loop {
            let newest = *self.store.tick.borrow_and_update();
            if newest > self.seen {
                let (events, seen) = self.store.state().changes(&self.keys, self.seen)?;
                self.seen = seen;
                if !events.is_empty() {
                    return Ok(WatchItem::Events(events));
                }
            }
            if self.store.tick.changed().await.is_err() {
                return Err(StoreError::Unavailable("it is closed".to_owned()));
            }
        }
    }

    fn progress(&self) -> Revision {
        self.seen
    }
}
