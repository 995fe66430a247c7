//! Asking from inside a namespace of the lab, with plain sockets: no process is started for a packet.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, ErrorKind, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use integration::Lab;
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

/// How long nothing must come for a packet to count as dropped; a control packet is answered after that.
pub(crate) const SILENCE: Duration = Duration::from_millis(400);
/// When a datagram is sent again.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// Where the Pods answer.
    pub(crate) const fn target_port(self) -> u16 {
        match self {
            Self::Tcp => 9377,
            Self::Udp => 9378,
            Self::Sctp => 9379,
        }
    }
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The Pod that answered, and the source it saw.
    Answered(String, IpAddr),
    Refused,
    Silent,
}

/// A network namespace of the lab.
pub(crate) struct Namespace(File);

impl Namespace {
    pub(crate) fn of_host(lab: &Lab, host: &str) -> Self {
        let words = fs::read_to_string(lab.dir().join(host).join("pid")).expect("the host runs");
        Self::of_process(words.split(' ').next().expect("a process"))
    }

    /// Its shim lives in it, and has the Pod's uid in its arguments.
    pub(crate) fn of_pod(pod: &Value) -> Self {
        let uid = pod["metadata"]["uid"].as_str().expect("a uid");
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        let shim = processes
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .find(|process| {
                let line = fs::read_to_string(format!("/proc/{process}/cmdline"));
                line.is_ok_and(|line| line.contains("\0shim\0") && line.contains(uid))
            });
        Self::of_process(&shim.expect("the Pod's shim"))
    }

    fn of_process(process: &str) -> Self {
        Self(File::open(format!("/proc/{process}/ns/net")).expect("a namespace"))
    }

    /// The calling thread is in it from now on.
    pub(crate) fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).expect("enter a namespace (needs root)");
    }
}

fn parse(answer: &str) -> Asked {
    let answer: Value = serde_json::from_str(answer).expect("JSON");
    let text = |field: &str| answer[field].as_str().expect(field).to_owned();
    let client: SocketAddr = text("client").parse().expect("an address");
    Asked::Answered(text("hostname"), client.ip())
}

pub(crate) fn ask_tcp(target: SocketAddr, wait: Duration) -> Asked {
    let stream = match TcpStream::connect_timeout(&target, wait) {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Asked::Refused,
        Err(error) if error.kind() == ErrorKind::TimedOut => return Asked::Silent,
        Err(error) => panic!("{target}: {error}"),
    };
    stream.set_read_timeout(Some(wait)).expect("set a timeout");
    (&stream).write_all(b"hi\n").expect("send");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("a line");
    parse(&line)
}

pub(crate) fn ask_udp(target: SocketAddr, wait: Duration) -> Asked {
    let any = if target.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).expect("bind");
    socket.connect(target).expect("connect");
    let timeout = wait.min(AGAIN);
    socket
        .set_read_timeout(Some(timeout))
        .expect("set a timeout");
    let end = Instant::now() + wait;
    let mut buffer = [0; 2048];
    while Instant::now() < end {
        let answer = sent(socket.send(b"hi")).and_then(|()| socket.recv(&mut buffer));
        match answer {
            Ok(length) => return parse(&String::from_utf8_lossy(&buffer[..length])),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Asked::Refused,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{target}: {error}"),
        }
    }
    Asked::Silent
}

/// A host that drops or rejects its own packet tells the sender at once, and of the latter once more as of any refusal.
pub(crate) fn sent(result: std::io::Result<usize>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        other => other.map(drop),
    }
}
