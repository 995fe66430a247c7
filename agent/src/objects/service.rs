//! Services and EndpointSlices. <https://kubernetes.io/docs/reference/kubernetes-api/service-resources/>

use std::{net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use serde::Deserialize;

use super::{
    Key, Meta, Object, Revision,
    labels::{HEADLESS_LABEL, PROXY_NAME_LABEL, SERVICE_NAME_LABEL},
    meta::null_as_default,
};

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Service {
    pub(crate) metadata: Meta,
    pub(crate) spec: ServiceSpec,
    pub(crate) status: ServiceStatus,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
    ExternalName,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum TrafficPolicy {
    #[default]
    Cluster,
    Local,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// As DNS and environment variables spell it.
    pub(crate) const fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceSpec {
    #[serde(rename = "type")]
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) kind: ServiceType,
    #[serde(rename = "clusterIP")]
    pub(crate) cluster_ip: Option<Box<str>>,
    #[serde(rename = "clusterIPs")]
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) cluster_ips: Box<[Box<str>]>,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) ports: Box<[ServicePort]>,
    #[serde(rename = "externalIPs")]
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) external_ips: Box<[Box<str>]>,
    pub(crate) external_name: Option<Box<str>>,
    pub(crate) internal_traffic_policy: Option<TrafficPolicy>,
    pub(crate) external_traffic_policy: Option<TrafficPolicy>,
    pub(crate) health_check_node_port: u16,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) load_balancer_source_ranges: Vec<Box<str>>,
    pub(crate) session_affinity: Option<Box<str>>,
    pub(crate) session_affinity_config: Option<SessionAffinityConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServicePort {
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) name: Box<str>,
    pub(crate) protocol: Protocol,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) port: u16,
    pub(crate) node_port: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SessionAffinityConfig {
    #[serde(rename = "clientIP")]
    pub(crate) client_ip: Option<ClientIpConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ClientIpConfig {
    pub(crate) timeout_seconds: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceStatus {
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) load_balancer: LoadBalancerStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct LoadBalancerStatus {
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) ingress: Vec<LoadBalancerIngress>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LoadBalancerIngress {
    pub(crate) ip: Option<Box<str>>,
    pub(crate) ip_mode: Option<Box<str>>,
}

/// What `timeoutSeconds` defaults to in the API.
const AFFINITY_TIMEOUT_SECS: u32 = 10800;

impl Service {
    /// `spec.clusterIPs`, or `spec.clusterIP` of an object that has only that; empty for headless Services.
    pub(crate) fn cluster_ips(&self) -> Vec<IpAddr> {
        let all = self.spec.cluster_ips.iter().chain(
            self.spec
                .cluster_ip
                .iter()
                .filter(|_| self.spec.cluster_ips.is_empty()),
        );
        all.filter_map(|ip| ip.parse().ok()).collect()
    }

    /// `clusterIP: None`: names without a virtual address.
    pub(crate) fn is_headless(&self) -> bool {
        self.spec.cluster_ip.as_deref() == Some("None")
    }

    /// Another proxy than ours serves it.
    pub(crate) fn has_other_proxy(&self) -> bool {
        self.metadata.labels.contains_key(PROXY_NAME_LABEL)
    }

    /// `sessionAffinity: ClientIP` with its timeout.
    pub(crate) fn affinity(&self) -> Option<Duration> {
        if self.spec.session_affinity.as_deref() != Some("ClientIP") {
            return None;
        }
        let config = self.spec.session_affinity_config.as_ref();
        let seconds = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
        Some(Duration::from_secs(u64::from(
            seconds.unwrap_or(AFFINITY_TIMEOUT_SECS),
        )))
    }

    /// `spec.externalIPs`.
    pub(crate) fn external_ips(&self) -> Vec<IpAddr> {
        let ips = self.spec.external_ips.iter();
        ips.filter_map(|ip| ip.parse().ok()).collect()
    }

    /// The load balancer's addresses that the node answers for: not those whose ipMode is `Proxy`, because their traffic
    /// must really go through the balancer.
    pub(crate) fn vips(&self) -> Vec<IpAddr> {
        if self.spec.kind != ServiceType::LoadBalancer {
            return Vec::new();
        }
        let ingress = self.status.load_balancer.ingress.iter();
        ingress
            .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
            .filter_map(|ingress| ingress.ip.as_ref()?.parse().ok())
            .collect()
    }

    /// The load balancer's addresses that a node was chosen to announce.
    pub(crate) fn announced_by(&self, node: &str) -> Vec<IpAddr> {
        let text = self.metadata.annotations.announced_by.as_deref();
        let pairs = text.unwrap_or_default().split(',');
        let vips = self.vips();
        pairs
            .filter_map(|pair| pair.split_once('='))
            .filter(|(_, chosen)| *chosen == node)
            .filter_map(|(address, _)| address.parse().ok())
            .filter(|address| vips.contains(address))
            .collect()
    }

    /// `spec.loadBalancerSourceRanges`, around which the API allows white space; `None` when the field is empty.
    pub(crate) fn source_ranges(&self) -> Option<Vec<IpNet>> {
        let ranges = &self.spec.load_balancer_source_ranges;
        let parsed = ranges.iter().filter_map(|range| range.trim().parse().ok());
        (!ranges.is_empty()).then(|| parsed.collect())
    }
}

impl Object for Service {
    fn key(&self) -> Key {
        self.metadata.key()
    }

    fn revision(&self) -> Revision {
        self.metadata.resource_version
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EndpointSlice {
    pub(crate) metadata: Meta,
    pub(crate) address_type: Box<str>,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) endpoints: Box<[Endpoint]>,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) ports: Box<[EndpointPort]>,
}

/// An endpoint, parsed: a large cluster has hundreds of thousands of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "WireEndpoint")]
pub(crate) struct Endpoint {
    /// The first address; the others have no meaning. `None` when it is a name.
    pub(crate) addr: Option<IpAddr>,
    conditions: EndpointConditions,
    pub(crate) hostname: Option<Box<str>>,
    /// Shared between the endpoints of the view.
    pub(crate) node_name: Option<Arc<str>>,
    /// The Pod's uid, when a Pod with a UUID stands behind the endpoint.
    pub(crate) pod_uid: Option<Uid>,
    pub(crate) hints: Option<Box<EndpointHints>>,
}

/// A UUID as its 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Uid([u8; 16]);

impl Uid {
    /// Reads the form with hyphens.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        let mut digits = 0;
        for digit in text.bytes().filter(|digit| *digit != b'-') {
            let value = char::from(digit).to_digit(16)?;
            let byte = bytes.get_mut(digits / 2)?;
            *byte = *byte << 4 | u8::try_from(value).ok()?;
            digits += 1;
        }
        (digits == 32).then_some(Self(bytes))
    }
}

/// An endpoint as JSON has it.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireEndpoint {
    #[serde(deserialize_with = "null_as_default")]
    addresses: Vec<Box<str>>,
    #[serde(deserialize_with = "null_as_default")]
    conditions: EndpointConditions,
    hostname: Option<Box<str>>,
    node_name: Option<Arc<str>>,
    target_ref: Option<TargetRef>,
    hints: Option<Box<EndpointHints>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TargetRef {
    uid: Box<str>,
}

impl From<WireEndpoint> for Endpoint {
    fn from(wire: WireEndpoint) -> Self {
        Self {
            addr: wire
                .addresses
                .first()
                .and_then(|address| address.parse().ok()),
            conditions: wire.conditions,
            hostname: wire.hostname,
            node_name: wire.node_name,
            pod_uid: wire.target_ref.and_then(|target| Uid::parse(&target.uid)),
            hints: wire.hints,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct EndpointConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EndpointHints {
    pub(crate) for_zones: Vec<HintName>,
    pub(crate) for_nodes: Vec<HintName>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct HintName {
    pub(crate) name: Box<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EndpointPort {
    pub(crate) name: Option<Box<str>>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) port: Option<u16>,
}

impl Endpoint {
    /// Absent means true.
    pub(crate) fn is_ready(&self) -> bool {
        self.conditions.ready.unwrap_or(true)
    }

    /// Absent means true.
    pub(crate) fn is_serving(&self) -> bool {
        self.conditions.serving.unwrap_or(true)
    }

    /// Absent means false.
    pub(crate) fn is_terminating(&self) -> bool {
        self.conditions.terminating.unwrap_or(false)
    }
}

impl EndpointSlice {
    /// Whether it names Pods of a headless Service, which no proxy balances.
    pub(crate) fn is_headless(&self) -> bool {
        self.metadata.labels.contains_key(HEADLESS_LABEL)
    }

    /// The Service it belongs to.
    pub(crate) fn service(&self) -> Option<Key> {
        let name = self.metadata.label(SERVICE_NAME_LABEL)?;
        Some(Key::new(&self.metadata.namespace, name))
    }
}

impl Object for EndpointSlice {
    fn key(&self) -> Key {
        self.metadata.key()
    }

    fn revision(&self) -> Revision {
        self.metadata.resource_version
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_read_from_its_text_form_only() {
        let text = "56a66c3c-1be1-4880-accb-e76f00727c2c";
        assert_eq!(
            Uid::parse(text).map(|uid| uid.0[..4].to_vec()),
            Some(vec![0x56, 0xa6, 0x6c, 0x3c])
        );
        for bad in [
            "",
            "web",
            "56a66c3c",
            "56a66c3c-1be1-4880-accb-e76f00727c2cc",
        ] {
            assert_eq!(Uid::parse(bad), None, "{bad}");
        }
    }
}
