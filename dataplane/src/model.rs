//! What the node's dataplane should do, in network words only.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU16,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

/// A transport protocol that Services balance. The discriminants are the IANA protocol numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// RFC 9293.
    Tcp = 6,
    /// RFC 768.
    Udp = 17,
    /// RFC 9260.
    Sctp = 132,
}

/// Where a client sends its first packet: a virtual IP, or a port on the node's own addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    /// ClusterIP, externalIP or load-balancer VIP.
    Address {
        /// The virtual address.
        addr: IpAddr,
        /// The transport protocol.
        protocol: Protocol,
        /// The service port.
        port: NonZeroU16,
    },
    /// The same port on every local address of the node (except loopback).
    NodePort {
        /// The transport protocol.
        protocol: Protocol,
        /// The node port.
        port: NonZeroU16,
    },
}

/// One backend: where a chosen connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The Pod's (or outside host's) address; same family as the frontend.
    pub addr: IpAddr,
    /// The target port.
    pub port: NonZeroU16,
}

/// Whose connections get the node's address as source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Masquerade {
    /// Nobody's but a Pod's that reaches itself (hairpin).
    HairpinOnly,
    /// Everybody's but the Pods' of [`Desired::pod_networks`] (and hairpin).
    NonPodSources,
    /// Everybody's.
    Always,
}

/// What happens to the connections to one frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Each new connection goes to one of these, at random.
    Balance {
        /// Sorted, without duplicates, never empty.
        endpoints: Arc<[Endpoint]>,
        /// Source address rule.
        masquerade: Masquerade,
        /// Session affinity by client address (`ClientIP`), with its timeout.
        affinity: Option<Duration>,
    },
    /// No endpoint anywhere: refused with ICMP port unreachable.
    Reject,
    /// Endpoints exist, but the traffic policy forbids them here: silently dropped.
    Drop,
}

/// The whole desired state of one node, both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Every frontend and its fate.
    pub frontends: BTreeMap<Frontend, Fate>,
    /// Service ranges: an address in one of them that no frontend uses is dropped, a known address with an unknown port is
    /// rejected.
    pub service_networks: BTreeSet<IpNet>,
    /// Sources that count as Pods for [`Masquerade::NonPodSources`].
    pub pod_networks: BTreeSet<IpNet>,
    /// Addresses of Pods on this node: the hairpin set.
    pub local_pods: BTreeSet<IpAddr>,
    /// Frontends answered by a process on this node (cluster DNS): never translated, tracked, dropped or rejected.
    pub local_listeners: BTreeSet<Frontend>,
    /// Whether Pods' connections to the world outside pod and service networks leave with the node's address.
    pub masquerade_egress: bool,
}

/// A difference to [`Desired`]: what it names is replaced, what it leaves out stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Frontends with a new fate; `None` removes.
    pub frontends: BTreeMap<Frontend, Option<Fate>>,
    /// Local Pods that came (true) or went (false).
    pub local_pods: BTreeMap<IpAddr, bool>,
}
