//! Which of the nodes that are to announce addresses really do, by their reports.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use api::meta::MicroTime;

use crate::{announcers::Announcers, controller::world::World};

/// A node that announces reports several times within this; after it, its addresses go to another node. Together with the
/// write, the way to the new node and its gratuitous ARP this stays below two seconds.
const SILENCE: Duration = Duration::from_millis(1200);
/// After the server's start the nodes have yet to find it again; their connections back off for two seconds at most.
const AFTER_START: Duration = Duration::from_secs(10);
const LEASES: &str = "kube-node-lease";

/// A node that must report.
#[derive(Clone, Copy, Debug)]
struct Appointed {
    since: Instant,
    /// How long it may take until its first report.
    patience: Duration,
}

/// The nodes that announce, and those that should and fell silent.
#[derive(Debug)]
pub(in crate::controller) struct Liveness {
    announcers: Announcers,
    /// Whether what the cluster was like at the server's start is still to be told.
    starting: bool,
    /// Nodes that must report.
    appointed: BTreeMap<Box<str>, Appointed>,
    /// Nodes that did not, and the heartbeat they had sent by then: a later one says that they are back.
    silent: BTreeMap<Box<str>, Option<MicroTime>>,
}

impl Liveness {
    pub(in crate::controller) fn new(announcers: Announcers) -> Self {
        Self {
            announcers,
            starting: true,
            appointed: BTreeMap::new(),
            silent: BTreeMap::new(),
        }
    }

    /// These nodes announce from now on, and no others.
    pub(super) fn appoint(&mut self, nodes: BTreeSet<Box<str>>, now: Instant) {
        self.appointed.retain(|node, _| nodes.contains(node));
        let patience = if std::mem::take(&mut self.starting) {
            AFTER_START
        } else {
            SILENCE
        };
        for node in nodes {
            let appointed = Appointed {
                since: now,
                patience,
            };
            self.appointed.entry(node).or_insert(appointed);
        }
    }

    pub(super) fn is_silent(&self, node: &str) -> bool {
        self.silent.contains_key(node)
    }

    /// When the next node is silent unless it reports.
    pub(in crate::controller) fn next(&self) -> Option<Instant> {
        let speaking = self
            .appointed
            .iter()
            .filter(|(node, _)| !self.is_silent(node));
        speaking
            .map(|(node, appointed)| self.due(node, *appointed))
            .min()
    }

    fn due(&self, node: &str, appointed: Appointed) -> Instant {
        let last = self.announcers.last(node);
        match last.filter(|last| *last >= appointed.since) {
            Some(last) => last + SILENCE,
            None => appointed.since + appointed.patience,
        }
    }

    /// Whether a node has fallen silent since the last look.
    pub(in crate::controller) fn look(&mut self, world: &World, now: Instant) -> bool {
        let fallen: Vec<Box<str>> = self
            .appointed
            .iter()
            .filter(|(node, appointed)| !self.is_silent(node) && self.due(node, **appointed) <= now)
            .map(|(node, _)| node.clone())
            .collect();
        for node in &fallen {
            tracing::warn!(%node, "node does not report its load-balancer addresses any more: others take them");
            self.silent.insert(node.clone(), renewed(world, node));
        }
        !fallen.is_empty()
    }

    /// Looks at the heartbeat of a node; whether it was silent and is back.
    pub(in crate::controller) fn observe(
        &mut self,
        world: &World,
        node: &str,
        now: Instant,
    ) -> bool {
        let back = self
            .silent
            .get(node)
            .is_some_and(|then| renewed(world, node) != *then);
        if back {
            self.silent.remove(node);
            // It must report anew if it still is to announce.
            if let Some(appointed) = self.appointed.get_mut(node) {
                appointed.since = now;
            }
        }
        back
    }
}

fn renewed(world: &World, node: &str) -> Option<MicroTime> {
    let lease = world.leases.get(&(LEASES.into(), node.into()));
    lease.and_then(|lease| lease.spec.renew_time)
}

#[cfg(test)]
mod tests {
    use api::coordination::Lease;

    use super::*;
    use crate::store::Revision;

    fn lease(renewed: &str) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.namespace = LEASES.into();
        lease.metadata.name = "a".into();
        lease.spec.renew_time = Some(renewed.parse().unwrap());
        lease
    }

    #[test]
    fn a_node_that_stops_reporting_is_silent_until_its_next_heartbeat() {
        let announcers = Announcers::default();
        let now = Instant::now();
        let mut liveness = Liveness::new(announcers.clone());
        let mut world = World::default();
        world.put(Revision(1), lease("2026-01-01T00:00:00Z"));
        liveness.appoint(BTreeSet::new(), now);
        assert_eq!(liveness.next(), None, "nobody announces");

        liveness.appoint(BTreeSet::from(["a".into()]), now);
        assert_eq!(liveness.next(), Some(now + SILENCE));
        let report = now + SILENCE / 2;
        announcers.heard("a", report);
        assert!(!liveness.look(&world, now + SILENCE));
        assert_eq!(liveness.next(), Some(report + SILENCE));
        assert!(liveness.look(&world, report + SILENCE));
        assert!(liveness.is_silent("a"));
        assert_eq!(
            liveness.next(),
            None,
            "nothing wakes for a node that is silent already"
        );

        let later = now + SILENCE * 9;
        assert!(!liveness.observe(&world, "a", later), "the same heartbeat");
        world.put(Revision(2), lease("2026-01-01T00:00:10Z"));
        assert!(liveness.observe(&world, "a", later));
        assert!(!liveness.is_silent("a"));
        assert_eq!(liveness.next(), Some(later + SILENCE));
    }

    #[test]
    fn after_a_start_the_nodes_get_time_to_find_the_server() {
        let announcers = Announcers::default();
        let now = Instant::now();
        let mut liveness = Liveness::new(announcers.clone());
        liveness.appoint(BTreeSet::from(["a".into()]), now);
        assert_eq!(liveness.next(), Some(now + AFTER_START));
        announcers.heard("a", now);
        assert_eq!(liveness.next(), Some(now + SILENCE), "it has");
    }
}
