//! Pods.

use std::collections::BTreeMap;

use super::{
    Affinity, Container, ContainerStatus, LocalObjectReference, PodSecurityContext,
    TopologySpreadConstraint, Volume,
};
use crate::meta::{ObjectMeta, StringMap, Time};
use crate::quantity::Quantity;
use crate::wire::wire;

wire! {
    /// A group of containers that share an address.
    kind("", "v1", "Pod", "pods")
    pub struct Pod {
        metadata: ObjectMeta,
        spec: PodSpec,
        status: PodStatus,
    }

    /// The Pod a workload makes.
    pub struct PodTemplateSpec {
        metadata: ObjectMeta,
        spec: PodSpec,
    }

    /// What the Pod should be.
    pub struct PodSpec {
        [always] {
            containers: Vec<Container>,
        }
        volumes: Vec<Volume>,
        init_containers: Vec<Container>,
        restart_policy: Box<str>,
        termination_grace_period_seconds: Option<i64>,
        active_deadline_seconds: Option<i64>,
        dns_policy: Box<str>,
        node_selector: StringMap,
        service_account_name: Box<str>,
        automount_service_account_token: Option<bool>,
        node_name: Box<str>,
        host_network: bool,
        #[serde(rename = "hostPID")] host_pid: bool,
        #[serde(rename = "hostIPC")] host_ipc: bool,
        share_process_namespace: Option<bool>,
        security_context: Option<PodSecurityContext>,
        image_pull_secrets: Vec<LocalObjectReference>,
        hostname: Box<str>,
        subdomain: Box<str>,
        #[serde(rename = "setHostnameAsFQDN")] set_hostname_as_fqdn: Option<bool>,
        affinity: Option<Box<Affinity>>,
        scheduler_name: Box<str>,
        tolerations: Vec<Toleration>,
        host_aliases: Vec<HostAlias>,
        priority_class_name: Box<str>,
        priority: Option<i32>,
        dns_config: Option<PodDnsConfig>,
        readiness_gates: Vec<PodReadinessGate>,
        runtime_class_name: Option<Box<str>>,
        enable_service_links: Option<bool>,
        overhead: BTreeMap<Box<str>, Quantity>,
        topology_spread_constraints: Vec<TopologySpreadConstraint>,
        scheduling_gates: Vec<PodSchedulingGate>,
        hostname_override: Option<Box<str>>,
    }

    /// A taint the Pod puts up with.
    pub struct Toleration {
        key: Box<str>,
        operator: Box<str>,
        value: Box<str>,
        effect: Box<str>,
        toleration_seconds: Option<i64>,
    }

    /// A line of `/etc/hosts`.
    pub struct HostAlias {
        [always] {
            ip: Box<str>,
        }
        hostnames: Vec<Box<str>>,
    }

    /// What goes into `/etc/resolv.conf`.
    pub struct PodDnsConfig {
        nameservers: Vec<Box<str>>,
        searches: Vec<Box<str>>,
        options: Vec<PodDnsConfigOption>,
    }

    /// An option of the resolver.
    pub struct PodDnsConfigOption {
        name: Box<str>,
        value: Option<Box<str>>,
    }

    /// A condition that must be true before the Pod counts as ready.
    pub struct PodReadinessGate {
        [always] {
            condition_type: Box<str>,
        }
    }

    /// Keeps the Pod from being scheduled while present.
    pub struct PodSchedulingGate {
        [always] {
            name: Box<str>,
        }
    }

    /// What the Pod is at the moment.
    pub struct PodStatus {
        observed_generation: i64,
        phase: Box<str>,
        conditions: Vec<PodCondition>,
        message: Box<str>,
        reason: Box<str>,
        nominated_node_name: Box<str>,
        #[serde(rename = "hostIP")] host_ip: Box<str>,
        #[serde(rename = "hostIPs")] host_ips: Vec<HostIp>,
        #[serde(rename = "podIP")] pod_ip: Box<str>,
        #[serde(rename = "podIPs")] pod_ips: Vec<PodIp>,
        start_time: Option<Time>,
        init_container_statuses: Vec<ContainerStatus>,
        container_statuses: Vec<ContainerStatus>,
        qos_class: Box<str>,
    }

    /// A condition such as `Ready`; `status` is `True`, `False` or `Unknown`.
    pub struct PodCondition {
        [always] {
            r#type: Box<str>,
            status: Box<str>,
        }
        observed_generation: i64,
        last_probe_time: Option<Time>,
        last_transition_time: Option<Time>,
        reason: Box<str>,
        message: Box<str>,
    }

    /// An address of the Pod.
    pub struct PodIp {
        [always] {
            ip: Box<str>,
        }
    }

    /// An address of the Pod's node.
    pub struct HostIp {
        [always] {
            ip: Box<str>,
        }
    }
}

impl PodStatus {
    /// The condition of this type, if the Pod has it.
    pub fn condition(&self, r#type: &str) -> Option<&PodCondition> {
        self.conditions
            .iter()
            .find(|condition| &*condition.r#type == r#type)
    }
}

impl Pod {
    /// True when the `Ready` condition is `True`.
    pub fn is_ready(&self) -> bool {
        self.status
            .condition("Ready")
            .is_some_and(|condition| &*condition.status == "True")
    }

    /// True when the Pod will never run again: phase `Succeeded` or `Failed`.
    pub fn is_finished(&self) -> bool {
        matches!(&*self.status.phase, "Succeeded" | "Failed")
    }
}
