//! Asking from inside a namespace of the lab, with plain sockets: no process is started for a packet.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, ErrorKind, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use crate::Lab;

/// How long nothing must come for a packet to count as dropped; a control packet is answered after that.
pub const SILENCE: Duration = Duration::from_millis(400);
/// When a datagram is sent again.
const AGAIN: Duration = Duration::from_secs(1);

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// As a Service's port has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// Where the Pods answer.
    #[must_use]
    pub const fn target_port(self) -> u16 {
        match self {
            Self::Tcp => 9377,
            Self::Udp => 9378,
            Self::Sctp => 9379,
        }
    }
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The Pod that answered, and the source it saw.
    Answered(String, IpAddr),
    /// The connection was refused, at once or by the client's own host.
    Refused,
    /// Nothing came back in time.
    Silent,
}

/// A network namespace of the lab.
pub struct Namespace(File);

impl Namespace {
    /// A host's.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn of_host(lab: &Lab, host: &str) -> Self {
        let words = fs::read_to_string(lab.dir().join(host).join("pid")).expect("the host runs");
        Self::of_process(words.split(' ').next().expect("a process"))
    }

    /// A Pod's: its shim lives in it, and has the Pod's uid in its arguments.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn of_pod(pod: &Value) -> Self {
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

    /// Does something in it, on a thread of its own.
    pub fn run<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter();
                what()
            });
            let done = inside.join();
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs shell commands in it; each must succeed.
    ///
    /// # Panics
    /// When one does not.
    pub fn sh(&self, script: &str) {
        let answer = self.run(|| crate::run(Command::new("sh").args(["-ec", script])));
        let _ = answer.ok();
    }

    fn of_process(process: &str) -> Self {
        Self(File::open(format!("/proc/{process}/ns/net")).expect("a namespace"))
    }

    /// The calling thread is in it from now on.
    ///
    /// # Panics
    /// Without the right to.
    pub fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).expect("enter a namespace (needs root)");
    }
}

fn parse(answer: &str) -> Asked {
    let answer: Value = serde_json::from_str(answer).expect("JSON");
    let text = |field: &str| answer[field].as_str().expect(field).to_owned();
    let client: SocketAddr = text("client").parse().expect("an address");
    Asked::Answered(text("hostname"), client.ip())
}

/// Connects, says a line and takes the answer, a Pod's.
///
/// # Panics
/// When something else comes of it than the three of [`Asked`].
#[must_use]
pub fn ask_tcp(target: SocketAddr, wait: Duration) -> Asked {
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

/// Sends datagrams from a port of their own until one is answered, by a Pod.
///
/// # Panics
/// As [`ask_tcp`].
#[must_use]
pub fn ask_udp(target: SocketAddr, wait: Duration) -> Asked {
    let any: IpAddr = if target.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    ask_udp_from(any, target, wait)
}

/// The same with this source.
///
/// # Panics
/// As [`ask_tcp`]; when the client has no such address.
#[must_use]
pub fn ask_udp_from(source: IpAddr, target: SocketAddr, wait: Duration) -> Asked {
    let socket = UdpSocket::bind((source, 0)).expect("bind");
    socket.connect(target).expect("connect");
    ask_over(&socket, wait)
}

/// The same with a socket that was used before, so that the datagrams belong to the flow that it had.
///
/// # Panics
/// As [`ask_tcp`].
#[must_use]
pub fn ask_over(socket: &UdpSocket, wait: Duration) -> Asked {
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
            Err(error) => panic!("{socket:?}: {error}"),
        }
    }
    Asked::Silent
}

/// A host that drops or rejects its own packet tells the sender at once, and of the latter once more as of any refusal.
///
/// # Errors
/// Any other failure.
pub fn sent(result: std::io::Result<usize>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        other => other.map(drop),
    }
}

/// Answers lines and datagrams at an address of a host as a Pod does, under this name, until the process ends.
///
/// # Panics
/// When the host does not have the address, or the port is taken.
pub fn serve(host: &Namespace, name: &str, at: SocketAddr) {
    let (tcp, udp) = host.run(|| {
        let tcp = TcpListener::bind(at).expect("listen");
        (tcp, UdpSocket::bind(at).expect("bind"))
    });
    let answer = |name: &str, client: SocketAddr| {
        let answer = json!({"hostname": name, "client": client.to_string()});
        format!("{answer}\n")
    };
    let of_tcp = name.to_owned();
    thread::spawn(move || {
        while let Ok((stream, client)) = tcp.accept() {
            let mut line = String::new();
            if BufReader::new(&stream).read_line(&mut line).is_ok() {
                let _ = (&stream).write_all(answer(&of_tcp, client).as_bytes());
            }
        }
    });
    let of_udp = name.to_owned();
    thread::spawn(move || {
        while let Ok((_, client)) = udp.recv_from(&mut [0; 64]) {
            let _ = udp.send_to(answer(&of_udp, client).as_bytes(), client);
        }
    });
}
