//! The node's links, and a socket for the packets of one by which hosts find each other.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv6Addr},
    os::fd::AsRawFd,
};

use dataplane::model::Family;
use ipnet::IpNet;
use nix::{
    ifaddrs::{InterfaceAddress, getifaddrs},
    net::if_::InterfaceFlags,
    sys::socket::{LinkAddr, bind},
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    arp, ndp,
    packet::{Packet, Station},
};

/// More packets than a socket's buffer holds.
const AT_ONCE: usize = 4096;

/// A link on which addresses can be announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) station: Station,
    address: LinkAddr,
}

/// The link on whose network an address is; else the one of the node's own address, where a router may send to.
pub(super) fn link_for(address: IpAddr, node_ip: Option<IpAddr>) -> io::Result<Option<Link>> {
    let all: Vec<_> = getifaddrs()?.collect();
    let networks = all.iter().filter_map(|entry| {
        let net = network_of(entry)?;
        let usable = !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK)
            && net.prefix_len() < net.max_prefix_len();
        usable.then_some((entry.interface_name.as_str(), net))
    });
    let containing = networks
        .clone()
        .filter(|(_, net)| net.contains(&address))
        .max_by_key(|(_, net)| net.prefix_len());
    let of_node = || {
        networks
            .clone()
            .find(|(_, net)| Some(net.addr()) == node_ip)
    };
    let Some((name, _)) = containing.or_else(of_node) else {
        return Ok(None);
    };
    let entries = || all.iter().filter(|entry| entry.interface_name == name);
    // The address that every IPv6 link has, if it has one at all; a question from there is answered by any neighbour.
    let mut ipv6: Vec<Ipv6Addr> = entries()
        .filter_map(|entry| match network_of(entry)?.addr() {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        })
        .collect();
    ipv6.sort_by_key(|address| !address.is_unicast_link_local());
    let ipv6 = ipv6.first().copied();
    if address.is_ipv6() && ipv6.is_none() {
        return Ok(None);
    }
    let link = entries().find_map(|entry| {
        let address = *entry.address.as_ref()?.as_link_addr()?;
        Some(Link {
            name: name.to_owned(),
            station: Station {
                mac: address.addr()?,
                ipv6: ipv6.unwrap_or(Ipv6Addr::UNSPECIFIED),
            },
            address,
        })
    });
    Ok(link)
}

fn network_of(entry: &InterfaceAddress) -> Option<IpNet> {
    let (address, mask) = (entry.address.as_ref()?, entry.netmask.as_ref()?);
    let (address, mask): (IpAddr, IpAddr) = match (address.as_sockaddr_in(), mask.as_sockaddr_in())
    {
        (Some(address), Some(mask)) => (address.ip().into(), mask.ip().into()),
        _ => (
            address.as_sockaddr_in6()?.ip().into(),
            mask.as_sockaddr_in6()?.ip().into(),
        ),
    };
    IpNet::with_netmask(address, mask).ok()
}

/// Sends and receives the ARP or NDP packets of one link.
#[derive(Debug)]
pub(super) struct LinkSocket {
    socket: AsyncFd<Socket>,
    family: Family,
    groups: Groups,
}

impl LinkSocket {
    pub(super) fn open(link: &Link, family: Family) -> io::Result<Self> {
        let ethertype = match family {
            Family::V4 => arp::ETHERTYPE,
            Family::V6 => ndp::ETHERTYPE,
        };
        let protocol = Protocol::from(i32::from(ethertype.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        if family == Family::V6 {
            // Not a copy of every packet that passes this link.
            socket.attach_filter(&neighbour_discovery())?;
        }
        // The kernel's own entry for the link names no protocol: that of the socket stays.
        bind(socket.as_raw_fd(), &link.address)?;
        Ok(Self {
            socket: register(socket)?,
            family,
            groups: Groups::new(&link.address, family)?,
        })
    }

    /// Hears the questions for these addresses from now on, and only those.
    pub(super) fn listen_for(&mut self, addresses: &BTreeSet<IpAddr>) {
        self.groups.set(addresses);
    }

    /// The packets that have come in, at least one. Dropping the future loses nothing.
    pub(super) async fn receive(&self) -> io::Result<Vec<Packet>> {
        loop {
            let received = self
                .socket
                .async_io(Interest::READABLE, |socket| self.read(socket));
            let packets = received.await?;
            if !packets.is_empty() {
                return Ok(packets);
            }
        }
    }

    /// Reads what is there: after a pause it is many, and the newest may say something about the oldest.
    fn read(&self, socket: &Socket) -> io::Result<Vec<Packet>> {
        let mut packets = Vec::new();
        for read in 0..AT_ONCE {
            let mut frame = [0; 256];
            match io::Read::read(&mut &*socket, &mut frame) {
                Ok(length) => packets.extend(Packet::parse(self.family, &frame[..length])),
                Err(error) if read > 0 && error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(packets)
    }

    /// Sends a packet. A full queue loses it, as any Ethernet may.
    pub(super) fn send(&self, packet: &Packet) -> io::Result<()> {
        match self.socket.get_ref().send(&packet.emit()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            other => other.map(drop),
        }
    }
}

/// Membership of the groups to which NDP questions are sent: the network card lets their frames in, and a switch that looks
/// (RFC 4541) forwards them here. ARP is broadcast.
#[derive(Debug)]
struct Groups {
    socket: Option<Socket>,
    link: u32,
    joined: BTreeSet<Ipv6Addr>,
}

impl Groups {
    fn new(link: &LinkAddr, family: Family) -> io::Result<Self> {
        let socket = match family {
            Family::V4 => None,
            Family::V6 => Some(Socket::new(Domain::IPV6, Type::DGRAM, None)?),
        };
        Ok(Self {
            socket,
            link: u32::try_from(link.ifindex()).unwrap_or_default(),
            joined: BTreeSet::new(),
        })
    }

    fn set(&mut self, addresses: &BTreeSet<IpAddr>) {
        let Some(socket) = &self.socket else { return };
        let wanted: BTreeSet<Ipv6Addr> = addresses
            .iter()
            .filter_map(|address| match address {
                IpAddr::V6(address) => Some(ndp::solicited_node(*address)),
                IpAddr::V4(_) => None,
            })
            .collect();
        for group in self.joined.difference(&wanted) {
            // It leaves with the socket at the latest.
            let _ = socket.leave_multicast_v6(group, self.link);
        }
        self.joined.retain(|group| wanted.contains(group));
        for group in wanted {
            if self.joined.contains(&group) {
                continue;
            }
            match socket.join_multicast_v6(&group, self.link) {
                Ok(()) => _ = self.joined.insert(group),
                Err(error) => {
                    tracing::warn!(%group, %error, "questions for a load-balancer address may not be heard")
                }
            }
        }
    }
}

/// `icmp6 and (ip6[40] == 135 or ip6[40] == 136)`, without extension headers, which NDP never has.
fn neighbour_discovery() -> [SockFilter; 7] {
    // Codes of linux/bpf_common.h: load a byte, jump if equal, return.
    const LOAD: u16 = 0x30;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const NEXT_HEADER: u32 = 14 + 6;
    const TYPE: u32 = 14 + 40;
    [
        SockFilter::new(LOAD, 0, 0, NEXT_HEADER),
        SockFilter::new(EQUAL, 0, 4, 58),
        SockFilter::new(LOAD, 0, 0, TYPE),
        SockFilter::new(EQUAL, 1, 0, 135),
        SockFilter::new(EQUAL, 0, 1, 136),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

#[expect(unsafe_code, reason = "tokio asks for a promise about the descriptor")]
fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` owns its descriptor, gives the same one as long as it lives, and closes it when dropped.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
        .map_err(|error| error.into_parts().1)
}
