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

/// An address family; each has its own table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4: table `ip minik`.
    V4,
    /// IPv6: table `ip6 minik`.
    V6,
}

impl Family {
    /// Both, in the order in which everything is programmed.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(addr: IpAddr) -> Family {
        if addr.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        }
    }

    /// Length of an address in bytes.
    pub fn address_len(self) -> usize {
        match self {
            Family::V4 => 4,
            Family::V6 => 16,
        }
    }
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
    /// The same port on the node's own addresses of one family: see [`Desired::node_port_networks`].
    NodePort {
        /// The family of the node addresses, and of the endpoints.
        family: Family,
        /// The transport protocol.
        protocol: Protocol,
        /// The node port.
        port: NonZeroU16,
    },
}

impl Frontend {
    /// The family whose table holds this frontend.
    pub fn family(&self) -> Family {
        match *self {
            Frontend::Address { addr, .. } => Family::of(addr),
            Frontend::NodePort { family, .. } => family,
        }
    }

    /// The transport protocol.
    pub fn protocol(&self) -> Protocol {
        match *self {
            Frontend::Address { protocol, .. } | Frontend::NodePort { protocol, .. } => protocol,
        }
    }

    /// The port clients connect to.
    pub fn port(&self) -> NonZeroU16 {
        match *self {
            Frontend::Address { port, .. } | Frontend::NodePort { port, .. } => port,
        }
    }
}

/// One backend: where a chosen connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The Pod's (or outside host's) address; same family as the frontend.
    pub addr: IpAddr,
    /// The target port.
    pub port: NonZeroU16,
}

/// Whose connections get the node's address as source. A Pod's that reaches itself (hairpin) always do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Masquerade {
    /// Everybody's but the Pods', as [`Desired::local_detector`] knows them; with [`Desired::masquerade_all`] theirs, too.
    NonPodSources,
    /// Everybody's.
    Always,
}

/// Session affinity by client address (`ClientIP`): a client's further connections go where its last one went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// How long after its last new connection a client is remembered; at least a second.
    pub timeout: Duration,
    /// Where it is remembered.
    pub memory: Memory,
}

/// One memory of which client has which endpoint. The frontends that name it share it, so they should have the same
/// endpoints and the same timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Memory {
    /// One of the frontends, which stands for all of them.
    pub port: Frontend,
    /// Which endpoints the frontends have: paths that differ in this do not share.
    pub scope: Scope,
}

/// Endpoints among which a client may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Those of all nodes.
    Cluster,
    /// This node's.
    Node,
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
        /// Session affinity, if any.
        affinity: Option<Affinity>,
    },
    /// The source decides: clients outside the cluster are served by this node's endpoints alone and keep their address;
    /// the cluster's own need no such care, and are treated as if they had gone out to a load balancer and come back to a
    /// node that has endpoints (`externalTrafficPolicy: Local`).
    Local {
        /// Where clients outside go, their source kept; sorted, without duplicates. None: they are dropped.
        outside: Arc<[Endpoint]>,
        /// Where Pods go, their source kept, and this node's own processes, masqueraded; never empty.
        inside: Arc<[Endpoint]>,
        /// Session affinity, if any: the memory is for clients inside; those outside are remembered in that of
        /// [`Scope::Node`].
        affinity: Option<Affinity>,
    },
    /// Connections from these networks meet the inner fate; all others are dropped, whoever sends them, even where the inner
    /// fate would refuse them (`loadBalancerSourceRanges`). Networks of the other family mean nothing. Only for a
    /// [`Frontend::Address`]: on a NodePort the inner fate holds for everybody.
    From {
        /// The sources; without any of the frontend's family every connection is dropped.
        sources: Arc<[IpNet]>,
        /// What happens to their connections; not a `From`.
        fate: Box<Fate>,
    },
    /// No endpoint anywhere: refused with a TCP reset or ICMP port unreachable.
    Reject,
    /// Endpoints exist, but the traffic policy forbids them here: silently dropped.
    Drop,
}

/// What tells a Pod's connection from others: for [`Masquerade::NonPodSources`] and [`Fate::Local`]. In a family without any
/// network to know them by, nobody is a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LocalDetector {
    /// Its source is in [`Desired::pod_networks`].
    #[default]
    PodNetworks,
    /// Its source is in one of these: this node's Pods alone, say.
    Networks(BTreeSet<IpNet>),
    /// It came in by the interface of this name, a bridge that the node's Pods are ports of.
    Interface(Box<str>),
    /// It came in by an interface whose name begins so: each of the node's Pods has one.
    InterfacePrefix(Box<str>),
}

/// The whole desired state of one node, both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Every frontend and its fate.
    pub frontends: BTreeMap<Frontend, Fate>,
    /// Service ranges: an address in one of them that no frontend uses is dropped, a known address with an unknown port is
    /// rejected.
    pub service_networks: BTreeSet<IpNet>,
    /// The networks of the cluster's Pods.
    pub pod_networks: BTreeSet<IpNet>,
    /// Whose connections count as Pods'.
    pub local_detector: LocalDetector,
    /// Whether connections to [`Masquerade::NonPodSources`] frontends are masqueraded whoever makes them.
    pub masquerade_all: bool,
    /// The node's own addresses in these networks answer on NodePorts; in a family without any, all do but loopback.
    pub node_port_networks: BTreeSet<IpNet>,
    /// Addresses of Pods on this node (and the node's own, for endpoints on the host's network): the hairpin set.
    pub local_pods: BTreeSet<IpAddr>,
    /// Frontends answered by a process on this node (cluster DNS): never translated, tracked, dropped or rejected. They win
    /// over an entry of [`Desired::frontends`]. Only addresses: a `NodePort` here means nothing.
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
