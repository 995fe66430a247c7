//! From a Service and its EndpointSlices to what the network does: the only place where both vocabularies meet.
//!
//! Everything here is pure. The rules are those of
//! <https://kubernetes.io/docs/reference/networking/virtual-ips/>; which endpoints a frontend uses follows KEP-1669
//! (terminating endpoints), KEP-2086 (internalTrafficPolicy) and the zone and node hints of KEP-3015.

mod endpoints;
mod records;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, num::NonZeroU16};

use dataplane::model::{self, Family, Fate, Frontend, Masquerade};

use crate::objects::{EndpointSlice, Protocol, Service, ServicePort, ServiceType, TrafficPolicy};
use endpoints::PortEndpoints;
pub(crate) use records::records;

/// The node that translates: decides what is local.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Here {
    pub(crate) node: Box<str>,
    pub(crate) zone: Option<Box<str>>,
}

/// Every frontend of a Service on this node, with its fate. Empty for headless Services, ExternalName, and those that
/// another proxy serves.
pub(crate) fn frontends(
    service: &Service,
    slices: &[&EndpointSlice],
    here: &Here,
) -> BTreeMap<Frontend, Fate> {
    let mut frontends = BTreeMap::new();
    if service.has_other_proxy()
        || service.is_headless()
        || service.spec.kind == ServiceType::ExternalName
    {
        return frontends;
    }
    for port in &service.spec.ports {
        port_frontends(
            service,
            port,
            &PortEndpoints::collect(port, slices, here),
            &mut frontends,
        );
    }
    frontends
}

fn port_frontends(
    service: &Service,
    port: &ServicePort,
    endpoints: &PortEndpoints,
    frontends: &mut BTreeMap<Frontend, Fate>,
) {
    let protocol = protocol(port.protocol);
    let affinity = service.affinity();
    let fate = |policy: Option<TrafficPolicy>, family: Family, masquerade| {
        endpoints
            .fate(policy.unwrap_or_default(), family)
            .into_fate(masquerade, affinity)
    };
    let internal = service.spec.internal_traffic_policy;
    let external = service.spec.external_traffic_policy;
    // Local keeps the client's address; Cluster may leave the node, and the answer must come back through it.
    let external_masquerade = match external.unwrap_or_default() {
        TrafficPolicy::Cluster => Masquerade::Always,
        TrafficPolicy::Local => Masquerade::HairpinOnly,
    };
    if let Some(port) = NonZeroU16::new(port.port) {
        for addr in service.external_addresses() {
            let fate = fate(external, Family::of(addr), external_masquerade);
            frontends.insert(
                Frontend::Address {
                    addr,
                    protocol,
                    port,
                },
                fate,
            );
        }
        // A ClusterIP listed under externalIPs as well stays a ClusterIP.
        for addr in service.cluster_ips() {
            let fate = fate(internal, Family::of(addr), Masquerade::NonPodSources);
            frontends.insert(
                Frontend::Address {
                    addr,
                    protocol,
                    port,
                },
                fate,
            );
        }
    }
    let has_node_port = matches!(
        service.spec.kind,
        ServiceType::NodePort | ServiceType::LoadBalancer
    );
    if let Some(port) = NonZeroU16::new(port.node_port).filter(|_| has_node_port) {
        for family in service.cluster_ips().into_iter().map(Family::of) {
            let fate = fate(external, family, external_masquerade);
            frontends.insert(
                Frontend::NodePort {
                    family,
                    protocol,
                    port,
                },
                fate,
            );
        }
    }
}

const fn protocol(protocol: Protocol) -> model::Protocol {
    match protocol {
        Protocol::Tcp => model::Protocol::Tcp,
        Protocol::Udp => model::Protocol::Udp,
        Protocol::Sctp => model::Protocol::Sctp,
    }
}
