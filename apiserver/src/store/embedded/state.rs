//! Every version that is still answered, in memory: pure, no clock, no disk.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use smallvec::{SmallVec, smallvec};

use crate::store::{Event, ListOptions, Page, Record, Revision, StoreError};

/// At most this many events, or bytes of values, are handed to a watcher at once (a transaction is never split). One that
/// never reads keeps no more than this alive.
const WATCH_BATCH: usize = 512;
const WATCH_BATCH_BYTES: usize = 4 << 20;

/// One key's versions, oldest first; `None` is a deletion. Nearly every key has one, which needs no allocation of its own.
type Versions = SmallVec<[(Revision, Option<Arc<Record>>); 1]>;

/// Keys with their versions, and the changes since the oldest revision that is kept.
#[derive(Debug, Default)]
pub(super) struct State {
    keys: BTreeMap<Bytes, Versions>,
    history: VecDeque<Arc<Event>>,
    history_bytes: usize,
    current: Revision,
    oldest: Revision,
}

impl State {
    /// A state whose history begins at `start`.
    pub(super) fn starting_at(start: Revision) -> Self {
        Self {
            current: start,
            oldest: start,
            ..Self::default()
        }
    }

    /// Puts back a record that was read from disk.
    pub(super) fn restore(&mut self, record: Record) {
        self.keys.insert(
            record.key.clone(),
            smallvec![(record.modified, Some(Arc::new(record)))],
        );
    }

    pub(super) fn current(&self) -> Revision {
        self.current
    }

    pub(super) fn history_size(&self) -> (usize, usize) {
        (self.history.len(), self.history_bytes)
    }

    /// The newest version of a key.
    pub(super) fn newest(&self, key: &[u8]) -> Option<&Arc<Record>> {
        self.keys.get(key)?.last()?.1.as_ref()
    }

    /// A key as of a revision.
    pub(super) fn get(
        &self,
        key: &[u8],
        at: Option<Revision>,
    ) -> Result<Option<Arc<Record>>, StoreError> {
        let at = self.answerable(at)?;
        Ok(self
            .keys
            .get(key)
            .and_then(|versions| version_at(versions, at))
            .cloned())
    }

    /// A range as of a revision.
    pub(super) fn list(
        &self,
        keys: Range<Bytes>,
        options: &ListOptions,
    ) -> Result<Page, StoreError> {
        let revision = self.answerable(options.at)?;
        let start = options
            .from
            .clone()
            .map_or(keys.start.clone(), |from| from.max(keys.start.clone()));
        let mut page = Page {
            records: Vec::new(),
            revision,
            remaining: 0,
        };
        if start >= keys.end {
            return Ok(page);
        }
        let living = self
            .keys
            .range(start..keys.end)
            .filter_map(|(_, versions)| version_at(versions, revision))
            // Those that are only counted are not touched.
            .filter(|record| options.sketch == 0 || record.sketch.may_have(options.sketch));
        for record in living {
            if options.limit == 0 || page.records.len() < options.limit {
                page.records.push(Arc::clone(record));
            } else {
                page.remaining += 1;
            }
        }
        Ok(page)
    }

    /// Makes the events of one revision, or of several in order, visible.
    pub(super) fn install(&mut self, events: Vec<Arc<Event>>, current: Revision) {
        for event in events {
            let versions = self.keys.entry(event.key.clone()).or_default();
            versions.push((event.revision, event.current.clone()));
            self.history_bytes += weight(&event);
            self.history.push_back(event);
        }
        self.current = current;
    }

    /// The changes of a range after a revision, and the revision up to which that is all of them.
    pub(super) fn changes(
        &self,
        keys: &Range<Bytes>,
        after: Revision,
    ) -> Result<(Vec<Arc<Event>>, Revision), StoreError> {
        if after < self.oldest {
            return Err(StoreError::Compacted {
                wanted: after,
                oldest: self.oldest,
            });
        }
        let first = self
            .history
            .partition_point(|event| event.revision <= after);
        let mut found: Vec<Arc<Event>> = Vec::new();
        let mut bytes = 0;
        for event in self.history.range(first..) {
            if (found.len() >= WATCH_BATCH || bytes >= WATCH_BATCH_BYTES)
                && found
                    .last()
                    .is_some_and(|last| last.revision < event.revision)
            {
                let seen = found.last().map_or(after, |last| last.revision);
                return Ok((found, seen));
            }
            if keys.contains(&event.key) {
                bytes += weight(event) + value_bytes(event.current.as_ref());
                found.push(Arc::clone(event));
            }
        }
        Ok((found, self.current.max(after)))
    }

    /// Forgets the history up to and including `to`; every living key stays.
    pub(super) fn compact(&mut self, to: Revision) -> Result<(), StoreError> {
        if to < self.oldest {
            return Err(StoreError::Compacted {
                wanted: to,
                oldest: self.oldest,
            });
        }
        if to > self.current {
            return Err(StoreError::Future {
                wanted: to,
                current: self.current,
            });
        }
        self.oldest = to;
        while self
            .history
            .front()
            .is_some_and(|event| event.revision <= to)
        {
            let Some(event) = self.history.pop_front() else {
                break;
            };
            self.history_bytes -= weight(&event);
            self.forget_versions(&event.key, to);
        }
        Ok(())
    }

    /// The revision to compact to so that the newest events remain: at most `events` of them, of at most `bytes`.
    pub(super) fn revision_keeping(&self, events: usize, bytes: usize) -> Revision {
        let mut left = bytes;
        let dropped = self.history.iter().rev().enumerate().find(|(kept, event)| {
            match left.checked_sub(weight(event)) {
                Some(rest) if *kept < events => {
                    left = rest;
                    false
                }
                _ => true,
            }
        });
        dropped.map_or(self.oldest, |(_, event)| event.revision)
    }

    fn forget_versions(&mut self, key: &Bytes, to: Revision) {
        let Some(versions) = self.keys.get_mut(key) else {
            return;
        };
        let newest_kept = versions
            .partition_point(|(revision, _)| *revision <= to)
            .saturating_sub(1);
        versions.drain(..newest_kept);
        versions.shrink_to_fit();
        if let [(revision, None)] = versions[..]
            && revision <= to
        {
            self.keys.remove(key);
        }
    }

    fn answerable(&self, at: Option<Revision>) -> Result<Revision, StoreError> {
        match at {
            None => Ok(self.current),
            Some(wanted) if wanted > self.current => Err(StoreError::Future {
                wanted,
                current: self.current,
            }),
            Some(wanted) if wanted < self.oldest => Err(StoreError::Compacted {
                wanted,
                oldest: self.oldest,
            }),
            Some(wanted) => Ok(wanted),
        }
    }
}

fn version_at(versions: &Versions, at: Revision) -> Option<&Arc<Record>> {
    let count = versions.partition_point(|(revision, _)| *revision <= at);
    versions[..count].last()?.1.as_ref()
}

/// What an event alone keeps in memory: the version it replaced, and itself.
fn weight(event: &Event) -> usize {
    size_of::<Event>() + value_bytes(event.previous.as_ref())
}

fn value_bytes(record: Option<&Arc<Record>>) -> usize {
    record.map_or(0, |record| record.value.len() + size_of::<Record>())
}
