//! Which of the nodes that are to announce addresses really do, by their reports.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use api::meta::MicroTime;

use crate::{announcers::Announcers, controller::world::World};

/// A node that announces reports every 200 ms; after this its addresses go to another node. Together with the write, the way
/// to the new node and its gratuitous ARP this stays below two seconds.
const SILENCE: Duration = Duration::from_millis(1500);
/// So long before a node is called silent this looks once, to know that it was not itself the one that did not run.
const CONFIRM: Duration = Duration::from_millis(100);
/// A look that comes so much later than it was due tells that: reports may wait to be read.
const LATE: Duration = Duration::from_millis(150);
/// So long they get: two reports of each node are due within it.
const CATCH_UP: Duration = Duration::from_millis(400);
/// So often in a row: when every look is late, since the controllers have much to write, a lost node is lost all the same.
const CATCH_UPS: u32 = 2;
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
    /// Nodes that did not.
    silent: BTreeMap<Box<str>, Silent>,
    looked: Option<Instant>,
    /// Before, nobody is called silent.
    not_before: Option<Instant>,
    /// How often in a row that was put off.
    put_off: u32,
}

/// A node that fell silent: a later report or heartbeat says that it is back.
#[derive(Clone, Copy, Debug)]
struct Silent {
    reported: Option<Instant>,
    renewed: Option<MicroTime>,
}

impl Liveness {
    pub(in crate::controller) fn new(announcers: Announcers) -> Self {
        Self {
            announcers,
            starting: true,
            appointed: BTreeMap::new(),
            silent: BTreeMap::new(),
            looked: None,
            not_before: None,
            put_off: 0,
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

    /// When to look next.
    pub(in crate::controller) fn next(&self) -> Option<Instant> {
        let speaking = self
            .appointed
            .iter()
            .filter(|(node, _)| !self.is_silent(node));
        let due = speaking
            .map(|(node, appointed)| self.due(node, *appointed))
            .min()?;
        let due = self.not_before.map_or(due, |at| due.max(at));
        let before = due.checked_sub(CONFIRM)?;
        Some(match self.looked {
            Some(looked) if looked >= before => due,
            _ => before,
        })
    }

    fn due(&self, node: &str, appointed: Appointed) -> Instant {
        let last = self.announcers.last(node);
        match last.filter(|last| *last >= appointed.since) {
            Some(last) => last + SILENCE,
            None => appointed.since + appointed.patience,
        }
    }

    /// Whether a node has fallen silent, or come back, since the last look.
    pub(in crate::controller) fn look(&mut self, world: &World, now: Instant) -> bool {
        let returned = self.take_back(now);
        let wanted = self.next();
        self.looked = Some(now);
        let due: Vec<Box<str>> = self
            .appointed
            .iter()
            .filter(|(node, appointed)| !self.is_silent(node) && self.due(node, **appointed) <= now)
            .map(|(node, _)| node.clone())
            .collect();
        if due.is_empty() {
            self.not_before = None;
            self.put_off = 0;
            return returned;
        }
        let late = wanted.is_some_and(|wanted| now.saturating_duration_since(wanted) >= LATE);
        if late && self.put_off < CATCH_UPS {
            self.not_before = Some(now + CATCH_UP);
            self.put_off += 1;
        }
        if self.not_before.is_some_and(|at| now < at) {
            return returned;
        }
        self.put_off = 0;
        let mut fallen = false;
        for node in due {
            let reported = self.announcers.last(&node);
            if !self.announcers.silence(&node, reported) {
                continue;
            }
            tracing::warn!(%node, "node does not report its load-balancer addresses any more: others take them");
            let silent = Silent {
                reported,
                renewed: renewed(world, &node),
            };
            self.silent.insert(node, silent);
            fallen = true;
        }
        returned || fallen
    }

    /// Whether nodes that were silent have reported.
    fn take_back(&mut self, now: Instant) -> bool {
        let back: Vec<Box<str>> = self
            .silent
            .iter()
            .filter(|(node, silent)| self.announcers.last(node) > silent.reported)
            .map(|(node, _)| node.clone())
            .collect();
        for node in &back {
            self.is_back(node, now);
        }
        !back.is_empty()
    }

    fn is_back(&mut self, node: &str, now: Instant) {
        tracing::info!(%node, "node may announce load-balancer addresses again");
        self.silent.remove(node);
        self.announcers.take_back(node);
        // It must report anew if it still is to announce.
        if let Some(appointed) = self.appointed.get_mut(node) {
            appointed.since = now;
        }
    }

    /// Looks at the heartbeat of a node; whether it was silent and is back.
    pub(in crate::controller) fn observe(
        &mut self,
        world: &World,
        node: &str,
        now: Instant,
    ) -> bool {
        let silent = self.silent.get(node);
        let back = silent.is_some_and(|silent| renewed(world, node) != silent.renewed);
        if back {
            self.is_back(node, now);
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
        assert_eq!(liveness.next(), Some(now + SILENCE - CONFIRM));
        let report = now + SILENCE / 2;
        assert!(announcers.heard("a", report));
        assert!(!liveness.look(&world, now + SILENCE));
        assert!(wait(&mut liveness, &world));
        assert_eq!(liveness.looked, Some(report + SILENCE));
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
        assert_eq!(liveness.next(), Some(later + SILENCE - CONFIRM));
    }

    /// Looks whenever it is time to, until there is something to see.
    fn wait(liveness: &mut Liveness, world: &World) -> bool {
        (0..9).any(|_| {
            let next = liveness.next();
            next.is_some_and(|next| liveness.look(world, next))
        })
    }

    #[tokio::test]
    async fn a_silent_node_that_reports_again_is_refused_once_and_back() {
        let announcers = Announcers::default();
        let now = Instant::now();
        let mut liveness = Liveness::new(announcers.clone());
        let world = World::default();
        liveness.appoint(BTreeSet::new(), now);
        liveness.appoint(BTreeSet::from(["a".into()]), now);
        assert!(wait(&mut liveness, &world) && liveness.is_silent("a"));
        let later = now + SILENCE * 2;
        assert!(!liveness.look(&world, later), "nothing was heard");
        assert!(!announcers.heard("a", later), "others have its addresses");
        announcers.returned().await;
        assert!(liveness.look(&world, later));
        assert!(!liveness.is_silent("a"));
        assert!(announcers.heard("a", later));
    }

    #[test]
    fn a_server_that_is_always_late_gives_up_a_lost_node_all_the_same() {
        let now = Instant::now();
        let mut liveness = Liveness::new(Announcers::default());
        let world = World::default();
        liveness.appoint(BTreeSet::new(), now);
        liveness.appoint(BTreeSet::from(["a".into()]), now);
        let looks = [2, 4, 6].map(|times| liveness.look(&world, now + SILENCE * times));
        assert_eq!(looks, [false, false, true]);
        assert!(liveness.is_silent("a"));
        // The next one lost is waited for again.
        liveness.appoint(BTreeSet::from(["b".into()]), now + SILENCE * 6);
        let looks = [8, 10, 12].map(|times| liveness.look(&world, now + SILENCE * times));
        assert_eq!(looks, [false, false, true]);
    }

    #[test]
    fn a_server_that_did_not_run_itself_reads_what_has_come_before_it_calls_anybody_silent() {
        for reports in [true, false] {
            let announcers = Announcers::default();
            let now = Instant::now();
            let mut liveness = Liveness::new(announcers.clone());
            let world = World::default();
            liveness.appoint(BTreeSet::new(), now);
            liveness.appoint(BTreeSet::from(["a".into()]), now);
            liveness.look(&world, now);
            let late = now + SILENCE * 3;
            assert!(!liveness.look(&world, late), "it was away");
            if reports {
                assert!(announcers.heard("a", late + CATCH_UP / 2));
            }
            let fallen = wait(&mut liveness, &world);
            assert!(fallen, "at last, when nothing is heard any more");
            let looked = liveness.looked.unwrap() - late;
            let wanted = if reports {
                CATCH_UP / 2 + SILENCE
            } else {
                CATCH_UP
            };
            assert_eq!(looked, wanted);
        }
    }

    #[test]
    fn after_a_start_the_nodes_get_time_to_find_the_server() {
        let announcers = Announcers::default();
        let now = Instant::now();
        let mut liveness = Liveness::new(announcers.clone());
        liveness.appoint(BTreeSet::from(["a".into()]), now);
        assert_eq!(liveness.next(), Some(now + AFTER_START - CONFIRM));
        assert!(announcers.heard("a", now));
        assert_eq!(liveness.next(), Some(now + SILENCE - CONFIRM), "it has");
    }
}
