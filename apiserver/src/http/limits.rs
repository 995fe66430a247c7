//! How much is worked on at once, and for how long (Q2, Q4).
//!
//! A request that finds its lane full is refused at once with 429 and `Retry-After`: clients come back by themselves, and a
//! queue would only make all of them slow. Agents have a lane of their own, so that a Lease is renewed and a Pod's status
//! written however busy everybody else is. Watches cost nothing while nothing happens and take no place; health, metrics
//! and discovery answer always.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{auth::User, registry::ApiError};

/// What the server takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests that read, in flight at once.
    pub reads: usize,
    /// Requests that write, in flight at once.
    pub writes: usize,
    /// Requests of nodes, of both sorts.
    pub nodes: usize,
    /// How long an ordinary request may take; lists and watches may take longer.
    pub answer_within: Duration,
}

impl Default for Limits {
    /// Upstream's 400 (`--max-requests-inflight`) and 34 s. Writes are few milliseconds each and committed many at a time:
    /// half as many of them, as upstream has it, would only refuse what the store takes in one stride.
    fn default() -> Self {
        Self {
            reads: 400,
            writes: 400,
            nodes: 400,
            answer_within: Duration::from_secs(34),
        }
    }
}

/// The lanes requests go in.
#[derive(Clone, Debug)]
pub(super) struct Lanes {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    nodes: Arc<Semaphore>,
    answer_within: Duration,
}

/// A place in a lane, given back when dropped.
pub(super) struct Place {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Lanes {
    pub(super) fn new(limits: Limits) -> Self {
        let lane = |size| Arc::new(Semaphore::new(size));
        Self {
            reads: lane(limits.reads),
            writes: lane(limits.writes),
            nodes: lane(limits.nodes),
            answer_within: limits.answer_within,
        }
    }

    /// Takes a place for a request.
    ///
    /// # Errors
    /// [`ApiError::Overloaded`] when there is none.
    pub(super) fn enter(&self, user: &User, verb: &str) -> Result<Place, ApiError> {
        let lane = match verb {
            "watch" => return Ok(Place { _permit: None }),
            _ if user.node().is_some() => &self.nodes,
            "get" | "list" => &self.reads,
            _ => &self.writes,
        };
        let permit = lane.clone().try_acquire_owned();
        let permit = permit.map_err(|_| ApiError::Overloaded)?;
        Ok(Place {
            _permit: Some(permit),
        })
    }

    /// How long a request with this verb may take; `None` is as long as it wants.
    pub(super) fn answer_within(&self, verb: &str) -> Option<Duration> {
        let ordinary = matches!(verb, "get" | "create" | "update" | "patch" | "delete");
        ordinary.then_some(self.answer_within)
    }
}
