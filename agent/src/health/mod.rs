//! What load balancers and operators ask a node: is there an endpoint of this Service here, and do its rules follow?
//!
//! A Service of type LoadBalancer with `externalTrafficPolicy: Local` has a health-check node port: a balancer outside the
//! cluster asks it to learn which nodes have endpoints. Besides, every node answers on one port for itself. Both speak the
//! words of the reference proxy, because the balancers of clouds read them.

mod event;
mod proxy;
mod server;
mod service;

use std::{
    collections::BTreeMap,
    num::NonZeroU16,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use dataplane::model::Family;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::objects::Key;
use proxy::Proxy;

/// The health-check node port of a Service, and what is behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HealthCheck {
    pub(crate) port: NonZeroU16,
    /// How many addresses of ready endpoints are on this node, for each family of the Service.
    pub(crate) local_endpoints: BTreeMap<Family, usize>,
}

/// A moment by both clocks: one to measure with, one to show.
#[derive(Clone, Copy, Debug)]
struct Moment {
    elapsed: Instant,
    wall: Timestamp,
}

impl Moment {
    fn now() -> Self {
        Self {
            elapsed: Instant::now(),
            wall: Timestamp::now(),
        }
    }
}

/// The node's health, shared by those who learn it and those who tell it.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    proxy: Arc<Mutex<Proxy>>,
    checks: Arc<watch::Sender<BTreeMap<Key, HealthCheck>>>,
}

impl Health {
    /// A node whose rules are of these families.
    pub(crate) fn new(families: impl IntoIterator<Item = Family>) -> Self {
        Self {
            proxy: Arc::new(Mutex::new(Proxy::new(families))),
            checks: Arc::default(),
        }
    }

    fn proxy(&self) -> MutexGuard<'_, Proxy> {
        self.proxy.lock().expect("no holder of this lock panics")
    }

    /// Something changed that the rules do not show yet.
    pub(crate) fn queued(&self) {
        self.proxy().queued(Moment::now());
    }

    /// The rules show everything that is known.
    pub(crate) fn updated(&self) {
        self.proxy().updated(Moment::now());
    }

    /// Whether the node may get traffic from outside: not while it is being taken away.
    pub(crate) fn set_node_eligible(&self, eligible: bool) {
        self.proxy().set_node_eligible(eligible);
    }

    /// The health checks that are served.
    #[cfg(test)]
    pub(crate) fn checks(&self) -> BTreeMap<Key, HealthCheck> {
        self.checks.borrow().clone()
    }

    /// Takes in what Services want now; `None` for one without a health check.
    pub(crate) fn apply(&self, changes: Vec<(Key, Option<HealthCheck>)>) {
        self.checks.send_if_modified(|checks| {
            let mut changed = false;
            for (key, check) in changes {
                changed |= match check {
                    Some(check) if checks.get(&key) == Some(&check) => false,
                    Some(check) => {
                        checks.insert(key, check);
                        true
                    }
                    None => checks.remove(&key).is_some(),
                };
            }
            changed
        });
    }

    /// Like [`Health::apply`]; Services that are not named have none.
    pub(crate) fn replace(&self, all: Vec<(Key, Option<HealthCheck>)>) {
        let all: BTreeMap<_, _> = all
            .into_iter()
            .filter_map(|(key, check)| Some((key, check?)))
            .collect();
        self.checks.send_if_modified(|checks| {
            let old = std::mem::replace(checks, all);
            old != *checks
        });
    }
}
