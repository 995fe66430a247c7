//! From a Service and its EndpointSlices to what the network does: the only place where both vocabularies meet.
//!
//! Everything here is pure. The rules are those of
//! <https://kubernetes.io/docs/reference/networking/virtual-ips/>; which endpoints a frontend uses follows KEP-1669
//! (terminating endpoints), KEP-2086 (internalTrafficPolicy) and the zone and node hints of KEP-3015.

mod endpoints;
mod flows;
mod health;
mod host_ports;
mod records;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU16};

use dataplane::model::{self, Affinity, Family, Fate, Frontend, Memory, Scope};
use ipnet::IpNet;

use crate::Addresses;
use crate::objects::{EndpointSlice, Protocol, Service, ServicePort, ServiceType};
use endpoints::PortEndpoints;
pub(crate) use flows::serving;
pub(crate) use health::health_check;
pub(crate) use host_ports::{host_port_fate, host_ports};
pub(crate) use records::records;

/// The node that translates: decides what is local.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Here {
    pub(crate) node: Box<str>,
    pub(crate) zone: Option<Box<str>>,
    /// The node's own addresses.
    pub(crate) addresses: Option<Addresses>,
}

/// Every frontend of a Service on this node, with its fate. Empty for headless Services, ExternalName, those that another
/// proxy serves and those without an address yet. Families in which it has no ClusterIP are not its own: an externalIP of
/// such a family is left alone.
pub(crate) fn frontends(
    service: &Service,
    slices: &[&EndpointSlice],
    here: &Here,
) -> BTreeMap<Frontend, Fate> {
    let mut frontends = BTreeMap::new();
    // A headless Service has no ClusterIP that parses, and neither has one that is not allocated yet.
    if service.has_other_proxy()
        || service.spec.kind == ServiceType::ExternalName
        || service.cluster_ips().is_empty()
    {
        return frontends;
    }
    for port in &service.spec.ports {
        port_frontends(
            service,
            port,
            &PortEndpoints::collect(port, slices, here),
            here,
            &mut frontends,
        );
    }
    frontends
}

fn port_frontends(
    service: &Service,
    port: &ServicePort,
    endpoints: &PortEndpoints,
    here: &Here,
    frontends: &mut BTreeMap<Frontend, Fate>,
) {
    let protocol = protocol(port.protocol);
    let internal = service.spec.internal_traffic_policy.unwrap_or_default();
    let external = service.spec.external_traffic_policy.unwrap_or_default();
    let has_node_port = matches!(
        service.spec.kind,
        ServiceType::NodePort | ServiceType::LoadBalancer
    );
    let node_port = NonZeroU16::new(port.node_port).filter(|_| has_node_port);
    let Some(port) = NonZeroU16::new(port.port) else {
        return;
    };
    let at = |addr| Frontend::Address {
        addr,
        protocol,
        port,
    };
    // One ClusterIP of each family at most.
    for addr in service.cluster_ips() {
        let family = Family::of(addr);
        let chosen = endpoints.choose(family);
        // All paths to the port share what is remembered of a client; the ClusterIP stands for them.
        let affinity = service.affinity().map(|timeout| Affinity {
            timeout,
            memory: Memory {
                port: at(addr),
                scope: Scope::Cluster,
            },
        });
        let of_family = |addrs: Vec<IpAddr>| {
            let addrs = addrs.into_iter();
            addrs.filter(move |addr| Family::of(*addr) == family)
        };
        let fate = chosen.external(external, affinity);
        for addr in of_family(service.external_ips()) {
            frontends.insert(at(addr), fate.clone());
        }
        for addr in of_family(service.vips()) {
            frontends.insert(at(addr), limit(fate.clone(), service, family, here));
        }
        if let Some(port) = node_port {
            let frontend = Frontend::NodePort {
                family,
                protocol,
                port,
            };
            frontends.insert(frontend, fate);
        }
        // Last: a ClusterIP listed under externalIPs as well stays a ClusterIP.
        frontends.insert(at(addr), chosen.internal(internal, affinity));
    }
}

/// Limits a VIP's fate to the Service's source ranges.
///
/// A range of length 0 lifts the limit for its family. Without any range of the VIP's family nobody is let in: the
/// ranges say who may come, and for the reference proxy a list of IPv4 ranges left IPv6 open.
fn limit(fate: Fate, service: &Service, family: Family, here: &Here) -> Fate {
    let Some(mut sources) = service.source_ranges() else {
        return fate;
    };
    sources.retain(|net| Family::of(net.addr()) == family);
    if sources.iter().any(|net| net.prefix_len() == 0) {
        return fate;
    }
    // A VIP that is also an address of this node is the source of the node's own connections to it.
    let mut node = here.addresses.into_iter().flatten();
    if node.any(|addr| sources.iter().any(|net| net.contains(&addr))) {
        let vips = service.vips().into_iter();
        sources.extend(
            vips.filter(|vip| Family::of(*vip) == family)
                .map(IpNet::from),
        );
    }
    Fate::From {
        sources: sources.into(),
        fate: Box::new(fate),
    }
}

const fn protocol(protocol: Protocol) -> model::Protocol {
    match protocol {
        Protocol::Tcp => model::Protocol::Tcp,
        Protocol::Udp => model::Protocol::Udp,
        Protocol::Sctp => model::Protocol::Sctp,
    }
}
