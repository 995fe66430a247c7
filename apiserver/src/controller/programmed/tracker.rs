//! What is known of every Service's way into the kernels, and what its condition should say. Pure: time comes in as a value.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    time::{Duration, Instant},
};

use super::super::world::Key;
use crate::store::Revision;

/// So long a change may be on its way before the condition says that it has not arrived.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// The same for what a list brings: after a start, the nodes have yet to find this server again.
pub(super) const LIST_PATIENCE: Duration = Duration::from_secs(10);

/// What the condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Every ready node has applied the newest change.
    Programmed,
    /// These ready nodes have not.
    Waiting(Vec<Box<str>>),
    /// There is no ready node.
    NoNodes,
}

/// A Service, as far as it matters here.
#[derive(Debug)]
struct Tracked {
    /// The newest change that nodes must apply.
    wanted: Revision,
    /// What of the Service nodes act on, as a fingerprint.
    fingerprint: u64,
    /// Whether an EndpointSlice belongs to it that has not been seen yet.
    awaits_slice: bool,
    /// The oldest change that has not arrived.
    waiting: Option<Waiting>,
    /// What its status is known to say.
    written: Option<Verdict>,
}

/// A change on its way.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Instant,
    /// When it is overdue.
    deadline: Instant,
    /// Whether it came with a list: then nobody knows when it was made.
    listed: bool,
}

/// Services and nodes.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    services: HashMap<Key, Tracked>,
    /// What waits, by its deadline.
    pending: BTreeSet<(Instant, Key)>,
    /// Revisions that slices reached before their Service was seen.
    early_slices: HashMap<Key, Revision>,
    ready: BTreeSet<Box<str>>,
    applied: BTreeMap<Box<str>, Revision>,
    /// The newest change that any Service waits for.
    newest: Revision,
    /// What arrived: how long each change took.
    arrived: Vec<Duration>,
}

/// One Service as it was seen.
pub(super) struct SeenService {
    pub(super) revision: Revision,
    pub(super) fingerprint: u64,
    pub(super) has_selector: bool,
    /// What the condition in its status says, if it has one: whether it is true.
    pub(super) condition: Option<bool>,
    /// Whether it came with a list, not as a change.
    pub(super) listed: bool,
}

impl Tracker {
    pub(super) fn put_service(&mut self, key: Key, seen: &SeenService, now: Instant) {
        let written = match seen.condition {
            Some(true) => Some(Verdict::Programmed),
            // Which nodes it names is not read back: whatever is true now is written again.
            _ => None,
        };
        match self.services.get_mut(&key) {
            Some(known) if known.fingerprint == seen.fingerprint => {
                // Only the status or something that nodes do not act on; somebody may have taken the condition away.
                if seen.condition.is_none() && known.written.take().is_some() {
                    self.wait(&key, now, false);
                }
            }
            Some(known) => {
                known.fingerprint = seen.fingerprint;
                known.wanted = known.wanted.max(seen.revision);
                self.wait(&key, now, false);
            }
            None => {
                let slices = self.early_slices.remove(&key);
                let tracked = Tracked {
                    wanted: seen.revision.max(slices.unwrap_or_default()),
                    fingerprint: seen.fingerprint,
                    awaits_slice: seen.has_selector && slices.is_none(),
                    waiting: None,
                    written,
                };
                self.services.insert(key.clone(), tracked);
                self.wait(&key, now, seen.listed);
            }
        }
    }

    pub(super) fn remove_service(&mut self, key: &Key) {
        let waiting = self.services.remove(key).and_then(|known| known.waiting);
        if let Some(waiting) = waiting {
            self.pending.remove(&(waiting.deadline, key.clone()));
        }
        self.early_slices.remove(key);
    }

    /// A slice of a Service has changed.
    pub(super) fn put_slice(&mut self, service: Key, revision: Revision, now: Instant) {
        match self.services.get_mut(&service) {
            Some(known) => {
                known.wanted = known.wanted.max(revision);
                known.awaits_slice = false;
                self.wait(&service, now, false);
            }
            None => {
                let early = self.early_slices.entry(service).or_default();
                *early = (*early).max(revision);
            }
        }
    }

    /// A node is ready, or not, or gone.
    pub(super) fn put_node(&mut self, name: &str, ready: bool) {
        if ready {
            self.ready.insert(name.into());
        } else {
            self.ready.remove(name);
        }
    }

    /// A node has applied everything up to a revision. A node that was started anew may fall back.
    pub(super) fn put_applied(&mut self, node: &str, revision: Revision) {
        self.applied.insert(node.into(), revision);
    }

    /// What has to be written now, and only that.
    pub(super) fn settle(&mut self, now: Instant) -> Vec<(Key, Verdict)> {
        let mut out = Vec::new();
        let mut done = Vec::new();
        let floor = self.floor();
        for (deadline, key) in &self.pending {
            let known = self
                .services
                .get_mut(key)
                .expect("what is pending is tracked");
            let overdue = *deadline <= now;
            let arrived = floor.is_some_and(|floor| floor >= known.wanted);
            let verdict = if arrived && (!known.awaits_slice || overdue) {
                done.push((*deadline, key.clone()));
                if let Some(waiting) = known.waiting.take().filter(|waiting| !waiting.listed) {
                    let took = now.saturating_duration_since(waiting.since);
                    self.arrived.push(took);
                }
                Verdict::Programmed
            } else if !overdue {
                continue;
            } else if self.ready.is_empty() {
                Verdict::NoNodes
            } else {
                let late = self.ready.iter().filter(|node| {
                    self.applied
                        .get(*node)
                        .is_none_or(|applied| *applied < known.wanted)
                });
                Verdict::Waiting(late.cloned().collect())
            };
            if known.written.as_ref() != Some(&verdict) {
                known.written = Some(verdict.clone());
                out.push((key.clone(), verdict));
            }
        }
        for place in done {
            self.pending.remove(&place);
        }
        out
    }

    /// A verdict could not be written: it is worth writing again.
    pub(super) fn not_written(&mut self, key: &Key, now: Instant) {
        if let Some(known) = self.services.get_mut(key) {
            known.written = None;
            self.wait(key, now, false);
        }
    }

    /// Whether another report of a node can change anything.
    pub(super) fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The newest revision that nodes must apply for everything here to be true.
    pub(super) fn newest_wanted(&self) -> Revision {
        self.newest
    }

    /// When a change is overdue that is not yet: until then only an event can change anything.
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let later = (Bound::Excluded((now, Key::default())), Bound::Unbounded);
        self.pending
            .range(later)
            .map(|(at, _)| *at)
            .find(|at| *at > now)
    }

    /// How long each change took that has arrived since this was asked last.
    pub(super) fn take_arrived(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.arrived)
    }

    /// What every ready node has applied; nothing when there is none.
    fn floor(&self) -> Option<Revision> {
        let applied = self.ready.iter().map(|node| self.applied.get(node));
        applied
            .map(|revision| revision.copied().unwrap_or_default())
            .min()
    }

    fn wait(&mut self, key: &Key, now: Instant, listed: bool) {
        let known = self
            .services
            .get_mut(key)
            .expect("only what is tracked waits");
        self.newest = self.newest.max(known.wanted);
        if known.waiting.is_none() {
            let patience = if listed { LIST_PATIENCE } else { PATIENCE };
            let deadline = now + patience;
            known.waiting = Some(Waiting {
                since: now,
                deadline,
                listed,
            });
            self.pending.insert((deadline, key.clone()));
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
