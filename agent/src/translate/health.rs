//! Which health check a Service has on this node.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU16,
};

use dataplane::model::Family;

use super::{Here, endpoints::PortEndpoints};
use crate::{
    health::HealthCheck,
    objects::{EndpointSlice, Service, ServiceType, TrafficPolicy},
};

/// The health check that a load balancer asks whether this node has endpoints: only with a local policy does it matter.
pub(crate) fn health_check(
    service: &Service,
    slices: &[&EndpointSlice],
    here: &Here,
) -> Option<HealthCheck> {
    let spec = &service.spec;
    let port = NonZeroU16::new(spec.health_check_node_port)?;
    if service.has_other_proxy()
        || spec.kind != ServiceType::LoadBalancer
        || spec.external_traffic_policy != Some(TrafficPolicy::Local)
    {
        return None;
    }
    let mut local: BTreeMap<Family, BTreeSet<_>> = service
        .cluster_ips()
        .into_iter()
        .map(|addr| (Family::of(addr), BTreeSet::new()))
        .collect();
    for port in &spec.ports {
        let endpoints = PortEndpoints::collect(port, slices, here);
        for (family, addrs) in &mut local {
            addrs.extend(endpoints.local_ready(*family));
        }
    }
    Some(HealthCheck {
        port,
        local_endpoints: local
            .into_iter()
            .map(|(family, addrs)| (family, addrs.len()))
            .collect(),
    })
}
