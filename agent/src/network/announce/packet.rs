//! How the hosts of a link find each other, in either family: ARP or NDP.

use std::net::{IpAddr, Ipv6Addr};

use dataplane::model::Family;

use super::{
    arp::{self, Mac},
    ndp,
};

/// Who announces on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Station {
    pub(super) mac: Mac,
    /// From which NDP is spoken.
    pub(super) ipv6: Ipv6Addr,
}

/// A packet of either protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packet {
    Arp(arp::Packet),
    Ndp(ndp::Packet),
}

impl Packet {
    /// Tells everybody that the address is at `own`.
    pub(super) fn announcements(own: Station, address: IpAddr) -> Vec<Self> {
        match address {
            IpAddr::V4(address) => arp::Packet::announcements(own.mac, address)
                .map(Self::Arp)
                .into(),
            IpAddr::V6(address) => {
                let station = (own.mac, own.ipv6);
                vec![Self::Ndp(ndp::Packet::announcement(station, address))]
            }
        }
    }

    /// Asks whether somebody else has the address.
    pub(super) fn probe(own: Station, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::Arp(arp::Packet::probe(own.mac, address)),
            IpAddr::V6(address) => Self::Ndp(ndp::Packet::probe(own.mac, address)),
        }
    }

    pub(super) fn sender(&self) -> Mac {
        match self {
            Self::Arp(packet) => packet.sender.0,
            Self::Ndp(packet) => packet.sender.0,
        }
    }

    /// The address that its sender claims to have.
    pub(super) fn claims(&self) -> Option<IpAddr> {
        match self {
            Self::Arp(packet) => packet.claims().map(IpAddr::V4),
            Self::Ndp(packet) => packet.claims().map(IpAddr::V6),
        }
    }

    /// The address that is asked for, and what `own` answers if it has it.
    pub(super) fn question(&self, own: Station) -> Option<(IpAddr, Self)> {
        match self {
            Self::Arp(packet) if packet.operation == arp::Operation::Request => {
                let answer = Self::Arp(packet.answer(own.mac));
                Some((packet.target.1.into(), answer))
            }
            Self::Ndp(packet) if packet.says == ndp::Saying::Question => {
                let answer = Self::Ndp(packet.answer((own.mac, own.ipv6)));
                Some((packet.target.into(), answer))
            }
            _ => None,
        }
    }

    pub(super) fn emit(&self) -> Vec<u8> {
        match self {
            Self::Arp(packet) => packet.emit().into(),
            Self::Ndp(packet) => packet.emit(),
        }
    }

    /// Reads a frame of a family's protocol.
    pub(super) fn parse(family: Family, frame: &[u8]) -> Option<Self> {
        match family {
            Family::V4 => arp::Packet::parse(frame).map(Self::Arp),
            Family::V6 => ndp::Packet::parse(frame).map(Self::Ndp),
        }
    }
}
