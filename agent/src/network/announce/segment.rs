//! The addresses announced on one link: who is asked, what is answered, who else claims them. Pure.
//!
//! While the server acknowledges this node's reports, the node is right about what it announces, and defends it. When it does
//! not, the server may be away, and then all goes on; or this node is cut off from it, and then another node may have taken
//! over: its announcement, or its answer to the probes that are sent meanwhile, ends the answers of this one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use super::arp::{Mac, Operation, Packet};

/// Without an acknowledgement for so long, somebody else may have been chosen. Less than the server waits.
pub(super) const CERTAIN: Duration = Duration::from_secs(1);
/// An announcement that was lost is not missed: there are more.
const ANNOUNCEMENTS: u8 = 3;
/// Between announcements, and between probes.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// After the server is back for so long, what it says is known again.
const SETTLED: Duration = Duration::from_secs(3);

/// What is announced on a link.
#[derive(Debug)]
pub(super) struct Segment {
    own: Mac,
    /// The addresses, and how often each is still to be announced.
    announced: BTreeMap<Ipv4Addr, u8>,
    /// Those of them that somebody else has taken.
    yielded: BTreeSet<Ipv4Addr>,
    /// Since when the server acknowledges.
    certain_since: Option<Instant>,
}

impl Segment {
    pub(super) fn new(own: Mac) -> Self {
        Self {
            own,
            announced: BTreeMap::new(),
            yielded: BTreeSet::new(),
            certain_since: None,
        }
    }

    /// These addresses are to be announced from now on, and no others; returns what to send.
    pub(super) fn set(&mut self, wanted: &BTreeSet<Ipv4Addr>) -> Vec<Packet> {
        self.announced.retain(|address, _| wanted.contains(address));
        self.yielded.retain(|address| wanted.contains(address));
        let mut sent = Vec::new();
        for address in wanted {
            if !self.announced.contains_key(address) {
                self.announced.insert(*address, ANNOUNCEMENTS - 1);
                sent.extend(Packet::announcements(self.own, *address));
            }
        }
        sent
    }

    /// Takes a packet in; returns what to send.
    pub(super) fn receive(&mut self, packet: &Packet, certain: bool) -> Vec<Packet> {
        if packet.sender.0 == self.own {
            return Vec::new();
        }
        if let Some(claimed) = packet.claims().filter(|address| self.answers(*address)) {
            if certain {
                return Packet::announcements(self.own, claimed).into();
            }
            tracing::warn!(address = %claimed, "another node announces a load-balancer address of this one, which has lost the server");
            self.yielded.insert(claimed);
            return Vec::new();
        }
        if packet.operation == Operation::Request && self.answers(packet.target.1) {
            return vec![packet.answer(self.own)];
        }
        Vec::new()
    }

    fn answers(&self, address: Ipv4Addr) -> bool {
        self.announced.contains_key(&address) && !self.yielded.contains(&address)
    }

    /// What to send every second.
    pub(super) fn tick(&mut self, certain: bool, now: Instant) -> Vec<Packet> {
        if !certain {
            self.certain_since = None;
            let asked = self
                .announced
                .keys()
                .filter(|address| self.answers(**address));
            return asked
                .map(|address| Packet::probe(self.own, *address))
                .collect();
        }
        let since = *self.certain_since.get_or_insert(now);
        if now.duration_since(since) >= SETTLED {
            for address in std::mem::take(&mut self.yielded) {
                self.announced.insert(address, ANNOUNCEMENTS);
            }
        }
        let mut sent = Vec::new();
        for (address, left) in &mut self.announced {
            if *left > 0 && !self.yielded.contains(address) {
                *left -= 1;
                sent.extend(Packet::announcements(self.own, *address));
            }
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Mac = [2, 0, 0, 0, 0, 1];
    const THEIRS: Mac = [2, 0, 0, 0, 0, 2];
    const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
    const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);

    fn question(address: Ipv4Addr) -> Packet {
        Packet {
            operation: Operation::Request,
            sender: (THEIRS, CLIENT),
            target: ([0; 6], address),
        }
    }

    fn announcing() -> Segment {
        let mut segment = Segment::new(OURS);
        assert_eq!(segment.set(&BTreeSet::from([VIP])).len(), 2);
        segment
    }

    #[test]
    fn only_addresses_that_are_announced_are_answered_for() {
        let mut segment = announcing();
        let answer = segment.receive(&question(VIP), true);
        assert_eq!(answer, [question(VIP).answer(OURS)]);
        assert!(segment.receive(&question(CLIENT), true).is_empty());
        assert!(
            segment.set(&BTreeSet::from([VIP])).is_empty(),
            "told already"
        );
        segment.set(&BTreeSet::new());
        assert!(segment.receive(&question(VIP), true).is_empty());
    }

    #[test]
    fn an_address_is_announced_three_times() {
        let mut segment = announcing();
        let now = Instant::now();
        let ticks: Vec<usize> = (0..4).map(|_| segment.tick(true, now).len()).collect();
        assert_eq!(ticks, [2, 2, 0, 0]);
    }

    #[test]
    fn a_node_that_the_server_acknowledges_defends_its_address() {
        let mut segment = announcing();
        let rival = Packet::announcements(THEIRS, VIP)[0];
        assert_eq!(
            segment.receive(&rival, true),
            Packet::announcements(OURS, VIP)
        );
        assert_eq!(segment.receive(&question(VIP), true).len(), 1);
    }

    #[test]
    fn a_node_that_lost_the_server_goes_on_until_another_one_has_taken_over() {
        let mut segment = announcing();
        let now = Instant::now();
        assert_eq!(segment.receive(&question(VIP), false).len(), 1);
        assert_eq!(segment.tick(false, now), [Packet::probe(OURS, VIP)]);
        // The answer to the probe.
        let answer = Packet::probe(OURS, VIP).answer(THEIRS);
        assert!(segment.receive(&answer, false).is_empty());
        assert!(segment.receive(&question(VIP), false).is_empty());
        assert!(segment.tick(false, now).is_empty());
        // Back, and the server still wants it.
        assert!(segment.tick(true, now).is_empty());
        assert!(segment.receive(&question(VIP), true).is_empty(), "not yet");
        assert_eq!(segment.tick(true, now + SETTLED).len(), 2);
        assert_eq!(segment.receive(&question(VIP), true).len(), 1);
    }
}
