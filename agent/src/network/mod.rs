//! The node's Pod network, by rtnetlink alone.
//!
//! ```text
//!   Pod 10.244.1.2/32 eth0 ──veth──┐                       ┌── route 10.244.2.0/24 via node 2 ── ...
//!   Pod 10.244.1.3/32 eth0 ──veth──┴ minik0 10.244.1.1/24 ─┤
//!                                                          └── lo 10.96.0.10/32: the cluster's DNS address
//! ```
//!
//! A Pod has its address as /32 and everything else behind the gateway, so that also a packet to a Pod on the same bridge
//! passes the node's IP layer, where Services are translated: no `br_netfilter` is needed. Where it is loaded and on (its
//! default, and what other software on the host may rely on), the bridge translates by itself and then keeps a packet
//! between two of its ports: so a Pod that reaches itself through a Service needs its port in hairpin mode.
//!
//! Every step finds what an earlier run made and leaves it: an agent's restart changes nothing.

mod announce;
mod error;
mod ipam;
mod link;
mod sysctl;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd, BorrowedFd},
    sync::Mutex,
};

use ipnet::{IpNet, Ipv4Net};
use rtnetlink::Handle;
use sha2::{Digest, Sha256};

pub(crate) use announce::Announcements;
pub use error::NetworkError;
use ipam::Ipam;
use link::Cable;

const BRIDGE: &str = "minik0";
/// The Pod's own link.
const POD_LINK: &str = "eth0";
const DEFAULT_MTU: u32 = 1500;

/// What the node's network is made from.
#[derive(Clone, Copy, Debug)]
pub struct NetworkConfig {
    /// `spec.podCIDR` of the node.
    pub pod_cidr: IpNet,
    /// The address this node's DNS answers on for the whole cluster.
    pub cluster_dns: IpAddr,
    /// The node's own address; its link gives the MTU.
    pub node_ip: IpAddr,
}

/// The node's network, set up.
#[derive(Debug)]
pub struct Network {
    handle: Handle,
    bridge: u32,
    range: IpNet,
    gateway: Ipv4Addr,
    mtu: u32,
    ipam: Mutex<Ipam>,
}

impl Network {
    /// Makes bridge, addresses and sysctls, or finds them as an earlier run left them.
    ///
    /// # Errors
    /// When the kernel refuses a step; the error names it.
    pub async fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        let IpNet::V4(range) = config.pod_cidr else {
            return Err(NetworkError::Range(config.pod_cidr));
        };
        if range.prefix_len() > 30 {
            return Err(NetworkError::Range(config.pod_cidr));
        }
        let ipam = Ipam::new(range);
        let gateway = ipam.gateway();
        let handle = link::connect()?;
        let mtu = link::mtu_of(&handle, config.node_ip)
            .await?
            .unwrap_or(DEFAULT_MTU);
        let bridge = link::bridge(&handle, BRIDGE, mtu).await?;
        let address = Ipv4Net::new(gateway, range.prefix_len()).expect("the range's own prefix");
        link::add_address(&handle, bridge, BRIDGE, address.into()).await?;
        let loopback = link::index(&handle, "lo")
            .await?
            .ok_or_else(|| NetworkError::NoLink("lo".to_owned()))?;
        link::up(&handle, loopback, "lo").await?;
        link::add_address(&handle, loopback, "lo", config.cluster_dns.into()).await?;
        sysctl::set_up(BRIDGE)?;
        Ok(Self {
            handle,
            bridge,
            range: range.into(),
            gateway,
            mtu,
            ipam: Mutex::new(ipam),
        })
    }

    /// An address for a new Pod.
    ///
    /// # Errors
    /// When none is left.
    pub fn allocate(&self) -> Result<IpAddr, NetworkError> {
        self.ipam()
            .allocate()
            .map(IpAddr::V4)
            .ok_or(NetworkError::Full(self.range))
    }

    /// The address of a Pod that an earlier run connected, which is the Pod's from now on; `None` for a new Pod.
    ///
    /// # Errors
    /// When its namespace cannot be read.
    pub async fn adopt(&self, namespace: BorrowedFd<'_>) -> Result<Option<IpAddr>, NetworkError> {
        let inside = link::connect_in(namespace)?;
        let Some(index) = link::index(&inside, POD_LINK).await? else {
            return Ok(None);
        };
        let addresses = link::addresses(&inside, index, POD_LINK).await?;
        let own = addresses.into_iter().find_map(|net| match net.addr() {
            IpAddr::V4(address) if self.range.contains(&IpAddr::V4(address)) => Some(address),
            _ => None,
        });
        if let Some(address) = own {
            self.ipam().adopt(address);
        }
        Ok(own.map(IpAddr::V4))
    }

    /// Connects a Pod's namespace under this address. What is connected already is left as it is.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub async fn attach(
        &self,
        pod_uid: &str,
        namespace: BorrowedFd<'_>,
        address: IpAddr,
    ) -> Result<(), NetworkError> {
        let name = veth_name(pod_uid);
        let inside = link::connect_in(namespace)?;
        if link::index(&inside, POD_LINK).await?.is_none() {
            // A link of that name leads into the namespace of the Pod's dead shim, which the kernel has not removed yet.
            if let Some(old) = link::index(&self.handle, &name).await? {
                link::delete(&self.handle, old, &name).await?;
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
        let missing = || NetworkError::NoLink(POD_LINK.to_owned());
        let eth0 = link::index(&inside, POD_LINK).await?.ok_or_else(missing)?;
        if let Some(loopback) = link::index(&inside, "lo").await? {
            link::up(&inside, loopback, "lo").await?;
        }
        link::add_address(&inside, eth0, POD_LINK, address.into()).await?;
        link::up(&inside, eth0, POD_LINK).await?;
        link::route_on_link(&inside, IpAddr::V4(self.gateway).into(), eth0).await?;
        let everywhere = IpNet::from(Ipv4Net::default());
        link::route_via(&inside, everywhere, self.gateway.into())
            .await
            .map_err(NetworkError::route("setting", everywhere))
    }

    /// Frees the address of a Pod that is gone. Its links go with its namespace; nobody waits for that.
    pub fn release(&self, address: IpAddr) {
        if let IpAddr::V4(address) = address {
            self.ipam().release(address);
        }
    }

    /// Makes the routes to other nodes' Pods exactly these: Pod range -> node address. A node on no segment of ours is
    /// left out with a warning.
    ///
    /// # Errors
    /// When the kernel refuses a route for another reason.
    pub async fn set_routes(&self, wanted: &BTreeMap<IpNet, IpAddr>) -> Result<(), NetworkError> {
        for (destination, route) in link::our_routes(&self.handle).await? {
            if !wanted.contains_key(&destination) {
                link::delete_route(&self.handle, destination, route).await?;
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
                Err(error) => return Err(NetworkError::route("setting", destination)(error)),
            }
        }
        Ok(())
    }

    fn ipam(&self) -> std::sync::MutexGuard<'_, Ipam> {
        self.ipam.lock().expect("no holder of this lock panics")
    }
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
