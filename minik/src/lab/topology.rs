//! Which hosts a lab has and how they are wired: a value, no side effects.
//!
//! ```text
//!                      switch (bridge + router)
//!       198.18.0.1/24 ----+---------------- 192.0.2.1/24
//!          |        |     |       |              |
//!       control   node1  node2  client        database
//!         .2       .11    .12    .100          .42
//! ```

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// The most worker nodes a lab can have: the cluster's own /24 ends below the outside client's address.
pub(crate) const MAX_NODES: u16 = 80;

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
    /// Its address; the switch's is the first segment's gateway.
    pub(crate) addr: Ipv4Addr,
    /// Its default gateway: an address of the switch.
    pub(crate) gateway: Ipv4Addr,
}

/// The cluster's segment (RFC 2544: for tests between devices, never routed on the Internet).
const CLUSTER_GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The outside segment (RFC 5737, TEST-NET-1).
const OUTSIDE_GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Both segments are /24.
pub(crate) const PREFIX_LEN: u8 = 24;

/// Addresses of the cluster's segment that no host has, for Services of type LoadBalancer.
pub(crate) const LOAD_BALANCER_POOL: &str = "198.18.0.200-198.18.0.254";

/// The switch's addresses.
pub(crate) const GATEWAYS: [Ipv4Addr; 2] = [CLUSTER_GATEWAY, OUTSIDE_GATEWAY];

/// The hosts of a lab with `nodes` worker nodes, the switch first.
pub(crate) fn hosts(nodes: u16) -> Vec<Host> {
    let mut hosts = vec![
        host("switch", Role::Switch, CLUSTER_GATEWAY),
        host("control", Role::Control, Ipv4Addr::new(198, 18, 0, 2)),
    ];
    hosts.extend((1..=nodes.min(MAX_NODES)).map(|number| {
        let last = 10 + u8::try_from(number).expect("at most MAX_NODES");
        host(
            &format!("node{number}"),
            Role::Node,
            Ipv4Addr::new(198, 18, 0, last),
        )
    }));
    hosts.push(host("client", Role::Client, Ipv4Addr::new(198, 18, 0, 100)));
    hosts.push(host(
        "database",
        Role::Database,
        Ipv4Addr::new(192, 0, 2, 42),
    ));
    hosts
}

fn host(name: &str, role: Role, addr: Ipv4Addr) -> Host {
    let gateway = if addr.octets()[..3] == OUTSIDE_GATEWAY.octets()[..3] {
        OUTSIDE_GATEWAY
    } else {
        CLUSTER_GATEWAY
    };
    Host {
        name: name.to_owned(),
        role,
        addr,
        gateway,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_host_has_its_own_name_and_address() {
        let hosts = hosts(MAX_NODES);
        let names: BTreeSet<_> = hosts.iter().map(|host| &host.name).collect();
        let addrs: BTreeSet<_> = hosts.iter().map(|host| host.addr).collect();
        assert_eq!(names.len(), hosts.len());
        assert_eq!(addrs.len(), hosts.len());
    }

    #[test]
    fn the_database_is_on_the_outside_segment() {
        let hosts = hosts(3);
        let database = hosts
            .iter()
            .find(|host| host.role == Role::Database)
            .unwrap();
        assert_eq!(database.addr, Ipv4Addr::new(192, 0, 2, 42));
        assert_eq!(database.gateway, OUTSIDE_GATEWAY);
        assert_eq!(
            hosts.iter().filter(|host| host.role == Role::Node).count(),
            3
        );
    }
}
