//! Three network namespaces for each ruleset: a client, the router that has the rules, and a host with all endpoints.
#![expect(
    unsafe_code,
    reason = "packet and netlink sockets have no safe interface here"
)]

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns, unshare};

use crate::{
    ENDPOINTS,
    syn::{Flows, Syn},
};

pub(crate) const SERVICES: &str = "10.96.0.0/12";
pub(crate) const PODS: &str = "10.128.0.0/9";
pub(crate) const SERVICE_PORT: u16 = 80;
pub(crate) const ENDPOINT_PORT: u16 = 8080;
/// 10.192.0.0: addresses of Pods, whose source address is kept.
pub(crate) const CLIENTS: u32 = 0x0ac0_0000;
/// Packets sent by one system call.
const BURST: usize = 64;

pub(crate) fn service(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a60_0000 + number)
}

pub(crate) fn endpoint(service: u32, slot: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a80_0000 + service * 16 + slot)
}

/// # Panics
/// Without root. From here on nothing can be sent to anywhere.
pub(crate) fn leave_the_machines_namespace() {
    unshare(CloneFlags::CLONE_NEWNET)
        .expect("this benchmark needs root, for network namespaces of its own");
}

pub(crate) struct Net {
    client: File,
    router: File,
    endpoints: File,
    /// The router's link address on the client's side.
    router_mac: [u8; 6],
}

impl Net {
    pub(crate) fn new() -> Net {
        let net = Net {
            client: namespace(),
            router: namespace(),
            endpoints: namespace(),
            router_mac: [2, 0, 0, 0, 0, 2],
        };
        inside(&net.router, || {
            commands(&format!(
                "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.conf.all.send_redirects=0
                 ip link add front address 02:00:00:00:00:02 type veth peer name eth0 address 02:00:00:00:00:01 netns {}
                 ip link add back address 02:00:00:00:00:03 type veth peer name eth0 address 02:00:00:00:00:04 netns {}
                 ip link set front up
                 ip link set back up
                 ip addr add 198.18.0.1/24 dev front
                 ip addr add 198.18.1.1/24 dev back
                 ip neigh add 198.18.1.2 lladdr 02:00:00:00:00:04 dev back
                 ip route add 10.128.0.0/9 via 198.18.1.2",
                path(&net.client), path(&net.endpoints)
            ));
        });
        inside(&net.client, || {
            commands(
                "ip link set eth0 up\nip addr add 198.18.0.2/24 dev eth0\nip route add 10.96.0.0/12 via 198.18.0.1",
            )
        });
        inside(&net.endpoints, || {
            commands("ip link set eth0 up\nip addr add 198.18.1.2/24 dev eth0")
        });
        net
    }

    /// Runs something on a thread of the router.
    pub(crate) fn run<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        inside(&self.router, what)
    }

    /// Sends them and returns the microseconds that each took to the end of its way, as the mean of each burst: the kernel carries
    /// a packet through all three namespaces inside the call that sends it.
    pub(crate) fn send_first_packets(&self, flows: &Flows, round: usize, count: usize) -> Vec<f64> {
        let packets = flows.packets(round, count, self.router_mac);
        inside(&self.client, || {
            let socket = PacketSocket::open("eth0").expect("a packet socket");
            let send = |burst: &[Syn]| {
                let start = Instant::now();
                socket.send(burst).expect("packets are sent");
                start.elapsed().as_secs_f64() * 1e6 / burst.len() as f64
            };
            packets.chunks_exact(BURST).map(send).collect()
        })
    }

    /// Empties the router's table of connections.
    pub(crate) fn forget_flows(&self) {
        inside(&self.router, || {
            flush_conntrack().expect("conntrack is flushed")
        });
    }

    /// From here on every endpoint accepts connections.
    pub(crate) fn serve(&self) {
        let listener = inside(&self.endpoints, || {
            commands("ip route add local 10.128.0.0/9 dev lo\nip route add default via 198.18.1.1");
            TcpListener::bind(("0.0.0.0", ENDPOINT_PORT)).expect("listen")
        });
        thread::spawn(move || listener.incoming().for_each(drop));
        // Before anything is measured, each link has learnt its neighbour.
        self.connect(1, 1);
    }

    /// Connects to that many of the Services, one after the other.
    pub(crate) fn connect(&self, services: u32, connections: u32) {
        inside(&self.client, || {
            for number in 0..connections {
                let service = service(number.wrapping_mul(2_654_435_761) % services);
                let to = SocketAddr::from((service, SERVICE_PORT));
                let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))
                    .expect("an endpoint answers");
                // Closed by a reset, so that no port is kept from the next rounds.
                socket2::SockRef::from(&stream)
                    .set_linger(Some(Duration::ZERO))
                    .expect("linger");
            }
        });
    }
}

const _: () = assert!(ENDPOINTS < 16, "endpoint() leaves room for sixteen");

fn namespace() -> File {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        commands("ip link set lo up");
        File::open("/proc/thread-self/ns/net").expect("open own namespace")
    };
    thread::spawn(make).join().expect("namespace thread")
}

fn path(namespace: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd())
}

fn inside<T: Send>(namespace: &File, what: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).expect("enter namespace");
            what()
        });
        inside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn commands(lines: &str) {
    for line in lines.lines() {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a command");
        let status = Command::new(program).args(words).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "`{line}` failed"
        );
    }
}

struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Sends only: with protocol 0 nothing is received.
    fn open(link: &str) -> io::Result<PacketSocket> {
        let name = std::ffi::CString::new(link)?;
        // SAFETY: no pointers; the result is checked, and the descriptor is nobody else's.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            OwnedFd::from_raw_fd(check(fd)?)
        };
        // SAFETY: sockaddr_ll is plain integers; name and address outlive the calls, and the length is right.
        unsafe {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
            let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            check(libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                len,
            ))?;
        }
        Ok(PacketSocket(socket))
    }

    fn send(&self, packets: &[Syn]) -> io::Result<()> {
        let mut parts: Vec<libc::iovec> = packets
            .iter()
            .map(|packet| libc::iovec {
                iov_base: packet.as_ptr().cast_mut().cast(),
                iov_len: packet.len(),
            })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: a header of zeroes is valid; it names one part, which outlives the call below.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        // SAFETY: the headers and what they name are alive; the kernel only reads the packets.
        let sent = unsafe {
            libc::sendmmsg(
                self.0.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as u32,
                0,
            )
        };
        assert_eq!(check(sent)? as usize, packets.len());
        Ok(())
    }
}

/// IPCTNL_MSG_CT_DELETE that names no flow (linux/netfilter/nfnetlink_conntrack.h).
fn flush_conntrack() -> io::Result<()> {
    // nlmsghdr: length, type, REQUEST|ACK, sequence, port; nfgenmsg: AF_INET, version, resource.
    let mut request = [0_u8; 20];
    request[..4].copy_from_slice(&20_u32.to_ne_bytes());
    request[4..6].copy_from_slice(&(1_u16 << 8 | 2).to_ne_bytes());
    request[6..8].copy_from_slice(&5_u16.to_ne_bytes());
    request[16] = libc::AF_INET as u8;
    let socket = socket2::Socket::new(
        libc::AF_NETLINK.into(),
        socket2::Type::RAW,
        Some(libc::NETLINK_NETFILTER.into()),
    )?;
    socket.send(&request)?;
    let mut answer = [std::mem::MaybeUninit::uninit(); 64];
    let len = socket.recv(&mut answer)?;
    // NLMSG_ERROR: the errno, 0 for success, follows the header.
    assert!(len >= 20, "an acknowledgement");
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
