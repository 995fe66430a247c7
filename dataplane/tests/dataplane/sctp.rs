//! SCTP through the kernel's translation. Kernels without the protocol itself still translate it, so both ends are raw sockets
//! that speak the first two messages of an association (RFC 9260, 3.3.2 and 3.3.3).

use std::{
    io::{self, ErrorKind, Read},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use dataplane::model::{Family, Fate, Frontend, Masquerade, Protocol};
use socket2::{Domain, Socket, Type};

use crate::{
    common::{Netns, address, balance, port, with_masquerade},
    net::{Net, desired},
};

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const CLIENT_PORT: u16 = 40_000;

/// A message of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message {
    from: u16,
    to: u16,
    /// The verification tag: zero in an INIT, which brings the tag for the way back.
    tag: u32,
    kind: u8,
    /// The tag that the sender wants to see.
    own_tag: u32,
}

impl Message {
    fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.from.to_be_bytes());
        bytes.extend(self.to.to_be_bytes());
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend([0; 4]);
        // Type, flags, length; tag, window, streams out and in, first sequence number.
        bytes.extend([self.kind, 0, 0, 20]);
        bytes.extend(self.own_tag.to_be_bytes());
        bytes.extend([0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
        let sum = crc32c(&bytes);
        bytes[8..12].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `None` when the checksum is wrong: translation must have mended it.
    fn parse(bytes: &[u8]) -> Option<Message> {
        let mut zeroed = bytes.to_vec();
        zeroed.get_mut(8..12)?.fill(0);
        let u16_at = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let u32_at = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let sum = u32_at(8)?.swap_bytes();
        (crc32c(&zeroed) == sum).then_some(Message {
            from: u16_at(0)?,
            to: u16_at(2)?,
            tag: u32_at(4)?,
            kind: *bytes.get(12)?,
            own_tag: u32_at(16)?,
        })
    }
}

/// CRC-32C (Castagnoli), as RFC 9260 wants it.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc));
    !bytes.iter().fold(!0, byte)
}

struct End {
    socket: Socket,
    /// Raw sockets of IPv4 receive the IP header, too.
    header_bytes: usize,
}

impl End {
    fn new(netns: &Netns, family: Family) -> End {
        let (domain, header_bytes) = match family {
            Family::V4 => (Domain::IPV4, 20),
            Family::V6 => (Domain::IPV6, 0),
        };
        let protocol = socket2::Protocol::from(i32::from(Protocol::Sctp as u8));
        let socket = netns.run(|| Socket::new(domain, Type::RAW, Some(protocol)));
        let socket = socket.expect("a raw socket (run as root)");
        let silence = Duration::from_millis(300);
        socket.set_read_timeout(Some(silence)).expect("set timeout");
        End {
            socket,
            header_bytes,
        }
    }

    fn send(&self, message: Message, to: IpAddr) {
        // Raw sockets know no ports.
        let to = SocketAddr::new(to, 0);
        let sent = self.socket.send_to(&message.bytes(), &to.into());
        sent.expect("send");
    }

    fn receive(&self) -> io::Result<Message> {
        let mut buffer = [0; 256];
        let len = (&self.socket).read(&mut buffer)?;
        let message = Message::parse(&buffer[self.header_bytes..len]);
        Ok(message.expect("a message with the right checksum"))
    }
}

#[test]
fn an_association_is_translated_there_and_back() {
    let net = Net::new();
    let node_port = |family| Frontend::NodePort {
        family,
        protocol: Protocol::Sctp,
        port: port(30080),
    };
    let endpoints = |endpoint| with_masquerade(balance(&[endpoint]), Masquerade::Always);
    let (endpoint, endpoint6) = ("10.244.0.2:9376", "[fd00:244::2]:9376");
    let _dataplane = net.dataplane(&desired([
        (
            address("10.96.0.2", Protocol::Sctp, 80),
            balance(&[endpoint]),
        ),
        (
            address("fd00:96::2", Protocol::Sctp, 80),
            balance(&[endpoint6]),
        ),
        (node_port(Family::V4), endpoints(endpoint)),
        (node_port(Family::V6), endpoints(endpoint6)),
        (address("10.96.0.3", Protocol::Sctp, 80), Fate::Drop),
        (address("10.96.0.4", Protocol::Sctp, 80), Fate::Reject),
    ]));
    for (to, node) in [
        ("10.96.0.2:80", "10.244.0.1"),
        ("192.0.2.1:30080", "10.244.0.1"),
        ("[fd00:96::2]:80", "fd00:244::1"),
        ("[2001:db8::1]:30080", "fd00:244::1"),
    ] {
        let to: SocketAddr = to.parse().expect("an address");
        let node: IpAddr = node.parse().expect("an address");
        let family = Family::of(to.ip());
        let (client, server) = (
            End::new(&net.client, family),
            End::new(&net.pods[0], family),
        );
        let init = Message {
            from: CLIENT_PORT,
            to: to.port(),
            tag: 0,
            kind: INIT,
            own_tag: 7,
        };
        client.send(init, to.ip());
        let seen = server.receive().expect("the INIT");
        let wanted = Message {
            from: seen.from,
            to: 9376,
            ..init
        };
        assert_eq!(seen, wanted, "{to}");
        let ack = Message {
            from: 9376,
            to: seen.from,
            tag: 7,
            kind: INIT_ACK,
            own_tag: 9,
        };
        server.send(ack, node);
        let seen = client.receive().expect("the answer");
        let wanted = Message {
            from: to.port(),
            to: CLIENT_PORT,
            ..ack
        };
        assert_eq!(seen, wanted, "{to}: from where it was sent to");
    }
    let (client, server) = (
        End::new(&net.client, Family::V4),
        End::new(&net.pods[0], Family::V4),
    );
    for addr in ["10.96.0.3", "10.96.0.4"] {
        let to: IpAddr = addr.parse().expect("an address");
        let init = Message {
            from: CLIENT_PORT,
            to: 80,
            tag: 0,
            kind: INIT,
            own_tag: 7,
        };
        let connected = client.socket.connect(&SocketAddr::new(to, 0).into());
        connected.expect("connect");
        client.socket.send(&init.bytes()).expect("send");
        let nothing = server.receive().expect_err("nothing arrives");
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock, "{addr}");
        let answer = client.receive().expect_err("no answer");
        let wanted = if addr == "10.96.0.4" {
            ErrorKind::ConnectionRefused
        } else {
            ErrorKind::WouldBlock
        };
        assert_eq!(answer.kind(), wanted, "{addr}");
    }
}
