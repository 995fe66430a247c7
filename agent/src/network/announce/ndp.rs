//! Neighbour discovery over Ethernet (RFC 4861) as bytes and as a value: just what it takes to answer for addresses.

use std::net::Ipv6Addr;

use super::arp::Mac;

pub(super) const ETHERTYPE: u16 = 0x86dd;
/// Ethernet header, IPv6 header, ICMPv6 header with flags, target.
const FIXED_BYTES: usize = 14 + HEADER_BYTES + 24;
const HEADER_BYTES: usize = 40;
const ICMPV6: u8 = 58;
/// Whoever forwards a packet lowers it: a neighbour's has the highest (RFC 4861, 7.1).
const HOP_LIMIT: u8 = 255;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Flags of an advertisement: it answers a question; it replaces what is known.
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// Options: the hardware address of the sender (in a solicitation), of the target (in an advertisement).
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Where the questions for an address go (RFC 4291, 2.7.1). Whoever answers for it has to be a member.
pub(super) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low)
}

/// The hardware address of a group (RFC 2464, 7).
fn multicast(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// What a neighbour says about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saying {
    /// Where is it? By one who wants to have it, when the sender has no address.
    Question,
    /// It is here.
    Here {
        /// Asked for.
        solicited: bool,
    },
}

/// A neighbour solicitation or advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) says: Saying,
    pub(super) sender: (Mac, Ipv6Addr),
    pub(super) receiver: (Mac, Ipv6Addr),
    /// The address it is about.
    pub(super) target: Ipv6Addr,
}

impl Packet {
    /// The answer to a question: the target is at `own`. One who wants to have it, and so has no address yet, hears it with all
    /// others.
    pub(super) fn answer(&self, own: (Mac, Ipv6Addr)) -> Self {
        let solicited = !self.sender.1.is_unspecified();
        let receiver = if solicited {
            self.sender
        } else {
            (multicast(ALL_NODES), ALL_NODES)
        };
        Self {
            says: Saying::Here { solicited },
            sender: own,
            receiver,
            target: self.target,
        }
    }

    /// Tells everybody who knows the address that it is at `own` now (RFC 4861, 7.2.6).
    pub(super) fn announcement(own: (Mac, Ipv6Addr), target: Ipv6Addr) -> Self {
        Self {
            says: Saying::Here { solicited: false },
            sender: own,
            receiver: (multicast(ALL_NODES), ALL_NODES),
            target,
        }
    }

    /// Asks whether somebody else has the address, and teaches nobody anything (RFC 4862, 5.4.2).
    pub(super) fn probe(own: Mac, target: Ipv6Addr) -> Self {
        let group = solicited_node(target);
        Self {
            says: Saying::Question,
            sender: (own, Ipv6Addr::UNSPECIFIED),
            receiver: (multicast(group), group),
            target,
        }
    }

    /// Whether its sender claims to have an address.
    pub(super) fn claims(&self) -> Option<Ipv6Addr> {
        match self.says {
            Saying::Here { .. } => Some(self.target),
            Saying::Question => Some(self.sender.1).filter(|source| !source.is_unspecified()),
        }
    }

    /// The frame on the wire.
    pub(super) fn emit(&self) -> Vec<u8> {
        let (kind, flags, option) = match self.says {
            Saying::Question => (SOLICITATION, 0, SOURCE_LINK_LAYER),
            Saying::Here { solicited: false } => (ADVERTISEMENT, OVERRIDE, TARGET_LINK_LAYER),
            Saying::Here { solicited: true } => {
                (ADVERTISEMENT, OVERRIDE | SOLICITED, TARGET_LINK_LAYER)
            }
        };
        let mut body = vec![kind, 0, 0, 0, flags, 0, 0, 0];
        body.extend(self.target.octets());
        // One who has no address must not say where it is.
        if !self.sender.1.is_unspecified() {
            body.extend([option, 1]);
            body.extend(self.sender.0);
        }
        let sum = checksum(self.sender.1, self.receiver.1, &body);
        body[2..4].copy_from_slice(&sum.to_be_bytes());
        let length = u16::try_from(body.len()).expect("a few bytes");

        let mut frame = Vec::with_capacity(14 + HEADER_BYTES + body.len());
        frame.extend(self.receiver.0);
        frame.extend(self.sender.0);
        frame.extend(ETHERTYPE.to_be_bytes());
        frame.extend([0x60, 0, 0, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([ICMPV6, HOP_LIMIT]);
        frame.extend(self.sender.1.octets());
        frame.extend(self.receiver.1.octets());
        frame.extend(body);
        frame
    }

    /// Reads a frame; `None` when it is none of the two, was forwarded, or is damaged.
    pub(super) fn parse(frame: &[u8]) -> Option<Self> {
        let header = frame.get(14..FIXED_BYTES)?;
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let body = frame.get(14 + HEADER_BYTES..)?.get(..length)?;
        let is_neighbours = frame[12..14] == ETHERTYPE.to_be_bytes()
            && header[0] >> 4 == 6
            && header[6..8] == [ICMPV6, HOP_LIMIT]
            && body.len() >= 24
            && body[1] == 0;
        let mac = |at: usize| Mac::try_from(&frame[at..at + 6]).ok();
        let ip = |bytes: &[u8]| Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?));
        let (source, destination) = (ip(&header[8..24])?, ip(&header[24..40])?);
        if !is_neighbours || checksum(source, destination, body) != 0 {
            return None;
        }
        let says = match body[0] {
            SOLICITATION => Saying::Question,
            ADVERTISEMENT => Saying::Here {
                solicited: body[4] & SOLICITED != 0,
            },
            _ => return None,
        };
        let target = ip(&body[8..24])?;
        (!target.is_multicast()).then_some(Self {
            says,
            sender: (mac(6)?, source),
            receiver: (mac(0)?, destination),
            target,
        })
    }
}

/// The Internet checksum with the pseudo-header of IPv6 (RFC 8200, 8.1); zero over a body that carries the right one.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        let pairs = bytes.chunks(2);
        pairs
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
            .sum()
    };
    let length = u32::try_from(body.len()).unwrap_or(0);
    let mut sum = words(&source.octets()) + words(&destination.octets()) + words(body);
    sum += length + u32::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Mac = [2, 0, 0, 0, 0, 1];
    const THEIRS: Mac = [2, 0, 0, 0, 0, 2];

    fn ip(text: &str) -> Ipv6Addr {
        text.parse().expect("an address")
    }

    /// As a Linux host sent it: `tcpdump -xx -i eth0 icmp6`, the question of fe80::ff:fe00:2 for 2001:db8::9.
    fn question() -> Vec<u8> {
        let mut frame = vec![0x33, 0x33, 0xff, 0, 0, 9];
        frame.extend(THEIRS);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
        frame.extend(ip("fe80::ff:fe00:2").octets());
        frame.extend(ip("ff02::1:ff00:9").octets());
        frame.extend([135, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend(ip("2001:db8::9").octets());
        frame.extend([1, 1]);
        frame.extend(THEIRS);
        let sum = checksum(ip("fe80::ff:fe00:2"), ip("ff02::1:ff00:9"), &frame[54..]);
        frame[56..58].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    /// The example of RFC 1071, section 3, cannot be used alone: the pseudo-header adds length and protocol.
    #[test]
    fn the_checksum_is_that_of_the_internet() {
        let body = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        let none = Ipv6Addr::UNSPECIFIED;
        assert_eq!(checksum(none, none, &body), !(0xddf2 + 8 + 58));
    }

    #[test]
    fn a_question_is_read_and_answered_to_its_sender() {
        let parsed = Packet::parse(&question()).expect("a question");
        assert_eq!(parsed.emit(), question(), "written as it was read");
        let own = (OURS, ip("fe80::ff:fe00:1"));
        let answer = parsed.answer(own);
        assert_eq!(answer.receiver, (THEIRS, ip("fe80::ff:fe00:2")));
        let frame = answer.emit();
        assert_eq!(Packet::parse(&frame), Some(answer));
        assert_eq!(frame[54], ADVERTISEMENT);
        assert_eq!(frame[58], OVERRIDE | SOLICITED);
        assert_eq!(frame[78..], [&[2, 1][..], &OURS].concat());
    }

    #[test]
    fn one_who_wants_the_address_is_told_with_everybody_that_it_is_taken() {
        let probe = Packet::probe(THEIRS, ip("2001:db8::9"));
        assert_eq!(probe.claims(), None);
        let frame = probe.emit();
        assert_eq!(frame.len(), FIXED_BYTES, "no option");
        assert_eq!(Packet::parse(&frame), Some(probe));
        let own = (OURS, ip("fe80::1"));
        let answer = probe.answer(own);
        assert_eq!(answer, Packet::announcement(own, ip("2001:db8::9")));
        assert_eq!(answer.emit()[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(answer.emit()[58], OVERRIDE);
        assert_eq!(answer.claims(), Some(ip("2001:db8::9")));
    }

    #[test]
    fn what_is_no_neighbours_packet_is_left_alone() {
        let good = question();
        // Another protocol, no IPv6, forwarded, echo request, a code, a damaged target.
        for (at, byte) in [
            (12, 8),
            (14, 0x40),
            (20, 17),
            (21, 254),
            (54, 128),
            (55, 1),
            (77, 8),
        ] {
            let mut other = good.clone();
            other[at] = byte;
            assert_eq!(Packet::parse(&other), None, "byte {at}");
        }
        for length in 0..good.len() {
            assert_eq!(Packet::parse(&good[..length]), None, "{length} bytes");
        }
    }
}
