//! How much is worked on at once, and for how long (Q2, Q4).
//!
//! A request that finds its lane full is refused at once with 429 and `Retry-After`: clients come back by themselves, and a
//! queue would only make all of them slow. Agents have a lane of their own, so that a Lease is renewed and a Pod's status
//! written however busy everybody else is. Watches cost nothing while nothing happens and take no place; health, metrics
//! and discovery answer always. What leads to nodes lasts and has limits of its own: [`super::connections`].

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connections::Connections;
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
    /// Connections to nodes, and upgraded ones, of one user at once.
    pub connections_per_user: usize,
    /// Connections to one node at once.
    pub connections_per_node: usize,
    /// How long an ordinary request may take; lists and watches may take longer.
    pub answer_within: Duration,
}

impl Default for Limits {
    /// Upstream's 400 (`--max-requests-inflight`) and 34 s. Writes are few milliseconds each and committed many at a time:
    /// half as many of them, as upstream has it, would only refuse what the store takes in one stride. A node's tunnel
    /// carries 10,000 streams: it takes several users to fill it.
    fn default() -> Self {
        Self {
            reads: 400,
            writes: 400,
            nodes: 400,
            connections_per_user: 1000,
            connections_per_node: 8000,
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
    connections: Connections,
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
            connections: Connections::new(limits.connections_per_user, limits.connections_per_node),
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

    /// Where connections are counted.
    pub(super) fn connections(&self) -> &Connections {
        &self.connections
    }

    /// How long a request with this verb may take; `None` is as long as it wants.
    pub(super) fn answer_within(&self, verb: &str) -> Option<Duration> {
        let ordinary = matches!(verb, "get" | "create" | "update" | "patch" | "delete");
        ordinary.then_some(self.answer_within)
    }
}
