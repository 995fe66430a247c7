//! The one thread that writes: drain, check, assign revisions, make durable, publish, acknowledge.
//!
//! What arrives while the disk is busy forms the next batch, so no timer is needed to batch.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, PoisonError, RwLock,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use super::{
    Failure,
    disk::{self, Chunks},
    state::State,
};
use crate::store::{
    Durability, Event, Expect, Operation, Outcome, Record, Revision, Sketch, StoreError, Write,
    engine::{KvEngine, Op, panic_text},
};

/// Commands and bytes of one batch: more would risk a deadlock in sled, and everybody's latency. A larger transaction goes
/// alone.
const BATCH_COMMANDS: usize = 256;
const BATCH_BYTES: usize = 1 << 20;
/// Relaxed commits of more than this are flushed at once, to leave the batch they go with its room.
const RELAXED_BYTES: usize = 128 << 10;
/// Revisions are reserved on disk in blocks; a new block is begun when fewer than the second remain.
const FENCE_BLOCK: u64 = 10_000;
const FENCE_LOW: u64 = 1_000;
/// A relaxed write is on disk after this at the latest.
const RELAXED_DELAY: Duration = Duration::from_secs(10);
/// History is compacted this often, to what it was the last time but not to fewer events than this ...
const COMPACT_EVERY: Duration = Duration::from_secs(300);
const HISTORY_KEPT: usize = 1_000;
/// ... or earlier, to half of these, when it has grown beyond one of them: large values must not fill the memory.
const HISTORY_EVENTS: usize = 100_000;
const HISTORY_BYTES: usize = 64 << 20;
/// At most this many expired keys are deleted in one batch.
const EXPIRED_AT_ONCE: usize = 256;

pub(super) enum Command {
    Commit {
        writes: Vec<Write>,
        durability: Durability,
        reply: oneshot::Sender<Result<Outcome, StoreError>>,
    },
    Compact {
        to: Revision,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    Close {
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
}

/// What one commit became, and whom to tell.
struct Answer {
    outcome: Result<Outcome, StoreError>,
    reply: oneshot::Sender<Result<Outcome, StoreError>>,
}

/// A batch on its way: what it changes, not yet visible to anyone.
#[derive(Default)]
struct Batch {
    bytes: usize,
    overlay: HashMap<Bytes, Option<Arc<Record>>>,
    events: Vec<Arc<Event>>,
    answers: Vec<Answer>,
    strict: bool,
}

pub(super) struct Committer<E> {
    pub(super) engine: E,
    pub(super) state: Arc<RwLock<State>>,
    pub(super) commands: Receiver<Command>,
    pub(super) tick: watch::Sender<Revision>,
    pub(super) failure: Arc<watch::Sender<Option<Failure>>>,
    pub(super) space: super::space::Space,
    pub(super) chunks: Chunks,
    pub(super) fence: Revision,
    pub(super) expiries: BinaryHeap<Reverse<(u64, Revision, Bytes)>>,
    /// Operations of relaxed commits that are visible but not on disk yet, and since when.
    pub(super) relaxed: Vec<Op>,
    pub(super) relaxed_bytes: usize,
    pub(super) relaxed_since: Option<Instant>,
    /// The command that did not fit the last batch.
    pub(super) carried: Option<Command>,
    pub(super) compacted: (Instant, Revision),
}

impl Batch {
    fn is_full_for(&self, writes: &[Write]) -> bool {
        let bytes = self.bytes + weight(writes);
        self.answers.len() >= BATCH_COMMANDS || self.bytes > 0 && bytes > BATCH_BYTES
    }
}

impl<E: KvEngine> Committer<E> {
    /// Runs until the store is closed, every handle is dropped, or the engine fails.
    pub(super) fn run(mut self) {
        // sled answers some damage, and a full disk, with a panic.
        let ended = catch_unwind(AssertUnwindSafe(|| self.serve()))
            .unwrap_or_else(|panic| Err(StoreError::Unavailable(panic_text(&*panic))));
        match ended {
            Ok(closing) => {
                // Whoever closes the store may open it again: the lock goes first.
                drop(self);
                if let Some(reply) = closing {
                    let _ = reply.send(Ok(()));
                }
            }
            Err(error) => {
                self.fail(&error);
                // The engine's own end would write once more what could not be written. The process ends soon, and the
                // engine with it; until then nobody waits for an answer.
                let Self {
                    engine, commands, ..
                } = self;
                std::mem::forget(engine);
                drop(commands);
            }
        }
    }

    /// Batch after batch; ends with whom to tell that the store is closed.
    fn serve(&mut self) -> Result<Option<oneshot::Sender<Result<(), StoreError>>>, StoreError> {
        loop {
            let first = match self.carried.take() {
                Some(carried) => Some(carried),
                None => match self.commands.recv_timeout(self.idle_time()) {
                    Ok(command) => Some(command),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => {
                        self.close()?;
                        return Ok(None);
                    }
                },
            };
            if let Some(reply) = self.round(first)? {
                self.close()?;
                return Ok(Some(reply));
            }
        }
    }

    fn fail(&self, error: &StoreError) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            if first {
                tracing::error!(%error, "the store has failed and accepts nothing any more");
                *failure = Some(Failure::from(error));
            }
            first
        });
    }

    /// One batch; ends with whom to tell when the store is to be closed after it.
    fn round(
        &mut self,
        first: Option<Command>,
    ) -> Result<Option<oneshot::Sender<Result<(), StoreError>>>, StoreError> {
        let mut batch = Batch::default();
        let mut next = self.state().current();
        let mut closing = None;
        self.expire(&mut batch, &mut next);
        let mut command = first;
        while let Some(taken) = command {
            match taken {
                Command::Commit { ref writes, .. } if batch.is_full_for(writes) => {
                    self.carried = Some(taken);
                    break;
                }
                Command::Commit {
                    writes,
                    durability,
                    reply,
                } => self.execute(&mut batch, &mut next, writes, durability, reply),
                Command::Compact { to, reply } => {
                    let _ = reply.send(self.state_mut().compact(to));
                }
                Command::Close { reply } => {
                    closing = Some(reply);
                    break;
                }
            }
            command = self.commands.try_recv().ok();
        }
        self.publish(batch, next)?;
        self.compact_when_due();
        Ok(closing)
    }

    /// Checks one commit against memory and the batch so far, and adds it or its refusal to the batch.
    fn execute(
        &mut self,
        batch: &mut Batch,
        next: &mut Revision,
        writes: Vec<Write>,
        durability: Durability,
        reply: oneshot::Sender<Result<Outcome, StoreError>>,
    ) {
        batch.bytes += weight(&writes);
        let state = &self.state;
        let admitted = self.space.admit(&writes, |key| {
            let present = match batch.overlay.get(key) {
                Some(written) => written.clone(),
                None => {
                    let state = state.read().unwrap_or_else(PoisonError::into_inner);
                    state.newest(key).cloned()
                }
            };
            present.map(|record| record.value.len())
        });
        let outcome = admitted.map(|()| self.check_and_add(batch, next, writes));
        batch.strict |=
            durability == Durability::Strict && matches!(outcome, Ok(Outcome::Committed { .. }));
        batch.answers.push(Answer { outcome, reply });
    }

    fn check_and_add(
        &mut self,
        batch: &mut Batch,
        next: &mut Revision,
        writes: Vec<Write>,
    ) -> Outcome {
        let mut previous = Vec::with_capacity(writes.len());
        {
            let state = self.state();
            for (index, write) in writes.iter().enumerate() {
                let current = match batch.overlay.get(&write.key) {
                    Some(written) => written.clone(),
                    None => state.newest(&write.key).cloned(),
                };
                if !holds(write.expect, current.as_deref()) {
                    return Outcome::Conflict {
                        index,
                        current,
                        revision: *next,
                    };
                }
                previous.push(current);
            }
        }
        let revision = Revision(next.0 + 1);
        let mut changed = false;
        for (write, before) in writes.into_iter().zip(&previous) {
            changed |= self.add(batch, revision, write, before.clone());
        }
        if changed {
            *next = revision;
        }
        Outcome::Committed {
            revision: *next,
            previous,
        }
    }

    /// Adds one write; false when it changes nothing.
    fn add(
        &mut self,
        batch: &mut Batch,
        revision: Revision,
        write: Write,
        before: Option<Arc<Record>>,
    ) -> bool {
        // Every version and event of a key shares one allocation of it, no larger than it has to be.
        let key = match &before {
            Some(before) => before.key.clone(),
            None => Bytes::copy_from_slice(&write.key),
        };
        let current = match write.operation {
            Operation::Check => return false,
            Operation::Delete if before.is_none() => return false,
            Operation::Delete => {
                self.chunks.delete(&key, &mut self.relaxed);
                None
            }
            Operation::Put { value, ttl } => {
                let created = before.as_ref().map_or(revision, |record| record.created);
                let version = before.as_ref().map_or(1, |record| record.version + 1);
                let record = Record {
                    key: key.clone(),
                    // What comes in may be a small part of a large request.
                    value: Bytes::copy_from_slice(&value),
                    created,
                    modified: revision,
                    version,
                    sketch: Sketch::default(),
                };
                let expiry = ttl.map_or(0, |ttl| {
                    now_ms() + u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX / 2)
                });
                if expiry != 0 {
                    self.expiries.push(Reverse((expiry, revision, key.clone())));
                }
                self.chunks.put(&record, expiry, &mut self.relaxed);
                Some(Arc::new(record))
            }
        };
        batch.overlay.insert(key.clone(), current.clone());
        batch.events.push(Arc::new(Event {
            revision,
            key,
            current,
            previous: before,
        }));
        true
    }

    /// Deletes keys whose time is over, unless they were written again since.
    fn expire(&mut self, batch: &mut Batch, next: &mut Revision) {
        let now = now_ms();
        for _ in 0..EXPIRED_AT_ONCE {
            match self.expiries.peek() {
                Some(Reverse((expiry, _, _))) if *expiry <= now => {}
                _ => return,
            }
            let Some(Reverse((_, modified, key))) = self.expiries.pop() else {
                return;
            };
            let expect = Expect::Modified(modified);
            // Relaxed: after a crash the key expires once more.
            self.check_and_add(
                batch,
                next,
                vec![Write {
                    key,
                    expect,
                    operation: Operation::Delete,
                }],
            );
        }
    }

    /// Makes a batch durable if it has to be, then visible, then known to its writers.
    fn publish(&mut self, batch: Batch, next: Revision) -> Result<(), StoreError> {
        let overdue = self
            .relaxed_since
            .is_some_and(|since| since.elapsed() >= RELAXED_DELAY);
        let fence_near = next.0 + FENCE_LOW > self.fence.0;
        self.relaxed_bytes += batch.bytes;
        if batch.strict || overdue || self.relaxed_bytes > RELAXED_BYTES || fence_near {
            // The failure is known before the writers of this batch learn that they get no answer.
            self.flush(next).inspect_err(|error| self.fail(error))?;
        } else if !batch.events.is_empty() {
            self.relaxed_since.get_or_insert_with(Instant::now);
        }
        if !batch.events.is_empty() {
            self.state_mut().install(batch.events, next);
            self.tick.send_replace(next);
        }
        // Refusals too wait until here: one may quote a value of this very batch.
        for answer in batch.answers {
            let _ = answer.reply.send(answer.outcome);
        }
        Ok(())
    }

    fn flush(&mut self, next: Revision) -> Result<(), StoreError> {
        let mut ops = std::mem::take(&mut self.relaxed);
        self.relaxed_bytes = 0;
        self.relaxed_since = None;
        if next.0 + FENCE_LOW > self.fence.0 {
            self.fence = Revision(next.0 + FENCE_BLOCK);
            ops.push(disk::fence(self.fence));
        }
        if ops.is_empty() {
            return Ok(());
        }
        let engine = &self.engine;
        // Caught here already: who waits for this batch shall read what happened.
        catch_unwind(AssertUnwindSafe(|| {
            engine.apply(ops)?;
            engine.barrier()
        }))
        .unwrap_or_else(|panic| Err(StoreError::Unavailable(panic_text(&*panic))))
    }

    fn close(&mut self) -> Result<(), StoreError> {
        let current = self.state().current();
        self.relaxed.push(disk::clean(Some(current)));
        self.flush(current)
    }

    fn compact_when_due(&mut self) {
        let (last, then) = self.compacted;
        let (current, kept) = {
            let state = self.state();
            let (events, bytes) = state.history_size();
            let to = if events > HISTORY_EVENTS || bytes > HISTORY_BYTES {
                Some(state.revision_keeping(HISTORY_EVENTS / 2, HISTORY_BYTES / 2))
            } else if last.elapsed() >= COMPACT_EVERY {
                Some(then.min(state.revision_keeping(HISTORY_KEPT, usize::MAX)))
            } else {
                None
            };
            (state.current(), to)
        };
        if let Some(to) = kept {
            // Refused when a caller has compacted further already, which is as good.
            let _ = self.state_mut().compact(to);
            self.compacted = (Instant::now(), current);
        }
    }

    /// How long nothing has to be done unless a command arrives.
    fn idle_time(&self) -> Duration {
        let compaction = COMPACT_EVERY.saturating_sub(self.compacted.0.elapsed());
        let relaxed = self
            .relaxed_since
            .map(|since| RELAXED_DELAY.saturating_sub(since.elapsed()));
        let expiry = self
            .expiries
            .peek()
            .map(|Reverse((at, _, _))| Duration::from_millis(at.saturating_sub(now_ms())));
        [relaxed, expiry]
            .into_iter()
            .flatten()
            .fold(compaction, Duration::min)
    }

    fn state(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn holds(expect: Expect, current: Option<&Record>) -> bool {
    match expect {
        Expect::Any => true,
        Expect::Absent => current.is_none(),
        Expect::Modified(revision) => current.is_some_and(|record| record.modified == revision),
    }
}

fn weight(writes: &[Write]) -> usize {
    let bytes = |write: &Write| match &write.operation {
        Operation::Put { value, .. } => value.len() + write.key.len(),
        Operation::Delete | Operation::Check => write.key.len(),
    };
    writes.iter().map(bytes).sum()
}

/// Wall-clock time: an expiry must survive a restart.
fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
