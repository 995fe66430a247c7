//! Which hosts a lab has and how they are wired: a value, no side effects.
//!
//! ```text
//!                      switch (bridge + router)
//!       198.18.0.1/24 ----+---------------- 192.0.2.1/24
//!          |        |     |       |              |
//!       control   node1  node2  client        database
//!         .2       .11    .12    .100          .42
//!       ::2       ::11   ::12   ::100         ::42
//! ```
//!
//! The segments of IPv6 are 2001:2:0:1::/64 and 2001:db8:0:2::/64.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The most worker nodes a lab can have: their addresses end below the outside client's.
pub(crate) const MAX_NODES: u16 = 80;

/// A family of addresses that the hosts and the cluster have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IpFamily {
    /// RFC 2544 and RFC 5737: for tests between devices and for documentation, never routed on the Internet.
    Ipv4,
    /// The same of IPv6: RFC 5180 and RFC 3849.
    Ipv6,
}

impl IpFamily {
    /// The ClusterIPs.
    pub(crate) const fn service_cidr(self) -> &'static str {
        match self {
            Self::Ipv4 => "10.96.0.0/16",
            Self::Ipv6 => "fd00:10:96::/112",
        }
    }

    /// The Pods.
    pub(crate) const fn pod_cidr(self) -> &'static str {
        match self {
            Self::Ipv4 => "10.244.0.0/16",
            Self::Ipv6 => "fd00:10:244::/56",
        }
    }

    /// Addresses of the cluster's segment that no host has, for Services of type LoadBalancer.
    pub(crate) const fn load_balancer_pool(self) -> &'static str {
        match self {
            Self::Ipv4 => "198.18.0.200-198.18.0.254",
            Self::Ipv6 => "2001:2:0:1::200-2001:2:0:1::2ff",
        }
    }

    const fn prefix_len(self) -> u8 {
        match self {
            Self::Ipv4 => 24,
            Self::Ipv6 => 64,
        }
    }

    /// An address of a segment.
    fn address(self, segment: Segment, place: Place) -> IpAddr {
        match self {
            Self::Ipv4 => {
                let [a, b, c] = match segment {
                    Segment::Cluster => [198, 18, 0],
                    Segment::Outside => [192, 0, 2],
                };
                Ipv4Addr::new(a, b, c, place.ipv4).into()
            }
            Self::Ipv6 => {
                let [a, b, c, d] = match segment {
                    Segment::Cluster => [0x2001, 2, 0, 1],
                    Segment::Outside => [0x2001, 0xdb8, 0, 2],
                };
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, place.ipv6).into()
            }
        }
    }
}

/// A network of the lab.
#[derive(Clone, Copy, Debug)]
enum Segment {
    /// Control host, nodes, and the client.
    Cluster,
    /// The database.
    Outside,
}

/// The end of an address.
#[derive(Clone, Copy, Debug)]
struct Place {
    ipv4: u8,
    ipv6: u16,
}

impl Place {
    const GATEWAY: Self = Self { ipv4: 1, ipv6: 1 };
    const CONTROL: Self = Self { ipv4: 2, ipv6: 2 };
    const CLIENT: Self = Self {
        ipv4: 100,
        ipv6: 0x100,
    };
    const DATABASE: Self = Self {
        ipv4: 42,
        ipv6: 0x42,
    };

    /// The nodes count from one.
    fn node(number: u8) -> Self {
        Self {
            ipv4: 10 + number,
            ipv6: 0x10 + u16::from(number),
        }
    }
}

/// What a host of the lab is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Bridges and routes between the others.
    Switch,
    /// Runs `minik server`.
    Control,
    /// Runs `minik agent`.
    Node,
    /// A client outside the cluster.
    Client,
    /// A server outside the cluster: plays `examples/external-database.yaml`.
    Database,
}

/// One host: a set of namespaces with one network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Host {
    /// Host name, unique in the lab.
    pub(crate) name: String,
    /// What it is for.
    pub(crate) role: Role,
    /// One of each family, the primary one first; the switch has those of both segments.
    pub(crate) addresses: Vec<Address>,
}

impl Host {
    /// The address of the primary family.
    pub(crate) fn addr(&self) -> IpAddr {
        self.addresses[0].ip
    }
}

/// An address of a host and the way out from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Address {
    /// The address.
    pub(crate) ip: IpAddr,
    /// Of its segment.
    pub(crate) prefix_len: u8,
    /// The switch's address on the segment.
    pub(crate) gateway: IpAddr,
}

/// The hosts of a lab with `nodes` worker nodes, the switch first. There must be a family.
pub(crate) fn hosts(nodes: u16, families: &[IpFamily]) -> Vec<Host> {
    let host = |name: &str, role, places: &[(Segment, Place)]| Host {
        name: name.to_owned(),
        role,
        addresses: families
            .iter()
            .flat_map(|family| places.iter().map(|place| address(*family, *place)))
            .collect(),
    };
    let (cluster, outside) = (Segment::Cluster, Segment::Outside);
    let gateways = [(cluster, Place::GATEWAY), (outside, Place::GATEWAY)];
    let mut hosts = vec![
        host("switch", Role::Switch, &gateways),
        host("control", Role::Control, &[(cluster, Place::CONTROL)]),
    ];
    hosts.extend((1..=nodes.min(MAX_NODES)).map(|number| {
        let place = Place::node(u8::try_from(number).expect("at most MAX_NODES"));
        host(&format!("node{number}"), Role::Node, &[(cluster, place)])
    }));
    hosts.push(host("client", Role::Client, &[(cluster, Place::CLIENT)]));
    hosts.push(host(
        "database",
        Role::Database,
        &[(outside, Place::DATABASE)],
    ));
    hosts
}

fn address(family: IpFamily, (segment, place): (Segment, Place)) -> Address {
    Address {
        ip: family.address(segment, place),
        prefix_len: family.prefix_len(),
        gateway: family.address(segment, Place::GATEWAY),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const BOTH: [IpFamily; 2] = [IpFamily::Ipv4, IpFamily::Ipv6];

    #[test]
    fn every_host_has_its_own_name_and_addresses() {
        let hosts = hosts(MAX_NODES, &BOTH);
        let names: BTreeSet<_> = hosts.iter().map(|host| &host.name).collect();
        assert_eq!(names.len(), hosts.len());
        let addresses: Vec<_> = hosts.iter().flat_map(|host| &host.addresses).collect();
        let distinct: BTreeSet<_> = addresses.iter().map(|address| address.ip).collect();
        assert_eq!(distinct.len(), addresses.len());
    }

    #[test]
    fn the_database_is_on_the_outside_segment() {
        let hosts = hosts(3, &BOTH);
        let found = hosts.iter().find(|host| host.role == Role::Database);
        let addresses = &found.unwrap().addresses;
        let ips: Vec<_> = addresses
            .iter()
            .flat_map(|address| [address.ip.to_string(), address.gateway.to_string()])
            .collect();
        let wanted = [
            "192.0.2.42",
            "192.0.2.1",
            "2001:db8:0:2::42",
            "2001:db8:0:2::1",
        ];
        assert_eq!(ips, wanted);
        let nodes = hosts.iter().filter(|host| host.role == Role::Node);
        assert_eq!(nodes.count(), 3);
    }
}
