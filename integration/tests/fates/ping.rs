//! ICMP echo requests, by sockets that the kernel hands only their own answers and errors.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use integration::net::{Namespace, sent};
use socket2::{Domain, Protocol, Socket, Type};

/// When a request is sent again.
const AGAIN: Duration = Duration::from_secs(1);

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pinged {
    Answered,
    Refused,
    Silent,
}

/// Lets root use such sockets in a namespace.
pub(crate) fn allow(namespace: &Namespace) {
    namespace.sh("sysctl -qw net.ipv4.ping_group_range='0 0'");
}

/// Asks from inside the calling thread's namespace.
pub(crate) fn ask(target: IpAddr, wait: Duration) -> Pinged {
    let (domain, protocol, request) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
    };
    let mut socket = Socket::new(domain, Type::DGRAM, Some(protocol)).expect("a socket");
    socket
        .connect(&SocketAddr::new(target, 0).into())
        .expect("connect");
    socket
        .set_read_timeout(Some(wait.min(AGAIN)))
        .expect("set a timeout");
    let end = Instant::now() + wait;
    while Instant::now() < end {
        // Type, code, checksum, identifier and number; the kernel fills in what it must.
        let asked = sent(socket.write(&[request, 0, 0, 0, 0, 0, 0, 1]));
        match asked.and_then(|()| socket.read(&mut [0; 64])) {
            Ok(_) => return Pinged::Answered,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Pinged::Refused,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{target}: {error}"),
        }
    }
    Pinged::Silent
}
