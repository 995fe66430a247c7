//! Endpoints: the older form of EndpointSlices, still read and written by many.

use super::ObjectReference;
use crate::meta::ObjectMeta;
use crate::wire::wire;

wire! {
    /// The endpoints of the Service of the same name.
    kind("", "v1", "Endpoints", "endpoints")
    pub struct Endpoints {
        metadata: ObjectMeta,
        subsets: Vec<EndpointSubset>,
    }

    /// The product of some addresses and some ports.
    pub struct EndpointSubset {
        addresses: Vec<EndpointAddress>,
        not_ready_addresses: Vec<EndpointAddress>,
        ports: Vec<EndpointPort>,
    }

    /// One address.
    pub struct EndpointAddress {
        [always] {
            ip: Box<str>,
        }
        hostname: Box<str>,
        node_name: Option<Box<str>>,
        target_ref: Option<ObjectReference>,
    }

    /// One port.
    pub struct EndpointPort {
        [always] {
            port: i32,
        }
        name: Box<str>,
        protocol: Box<str>,
        app_protocol: Option<Box<str>>,
    }
}
