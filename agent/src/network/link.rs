//! rtnetlink requests as the agent needs them, idempotent: what is there already is as good as made.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    thread,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, TryStreamExt, stream::BoxStream};
use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope},
    link::{InfoData, InfoVeth, LinkAttribute, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope},
};
use nix::sched::{CloneFlags, setns};
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkUnspec, LinkVeth, MulticastGroup, RouteMessageBuilder,
};

use tokio::task::AbortHandle;

use super::error::{NetworkError, is_absent, tolerate_existing};

/// How long changes of links and addresses are waited for once there is one.
const BURST: Duration = Duration::from_millis(100);

/// Marks our routes (`ip route list proto 109`); IANA and iproute2 leave numbers above 99 that they do not name free.
pub(super) const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(109);

/// A netlink socket in the namespace of the calling process.
pub(super) fn connect() -> Result<Handle, NetworkError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Socket)?;
    tokio::spawn(connection);
    Ok(handle)
}

/// A netlink socket in another network namespace.
///
/// A socket belongs to the namespace it was opened in, whichever thread uses it later. So a thread of its own enters the
/// namespace, opens the socket and ends; no thread of the runtime ever changes its namespace. Takes some 50 us.
pub(super) fn connect_in(namespace: BorrowedFd<'_>) -> Result<Handle, NetworkError> {
    let runtime = tokio::runtime::Handle::current();
    let (connection, handle, _) = inside(namespace, || {
        let _context = runtime.enter();
        rtnetlink::new_connection().map_err(NetworkError::Socket)
    })?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Does something short in a thread that has entered another network namespace.
pub(super) fn inside<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)
                    .map_err(|errno| NetworkError::Namespace(errno.into()))?;
                work()
            })
            .join()
            .expect("what is done there does not panic")
    })
}

/// Tells that links or addresses of the node have changed.
pub(super) struct LinkChanges {
    messages: BoxStream<'static, ()>,
    connection: AbortHandle,
}

impl LinkChanges {
    /// `None` when there is no socket for it, which is logged.
    pub(super) fn open() -> Option<Self> {
        use MulticastGroup::{Ipv4Ifaddr, Ipv6Ifaddr, Link};
        match rtnetlink::new_multicast_connection(&[Link, Ipv4Ifaddr, Ipv6Ifaddr]) {
            Ok((connection, _, messages)) => Some(Self {
                messages: messages.map(drop).boxed(),
                connection: tokio::spawn(connection).abort_handle(),
            }),
            Err(error) => {
                tracing::warn!(%error, "changes of the node's links are not seen");
                None
            }
        }
    }

    /// The next change, when it seems to be over: they come in bursts.
    pub(super) async fn next(&mut self) {
        if self.messages.next().await.is_none() {
            return std::future::pending().await;
        }
        tokio::time::sleep(BURST).await;
        while self.messages.next().now_or_never().flatten().is_some() {}
    }
}

impl Drop for LinkChanges {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// The index of a link, if it exists.
pub(super) async fn index(handle: &Handle, name: &str) -> Result<Option<u32>, NetworkError> {
    Ok(get(handle, name).await?.map(|link| link.header.index))
}

async fn get(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, NetworkError> {
    let mut links = std::pin::pin!(handle.link().get().match_name(name).execute());
    match links.try_next().await {
        Ok(found) => Ok(found),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(NetworkError::link("looking up", name)(error)),
    }
}

async fn require(handle: &Handle, name: &str) -> Result<u32, NetworkError> {
    index(handle, name)
        .await?
        .ok_or_else(|| NetworkError::NoLink(name.to_owned()))
}

/// A bridge of this name, up or down, whose MAC address stays what it is.
///
/// Left to itself, a bridge takes the lowest address of its ports, and a new one when a port comes or goes: whoever has
/// learnt the old one sends into the void until he asks again. An address that was set, be it the same, is kept.
pub(super) async fn bridge(handle: &Handle, name: &str, mtu: u32) -> Result<u32, NetworkError> {
    let found = match get(handle, name).await? {
        Some(found) => Some(found),
        None => {
            // To set the address that it has by chance makes old kernels (5.10) keep it and not listen to it: a bridge learns
            // what is its own when that changes, or with its creation.
            let new = LinkBridge::new(name).address(random_mac()).down().build();
            let made = handle.link().add(new).execute().await;
            tolerate_existing(made).map_err(NetworkError::link("creating", name))?;
            get(handle, name).await?
        }
    };
    let link = found.ok_or_else(|| NetworkError::NoLink(name.to_owned()))?;
    // The MTU is set behind the creation: while a bridge has no port, one set at creation would follow the first port.
    let mut set = LinkUnspec::new_with_index(link.header.index).mtu(mtu);
    if let Some(address) = mac(&link) {
        set = set.address(address);
    }
    let set = handle.link().set(set.build()).execute().await;
    set.map_err(NetworkError::link("setting MTU and MAC address of", name))?;
    Ok(link.header.index)
}

/// Of those that are given out by nobody (locally administered, unicast).
fn random_mac() -> Vec<u8> {
    let random = RandomState::new().build_hasher().finish().to_ne_bytes();
    let mut address = random[..6].to_vec();
    address[0] = address[0] & 0xfc | 0x02;
    address
}

fn mac(link: &LinkMessage) -> Option<Vec<u8>> {
    let mut attributes = link.attributes.iter();
    attributes.find_map(|attribute| match attribute {
        LinkAttribute::Address(address) => Some(address.clone()),
        _ => None,
    })
}

pub(super) async fn up(handle: &Handle, index: u32, name: &str) -> Result<(), NetworkError> {
    let set = handle
        .link()
        .set(LinkUnspec::new_with_index(index).up().build());
    set.execute()
        .await
        .map_err(NetworkError::link("switching on", name))
}

/// One end of a cable into another namespace.
pub(super) struct Cable<'a> {
    pub(super) name: &'a str,
    pub(super) bridge: u32,
    pub(super) peer_name: &'a str,
    pub(super) peer_namespace: BorrowedFd<'a>,
    pub(super) mtu: u32,
}

/// A veth pair: one end up and on the bridge, the other made inside the namespace, still down.
pub(super) async fn veth(handle: &Handle, cable: &Cable<'_>) -> Result<(), NetworkError> {
    // The peer must not be up in this message: the kernel answers ENOTCONN.
    let peer = LinkUnspec::new_with_name(cable.peer_name)
        .mtu(cable.mtu)
        .setns_by_fd(cable.peer_namespace.as_raw_fd())
        .build();
    let message = LinkVeth::new(cable.name, cable.peer_name)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .mtu(cable.mtu)
        .controller(cable.bridge)
        .up()
        .build();
    let made = handle.link().add(message).execute().await;
    tolerate_existing(made).map_err(NetworkError::link("creating", cable.name))
}

/// `ip link del LINK`, and with it a cable's other end. One that has just gone by itself is as good.
pub(super) async fn delete(handle: &Handle, index: u32, link: &str) -> Result<(), NetworkError> {
    match handle.link().del(index).execute().await {
        Err(error) if is_absent(&error) => Ok(()),
        other => other.map_err(NetworkError::link("deleting", link)),
    }
}

/// `ip neighbour del ADDRESS dev LINK`: whom the address belonged to is forgotten, if it was known.
pub(super) async fn forget_neighbour(
    handle: &Handle,
    index: u32,
    address: IpAddr,
) -> Result<(), NetworkError> {
    let mut entry = NeighbourMessage::default();
    entry.header.ifindex = index;
    let (family, destination) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
    };
    entry.header.family = family;
    entry.attributes = vec![NeighbourAttribute::Destination(destination)];
    match handle.neighbours().del(entry).execute().await {
        Err(error) if is_absent(&error) => Ok(()),
        other => other.map_err(|source| NetworkError::Neighbour { address, source }),
    }
}

/// `bridge link set dev LINK hairpin on`: the bridge may send a frame back by the port it came from.
pub(super) async fn hairpin(handle: &Handle, link: &str) -> Result<(), NetworkError> {
    let port = LinkBridgePort::new(require(handle, link).await?).hairpin(true);
    handle
        .link()
        .set_port(port.build())
        .execute()
        .await
        .map_err(NetworkError::link("setting hairpin mode of", link))
}

pub(super) async fn add_address(
    handle: &Handle,
    index: u32,
    link: &str,
    address: IpNet,
) -> Result<(), NetworkError> {
    let mut add = handle
        .address()
        .add(index, address.addr(), address.prefix_len());
    if address.addr().is_ipv6() {
        // Ours alone: usable at once, whatever the link's own settings say.
        add.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    tolerate_existing(add.execute().await).map_err(NetworkError::address(address, link))
}

/// The addresses of a link.
pub(super) async fn addresses(
    handle: &Handle,
    index: u32,
    link: &str,
) -> Result<Vec<IpNet>, NetworkError> {
    let messages = address_messages(handle, index, link).await?;
    let nets = messages
        .iter()
        .filter_map(|message| IpNet::new(address_of(message)?, message.header.prefix_len).ok());
    Ok(nets.collect())
}

/// The addresses of a link by which others reach it for good: not those of the link only, and none that comes or goes by
/// itself (the temporary ones of RFC 8981).
pub(super) async fn lasting_addresses(
    handle: &Handle,
    index: u32,
) -> Result<Vec<IpAddr>, NetworkError> {
    use AddressHeaderFlags as Flags;
    let passing = Flags::Secondary | Flags::Tentative | Flags::Deprecated | Flags::Dadfailed;
    let messages = address_messages(handle, index, "of the node's address").await?;
    let lasting = messages.iter().filter(|message| {
        message.header.scope == AddressScope::Universe && !message.header.flags.intersects(passing)
    });
    Ok(lasting.filter_map(address_of).collect())
}

async fn address_messages(
    handle: &Handle,
    index: u32,
    link: &str,
) -> Result<Vec<AddressMessage>, NetworkError> {
    let query = handle.address().get().set_link_index_filter(index);
    let messages = query.execute().try_collect().await;
    messages.map_err(NetworkError::link("reading the addresses of", link))
}

/// On a link to one peer, `Address` is the peer's, and stands first.
fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let attributes = message.attributes.iter();
    let (mut local, mut address) = (None, None);
    for attribute in attributes {
        match attribute {
            AddressAttribute::Local(own) => local = Some(*own),
            AddressAttribute::Address(own) => address = Some(*own),
            _ => {}
        }
    }
    local.or(address)
}

/// Removes from a link of ours the addresses that it must not have (any more). Those of the link alone stay.
pub(super) async fn remove_addresses(
    handle: &Handle,
    index: u32,
    link: &str,
    is_old: impl Fn(&IpAddr) -> bool,
) -> Result<(), NetworkError> {
    let messages = address_messages(handle, index, link).await?;
    let old = messages.into_iter().filter(|message| {
        message.header.scope == AddressScope::Universe
            && address_of(message).is_some_and(|address| is_old(&address))
    });
    for message in old {
        let address = address_of(&message).map(|address| address.to_string());
        tracing::warn!(link, address, "removing an address of an earlier run");
        match handle.address().del(message).execute().await {
            Err(error) if is_absent(&error) => {}
            other => other.map_err(NetworkError::link("removing an old address of", link))?,
        }
    }
    Ok(())
}

/// The link that has this address.
pub(super) async fn with_address(
    handle: &Handle,
    address: IpAddr,
) -> Result<Option<LinkMessage>, NetworkError> {
    let links = handle.link().get().execute().try_collect::<Vec<_>>().await;
    for link in links.map_err(NetworkError::link("listing", "all"))? {
        let own = addresses(handle, link.header.index, "a link").await?;
        if own.iter().any(|net| net.addr() == address) {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// The MTU of the link that has this address.
pub(super) async fn mtu_of(handle: &Handle, address: IpAddr) -> Result<Option<u32>, NetworkError> {
    let link = with_address(handle, address).await?;
    let attributes = link.into_iter().flat_map(|link| link.attributes);
    let mut mtus = attributes.filter_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(mtu),
        _ => None,
    });
    Ok(mtus.next())
}

/// `ip route replace DESTINATION dev LINK scope link`
pub(super) async fn route_on_link(
    handle: &Handle,
    destination: IpNet,
    index: u32,
) -> Result<(), NetworkError> {
    let route = prefix(destination)
        .output_interface(index)
        .scope(RouteScope::Link)
        .build();
    let add = handle.route().add(route).replace();
    add.execute()
        .await
        .map_err(NetworkError::route("setting", destination))
}

/// `ip route replace DESTINATION via GATEWAY proto 109`
pub(super) async fn route_via(
    handle: &Handle,
    destination: IpNet,
    gateway: IpAddr,
) -> Result<(), rtnetlink::Error> {
    let route = prefix(destination)
        .gateway(gateway)
        .expect("destination and gateway have the same family")
        .protocol(ROUTE_PROTOCOL)
        .build();
    handle.route().add(route).replace().execute().await
}

fn prefix(destination: IpNet) -> RouteMessageBuilder<IpAddr> {
    RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(destination.network(), destination.prefix_len())
        .expect("a prefix length fits its family")
}

/// Our routes to other nodes: destination and next hop.
pub(super) async fn our_routes(
    handle: &Handle,
) -> Result<Vec<(IpNet, RouteMessage)>, NetworkError> {
    let mut found = Vec::new();
    for query in [
        RouteMessageBuilder::<Ipv4Addr>::new().build(),
        RouteMessageBuilder::<Ipv6Addr>::new().build(),
    ] {
        let family = query.header.address_family;
        let mut routes = std::pin::pin!(handle.route().get(query).execute());
        while let Some(route) = routes.next().await {
            let route = route.map_err(NetworkError::route("reading", "other nodes"))?;
            let ours =
                route.header.protocol == ROUTE_PROTOCOL && route.header.address_family == family;
            if let Some(destination) = destination(&route).filter(|_| ours) {
                found.push((destination, route));
            }
        }
    }
    Ok(found)
}

fn destination(route: &RouteMessage) -> Option<IpNet> {
    let addr = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(addr)) => Some(IpAddr::V4(*addr)),
            RouteAttribute::Destination(RouteAddress::Inet6(addr)) => Some(IpAddr::V6(*addr)),
            _ => None,
        })?;
    IpNet::new(addr, route.header.destination_prefix_length).ok()
}

/// One that has just gone by itself, as it does with its link, is as good.
pub(super) async fn delete_route(
    handle: &Handle,
    destination: IpNet,
    route: RouteMessage,
) -> Result<(), NetworkError> {
    match handle.route().del(route).execute().await {
        Err(error) if is_absent(&error) => Ok(()),
        other => other.map_err(NetworkError::route("deleting", destination)),
    }
}
