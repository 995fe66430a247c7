//! What the zone is made of, in DNS words only.

use std::net::IpAddr;

/// A named or unnamed port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The port's name; empty when it has none (then it has no SRV record of its own).
    pub name: Box<str>,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    /// The port number: the service port, or the endpoint's own port for headless services.
    pub number: u16,
}

/// One ready endpoint of a headless service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its hostname, when the Pod has one below this service; else derived from the address.
    pub hostname: Option<Box<str>>,
    /// One address.
    pub addr: IpAddr,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// What one service answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// A and AAAA of the virtual addresses, SRV of the named ports, PTR of the addresses.
    Virtual {
        /// The ClusterIPs.
        addrs: Vec<IpAddr>,
        /// The service ports.
        ports: Vec<Port>,
    },
    /// A and AAAA of the ready endpoints.
    Headless {
        /// The ready endpoints.
        hosts: Vec<Host>,
    },
    /// A CNAME.
    Alias {
        /// The external name, absolute, without the final dot.
        target: Box<str>,
    },
}

/// A change of the zone, applied atomically with others of its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A namespace exists (its empty non-terminals answer NODATA) or is gone (NXDOMAIN).
    Namespace {
        /// Its name.
        name: Box<str>,
        /// Whether it exists.
        exists: bool,
    },
    /// A service has these records; `None` removes it.
    Service {
        /// Its namespace.
        namespace: Box<str>,
        /// Its name.
        name: Box<str>,
        /// Its records.
        records: Option<Service>,
    },
}
