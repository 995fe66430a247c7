//! Watches: the store's history as changes of selected objects (W1-W13).
//!
//! Each watcher is a cursor into the store's history and holds no queue, so a slow one costs nothing: when it falls
//! behind the kept history it is told so (410) and lists again. What is derived from an event (selectable fields,
//! encoded lines) is made once and shared between watchers through [`Memos`].

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::{
    ApiError, Bookmarks, Kind, ListQuery, Object, Registry, Selection, WatchQuery, WatchStart,
    read::key_range,
};
use crate::store::{self, Revision, Watch};

mod memo;
pub(super) mod selectable;

pub use memo::{Encoding, Memos, Shared};

/// What happened to a selected object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It exists now, or matches the selectors now.
    Added,
    /// It changed.
    Modified,
    /// It is gone, or no longer matches.
    Deleted,
}

impl ChangeKind {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One change of one object.
#[derive(Clone, Debug)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// The object now; for a deletion its last matching state, with the revision of the deletion.
    pub object: Object,
    /// What other watchers of the same event have made of it already.
    pub shared: Option<Arc<Shared>>,
}

/// What a watch yields.
#[derive(Clone, Debug)]
pub enum WatchItem {
    /// A change.
    Change(Change),
    /// Everything up to this revision has been delivered.
    Bookmark {
        /// The revision.
        revision: Revision,
        /// Whether this ends the initial state (W7).
        initial_end: bool,
    },
}

/// A running watch.
pub struct WatchStream {
    kind: &'static Kind,
    selection: Selection,
    memos: Arc<Memos>,
    initial: std::vec::IntoIter<Object>,
    initial_end: Option<Revision>,
    cursor: Box<dyn Watch>,
    pending: VecDeque<Arc<store::Event>>,
    delivered: Revision,
    bookmarks: Bookmarks,
    awaited: watch::Receiver<Revision>,
    next_bookmark: Instant,
    deadline: Instant,
    ended: bool,
}

/// The last bookmark comes so long before the end: a client that ends the watch itself a moment earlier has it too (W6).
const BEFORE_END: Duration = Duration::from_secs(2);
/// As good as never, for deadlines.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

impl Registry {
    /// Watches the objects of a kind, in one namespace or all.
    ///
    /// # Errors
    /// [`ApiError::Expired`] when the history after the wanted revision is gone; the store's.
    pub async fn watch(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        query: &WatchQuery,
    ) -> Result<WatchStream, ApiError> {
        let range = key_range(kind, namespace, &query.selection);
        let (initial, after) = match query.start {
            WatchStart::After(revision) => (Vec::new(), revision),
            WatchStart::State => self.initial(kind, namespace, query).await?,
            WatchStart::Initial(at_least) => {
                self.wait_for(at_least).await?;
                self.initial(kind, namespace, query).await?
            }
        };
        let cursor = self.backend.watch(range, after).await?;
        let now = Instant::now();
        Ok(WatchStream {
            kind,
            selection: query.selection.clone(),
            memos: self.memos.clone(),
            initial: initial.into_iter(),
            initial_end: matches!(query.start, WatchStart::Initial(_)).then_some(after),
            cursor,
            pending: VecDeque::new(),
            delivered: after,
            bookmarks: query.bookmarks,
            awaited: self.awaited.subscribe(),
            next_bookmark: now,
            deadline: now + query.timeout.min(FOREVER),
            ended: false,
        }
        .with_next_bookmark(now))
    }

    async fn initial(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        query: &WatchQuery,
    ) -> Result<(Vec<Object>, Revision), ApiError> {
        let query = ListQuery {
            selection: query.selection.clone(),
            ..ListQuery::default()
        };
        let list = self.list(kind, namespace, &query).await?;
        Ok((list.objects, list.revision))
    }
}

/// Returns when somebody waits for more than was delivered.
async fn is_awaited(awaited: &mut watch::Receiver<Revision>, delivered: Revision) {
    if awaited
        .wait_for(|awaited| *awaited > delivered)
        .await
        .is_err()
    {
        // Nobody is left who could wait.
        std::future::pending::<()>().await;
    }
}

impl WatchStream {
    /// The next change or bookmark; `None` when the time is up. After an error the stream is over.
    pub async fn next(&mut self) -> Option<Result<WatchItem, ApiError>> {
        if let Some(object) = self.initial.next() {
            let kind = ChangeKind::Added;
            return Some(Ok(WatchItem::Change(Change {
                kind,
                object,
                shared: None,
            })));
        }
        if let Some(revision) = self.initial_end.take() {
            let initial_end = true;
            return Some(Ok(WatchItem::Bookmark {
                revision,
                initial_end,
            }));
        }
        let on_demand = matches!(self.bookmarks, Bookmarks::AwaitedOrEvery(_));
        while !self.ended {
            if let Some(event) = self.pending.pop_front() {
                if let Some(change) = self.change(event) {
                    return Some(Ok(WatchItem::Change(change)));
                }
                continue;
            }
            // Changes have the first word, but not for ever: a watch whose events never pause ends in time all the same.
            tokio::select! {
                biased;
                item = self.cursor.next(), if Instant::now() < self.deadline => match item {
                    Ok(store::WatchItem::Events(events)) => self.pending.extend(events),
                    Ok(store::WatchItem::Progress(_)) => {}
                    Err(error) => {
                        self.ended = true;
                        return Some(Err(error.into()));
                    }
                },
                () = is_awaited(&mut self.awaited, self.delivered), if on_demand => {
                    if let Some(bookmark) = self.bookmark() {
                        return Some(Ok(bookmark));
                    }
                }
                () = tokio::time::sleep_until(self.next_bookmark.min(self.deadline)) => {
                    self.ended = Instant::now() >= self.deadline;
                    if let Some(bookmark) = self.bookmark() {
                        return Some(Ok(bookmark));
                    }
                }
            }
        }
        None
    }

    fn with_next_bookmark(mut self, now: Instant) -> Self {
        self.set_next_bookmark(now);
        self
    }

    /// In time for the interval, and shortly before the end.
    fn set_next_bookmark(&mut self, now: Instant) {
        let regular = now + self.bookmarks.interval().unwrap_or(FOREVER);
        let last = self.deadline.checked_sub(BEFORE_END);
        let last = last.filter(|last| *last > now).unwrap_or(regular);
        self.next_bookmark = regular.min(last);
    }

    /// A bookmark, if they are wanted and there is something new to tell. Also at the end of the stream, so that the
    /// client resumes from as far as possible.
    fn bookmark(&mut self) -> Option<WatchItem> {
        self.bookmarks.interval()?;
        self.set_next_bookmark(Instant::now());
        let revision = self.cursor.progress();
        if revision <= self.delivered {
            return None;
        }
        self.delivered = revision;
        Some(WatchItem::Bookmark {
            revision,
            initial_end: false,
        })
    }

    /// What an event means to this watcher (W4): an object can come and go by changing its labels.
    fn change(&mut self, event: Arc<store::Event>) -> Option<Change> {
        let shared = self.memos.shared(self.kind, event);
        let event = &shared.event;
        let is = event.current.is_some() && self.matches(shared.current());
        let was = event.previous.is_some() && self.matches(shared.previous());
        let (kind, record) = match (was, is) {
            (false, false) => return None,
            (false, true) => (ChangeKind::Added, event.current.as_ref()?),
            (true, true) => (ChangeKind::Modified, event.current.as_ref()?),
            (true, false) => (ChangeKind::Deleted, event.previous.as_ref()?),
        };
        let object = Object::new(self.kind, record.value.clone(), event.revision);
        self.delivered = event.revision;
        Some(Change {
            kind,
            object,
            shared: Some(shared),
        })
    }

    fn matches(&self, selectable: &selectable::Selectable) -> bool {
        self.selection.is_everything() || self.selection.matches(selectable)
    }
}
