//! Group `networking.k8s.io`, version `v1`: the ranges that ClusterIPs come from.

use crate::meta::ObjectMeta;
use crate::wire::wire;

wire! {
    /// Ranges of ClusterIPs: one of each family at most (KEP-1880).
    kind("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs")
    pub struct ServiceCidr {
        metadata: ObjectMeta,
        spec: ServiceCidrSpec,
    }

    /// The ranges.
    pub struct ServiceCidrSpec {
        cidrs: Vec<Box<str>>,
    }
}
