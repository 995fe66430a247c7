//! Segments that connection tracking cannot make sense of, made by hand.

use std::{
    io::Read,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    common::{Netns, balance},
    net::{ALL, Net, SOON, desired, web},
};

const ACK: u8 = 0x10;
/// No flag at all: no segment of any connection.
const NONE: u8 = 0;
const TO_PORT: u16 = 999;

fn raw_tcp(netns: &Netns) -> Socket {
    netns.run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).expect("a raw socket"))
}

/// A segment without data, known by its sequence number, its checksum right (RFC 9293, section 3.1).
fn segment(from: Ipv4Addr, to: Ipv4Addr, number: u8, flags: u8) -> Vec<u8> {
    let from_port = 2000 + u16::from(number);
    let mut bytes = [from_port.to_be_bytes(), TO_PORT.to_be_bytes()].concat();
    bytes.extend([
        0,
        0,
        0,
        number,
        0,
        0,
        0,
        1,
        5 << 4,
        flags,
        16,
        0,
        0,
        0,
        0,
        0,
    ]);
    let len = u8::try_from(bytes.len()).expect("20");
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 6, 0, len]].concat();
    let words = pseudo.chunks(2).chain(bytes.chunks(2));
    let sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded twice");
    bytes[16..18].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// The numbers of the segments that arrive, until `last` does: translation leaves them.
fn arrived_before(socket: &Socket, last: u8) -> Vec<u8> {
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .expect("set timeout");
    let (mut numbers, deadline) = (Vec::new(), Instant::now() + SOON);
    loop {
        assert!(Instant::now() < deadline, "no segment {last}; {numbers:?}");
        let mut bytes = [0; 128];
        if (&mut &*socket).read(&mut bytes).is_err() {
            continue;
        }
        let header = usize::from(bytes[0] & 15) * 4;
        let (to_port, number) = (&bytes[header + 2..header + 4], bytes[header + 7]);
        if to_port != TO_PORT.to_be_bytes() {
            continue;
        }
        if number == last {
            return numbers;
        }
        numbers.push(number);
    }
}

#[test]
fn a_pods_segment_that_belongs_to_no_connection_does_not_leave_with_the_pods_address() {
    let net = Net::new();
    // The rules may be there, and still nothing else of the host is held back.
    let _dataplane = net.dataplane(&desired([(web(), balance(&ALL))]));
    let (pod, client) = (Ipv4Addr::new(10, 244, 0, 2), Ipv4Addr::new(192, 0, 2, 100));
    let ears = raw_tcp(&net.client);
    let from_pod = raw_tcp(&net.pods[0]);
    let from_node = raw_tcp(&net.node);
    let send = |socket: &Socket, from: Ipv4Addr, number: u8, flags: u8| {
        let to = SocketAddr::from((client, 0));
        socket
            .send_to(&segment(from, client, number, flags), &to.into())
            .expect("send");
    };
    send(&from_pod, pod, 1, NONE);
    send(&from_node, Ipv4Addr::new(192, 0, 2, 1), 2, NONE);
    send(&from_pod, pod, 3, ACK);
    assert_eq!(arrived_before(&ears, 3), [2], "only the host's own passes");
}
