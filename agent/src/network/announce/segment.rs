//! The addresses announced on one link: who is asked, what is answered, who else claims them. Pure.
//!
//! While the server acknowledges this node's reports, the node is right about what it announces, and defends it. When it does
//! not, the server may be away, and then all goes on; or this node is cut off from it, and then another node may have taken
//! over: its announcement, or its answer to the probes that are sent meanwhile, ends the answers of this one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::packet::{Packet, Station};

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
    own: Station,
    /// The addresses, and how often each is still to be announced.
    announced: BTreeMap<IpAddr, u8>,
    /// Those of them that somebody else has taken.
    yielded: BTreeSet<IpAddr>,
    /// Since when the server acknowledges.
    certain_since: Option<Instant>,
}

impl Segment {
    pub(super) fn new(own: Station) -> Self {
        Self {
            own,
            announced: BTreeMap::new(),
            yielded: BTreeSet::new(),
            certain_since: None,
        }
    }

    /// These addresses are to be announced from now on, and no others; returns what to send.
    pub(super) fn set(&mut self, wanted: &BTreeSet<IpAddr>) -> Vec<Packet> {
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
        if packet.sender() == self.own.mac {
            return Vec::new();
        }
        if let Some(claimed) = packet.claims().filter(|address| self.answers(*address)) {
            if certain {
                return Packet::announcements(self.own, claimed);
            }
            tracing::warn!(address = %claimed, "another node announces a load-balancer address of this one, which has lost the server");
            self.yielded.insert(claimed);
            return Vec::new();
        }
        let question = packet.question(self.own);
        let answered = question.filter(|(address, _)| self.answers(*address));
        answered.map(|(_, answer)| answer).into_iter().collect()
    }

    fn answers(&self, address: IpAddr) -> bool {
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
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::{
        super::{arp, ndp},
        *,
    };

    const OURS: Station = Station {
        mac: [2, 0, 0, 0, 0, 1],
        ipv6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
    };
    const THEIRS: Station = Station {
        mac: [2, 0, 0, 0, 0, 2],
        ipv6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2),
    };
    const VIPS: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9)),
    ];

    fn question(address: IpAddr) -> Packet {
        match address {
            IpAddr::V4(address) => Packet::Arp(arp::Packet {
                operation: arp::Operation::Request,
                sender: (THEIRS.mac, Ipv4Addr::new(192, 0, 2, 100)),
                target: ([0; 6], address),
            }),
            IpAddr::V6(address) => Packet::Ndp(ndp::Packet {
                sender: (THEIRS.mac, THEIRS.ipv6),
                ..ndp::Packet::probe(THEIRS.mac, address)
            }),
        }
    }

    fn answer(packet: &Packet, from: Station) -> Packet {
        packet.question(from).expect("a question").1
    }

    fn announcing(vip: IpAddr) -> Segment {
        let mut segment = Segment::new(OURS);
        let told = segment.set(&BTreeSet::from([vip]));
        assert_eq!(told, Packet::announcements(OURS, vip));
        segment
    }

    #[test]
    fn only_addresses_that_are_announced_are_answered_for() {
        for vip in VIPS {
            let mut segment = announcing(vip);
            let asked = question(vip);
            assert_eq!(segment.receive(&asked, true), [answer(&asked, OURS)]);
            for other in ["192.0.2.10", "2001:db8::a"].map(|ip| ip.parse().expect("address")) {
                assert!(segment.receive(&question(other), true).is_empty());
            }
            let again = segment.set(&BTreeSet::from([vip]));
            assert!(again.is_empty(), "told already");
            segment.set(&BTreeSet::new());
            assert!(segment.receive(&asked, true).is_empty());
        }
    }

    #[test]
    fn an_address_is_announced_three_times() {
        for vip in VIPS {
            let mut segment = announcing(vip);
            let (now, once) = (Instant::now(), Packet::announcements(OURS, vip).len());
            let ticks: Vec<usize> = (0..4).map(|_| segment.tick(true, now).len()).collect();
            assert_eq!(ticks, [once, once, 0, 0]);
        }
    }

    #[test]
    fn a_node_that_the_server_acknowledges_defends_its_address() {
        for vip in VIPS {
            let mut segment = announcing(vip);
            let rival = Packet::announcements(THEIRS, vip)[0];
            let defence = segment.receive(&rival, true);
            assert_eq!(defence, Packet::announcements(OURS, vip));
            assert_eq!(segment.receive(&question(vip), true).len(), 1);
        }
    }

    #[test]
    fn a_node_that_lost_the_server_goes_on_until_another_one_has_taken_over() {
        for vip in VIPS {
            let mut segment = announcing(vip);
            let now = Instant::now();
            assert_eq!(segment.receive(&question(vip), false).len(), 1);
            let probe = Packet::probe(OURS, vip);
            assert_eq!(segment.tick(false, now), [probe]);
            let rival = answer(&probe, THEIRS);
            assert!(segment.receive(&rival, false).is_empty());
            assert!(segment.receive(&question(vip), false).is_empty());
            assert!(segment.tick(false, now).is_empty());
            // Back, and the server still wants it.
            assert!(segment.tick(true, now).is_empty());
            assert!(segment.receive(&question(vip), true).is_empty(), "not yet");
            let told = segment.tick(true, now + SETTLED);
            assert_eq!(told, Packet::announcements(OURS, vip));
            assert_eq!(segment.receive(&question(vip), true).len(), 1);
        }
    }
}
