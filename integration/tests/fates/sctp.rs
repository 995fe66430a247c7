//! SCTP with raw sockets, for kernels that translate it but do not speak it: the first two messages of an association (RFC
//! 9260, 3.3.2 and 3.3.3).

use std::{
    collections::HashMap,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use integration::net::{Asked, Namespace, Protocol, sent};
use nix::sys::socket::{SockaddrStorage, recvfrom};
use socket2::{Domain, Socket, Type};

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const SCTP: i32 = 132;
/// When an INIT is sent again.
const AGAIN: Duration = Duration::from_secs(1);

/// A message of one chunk.
#[derive(Clone, Copy, Debug)]
struct Message {
    from: u16,
    to: u16,
    /// Zero in an INIT; in its answer the tag that it brought.
    tag: u32,
    kind: u8,
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

    fn parse(bytes: &[u8]) -> Option<Self> {
        let two = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let four = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        Some(Self {
            from: two(0)?,
            to: two(2)?,
            tag: four(4)?,
            kind: *bytes.get(12)?,
            own_tag: four(16)?,
        })
    }
}

/// CRC-32C (Castagnoli), as RFC 9260 wants it.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc));
    !bytes.iter().fold(!0, byte)
}

/// Everything of this protocol that comes to the namespace, on any port.
fn raw(ipv4: bool) -> Socket {
    let domain = if ipv4 { Domain::IPV4 } else { Domain::IPV6 };
    Socket::new(domain, Type::RAW, Some(SCTP.into())).expect("a raw socket")
}

fn receive(socket: &Socket, ipv4: bool) -> std::io::Result<Option<(Message, IpAddr)>> {
    let mut buffer = [0; 256];
    let (length, from) = recvfrom::<SockaddrStorage>(socket.as_raw_fd(), &mut buffer)?;
    let from = from.and_then(
        |from| match (from.as_sockaddr_in(), from.as_sockaddr_in6()) {
            (Some(from), _) => Some(IpAddr::V4(from.ip())),
            (_, Some(from)) => Some(IpAddr::V6(from.ip())),
            _ => None,
        },
    );
    // Raw sockets of IPv4 receive the IP header, too.
    let header_bytes = if ipv4 { 20 } else { 0 };
    let message = buffer[..length]
        .get(header_bytes..)
        .and_then(Message::parse);
    Ok(message.zip(from))
}

/// Who saw an INIT, and from where, by its tag.
type Seen = Arc<Mutex<HashMap<u32, (String, IpAddr)>>>;

/// Pods that answer.
pub(crate) struct Servers {
    seen: Seen,
    next: AtomicU32,
}

impl Servers {
    /// Answers in these Pods until the process ends.
    pub(crate) fn start<const N: usize>(pods: [(&str, Namespace); N]) -> Self {
        let seen = Seen::default();
        for (pod, namespace) in pods {
            let (pod, seen) = (pod.to_owned(), Arc::clone(&seen));
            thread::spawn(move || {
                namespace.enter();
                for ipv4 in [true, false] {
                    let (pod, seen) = (pod.clone(), Arc::clone(&seen));
                    // A thread is where its parent is.
                    thread::spawn(move || serve(&pod, ipv4, &seen));
                }
            });
        }
        Self {
            seen,
            next: AtomicU32::new(1),
        }
    }

    /// Sends an INIT and waits for its answer.
    pub(crate) fn ask(&self, target: SocketAddr, wait: Duration) -> Asked {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let ipv4 = target.is_ipv4();
        let socket = raw(ipv4);
        // Raw sockets know no ports.
        socket
            .connect(&SocketAddr::new(target.ip(), 0).into())
            .expect("connect");
        socket
            .set_read_timeout(Some(wait.min(AGAIN)))
            .expect("set a timeout");
        let init = Message {
            from: 20_000 + u16::try_from(number % 40_000).expect("small"),
            to: target.port(),
            tag: 0,
            kind: INIT,
            own_tag: number,
        };
        let end = Instant::now() + wait;
        while Instant::now() < end {
            let sent = sent(socket.send(&init.bytes()));
            let mut answer = sent.and_then(|()| receive(&socket, ipv4));
            // Somebody else's answer, or what was sent here by this very host.
            while matches!(&answer, Ok(Some((message, _))) if message.tag != number || message.kind != INIT_ACK)
                || matches!(&answer, Ok(None))
            {
                answer = receive(&socket, ipv4);
            }
            match answer {
                Ok(_) => {
                    let seen = self.seen.lock().expect("lock");
                    let (pod, from) = seen[&number].clone();
                    return Asked::Answered(pod, from);
                }
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    return Asked::Refused;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{target}: {error}"),
            }
        }
        Asked::Silent
    }
}

fn serve(pod: &str, ipv4: bool, seen: &Seen) {
    let socket = raw(ipv4);
    loop {
        let Ok(Some((init, from))) = receive(&socket, ipv4) else {
            continue;
        };
        if init.kind != INIT || init.to != Protocol::Sctp.target_port() {
            continue;
        }
        seen.lock()
            .expect("lock")
            .insert(init.own_tag, (pod.to_owned(), from));
        let answer = Message {
            from: init.to,
            to: init.from,
            tag: init.own_tag,
            kind: INIT_ACK,
            own_tag: 9,
        };
        let _ = socket.send_to(&answer.bytes(), &SocketAddr::new(from, 0).into());
    }
}
