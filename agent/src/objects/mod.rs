//! The objects the agent holds for the whole cluster, parsed at the edge: Services and EndpointSlices with only the
//! fields that decide a packet's or a name's fate. Everything else is `api`'s slim structs.

mod labels;
mod meta;
mod service;

pub(crate) use meta::{Key, Meta, Object, Revision};
pub(crate) use service::{
    Endpoint, EndpointSlice, Protocol, Service, ServicePort, ServiceType, TrafficPolicy, Uid,
};
