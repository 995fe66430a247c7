//! What went wrong with links, addresses, routes or sysctls.

use std::{io, net::IpAddr};

use ipnet::IpNet;

/// A failed step of the node's network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No netlink socket.
    #[error("opening a netlink socket: {0}")]
    Socket(io::Error),
    /// The Pod's network namespace could not be entered.
    #[error("entering the network namespace of a Pod: {0}")]
    Namespace(io::Error),
    /// The kernel refused a change of a link.
    #[error("{operation} link {link}: {source}")]
    Link {
        /// What was attempted.
        operation: &'static str,
        /// The link's name.
        link: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// A link that was just made cannot be found.
    #[error("link {0} is missing")]
    NoLink(String),
    /// The kernel refused an address.
    #[error("adding {address} to {link}: {source}")]
    Address {
        /// The address.
        address: IpNet,
        /// The link's name.
        link: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// The kernel keeps what it knows of an address's former owner.
    #[error("forgetting who had {address}: {source}")]
    Neighbour {
        /// A Pod's address.
        address: IpAddr,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// The kernel refused a route.
    #[error("{operation} the route to {destination}: {source}")]
    Route {
        /// What was attempted.
        operation: &'static str,
        /// Where the route leads.
        destination: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// Forwarding cannot be switched on.
    #[error(
        "writing {value:?} to /proc/sys/{path}: {source} (is /proc/sys writable? the agent needs root)"
    )]
    Sysctl {
        /// Below `/proc/sys`.
        path: String,
        /// The value wanted.
        value: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The cluster's Pods have IPv6 addresses, and the kernel has no IPv6.
    #[error("this kernel has no IPv6 (ipv6.disable=1?), and the cluster's Pods need it")]
    NoIpv6,
    /// The links that IPv6 knows cannot be listed.
    #[error("reading /proc/sys/net/ipv6/conf: {0}")]
    Links(io::Error),
    /// The node has no Pod range.
    #[error("the node has no Pod range: spec.podCIDRs is empty")]
    NoRange,
    /// The node's Pod range has no room.
    #[error("the node's pod range {0} has no room for Pods")]
    Range(IpNet),
    /// No address is left.
    #[error("every address of {0} is used")]
    Full(IpNet),
}

impl NetworkError {
    pub(super) fn link(
        operation: &'static str,
        link: &str,
    ) -> impl FnOnce(rtnetlink::Error) -> Self {
        let link = link.to_owned();
        move |source| Self::Link {
            operation,
            link,
            source,
        }
    }

    pub(super) fn address(address: IpNet, link: &str) -> impl FnOnce(rtnetlink::Error) -> Self {
        let link = link.to_owned();
        move |source| Self::Address {
            address,
            link,
            source,
        }
    }

    pub(super) fn route(
        operation: &'static str,
        destination: impl ToString,
    ) -> impl FnOnce(rtnetlink::Error) -> Self {
        let destination = destination.to_string();
        move |source| Self::Route {
            operation,
            destination,
            source,
        }
    }
}

/// The kernel's errno, as a positive number.
fn errno(error: &rtnetlink::Error) -> i32 {
    match error {
        rtnetlink::Error::NetlinkError(message) => -message.raw_code(),
        _ => 0,
    }
}

/// What is to be made is there already: as wanted.
pub(super) fn tolerate_existing(
    result: Result<(), rtnetlink::Error>,
) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if errno(&error) == nix::errno::Errno::EEXIST as i32 => Ok(()),
        other => other,
    }
}

/// What is to be found is not there. Links, neighbours, routes and addresses have different words for it.
pub(super) fn is_absent(error: &rtnetlink::Error) -> bool {
    use nix::errno::Errno::{EADDRNOTAVAIL, ENODEV, ENOENT, ESRCH};
    [EADDRNOTAVAIL, ENODEV, ENOENT, ESRCH]
        .map(|errno| errno as i32)
        .contains(&errno(error))
}

/// A host or network whose way is not known (yet): the next hop is on no segment of this node. IPv4 and IPv6 have different
/// words for it.
pub(super) fn is_unreachable(error: &rtnetlink::Error) -> bool {
    use nix::errno::Errno::{EHOSTUNREACH, ENETUNREACH};
    [ENETUNREACH, EHOSTUNREACH]
        .map(|errno| errno as i32)
        .contains(&errno(error))
}
