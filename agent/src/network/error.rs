//! What went wrong with links, addresses, routes or sysctls.

use std::io;

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
    /// The node's Pod range is not one this version can serve.
    #[error("the node's pod range {0} is not IPv4 with room for Pods")]
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

/// What is to be found is not there.
pub(super) fn is_absent(error: &rtnetlink::Error) -> bool {
    errno(error) == nix::errno::Errno::ENODEV as i32
}

/// A host or network whose way is not known (yet): the next hop is on no segment of this node.
pub(super) fn is_unreachable(error: &rtnetlink::Error) -> bool {
    errno(error) == nix::errno::Errno::ENETUNREACH as i32
}
