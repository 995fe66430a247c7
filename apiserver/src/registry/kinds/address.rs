//! Addresses that cannot be endpoints.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::registry::causes::Causes;

/// Refuses an address that no packet can be sent to on behalf of a Service: unspecified, loopback, link-local,
/// link-local multicast (upstream's ValidateEndpointIP), and any ClusterIP, which would lead in a circle.
pub(crate) fn check(path: &str, address: &str, service_cidrs: &[IpNet], causes: &mut Causes) {
    // Strictly: an IPv4 address in IPv6 clothes would pass for neither loopback nor a ClusterIP.
    let ip = match api::ip::parse_strict(address) {
        Ok(ip) => ip,
        Err(reason) => return causes.invalid(path, address, &reason),
    };
    if let Some(cidr) = service_cidrs.iter().find(|cidr| cidr.contains(&ip)) {
        return causes.invalid(path, address, &clusterip(cidr));
    }
    if let Some(detail) = objection(ip) {
        causes.invalid(path, address, detail);
    }
}

/// Why an address of this range cannot be an endpoint.
pub(crate) fn clusterip(range: &IpNet) -> String {
    format!(
        "may not be a ClusterIP: it is in the service range {range}; name the address of a Pod, a host or an outside server instead"
    )
}

fn objection(ip: IpAddr) -> Option<&'static str> {
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] == 0xff02),
    };
    if ip.is_unspecified() {
        Some(
            "may not be unspecified (0.0.0.0 or ::); name the address the server listens on as others see it",
        )
    } else if ip.is_loopback() {
        Some(
            "may not be in the loopback range (127.0.0.0/8, ::1/128): each node has its own; name an address all nodes can reach",
        )
    } else if link_local {
        Some(
            "may not be in the link-local range (169.254.0.0/16, fe80::/10): each link has its own; name an address all nodes can reach",
        )
    } else if link_local_multicast {
        Some(
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10); name a unicast address",
        )
    } else {
        None
    }
}
