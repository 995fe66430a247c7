//! Services, whole.

use super::IntOrString;
use crate::meta::{Condition, ObjectMeta, StringMap};
use crate::wire::wire;

wire! {
    /// A name and a virtual address for a set of endpoints.
    kind("", "v1", "Service", "services")
    pub struct Service {
        metadata: ObjectMeta,
        spec: ServiceSpec,
        status: ServiceStatus,
    }

    /// What the Service should be. Enumerations stay strings: an unknown value must survive being read.
    pub struct ServiceSpec {
        ports: Vec<ServicePort>,
        selector: StringMap,
        #[serde(rename = "clusterIP")] cluster_ip: Box<str>,
        #[serde(rename = "clusterIPs")] cluster_ips: Vec<Box<str>>,
        r#type: Box<str>,
        #[serde(rename = "externalIPs")] external_ips: Vec<Box<str>>,
        session_affinity: Box<str>,
        #[serde(rename = "loadBalancerIP")] load_balancer_ip: Box<str>,
        load_balancer_source_ranges: Vec<Box<str>>,
        external_name: Box<str>,
        external_traffic_policy: Box<str>,
        health_check_node_port: i32,
        publish_not_ready_addresses: bool,
        session_affinity_config: Option<SessionAffinityConfig>,
        ip_families: Vec<Box<str>>,
        ip_family_policy: Option<Box<str>>,
        allocate_load_balancer_node_ports: Option<bool>,
        load_balancer_class: Option<Box<str>>,
        internal_traffic_policy: Option<Box<str>>,
        traffic_distribution: Option<Box<str>>,
    }

    /// One port of a Service.
    pub struct ServicePort {
        [always] {
            port: i32,
        }
        name: Box<str>,
        protocol: Box<str>,
        app_protocol: Option<Box<str>>,
        target_port: Option<IntOrString>,
        node_port: i32,
    }

    /// Options of session affinity.
    pub struct SessionAffinityConfig {
        #[serde(rename = "clientIP")] client_ip: Option<ClientIpConfig>,
    }

    /// Options of affinity by client address.
    pub struct ClientIpConfig {
        timeout_seconds: Option<i32>,
    }

    /// What the Service is at the moment.
    pub struct ServiceStatus {
        [always] {
            load_balancer: LoadBalancerStatus,
        }
        conditions: Vec<Condition>,
    }

    /// Where a load balancer answers for the Service.
    pub struct LoadBalancerStatus {
        ingress: Vec<LoadBalancerIngress>,
    }

    /// One address or name of a load balancer.
    pub struct LoadBalancerIngress {
        ip: Box<str>,
        hostname: Box<str>,
        ip_mode: Option<Box<str>>,
        ports: Vec<PortStatus>,
    }

    /// One port of a load balancer, and what went wrong with it.
    pub struct PortStatus {
        [always] {
            port: i32,
            protocol: Box<str>,
        }
        error: Option<Box<str>>,
    }
}
