//! Nodes.

use std::collections::BTreeMap;

use crate::meta::{ObjectMeta, Time};
use crate::quantity::Quantity;
use crate::wire::wire;

wire! {
    /// A machine that runs Pods.
    kind("", "v1", "Node", "nodes")
    pub struct Node {
        metadata: ObjectMeta,
        spec: NodeSpec,
        status: NodeStatus,
    }

    /// What the node should be.
    pub struct NodeSpec {
        #[serde(rename = "podCIDR")] pod_cidr: Box<str>,
        #[serde(rename = "podCIDRs")] pod_cidrs: Vec<Box<str>>,
        #[serde(rename = "providerID")] provider_id: Box<str>,
        unschedulable: bool,
        taints: Vec<Taint>,
    }

    /// Keeps Pods away that do not tolerate it.
    pub struct Taint {
        [always] {
            key: Box<str>,
            effect: Box<str>,
        }
        value: Box<str>,
        time_added: Option<Time>,
    }

    /// What the node is at the moment.
    pub struct NodeStatus {
        capacity: BTreeMap<Box<str>, Quantity>,
        allocatable: BTreeMap<Box<str>, Quantity>,
        conditions: Vec<NodeCondition>,
        addresses: Vec<NodeAddress>,
        node_info: NodeSystemInfo,
    }

    /// A condition such as `Ready`; `status` is `True`, `False` or `Unknown`.
    pub struct NodeCondition {
        [always] {
            r#type: Box<str>,
            status: Box<str>,
        }
        last_heartbeat_time: Option<Time>,
        last_transition_time: Option<Time>,
        reason: Box<str>,
        message: Box<str>,
    }

    /// An address; `type` is `InternalIP`, `ExternalIP`, `Hostname`, ...
    pub struct NodeAddress {
        [always] {
            r#type: Box<str>,
            address: Box<str>,
        }
    }

    /// What runs on the node.
    pub struct NodeSystemInfo {
        [always] {
            #[serde(rename = "machineID")] machine_id: Box<str>,
            #[serde(rename = "systemUUID")] system_uuid: Box<str>,
            #[serde(rename = "bootID")] boot_id: Box<str>,
            kernel_version: Box<str>,
            os_image: Box<str>,
            container_runtime_version: Box<str>,
            kubelet_version: Box<str>,
            kube_proxy_version: Box<str>,
            operating_system: Box<str>,
            architecture: Box<str>,
        }
    }
}
