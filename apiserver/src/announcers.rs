//! Which nodes say that they announce addresses of load balancers, and when they last said it.
//!
//! An agent reports (`PUT /minik/v1/nodes/NAME/announcing`) several times a second, but only while it announces an address: in
//! a cluster without LoadBalancer Services nothing is sent. One that falls silent loses its addresses long before its Lease
//! runs out.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

/// The newest report of every node; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Announcers(Arc<Mutex<BTreeMap<Box<str>, Instant>>>);

impl Announcers {
    /// A node has reported.
    pub fn heard(&self, node: &str, now: Instant) {
        self.nodes().insert(node.into(), now);
    }

    /// When it last did.
    #[must_use]
    pub fn last(&self, node: &str) -> Option<Instant> {
        self.nodes().get(node).copied()
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Instant>> {
        self.0.lock().expect("no holder of this lock panics")
    }
}
