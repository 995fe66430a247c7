//! What must happen to a packet, written from the specification alone: no code is shared with the translation.
//!
//! The rows are those of the fate table of the reference proxy; the endpoints follow `CategorizeEndpoints` of
//! kubernetes/kubernetes pkg/proxy/topology.go, KEP-1669, KEP-2086 and KEP-3015.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    cluster::{Cluster, Detect, Member, Policy, VIPS, of, pod_addr},
    *,
};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// The Pod on this node that is the first endpoint, if there is one.
    Endpoint,
    /// Another Pod on this node.
    Pod,
    /// A Pod on another node.
    PodElsewhere,
    /// A process of this node.
    Node,
    /// The same, with the load balancer's address as source: the node has that, too.
    NodeAsVip,
    /// Somebody in 203.0.113.0/24 or 2001:db8:9::/48.
    Outside,
}

pub(super) const CLIENTS: [Client; 6] = [
    Client::Endpoint,
    Client::Pod,
    Client::PodElsewhere,
    Client::Node,
    Client::NodeAsVip,
    Client::Outside,
];

impl Client {
    pub(super) fn addr(self, family: Family) -> IpAddr {
        match self {
            Self::Endpoint => pod_addr(family, 1, 1),
            Self::Pod => pod_addr(family, 1, 99),
            Self::PodElsewhere => pod_addr(family, 2, 99),
            Self::Node => of(family, super::cluster::NODE_IPS),
            Self::NodeAsVip => of(family, VIPS),
            Self::Outside => of(family, ["203.0.113.9", "2001:db8:9::9"]),
        }
    }

    pub(super) const fn is_node(self) -> bool {
        matches!(self, Self::Node | Self::NodeAsVip)
    }

    /// Whether the detector takes it for a Pod.
    const fn is_pod(self, detect: Detect) -> bool {
        match self {
            Self::Endpoint | Self::Pod => true,
            Self::PodElsewhere => matches!(detect, Detect::ClusterCidr),
            Self::Node | Self::NodeAsVip | Self::Outside => false,
        }
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    ClusterIp,
    UndefinedPort,
    Unallocated,
    NodePort,
    NodePortOfLoopback,
    NodePortOfOtherAddress,
    ExternalIp,
    Vip,
    VipOfModeProxy,
}

pub(super) const DESTINATIONS: [To; 9] = [
    To::ClusterIp,
    To::UndefinedPort,
    To::Unallocated,
    To::NodePort,
    To::NodePortOfLoopback,
    To::NodePortOfOtherAddress,
    To::ExternalIp,
    To::Vip,
    To::VipOfModeProxy,
];

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// To one of these at random; the source is the client's unless masqueraded.
    Endpoints(BTreeSet<IpAddr>, Masqueraded),
    Reject,
    Drop,
    /// Passes as if there were no Services.
    Untouched,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Masqueraded {
    Yes,
    /// But hairpin.
    No,
}

/// The rows of the table, each of which the exhaustive test must meet.
pub(super) const ROWS: [&str; 16] = [
    "any: no usable endpoint anywhere",
    "address of a service network, not allocated",
    "ClusterIP, iTP Cluster",
    "ClusterIP, iTP Local, some here",
    "ClusterIP, iTP Local, none here, some elsewhere",
    "ClusterIP, port not defined",
    "VIP, ipMode Proxy",
    "VIP, source not in the ranges",
    "VIP, source in the ranges",
    "NodePort of a VIP with ranges",
    "NodePort on loopback",
    "NodePort on an address that was not selected",
    "ext, eTP Cluster",
    "ext, eTP Local, from a Pod or the node",
    "ext, eTP Local, from outside, some here",
    "ext, eTP Local, from outside, none here, some elsewhere",
];

/// What the Service has, by policy.
struct Lists {
    cluster: Vec<Member>,
    local: Vec<Member>,
    anywhere: bool,
}

fn is_ready(member: &Member) -> bool {
    member.state.ready != Some(false)
}

fn is_terminating(member: &Member) -> bool {
    member.state.terminating == Some(true)
}

fn is_last_resort(member: &Member) -> bool {
    member.state.serving != Some(false) && is_terminating(member)
}

fn lists(cluster: &Cluster) -> Lists {
    // The same address in two slices: the entry that does not terminate wins.
    let mut by_address: BTreeMap<(u8, u8), Member> = BTreeMap::new();
    for member in &cluster.members {
        let slot = by_address.entry((member.node, member.host));
        let kept = slot.or_insert(*member);
        if is_terminating(kept) && !is_terminating(member) {
            *kept = *member;
        }
    }
    let all: Vec<Member> = by_address.into_values().collect();
    let only = |test: fn(&Member) -> bool| -> Vec<Member> {
        all.iter().filter(|member| test(member)).copied().collect()
    };
    let (ready, last_resort) = (only(is_ready), only(is_last_resort));
    let here = |members: &[Member]| -> Vec<Member> {
        let members = members.iter().filter(|member| member.node == 1);
        members.copied().collect()
    };
    let local = match here(&ready) {
        none if none.is_empty() => here(&last_resort),
        some => some,
    };
    let anywhere = !ready.is_empty() || !last_resort.is_empty();
    Lists {
        cluster: if ready.is_empty() {
            last_resort
        } else {
            preferred(ready)
        },
        local,
        anywhere,
    }
}

/// By hints, all or nothing: nodes before zones, and only where some are meant for this place.
fn preferred(ready: Vec<Member>) -> Vec<Member> {
    type Hint = fn(&Member) -> Option<&'static str>;
    let hints: [(Hint, &str); 2] = [(|member| member.on, "n1"), (|member| member.zone, "z1")];
    for (hint, place) in hints {
        let everybody_has_one = ready.iter().all(|member| hint(member).is_some());
        let mine: Vec<Member> = ready
            .iter()
            .filter(|member| hint(member) == Some(place))
            .copied()
            .collect();
        if everybody_has_one && !mine.is_empty() {
            return mine;
        }
    }
    ready
}

/// Whether the ranges let a source of this family in; a list of the other family's ranges lets nobody in.
fn lets_in(cluster: &Cluster, family: Family, source: IpAddr) -> bool {
    let nets = cluster
        .ranges
        .iter()
        .map(|range| range.trim().parse::<IpNet>());
    let nets: Vec<IpNet> = nets
        .map(|net| net.expect("a range"))
        .filter(|net| net.addr().is_ipv4() == (family == Family::V4))
        .collect();
    let has = |addr: IpAddr| nets.iter().any(|net| net.contains(&addr));
    let node_may = has(of(family, super::cluster::NODE_IPS));
    cluster.ranges.is_empty()
        || nets.iter().any(|net| net.prefix_len() == 0)
        || has(source)
        || node_may && source == of(family, VIPS)
}

/// The row of the table and the fate in it.
pub(super) fn fate(
    cluster: &Cluster,
    client: Client,
    to: To,
    family: Family,
) -> (&'static str, Wanted) {
    let lists = lists(cluster);
    let send = |members: &[Member], masqueraded: bool| {
        let addrs = members.iter().map(|member| member.addr(family));
        let masqueraded = if masqueraded {
            Masqueraded::Yes
        } else {
            Masqueraded::No
        };
        Wanted::Endpoints(addrs.collect(), masqueraded)
    };
    let is_pod = client.is_pod(cluster.detect);
    let is_inside = is_pod || client.is_node();
    match to {
        To::Unallocated => return (ROWS[1], Wanted::Drop),
        To::UndefinedPort => return (ROWS[5], Wanted::Reject),
        To::VipOfModeProxy => return (ROWS[6], Wanted::Untouched),
        To::NodePortOfLoopback => return (ROWS[10], Wanted::Untouched),
        To::NodePortOfOtherAddress if cluster.primary_only => {
            return (ROWS[11], Wanted::Untouched);
        }
        To::Vip if !lets_in(cluster, family, client.addr(family)) => {
            return (ROWS[7], Wanted::Drop);
        }
        _ if !lists.anywhere => return (ROWS[0], Wanted::Reject),
        To::ClusterIp => {
            let masqueraded = !is_pod || cluster.masquerade_all;
            return match cluster.internal {
                Policy::Cluster => (ROWS[2], send(&lists.cluster, masqueraded)),
                Policy::Local if lists.local.is_empty() => (ROWS[4], Wanted::Drop),
                Policy::Local => (ROWS[3], send(&lists.local, masqueraded)),
            };
        }
        To::NodePort | To::NodePortOfOtherAddress | To::ExternalIp | To::Vip => {}
    }
    let (row, wanted) = match cluster.external {
        Policy::Cluster => (ROWS[12], send(&lists.cluster, true)),
        Policy::Local if is_inside => (ROWS[13], send(&lists.cluster, client.is_node())),
        Policy::Local if lists.local.is_empty() => (ROWS[15], Wanted::Drop),
        Policy::Local => (ROWS[14], send(&lists.local, false)),
    };
    match (cluster.ranges.is_empty(), to) {
        (false, To::Vip) => (ROWS[8], wanted),
        (false, To::NodePort) => (ROWS[9], wanted),
        _ => (row, wanted),
    }
}
