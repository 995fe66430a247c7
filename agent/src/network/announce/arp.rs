//! ARP over Ethernet (RFC 826) as bytes and as a value: just what it takes to answer for addresses (RFC 5227).

use std::net::Ipv4Addr;

/// A hardware address.
pub(super) type Mac = [u8; 6];

pub(super) const ETHERTYPE: u16 = 0x0806;
const BROADCAST: Mac = [0xff; 6];
/// Ethernet header and ARP packet.
pub(super) const FRAME_BYTES: usize = 42;
/// Ethernet hardware, IPv4 addresses, of 6 and 4 bytes.
const FIXED: [u8; 6] = [0, 1, 8, 0, 6, 4];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Request,
    Reply,
}

/// What an ARP packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) operation: Operation,
    pub(super) sender: (Mac, Ipv4Addr),
    pub(super) target: (Mac, Ipv4Addr),
}

impl Packet {
    /// The answer to a request: the address is at `own`.
    pub(super) fn answer(&self, own: Mac) -> Self {
        Self {
            operation: Operation::Reply,
            sender: (own, self.target.1),
            target: self.sender,
        }
    }

    /// Tells everybody that the address is at `own` (RFC 5227, section 2.3). Some hosts take notice of the one form only, some
    /// of the other.
    pub(super) fn announcements(own: Mac, address: Ipv4Addr) -> [Self; 2] {
        let announcement = |operation, target| Self {
            operation,
            sender: (own, address),
            target: (target, address),
        };
        [
            announcement(Operation::Request, [0; 6]),
            announcement(Operation::Reply, BROADCAST),
        ]
    }

    /// Asks whether somebody else has the address, and teaches nobody anything (RFC 5227, section 1.1).
    pub(super) fn probe(own: Mac, address: Ipv4Addr) -> Self {
        Self {
            operation: Operation::Request,
            sender: (own, Ipv4Addr::UNSPECIFIED),
            target: ([0; 6], address),
        }
    }

    /// Whether its sender claims to have an address.
    pub(super) fn claims(&self) -> Option<Ipv4Addr> {
        Some(self.sender.1).filter(|address| !address.is_unspecified())
    }

    /// The frame on the wire. A reply goes to its target, whatever else to everybody.
    pub(super) fn emit(&self) -> [u8; FRAME_BYTES] {
        let destination = match self.operation {
            Operation::Reply => self.target.0,
            Operation::Request => BROADCAST,
        };
        let operation: u8 = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        let mut frame = [0; FRAME_BYTES];
        frame[..6].copy_from_slice(&destination);
        frame[6..12].copy_from_slice(&self.sender.0);
        frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
        frame[14..20].copy_from_slice(&FIXED);
        frame[21] = operation;
        frame[22..28].copy_from_slice(&self.sender.0);
        frame[28..32].copy_from_slice(&self.sender.1.octets());
        frame[32..38].copy_from_slice(&self.target.0);
        frame[38..].copy_from_slice(&self.target.1.octets());
        frame
    }

    /// Reads a frame; `None` when it is no ARP for IPv4 over Ethernet.
    pub(super) fn parse(frame: &[u8]) -> Option<Self> {
        let is_arp = frame.get(12..14)? == ETHERTYPE.to_be_bytes() && frame.get(14..20)? == FIXED;
        let operation = match frame.get(20..22)? {
            [0, 1] => Operation::Request,
            [0, 2] => Operation::Reply,
            _ => return None,
        };
        let mac = |at: usize| Mac::try_from(frame.get(at..at + 6)?).ok();
        let ip = |at: usize| {
            Some(Ipv4Addr::from(
                <[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?,
            ))
        };
        let packet = Self {
            operation,
            sender: (mac(22)?, ip(28)?),
            target: (mac(32)?, ip(38)?),
        };
        is_arp.then_some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Mac = [2, 0, 0, 0, 0, 1];
    const THEIRS: Mac = [2, 0, 0, 0, 0, 2];

    /// The example of tcpdump(8)'s `arp who-has 192.0.2.9 tell 192.0.2.2`, in the layout of RFC 826.
    #[test]
    fn a_request_is_read_and_answered_to_its_sender() {
        let mut frame = vec![0xff; 6];
        frame.extend(THEIRS);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(THEIRS);
        frame.extend([192, 0, 2, 2, 0, 0, 0, 0, 0, 0, 192, 0, 2, 9]);
        let request = Packet::parse(&frame).expect("a request");
        assert_eq!(request.emit()[..], frame[..], "written as it was read");
        let answer = request.answer(OURS);
        assert_eq!(answer.sender, (OURS, Ipv4Addr::new(192, 0, 2, 9)));
        assert_eq!(answer.emit()[..6], THEIRS);
        // Ethernet pads short frames.
        frame.resize(60, 0);
        assert_eq!(Packet::parse(&frame), Some(request));
    }

    #[test]
    fn an_announcement_claims_its_address_and_a_probe_none() {
        let address = Ipv4Addr::new(192, 0, 2, 9);
        for packet in Packet::announcements(OURS, address) {
            assert_eq!(packet.claims(), Some(address));
            assert_eq!(packet.emit()[..6], BROADCAST);
        }
        let probe = Packet::probe(OURS, address);
        assert_eq!((probe.claims(), probe.target.1), (None, address));
    }

    #[test]
    fn what_is_no_arp_for_ipv4_is_left_alone() {
        let frame = Packet::probe(OURS, Ipv4Addr::LOCALHOST).emit();
        for (at, byte) in [(12, 0x86), (17, 0xdd), (18, 8), (21, 9)] {
            let mut other = frame;
            other[at] = byte;
            assert_eq!(Packet::parse(&other), None, "byte {at}");
        }
        for length in 0..FRAME_BYTES {
            assert_eq!(Packet::parse(&frame[..length]), None, "{length} bytes");
        }
    }
}
