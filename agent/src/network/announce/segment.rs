//! The addresses announced on one link: who is asked, what is answered, who else claims them. Pure.
//!
//! While the server acknowledges this node's reports, the node is right about what it announces, answers, and defends it. When
//! it does not, the server may be away, and then all goes on; or this node is cut off from it, or was not running for a while,
//! and then another node may have taken over. So it asks the segment first, and answers only when nobody has claimed the
//! address for a moment in which it was awake all the time; it goes on asking, and ends its answers with the first claim.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::packet::{Packet, Station};

/// The pauses between announcements: one that was lost is not missed, and a switch that was not ready hears the last.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
];
/// An address is defended so often at most: two nodes that are both certain must not answer each other for ever.
const DEFEND_EVERY: Duration = Duration::from_secs(1);
/// How long nobody may claim an address before a node that is not certain answers for it. A neighbour answers in a millisecond.
const LISTEN: Duration = Duration::from_millis(200);
/// Who has not looked for so long cannot say that nobody claimed anything meanwhile.
const STARVED: Duration = Duration::from_millis(400);
/// Between the questions of a node that is not certain.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Answers held back while the node listens: the newest are kept.
const HELD: usize = 256;

/// What is announced on a link.
#[derive(Debug)]
pub(super) struct Segment {
    own: Station,
    announced: BTreeMap<IpAddr, Announced>,
    /// Answers for when nobody else turns out to have the address.
    held: Vec<(IpAddr, Packet)>,
    asking: Option<Asking>,
}

/// One address.
#[derive(Debug, Default)]
struct Announced {
    /// How often it was announced.
    said: usize,
    /// When it is announced again.
    again: Option<Instant>,
    defended: Option<Instant>,
    /// Whether somebody else has taken it.
    yielded: bool,
}

/// What a node does that is not certain.
#[derive(Clone, Copy, Debug)]
struct Asking {
    /// Since when it has asked and listened without a break.
    since: Instant,
    looked: Instant,
    again: Instant,
}

impl Segment {
    pub(super) const fn new(own: Station) -> Self {
        Self {
            own,
            announced: BTreeMap::new(),
            held: Vec::new(),
            asking: None,
        }
    }

    /// These addresses are to be announced from now on, and no others.
    pub(super) fn set(&mut self, wanted: &BTreeSet<IpAddr>, now: Instant) {
        self.announced.retain(|address, _| wanted.contains(address));
        self.held.retain(|(address, _)| wanted.contains(address));
        for address in wanted {
            let new = || Announced {
                again: Some(now),
                ..Announced::default()
            };
            self.announced.entry(*address).or_insert_with(new);
        }
    }

    /// What is due, to be asked for before anything else is done; returns what to send.
    pub(super) fn look(&mut self, certain: bool, now: Instant) -> Vec<Packet> {
        if certain {
            self.asking = None;
            for each in self.announced.values_mut().filter(|each| each.yielded) {
                *each = Announced {
                    again: Some(now),
                    ..Announced::default()
                };
            }
        } else {
            self.ask(now);
        }
        let mut sent = self.announce(now);
        sent.extend(self.questions(now));
        if !self.listens(now) {
            sent.extend(self.held.drain(..).map(|(_, answer)| answer));
        }
        sent
    }

    /// When to look again at the latest.
    pub(super) fn next(&self) -> Option<Instant> {
        let announcements = self.announced.values().filter(|each| !each.yielded);
        let announcements = announcements.filter_map(|each| each.again);
        let listening = self.asking.map(|asking| asking.since + LISTEN);
        let announcements = announcements.map(|at| listening.map_or(at, |until| at.max(until)));
        let asking = self.asking.map(|asking| asking.looked + LISTEN);
        announcements.chain(asking).min()
    }

    /// Takes in packets that came together: what they claim goes before what they ask. Returns what to send.
    pub(super) fn receive(&mut self, packets: &[Packet], now: Instant) -> Vec<Packet> {
        let others = || {
            packets
                .iter()
                .filter(|packet| packet.sender() != self.own.mac)
        };
        let claims: Vec<IpAddr> = others().filter_map(Packet::claims).collect();
        let questions: Vec<_> = others()
            .filter_map(|packet| Some((packet.claims(), packet.question(self.own)?)))
            .collect();
        let mut sent = Vec::new();
        for claimed in &claims {
            sent.extend(self.claimed(*claimed, now));
        }
        for (claimed, (address, answer)) in questions {
            // Who announces by a question asks nothing.
            if claimed == Some(address) || !self.answers(address) {
                continue;
            }
            if self.listens(now) {
                if self.held.len() == HELD {
                    self.held.remove(0);
                }
                self.held.push((address, answer));
            } else {
                sent.push(answer);
            }
        }
        sent
    }

    /// Somebody else says that it has an address.
    fn claimed(&mut self, address: IpAddr, now: Instant) -> Vec<Packet> {
        let Some(each) = self
            .announced
            .get_mut(&address)
            .filter(|each| !each.yielded)
        else {
            return Vec::new();
        };
        if self.asking.is_some() {
            tracing::warn!(%address, "another node announces a load-balancer address of this one, which has lost the server");
            each.yielded = true;
            self.held.retain(|(held, _)| *held != address);
            return Vec::new();
        }
        let lately = |at: Instant| now.saturating_duration_since(at) < DEFEND_EVERY;
        if each.defended.is_some_and(lately) {
            return Vec::new();
        }
        each.defended = Some(now);
        Packet::announcements(self.own, address)
    }

    fn answers(&self, address: IpAddr) -> bool {
        self.announced
            .get(&address)
            .is_some_and(|each| !each.yielded)
    }

    /// Whether it is too early to answer.
    fn listens(&self, now: Instant) -> bool {
        self.asking
            .is_some_and(|asking| now.saturating_duration_since(asking.since) < LISTEN)
    }

    /// The node is not certain (any more), or still not.
    fn ask(&mut self, now: Instant) {
        let awake = |asking: &Asking| now.saturating_duration_since(asking.looked) < STARVED;
        match self.asking.as_mut().filter(|asking| awake(asking)) {
            Some(asking) => asking.looked = now,
            None => {
                self.asking = Some(Asking {
                    since: now,
                    looked: now,
                    again: now,
                });
            }
        }
    }

    fn questions(&mut self, now: Instant) -> Vec<Packet> {
        let Some(asking) = self.asking.as_mut().filter(|asking| asking.again <= now) else {
            return Vec::new();
        };
        asking.again = now + ASK_EVERY;
        let asked = self.announced.iter().filter(|(_, each)| !each.yielded);
        asked
            .map(|(address, _)| Packet::probe(self.own, *address))
            .collect()
    }

    /// Announcements claim an address, even more than answers do.
    fn announce(&mut self, now: Instant) -> Vec<Packet> {
        let mut sent = Vec::new();
        if self.listens(now) {
            return sent;
        }
        for (address, each) in &mut self.announced {
            if each.yielded || each.again.is_none_or(|again| now < again) {
                continue;
            }
            each.again = PAUSES.get(each.said).map(|pause| now + *pause);
            each.said += 1;
            sent.extend(Packet::announcements(self.own, *address));
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

    fn announcing(vip: IpAddr, now: Instant) -> Segment {
        let mut segment = Segment::new(OURS);
        segment.set(&BTreeSet::from([vip]), now);
        assert_eq!(segment.look(true, now), Packet::announcements(OURS, vip));
        segment
    }

    /// One that has asked, and heard nothing for long enough.
    fn alone(vip: IpAddr, now: Instant) -> (Segment, Instant) {
        let mut segment = announcing(vip, now);
        let asked = segment.look(false, now);
        assert_eq!(asked, [Packet::probe(OURS, vip)]);
        let then = now + LISTEN;
        segment.look(false, then);
        (segment, then)
    }

    #[test]
    fn only_addresses_that_are_announced_are_answered_for() {
        for vip in VIPS {
            let now = Instant::now();
            let mut segment = announcing(vip, now);
            let asked = question(vip);
            assert_eq!(segment.receive(&[asked], now), [answer(&asked, OURS)]);
            for other in ["192.0.2.10", "2001:db8::a"].map(|ip| ip.parse().expect("address")) {
                assert!(segment.receive(&[question(other)], now).is_empty());
            }
            segment.set(&BTreeSet::from([vip]), now);
            assert!(segment.look(true, now).is_empty(), "told already");
            segment.set(&BTreeSet::new(), now);
            assert!(segment.receive(&[asked], now).is_empty());
        }
    }

    #[test]
    fn an_address_is_announced_six_times_within_little_more_than_three_seconds() {
        for vip in VIPS {
            let now = Instant::now();
            let mut segment = announcing(vip, now);
            let mut times = Vec::new();
            while let Some(next) = segment.next() {
                assert!(
                    segment
                        .look(true, next - Duration::from_millis(1))
                        .is_empty()
                );
                assert_eq!(segment.look(true, next), Packet::announcements(OURS, vip));
                times.push((next - now).as_millis());
            }
            assert_eq!(times, [100, 300, 700, 1500, 3100]);
        }
    }

    #[test]
    fn a_node_that_the_server_acknowledges_defends_its_address_once_a_second() {
        for vip in VIPS {
            let now = Instant::now();
            let mut segment = announcing(vip, now);
            let rival = Packet::announcements(THEIRS, vip)[0];
            let defence = segment.receive(&[rival, rival], now);
            assert_eq!(defence, Packet::announcements(OURS, vip));
            assert_eq!(segment.receive(&[question(vip)], now).len(), 1);
            assert!(segment.receive(&[rival], now + DEFEND_EVERY / 2).is_empty());
            assert_eq!(segment.receive(&[rival], now + DEFEND_EVERY), defence);
        }
    }

    #[test]
    fn a_node_that_lost_the_server_asks_first_and_answers_when_nobody_else_does() {
        for vip in VIPS {
            let now = Instant::now();
            let mut segment = announcing(vip, now);
            assert_eq!(segment.look(false, now), [Packet::probe(OURS, vip)]);
            let asked = question(vip);
            assert!(segment.receive(&[asked], now).is_empty(), "not yet");
            assert_eq!(segment.next(), Some(now + LISTEN));
            let then = now + LISTEN;
            let said = segment.look(false, then);
            assert!(
                said.contains(&answer(&asked, OURS)),
                "it was held back: {said:?}"
            );
            assert_eq!(segment.receive(&[asked], then), [answer(&asked, OURS)]);
        }
    }

    /// For example on a link that is back, with which the node was cut off from the server.
    #[test]
    fn a_node_that_lost_the_server_announces_nothing_before_it_has_asked() {
        for vip in VIPS {
            let now = Instant::now();
            for is_taken in [false, true] {
                let mut segment = Segment::new(OURS);
                segment.set(&BTreeSet::from([vip]), now);
                assert_eq!(segment.look(false, now), [Packet::probe(OURS, vip)]);
                assert_eq!(segment.next(), Some(now + LISTEN), "it does not spin");
                if is_taken {
                    let rival = answer(&Packet::probe(OURS, vip), THEIRS);
                    assert!(segment.receive(&[rival], now).is_empty());
                }
                let announced = segment.look(false, now + LISTEN);
                let wanted = match is_taken {
                    true => Vec::new(),
                    false => Packet::announcements(OURS, vip),
                };
                assert_eq!(announced, wanted);
            }
        }
    }

    #[test]
    fn a_node_that_lost_the_server_goes_on_until_another_one_has_taken_over() {
        for vip in VIPS {
            let (mut segment, now) = alone(vip, Instant::now());
            let rival = answer(&Packet::probe(OURS, vip), THEIRS);
            // The question came first, and is too late all the same.
            assert!(segment.receive(&[question(vip), rival], now).is_empty());
            assert!(segment.receive(&[question(vip)], now).is_empty());
            assert!(segment.look(false, now + ASK_EVERY).is_empty());
            // Back, and the server still wants it.
            let told = segment.look(true, now + ASK_EVERY);
            assert_eq!(told, Packet::announcements(OURS, vip));
            let now = now + ASK_EVERY;
            assert_eq!(segment.receive(&[question(vip)], now).len(), 1);
        }
    }

    #[test]
    fn a_node_that_did_not_run_for_a_while_asks_again_before_it_answers() {
        for vip in VIPS {
            let (mut segment, now) = alone(vip, Instant::now());
            let awake = now + STARVED / 2;
            segment.look(false, awake);
            assert_eq!(segment.receive(&[question(vip)], awake).len(), 1);
            let starved = awake + STARVED;
            let asked = segment.look(false, starved);
            assert!(asked.contains(&Packet::probe(OURS, vip)), "{asked:?}");
            assert!(segment.receive(&[question(vip)], starved).is_empty());
            let rival = Packet::announcements(THEIRS, vip)[0];
            assert!(segment.receive(&[rival], starved).is_empty());
            let later = segment.look(false, starved + LISTEN);
            assert!(
                later.is_empty(),
                "the answer was not held for ever: {later:?}"
            );
        }
    }
}
