//! Pods as endpoints of a Service: which count, with which ports, in which condition.

use std::net::IpAddr;

use api::{
    core::{Container, IntOrString, ObjectReference, Pod, Service, ServicePort},
    discovery::{Endpoint, EndpointConditions, EndpointPort},
};

use super::{hints, world::World};

pub(super) const ZONE: &str = "topology.kubernetes.io/zone";

/// An address family, by its name in `spec.ipFamilies` and `addressType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    pub(super) fn of(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// The families of a Service, the primary one first.
pub(super) fn families(service: &Service) -> Vec<Family> {
    let named = service
        .spec
        .ip_families
        .iter()
        .filter_map(|name| match &**name {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        });
    let families: Vec<Family> = named.collect();
    if families.is_empty() {
        vec![Family::V4]
    } else {
        families
    }
}

/// Whether a Pod that matches the selector can be an endpoint at all. One that is terminating can.
pub(super) fn counts(pod: &Pod) -> bool {
    !pod.is_finished() && !pod.status.pod_ips.is_empty()
}

/// The Pod's node, once it has one.
pub(super) fn node_name(pod: &Pod) -> Option<Box<str>> {
    Some(pod.spec.node_name.clone()).filter(|name| !name.is_empty())
}

/// The Pod's address of a family.
pub(super) fn address(pod: &Pod, family: Family) -> Option<IpAddr> {
    let addrs = pod
        .status
        .pod_ips
        .iter()
        .filter_map(|addr| addr.ip.parse::<IpAddr>().ok());
    addrs.into_iter().find(|addr| Family::of(*addr) == family)
}

/// Whether traffic may go to this Pod.
pub(super) fn is_ready(service: &Service, pod: &Pod) -> bool {
    service.spec.publish_not_ready_addresses
        || (pod.is_ready() && pod.metadata.deletion_timestamp.is_none())
}

/// The Pod as an endpoint of one family; `None` when it cannot be one (now).
pub(super) fn endpoint(
    world: &World,
    service: &Service,
    pod: &Pod,
    family: Family,
) -> Option<Endpoint> {
    let addr = address(pod, family)?;
    let node = world
        .nodes
        .get(&(Box::default(), pod.spec.node_name.clone()));
    // Without its node nothing is known of where it is; it comes back with the node.
    if node.is_none() && !service.spec.publish_not_ready_addresses {
        return None;
    }
    let conditions = EndpointConditions {
        ready: Some(is_ready(service, pod)),
        serving: Some(pod.is_ready()),
        terminating: Some(pod.metadata.deletion_timestamp.is_some()),
    };
    let mut endpoint = Endpoint {
        addresses: vec![addr.to_string().into()],
        conditions,
        hostname: hostname(service, pod),
        target_ref: Some(reference(pod)),
        node_name: node_name(pod),
        zone: node.and_then(|node| node.metadata.labels.get(ZONE).cloned()),
        ..Endpoint::default()
    };
    endpoint.hints = hints::of(service, &endpoint);
    Some(endpoint)
}

/// A Pod has a name of its own below a Service only when it asks for it.
pub(super) fn hostname(service: &Service, pod: &Pod) -> Option<Box<str>> {
    let asked = !pod.spec.hostname.is_empty() && pod.spec.subdomain == service.metadata.name;
    asked.then(|| pod.spec.hostname.clone())
}

pub(super) fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: "Pod".into(),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The Service's ports as this Pod has them. A named port that the Pod does not have is left out.
pub(super) fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let resolved = service.spec.ports.iter().filter_map(|port| {
        let number = target(port, pod)?;
        Some(EndpointPort {
            name: Some(port.name.clone()),
            protocol: Some(protocol(port).into()),
            port: Some(number),
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}

pub(super) fn protocol(port: &ServicePort) -> &str {
    if port.protocol.is_empty() {
        "TCP"
    } else {
        &port.protocol
    }
}

fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let sidecars = pod
                .spec
                .init_containers
                .iter()
                .filter(|container| restarts(container));
            let mut ports = pod
                .spec
                .containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| &container.ports);
            let found = ports.find(|candidate| {
                let protocol_of = if candidate.protocol.is_empty() {
                    "TCP"
                } else {
                    &*candidate.protocol
                };
                candidate.name == *name && protocol_of == protocol(port)
            });
            found.map(|port| port.container_port)
        }
    }
}

fn restarts(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}
