//! The node's links, and a socket for the ARP packets of one.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd,
};

use ipnet::Ipv4Net;
use nix::{
    ifaddrs::getifaddrs,
    net::if_::InterfaceFlags,
    sys::socket::{LinkAddr, bind},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

use super::arp::{self, Mac, Packet};

/// A link on which addresses can be announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) mac: Mac,
    address: LinkAddr,
}

/// The link on whose network an address is; else the one of the node's own address, where a router may send to.
pub(super) fn link_for(address: Ipv4Addr, node_ip: Option<IpAddr>) -> io::Result<Option<Link>> {
    let all: Vec<_> = getifaddrs()?.collect();
    let networks = all.iter().filter_map(|entry| {
        let ip = entry.address.as_ref()?.as_sockaddr_in()?.ip();
        let mask = entry.netmask.as_ref()?.as_sockaddr_in()?.ip();
        let net = Ipv4Net::with_netmask(ip, mask).ok()?;
        let usable = !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK) && net.prefix_len() < 32;
        usable.then_some((entry.interface_name.as_str(), net))
    });
    let containing = networks
        .clone()
        .filter(|(_, net)| net.contains(&address))
        .max_by_key(|(_, net)| net.prefix_len());
    let of_node = || {
        networks
            .clone()
            .find(|(_, net)| Some(IpAddr::V4(net.addr())) == node_ip)
    };
    let Some((name, _)) = containing.or_else(of_node) else {
        return Ok(None);
    };
    let link = all
        .iter()
        .filter(|entry| entry.interface_name == name)
        .find_map(|entry| {
            let address = *entry.address.as_ref()?.as_link_addr()?;
            Some(Link {
                name: name.to_owned(),
                mac: address.addr()?,
                address,
            })
        });
    Ok(link)
}

/// Sends and receives the ARP packets of one link.
#[derive(Debug)]
pub(super) struct ArpSocket(AsyncFd<Socket>);

impl ArpSocket {
    pub(super) fn open(link: &Link) -> io::Result<Self> {
        let protocol = Protocol::from(i32::from(arp::ETHERTYPE.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        // The kernel's own entry for the link names no protocol: that of the socket stays.
        bind(socket.as_raw_fd(), &link.address)?;
        register(socket).map(Self)
    }

    /// The next packet that came in. Dropping the future loses nothing.
    pub(super) async fn receive(&self) -> io::Result<Packet> {
        loop {
            let mut frame = [0; 128];
            let received = self.0.async_io(Interest::READABLE, |socket| {
                io::Read::read(&mut &*socket, &mut frame)
            });
            let length = received.await?;
            if let Some(packet) = Packet::parse(&frame[..length]) {
                return Ok(packet);
            }
        }
    }

    /// Sends a packet. A full queue loses it, as any Ethernet may.
    pub(super) fn send(&self, packet: &Packet) -> io::Result<()> {
        match self.0.get_ref().send(&packet.emit()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            other => other.map(drop),
        }
    }
}

#[expect(unsafe_code, reason = "tokio asks for a promise about the descriptor")]
fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` owns its descriptor, gives the same one as long as it lives, and closes it when dropped.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
        .map_err(|error| error.into_parts().1)
}
