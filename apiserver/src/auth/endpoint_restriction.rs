//! What Endpoints and `EndpointSlices` that somebody writes may not name: addresses of nodes and of the API, and ClusterIPs
//! of the ranges that ServiceCIDRs add. Through a Service, whoever may write Endpoints would reach what network policies and firewalls keep from him (CVE-2021-25740,
//! CVE-2021-25737). The controllers write in process and are not asked: Pods on the node's network have its address.
//!
//! Loopback and link-local addresses, and those of the configured ranges of Services, are refused from everybody, by the
//! kinds' own rules.

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;
use serde_json::Value;

use crate::registry::{
    ApiError, Causes, Kind, ListQuery, Registry,
    kinds::{ENDPOINT_SLICES, ENDPOINTS, NODES, clusterip},
    meta,
};

/// The addresses that may not be named, as they are now.
#[derive(Clone, Debug, Default)]
pub struct EndpointRestriction {
    /// Whose address it is, in words.
    owners: HashMap<IpAddr, String>,
    /// Ranges that may be named all the same.
    allowed: Vec<IpNet>,
    /// The ranges that ServiceCIDRs add to the configured ones: a ClusterIP would lead in a circle, and its packets are dropped.
    service_networks: Vec<IpNet>,
}

impl EndpointRestriction {
    /// Whether objects of this kind name endpoints.
    #[must_use]
    pub fn concerns(kind: &Kind) -> bool {
        *kind == ENDPOINTS || *kind == ENDPOINT_SLICES
    }

    /// Reads the addresses of the nodes, and those under `default/kubernetes`.
    ///
    /// # Errors
    /// The store's.
    pub async fn read(registry: &Registry) -> Result<Self, ApiError> {
        let mut owners = HashMap::new();
        let nodes = registry.list(&NODES, None, &ListQuery::default()).await?;
        for node in nodes.objects {
            let node = node.value();
            let name = meta::text(&node, "name");
            for entry in items(&node["status"]["addresses"]) {
                if let Some(ip) = ip(&entry["address"]) {
                    owners.insert(ip, format!("node {name}"));
                }
            }
        }
        match registry
            .get(&ENDPOINTS, Some("default"), "kubernetes")
            .await
        {
            Ok(api) => {
                for (_, ip) in named(&ENDPOINTS, &api.value()) {
                    owners.insert(ip, "the API server".to_owned());
                }
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        let ranges = registry.service_ranges().await?.into_iter();
        let added = ranges.filter(|range| range.object.is_some());
        Ok(Self {
            owners,
            service_networks: added.map(|range| range.net).collect(),
            allowed: registry.context().allowed_endpoint_ips.clone(),
        })
    }

    /// Refuses addresses that are new in an object and may not be named.
    ///
    /// # Errors
    /// [`ApiError::Invalid`].
    pub fn check(
        &self,
        kind: &'static Kind,
        old: Option<&Value>,
        new: &Value,
    ) -> Result<(), ApiError> {
        let known: Vec<IpAddr> = old
            .map(|old| named(kind, old).into_iter().map(|(_, ip)| ip).collect())
            .unwrap_or_default();
        let mut causes = Causes::default();
        for (path, ip) in named(kind, new) {
            if known.contains(&ip) {
                continue;
            }
            let mut networks = self.service_networks.iter();
            if let Some(range) = networks.find(|range| range.contains(&ip)) {
                causes.invalid(path, ip.to_string(), &clusterip(range));
                continue;
            }
            let allowed = self.allowed.iter().any(|range| range.contains(&ip));
            if let Some(owner) = self.owners.get(&ip).filter(|_| !allowed) {
                let detail = format!(
                    "{ip} is an address of {owner}: lead to Pods on the node's network by a selector, or start the server with --allow-endpoint-ips and a range around it"
                );
                causes.forbidden(path, &detail);
            }
        }
        causes.into_result(kind, meta::text(new, "name"))
    }
}

/// The addresses an object names, with the paths of their fields.
fn named(kind: &Kind, object: &Value) -> Vec<(String, IpAddr)> {
    let mut named = Vec::new();
    if *kind == ENDPOINTS {
        for (index, subset) in items(&object["subsets"]).iter().enumerate() {
            for field in ["addresses", "notReadyAddresses"] {
                for (entry, address) in items(&subset[field]).iter().enumerate() {
                    let path = format!("subsets[{index}].{field}[{entry}].ip");
                    named.extend(ip(&address["ip"]).map(|ip| (path, ip)));
                }
            }
        }
    } else {
        for (index, endpoint) in items(&object["endpoints"]).iter().enumerate() {
            for (entry, address) in items(&endpoint["addresses"]).iter().enumerate() {
                let path = format!("endpoints[{index}].addresses[{entry}]");
                named.extend(ip(address).map(|ip| (path, ip)));
            }
        }
    }
    named
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn ip(value: &Value) -> Option<IpAddr> {
    api::ip::parse(value.as_str()?).ok()
}
