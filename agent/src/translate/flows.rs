//! Which endpoints may keep the UDP flows they have.

use std::collections::BTreeSet;

use dataplane::{
    Serving,
    model::{self, Frontend},
};

use super::{Here, endpoints::PortEndpoints, frontends};
use crate::objects::{EndpointSlice, Protocol, Service, ServicePort};

/// The serving endpoints behind each UDP frontend of a Service, whatever policy or topology say: who gets no new flows may
/// still answer the old ones, also while it terminates.
pub(crate) fn serving(service: &Service, slices: &[&EndpointSlice], here: &Here) -> Serving {
    let udp = |port: &&ServicePort| port.protocol == Protocol::Udp;
    let mut serving = Serving::new();
    if !service.spec.ports.iter().any(|port| udp(&port)) {
        return serving;
    }
    let frontends: Vec<Frontend> = frontends(service, slices, here)
        .into_keys()
        .filter(|frontend| frontend.protocol() == model::Protocol::Udp)
        .collect();
    for port in service.spec.ports.iter().filter(udp) {
        let endpoints = PortEndpoints::collect(port, slices, here);
        let of_port = frontends.iter().filter(|frontend| match frontend {
            Frontend::Address { .. } => frontend.port().get() == port.port,
            Frontend::NodePort { .. } => frontend.port().get() == port.node_port,
        });
        for frontend in of_port {
            let all: BTreeSet<_> = endpoints.serving(frontend.family()).into_iter().collect();
            serving.insert(*frontend, Some(all));
        }
    }
    serving
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_udp_frontend_keeps_the_flows_of_all_that_serve_and_tcp_has_none() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "dns"},
            "spec": {
                "type": "NodePort", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
                "internalTrafficPolicy": "Local",
                "ports": [
                    {"name": "tcp", "protocol": "TCP", "port": 53, "nodePort": 30053},
                    {"name": "udp", "protocol": "UDP", "port": 53, "nodePort": 30054},
                ],
            },
        }))
        .expect("a Service");
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "dns-x"}, "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.244.1.1"], "conditions": {"ready": true, "serving": true}, "nodeName": "elsewhere"},
                {"addresses": ["10.244.1.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["10.244.1.3"], "conditions": {"ready": false, "serving": false, "terminating": true}},
            ],
            "ports": [{"name": "tcp", "protocol": "TCP", "port": 5353}, {"name": "udp", "protocol": "UDP", "port": 5354}],
        }))
        .expect("an EndpointSlice");
        let serving = serving(&service, &[&slice], &Here::default());
        let found: Vec<(bool, u16, Vec<String>)> = serving
            .iter()
            .map(|(frontend, endpoints)| {
                let is_node_port = matches!(frontend, Frontend::NodePort { .. });
                let endpoints = endpoints
                    .iter()
                    .flatten()
                    .map(|at| format!("{}:{}", at.addr, at.port));
                (is_node_port, frontend.port().get(), endpoints.collect())
            })
            .collect();
        let both = vec!["10.244.1.1:5354".to_owned(), "10.244.1.2:5354".to_owned()];
        assert_eq!(found, [(false, 53, both.clone()), (true, 30054, both)]);
    }
}
