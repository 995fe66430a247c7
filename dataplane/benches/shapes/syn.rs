//! First packets of TCP connections, as bytes.

use std::net::Ipv4Addr;

use crate::net;

/// An Ethernet, an IPv4 (RFC 791) and a TCP header (RFC 9293).
pub(crate) type Syn = [u8; 54];

/// Where packets go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flows {
    services: u32,
    one: Option<u32>,
}

impl Flows {
    /// All to the middle Service.
    pub(crate) fn to_one(services: u32) -> Flows {
        Flows {
            services,
            one: Some(services / 2),
        }
    }

    /// Each to a random Service.
    pub(crate) fn to_all(services: u32) -> Flows {
        Flows {
            services,
            one: None,
        }
    }

    /// The first packets of connections that were not there before, the same in every run.
    pub(crate) fn packets(self, round: usize, count: usize, to: [u8; 6]) -> Vec<Syn> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(round as u64 + 1);
        (0..count)
            .map(|number| {
                // xorshift64 (Marsaglia 2003)
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let service = self.one.unwrap_or((state >> 32) as u32 % self.services);
                let source = net::CLIENTS + (state as u32 & 0x001f_0000) + (number as u32 >> 8);
                let port = 1024 + (number as u16 & 0xff) * 100 + (state >> 24) as u16 % 100;
                syn(to, source.into(), port, net::service(service))
            })
            .collect()
    }
}

fn syn(to: [u8; 6], source: Ipv4Addr, port: u16, destination: Ipv4Addr) -> Syn {
    let mut packet = [0; 54];
    packet[..6].copy_from_slice(&to);
    packet[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    packet[12..14].copy_from_slice(&[8, 0]);
    let (ip, tcp) = packet[14..].split_at_mut(20);
    ip[..4].copy_from_slice(&[0x45, 0, 0, 40]);
    ip[8..10].copy_from_slice(&[64, 6]);
    ip[12..16].copy_from_slice(&source.octets());
    ip[16..].copy_from_slice(&destination.octets());
    let sum = checksum(&[ip]);
    ip[10..12].copy_from_slice(&sum);
    tcp[..2].copy_from_slice(&port.to_be_bytes());
    tcp[2..4].copy_from_slice(&net::SERVICE_PORT.to_be_bytes());
    tcp[12..16].copy_from_slice(&[0x50, 0x02, 0xff, 0xff]);
    let sum = checksum(&[&ip[12..20], &[0, 6, 0, 20], tcp]);
    tcp[16..18].copy_from_slice(&sum);
    packet
}

/// RFC 1071.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!(folded as u16)).to_be_bytes()
}
