//! Which clients should prefer an endpoint, as `spec.trafficDistribution` says.
//! Source: kubernetes/kubernetes staging/src/k8s.io/endpointslice/trafficdist.

use api::{
    core::Service,
    discovery::{Endpoint, EndpointHints, ForNode, ForZone},
};

/// The hints of one endpoint. One that is not ready has none.
pub(super) fn of(service: &Service, endpoint: &Endpoint) -> Option<EndpointHints> {
    let same_node = match service.spec.traffic_distribution.as_deref()? {
        "PreferClose" | "PreferSameZone" => false,
        "PreferSameNode" => true,
        _ => return None,
    };
    if endpoint.conditions.ready != Some(true) {
        return None;
    }
    let zones = endpoint
        .zone
        .iter()
        .map(|zone| ForZone { name: zone.clone() });
    let nodes = endpoint.node_name.iter().filter(|_| same_node);
    let hints = EndpointHints {
        for_zones: zones.collect(),
        for_nodes: nodes.map(|node| ForNode { name: node.clone() }).collect(),
    };
    (hints != EndpointHints::default()).then_some(hints)
}
