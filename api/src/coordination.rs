//! Group `coordination.k8s.io`, version `v1`: Leases.

use crate::meta::{MicroTime, ObjectMeta};
use crate::wire::wire;

wire! {
    /// A claim that expires unless renewed: the life sign of a node, the leadership of a controller.
    kind("coordination.k8s.io", "v1", "Lease", "leases")
    pub struct Lease {
        metadata: ObjectMeta,
        spec: LeaseSpec,
    }

    /// Who holds it, since when, for how long.
    pub struct LeaseSpec {
        holder_identity: Option<Box<str>>,
        lease_duration_seconds: Option<i32>,
        acquire_time: Option<MicroTime>,
        renew_time: Option<MicroTime>,
        lease_transitions: Option<i32>,
        strategy: Option<Box<str>>,
        preferred_holder: Option<Box<str>>,
    }
}
