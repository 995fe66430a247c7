//! Where ClusterIPs come from now: the configured ranges, and those of ServiceCIDRs (KEP-1880).

use std::net::IpAddr;

use bytes::Bytes;
use ipnet::IpNet;

use super::range::is_usable;
use crate::{
    registry::{
        ApiError, ListQuery, Object, Registry,
        kinds::{SERVICE_CIDRS, items},
        meta,
    },
    store::Revision,
};

/// A range that addresses are taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceRange {
    pub(crate) net: IpNet,
    /// The key and version of its ServiceCIDR; none when it is configured, and so does not go.
    pub(crate) object: Option<(Bytes, Revision)>,
}

impl ServiceRange {
    /// Whether this address can be given out from it.
    pub(crate) fn has(&self, ip: IpAddr) -> bool {
        is_usable(&self.net, ip)
    }
}

impl Registry {
    /// The configured ranges, then those of every ServiceCIDR that is not going away, by name.
    pub(crate) async fn service_ranges(&self) -> Result<Vec<ServiceRange>, ApiError> {
        let configured = &self.context.service_cidrs;
        let mut ranges: Vec<ServiceRange> = configured
            .iter()
            .map(|net| ServiceRange {
                net: *net,
                object: None,
            })
            .collect();
        let all = ListQuery::default();
        for object in self.list(&SERVICE_CIDRS, None, &all).await?.objects {
            ranges.extend(ranges_of(&object).filter(|range| !configured.contains(&range.net)));
        }
        Ok(ranges)
    }
}

/// The ranges that a ServiceCIDR adds.
fn ranges_of(object: &Object) -> impl Iterator<Item = ServiceRange> {
    let value = object.value();
    let key = SERVICE_CIDRS.key(None, meta::text(&value, "name"));
    let object = (Bytes::from(key), object.revision());
    let cidrs = if meta::is_terminating(&value) {
        Vec::new()
    } else {
        items(&value["spec"]["cidrs"]).to_vec()
    };
    cidrs.into_iter().filter_map(move |cidr| {
        Some(ServiceRange {
            net: cidr.as_str()?.parse().ok()?,
            object: Some(object.clone()),
        })
    })
}
