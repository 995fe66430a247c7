//! Group `discovery.k8s.io`, version `v1`: EndpointSlices, whole.

use crate::core::ObjectReference;
use crate::meta::{ObjectMeta, StringMap};
use crate::wire::wire;

wire! {
    /// Some of the endpoints of the Service named by the label `kubernetes.io/service-name`.
    kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
    pub struct EndpointSlice {
        [always] {
            address_type: Box<str>,
            endpoints: Vec<Endpoint>,
        }
        metadata: ObjectMeta,
        ports: Vec<EndpointPort>,
    }

    /// One endpoint; its addresses are interchangeable.
    pub struct Endpoint {
        [always] {
            addresses: Vec<Box<str>>,
        }
        conditions: EndpointConditions,
        hostname: Option<Box<str>>,
        target_ref: Option<ObjectReference>,
        deprecated_topology: StringMap,
        node_name: Option<Box<str>>,
        zone: Option<Box<str>>,
        hints: Option<EndpointHints>,
    }

    /// Absent conditions: `ready` and `serving` count as true, `terminating` as false.
    pub struct EndpointConditions {
        ready: Option<bool>,
        serving: Option<bool>,
        terminating: Option<bool>,
    }

    /// Which clients should prefer this endpoint.
    pub struct EndpointHints {
        for_zones: Vec<ForZone>,
        for_nodes: Vec<ForNode>,
    }

    /// Clients in this zone.
    pub struct ForZone {
        [always] {
            name: Box<str>,
        }
    }

    /// Clients on this node.
    pub struct ForNode {
        [always] {
            name: Box<str>,
        }
    }

    /// One port, the same for all endpoints of the slice; no number means all ports.
    pub struct EndpointPort {
        name: Option<Box<str>>,
        protocol: Option<Box<str>>,
        port: Option<i32>,
        app_protocol: Option<Box<str>>,
    }
}

impl EndpointConditions {
    /// May new connections go here?
    pub fn is_ready(&self) -> bool {
        self.ready.unwrap_or(true)
    }

    /// Does it answer, though it may be terminating? Absent means the same as `ready`.
    pub fn is_serving(&self) -> bool {
        self.serving.unwrap_or_else(|| self.is_ready())
    }

    /// Is it on its way out?
    pub fn is_terminating(&self) -> bool {
        self.terminating.unwrap_or(false)
    }
}
