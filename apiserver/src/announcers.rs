//! Which nodes say that they announce addresses of load balancers, and when they last said it.
//!
//! An agent reports (`PUT /minik/v1/nodes/NAME/announcing`) several times a second, but only while it announces an address: in
//! a cluster without LoadBalancer Services nothing is sent. One that falls silent loses its addresses long before its Lease
//! runs out; its next report is refused, so that it does not take itself for the one that announces, and tells that it is back.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use tokio::sync::Notify;

/// The newest report of every node; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Announcers(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    nodes: Mutex<BTreeMap<Box<str>, Reported>>,
    returned: Notify,
}

#[derive(Clone, Copy, Debug, Default)]
struct Reported {
    last: Option<Instant>,
    /// Whether its addresses went to others because of its silence.
    silent: bool,
}

impl Announcers {
    /// A node has reported; false when it comes too late.
    #[must_use]
    pub fn heard(&self, node: &str, now: Instant) -> bool {
        let mut nodes = self.nodes();
        let known = nodes.entry(node.into()).or_default();
        known.last = Some(now);
        if known.silent {
            self.0.returned.notify_one();
        }
        !known.silent
    }

    /// When it last did.
    #[must_use]
    pub fn last(&self, node: &str) -> Option<Instant> {
        self.nodes().get(node)?.last
    }

    /// From now on its reports come too late, unless one came after `since`; whether that is so.
    pub(crate) fn silence(&self, node: &str, since: Option<Instant>) -> bool {
        let mut nodes = self.nodes();
        let known = nodes.entry(node.into()).or_default();
        known.silent |= known.last <= since;
        known.silent
    }

    /// Its reports count again.
    pub(crate) fn take_back(&self, node: &str) {
        if let Some(known) = self.nodes().get_mut(node) {
            known.silent = false;
        }
    }

    /// Waits until a node reports that was silent.
    pub(crate) async fn returned(&self) {
        self.0.returned.notified().await;
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Reported>> {
        self.0.nodes.lock().expect("no holder of this lock panics")
    }
}
