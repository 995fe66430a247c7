//! Which nodes still renew their Lease.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use api::meta::MicroTime;

use crate::controller::world::World;

const LEASES: &str = "kube-node-lease";

/// When each node's heartbeat was last seen to change, by this server's clock: nobody else's clock matters.
#[derive(Debug, Default)]
pub(in crate::controller) struct Heartbeats {
    last: BTreeMap<Box<str>, (Option<MicroTime>, Instant)>,
    /// The nodes that count as alive, the longest silent one first.
    alive: BTreeSet<(Instant, Box<str>)>,
}

impl Heartbeats {
    /// Looks at one node and its Lease.
    pub(in crate::controller) fn observe(&mut self, world: &World, name: &str, now: Instant) {
        let known = self.last.get(name).copied();
        if world.nodes.get(&(Box::default(), name.into())).is_none() {
            if let Some((_, at)) = known {
                self.last.remove(name);
                self.alive.remove(&(at, name.into()));
            }
            return;
        }
        let lease = world.leases.get(&(LEASES.into(), name.into()));
        let renewed = lease.and_then(|lease| lease.spec.renew_time);
        if let Some((seen, at)) = known {
            if seen == renewed {
                return;
            }
            self.alive.remove(&(at, name.into()));
        }
        self.last.insert(name.into(), (renewed, now));
        self.alive.insert((now, name.into()));
    }

    /// When the next node is lost unless it is heard of.
    pub(in crate::controller) fn next_loss(&self, grace: Duration) -> Option<Instant> {
        self.alive.first().map(|(at, _)| *at + grace)
    }

    /// The nodes that are lost by now and were not before.
    pub(in crate::controller) fn take_lost(
        &mut self,
        grace: Duration,
        now: Instant,
    ) -> Vec<Box<str>> {
        let mut lost = Vec::new();
        while self.next_loss(grace).is_some_and(|at| at <= now) {
            lost.extend(self.alive.pop_first().map(|(_, name)| name));
        }
        lost
    }

    /// Whether the node has been silent for too long.
    pub(in crate::controller) fn is_lost(&self, name: &str) -> bool {
        let last = self.last.get(name);
        last.is_some_and(|(_, at)| !self.alive.contains(&(*at, name.into())))
    }
}

#[cfg(test)]
mod tests {
    use api::{coordination::Lease, core::Node};

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
    fn a_node_is_lost_when_it_is_silent_for_the_grace_and_back_with_a_new_heartbeat() {
        let grace = Duration::from_secs(50);
        let start = Instant::now();
        let mut world = World::default();
        let mut node = Node::default();
        node.metadata.name = "a".into();
        world.put(Revision(1), node);
        world.put(Revision(2), lease("2026-01-01T00:00:00Z"));
        let mut beats = Heartbeats::default();
        beats.observe(&world, "a", start);
        assert_eq!(beats.next_loss(grace), Some(start + grace));
        assert!(beats.take_lost(grace, start).is_empty());

        // The same heartbeat again is none.
        beats.observe(&world, "a", start + grace / 2);
        assert_eq!(beats.take_lost(grace, start + grace), ["a".into()]);
        assert!(beats.is_lost("a"));
        assert_eq!(
            beats.next_loss(grace),
            None,
            "nothing wakes for a node that is lost already"
        );

        world.put(Revision(3), lease("2026-01-01T00:01:00Z"));
        beats.observe(&world, "a", start + grace * 2);
        assert!(!beats.is_lost("a"));
        assert_eq!(beats.next_loss(grace), Some(start + grace * 3));

        world.remove::<Node>(Revision(4), &(Box::default(), "a".into()));
        beats.observe(&world, "a", start + grace * 2);
        assert_eq!((beats.next_loss(grace), beats.is_lost("a")), (None, false));
    }
}
