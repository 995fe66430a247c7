//! What watchers of one event share.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use bytes::Bytes;

use super::{ChangeKind, selectable::Selectable};
use crate::{
    registry::{Kind, object::json_of},
    store,
};

/// How many events are remembered. Watchers are rarely further apart; those that are just do the work again.
const CAPACITY: usize = 512;

/// An encoding of an event that watchers share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// The whole object.
    Full,
    /// The object without its managedFields.
    Content,
    /// `PartialObjectMetadata` of meta.k8s.io/v1.
    Metadata,
}

/// An event and what has been derived from it.
pub struct Shared {
    pub(super) event: Arc<store::Event>,
    kind: &'static Kind,
    current: OnceLock<Selectable>,
    previous: OnceLock<Selectable>,
    lines: [OnceLock<Bytes>; 9],
}

impl Shared {
    fn new(kind: &'static Kind, event: Arc<store::Event>) -> Self {
        Self {
            event,
            kind,
            current: OnceLock::new(),
            previous: OnceLock::new(),
            lines: Default::default(),
        }
    }

    pub(super) fn current(&self) -> &Selectable {
        self.current
            .get_or_init(|| read(self.kind, self.event.current.as_deref()))
    }

    pub(super) fn previous(&self) -> &Selectable {
        self.previous
            .get_or_init(|| read(self.kind, self.event.previous.as_deref()))
    }

    /// The line that tells this event, made by `encode` for the first watcher that needs it.
    pub fn line(
        &self,
        kind: ChangeKind,
        encoding: Encoding,
        encode: impl FnOnce() -> Bytes,
    ) -> Bytes {
        let slot = kind as usize * 3 + encoding as usize;
        self.lines[slot].get_or_init(encode).clone()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({:?} {:?})", self.kind, self.event.revision)
    }
}

fn read(kind: &'static Kind, record: Option<&store::Record>) -> Selectable {
    record.map_or_else(Selectable::default, |record| {
        Selectable::read(kind, &json_of(&record.value))
    })
}

/// The most recent events with what was derived from them.
#[derive(Debug, Default)]
pub struct Memos(Mutex<Recent>);

/// A change of an object, as it is seen in one version of its kind, or by the kind of another group.
type Seen = (store::Revision, Bytes, &'static str, &'static str);

#[derive(Debug, Default)]
struct Recent {
    by_change: HashMap<Seen, Arc<Shared>>,
    order: VecDeque<Seen>,
}

impl Memos {
    /// The shared form of an event.
    pub(super) fn shared(&self, kind: &'static Kind, event: Arc<store::Event>) -> Arc<Shared> {
        let change = (event.revision, event.key.clone(), kind.group, kind.version);
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = recent.by_change.get(&change) {
            return known.clone();
        }
        let shared = Arc::new(Shared::new(kind, event));
        recent.by_change.insert(change.clone(), shared.clone());
        recent.order.push_back(change);
        if recent.order.len() > CAPACITY
            && let Some(oldest) = recent.order.pop_front()
        {
            recent.by_change.remove(&oldest);
        }
        shared
    }
}
