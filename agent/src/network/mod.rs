//! The node's Pod network, by rtnetlink alone.
//!
//! ```text
//!   Pod 10.244.1.2/32 eth0 ──veth──┐                       ┌── route 10.244.2.0/24 via node 2 ── ...
//!   Pod 10.244.1.3/32 eth0 ──veth──┴ minik0 10.244.1.1/24 ─┤
//!                                                          └── lo 10.96.0.10/32: the cluster's DNS address
//! ```
//!
//! IPv6 is the same with /64 ranges and /128 addresses; a Pod has an address of each family that the cluster's Pods have.
//!
//! A Pod has its address as /32 and everything else behind the gateway, so that also a packet to a Pod on the same bridge
//! passes the node's IP layer, where Services are translated: no `br_netfilter` is needed. Where it is loaded and on (its
//! default, and what other software on the host may rely on), the bridge translates by itself and then keeps a packet
//! between two of its ports: so a Pod that reaches itself through a Service needs its port in hairpin mode.
//!
//! Every step finds what an earlier run made and leaves it: an agent's restart changes nothing.

mod announce;
mod conntrack;
mod error;
mod ipam;
mod link;
mod sysctl;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::{Mutex, MutexGuard},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::Handle;
use sha2::{Digest, Sha256};

use crate::Addresses;
pub(crate) use announce::Announcements;
pub use conntrack::Conntrack;
pub use error::NetworkError;
use ipam::Ipam;
use link::Cable;

/// The other addresses of the link that has this one: those by which others can reach it, as it was configured or learnt them.
///
/// # Errors
/// When links or addresses cannot be read.
pub async fn addresses_beside(address: IpAddr) -> Result<Vec<IpAddr>, NetworkError> {
    let handle = link::connect()?;
    let Some(found) = link::with_address(&handle, address).await? else {
        return Ok(Vec::new());
    };
    let lasting = link::lasting_addresses(&handle, found.header.index).await?;
    Ok(lasting.into_iter().filter(|own| *own != address).collect())
}

/// The bridge that the node's Pods are ports of.
pub(crate) const BRIDGE: &str = "minik0";
/// The Pod's own link.
const POD_LINK: &str = "eth0";
const DEFAULT_MTU: u32 = 1500;

/// What the node's network is made from.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// `spec.podCIDRs` of the node: one range for each family of its Pods, the primary one first.
    pub pod_cidrs: Vec<IpNet>,
    /// The address this node's DNS answers on for the whole cluster.
    pub cluster_dns: IpAddr,
    /// One of the node's own addresses; its link gives the MTU.
    pub node_ip: IpAddr,
}

/// The node's network, set up.
#[derive(Debug)]
pub struct Network {
    handle: Handle,
    bridge: u32,
    mtu: u32,
    /// The addresses of each family, in the order in which a Pod has them.
    families: Mutex<Vec<Ipam>>,
}

impl Network {
    /// Makes bridge, addresses and sysctls, or finds them as an earlier run left them.
    ///
    /// # Errors
    /// When the kernel refuses a step; the error names it.
    pub async fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        let families = config
            .pod_cidrs
            .iter()
            .map(|range| Ipam::new(*range).ok_or(NetworkError::Range(*range)))
            .collect::<Result<Vec<_>, _>>()?;
        if families.is_empty() {
            return Err(NetworkError::NoRange);
        }
        let handle = link::connect()?;
        let mtu = link::mtu_of(&handle, config.node_ip)
            .await?
            .unwrap_or(DEFAULT_MTU);
        let bridge = link::bridge(&handle, BRIDGE, mtu).await?;
        let has_ipv6 = families.iter().any(|family| family.gateway().is_ipv6());
        sysctl::set_up_bridge(BRIDGE, has_ipv6)?;
        link::up(&handle, bridge, BRIDGE).await?;
        // A node that joined anew may have got other ranges, and the old ones may be another node's by now.
        let is_old = |address: &IpAddr| families.iter().all(|family| family.gateway() != *address);
        link::remove_addresses(&handle, bridge, BRIDGE, is_old).await?;
        for family in &families {
            let (gateway, range) = (family.gateway(), family.range());
            if gateway.is_ipv4() {
                sysctl::forward_ipv4()?;
            } else {
                sysctl::forward_ipv6()?;
            }
            let address = IpNet::new(gateway, range.prefix_len()).expect("the range's own prefix");
            link::add_address(&handle, bridge, BRIDGE, address).await?;
        }
        let loopback = link::index(&handle, "lo")
            .await?
            .ok_or_else(|| NetworkError::NoLink("lo".to_owned()))?;
        link::up(&handle, loopback, "lo").await?;
        link::add_address(&handle, loopback, "lo", config.cluster_dns.into()).await?;
        Ok(Self {
            handle,
            bridge,
            mtu,
            families: Mutex::new(families),
        })
    }

    /// Addresses for a new Pod, one of each family.
    ///
    /// # Errors
    /// When none is left in one of them.
    pub fn allocate(&self) -> Result<Addresses, NetworkError> {
        let mut families = self.families();
        let mut given = Vec::new();
        for family in families.iter_mut() {
            match family.allocate() {
                Some(address) => given.push(address),
                None => {
                    let full = family.range();
                    for (family, address) in families.iter_mut().zip(given) {
                        family.release(address);
                    }
                    return Err(NetworkError::Full(full));
                }
            }
        }
        Ok(Addresses::of_each_family(given).expect("there is a family"))
    }

    /// The addresses of a Pod that an earlier run connected, which are the Pod's from now on; `None` for one that lacks some:
    /// nothing runs in it yet.
    ///
    /// # Errors
    /// When its namespace cannot be read.
    pub async fn adopt(
        &self,
        namespace: BorrowedFd<'_>,
    ) -> Result<Option<Addresses>, NetworkError> {
        let inside = link::connect_in(namespace)?;
        let Some(index) = link::index(&inside, POD_LINK).await? else {
            return Ok(None);
        };
        let addresses = link::addresses(&inside, index, POD_LINK).await?;
        let mut families = self.families();
        let own: Option<Vec<IpAddr>> = families
            .iter()
            .map(|family| {
                let mut addresses = addresses.iter().map(IpNet::addr);
                addresses.find(|address| family.range().contains(address))
            })
            .collect();
        let own = own.unwrap_or_default();
        for (family, address) in families.iter_mut().zip(&own) {
            family.adopt(*address);
        }
        Ok(Addresses::of_each_family(own))
    }

    /// Connects a Pod's namespace under these addresses. What is connected already is left as it is.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub async fn attach(
        &self,
        pod_uid: &str,
        namespace: BorrowedFd<'_>,
        addresses: Addresses,
    ) -> Result<(), NetworkError> {
        let name = veth_name(pod_uid);
        let inside = link::connect_in(namespace)?;
        if link::index(&inside, POD_LINK).await?.is_none() {
            // A link of that name leads into the namespace of the Pod's dead shim, which the kernel has not removed yet.
            if let Some(old) = link::index(&self.handle, &name).await? {
                link::delete(&self.handle, old, &name).await?;
            }
            // Another Pod may have had the address, with another MAC address: the node would go on sending there.
            for address in addresses {
                link::forget_neighbour(&self.handle, self.bridge, address).await?;
            }
            let cable = Cable {
                name: &name,
                bridge: self.bridge,
                peer_name: POD_LINK,
                peer_namespace: namespace.as_fd(),
                mtu: self.mtu,
            };
            link::veth(&self.handle, &cable).await?;
        }
        link::hairpin(&self.handle, &name).await?;
        let has_ipv6 = addresses.into_iter().any(|address| address.is_ipv6());
        link::inside(namespace, || sysctl::set_up_pod(POD_LINK, has_ipv6))?;
        let missing = || NetworkError::NoLink(POD_LINK.to_owned());
        let eth0 = link::index(&inside, POD_LINK).await?.ok_or_else(missing)?;
        if let Some(loopback) = link::index(&inside, "lo").await? {
            link::up(&inside, loopback, "lo").await?;
        }
        link::up(&inside, eth0, POD_LINK).await?;
        // An earlier attempt that was not finished may have given it others, which may be other Pods' by now.
        let is_old = |address: &IpAddr| {
            self.gateway(*address).is_some() && !addresses.into_iter().any(|own| own == *address)
        };
        link::remove_addresses(&inside, eth0, POD_LINK, is_old).await?;
        for address in addresses {
            link::add_address(&inside, eth0, POD_LINK, address.into()).await?;
            if let Some(gateway) = self.gateway(address) {
                way_out(&inside, eth0, gateway).await?;
            }
        }
        Ok(())
    }

    /// The gateway of a Pod's address.
    fn gateway(&self, address: IpAddr) -> Option<IpAddr> {
        let families = self.families();
        let mut families = families.iter();
        let family = families.find(|family| family.range().contains(&address))?;
        Some(family.gateway())
    }

    /// Frees the addresses of a Pod that is gone. Its cable goes before: the kernel takes its time to remove a namespace, which
    /// would answer beside the next Pod that gets the addresses.
    pub async fn release(&self, pod_uid: &str, addresses: Addresses) {
        let name = veth_name(pod_uid);
        let cut = async {
            match link::index(&self.handle, &name).await? {
                Some(index) => link::delete(&self.handle, index, &name).await,
                None => Ok(()),
            }
        };
        if let Err(error) = cut.await {
            tracing::warn!(%error, "the cable of a Pod that is gone stays until its namespace is gone too");
        }
        for family in self.families().iter_mut() {
            if let Some(address) = addresses.alike(family.gateway()) {
                family.release(address);
            }
        }
    }

    /// Whether some link of the node has this address.
    ///
    /// # Errors
    /// When links or addresses cannot be read.
    pub async fn has_address(&self, address: IpAddr) -> Result<bool, NetworkError> {
        Ok(link::with_address(&self.handle, address).await?.is_some())
    }

    /// Makes the routes to other nodes' Pods exactly these: Pod range -> node address. A node on no segment of ours is
    /// left out with a warning.
    ///
    /// # Errors
    /// The first, when the kernel refuses routes for another reason: the others are set all the same.
    pub async fn set_routes(&self, wanted: &BTreeMap<IpNet, IpAddr>) -> Result<(), NetworkError> {
        let mut done = Ok(());
        for (destination, route) in link::our_routes(&self.handle).await? {
            if !wanted.contains_key(&destination) {
                done = done.and(link::delete_route(&self.handle, destination, route).await);
            }
        }
        for (&destination, &gateway) in wanted {
            if destination.addr().is_ipv4() != gateway.is_ipv4() {
                continue;
            }
            match link::route_via(&self.handle, destination, gateway).await {
                Ok(()) => {}
                Err(error) if error::is_unreachable(&error) => {
                    tracing::warn!(%destination, %gateway, "node is on no segment of this node: its Pods are not reachable from here");
                }
                // For example that of a Node object left behind by this very host, whose address is our own.
                Err(error) => {
                    done = done.and(Err(NetworkError::route("setting", destination)(error)));
                }
            }
        }
        done
    }

    fn families(&self) -> MutexGuard<'_, Vec<Ipam>> {
        self.families.lock().expect("no holder of this lock panics")
    }
}

/// A Pod's routes in one family: everything is behind the gateway, which is on the link.
async fn way_out(inside: &Handle, eth0: u32, gateway: IpAddr) -> Result<(), NetworkError> {
    link::route_on_link(inside, gateway.into(), eth0).await?;
    let everywhere = match gateway {
        IpAddr::V4(_) => IpNet::from(Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::from(Ipv6Net::default()),
    };
    link::route_via(inside, everywhere, gateway)
        .await
        .map_err(NetworkError::route("setting", everywhere))
}

/// The node's end of a Pod's cable: 13 characters that the uid alone decides.
fn veth_name(pod_uid: &str) -> String {
    let digest = Sha256::digest(pod_uid.as_bytes());
    let hex: String = digest[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("minik{hex}")
}
